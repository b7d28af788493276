"""The gate before a reward model is learnt from: how often it is right, how sure, and about what it is wrong.

A policy finds every fault of its reward model. So before RL one number is not enough: accuracy with its interval, by
how far apart the two scores are; whether "70% sure" is right 70% of the time; whether it merely prefers long answers;
whether it agrees with the people who labelled, and on the lab with the truth. At the top stands go, caution or no-go,
with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.template import Template
from ..methods import Method, Reward
from ..protocols import Roles
from ..types import Batch, Group
from .lab_judges import lab_agreement
from .scoring import score_groups
from .statistics import wilson

Floats = NDArray[np.float64]
Verdict = Literal["go", "caution", "no-go"]

FEW = 100
"""Held-out comparisons below which nothing can be said for sure."""
GOOD_ACCURACY, GOOD_CALIBRATION, LENGTH_BIAS = 0.65, 0.1, 0.5
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WORST = 5


def reward_card(
    roles: Roles,
    method: Method,
    groups: Sequence[Group],
    template: Template,
    *,
    tokens: int,
    device: torch.device,
    on_the_lab: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The card of a reward model on held-out groups, as JSON."""
    if not groups:
        return {"verdict": "no-go", "reason": "nothing was held out, so nothing is known; set eval.share or eval.data."}
    batch = Batch(tuple(groups))
    scores = score_groups(roles, method, groups, tokens, device, alive)
    judged = method.judge(scores, batch).double().numpy()
    card: dict[str, Any] = {"answers": batch.num_responses}
    if batch.num_pairs:
        better, worse = batch.better.numpy(), batch.worse.numpy()
        lengths = np.asarray([len(own) for own in batch.owned], np.float64)
        card |= pair_card(judged[better], judged[worse], lengths[better], lengths[worse], batch.margin.double().numpy())
        card |= _labellers(batch, judged)
        card["worst_mistakes"] = _mistakes(batch, judged, template)
    if isinstance(method, Reward) and batch.ratings.numel():
        card["criteria"] = rating_table(method.criteria, method.rated(scores).double().numpy(), batch.ratings.numpy())
    if len(batch.step_labels):
        card |= step_card(scores[:, 0].double().sigmoid().numpy(), batch.step_labels.double().numpy())
    if on_the_lab and isinstance(method, Reward):

        def judge(some: Sequence[Group]) -> tuple[Floats, Floats]:
            found = score_groups(roles, method, some, tokens, device, alive)
            return method.judge(found, Batch(tuple(some))).double().numpy(), method.rated(found).double().numpy()

        card["lab"] = lab_agreement(judge, template, method.criteria)
    verdict, reason = decide(card)
    return {"verdict": verdict, "reason": reason} | card


def pair_card(
    better: Floats, worse: Floats, length_better: Floats, length_worse: Floats, margins: Floats
) -> dict[str, Any]:
    """What scores of pairs say: `better` and `worse` `[P]` scores, then the lengths of the same answers in tokens, then
    the margins people gave (0 where they gave none)."""
    gap = better - worse
    right = gap > 0  # a tie is no win
    sure = 1 / (1 + np.exp(-np.abs(gap)))
    length_gap = length_better - length_worse
    differ = length_gap != 0
    card: dict[str, Any] = {
        "pairs": len(gap),
        "accuracy": _share(right),
        "by_score_gap": _by_quartile(np.abs(gap), right),
        "calibration": calibration(sure, right),
        "calibration_error": calibration_error(sure, right),
        "length": {
            # Of all pairs in both orders: the mean of each difference is then 0.
            "correlation": _cosine(gap, length_gap),
            "longer_is_better": _share(length_gap[differ] > 0),
            "longer_scores_higher": _share(((gap > 0) == (length_gap > 0))[differ]),
            "accuracy_where_shorter_is_better": _share(right[length_gap < 0]),
        },
    }
    if np.any(margins != 0):
        card["by_margin"] = _by_quartile(margins, right)
    return card


def _labellers(batch: Batch, judged: Floats) -> dict[str, Any]:
    """How often the model prefers what each labeller preferred, where labellers are named."""
    names = np.asarray([batch.groups[g].labeller for g in batch.group[batch.better].tolist()])
    right = judged[batch.better.numpy()] > judged[batch.worse.numpy()]
    return {"labellers": {str(n): _share(right[names == n]) for n in np.unique(names) if n}} if any(names) else {}


def rating_table(criteria: Sequence[str], said: Floats, ratings: NDArray[np.float32]) -> dict[str, Any]:
    """Each criterion's error beside that of always saying the mean, and the correlation."""
    table: dict[str, Any] = {}
    for i, criterion in enumerate(criteria):
        known = ~np.isnan(ratings[:, i])
        truth, guess = ratings[known, i].astype(np.float64), said[known, i]
        spread = truth.std()
        varies = bool(len(truth) and spread > 0 and guess.std() > 0)
        table[criterion] = {
            "ratings": len(truth),
            "rms_error": float(np.sqrt(np.mean((guess - truth) ** 2))) if len(truth) else None,
            "rms_of_the_mean": float(spread) if len(truth) else None,
            "correlation": float(np.corrcoef(guess, truth)[0, 1]) if varies else None,
        }
    return table


