"""Writes the same weights in fla's key convention (`ParallaxForCausalLM`).

    python export_fla.py MODEL_FOLDER OUTPUT_FOLDER

The function is the same: hidden = heads * head_dim, and fla's q/r/k norms use an epsilon
of 1e-5, which is this model's. The output is test data and is not committed.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

RENAMED = (
    ("model.embed_tokens.", "model.embeddings."),
    (".self_attn.", ".attn."),
    (".input_layernorm.", ".attn_norm."),
    (".post_attention_layernorm.", ".mlp_norm."),
)
COPIED = ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


def fla_name(name: str) -> str:
    for old, new in RENAMED:
        name = name.replace(old, new)
    return name


def fla_config(stored: dict) -> dict[str, object]:
    """fla's fields for a Parallax-Qwen3 `config.json`."""
    if stored["hidden_size"] != stored["num_attention_heads"] * stored["head_dim"]:
        raise ValueError("fla's head size is hidden_size / num_heads; this model's differs")
    return {
        "architectures": ["ParallaxForCausalLM"],
        "model_type": "parallax",
        "hidden_size": stored["hidden_size"],
        "num_hidden_layers": stored["num_hidden_layers"],
        "num_heads": stored["num_attention_heads"],
        "num_kv_heads": stored["num_key_value_heads"],
        "intermediate_size": stored["intermediate_size"],
        "hidden_act": "swish",
        "qk_norm": True,
        "qkv_bias": False,
        "window_size": None,
        "rope_theta": stored["rope_theta"],
        "norm_eps": stored["rms_norm_eps"],
        "max_position_embeddings": stored["max_position_embeddings"],
        "tie_word_embeddings": True,
        "vocab_size": stored["vocab_size"],
        "torch_dtype": stored["torch_dtype"],
        "bos_token_id": stored["bos_token_id"],
        "eos_token_id": stored["eos_token_id"],
        "pad_token_id": stored["pad_token_id"],
    }


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)
    tensors = load_file(source / "model.safetensors")
    renamed = {fla_name(name): tensor for name, tensor in tensors.items()}
    save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})
    config = fla_config(json.loads((source / "config.json").read_text()))
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in COPIED:
        shutil.copy(source / name, target / name)


if __name__ == "__main__":
    main()
