"""Requests that never stop, from many threads, and how each of them ended."""

from __future__ import annotations

import threading
import time
from collections import Counter

import openai

from server_process import STORIES_MODEL
from smg_process import REQUEST_SECONDS, SmgProcess

TOKENS = 40
# All of a request, or an error that says so: never a part that looks like the whole.
CLEAR_ENDS = {"ok", "error in the stream", "status 502", "status 503"}


class HttpLoad:
    """Runs from the start to the end of the `with` block; half of the threads stream."""

    def __init__(self, gateway: SmgProcess, threads: int = 6) -> None:
        self._gateway = gateway
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]
        self.ends: Counter[str] = Counter()
        self.errors: list[str] = []
        self.slowest = 0.0

    def failed(self) -> int:
        with self._lock:
            return sum(count for end, count in self.ends.items() if end != "ok")

    def go_on(self, completions: int) -> None:
        """Waits until so many more requests have completed."""
        goal = self.ends["ok"] + completions
        deadline = time.monotonic() + REQUEST_SECONDS
        while self.ends["ok"] < goal:
            assert time.monotonic() < deadline, f"{self.ends} {self.errors[-3:]}"
            time.sleep(0.02)

    def __enter__(self) -> HttpLoad:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_SECONDS + 10)
            assert not thread.is_alive(), "a request hangs"
        assert self.ends["hung"] == 0, "a request got no answer"
        unclear = set(self.ends) - CLEAR_ENDS - {"hung"}
        assert not unclear, f"{self.ends} {self.errors[-3:]}"

    def _run(self, number: int) -> None:
        client = self._gateway.client()
        while not self._stop.is_set():
            began = time.monotonic()
            end, details = _request(client, number, stream=number % 2 == 0)
            with self._lock:
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.ends[end] += 1
                if end != "ok":
                    self.errors.append(details)


def _request(client: openai.OpenAI, seed: int, stream: bool) -> tuple[str, str]:
    asked = {
        "model": STORIES_MODEL.name,
        "prompt": "Once upon a time",
        "max_tokens": TOKENS,
        "seed": seed,
        "extra_body": {"ignore_eos": True},
    }
    try:
        if not stream:
            answer = client.completions.create(**asked)
            reason = answer.choices[0].finish_reason
        else:
            reason = None
            for chunk in client.completions.create(**asked, stream=True):
                if chunk.choices:
                    reason = chunk.choices[0].finish_reason or reason
        return ("ok", "") if reason == "length" else ("cut off", f"finish_reason {reason}")
    except openai.APITimeoutError as error:
        return "hung", str(error)
    except openai.APIStatusError as error:
        return f"status {error.status_code}", str(error)
    except openai.APIError as error:
        return "error in the stream", str(error)
    except Exception as error:  # noqa: BLE001: a connection that ended is an end too
        return type(error).__name__, str(error)