def step_card(right: Floats, labels: Floats) -> dict[str, Any]:
    """`[M]` probabilities that a step is right, and the labels."""
    hits = (right > 0.5) == (labels > 0.5)
    wrong = labels <= 0.5
    return {
        "steps": len(right),
        "step_accuracy": _share(hits),
        "accuracy_on_wrong_steps": _share(hits[wrong]),
        "accuracy_on_right_steps": _share(hits[~wrong]),
        "always_the_commoner": float(max(wrong.mean(), 1 - wrong.mean())),
        "calibration": calibration(np.maximum(right, 1 - right), hits),
        "calibration_error": calibration_error(np.maximum(right, 1 - right), hits),
    }


def decide(card: dict[str, Any]) -> tuple[Verdict, str]:
    """Whether to go on to RL with this model, and why."""
    if "accuracy" in card:
        share, number, what = card["accuracy"], card["pairs"], "comparisons"
        baseline = max(0.5, card["length"]["longer_is_better"]["share"] or 0.5)
        rule = "always choosing the longer answer" if baseline > 0.5 else "a coin"
    elif "step_accuracy" in card:
        share, number, what = card["step_accuracy"], card["steps"], "steps"
        baseline, rule = card["always_the_commoner"], "always giving the commoner label"
    elif "criteria" in card:
        return _decide_ratings(card["criteria"])
    else:
        return "no-go", "of all that was held out nobody preferred one answer to another, so nothing is known."
    told = f"{share['share']:.1%} of {number} held-out {what} ({share['low']:.1%} to {share['high']:.1%})"
    if share["low"] <= baseline:
        return "no-go", f"right on {told}, which is not surely more than {rule} ({baseline:.1%})."
    doubts: list[str] = []
    if number < FEW:
        doubts.append(f"only {number} {what} were held out")
    if share["share"] < GOOD_ACCURACY:
        doubts.append(f"an accuracy below {GOOD_ACCURACY:.0%} leaves a policy much to exploit")
    if card["calibration_error"] > GOOD_CALIBRATION:
        doubts.append(f"its certainty is off by {card['calibration_error']:.2f} on average")
    if abs(card.get("length", {}).get("correlation") or 0) > LENGTH_BIAS:
        doubts.append(f"its scores follow length (correlation {card['length']['correlation']:+.2f})")
    if doubts:
        return "caution", f"right on {told}, but {'; '.join(doubts)}."
    return "go", f"right on {told}, calibrated to {card['calibration_error']:.2f}."


def _decide_ratings(table: dict[str, Any]) -> tuple[Verdict, str]:
    told = ", ".join(f"{c} {row['correlation']:.2f}" if row["correlation"] is not None else f"{c} constant"
                     for c, row in table.items())  # fmt: skip
    worst = min((row["correlation"] or 0.0) for row in table.values())
    number = min(row["ratings"] for row in table.values())
    if any((row["rms_error"] or 0) >= (row["rms_of_the_mean"] or 0) > 0 for row in table.values()):
        return "no-go", f"a criterion is rated no better than by always saying the mean (correlations: {told})."
    if number < FEW or worst < 0.5:
        return "caution", f"{number} held-out ratings, correlations: {told}; below 0.5 a policy has much to exploit."
    return "go", f"{number} held-out ratings, correlations: {told}."


# --- statistics -------------------------------------------------------------------------------------------------------


def _share(hits: NDArray[np.bool_]) -> dict[str, Any]:
    if not len(hits):
        return {"share": None, "low": None, "high": None, "n": 0}
    low, high = wilson(int(hits.sum()), len(hits))
    return {"share": float(hits.mean()), "low": low, "high": high, "n": len(hits)}


def calibration(sure: Floats, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """For each bin of certainty, how sure the model was and how often it was right."""
    bins: list[dict[str, Any]] = []
    for low, high in pairwise(BINS):
        inside = (sure >= low) & ((sure < high) | (high == 1.0))
        if inside.any():
            bins.append({"sure": float(sure[inside].mean()), **_share(right[inside])})
    return bins


def calibration_error(sure: Floats, right: NDArray[np.bool_]) -> float:
    """Expected calibration error: |how sure - how often right|, averaged over all answers."""
    return float(sum(b["n"] * abs(b["sure"] - b["share"]) for b in calibration(sure, right)) / len(sure))


def _by_quartile(values: Floats, right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Accuracy from the smallest quarter of the values to the largest."""
    order = np.argsort(values, kind="stable")
    return [
        {"from": float(values[part[0]]), "to": float(values[part[-1]]), **_share(right[part])}
        for part in np.array_split(order, 4)
        if len(part)
    ]


def _cosine(a: Floats, b: Floats) -> float | None:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else None


def _mistakes(batch: Batch, judged: Floats, template: Template) -> list[dict[str, Any]]:
    """The pairs it is most sure and most wrong about."""
    tokenizer = template.tokenizer
    texts: list[tuple[str, str, str]] = []
    for g in batch.groups:
        prompt = str(tokenizer.decode(g.prompt.tolist()))
        texts += [(g.key, prompt, str(tokenizer.decode(r.ids.tolist(), skip_special_tokens=True))) for r in g.responses]
    pairs = list(zip(batch.better.tolist(), batch.worse.tolist(), strict=True))
    pairs.sort(key=lambda pair: judged[pair[0]] - judged[pair[1]])
    return [
        {
            "key": texts[b][0], "prompt": texts[b][1], "better": texts[b][2], "worse": texts[w][2],
            "score_better": float(judged[b]), "score_worse": float(judged[w]),
        }
        for b, w in pairs[:WORST]
        if judged[b] <= judged[w]
    ]  # fmt: skip
