"""When a failed call is worth another try, and how long to wait before it.

Retried: UNAVAILABLE (draining, restarting, not reachable), and RESOURCE_EXHAUSTED with the
server's `retry-after-ms` (queue full, the caller's limit reached). Without it the limit is one
that waiting does not mend, such as the size of a message or of a reply: another try would have
the server do the same work for the same end. A stream is retried only while it has delivered
nothing. The wait is `retry-after-ms` where the server sent one, else exponential; either is
spread at random so that refused clients do not come back all at once.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Iterator

import grpc


@dataclass(frozen=True)
class RetryPolicy:
    max_attempts: int = 5  # the first one included; 1 = never retry
    initial_backoff: float = 0.1  # seconds
    max_backoff: float = 5.0  # also bounds what a server may ask for
    multiplier: float = 2.0
    jitter: float = 0.2  # a wait is drawn from [1 - jitter, 1 + jitter] times the back-off


class Backoff:
    """The waits of one call. `timeout` (seconds, or None) is over all attempts together."""

    def __init__(self, policy: RetryPolicy, timeout: float | None) -> None:
        self._policy = policy
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._attempts = 1
        self._waits = self._exponential()

    def remaining(self) -> float | None:
        """Seconds left for the next attempt."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def next(self, error: grpc.RpcError) -> float | None:
        """Seconds to wait before the next attempt; None if there should be none."""
        hint = retry_after(error)
        if not is_retryable(error, hint) or self._attempts >= self._policy.max_attempts:
            return None
        self._attempts += 1
        backoff = next(self._waits)
        wait = backoff if hint is None else hint
        wait *= random.uniform(1 - self._policy.jitter, 1 + self._policy.jitter)
        wait = min(wait, self._policy.max_backoff)
        remaining = self.remaining()
        if remaining is not None and wait > remaining:
            return None  # waiting would only turn a cause into a timeout
        return wait

    def _exponential(self) -> Iterator[float]:
        backoff = self._policy.initial_backoff
        while True:
            yield backoff
            backoff = min(backoff * self._policy.multiplier, self._policy.max_backoff)


def is_retryable(error: grpc.RpcError, hint: float | None) -> bool:
    """Whether another try may succeed. `hint` is what `retry_after` says of the error."""
    code = error.code()
    return code == grpc.StatusCode.UNAVAILABLE or (
        code == grpc.StatusCode.RESOURCE_EXHAUSTED and hint is not None
    )


def retry_after(error: grpc.RpcError) -> float | None:
    """The server's hint, in seconds, if it sent a sensible one."""
    for key, value in error.trailing_metadata() or ():
        if key == "retry-after-ms" and str(value).isdecimal():
            return int(value) / 1000
    return None
