"""The served default model against the numbers of its training framework."""
import json
import math

import pytest
from parallax.v1 import inference_pb2 as pb
from server_process import DEFAULT_MODEL, request

TESTDATA = DEFAULT_MODEL / "testdata"


def test_golden_continuations(story_server):
    golden = json.loads((TESTDATA / "golden.json").read_text())["continuations"]
    assert len(golden) >= 10
    for expected in golden:
        answer = story_server.inference.Generate(
            request(expected["prompt_ids"],
                    sampling={"temperature": 0.0, "repetition_penalty": 1.0},
                    stopping={"max_tokens": len(expected["output_ids"]), "ignore_eos": True}),
            timeout=120)
        assert list(answer.choices[0].token_ids) == expected["output_ids"], expected["prompt"]


def score(server, ids, context):
    """(negative log-likelihood, tokens scored) of ids[1:], each given all before it."""
    prompt = ids[:context - 1]
    # The context leaves room for one token after the prompt. Where one more is to be scored,
    # a bias makes it the generated one; its log-probability is the model's own all the same.
    sampling = {"temperature": 0.0}
    if len(ids) > len(prompt):
        sampling["logit_bias"] = {ids[len(prompt)]: 100.0}
    answer = server.inference.Generate(
        request(prompt, max_tokens=1, sampling=sampling,
                output={"prompt_logprobs": 0, "logprobs": 0}), timeout=120)
    logprobs = [entry.chosen.logprob for entry in answer.prompt_logprobs[1:]]
    if len(ids) > len(prompt):
        assert list(answer.choices[0].token_ids) == [ids[len(prompt)]]
        logprobs.append(answer.choices[0].logprobs[0].chosen.logprob)
    return -sum(logprobs), len(logprobs)


def test_perplexity_is_the_training_frameworks(story_server):
    reference = json.loads((TESTDATA / "heldout.json").read_text())
    text = (TESTDATA / "heldout.txt").read_text()
    documents = [part.removesuffix("\n") for part in text.split("<|endoftext|>\n") if part]
    assert len(documents) == len(reference["documents"])
    context = story_server.inference.GetModelInfo(pb.GetModelInfoRequest()).max_context_tokens
    total, scored = 0.0, 0
    for document, expected in zip(documents, reference["documents"]):
        ids = story_server.inference.Tokenize(pb.TokenizeRequest(text=document)).token_ids[:1024]
        assert len(ids) == expected["ids"]
        nll, count = score(story_server, ids, context)
        assert nll == pytest.approx(expected["nll"], rel=0.005), expected["chapter"]
        total, scored = total + nll, scored + count
    assert scored == reference["scored"]
    assert math.exp(total / scored) == pytest.approx(reference["perplexity"], rel=0.002)
