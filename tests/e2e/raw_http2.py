"""One gRPC call in HTTP/2 frames of our own making: headers that no gRPC library would send, and a
client that does not read."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Iterator

DATA, HEADERS, RST_STREAM, SETTINGS, CONTINUATION = 0, 1, 3, 4, 9
END_STREAM, END_HEADERS = 1, 4
MAX_FRAME = 16000
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _integer(value: int, bits: int = 7) -> bytes:
    """HPACK's prefix-coded integer (RFC 7541, 5.1)."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([value])
    encoded, value = bytes([limit]), value - limit
    while value >= 128:
        encoded, value = encoded + bytes([value % 128 + 128]), value // 128
    return encoded + bytes([value])


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _integer(len(name)) + name + _integer(len(value)) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _connect(address: str, path: str, headers: dict[bytes, bytes], message: bytes) -> socket.socket:
    usual = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path.encode(),
        b":authority": b"test",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    block = b"".join(_literal(name, value) for name, value in {**usual, **headers}.items())
    parts = [block[i : i + MAX_FRAME] for i in range(0, len(block), MAX_FRAME)]
    frames = [PREFACE, _frame(SETTINGS, 0, 0, b"")]
    for i, part in enumerate(parts):
        flags = END_HEADERS if i == len(parts) - 1 else 0
        frames.append(_frame(HEADERS if i == 0 else CONTINUATION, flags, 1, part))
    body = b"\0" + struct.pack(">I", len(message)) + message
    frames.append(_frame(DATA, END_STREAM, 1, body))
    host, port = address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=30)
    # A server that closes with some of it unread resets the connection.
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"".join(frames))
    return connection


def send_call(address: str, path: str, headers: dict[bytes, bytes]) -> None:
    """Calls `path` with an empty message and `headers` over the usual ones, and waits until the
    server has said something about the call or has closed the connection."""
    next(_frames_of_call(address, path, headers), None)


def is_answered(address: str, path: str, headers: dict[bytes, bytes]) -> bool:
    """Whether the same call gets a message, before it or the connection ends."""
    return any(kind == DATA and size > 0 for kind, size in _frames_of_call(address, path, headers))


def _frames_of_call(
    address: str, path: str, headers: dict[bytes, bytes]
) -> Iterator[tuple[int, int]]:
    """Kinds and sizes of the frames that the server sends about the call. A hang is a
    TimeoutError."""
    with _connect(address, path, headers, b"") as connection, connection.makefile("rb") as answer:
        with contextlib.suppress(ConnectionError):
            while len(head := answer.read(9)) == 9:
                size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
                answer.read(size)
                if int.from_bytes(head[5:9], "big") & 0x7FFFFFFF != 1:
                    continue
                yield kind, size
                if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
                    return


@contextlib.contextmanager
def unread_call(address: str, path: str, message: bytes) -> Iterator[None]:
    """A call that stays open and makes room for 64 KiB of its answer, HTTP/2's initial window, and
    for no more. `message` is less than MAX_FRAME."""
    with _connect(address, path, {}, message):
        yield
