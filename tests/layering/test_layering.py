"""The tree keeps its layers, and the checker sees each kind of violation when planted."""

from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path

import layering

REPOSITORY = Path(__file__).resolve().parents[2]

# (file, include line): each must be reported in an otherwise clean tree.
PLANTED = (
    ("kernels/gemm.cc", '#include "engine/request.h"'),
    ("kernels/cpu/gemm.cc", '#include "server/config.h"'),
    ("engine/engine.cc", '#include "server/metrics.h"'),
    ("server/main.cc", '#include "clients/cpp/client.h"'),
    ("clients/cpp/client.cc", '#include "engine/base/mutex.h"'),
    ("engine/engine.cc", "#include <grpcpp/grpcpp.h>"),
    ("engine/engine.h", '#include "parallax/v1/inference.pb.h"'),
    ("kernels/check.h", "#include <google/protobuf/message.h>"),
    ("engine/engine.cc", "#include <prometheus/counter.h>"),
    ("server/auth.cc", "#include <prometheus/counter.h>"),
    ("kernels/check.h", '#include "absl/status/status.h"'),
    ("kernels/gemm.cc", "#include <cuda_runtime.h>"),
    ("engine/runner/cuda_graph.cc", "#include <cuda_runtime.h>"),
    ("server/main.cc", "#include <cublasLt.h>"),
    ("engine/kv_cache/prefix_cache.cc", '#include "engine/request.h"'),
    ("engine/kv_cache/block_table.h", '#include "engine/scheduler/sequence.h"'),
    ("engine/kv_cache/block_table.h", '#include "engine/runner/forward_batch.h"'),
    ("engine/kv_cache/kv_cache_pool.h", '#include "engine/runner/model_runner.h"'),
    ("engine/scheduler/scheduler.cc", '#include "engine/tokenizer/tokenizer.h"'),
    ("engine/inbox.cc", '#include "absl/time/clock.h"'),
    ("engine/engine.cc", '#include "request.h"'),
    ("engine/engine.cc", '  #  include  "../server/config.h"'),
)

ALLOWED = (
    ("kernels/cuda/gemm.cu", "#include <cuda_runtime.h>"),
    ("server/metrics.cc", "#include <prometheus/counter.h>"),
    ("server/atomic_metrics.h", "#include <prometheus/client_metric.h>"),
    ("engine/base/steady_time.cc", '#include "absl/time/clock.h"'),
    ("engine/runner/forward_batch.h", '#include "engine/kv_cache/page.h"'),
    ("server/inference_service.cc", '#include "parallax/v1/inference.grpc.pb.h"'),
    ("engine/runner/cpu_model_runner.cc", '#include "kernels/stream.h"'),
    ("clients/cpp/client.cc", "#include <grpcpp/grpcpp.h>"),
    ("engine/engine.cc", '// #include "server/config.h" is what must not be written'),
)


def violations_of(file: str, line: str) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / file
        path.parent.mkdir(parents=True)
        path.write_text(f"// A file.\n{line}\n", encoding="utf-8")
        return layering.violations(Path(folder))


class LayeringTest(unittest.TestCase):
    def test_the_tree_keeps_its_layers(self) -> None:
        self.assertEqual(layering.violations(REPOSITORY), [])

    def test_the_checker_reads_the_tree(self) -> None:
        for top in layering.TOP_LEVEL:
            self.assertTrue(list((REPOSITORY / top).rglob("*.h")), f"no header under {top}/")

    def test_planted_violations_are_seen(self) -> None:
        for file, line in PLANTED:
            with self.subTest(file=file, line=line):
                found = violations_of(file, line)
                self.assertTrue(found)
                self.assertTrue(found[0].startswith(f"{file}:2: "), found[0])

    def test_what_is_allowed_is_not_reported(self) -> None:
        for file, line in ALLOWED:
            with self.subTest(file=file, line=line):
                self.assertEqual(violations_of(file, line), [])


if __name__ == "__main__":
    sys.exit(unittest.main())
