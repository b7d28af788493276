"""Near-duplicates at ROUGE-L 0.7 over 50,000 instructions, against `rouge-score` in a plain loop over all pairs.

The instructions are those of GSM8K, Self-Instruct's seeds and the chats in `../shared/data`, and of the lab up to the
number asked for. Times are CPU seconds of one process. The loop takes hours for all, so it runs over a part, and both
must find the same pairs there.

    python -m benchmarks.duplicates                      the table
    python -m benchmarks.duplicates --number 10000       fewer instructions
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

from nurture.core.random import numpy_generator
from nurture.data.quality.duplicates import near_duplicates, similar_pairs
from nurture.data.quality.view import instruction_of
from nurture.data.quality.words import words
from nurture.lab.datasets import open_dataset

from . import measure

SHARED = Path("../shared/data")
THRESHOLD = 0.7


def real() -> Iterator[str]:
    for name, key in (("gsm8k_train.jsonl", "question"), ("self_instruct_seed_tasks.jsonl", "instruction")):
        if (SHARED / name).exists():
            with (SHARED / name).open(encoding="utf-8") as file:
                yield from (json.loads(line)[key] for line in file)
    if (SHARED / "sharegpt_dummy.json").exists():
        for row in json.loads((SHARED / "sharegpt_dummy.json").read_text(encoding="utf-8")):
            yield from (turn["value"] for turn in row["conversations"] if turn["from"] == "human")


def instructions(number: int) -> list[str]:
    """Shuffled, so that a part is like the whole; each text once."""
    texts = dict.fromkeys(real())
    lab = open_dataset("lab/demonstrations", n=4 * number)
    rows = iter(lab)
    while len(texts) < number:
        texts[instruction_of(next(rows))] = None
    chosen = list(texts)[:number]
    return [chosen[i] for i in numpy_generator(0, "benchmark").permutation(number)]


def plain_loop(texts: list[str]) -> set[tuple[int, int]]:
    from rouge_score.rouge_scorer import RougeScorer

    # With our words: its own tokenizer cuts a name like Méni in two, and keeps nothing of a Chinese sentence.
    scorer = RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=words))
    pairs = combinations(enumerate(texts), 2)
    # Floating point puts a score of exactly 0.7 on either side of 0.7.
    return {(i, j) for (i, a), (j, b) in pairs if scorer.score(a, b)["rougeL"].fmeasure > THRESHOLD - 1e-9}


def table(number: int, part: int) -> None:
    texts = instructions(number)
    started = time.process_time()
    pairs = similar_pairs(texts, THRESHOLD)
    seconds = time.process_time() - started
    print(f"all pairs of {number:,} instructions: {seconds:.1f} CPU s, {len(pairs):,} pairs alike")
    started = time.process_time()
    removed = near_duplicates(texts, THRESHOLD)
    greedy = time.process_time() - started
    print(f"removing near-duplicates from them: {greedy:.1f} CPU s, {len(removed):,} removed")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak memory {peak / 1e9:.2f} GB")

    some = texts[:part]
    started = time.process_time()
    want = plain_loop(some)
    loop = time.process_time() - started
    started = time.process_time()
    got = similar_pairs(some, THRESHOLD)
    ours = time.process_time() - started
    same = want == set(zip(got.left.tolist(), got.right.tolist(), strict=True))
    print(f"rouge-score in a loop over {part:,} of them: {loop:.1f} CPU s, {len(want):,} pairs; ours {ours:.3f} CPU s, "
          f"{'the same pairs' if same else 'OTHER PAIRS'}")  # fmt: skip
    whole = loop * (number * (number - 1)) / (part * (part - 1))
    print(f"the loop over all pairs would take {whole / 3600:,.1f} CPU hours: {whole / seconds:,.0f} times as long")
    measure.write("duplicates", {
        "ours": {"cpu_seconds": seconds, "pairs": len(pairs), "peak_bytes": peak, "removing_cpu_seconds": greedy},
        "peer": {"cpu_seconds_of_part": loop, "part": part, "cpu_seconds_of_all_extrapolated": whole},
        "same_pairs": same, "ratio": whole / seconds,
    })  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=50_000)
    parser.add_argument("--part", type=int, default=300)
    a = parser.parse_args()
    table(a.number, a.part)


if __name__ == "__main__":
    main()
