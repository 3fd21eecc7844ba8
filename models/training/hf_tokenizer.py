"""Writes a SentencePiece unigram model as a Hugging Face `tokenizer.json`, and checks it.

    python hf_tokenizer.py MODEL_FOLDER [TEXT_FILE...]

The check encodes every paragraph of the given files, and a list of awkward strings,
with both and fails on the first difference of ids or of decoded text.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPACE = "\u2581"  # SentencePiece's visible space
UNREACHABLE_SCORE = -1e6

AWKWARD_STRINGS = (
    "", " ", "  ", "a", " a", "a ", "  a  b  ", "\n", "\n\n", "\n\n\n", "\n\n\n\n\n", " \n \n\n ",
    "\t\r\n", "Hello.\n\nOnce", "1234567890", "caf\u00e9 \u4f60\u597d \U0001f600", "\u2581x", "\x00\x7f",
    "<0x0A>", "it's \"so\" -- he said...", "e\u0301\u00a0\u3000\ufeff", "ALL CAPS and MiXeD",
)  # fmt: skip


def convert(processor: sentencepiece.SentencePieceProcessor) -> Tokenizer:
    """The same tokenizer in Hugging Face's terms."""
    pieces = [processor.id_to_piece(i) for i in range(len(processor))]
    tokenizer = Tokenizer(_unigram(processor, pieces))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    # No piece holds a space after its first character, so words can be merged one by one.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(SPACE, behavior="merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = [processor.pad_id(), processor.bos_id(), processor.eos_id(), processor.unk_id()]
    tokenizer.add_special_tokens(
        [AddedToken(pieces[i], special=True, normalized=False) for i in sorted(special)]
    )
    bos = pieces[processor.bos_id()]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, processor.bos_id())]
    )
    return tokenizer


def _unigram(processor: sentencepiece.SentencePieceProcessor, pieces: list[str]) -> models.Unigram:
    """The learned pieces with their scores; the others can never win a segmentation.

    Control pieces and raw bytes have score 0 in SentencePiece, which does not let text
    reach them. Hugging Face's lattice would, so they get a score below any path's.
    """
    scored = [
        (piece, processor.get_score(i) if _is_learned(processor, i) else UNREACHABLE_SCORE)
        for i, piece in enumerate(pieces)
    ]
    return models.Unigram(scored, unk_id=processor.unk_id(), byte_fallback=True)


def _is_learned(processor: sentencepiece.SentencePieceProcessor, index: int) -> bool:
    return not (
        processor.is_control(index)
        or processor.is_unknown(index)
        or processor.is_byte(index)
    )


def write_hf_tokenizer(folder: Path) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` beside `tokenizer.model`."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    convert(processor).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": processor.id_to_piece(processor.bos_id()),
        "eos_token": processor.id_to_piece(processor.eos_id()),
        "pad_token": processor.id_to_piece(processor.pad_id()),
        "unk_token": processor.id_to_piece(processor.unk_id()),
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def check(folder: Path, texts: list[str]) -> int:
    """Compares both tokenizers on `texts`; returns the number of tokens compared."""
    reference = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    candidate = Tokenizer.from_file(str(folder / "tokenizer.json"))
    compared = 0
    for text in texts:
        expected = reference.encode(text)
        actual = candidate.encode(text, add_special_tokens=False).ids
        if actual != expected:
            raise AssertionError(_first_difference(reference, expected, actual))
        decoded = text.replace(SPACE, " ")  # the one character that is not kept
        if candidate.decode(actual) != decoded or reference.decode(expected) != decoded:
            raise AssertionError(f"decoding does not give back {text[:200]!r}")
        compared += len(expected)
    return compared


def _first_difference(
    processor: sentencepiece.SentencePieceProcessor, expected: list[int], actual: list[int]
) -> str:
    position = next((i for i, (a, b) in enumerate(zip(expected, actual)) if a != b), -1)
    around = slice(max(0, position - 2), position + 6)
    pieces = [[processor.id_to_piece(i) for i in ids[around]] for ids in (expected, actual)]
    return f"ids differ at token {position}: {pieces[0]} and {pieces[1]}"


def main() -> None:
    folder = Path(sys.argv[1])
    write_hf_tokenizer(folder)
    texts = list(AWKWARD_STRINGS)
    for path in sys.argv[2:]:
        texts += Path(path).read_text(encoding="utf-8").split("<|endoftext|>\n")
    print(f"{check(folder, texts)} tokens agree")


if __name__ == "__main__":
    main()
