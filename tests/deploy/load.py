"""Calls that never stop, from many threads, and how each of them ended."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Callable

import grpc

from parallax_client import Client

CALL_SECONDS = 60  # longer than any call here may take: past it a call counts as hung


class Load:
    """Runs from the start to the end of the `with` block. Every thread has a connection of
    its own and calls again as soon as it has its answer."""

    def __init__(self, client: Callable[[], Client], threads: int = 8, max_tokens: int = 60,
                 prompt: str = "Once upon a time") -> None:
        self._client = client
        self._max_tokens = max_tokens
        self._prompt = prompt
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]
        self.ends: Counter[str] = Counter()  # by status code
        self.errors: list[str] = []

    def failed(self) -> int:
        with self._lock:
            return sum(count for code, count in self.ends.items() if code != "OK")

    def completed(self) -> int:
        with self._lock:
            return self.ends["OK"]

    def go_on(self, completions: int) -> None:
        """Waits until so many more calls have completed."""
        goal = self.completed() + completions
        deadline = time.monotonic() + CALL_SECONDS
        while self.completed() < goal:
            assert time.monotonic() < deadline, f"{self.ends} {self.errors[:3]}"
            time.sleep(0.02)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(CALL_SECONDS + 10)
            assert not thread.is_alive(), "a call hangs"
        assert self.ends["DEADLINE_EXCEEDED"] == 0, "a call got no answer"

    def _run(self, seed: int) -> None:
        with self._client() as client:
            while not self._stop.is_set():
                code, details = self._call(client, seed)
                with self._lock:
                    self.ends[code] += 1
                    if code != "OK":
                        self.errors.append(details)

    def _call(self, client: Client, seed: int) -> tuple[str, str]:
        try:
            tokens = 0
            for chunk in client.stream(
                self._prompt,
                max_tokens=self._max_tokens,
                ignore_eos=True,
                seed=seed,
                timeout=CALL_SECONDS,
            ):
                tokens += len(chunk.token_ids)
            return ("OK", "") if tokens == self._max_tokens else ("SHORT", f"{tokens} tokens")
        except grpc.RpcError as error:
            return error.code().name, error.details()
