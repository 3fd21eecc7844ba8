"""What peers.py wrote, read back: one Measurement a case."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

import cases
from cases import Case


@dataclass(frozen=True, eq=False)
class Measurement:
    case: Case
    own: dict  # kernel_bench's line: us, softmax_us, read_us, programmatic_us, held, kv_bytes
    peers: dict[str, float]  # microseconds of the peers that ran

    @property
    def us(self) -> float:
        return self.own["us"]

    @property
    def as_served(self) -> Measurement:
        """With programmatic launches, as the server enqueues decode, unless it holds it back."""
        if self.own.get("held") or "programmatic_us" not in self.own:
            return self
        return replace(self, own=self.own | {"us": self.own["programmatic_us"]})

    @property
    def of_read(self) -> float:
        """Time of a plain read of the same bytes over own time."""
        return self.own["read_us"] / self.us

    @property
    def softmax_peer(self) -> Optional[float]:
        """The faster of cuDNN's and FlashAttention 2's softmax."""
        times = [self.peers[name] for name in ("cudnn", "fa2") if name in self.peers]
        return min(times, default=None)

    def tflops(self, us: float, parallax: bool) -> float:
        return self.case.flops(parallax) / us * 1e-6


@dataclass(frozen=True)
class Report:
    header: dict  # device, versions, commit, date, gemm_tflops
    measurements: list[Measurement]
    failures: list[str]  # cases that own kernels did not run or got wrong

    def of(self, case_file: str) -> list[Measurement]:
        """Those of one file of cases/."""
        texts = {case.text for case in cases.read(Path(__file__).parent / "cases" / case_file)}
        return [m for m in self.measurements if m.case.text in texts]


def read(path: Path) -> Report:
    header = json.loads(path.read_text())
    measurements: list[Measurement] = []
    failures: list[str] = []
    for result in header.pop("results"):
        own = result.get("own", {})
        if "us" not in own:
            failures.append(f"{result['case']}: {own.get('error', 'not run')}")
            continue
        peers = {name: peer["us"] for name, peer in result["peers"].items() if "us" in peer}
        measurements.append(Measurement(cases.parse(result["case"]), own, peers))
    return Report(header, measurements, failures)
