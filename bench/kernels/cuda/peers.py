#!/usr/bin/env python3
"""Times own kernels and their peers on the same shapes in one run, and prints the ratios.

    peers.py --kernel-bench build/bench/kernels/cuda/kernel_bench --out result.json CASES...

CASES are files of cases/ (or any of the same form); FILE:cudnn,fa2 runs those peers alone, which
saves time where another is known to be slow. Own kernels are timed by kernel_bench, which this
script keeps running beside itself and hands one case at a time, right before the peers run the
same case, so that clocks and temperature are the same. Peers are whatever of PyTorch, fla,
parallax-kernel and flash-attn 3 is installed; what is not is said.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import attention_peers
from cases import Case, read
from gpu_timing import GpuTimer, measure_gemm_tflops

MAX_ERROR = 0.05  # of a peer's row against fp64: finds a wrong call, not a rounding


class KernelBench:
    """The program of own kernels as a child process: one case in, one JSON line out."""

    def __init__(self, program: Path) -> None:
        self._child = subprocess.Popen(
            [program, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, case: Case) -> dict:
        print(case.text, file=self._child.stdin, flush=True)
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"kernel_bench ended at {case.text!r}")
        return json.loads(line)

    def close(self) -> None:
        self._child.stdin.close()
        if self._child.wait() != 0:
            raise RuntimeError(f"kernel_bench failed with {self._child.returncode}")


def gpu_state() -> dict:
    fields = "name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    values = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split(",")
    return dict(zip(fields.split(","), (value.strip() for value in values)))


def run_peer(peer: attention_peers.Peer, case: Case, inputs, timer: GpuTimer) -> dict | None:
    launch = peer.prepare(case, inputs)
    if launch is None:
        return None
    error = peer.check(case, inputs, launch(0))
    if not error < MAX_ERROR:
        return {"error": f"differs from fp64 by {error:.3g}"}
    us, samples = timer.microseconds(launch, case.launches(inputs.pool_bytes), not case.warm)
    return {"us": us, "samples": samples, "max_error": error}


def run_case(case: Case, own: KernelBench | None, peers, inputs, timer: GpuTimer) -> dict:
    result: dict = {"case": case.text, "peers": {}}
    if own is not None:
        result["own"] = own.run(case)
    if case.kind == "ragged":
        return result  # no dense layout to give the peers
    for peer in peers:
        try:
            timing = run_peer(peer, case, inputs, timer)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            timing = {"error": str(error).strip().splitlines()[0]}
        if timing is not None:
            result["peers"][peer.name] = timing
    return result


@dataclass(frozen=True)
class CaseFile:
    path: Path
    peers: frozenset[str] | None  # None: all

    @classmethod
    def parse(cls, argument: str) -> CaseFile:
        path, colon, names = argument.partition(":")
        return cls(Path(path), frozenset(names.split(",")) if colon else None)

    def allows(self, peer: attention_peers.Peer) -> bool:
        return self.peers is None or peer.name in self.peers


def planned(files: list[CaseFile], peers: list[attention_peers.Peer]) -> dict[Case, list]:
    """The cases in order, each with its peers. What two files name is measured once, as the first
    of them has it."""
    plan: dict[Case, list] = {}
    for file in files:
        allowed = [peer for peer in peers if file.allows(peer)]
        for case in read(file.path):
            plan.setdefault(case, allowed)
    return plan


def table_row(result: dict, names: list[str]) -> str:
    """Own time, then for each peer its time and own / peer."""
    own = result.get("own", {}).get("us")
    ceiling = result.get("own", {}).get("read_us")
    row = f"{result['case']:<42}"
    row += f"{own:>10.1f}" if own else f"{'-':>10}"
    row += f"{ceiling / own:>7.1%}" if own and ceiling else f"{'':>7}"
    for name in names:
        us = result["peers"].get(name, {}).get("us")
        if us is None:
            row += f"{'error' if name in result['peers'] else '-':>10}{'':>7}"
        else:
            row += f"{us:>10.1f}" + (f"{own / us:>7.2f}" if own else f"{'':>7}")
    return row


def print_header(names: list[str], missing: dict[str, str]) -> None:
    for name, why in missing.items():
        print(f"not here: {name}: {why}")
    print("microseconds a call; % = plain read of the same bytes / own; ratios are own / peer")
    columns = "".join(f"{name:>10}{'ratio':>7}" for name in names)
    print(f"{'case':<42}{'own':>10}{'read':>7}{columns}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", type=CaseFile.parse)
    parser.add_argument("--kernel-bench", type=Path, help="without it, only peers are timed")
    parser.add_argument("--out", type=Path, help="raw results as JSON")
    parser.add_argument("--pool-gib", type=float, default=18.0, help="memory for K and V")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no case after this")
    parser.add_argument("--commit", default=os.environ.get("COMMIT", "unknown"))
    args = parser.parse_args()

    begin = time.monotonic()
    torch.manual_seed(0)
    peers, missing = attention_peers.available()
    names = [peer.name for peer in peers]
    timer = GpuTimer()
    inputs = attention_peers.Inputs(int(args.pool_gib * 2**30))
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": args.commit,
        "device": gpu_state(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "peers": {peer.name: {"version": peer.version, "parallax": peer.parallax} for peer in peers},
        "not_installed": missing,
        "gemm_tflops": measure_gemm_tflops(timer),
        "results": [],
    }
    print(f"large bf16 GEMM: {report['gemm_tflops']:.0f} TFLOP/s; {report['device']}")
    print_header(names, missing)
    own = KernelBench(args.kernel_bench) if args.kernel_bench else None
    try:
        for case, case_peers in planned(args.cases, peers).items():
            if time.monotonic() - begin > args.seconds:
                print(f"out of time before {case.text}")
                break
            report["results"].append(run_case(case, own, case_peers, inputs, timer))
            print(table_row(report["results"][-1], names), flush=True)
    finally:
        report["device_after"] = gpu_state()
        if args.out:
            args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{report['device_after']}; {time.monotonic() - begin:.0f} s")
    if own is not None:
        own.close()
    return 0


if __name__ == "__main__":
    with torch.no_grad():
        sys.exit(main())
