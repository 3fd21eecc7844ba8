#!/usr/bin/env python3
"""Writes prometheusrule.yaml: the rules of deploy/prometheus/rules for the Prometheus operator.

    build_prometheusrule.py [--print]

Text, not parsed YAML: the comments stay.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HERE = Path(__file__).resolve().parent
RULES = HERE.parent / "prometheus" / "rules"
HEAD = """\
# Written by build_prometheusrule.py. Change ../prometheus/rules, then run it.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: parallax-server
spec:
  groups:
"""


def build() -> str:
    text = HEAD
    for name in ("recording.yml", "alerts.yml"):
        comment, groups = (RULES / name).read_text().split("groups:\n", 1)
        lines = [f"    {line}" for line in comment.splitlines()]
        lines += [f"  {line}".rstrip() for line in groups.splitlines()]
        text += "\n".join(lines) + "\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--print", action="store_true", help="to standard output instead")
    if parser.parse_args().print:
        print(build(), end="")
    else:
        (HERE / "prometheusrule.yaml").write_text(build())


if __name__ == "__main__":
    main()
