"""A reward model on a file of comparisons, counted as RewardBench counts. Lambert et al. 2024, arXiv:2403.13787.

A row has `prompt`, `chosen` and `rejected` (text, or lists of messages) and may name its `subset`. A win is a strictly
higher score: a model that gives everything the same score wins nothing. Subsets that all belong to RewardBench are
averaged as there: rows count alike within a section, sections alike overall, and `math-prm` counts as much as the code
subsets together. Any other subsets are weighted by their rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.read import read_rows
from ..errors import DataError, InputError
from ..records import ROLES, Conversation, Message
from .scoring import RewardModel, score
from .statistics import wilson

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


@dataclass(frozen=True, slots=True)
class _Pair:
    chosen: Conversation
    rejected: Conversation
    subset: str


def reward_bench(model: RewardModel, path: Path | str) -> dict[str, Any]:
    """`accuracy` (as the subsets are weighted), its 95% interval over all rows, and the accuracy of every subset."""
    pairs = [_pair(row.value, row.origin) for row in read_rows(path)]
    if not pairs:
        raise InputError(f"{path} has no row.")
    chosen, rejected = score(model, [p.chosen for p in pairs]), score(model, [p.rejected for p in pairs])
    wins: dict[str, list[bool]] = {}
    for pair, a, b in zip(pairs, chosen, rejected, strict=True):
        wins.setdefault(pair.subset, []).append(a > b)
    return tally_subsets(wins)


def tally_subsets(wins: Mapping[str, list[bool]]) -> dict[str, Any]:
    rows = [won for some in wins.values() for won in some]
    low, high = wilson(sum(rows), len(rows))
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


def _pair(row: Mapping[str, Any], origin: str) -> _Pair:
    if missing := [key for key in ("prompt", "chosen", "rejected") if key not in row]:
        raise DataError(origin, "MISSING", f"has no {missing[0]!r}; a comparison has prompt, chosen and rejected.")
    prompt = _messages(row["prompt"], "user", origin, "prompt")
    sides = [_messages(row[key], "assistant", origin, key) for key in ("chosen", "rejected")]
    if sides[0] == sides[1]:
        raise DataError(origin, "EQUAL", "the chosen and the rejected answer are the same.")
    # Some files repeat the prompt at the beginning of both answers.
    chosen, rejected = (side[len(prompt) :] if side[: len(prompt)] == prompt else side for side in sides)
    both = (Conversation((*prompt, *answer), origin=origin) for answer in (chosen, rejected))
    return _Pair(*both, subset=str(row.get("subset", "")))


def _messages(value: Any, role: str, origin: str, key: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message(role, value),)
    if isinstance(value, list) and value and all(isinstance(m, dict) for m in value):
        turns = [(m.get("role"), m.get("content")) for m in value]
        if all(r in ROLES and isinstance(c, str) for r, c in turns):
            return tuple(Message(str(r), str(c)) for r, c in turns)
    raise DataError(origin, "WRONG_TYPE", f"{key!r} must be a text or a list of messages with role and content.")
