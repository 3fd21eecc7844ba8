"""What a caller gets: text, ids, log-probabilities, every finish reason."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from parallax_client import Client, ServingStatus
from parallax_client.v1 import inference_pb2 as pb
from server_process import IS_BITWISE, STORIES_MODEL, ServerProcess

PROMPT = "Once upon a time there was a little"
EOS = 2
# The model's own defaults include a repetition penalty.
GREEDY = {"temperature": 0, "repetition_penalty": 1, "max_tokens": 32}


def collect(chunks) -> dict[int, pb.Choice]:
    """A stream's chunks, joined by choice, as the unary call would return them."""
    choices: dict[int, pb.Choice] = {}
    for chunk in chunks:
        choice = choices.setdefault(chunk.index, pb.Choice(index=chunk.index))
        assert not choice.HasField("finish"), "nothing may follow a choice's finish"
        choice.text += chunk.text
        choice.token_ids.extend(chunk.token_ids)
        choice.logprobs.extend(chunk.logprobs)
        if chunk.HasField("finish"):
            choice.finish.CopyFrom(chunk.finish)
    assert all(choice.HasField("finish") for choice in choices.values())
    return choices


def test_unary_and_stream_agree(stories: Client) -> None:
    unary = stories.generate(PROMPT, n=3, seed=5, max_tokens=40)
    streamed = collect(stories.stream(PROMPT, n=3, seed=5, max_tokens=40))
    assert sorted(streamed) == [0, 1, 2]
    for choice in unary.choices:
        assert streamed[choice.index].text == choice.text
        assert streamed[choice.index].token_ids == choice.token_ids
        assert streamed[choice.index].finish.reason == choice.finish.reason
    assert len({choice.text for choice in unary.choices}) == 3


def test_request_id_and_model(stories: Client) -> None:
    response = stories.generate(PROMPT, request_id="my-id", model=STORIES_MODEL.name, max_tokens=1)
    assert response.request_id == "my-id"
    assert response.model == STORIES_MODEL.name
    stream = stories.stream(PROMPT, request_id="my-stream", max_tokens=3)
    chunks = list(stream)
    assert stream.initial_metadata()["x-request-id"] == "my-stream"
    assert [chunk.request_id for chunk in chunks] == ["my-stream"] + [""] * (len(chunks) - 1)
    made = [stories.generate(PROMPT, max_tokens=1).request_id for _ in range(2)]
    assert all(made) and made[0] != made[1]


def test_text_and_token_ids_are_the_same_prompt(stories: Client) -> None:
    as_text = stories.generate(PROMPT, **GREEDY).choices[0]
    as_ids = stories.generate(stories.tokenize(PROMPT), **GREEDY).choices[0]
    assert as_ids.token_ids == as_text.token_ids
    assert as_ids.text == as_text.text


def test_tokenize_round_trip(stories: Client) -> None:
    text = "The café's naïve 🐈‍⬛ sat.\n\nTab\tend"
    assert stories.detokenize(stories.tokenize(text)) == text
    assert stories.tokenize(text, add_special_tokens=False) == stories.tokenize(text)[1:]


def test_finish_length(stories: Client) -> None:
    choice = stories.generate(PROMPT, temperature=0, max_tokens=7).choices[0]
    assert choice.finish.reason == pb.FINISH_REASON_LENGTH
    assert choice.finish.usage.completion_tokens == len(choice.token_ids) == 7
    assert choice.finish.usage.prompt_tokens == len(stories.tokenize(PROMPT))


def test_finish_stop_at_end_of_sequence(stories: Client) -> None:
    choice = stories.generate(PROMPT, logit_bias={EOS: 100}, max_tokens=50).choices[0]
    assert choice.finish.reason == pb.FINISH_REASON_STOP
    assert choice.finish.stop_token_id == EOS
    assert choice.text == ""


