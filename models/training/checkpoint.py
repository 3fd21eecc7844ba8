"""Writes and reads checkpoints: Hugging Face folders, and the state of a run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model import HEAD_DIM, ModelConfig, StoryModel

PAD_ID, BOS_ID, EOS_ID = 0, 1, 2


def hf_config(config: ModelConfig) -> dict[str, object]:
    """`config.json` in the Parallax-Qwen3 convention, or Qwen3's for softmax attention."""
    is_parallax = config.attention == "parallax"
    return {
        "architectures": ["ParallaxQwen3ForCausalLM" if is_parallax else "Qwen3ForCausalLM"],
        "model_type": "parallax_qwen3" if is_parallax else "qwen3",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "pad_token_id": PAD_ID,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
    }


def save_model(model: StoryModel, folder: Path) -> None:
    """Writes `model.safetensors` in bfloat16 and `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    (folder / "config.json").write_text(json.dumps(hf_config(model.config), indent=2) + "\n")


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> StoryModel:
    """Reads a folder that `save_model` wrote."""
    stored = json.loads((folder / "config.json").read_text())
    model = StoryModel(
        ModelConfig(
            vocab_size=stored["vocab_size"],
            num_layers=stored["num_hidden_layers"],
            num_heads=stored["num_attention_heads"],
            num_kv_heads=stored["num_key_value_heads"],
            intermediate_size=stored["intermediate_size"],
            max_positions=stored["max_position_embeddings"],
            rope_theta=stored["rope_theta"],
            norm_eps=stored["rms_norm_eps"],
            attention="parallax" if "Parallax" in stored["architectures"][0] else "softmax",
        )
    )
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.to(dtype).eval()


def save_run(path: Path, model: StoryModel, optimizers: list[torch.optim.Optimizer], step: int, curve: list) -> None:
    """Writes everything that a stopped run needs to go on; replaces `path` in one step."""
    temporary = path.with_suffix(".tmp")
    torch.save(
        {
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "step": step,
            "curve": curve,
        },
        temporary,
    )
    temporary.replace(path)


def load_run(path: Path, model: StoryModel, optimizers: list[torch.optim.Optimizer]) -> tuple[int, list]:
    """Restores a run in place; returns the number of steps done and the curve so far."""
    state = torch.load(path, map_location=next(model.parameters()).device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["curve"]
