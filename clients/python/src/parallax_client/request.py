"""Keyword arguments to a GenerateRequest."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from parallax_client.v1 import inference_pb2 as pb

# Where each keyword argument goes. One that is left out leaves its field unset, so that
# the documented default holds.
_FIELDS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "logit_bias",
            "seed",
            "n",
        ),
        "sampling",
    ),
    **dict.fromkeys(
        ("max_tokens", "min_tokens", "stop", "stop_token_ids", "ignore_eos", "include_stop"),
        "stopping",
    ),
    **dict.fromkeys(("logprobs", "prompt_logprobs", "echo", "skip_special_tokens"), "output"),
    **dict.fromkeys(("priority", "tenant", "timeout_ms"), "scheduling"),
}


def build_request(
    prompt: str | Sequence[int],
    *,
    request_id: str | None = None,
    model: str | None = None,
    **parameters: Any,
) -> pb.GenerateRequest:
    """The request for `prompt`, as text or as token ids.

    `parameters` are named as in proto/parallax/v1/inference.proto: temperature, top_k,
    top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty, logit_bias, seed,
    n; max_tokens, min_tokens, stop, stop_token_ids, ignore_eos, include_stop; logprobs,
    prompt_logprobs, echo, skip_special_tokens; priority, tenant, timeout_ms. None is as
    left out. Raises TypeError for another name.
    """
    request = pb.GenerateRequest()
    if isinstance(prompt, str):
        request.text = prompt
    else:
        request.token_ids.SetInParent()
        request.token_ids.ids.extend(prompt)
    if request_id is not None:
        request.request_id = request_id
    if model is not None:
        request.model = model
    for name, value in parameters.items():
        if name not in _FIELDS:
            raise TypeError(f"unknown parameter {name!r}")
        if value is not None:
            _set(getattr(request, _FIELDS[name]), name, value)
    return request


def _set(message: Any, name: str, value: Any) -> None:
    if name == "logit_bias":
        message.logit_bias.update(value)
    elif name in ("stop", "stop_token_ids"):
        getattr(message, name).extend([value] if isinstance(value, (str, int)) else value)
    else:
        setattr(message, name, value)
