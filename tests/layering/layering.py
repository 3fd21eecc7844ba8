"""The rules of the one-way layout, server -> engine -> kernels, as data.

A rule says which files it is about, which includes it forbids there and why. The checker
reads `#include` lines only; it needs no build.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

SOURCE_SUFFIXES = {".h", ".cc", ".cu", ".cuh"}
TOP_LEVEL = ("server", "engine", "kernels", "clients")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')

GRPC = r"grpc|grpcpp/|grpc\+\+/|google/protobuf/|parallax/v1/"
PROMETHEUS = r"prometheus/"
CUDA = (
    r"cuda|cublas|cudnn|nvtx|nvToolsExt|cooperative_groups|cub/|thrust/|cutlass/|cute/|mma\.h|nccl"
)


@dataclass(frozen=True)
class Rule:
    """Files whose path matches `applies_to` (and not `except_for`) may not include `forbidden`."""

    applies_to: str
    forbidden: str
    why: str
    except_for: str | None = None

    def covers(self, path: str) -> bool:
        if self.except_for and re.match(self.except_for, path):
            return False
        return re.match(self.applies_to, path) is not None

    def forbids(self, include: str) -> bool:
        return re.match(self.forbidden, include) is not None


RULES = (
    Rule(r"kernels/", r"(engine|server|clients)/", "kernels/ is the bottom layer"),
    Rule(r"engine/", r"(server|clients)/", "engine/ knows nothing of who calls it"),
    Rule(r"server/", r"clients/", "the server does not depend on its clients"),
    Rule(r"clients/", r"(server|engine|kernels)/", "a client knows the wire contract only"),
    Rule(r"(engine|kernels)/", GRPC, "gRPC and protobuf stay in server/"),
    Rule(r"(engine|kernels|clients)/", PROMETHEUS, "Prometheus stays in server/metrics"),
    Rule(
        r"server/",
        PROMETHEUS,
        "the metrics files of server/ are the only Prometheus user",
        except_for=r"server/(atomic_)?metrics",
    ),
    Rule(r"kernels/", r"absl/", "kernels/ builds with nothing but a compiler and Highway"),
    Rule(
        r"(server|engine|kernels|clients)/",
        CUDA,
        "CUDA headers stay in kernels/cuda/",
        except_for=r"kernels/cuda/",
    ),
    Rule(
        r"engine/kv_cache/",
        r"engine/(request|sampling_params|token_sink|engine|engine_observer)\.h"
        r"|engine/(scheduler|runner|models|tokenizer)/",
        "the cache knows tokens and pages, never requests",
    ),
    Rule(
        r"engine/",
        r"absl/time/clock\.h",
        "durations are measured with SteadyNow, which no clock step reaches",
        except_for=r"engine/(base/steady_time|cuda/)",
    ),
    Rule(
        r"engine/(scheduler|kv_cache)/",
        r"engine/(models|tokenizer)/",
        "scheduling is independent of models and tokenizers",
    ),
)


def _includes(path: Path) -> Iterator[tuple[int, str, str]]:
    text = path.read_text(encoding="utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        if match := INCLUDE.match(line):
            yield number, match.group(1), match.group(2)


def violations(root: Path) -> list[str]:
    """One line for each forbidden include under `root`: file:line, the include, the reason."""
    found = []
    for top in TOP_LEVEL:
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in SOURCE_SUFFIXES:
                continue
            name = path.relative_to(root).as_posix()
            for number, quote, include in _includes(path):
                for rule in RULES:
                    if rule.covers(name) and rule.forbids(include):
                        found.append(f"{name}:{number}: includes {include}: {rule.why}")
                if quote == '"' and (include.startswith(".") or "/" not in include):
                    found.append(
                        f"{name}:{number}: includes \"{include}\": "
                        "own headers are named from the repository's root"
                    )
    return found
