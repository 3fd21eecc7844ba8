"""Waiting for a server to say SERVING: how long, and how long to pause between two watches."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import grpc

from parallax_client.retry import Backoff, RetryPolicy

# Long pauses are for servers that have too much to do; a watch costs next to nothing, and
# whoever waits wants to know soon.
MAX_PAUSE = 1.0


class Waiting:
    """One wait of `timeout` seconds. The pauses are `policy`'s, but at most MAX_PAUSE; its
    max_attempts plays no part."""

    def __init__(self, policy: RetryPolicy, timeout: float) -> None:
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        max_pause = min(policy.max_backoff, MAX_PAUSE)
        pauses = replace(policy, max_attempts=sys.maxsize, max_backoff=max_pause)
        self._pauses = Backoff(pauses, timeout=None)

    def remaining(self) -> float:
        """Seconds left for the next watch. TimeoutError if there are none."""
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise self._timed_out()
        return remaining

    def pause(self, error: grpc.RpcError) -> float:
        """Seconds until the next watch, after one that ended with `error`. Raises TimeoutError
        if none are left, and `error` if it is one that waiting does not mend."""
        if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
            raise self._timed_out() from error
        pause = self._pauses.next(error)
        if pause is None:
            raise error
        return min(pause, self.remaining())

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(f"not SERVING after {self._timeout} s")
