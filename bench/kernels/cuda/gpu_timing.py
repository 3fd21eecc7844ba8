"""Time of a GPU operation: graphs of launches on rotating inputs, with L2 swept in between."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch

SAMPLES = 21
SLOW_SECONDS = 0.6  # a case that would take longer is sampled less often, but never below:
MIN_SAMPLES = 5


class GpuTimer:
    """Median microseconds a launch, from CUDA events around the replay of a graph."""

    def __init__(self) -> None:
        self._sweep = torch.zeros(256 << 20, dtype=torch.float32, device="cuda")

    def sweep_l2(self) -> None:
        # A read: a write would leave dirty lines whose eviction the next launch would pay.
        # It also keeps the GPU busy until the launch that follows is queued.
        torch.sum(self._sweep)

    def microseconds(
        self, launch: Callable[[int], object], launches: int, cold: bool
    ) -> tuple[float, int]:
        """`launch(i)` enqueues launch i. Returns (median, samples)."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(min(3, launches)):
                launch(i)
        stream.synchronize()

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(launches):
                launch(i)
        first = self._sample(graph, cold)
        samples = max(MIN_SAMPLES, min(SAMPLES, int(SLOW_SECONDS * 1e6 / first)))
        times = [self._sample(graph, cold) for _ in range(samples)]
        return statistics.median(times) / launches, samples

    def _sample(self, graph: torch.cuda.CUDAGraph, cold: bool) -> float:
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        if cold:
            self.sweep_l2()
        else:
            graph.replay()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3


def measure_gemm_tflops(timer: GpuTimer, size: int = 8192) -> float:
    """The rate of a large bf16 matrix product on random data: the compute ceiling."""
    a = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    b = torch.randn(size, size, device="cuda", dtype=torch.bfloat16)
    out = torch.empty_like(a)
    calls: Sequence[int] = range(4)
    us, _ = timer.microseconds(lambda _: torch.matmul(a, b, out=out), len(calls), cold=True)
    return 2.0 * size**3 / us * 1e-6
