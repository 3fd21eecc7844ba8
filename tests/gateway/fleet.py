"""A gateway in front of three replicas of the default model."""

from __future__ import annotations

from contextlib import ExitStack

from server_process import ServerProcess
from smg_process import SmgProcess, replica


class Fleet:
    def __init__(
        self, stack: ExitStack, *flags: str, policy: str = "round_robin", pages: int = 256
    ) -> None:
        self._stack = stack
        self.replicas = [stack.enter_context(replica(pages=pages)) for _ in range(3)]
        self.gateway = stack.enter_context(SmgProcess(self.replicas, f"--policy={policy}", *flags))

    def start_replica(self) -> ServerProcess:
        return self._stack.enter_context(replica())
