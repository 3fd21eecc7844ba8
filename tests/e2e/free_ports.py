"""Ports for programs that have to be told theirs."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
from pathlib import Path
from typing import Iterator

COUNT = 8192


def _shuffled() -> Iterator[int]:
    """Below those that the kernel gives out, so that no socket of a test beside this one comes between
    the choice and the use; at random, for the sake of tests that choose too; none twice in a row."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    first = max(lowest - COUNT, 1024)
    ports = list(range(first, first + COUNT))
    random.shuffle(ports)
    return itertools.cycle(ports)


_PORTS = _shuffled()


def free_port() -> int:
    """One that nobody listens at."""
    for port in itertools.islice(_PORTS, COUNT):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError(f"all {COUNT} ports are taken")


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"
