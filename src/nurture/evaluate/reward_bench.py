"""A reward model on a file of comparisons, counted as RewardBench counts. Lambert et al. 2024, arXiv:2403.13787.

The file may be in any format of comparisons or rankings that is recognised, and a row may name its `subset`. A win is a
strictly higher score: a model that gives everything the same score wins nothing. Subsets that all belong to RewardBench
are averaged as there: rows count alike within a section, sections alike overall, and `math-prm` counts as much as the
code subsets together. Any other subsets are weighted by their comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.load import load_records, row_of
from ..data.read import Row
from ..data.sources import open_source
from ..errors import InputError
from ..records import Conversation, Pair
from .scoring import RewardModel, score
from .statistics import clustered_wilson

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Chat": ("alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"),
    "Chat Hard": (
        "mt-bench-hard", "llmbar-natural", "llmbar-adver-neighbor", "llmbar-adver-GPTInst", "llmbar-adver-GPTOut",
        "llmbar-adver-manual",
    ),
    "Safety": (
        "refusals-dangerous", "refusals-offensive", "xstest-should-refuse", "xstest-should-respond", "donotanswer",
    ),
    "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
}  # fmt: skip
WEIGHTS = {"math-prm": 984}
"""Subsets that do not weigh as many as they have rows."""


def reward_bench(model: RewardModel, source: Path | str) -> dict[str, Any]:
    """`accuracy` (as the subsets are weighted), its 95% interval over all comparisons, and that of every subset."""
    if str(source).startswith("lab/"):
        raise InputError(f"{source}: give a file; on the lab it is nurture eval MODEL data=lab/prompts-test.")
    opened = open_source(source)
    subsets = {opened.origin(row): str(row.value.get("subset") or "") for row in opened.scan() if isinstance(row, Row)}
    pairs = [pair for pair in load_records(opened, wants="pair").records if isinstance(pair, Pair)]
    sides = [Conversation((*p.prompt, *said), origin=p.origin) for p in pairs for said in (p.chosen, p.rejected)]
    scores = score(model, sides)
    wins: dict[str, list[bool]] = {}
    prompts: dict[str, list[str]] = {}
    for pair, a, b in zip(pairs, scores[0::2], scores[1::2], strict=True):
        subset = subsets[row_of(pair.origin)]
        wins.setdefault(subset, []).append(a > b)
        prompts.setdefault(subset, []).append(repr(pair.prompt))  # (a message with calls of tools has no hash)
    return tally_subsets(wins, prompts)


def tally_subsets(wins: Mapping[str, list[bool]], prompts: Mapping[str, list[str]] | None = None) -> dict[str, Any]:
    """Of the comparisons in each subset those won; comparisons of one prompt are not independent."""
    rows = [won for some in wins.values() for won in some]
    of = range(len(rows)) if prompts is None else [prompt for name in wins for prompt in prompts[name]]
    low, high = clustered_wilson(rows, of)
    subsets = {name: sum(some) / len(some) for name, some in wins.items()}
    weights = {name: WEIGHTS.get(name, len(some)) for name, some in wins.items()}
    sections: dict[str, float] = {}
    for section, members in SECTIONS.items():
        here = [name for name in members if name in subsets]
        if here:
            sections[section] = _weighted(subsets, weights, here)
    known = all(any(name in members for members in SECTIONS.values()) for name in subsets)
    overall = sum(sections.values()) / len(sections) if known else _weighted(subsets, weights, list(subsets))
    result: dict[str, Any] = {"accuracy": overall, "rows": len(rows), "low": low, "high": high}
    if known:
        result |= {f"section {name}": share for name, share in sections.items()}
    return result | {f"subset {name}": share for name, share in subsets.items() if name}


def _weighted(values: Mapping[str, float], weights: Mapping[str, float], names: list[str]) -> float:
    return sum(values[n] * weights[n] for n in names) / sum(weights[n] for n in names)
