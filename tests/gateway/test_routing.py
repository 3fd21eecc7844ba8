"""Where the gateway sends prompts that share a prefix, and what that saves."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from fleet import Fleet
from server_process import STORIES_MODEL

PREFIXES = 64
REQUESTS_A_PREFIX = 6
PREFIX_WORDS = 200  # three pages of 64 tokens, and some
PAGES = 96  # a replica: its third of the prefixes fits, all of them do not
WORDS = (
    "the a cat dog bird tree house boy girl ran sat saw big small red blue happy sad went home "
    "then and but with under over river stone apple cake king queen forest night day rain sun"
).split()


def prompts(seed: int) -> list[str]:
    source = random.Random(seed)
    prefixes = [
        " ".join(source.choice(WORDS) for _ in range(PREFIX_WORDS)) for _ in range(PREFIXES)
    ]
    every = [
        f"{prefix} Question {number}:" for number in range(REQUESTS_A_PREFIX) for prefix in prefixes
    ]
    source.shuffle(every)
    return every


def hit_rate(policy: str) -> float:
    """Of all prompt tokens, how many some replica had cached."""
    with ExitStack() as stack:
        fleet = Fleet(stack, policy=policy, pages=PAGES)
        client = fleet.gateway.client()

        def ask(prompt: str) -> None:
            client.completions.create(model=STORIES_MODEL.name, prompt=prompt, max_tokens=2)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(ask, prompts(seed=1)))
        samples = [server.metrics() for server in fleet.replicas]
        hits = sum(sample["parallax:prefix_cache_hits_total"] for sample in samples)
        queries = sum(sample["parallax:prefix_cache_queries_total"] for sample in samples)
        per_replica = [sample["parallax:prefix_cache_queries_total"] for sample in samples]
        assert min(per_replica) > queries / 10, f"{policy}: one replica does it all: {per_replica}"
        return hits / queries


def test_cache_aware_routing_finds_twice_the_prefixes_of_round_robin(record) -> None:
    rates = {policy: round(hit_rate(policy), 4) for policy in ("round_robin", "cache_aware")}
    record(
        "routing",
        {
            "prefixes": PREFIXES,
            "requests_a_prefix": REQUESTS_A_PREFIX,
            "pages_a_replica": PAGES,
            "replicas": 3,
            "hit_rate": rates,
        },
    )
    assert rates["cache_aware"] >= 2 * rates["round_robin"], rates
    assert rates["cache_aware"] >= 0.5, rates
