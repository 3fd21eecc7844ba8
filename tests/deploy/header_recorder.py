"""Stands between a front and a replica and keeps the headers of all calls, as they are encoded."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field

PREFACE_BYTES = 24
HEADERS = 1
STATIC_ENTRIES = 61  # of HPACK's table; what follows depends on the calls before


@dataclass
class Block:
    """The headers of one call. `indices`: what it takes from HPACK's tables."""

    indices: list[int] = field(default_factory=list)
    names: set[bytes] = field(default_factory=set)


class HeaderRecorder:
    """From `with` to the end of the block. Knows no CONTINUATION frames and no Huffman code: HAProxy
    2.6 sends neither for headers as short as these."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._sent: list[bytearray] = []  # by connection

    def __enter__(self) -> HeaderRecorder:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._listener.close()

    def calls(self, path: bytes) -> list[list[Block]]:
        """Those of `path`, by connection."""
        found = []
        for sent in self._sent:
            data, at, blocks = bytes(sent), PREFACE_BYTES, []
            while at + 9 <= len(data):
                size, kind = int.from_bytes(data[at : at + 3], "big"), data[at + 3]
                payload = data[at + 9 : at + 9 + size]
                if kind == HEADERS and path in payload:
                    blocks.append(_parsed(payload))
                at += 9 + size
            found.append(blocks)
        return [blocks for blocks in found if blocks]

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                front, _ = self._listener.accept()
                host, port = self._replica.rsplit(":", 1)
                replica = socket.create_connection((host, int(port)))
                self._sent.append(bytearray())
                for pair in ((front, replica, self._sent[-1]), (replica, front, bytearray())):
                    threading.Thread(target=_pass_on, args=pair, daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            kept += part
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)


def _parsed(block: bytes) -> Block:
    """HPACK's representations (RFC 7541, 6)."""
    result, at = Block(), 0

    def integer(bits: int) -> int:
        nonlocal at
        limit = (1 << bits) - 1
        value, shift = block[at] & limit, 0
        at += 1
        if value < limit:
            return value
        while True:
            value += (block[at] & 127) << shift
            shift += 7
            at += 1
            if not block[at - 1] & 128:
                return value

    def text() -> bytes:
        nonlocal at
        size = integer(7)
        at += size
        return block[at - size : at]

    while at < len(block):
        first = block[at]
        if first & 0x80:
            result.indices.append(integer(7))
        elif first & 0x60 == 0x20:
            integer(5)  # a new size of the table
        else:
            if index := integer(6 if first & 0x40 else 4):
                result.indices.append(index)
            else:
                result.names.add(text())
            text()
    return result
