"""Trains one model. The shipped model is `python train.py --corpus CORPUS --out FOLDER`.

The run is a function of its arguments: the seed fixes initial weights, dropout and the
order of the data. A run that was stopped goes on from `FOLDER/run.pt` when started again
with the same arguments. `FOLDER` receives `model.safetensors`, `config.json` and
`metrics.json` (arguments, curve, held-out scores with the probe on and off).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch

import corpus as corpus_reader
from checkpoint import load_run, save_model, save_run
from dataset import CONTEXT, TokenisedDocuments, epoch_rows, tokenise
from evaluate import held_out_scores
from model import ModelConfig, StoryModel
from optimizer import build_optimizers, learning_rate_factor

DTYPE = torch.bfloat16


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, default=Path(__file__).parents[1] / "parallax-stories-14m" / "tokenizer.model")
    shape = ModelConfig()
    parser.add_argument("--layers", type=int, default=shape.num_layers)
    parser.add_argument("--heads", type=int, default=shape.num_heads)
    parser.add_argument("--kv-heads", type=int, default=shape.num_kv_heads)
    parser.add_argument("--intermediate", type=int, default=shape.intermediate_size)
    parser.add_argument("--attention", choices=("parallax", "softmax"), default=shape.attention)
    parser.add_argument("--probe-gain", type=float, default=shape.probe_gain)
    parser.add_argument("--zero-probe", action="store_true")
    parser.add_argument("--dropout", type=float, default=shape.dropout)
    parser.add_argument("--tokens", type=float, default=560e6, help="length of the run")
    parser.add_argument("--batch", type=int, default=64, help="rows of 1024 tokens a step")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--weight-decay", type=float, default=0.3)
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--cooldown", type=float, default=0.6, help="share of the run")
    parser.add_argument("--mix", type=_mix, default=(3, 2, 1, 1), help="copies of each tier an epoch")
    parser.add_argument("--final-mix", type=_mix, default=(6, 3, 1, 0.5), help="the same for the last 30 %% of the run")
    parser.add_argument("--train-share", type=float, default=1.0, help="share of the documents, for scaled-down studies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=10)
    parser.add_argument("--save-every", type=int, default=2000, help="steps")
    return parser.parse_args()


def _mix(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


class RowStream:
    """Batches of rows, epoch after epoch, on the device; can start at any step."""

    FINAL_SHARE = 0.3

    def __init__(self, data: TokenisedDocuments, arguments: argparse.Namespace, steps: int, device: torch.device) -> None:
        self._data = data
        self._arguments = arguments
        self._final_step = int(steps * (1 - self.FINAL_SHARE)) if arguments.final_mix else steps
        self._device = device

    def batches(self, first_step: int):
        """Yields the batch of `first_step` and of every later step, without end."""
        step, epoch, batch = 0, 0, self._arguments.batch
        while True:
            mix = self._arguments.mix if step < self._final_step else self._arguments.final_mix
            rows = torch.from_numpy(epoch_rows(self._data, mix, self._arguments.seed, epoch)).to(self._device)
            for start in range(0, len(rows) - batch + 1, batch):
                if step >= first_step:
                    yield rows[start : start + batch].long()
                step += 1
                if step == self._final_step:
                    break
            epoch += 1


class Trainer:
    """One run: the model, its optimizers, its data and its curve."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.steps = int(arguments.tokens / (arguments.batch * CONTEXT))
        self.train_data = self._tokenise("train")
        self.held_out = self._tokenise("heldout")
        torch.manual_seed(arguments.seed)
        vocabulary = _vocabulary_size(arguments.tokenizer)
        self.model = StoryModel(model_config(arguments, vocabulary)).to(self.device)
        self.optimizers = build_optimizers(self.model, arguments.muon_lr, arguments.adam_lr, arguments.weight_decay)
        self.base_rates = [optimizer.param_groups[0]["lr"] for optimizer in self.optimizers]
        self.loss = torch.compile(self._loss, disable=not torch.cuda.is_available())
        self.curve: list[dict[str, float]] = []
        self.step = 0

    def _tokenise(self, split: str) -> TokenisedDocuments:
        documents = corpus_reader.read_split(self.arguments.corpus, split)
        if split == "train":
            documents = documents[:: max(1, round(1 / self.arguments.train_share))]
        return tokenise(documents, self.arguments.tokenizer, workers=os.cpu_count() or 1)

    def _loss(self, rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=DTYPE):
            return self.model.loss(rows, DTYPE)

    def run(self) -> dict[str, object]:
        """Trains to the end; returns the metrics."""
        checkpoint = self.arguments.out / "run.pt"
        if checkpoint.exists():
            self.step, self.curve = load_run(checkpoint, self.model, self.optimizers)
        stream = RowStream(self.train_data, self.arguments, self.steps, self.device).batches(self.step)
        report_every = max(1, self.steps // self.arguments.evaluations)
        losses: list[torch.Tensor] = []
        started = time.time()
        while self.step < self.steps:
            losses.append(self._train_step(next(stream)))
            if self.step % report_every == 0 or self.step == self.steps:
                self._report(losses, time.time() - started)
                losses.clear()
            if self.step % self.arguments.save_every == 0:
                save_run(checkpoint, self.model, self.optimizers, self.step, self.curve)
        return self._metrics(time.time() - started)

    def _train_step(self, rows: torch.Tensor) -> torch.Tensor:
        self.model.train()
        factor = learning_rate_factor(self.step, self.steps, self.arguments.warmup, self.arguments.cooldown)
        # Dropout depends on the seed and the step alone, so a resumed run repeats it.
        torch.manual_seed(self.arguments.seed * 1_000_003 + self.step)
        loss = self.loss(rows)
        loss.backward()
        for optimizer, rate in zip(self.optimizers, self.base_rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return loss.detach()

    def _report(self, losses: list[torch.Tensor], seconds: float) -> None:
        point = {
            "step": self.step,
            "tokens": self.step * self.arguments.batch * CONTEXT,
            "train_loss": float(torch.stack(losses).mean()),
            "seconds": round(seconds, 1),
            **held_out_scores(self.model, self.held_out, DTYPE),
        }
        self.curve.append(point)
        print(f"{self.arguments.out.name}: step {self.step}/{self.steps} {seconds:.0f} s "
              f"train {point['train_loss']:.4f} bits/byte {point['bits_per_byte']:.4f}", flush=True)  # fmt: skip

    def _metrics(self, seconds: float) -> dict[str, object]:
        scores = {"probe_on": held_out_scores(self.model, self.held_out, DTYPE)}
        if self.arguments.attention == "parallax":
            self.model.enable_probe(False)
            scores["probe_off"] = held_out_scores(self.model, self.held_out, DTYPE)
            self.model.enable_probe(True)
        arguments = {name: value for name, value in vars(self.arguments).items() if not isinstance(value, Path)}
        return {
            "arguments": arguments,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "train_tokens": int(len(self.train_data.tokens)),
            "seconds": round(seconds, 1),
            "held_out": scores,
            "curve": self.curve,
        }


def model_config(arguments: argparse.Namespace, vocabulary: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocabulary,
        num_layers=arguments.layers,
        num_heads=arguments.heads,
        num_kv_heads=arguments.kv_heads,
        intermediate_size=arguments.intermediate,
        attention=arguments.attention,
        dropout=arguments.dropout,
        probe_gain=arguments.probe_gain,
        zero_probe=arguments.zero_probe,
    )


def _vocabulary_size(tokenizer: Path) -> int:
    import sentencepiece

    return len(sentencepiece.SentencePieceProcessor(model_file=str(tokenizer)))


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(arguments)
    metrics = trainer.run()
    save_model(trainer.model, arguments.out)
    (arguments.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    print(arguments.out.name, json.dumps(metrics["held_out"]), flush=True)


if __name__ == "__main__":
    main()
