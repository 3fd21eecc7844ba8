"""The standard gRPC health protocol (grpc.health.v1), in its wire form.

Its two messages have one field each. They are written and read by hand, because generating
them would clash with a program that also uses the grpcio-health-checking package.
"""

from __future__ import annotations

import enum
from typing import Any

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"


class ServingStatus(enum.IntEnum):
    UNKNOWN = 0
    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


def encode_request(service: str) -> bytes:
    """HealthCheckRequest { string service = 1; } of a name shorter than 128 bytes."""
    name = service.encode()
    if len(name) > 127:
        raise ValueError(f"service: {service!r} is longer than 127 bytes")
    return b"\x0a" + bytes([len(name)]) + name if name else b""


def decode_response(message: bytes) -> ServingStatus:
    """HealthCheckResponse { ServingStatus status = 1; }"""
    if not message:
        return ServingStatus.UNKNOWN
    if len(message) != 2 or message[0] != 0x08:
        raise ValueError(f"not a HealthCheckResponse: {message!r}")
    return ServingStatus(message[1])


def check(channel: Any) -> Any:
    """Health.Check of a channel of grpc or grpc.aio: from a service's name to its status."""
    return channel.unary_unary(CHECK, encode_request, decode_response)


def watch(channel: Any) -> Any:
    """Health.Watch, likewise: to each status that it comes to have."""
    return channel.unary_stream(WATCH, encode_request, decode_response)
