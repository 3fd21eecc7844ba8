"""Many requests from one asyncio task: samples a prompt with different seeds, keeps the likeliest.

    python fan_out.py --samples 16 "The old fox"

A semaphore bounds what is in flight; should the server refuse some all the same, the client waits
for as long as the server says and tries again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import grpc

from parallax_client import AsyncClient


async def sample(
    client: AsyncClient, slots: asyncio.Semaphore, prompt: str, seed: int, max_tokens: int
) -> tuple[float, int, str]:
    """The mean log-probability of a sample's tokens, its seed and its text."""
    async with slots:
        response = await client.generate(prompt, seed=seed, max_tokens=max_tokens, logprobs=0)
    choice = response.choices[0]
    logprobs = [position.chosen.logprob for position in choice.logprobs]
    return sum(logprobs) / len(logprobs), seed, choice.text


async def run(arguments: argparse.Namespace) -> None:
    slots = asyncio.Semaphore(arguments.concurrency)
    async with AsyncClient(arguments.server) as client:
        # If one fails, or this task is cancelled, the others are cancelled on the server.
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(
                    sample(client, slots, arguments.prompt, seed, arguments.max_tokens)
                )
                for seed in range(arguments.samples)
            ]
    samples = sorted(task.result() for task in tasks)
    for score, seed, text in reversed(samples):
        print(f"{score:7.3f}  seed {seed:<3} {text[:60]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=40)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    try:
        main()
    except* grpc.RpcError as group:
        error = group.exceptions[0]
        sys.exit(f"{error.code().name}: {error.details()}")
