"""Runs parallax-loadgen against a server, on processors of its own where a test needs that."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator

from server_process import REPOSITORY, ServerProcess

LOADGEN = os.environ["PARALLAX_LOADGEN"]
FAILED = 1
BAD_FLAG = 2
LAGGED = 3
INTERRUPTED = 130


def commit() -> str:
    """Of this tree; "unknown" without git or outside a checkout."""
    with contextlib.suppress(FileNotFoundError):
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=REPOSITORY, capture_output=True, text=True)
        return described.stdout.strip() or "unknown"
    return "unknown"


# In every result: with pytest's --basetemp they are kept.
COMMIT = commit()


def command(server: ServerProcess, verb: str, file: Path, *flags: str) -> list[str]:
    """Counts must be right on a busy machine too: lag is refused where a test asks for it."""
    metrics = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    return [LOADGEN, *verb.split(), f"--target={server.address}", f"--metrics={metrics}",
            f"--json={file}", f"--annotate=commit={COMMIT}", "--quiet", "--max_lag_ms=2000", *flags]


def load(server: ServerProcess, file: Path, *flags: str) -> dict[str, Any]:
    subprocess.run(command(server, "run", file, *flags), check=True, timeout=120)
    return json.loads(file.read_text())


def output_of(server: ServerProcess, file: Path, *flags: str) -> str:
    """The table that `load` prints."""
    return subprocess.run(command(server, "run", file, *flags), check=True, timeout=120,
                          stdout=subprocess.PIPE, text=True).stdout


def failure_of(server: ServerProcess, file: Path, *flags: str) -> tuple[int, str]:
    """Exit status and errors of a run that must not give a result, nor print one."""
    process = subprocess.run(command(server, "run", file, *flags), timeout=120,
                             capture_output=True, text=True)
    assert process.returncode != 0 and not file.exists()
    return process.returncode, process.stderr


def show(file: Path) -> str:
    return subprocess.run([LOADGEN, "show", f"--json={file}"], check=True, timeout=60,
                          stdout=subprocess.PIPE, text=True).stdout


def counter(result: dict[str, Any], name: str) -> float:
    """The server's counter over the run, all labels together."""
    return sum(value for sample, value in result["server_delta"].items()
               if sample.split("{")[0] == f"parallax:{name}")


def live_at_end_of_seconds(result: dict[str, Any]) -> list[int]:
    return list(itertools.accumulate(
        started - completed for started, completed, _ in result["timeline"]))


@contextlib.contextmanager
def two_processors() -> Iterator[None]:
    """For what is started inside: the first two that this process may use."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(allowed)[:2]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def ahead_of_others() -> Iterator[None]:
    """What is started inside runs before the machine's other work, where that is allowed. Linux
    shares processors between sessions first (autogroups), then between their processes."""
    def be_nice(process: int, session: int) -> None:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, process)
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(session))

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    be_nice(-19, -19)
    try:
        yield
    finally:
        be_nice(usual, 0)


@contextlib.contextmanager
def awake_and_alone() -> Iterator[None]:
    """What is started inside has the processors to itself, where that is allowed, and they never
    sleep: to wake a virtual one takes longer than a call."""
    spin = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    spinners = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(os.cpu_count() or 1)]
    usual = os.sched_getscheduler(0), os.sched_getparam(0)
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *usual)
        for spinner in spinners:
            spinner.kill()
            spinner.wait()
