"""A parallax-server process on the GPU, and parallax-loadgen runs against it."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

START_SECONDS = 120


class Server:
    """Running from construction to stop(). Raises RuntimeError with its log if it does not start."""

    def __init__(self, install: Path, out: Path, name: str, model: Path, flags: list[str]):
        ready = out / f"{name}.ready"
        ready.unlink(missing_ok=True)
        self.log_path = out / f"{name}.log"
        command = [
            str(install / "bin/parallax-server"),
            f"--model={model}",
            "--device=cuda",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
            "--metrics-listen=127.0.0.1:0",
            f"--ready-file={ready}",
            *flags,
        ]
        began = time.monotonic()
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() - began > START_SECONDS:
                self.stop()
                raise RuntimeError(self.log_path.read_text())
            time.sleep(0.005)
        self.start_seconds = time.monotonic() - began
        self.ports = json.loads(ready.read_text())

    def metrics(self) -> dict[str, float]:
        url = f"http://127.0.0.1:{self.ports['metrics_port']}/metrics"
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def cpu_seconds(self) -> dict[str, float]:
        """Of each thread, by name and number."""
        ticks = os.sysconf("SC_CLK_TCK")
        seconds = {}
        for stat in Path(f"/proc/{self.process.pid}/task").glob("*/stat"):
            name, fields = stat.read_text().split("(", 1)[1].rsplit(")", 1)
            values = fields.split()
            seconds[f"{name} {stat.parent.name}"] = (int(values[11]) + int(values[12])) / ticks
        return seconds

    def stop(self) -> int:
        """The exit status."""
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Loadgen:
    """One run of parallax-loadgen, started at once."""

    def __init__(self, server: Server, install: Path, result: Path, flags: list[str]):
        self._result = result
        command = [
            str(install / "bin/parallax-loadgen"),
            "run",
            f"--target=127.0.0.1:{server.ports['port']}",
            f"--json={result}",
            "--quiet",
            *flags,
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                         text=True)

    def wait(self) -> dict:
        stdout, stderr = self._process.communicate()
        print(stdout[-2500:], stderr[-500:], flush=True)
        report = json.loads(self._result.read_text()) if self._result.exists() else None
        return {"exit": self._process.returncode, "report": _summaries(report)}


def _summaries(value):
    """A report without its histograms."""
    if isinstance(value, dict):
        return {k: _summaries(v) for k, v in value.items() if k != "histograms_ns"}
    if isinstance(value, list):
        return [_summaries(v) for v in value]
    return value


def gpu_work(before: dict[str, float], after: dict[str, float]) -> dict:
    """What the GPU did between two looks at /metrics, by kind of step."""
    work = {}
    for kind in ("graph", "eager"):
        delta = {}
        for name in ("steps", "step_seconds", "step_bytes", "step_flops"):
            for key, value in after.items():
                if key.startswith(f"parallax:gpu_{name}_total") and f'kind="{kind}"' in key:
                    delta[name] = value - before.get(key, 0.0)
        if not delta.get("steps"):
            continue
        seconds = delta["step_seconds"]
        work[kind] = {
            "steps": int(delta["steps"]),
            "ms_per_step": 1e3 * seconds / delta["steps"],
            "tb_per_s": 1e-12 * delta["step_bytes"] / seconds,
            "tflop_per_s": 1e-12 * delta["step_flops"] / seconds,
        }
    return work


def at_rest(metrics: dict[str, float]) -> dict[str, float]:
    """What must be the same before and after a load."""
    parts = ("gpu_memory", "kv_pages_used", "requests_running", "requests_waiting")
    return {k: v for k, v in metrics.items() if any(part in k for part in parts)}


def ask_gpu(what: str) -> str:
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()
