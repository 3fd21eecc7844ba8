"""Writes the test data that hold a server to the training framework's numbers.

    python reference_numbers.py --model MODEL_FOLDER --corpus CORPUS

`MODEL_FOLDER/testdata/` receives
  heldout.txt   some 50 KB of public-domain held-out chapters, ending with <|endoftext|>
  heldout.json  for each document: number of scored ids and their negative log-likelihood
  golden.json   greedy continuations whose top two logits are apart at every step

Everything is computed from the stored bfloat16 weights in float32 arithmetic on the CPU.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import sentencepiece
import torch

import corpus as corpus_reader
from checkpoint import BOS_ID, EOS_ID, load_model
from generate import CachedDecoder
from model import StoryModel

CONTEXT = 1024
SIZE_LIMIT = 50_000  # bytes of heldout.txt
FREE_TIERS = (2, 3, 4)  # public domain; tier 1 needs attribution
MINIMUM_GAP = 0.05
GOLDEN_TOKENS, GOLDEN_MINIMUM, GOLDEN_PROMPTS = 96, 64, 10

CANDIDATE_PROMPTS = (
    "Once upon a time",
    "Once upon a time there was a little girl",
    "There was once a king who had three sons",
    "One day a fox met a crow",
    "The old woman lived in a little house",
    "A poor woodcutter lived with his wife",
    "The little dog ran into the garden",
    "In a village near the sea there lived",
    "The mouse said to the lion,",
    "It was a cold winter night",
    "Long ago, in a far country,",
    "The bear came out of the forest",
    "The children went down to the river",
    "My grandmother told me a story",
    "The sun was shining when Tom",
    "\"Where are you going?\" asked the",
    "The rabbit hopped out of the",
    "The prince got on his horse and",
    "Mother put the bread on the table",
    "The boat sailed away over the",
    "A little bird sat on a tree",
    "The giant was very angry, and",
    "Every morning the boy went to school",
    "The queen looked into the mirror",
    "When the wolf heard this, he",
    "The wind blew and the snow fell",
    "The cat sat by the fire",
    "The farmer had a horse and a cow",
    "Two brothers set out to seek their fortune",
    "The elephant was the biggest animal",
)  # fmt: skip


def choose_documents(corpus: Path) -> list[corpus_reader.Document]:
    """Held-out chapters of the free tiers, in turn and in file order, up to SIZE_LIMIT."""
    documents = corpus_reader.read_split(corpus, "heldout")
    queues = [[d for d in documents if d.tier == tier and len(d.text) < 9000] for tier in FREE_TIERS]
    chosen, size = [], 0
    while any(queues):
        for queue in queues:
            if queue:
                document = queue.pop(0)
                length = len(document.text.encode()) + len(corpus_reader.DOCUMENT_END) + 1
                if size + length <= SIZE_LIMIT:
                    chosen.append(document)
                    size += length
    return chosen


@torch.no_grad()
def document_nll(model: StoryModel, ids: list[int]) -> float:
    """Sum over ids[1:] of the negative natural log-likelihood given all ids before."""
    tokens = torch.tensor(ids)[None]
    return float(model.loss(tokens, torch.float32, reduction="sum"))


def score_documents(
    model: StoryModel, processor: sentencepiece.SentencePieceProcessor, documents: list[corpus_reader.Document]
) -> dict[str, object]:
    rows = []
    for document in documents:
        ids = [BOS_ID, *processor.encode(document.text)][:CONTEXT]
        rows.append(
            {
                "author": document.author,
                "title": document.title,
                "chapter": document.chapter.strip(),
                "source": document.source,
                "ids": len(ids),
                "scored": len(ids) - 1,
                "nll": document_nll(model, ids),
            }
        )
    nll, scored = sum(row["nll"] for row in rows), sum(row["scored"] for row in rows)
    return {
        "method": (
            "heldout.txt split at '<|endoftext|>\\n', one line break taken from each document's end; ids = "
            "[<s>] + encode(document), no </s>, the first 1024; nll = -sum of natural log-probabilities of "
            "ids[1:], each given all ids before it; bfloat16 weights, float32 arithmetic"
        ),
        "scored": scored,
        "nll": nll,
        "perplexity": math.exp(nll / scored),
        "documents": rows,
    }


def greedy_with_gap(model: StoryModel, prompt_ids: list[int]) -> tuple[list[int], float]:
    """Greedy ids up to </s>, a close call or GOLDEN_TOKENS; and the smallest gap met."""
    decoder, output, smallest = CachedDecoder(model), [], math.inf
    for token in prompt_ids:
        logits = decoder.feed(token)
    while len(output) < GOLDEN_TOKENS:
        (first, second), (token, _) = (x.tolist() for x in logits.topk(2))
        if first - second < MINIMUM_GAP or token == EOS_ID:
            break
        smallest = min(smallest, first - second)
        output.append(token)
        logits = decoder.feed(token)
    return output, smallest


def paragraph_openings(documents: list[corpus_reader.Document], words: int = 10) -> list[str]:
    """The first words of every paragraph that is long enough to be cut there."""
    paragraphs = (p.split(" ") for document in documents for p in document.paragraphs)
    return [" ".join(p[:words]) for p in paragraphs if len(p) > 2 * words]


def golden_continuations(
    model: StoryModel, processor: sentencepiece.SentencePieceProcessor, prompts: list[str]
) -> list[dict[str, object]]:
    """The first prompts whose continuations stay decided for GOLDEN_MINIMUM ids."""
    found = []
    for prompt in prompts:
        ids = [BOS_ID, *processor.encode(prompt)]
        output, gap = greedy_with_gap(model, ids)
        if len(output) >= GOLDEN_MINIMUM:
            found.append(
                {
                    "prompt": prompt,
                    "prompt_ids": ids,
                    "output_ids": output,
                    "text": processor.decode(output),
                    "smallest_gap": gap,
                }
            )
        if len(found) == GOLDEN_PROMPTS:
            break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out = arguments.model / "testdata"
    out.mkdir(exist_ok=True)
    model = load_model(arguments.model)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(arguments.model / "tokenizer.model"))
    documents = choose_documents(arguments.corpus)
    (out / "heldout.txt").write_text("".join(d.text + "\n" + corpus_reader.DOCUMENT_END for d in documents))
    scores = score_documents(model, processor, documents)
    (out / "heldout.json").write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    golden = {
        "method": (
            "prompt_ids start with <s>; output_ids are the arg max of float32 logits at every step, from bfloat16 "
            f"weights; the first and second logits differ by at least {MINIMUM_GAP} at every step"
        ),
        "continuations": golden_continuations(
            model, processor, [*CANDIDATE_PROMPTS, *paragraph_openings(documents)]
        ),
    }
    (out / "golden.json").write_text(json.dumps(golden, indent=1, ensure_ascii=False) + "\n")
    print(len(documents), "documents, perplexity", scores["perplexity"])
    print([len(row["output_ids"]) for row in golden["continuations"]])


if __name__ == "__main__":
    main()
