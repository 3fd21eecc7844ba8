"""Completes a file of prompts, several at a time; answers come out in the file's order.

    python batch_file.py prompts.jsonl > answers.jsonl

A line of the input is a JSON object: "prompt" and any parameters of the request ("max_tokens",
"temperature", "seed", ...). A line of the output has "text", "finish_reason" and
"completion_tokens", or "error". The exit status is 1 if any line has an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from parallax_client import Client
from parallax_client.v1 import inference_pb2


def complete(client: Client, line: str) -> dict[str, Any]:
    """Never raises for what is wrong with one line: the others are worth having."""
    try:
        parameters = json.loads(line)
        response = client.generate(parameters.pop("prompt"), **parameters)
    except grpc.RpcError as error:
        return {"error": f"{error.code().name}: {error.details()}"}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        return {"error": f"not a request: {error!r}"}
    choice = response.choices[0]
    return {
        "text": choice.text,
        "finish_reason": inference_pb2.FinishReason.Name(choice.finish.reason),
        "completion_tokens": response.usage.completion_tokens,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--concurrency", type=int, default=8)
    arguments = parser.parse_args()
    lines = [line for line in arguments.file.read_text().splitlines() if line.strip()]
    failed = 0
    # One Client serves all threads: its calls share a connection.
    with Client(arguments.server) as client, ThreadPoolExecutor(arguments.concurrency) as pool:
        for answer in pool.map(lambda line: complete(client, line), lines):
            print(json.dumps(answer), flush=True)
            failed += "error" in answer
    if failed:
        print(f"{failed} of {len(lines)} lines failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
