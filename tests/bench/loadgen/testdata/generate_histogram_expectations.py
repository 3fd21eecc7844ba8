#!/usr/bin/env python3
"""Writes histogram_expectations.json with the Python package `hdrhistogram`.

Usage: pip install hdrhistogram; python3 generate_histogram_expectations.py

Each case lists values in nanoseconds and the quantiles that an HdrHistogram of three
significant digits reads off them; the C++ histogram must give the same numbers.
"""
import json
import pathlib
import random

from hdrh.histogram import HdrHistogram

QUANTILES = [0.0, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1.0]


def expectations(values):
    histogram = HdrHistogram(1, 3_600_000_000_000, 3)
    for value in values:
        histogram.record_value(value)
    return {
        "values": values,
        "quantiles": [[q, histogram.get_value_at_percentile(100 * q)] for q in QUANTILES if q > 0],
        "max": max(values),
        "min": min(values),
    }


def main():
    rng = random.Random(20261123)
    cases = [
        expectations([1]),
        expectations([1, 2047, 2048, 2049, 4095, 4096, 1_000_000]),
        expectations([rng.randint(1, 10_000) for _ in range(500)]),
        expectations([int(rng.lognormvariate(13, 2)) + 1 for _ in range(800)]),
        expectations([int(10 ** rng.uniform(0, 12.5)) for _ in range(800)]),
    ]
    path = pathlib.Path(__file__).with_name("histogram_expectations.json")
    path.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
