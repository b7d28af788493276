"""The gate before a reward model is learnt from: how often it is right, how sure, and about what it is wrong.

A policy finds every fault of its reward model. So before RL one number is not enough: accuracy with its interval, by
how far apart the two scores are; whether "70% sure" is right 70% of the time; whether it merely prefers long answers;
whether it agrees with the people who labelled, and on the lab with the truth. At the top stands go, caution or no-go,
with the reason.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations
from statistics import fmean
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
from .statistics import clustered_wilson

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
Verdict = Literal["go", "caution", "no-go"]

FEW = 100
"""Held-out prompts below which nothing can be said for sure."""
GOOD_ACCURACY, GOOD_CORRELATION, GOOD_CALIBRATION, LENGTH_BIAS = 0.65, 0.5, 0.1, 0.5
MOST_OF_A_PROMPT = 16
"""Rated answers to one prompt that are held against each other."""
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
    lengths = np.asarray([len(own) for own in batch.owned], np.float64)
    prompts = [batch.groups[i].prompt.tobytes() for i in batch.group.tolist()]
    card: dict[str, Any] = {"answers": batch.num_responses, "prompts": len(set(prompts))}
    rates = method if isinstance(method, Reward) and batch.ratings.numel() else None
    if rates:
        card["criteria"] = rating_table(rates.criteria, rates.rated(scores).double().numpy(), batch.ratings.numpy())
    better, worse = batch.better.numpy(), batch.worse.numpy()
    if rates and not batch.num_pairs:  # what is rated higher was preferred
        better, worse = rated_apart(batch, prompts, rates.combined(batch.ratings.double()).tolist())
        card |= {"pairs_from": "ratings"} if len(better) else {}
    if len(better):
        pairs = Pairs(judged[better] - judged[worse], lengths[better] - lengths[worse], [prompts[i] for i in better])
        if batch.num_pairs:  # the loss fits sigmoid(score - score) to comparisons, whatever `judge` makes of the scores
            log_odds = scores[:, 0].double().numpy()
            pairs = replace(pairs, log_odds=log_odds[better] - log_odds[worse], margin=batch.margin.double().numpy())
        card |= pair_card(pairs)
        if batch.num_pairs:
            card |= _labellers(batch, pairs)
        card["worst_mistakes"] = _mistakes(batch, better, worse, judged, template)
    if len(batch.step_labels):
        of = [prompts[i] for i in batch.scored.tolist()]
        card |= step_card(scores[:, 0].double().sigmoid().numpy(), batch.step_labels.double().numpy(), of)
    if on_the_lab and isinstance(method, Reward):

        def judge(some: Sequence[Group]) -> tuple[Floats, Floats]:
            found = score_groups(roles, method, some, tokens, device, alive)
            return method.judge(found, Batch(tuple(some))).double().numpy(), method.rated(found).double().numpy()

        card["lab"] = lab_agreement(judge, template, method.criteria)
    verdict, reason = decide(card)
    return {"verdict": verdict, "reason": reason} | card


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """`[P]` each of pairs of answers, the better one minus the worse one: what the model makes of them, their lengths
    in tokens, the prompt, and where people compared them the log-odds the loss is about and the margin they gave (0
    where they gave none)."""

    gap: Floats
    length_gap: Floats
    prompts: Sequence[Hashable]
    log_odds: Floats | None = None
    margin: Floats | None = None

    @property
    def right(self) -> NDArray[np.bool_]:
        return self.gap > 0  # a tie is no win

    def share(self, hits: NDArray[np.bool_], among: Any = slice(None)) -> dict[str, Any]:
        """Of the pairs `among` them, by places or by a mask, those that are hits."""
        return _share(hits[among], _at(self.prompts, among))


def pair_card(pairs: Pairs) -> dict[str, Any]:
    right, longer = pairs.right, pairs.length_gap > 0
    differ = pairs.length_gap != 0
    card: dict[str, Any] = {
        "pairs": len(right),
        "accuracy": pairs.share(right),
        "by_score_gap": _by_quartile(np.abs(pairs.gap), pairs),
        "length": {
            # Of all pairs in both orders: the mean of each difference is then 0.
            "correlation": _cosine(pairs.gap, pairs.length_gap),
            "longer_is_better": pairs.share(longer, differ),
            "longer_scores_higher": pairs.share(right == longer, differ & (pairs.gap != 0)),
            "accuracy_where_shorter_is_better": pairs.share(right, pairs.length_gap < 0),
        },
    }
    if pairs.log_odds is not None:
        sure = 1 / (1 + np.exp(-np.abs(pairs.log_odds)))
        card |= _calibrated(calibration(sure, pairs.log_odds > 0, pairs.prompts))
    if pairs.margin is not None and np.any(pairs.margin != 0):
        card["by_margin"] = _by_quartile(pairs.margin, pairs)
    return card


def rated_apart(batch: Batch, prompts: Sequence[bytes], values: Sequence[float]) -> tuple[Places, Places]:
    """The pairs of answers to one prompt that people rate differently on average: places of the higher ones, and of the
    lower ones. `values` are what the ratings of each come to (nan where one is missing)."""
    of: dict[bytes, dict[bytes, tuple[int, list[float]]]] = defaultdict(dict)
    for i, (prompt, response, value) in enumerate(zip(prompts, batch.responses, values, strict=True)):
        said, key = of[prompt], response.ids.tobytes()
        if not math.isnan(value) and (key in said or len(said) < MOST_OF_A_PROMPT):
            said.setdefault(key, (i, []))[1].append(value)
    means = [[(i, fmean(some)) for i, some in said.values()] for said in of.values()]
    pairs = [(i, j) for some in means for (i, a), (j, b) in permutations(some, 2) if a > b]
    places = np.asarray(pairs, np.int64).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def _labellers(batch: Batch, pairs: Pairs) -> dict[str, Any]:
    """How often the model prefers what each labeller preferred, where labellers are named."""
    names = np.asarray([batch.groups[g].labeller for g in batch.group[batch.better].tolist()])
    told = {str(n): pairs.share(pairs.right, names == n) for n in np.unique(names) if n}
    return {"labellers": told} if told else {}


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
            "by_guess": _by_fifth(guess, truth),
        }
    return table


def step_card(right: Floats, labels: Floats, prompts: Sequence[Hashable]) -> dict[str, Any]:
    """`[M]` probabilities that a step is right, the labels, and the prompt each step is of."""
    hits = (right > 0.5) == (labels > 0.5)
    wrong = labels <= 0.5
    return {
        "steps": len(right),
        "step_accuracy": _share(hits, prompts),
        "accuracy_on_wrong_steps": _share(hits[wrong], _at(prompts, wrong)),
        "accuracy_on_right_steps": _share(hits[~wrong], _at(prompts, ~wrong)),
        "always_the_commoner": float(max(wrong.mean(), 1 - wrong.mean())),
        **_calibrated(calibration(np.maximum(right, 1 - right), hits, prompts)),
    }


def decide(card: dict[str, Any]) -> tuple[Verdict, str]:
    """Whether to go on to RL with this model, and why."""
    if "accuracy" in card and card.get("pairs_from") != "ratings":
        share, what = card["accuracy"], "comparisons"
        baseline = max(0.5, card["length"]["longer_is_better"]["share"] or 0.5)
        rule = "always choosing the longer answer" if baseline > 0.5 else "a coin"
    elif "step_accuracy" in card:
        share, what = card["step_accuracy"], "steps"
        baseline, rule = card["always_the_commoner"], "always giving the commoner label"
    elif "criteria" in card:
        return _decide_ratings(card)
    else:
        return "no-go", "of all that was held out nobody preferred one answer to another, so nothing is known."
    told = f"{share['share']:.1%} of {share['n']} held-out {what} ({share['low']:.1%} to {share['high']:.1%})"
    if share["low"] <= baseline:
        return "no-go", f"right on {told}, which is not surely more than {rule} ({baseline:.1%})."
    doubts = _doubts(card)
    if share["share"] < GOOD_ACCURACY:
        doubts.append(f"an accuracy below {GOOD_ACCURACY:.0%} leaves a policy much to exploit")
    if card["calibration_error"] > GOOD_CALIBRATION:
        doubts.append(f"its certainty is off by {card['calibration_error']:.2f} on average")
    if doubts:
        return "caution", f"right on {told}, but {'; '.join(doubts)}."
    return "go", f"right on {told}, calibrated to {card['calibration_error']:.2f}."


def _doubts(card: dict[str, Any]) -> list[str]:
    """What is to be said against any reward model, whatever it was asked."""
    doubts: list[str] = []
    if card["prompts"] < FEW:
        doubts.append(f"only {card['prompts']} prompts were held out")
    if abs(card.get("length", {}).get("correlation") or 0) > LENGTH_BIAS:
        doubts.append(f"its scores follow length (correlation {card['length']['correlation']:+.2f})")
    return doubts


def _decide_ratings(card: dict[str, Any]) -> tuple[Verdict, str]:
    table = card["criteria"]
    told = ", ".join(f"{c} {row['correlation']:.2f}" if row["correlation"] is not None else f"{c} constant"
                     for c, row in table.items())  # fmt: skip
    if any((row["rms_error"] or 0) >= (row["rms_of_the_mean"] or 0) > 0 for row in table.values()):
        return "no-go", f"a criterion is rated no better than by always saying the mean (correlations: {told})."
    doubts = _doubts(card)
    if min((row["correlation"] or 0.0) for row in table.values()) < GOOD_CORRELATION:
        doubts.append(f"a correlation below {GOOD_CORRELATION} leaves a policy much to exploit")
    number = min(row["ratings"] for row in table.values())
    if number < FEW <= card["prompts"]:
        doubts.append(f"only {number} ratings of a criterion were held out")
    if doubts:
        return "caution", f"{number} held-out ratings, correlations: {told}, but {'; '.join(doubts)}."
    return "go", f"{number} held-out ratings, correlations: {told}."


# --- statistics -------------------------------------------------------------------------------------------------------


def _at(values: Sequence[Hashable], among: Any) -> list[Hashable]:
    return [values[i] for i in np.arange(len(values))[among].tolist()]


def _share(hits: NDArray[np.bool_], prompts: Sequence[Hashable]) -> dict[str, Any]:
    """Its interval takes what was said of one prompt together: four comparisons of it are not four of four prompts."""
    if not len(hits):
        return {"share": None, "low": None, "high": None, "n": 0}
    low, high = clustered_wilson(hits.tolist(), prompts)
    return {"share": float(hits.mean()), "low": low, "high": high, "n": len(hits)}


def calibration(sure: Floats, right: NDArray[np.bool_], prompts: Sequence[Hashable]) -> list[dict[str, Any]]:
    """For each bin of certainty, how sure the model was and how often it was right."""
    bins: list[dict[str, Any]] = []
    for low, high in pairwise(BINS):
        inside = (sure >= low) & ((sure < high) | (high == 1.0))
        if inside.any():
            bins.append({"sure": float(sure[inside].mean()), **_share(right[inside], _at(prompts, inside))})
    return bins


def calibration_error(bins: Sequence[dict[str, Any]]) -> float:
    """Expected calibration error: |how sure - how often right|, averaged over all answers."""
    return sum(b["n"] * abs(b["sure"] - b["share"]) for b in bins) / sum(b["n"] for b in bins)


def _calibrated(bins: list[dict[str, Any]]) -> dict[str, Any]:
    return {"calibration": bins, "calibration_error": calibration_error(bins)}


def _by_fifth(guess: Floats, truth: Floats) -> list[dict[str, Any]]:
    """From the lowest fifth of the guesses to the highest: what was guessed, and what people said, on average."""
    parts = np.array_split(np.argsort(guess, kind="stable"), 5)
    return [{"guess": float(guess[p].mean()), "truth": float(truth[p].mean()), "n": len(p)} for p in parts if len(p)]


def _by_quartile(values: Floats, pairs: Pairs) -> list[dict[str, Any]]:
    """Accuracy from the smallest quarter of the values to the largest."""
    parts = np.array_split(np.argsort(values, kind="stable"), 4)
    return [
        {"from": float(values[part[0]]), "to": float(values[part[-1]]), **pairs.share(pairs.right, part)}
        for part in parts
        if len(part)
    ]


def _cosine(a: Floats, b: Floats) -> float | None:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else None


def _mistakes(batch: Batch, better: Places, worse: Places, judged: Floats, template: Template) -> list[dict[str, Any]]:
    """The pairs it is most sure and most wrong about."""
    tokenizer = template.tokenizer
    texts: list[tuple[str, str, str]] = []
    for g in batch.groups:
        prompt = str(tokenizer.decode(g.prompt.tolist()))
        texts += [(g.key, prompt, str(tokenizer.decode(r.ids.tolist(), skip_special_tokens=True))) for r in g.responses]
    pairs = list(zip(better.tolist(), worse.tolist(), strict=True))
    pairs.sort(key=lambda pair: judged[pair[0]] - judged[pair[1]])
    return [
        {
            "key": texts[b][0], "prompt": texts[b][1], "better": texts[b][2], "worse": texts[w][2],
            "score_better": float(judged[b]), "score_worse": float(judged[w]),
        }
        for b, w in pairs[:WORST]
        if judged[b] <= judged[w]
    ]  # fmt: skip