def test_ignore_eos_and_min_tokens(stories: Client) -> None:
    bias = {EOS: 100}
    ignored = stories.generate(PROMPT, logit_bias=bias, ignore_eos=True, max_tokens=5)
    assert ignored.choices[0].finish.reason == pb.FINISH_REASON_LENGTH
    later = stories.generate(PROMPT, logit_bias=bias, min_tokens=4, max_tokens=50)
    assert later.choices[0].finish.stop_token_id == EOS
    assert later.usage.completion_tokens == 5  # four, then the end of sequence


def test_finish_stop_string(stories: Client) -> None:
    whole = stories.generate(PROMPT, **GREEDY).choices[0].text
    stop = whole[10:14]
    for include, expected in ((False, whole[: whole.index(stop)]), (True, None)):
        choice = stories.generate(PROMPT, stop=[stop, "§"], include_stop=include, **GREEDY).choices[0]
        assert choice.finish.reason == pb.FINISH_REASON_STOP
        assert choice.finish.stop_string == stop
        assert choice.text == (whole[: whole.index(stop) + len(stop)] if include else expected)
        streamed = collect(stories.stream(PROMPT, stop=stop, include_stop=include, **GREEDY))
        assert streamed[0].text == choice.text


def test_finish_stop_token(stories: Client) -> None:
    whole = stories.generate(PROMPT, **GREEDY).choices[0]
    token = whole.token_ids[5]
    first = list(whole.token_ids).index(token)
    choice = stories.generate(PROMPT, stop_token_ids=[token], **GREEDY).choices[0]
    assert choice.finish.stop_token_id == token
    assert whole.text.startswith(choice.text)
    assert list(choice.token_ids)[:first] == list(whole.token_ids)[:first]


def test_finish_deadline_returns_the_text_so_far(stories: Client) -> None:
    choice = stories.generate(PROMPT, ignore_eos=True, timeout_ms=60).choices[0]
    assert choice.finish.reason == pb.FINISH_REASON_DEADLINE
    assert 0 < len(choice.token_ids) < 900


def test_echo(stories: Client) -> None:
    plain = stories.generate(PROMPT, **GREEDY).choices[0]
    echoed = stories.generate(PROMPT, echo=True, **GREEDY).choices[0]
    assert echoed.text == PROMPT + plain.text
    assert list(echoed.token_ids) == stories.tokenize(PROMPT) + list(plain.token_ids)
    assert echoed.finish.usage.completion_tokens == len(plain.token_ids)


def test_logprobs(stories: Client) -> None:
    choice = stories.generate(PROMPT, logprobs=5, **GREEDY).choices[0]
    assert len(choice.logprobs) == len(choice.token_ids)
    for token, position in zip(choice.token_ids, choice.logprobs):
        assert position.chosen.token_id == token
        assert position.top[0].token_id == token  # greedy
        assert position.top[0].logprob == position.chosen.logprob
        values = [top.logprob for top in position.top]
        assert len(values) == 5 and values == sorted(values, reverse=True) and values[0] <= 0
    text = b"".join(position.chosen.token for position in choice.logprobs).decode()
    assert text == choice.text


def test_logprobs_are_of_the_model_not_of_the_sampler(stories: Client) -> None:
    plain = stories.generate(PROMPT, logprobs=0, temperature=0, max_tokens=1).choices[0]
    forced = stories.generate(
        PROMPT, logprobs=0, temperature=5, logit_bias={plain.token_ids[0]: 100}, max_tokens=1
    ).choices[0]
    assert forced.token_ids == plain.token_ids
    assert forced.logprobs == plain.logprobs


def test_prompt_logprobs_match_generated_ones(stories: Client) -> None:
    choice = stories.generate(PROMPT, logprobs=0, **GREEDY).choices[0]
    ids = stories.tokenize(PROMPT) + list(choice.token_ids)
    scored = stories.generate(ids, prompt_logprobs=2, max_tokens=1).prompt_logprobs
    assert len(scored) == len(ids)
    assert not scored[0].chosen.HasField("logprob")
    assert [position.chosen.token_id for position in scored] == ids
    assert all(len(position.top) == 2 for position in scored[1:])
    generated = [position.chosen.logprob for position in choice.logprobs]
    again = [position.chosen.logprob for position in scored[-len(generated) :]]
    # Bitwise: a row depends on no chunk.
    assert again == (generated if IS_BITWISE else pytest.approx(generated, abs=0.03))


