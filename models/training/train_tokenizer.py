"""Trains the SentencePiece tokenizer on a sample of the training documents.

    python train_tokenizer.py --corpus CORPUS --out FOLDER [--kind unigram] [--vocab 6144]

Decisions, all of which make `decode(encode(text)) == text` for any UTF-8 text:
identity normalisation, no dummy prefix, no whitespace trimming, byte fallback.
A line break is a piece of its own, so the first word of a paragraph and the first word
of a document are the same piece.

The learned scores are rounded to multiples of 1/128. SentencePiece adds them up along
the whole text in single precision; unrounded, the segmentation of a word depends on the
text before it, and no other implementation can agree with it id for id. Rounded, every
sum is exact for texts of up to some 18,000 tokens.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

import corpus as corpus_reader
from hf_tokenizer import write_hf_tokenizer

PAD_ID, BOS_ID, EOS_ID, UNK_ID = 0, 1, 2, 3
LINE_BREAK, LINE_BREAK_SCORE = "\n", -4.0
SCORE_STEP = 1 / 128
ASCII = "".join(map(chr, range(33, 127)))  # pieces of their own however rare
SAMPLED_SHARE = {1: 1.0, 2: 0.35, 3: 0.15, 4: 0.2}  # share of each tier's documents
SEED = 0


def write_sample(documents: list[corpus_reader.Document], path: Path) -> None:
    """Writes a seeded sample, one line of a paragraph per line."""
    chooser = random.Random(SEED)
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            if chooser.random() < SAMPLED_SHARE[document.tier]:
                file.writelines(line + "\n" for line in document.text.split("\n") if line)


def train(sample: Path, out: Path, kind: str, vocab: int) -> None:
    """Trains one model; writes `tokenizer.model`."""
    sentencepiece.SentencePieceTrainer.train(
        input=str(sample),
        model_prefix=str(out / "tokenizer"),
        model_type=kind,
        vocab_size=vocab,
        byte_fallback=True,
        character_coverage=0.99995,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_digits=True,
        required_chars=ASCII,
        user_defined_symbols=[LINE_BREAK],
        pad_id=PAD_ID,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        max_sentence_length=8192,
        num_threads=2,
        minloglevel=1,
    )
    (out / "tokenizer.vocab").unlink()


def make_scores_exact(path: Path) -> None:
    """Rounds a unigram model's scores and makes the line break an ordinary piece."""
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(path.read_bytes())
    for piece in model.pieces:
        if piece.piece == LINE_BREAK:
            piece.type, piece.score = piece.NORMAL, LINE_BREAK_SCORE
        piece.score = round(piece.score / SCORE_STEP) * SCORE_STEP
    path.write_bytes(model.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kind", choices=("unigram", "bpe"), default="unigram")
    parser.add_argument("--vocab", type=int, default=6144)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.txt"
        write_sample(corpus_reader.read_split(arguments.corpus, "train"), sample)
        train(sample, arguments.out, arguments.kind, arguments.vocab)
    if arguments.kind == "unigram":
        make_scores_exact(arguments.out / "tokenizer.model")
        write_hf_tokenizer(arguments.out)


if __name__ == "__main__":
    main()
