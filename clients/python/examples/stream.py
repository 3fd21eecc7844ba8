"""Prints a completion as it is generated; Ctrl-C ends it on the server too.

    python stream.py --max-tokens 100 "Once upon a time"
"""

from __future__ import annotations

import argparse
import sys

import grpc

from parallax_client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--max-tokens", type=int, default=100)
    parser.add_argument("--seed", type=int)
    arguments = parser.parse_args()
    with Client(arguments.server) as client:
        # Leaving the block early, by an exception or by Ctrl-C, cancels the request.
        with client.stream(
            arguments.prompt, max_tokens=arguments.max_tokens, seed=arguments.seed
        ) as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
    print()


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