def test_seed_decides_whatever_else_runs(stories: Client) -> None:
    def run(seed: int) -> tuple[int, ...]:
        return tuple(stories.generate(PROMPT, seed=seed, max_tokens=30).choices[0].token_ids)

    alone = {seed: run(seed) for seed in range(8)}
    with ThreadPoolExecutor(16) as pool:
        crowd = list(pool.map(run, list(range(8)) * 4))
    if IS_BITWISE:
        assert crowd == [alone[seed] for seed in range(8)] * 4
    assert {seed: run(seed) for seed in range(8)} == alone
    assert len(set(alone.values())) == 8


def test_prefix_cache_changes_nothing_but_the_usage(stories: Client) -> None:
    prompt = "The old fox looked at the hen and said: " * 12
    first = stories.generate(prompt, tenant="cache-test", **GREEDY)
    second = stories.generate(prompt, tenant="cache-test", **GREEDY)
    stranger = stories.generate(prompt, tenant="another", **GREEDY)
    assert first.usage.cached_tokens == stranger.usage.cached_tokens == 0
    assert second.usage.cached_tokens >= 64
    assert first.choices[0].token_ids == second.choices[0].token_ids
    assert first.choices[0].token_ids == stranger.choices[0].token_ids


def test_special_tokens(stories: Client) -> None:
    options = {"logit_bias": {EOS: 100}, "ignore_eos": True, "max_tokens": 2}
    assert stories.generate(PROMPT, **options).choices[0].text == ""
    shown = stories.generate(PROMPT, skip_special_tokens=False, **options).choices[0].text
    assert shown == "</s></s>"


def test_timings(stories: Client) -> None:
    timings = stories.generate(PROMPT, **GREEDY).timings
    assert timings.queue_us >= 0 and timings.prefill_us > 0 and timings.decode_us > 0


def test_model_info_and_health(stories: Client) -> None:
    info = stories.model_info()
    assert info.name == STORIES_MODEL.name
    assert info.architecture == "ParallaxQwen3ForCausalLM"
    assert info.probe and info.has_tokenizer
    assert (info.vocab_size, info.max_context_tokens, info.max_prompt_tokens) == (6144, 1024, 1023)
    assert list(info.eos_token_ids) == [EOS] and info.bos_token_id == 1
    assert info.default_sampling.top_k == 50 and info.max_concurrent_streams == 1024
    assert stories.health() is ServingStatus.SERVING
    assert stories.health("parallax.v1.InferenceService") is ServingStatus.SERVING


def test_null_model_serves_ids_only(null_client: Client, null_server: ServerProcess) -> None:
    choice = null_client.generate([1, 2, 3], seed=9, max_tokens=100).choices[0]
    assert len(choice.token_ids) == 100 and choice.text == ""
    assert choice.token_ids == null_client.generate([7], seed=9, max_tokens=100).choices[0].token_ids
    assert not null_client.model_info().has_tokenizer


def test_a_prompt_may_fill_the_context(stories: Client) -> None:
    response = stories.generate([1] + [300] * 1022, ignore_eos=True)
    assert response.usage.prompt_tokens == 1023
    assert response.choices[0].finish.reason == pb.FINISH_REASON_LENGTH
    assert response.usage.completion_tokens == 1


@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 600])
def test_prompt_lengths_across_pages(stories: Client, length: int) -> None:
    ids = ([1] + [300 + i % 50 for i in range(length)])[:length]
    response = stories.generate(ids, temperature=0, max_tokens=3, ignore_eos=True)
    assert response.usage.prompt_tokens == length
    assert response.usage.completion_tokens == 3
