#!/usr/bin/env python3
"""Measures parallax-server on a GPU, through gRPC, with parallax-loadgen.

  measure.py --install DIR --out DIR [--step-bench FILE] [--only SCENARIO ...] [--seconds N]
             [--soak-seconds N] [--commit HASH]

DIR of --install holds bin/parallax-server and bin/parallax-loadgen. A scenario is a server (a
reference shape with random weights, its flags) and the loads that it is given one after the
other. For each load the result holds loadgen's own report and what the server's /metrics counted
meanwhile: time, bytes and flops of the GPU by kind of step, from which the utilisations follow.
A load may have a background: streams that run all the while, with a report of their own. The
soak also compares memory and pages before and after. With --step-bench, that program measures a
plain read of the GPU's memory before each scenario; utilisations are given of that, too.
"""

import argparse
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent

LOADS = {
    "one_stream": ["--concurrency=1", "--prompt_tokens=1024", "--output_tokens=256"],
    "prompt_8k": ["--concurrency=1", "--prompt_tokens=8192", "--output_tokens=2"],
    "streams_32": ["--concurrency=32", "--prompt_tokens=1024", "--output_tokens=1024"],
    "streams_128_short": ["--concurrency=128", "--prompt_tokens=32", "--output_tokens=512"],
    "streams_64_2k": ["--concurrency=64", "--prompt_tokens=1536", "--output_tokens=1024"],
    "streams_128_2k": ["--concurrency=128", "--prompt_tokens=1536", "--output_tokens=1024"],
    "prompt_8k_beside_32": ["--concurrency=1", "--prompt_tokens=8192", "--output_tokens=2"],
    "soak": ["--concurrency=96", "--prompt_tokens=lognormal:400:1.2:8:6000",
             "--output_tokens=lognormal:120:1.0:1:1500", "--cancel_share=0.1"],
}
# Runs before, during and after the load of that name.
BACKGROUNDS = {
    "prompt_8k_beside_32": ["--concurrency=32", "--prompt_tokens=1024", "--output_tokens=512"],
}
BACKGROUND_LEAD_SECONDS = 3.0
# A stream of these must end within the window to be counted.
LEAST_SECONDS = {"streams_128_2k": 24.0, "streams_64_2k": 24.0}
# name: (shape, server flags, loads)
SCENARIOS = {
    "0.6b": ("0.6b", [], ["one_stream", "streams_128_2k", "streams_128_short"]),
    "1.7b": ("1.7b", [], ["one_stream", "prompt_8k", "streams_32", "streams_128_2k"]),
    "8b": ("8b", ["--max-num-seqs=64"], ["one_stream", "streams_64_2k"]),
    "1.7b-mixed": ("1.7b", [], ["prompt_8k_beside_32"]),
    "1.7b-soak": ("1.7b", [], ["soak"]),
    "0.6b-softmax": ("0.6b-softmax", [], ["one_stream", "streams_128_2k"]),
    "1.7b-softmax": ("1.7b-softmax", [], ["one_stream", "streams_32", "streams_128_2k"]),
    "8b-softmax": ("8b-softmax", ["--max-num-seqs=64"], ["one_stream", "streams_64_2k"]),
}
START_SECONDS = 90


class Server:
    def __init__(self, install: Path, out: Path, shape: str, flags: list[str]):
        ready = out / f"{shape}.ready"
        ready.unlink(missing_ok=True)
        began = time.monotonic()
        command = [
            str(install / "bin/parallax-server"),
            f"--model={HERE / 'shapes' / shape}",
            "--load-format=dummy",
            "--device=cuda",
            "--listen=127.0.0.1:0",
            "--admin-listen=127.0.0.1:0",
            "--metrics-listen=127.0.0.1:0",
            f"--ready-file={ready}",
            f"--gpu-plan-file={out / (shape + '.plans')}",
            "--max-num-seqs=128",
            "--max-num-batched-tokens=2048",
            *flags,
        ]
        self.log = open(out / f"{shape}.log", "w")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() - began > START_SECONDS:
                self.stop()
                raise RuntimeError((out / f"{shape}.log").read_text())
            time.sleep(0.02)
        self.start_seconds = time.monotonic() - began
        self.ports = json.loads(ready.read_text())

    def metrics(self) -> dict[str, float]:
        url = f"http://127.0.0.1:{self.ports['metrics_port']}/metrics"
        text = urllib.request.urlopen(url, timeout=5).read().decode()
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def cpu_seconds(self) -> dict[str, float]:
        """Of each thread, by number and name."""
        ticks = os.sysconf("SC_CLK_TCK")
        seconds = {}
        for stat in Path(f"/proc/{self.process.pid}/task").glob("*/stat"):
            name, fields = stat.read_text().split("(", 1)[1].rsplit(")", 1)
            values = fields.split()
            seconds[f"{name} {stat.parent.name}"] = (int(values[11]) + int(values[12])) / ticks
        return seconds

    def stop(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def gpu_work(before: dict[str, float], after: dict[str, float]) -> dict:
    """What the GPU did between two looks at /metrics, by kind of step."""
    peak = next((v for k, v in after.items() if k.startswith("parallax:gpu_peak")), 0.0)
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
            "of_peak_bandwidth": delta["step_bytes"] / seconds / peak if peak else None,
            "tflop_per_s": 1e-12 * delta["step_flops"] / seconds,
        }
    return work


