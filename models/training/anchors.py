"""Bits per byte of general compressors on the held-out text, beside which to read a model's.

    python anchors.py --corpus CORPUS

gzip and xz see the held-out text alone. PPM (PPMd variant H) is also given the training
text first: the bits it needs for training + held-out text, less those for the training
text. Its memory is bounded, so of the training text it gets the last `--prime` MB.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
from pathlib import Path

import pyppmd

import corpus as corpus_reader

ORDERS = (5, 8)
MEMORY = 2000 << 20


def bits_per_byte(compressed: int, size: int) -> float:
    return 8 * compressed / size


def primed_ppm(prime: bytes, text: bytes, order: int) -> int:
    """Bytes that `text` adds to the compressed size of `prime`."""
    alone = len(pyppmd.compress(prime, max_order=order, mem_size=MEMORY)) if prime else 0
    return len(pyppmd.compress(prime + text, max_order=order, mem_size=MEMORY)) - alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--prime", type=int, default=1000, help="MB of training text for PPM")
    arguments = parser.parse_args()
    text = "\n".join(d.text for d in corpus_reader.read_split(arguments.corpus, "heldout")).encode()
    train = "\n".join(d.text for d in corpus_reader.read_split(arguments.corpus, "train")).encode()
    prime = train[-arguments.prime * 1_000_000 :]
    size = len(text)
    print(f"{size} bytes")
    print(f"gzip -9 {bits_per_byte(len(gzip.compress(text, 9)), size):.3f}")
    print(f"xz -9e {bits_per_byte(len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)), size):.3f}")
    for order in ORDERS:
        print(f"PPMd order {order} {bits_per_byte(primed_ppm(b'', text, order), size):.3f}", flush=True)
        print(f"PPMd order {order}, primed {bits_per_byte(primed_ppm(prime, text, order), size):.3f}", flush=True)


if __name__ == "__main__":
    main()
