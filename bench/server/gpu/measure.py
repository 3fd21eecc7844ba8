#!/usr/bin/env python3
"""Measures parallax-server on a GPU, through gRPC, with parallax-loadgen.

  measure.py --install DIR --programs DIR --out DIR [--only SCENARIO ...] [--soak-seconds N]
             [--commit HASH]

DIR of --install holds bin/parallax-server and bin/parallax-loadgen; that of --programs
gpu_ceilings and step_bench (build/bench/server/gpu). A scenario is a server (a reference shape
with random weights, its flags) and the loads that it is given one after the other. For each load
the result holds loadgen's own report and what the server's /metrics counted meanwhile: time, bytes
and flops of the GPU by kind of step. A load may have a background: streams that run all the while,
with a report of their own. The soak also compares memory and pages before and after. `twins` times
decode steps of each shape beside those of the same shape without a probe, `cold-start` the start
from files that lie in the page cache.

OUT/gpu-server.json is written anew after every load, so that a run that is cut off keeps what it
has. bars.py reads it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from serving import Loadgen, Server, ask_gpu, at_rest, gpu_work

HERE = Path(__file__).resolve().parent
TOKENIZER = HERE.parents[2] / "models/parallax-stories-14m/tokenizer.model"

# One wave of streams, all measured, whose contexts average 2048 tokens.
WAVE_2K = ["--prompt_tokens=1664", "--output_tokens=768", "--warmup=0", "--duration=60"]
LOADS = {
    "one_stream": ["--concurrency=1", "--prompt_tokens=896", "--output_tokens=256", "--duration=5"],
    "prompt_8k": ["--concurrency=1", "--prompt_tokens=8192", "--output_tokens=2", "--duration=4"],
    "prompt_8k_beside_32": ["--concurrency=1", "--prompt_tokens=8192", "--output_tokens=2",
                            "--warmup=0", "--duration=4"],
    "streams_64_2k": ["--concurrency=64", "--requests=64", *WAVE_2K],
    "streams_128_2k": ["--concurrency=128", "--requests=128", *WAVE_2K],
    "text_256": ["--concurrency=256", "--prompt_tokens=32", "--output_tokens=256", "--duration=5"],
    "soak": ["--concurrency=96", "--prompt_tokens=lognormal:400:1.2:8:6000",
             "--output_tokens=lognormal:120:1.0:1:1500", "--cancel_share=0.1"],
}
# Runs before, during and after the load of that name: 32 streams that decode and nothing else.
BACKGROUNDS = {
    "prompt_8k_beside_32": ["--concurrency=32", "--prompt_tokens=1024", "--output_tokens=1536",
                            "--warmup=0", "--requests=32", "--duration=60"],
}
BACKGROUND_LEAD_SECONDS = 2.0  # bars.py takes the second of these for what they do alone
# Looked at for this long while all of so many streams decode and none is read: before and after, in
# the same wave, fewer do.
STEADY_STREAMS = {"streams_64_2k": 64, "streams_128_2k": 128}
STEADY_SECONDS = 1.5


@dataclass(frozen=True)
class Scenario:
    shape: str
    loads: list[str]
    flags: list[str] = field(default_factory=list)
    has_tokenizer: bool = False  # with the default model's tokenizer, and as small a vocabulary


SCENARIOS = {
    "0.6b": Scenario("0.6b", ["one_stream"]),
    "1.7b": Scenario("1.7b", ["one_stream", "prompt_8k", "streams_128_2k"]),
    "1.7b-mixed": Scenario("1.7b", ["prompt_8k_beside_32"], ["--max-mixed-prefill-tokens=384"]),
    "8b": Scenario("8b", ["one_stream", "streams_64_2k"], ["--max-num-seqs=64"]),
    "1.7b-softmax": Scenario("1.7b-softmax", ["one_stream", "streams_128_2k"]),
    "0.6b-text": Scenario("0.6b", ["text_256"], ["--max-num-seqs=256"], has_tokenizer=True),
    # Leaves room on the GPU for what runs beside it.
    "1.7b-soak": Scenario("1.7b", ["soak"], ["--memory-bytes=60GiB"]),
}
TWINS = ["0.6b", "1.7b"]
TWIN_CASES = ["1:512", "1:2048", "1:8192", "8:512", "8:2048", "8:8192", "32:512", "32:2048",
              "32:8192", "128:512", "128:2048"]
COLD_START = "1.7b"


class Measurement:
    """The document that grows with every load."""

    def __init__(self, args: argparse.Namespace):
        self._args = args
        self.document = {
            "commit": args.commit,
            "gpu": ask_gpu("name,driver_version"),
            "cpus": os.cpu_count(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "ceilings": json.loads(self._program("gpu_ceilings")),
            "scenarios": [],
        }

    def _program(self, name: str, *arguments: str) -> str:
        command = [str(self._args.programs / name), *arguments]
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout

    def save(self) -> None:
        text = json.dumps(self.document, indent=1)
        (self._args.out / "gpu-server.json").write_text(text + "\n")

    def run(self, name: str) -> None:
        if name == "twins":
            self.document["twins"] = [self._step_times(s) for t in TWINS for s in (t, f"{t}-softmax")]
        elif name == "cold-start":
            self.document["cold_start"] = self._cold_start()
        else:
            self._scenario(name, SCENARIOS[name])
        self.save()

    def _step_times(self, shape: str) -> dict:
        lines = self._program("step_bench", str(HERE / "shapes" / shape), *TWIN_CASES)
        print(lines, flush=True)
        return {"shape": shape, "cases": [json.loads(line) for line in lines.splitlines()]}

    # Seconds to SERVING from files in memory, without and with the plans of the start before.
    def _cold_start(self) -> dict:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            model = Path(folder)
            script = HERE / "write_random_checkpoint.py"
            subprocess.run([sys.executable, script, HERE / "shapes" / COLD_START, model], check=True)
            flags = [f"--gpu-plan-file={self._args.out / 'cold-start.plans'}"]
            seconds = []
            for _ in range(2):
                server = Server(self._args.install, self._args.out, "cold-start", model, flags)
                seconds.append(server.start_seconds)
                server.stop()
            log = server.log_path.read_text()
        return {"shape": COLD_START, "seconds": seconds[0], "with_plan_file": seconds[1], "log": log}

    def _scenario(self, name: str, scenario: Scenario) -> None:
        result = {"scenario": name, "runs": []}
        self.document["scenarios"].append(result)
        model = HERE / "shapes" / scenario.shape
        if scenario.has_tokenizer:
            model = self._args.out / name
            shutil.copytree(HERE / "shapes" / scenario.shape, model, dirs_exist_ok=True)
            shutil.copy(TOKENIZER, model)
            config = json.loads((model / "config.json").read_text())
            small = json.loads((TOKENIZER.parent / "config.json").read_text())
            for key in ("vocab_size", "bos_token_id", "eos_token_id"):
                config[key] = small[key]
            (model / "config.json").write_text(json.dumps(config))
        flags = ["--load-format=dummy", "--max-num-seqs=128", "--max-num-batched-tokens=2048",
                 f"--gpu-plan-file={self._args.out / (scenario.shape + '.plans')}", *scenario.flags]
        server = Server(self._args.install, self._args.out, name, model, flags)
        result |= {"flags": flags[1:3] + scenario.flags, "start_seconds": server.start_seconds}
        print(f"{name}: serving after {server.start_seconds:.1f} s", flush=True)
        try:
            for load in scenario.loads:
                result["runs"].append(self._load(server, name, load))
                self.save()
        finally:
            result["server_exit"] = server.stop()

    @staticmethod
    def _flags(load: str, flags: list[str]) -> list[str]:
        """Prompts of its own for each load: none is found in the prefix cache."""
        return [f"--seed={1 + sorted(LOADS).index(load)}", *flags]

    # What the GPU does while `streams` decode; None if they never all do.
    @staticmethod
    def _steady_work(server: Server, streams: int) -> dict | None:
        def eager_steps(metrics: dict[str, float]) -> float:
            return sum(v for k, v in metrics.items()
                       if k.startswith("parallax:gpu_steps_total") and 'kind="eager"' in k)

        deadline = time.monotonic() + 30
        before = server.metrics()
        while time.monotonic() < deadline:
            time.sleep(0.1)
            now = server.metrics()
            running = sum(v for k, v in now.items() if k.startswith("parallax:num_requests_running"))
            if running == streams and eager_steps(now) == eager_steps(before) > 0:
                time.sleep(STEADY_SECONDS)
                after = server.metrics()
                return gpu_work(now, after) if eager_steps(after) == eager_steps(now) else None
            before = now
        return None

    def _load(self, server: Server, name: str, load: str) -> dict:
        out = self._args.out
        flags = self._flags(load, LOADS[load])
        if load == "soak":
            flags.append(f"--duration={self._args.soak_seconds}")
        background = None
        if load in BACKGROUNDS:
            background = Loadgen(server, self._args.install, out / f"{name}-{load}-background.json",
                                 ["--seed=99", *BACKGROUNDS[load]])
            time.sleep(BACKGROUND_LEAD_SECONDS)
        before = {"device_memory_used": ask_gpu("memory.used"), **at_rest(server.metrics())}
        counted, cpu, began = server.metrics(), server.cpu_seconds(), time.monotonic()
        running = Loadgen(server, self._args.install, out / f"{name}-{load}.json", flags)
        steady = None
        if load in STEADY_STREAMS:
            steady = self._steady_work(server, STEADY_STREAMS[load])
        loadgen = running.wait()
        elapsed = time.monotonic() - began
        busy = [(v - cpu.get(k, 0.0), k) for k, v in server.cpu_seconds().items()]
        after = server.metrics()
        run = {
            "load": load,
            "flags": flags,
            "gpu": gpu_work(counted, after),
            "gpu_steady": steady,
            "busiest_threads": [[k, round(v / elapsed, 3)] for v, k in sorted(busy)[:-6:-1]],
            "loadgen": loadgen,
        }
        if background is not None:
            run["background"] = {"flags": BACKGROUNDS[load], "loadgen": background.wait()}
        else:
            at_end = {"device_memory_used": ask_gpu("memory.used"), **at_rest(after)}
            run["at_rest"] = {"before": before, "after": at_end}
        print(name, load, json.dumps(steady or run["gpu"]), run["busiest_threads"], flush=True)
        return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--install", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=["cold-start", *SCENARIOS, "twins"])
    parser.add_argument("--soak-seconds", type=float, default=360)
    parser.add_argument("--commit", default="", help="of the installed server, for the result")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    measurement = Measurement(args)
    failed = []
    for name in args.only:
        try:
            measurement.run(name)
        except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
            failed.append(name)
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    measurement.save()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