class Loadgen:
    """One run of parallax-loadgen."""

    def __init__(self, server: Server, install: Path, result: Path, flags: list[str],
                 seconds: float):
        self.result, self.seconds = result, seconds
        command = [
            str(install / "bin/parallax-loadgen"),
            "run",
            f"--target=127.0.0.1:{server.ports['port']}",
            f"--duration={seconds}",
            f"--json={result}",
            "--quiet",
            *flags,
        ]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)

    def wait(self) -> dict:
        stdout, stderr = self.process.communicate(timeout=self.seconds + 60)
        print(stdout[-2500:], stderr[-500:], flush=True)
        report = json.loads(self.result.read_text()) if self.result.exists() else None
        return {"exit": self.process.returncode, "report": without_histograms(report)}


def without_histograms(value):
    """A report with its summaries alone."""
    if isinstance(value, dict):
        return {k: without_histograms(v) for k, v in value.items()
                if k not in ("histograms_ns", "timeline")}
    if isinstance(value, list):
        return [without_histograms(v) for v in value]
    return value


def plain_read(step_bench: Path, shape: str) -> float:
    """TB/s of a plain read of as much memory as a step of the shape reads."""
    command = [str(step_bench), str(HERE / "shapes" / shape), "1:1024"]
    line = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(line)["plain_read_tb_per_s"]


def resting(metrics: dict[str, float]) -> dict[str, float]:
    """What must be the same before and after a load."""
    parts = ("gpu_memory", "kv_pages", "requests_running", "requests_waiting")
    return {k: v for k, v in metrics.items() if any(part in k for part in parts)}


def run_load(server: Server, install: Path, out: Path, name: str, load: str, seconds: float) -> dict:
    seconds = max(seconds, LEAST_SECONDS.get(load, 0.0))
    background = None
    if load in BACKGROUNDS:
        background = Loadgen(server, install, out / f"{name}-{load}-background.json",
                             BACKGROUNDS[load], seconds + BACKGROUND_LEAD_SECONDS)
        time.sleep(BACKGROUND_LEAD_SECONDS)
    memory_before = ask_gpu("memory.used") if load == "soak" else None
    before, cpu_before, began = server.metrics(), server.cpu_seconds(), time.monotonic()
    loadgen = Loadgen(server, install, out / f"{name}-{load}.json", LOADS[load], seconds).wait()
    elapsed = time.monotonic() - began
    cpu = server.cpu_seconds()
    busy = sorted(((v - cpu_before.get(k, 0.0)) / elapsed, k) for k, v in cpu.items())[-4:]
    after = server.metrics()
    result = {
        "load": load,
        "flags": LOADS[load],
        "gpu": gpu_work(before, after),
        "busiest_threads": [[k, round(v, 3)] for v, k in reversed(busy)],
        "loadgen": loadgen,
        "at_rest": None,
    }
    if load == "soak":
        result["at_rest"] = {
            "before": {"device_memory_used": memory_before, **resting(before)},
            "after": {"device_memory_used": ask_gpu("memory.used"), **resting(after)},
        }
    if background is not None:
        result["background"] = {"flags": BACKGROUNDS[load], "loadgen": background.wait()}
    return result


def ask_gpu(what: str) -> str:
    query = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip()


def machine() -> dict:
    return {"gpu": ask_gpu("name,driver_version"), "cpus": os.cpu_count(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--install", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--step-bench", type=Path, help="build/bench/server/gpu/step_bench")
    parser.add_argument("--only", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--soak-seconds", type=float, default=360)
    parser.add_argument("--commit", default="", help="of the installed server, for the result")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for name in args.only:
        shape, flags, loads = SCENARIOS[name]
        read = plain_read(args.step_bench, shape) if args.step_bench else None
        server = Server(args.install, args.out, shape, flags)
        print(f"{name}: serving after {server.start_seconds:.1f} s", flush=True)
        runs = []
        for load in loads:
            seconds = args.soak_seconds if load == "soak" else args.seconds
            run = run_load(server, args.install, args.out, name, load, seconds)
            for work in run["gpu"].values():
                work["of_plain_read"] = work["tb_per_s"] / read if read else None
            runs.append(run)
        status = server.stop()
        results.append({"scenario": name, "start_seconds": server.start_seconds,
                        "plain_read_tb_per_s": read, "server_exit": status, "runs": runs})
        for run in runs:
            print(name, run["load"], json.dumps(run["gpu"]), run["busiest_threads"], flush=True)
    document = {"commit": args.commit, **machine(), "scenarios": results}
    (args.out / "gpu-server.json").write_text(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
