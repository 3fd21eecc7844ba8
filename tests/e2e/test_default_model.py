"""The served default model against the numbers of its training framework."""

from __future__ import annotations

import json
import math

import pytest

from parallax_client import Client
from server_process import STORIES_MODEL

TESTDATA = STORIES_MODEL / "testdata"


def test_golden_continuations(stories: Client) -> None:
    golden = json.loads((TESTDATA / "golden.json").read_text())["continuations"]
    assert len(golden) >= 10
    for expected in golden:
        answer = stories.generate(
            expected["prompt_ids"],
            temperature=0,
            repetition_penalty=1,
            max_tokens=len(expected["output_ids"]),
            ignore_eos=True,
        )
        assert list(answer.choices[0].token_ids) == expected["output_ids"], expected["prompt"]
        assert answer.choices[0].text == expected["text"]


def score(client: Client, ids: list[int], context: int) -> tuple[float, int]:
    """(negative log-likelihood, tokens scored) of ids[1:], each given all before it."""
    prompt, rest = ids[: context - 1], ids[context - 1 :]
    # The context leaves room for one token after the prompt. Where one more is to be scored,
    # a bias makes it the generated one; its log-probability is the model's own all the same.
    assert len(rest) <= 1
    answer = client.generate(
        prompt,
        max_tokens=1,
        temperature=0,
        prompt_logprobs=0,
        logprobs=0,
        logit_bias={token: 100.0 for token in rest},
    )
    logprobs = [position.chosen.logprob for position in answer.prompt_logprobs[1:]]
    if rest:
        assert list(answer.choices[0].token_ids) == rest
        logprobs.append(answer.choices[0].logprobs[0].chosen.logprob)
    return -sum(logprobs), len(logprobs)


def test_perplexity_is_the_training_frameworks(stories: Client) -> None:
    reference = json.loads((TESTDATA / "heldout.json").read_text())
    text = (TESTDATA / "heldout.txt").read_text()
    documents = [part.removesuffix("\n") for part in text.split("<|endoftext|>\n") if part]
    assert len(documents) == len(reference["documents"])
    context = stories.model_info().max_context_tokens
    total, scored = 0.0, 0
    for document, expected in zip(documents, reference["documents"]):
        ids = stories.tokenize(document)[:1024]
        assert len(ids) == expected["ids"]
        nll, count = score(stories, ids, context)
        assert nll == pytest.approx(expected["nll"], rel=0.005), expected["chapter"]
        total, scored = total + nll, scored + count
    assert scored == reference["scored"]
    assert math.exp(total / scored) == pytest.approx(reference["perplexity"], rel=0.002)


def test_the_clients_perplexity_is_the_same_sum(stories: Client) -> None:
    """Client.perplexity on a document that fits one window."""
    document = (TESTDATA / "heldout.txt").read_text()[:1500]
    ids = stories.tokenize(document)
    nll, count = score(stories, ids, 1024)
    result = stories.perplexity([document])
    assert (result.nll, result.scored_tokens) == (pytest.approx(nll, rel=1e-6), count)
    assert result.bytes == len(document.encode())
