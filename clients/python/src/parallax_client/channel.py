"""How a client reaches a server: address, TLS, token, keepalive."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Sequence

import grpc

MAX_MESSAGE_BYTES = 64 << 20


@dataclass(frozen=True)
class TlsOptions:
    """PEM files. Without `ca_file` the system's authorities are trusted."""

    ca_file: str | None = None
    cert_file: str | None = None  # with key_file: the client's own identity (mTLS)
    key_file: str | None = None
    server_name: str | None = None  # expected in the certificate, if not the host's name

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises OSError for a file that cannot be read, ValueError for half an identity."""
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError(
                f"cert_file and key_file come together: {self.cert_file!r}, {self.key_file!r}"
            )
        return grpc.ssl_channel_credentials(
            root_certificates=_read(self.ca_file),
            private_key=_read(self.key_file),
            certificate_chain=_read(self.cert_file),
        )


def channel_arguments(tls: TlsOptions | None) -> list[tuple[str, Any]]:
    arguments: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.http2.max_pings_without_data", 0),
        # This package retries by itself, because it honours the server's retry-after-ms.
        ("grpc.enable_retries", 0),
    ]
    if tls is not None and tls.server_name is not None:
        arguments.append(("grpc.ssl_target_name_override", tls.server_name))
    return arguments


Metadata = Sequence[tuple[str, str]]


def call_metadata(
    token: str | None, metadata: Metadata | Callable[[], Metadata]
) -> Callable[[], Metadata]:
    """What to send with a call, asked for at each attempt."""
    own = (("authorization", f"Bearer {token}"),) if token else ()
    if callable(metadata):
        return lambda: (*own, *metadata())
    fixed = (*own, *metadata)
    return lambda: fixed


def _read(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path is not None else None
