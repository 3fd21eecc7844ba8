"""Errors of a call that no attempt of it has had."""

from __future__ import annotations

import grpc


class CallError(grpc.RpcError):
    """What a caller expects of grpc.RpcError, where gRPC itself has none to raise: a call that was
    cancelled between two attempts, a stream that ended well but too soon."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self._code = code
        self._details = details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def initial_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()
