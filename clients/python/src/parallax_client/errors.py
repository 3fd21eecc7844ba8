"""The error of a call that ended while none of its attempts was open."""

from __future__ import annotations

import grpc


class CancelledError(grpc.RpcError):
    """A call that was cancelled between two attempts: gRPC has no error of its own for it."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.CANCELLED

    def details(self) -> str:
        return "cancelled"

    def initial_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()
