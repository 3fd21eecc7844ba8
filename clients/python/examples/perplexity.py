"""Scores text files under the served model: perplexity per token and bits per byte.

    python perplexity.py story.txt other.txt
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc

from parallax_client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--window", type=int, help="tokens scored in one request")
    arguments = parser.parse_args()
    with Client(arguments.server) as client:
        for file in arguments.files:
            result = client.perplexity([file.read_text()], window=arguments.window)
            print(
                f"{file}: perplexity {result.perplexity:.2f}, "
                f"{result.bits_per_byte:.3f} bits/byte, {result.scored_tokens} tokens"
            )


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
