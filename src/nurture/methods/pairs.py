"""What the methods that learn from pairs have in common: what they report, and the troubles they notice."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from ..types import Batch, Scores, Tally, tally

Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]

PAIR_METRICS = {
    "accuracy": "share of pairs in which the better answer has the higher implicit reward; 0.5 is a coin",
    "margin": "implicit reward of the better answer minus that of the worse one",
    "reward_chosen": "implicit reward of the better answers: with a reference, above 0 where they became likelier",
    "reward_rejected": "implicit reward of the worse answers: it should fall",
    "logp_chosen": "log-probability per token of the better answers, in nats; a slow fall is normal, a steep one means "
    "that the model forgets how to write them (raise beta or nll_coef, lower the learning rate)",
    "logp_rejected": "log-probability per token of the worse answers, in nats; it should fall faster",
}


def pair_stats(batch: Batch, reward: Tensor, scores: Scores) -> dict[str, Tally]:
    """Statistics under the names above; `reward` `[R]` is the method's implicit reward."""
    chosen, rejected = reward.detach()[batch.better], reward.detach()[batch.worse]
    logp, tokens = batch.sum_per_response(scores.policy.logp.detach()), batch.own_tokens
    return {
        "accuracy": tally((chosen > rejected).float()),
        "margin": tally(chosen - rejected),
        "reward_chosen": tally(chosen),
        "reward_rejected": tally(rejected),
        "logp_chosen": (logp[batch.better].sum(), int(tokens[batch.better].sum())),
        "logp_rejected": (logp[batch.worse].sum(), int(tokens[batch.worse].sum())),
    }


FALL = 0.5
"""Nats per token by which the better answers may become less likely before it is said aloud."""
STILL = 1e-5
"""A margin this small, on average over a batch, is rounding."""
PATIENCE = 8
"""Steps without any margin before that is said aloud, and steps whose mean says where the answers stood at first."""


def watch(state: Mapping[str, Any], stats: Mapping[str, float], has_reference: bool) -> dict[str, Any]:
    """Look for the two troubles that every user of these methods meets. Each is said once, in `state["remarks"]`, from
    where the run takes it into its events."""
    state = {**state, "steps": state.get("steps", 0) + 1, "remarks": dict(state.get("remarks", {}))}
    if has_reference:
        state = watch_still(state, stats, stats["margin"], "no margin is other than 0", "the policy is its reference")
    else:
        state = watch_still(state, stats, None, "nothing is learnt", "the weights are what they were")
    first, recent = list(state.get("first", [])), list(state.get("recent", []))
    if math.isfinite(stats["logp_chosen"]):  # a batch may hold no wanted answer
        first = first if len(first) == PATIENCE else [*first, stats["logp_chosen"]]
        # One batch differs from the next by more than a trend does: means of as many steps at both ends are compared.
        recent = [*recent, stats["logp_chosen"]][-PATIENCE:]
    known = state["steps"] >= 2 * PATIENCE and len(first) == PATIENCE
    fall = (sum(first) - sum(recent)) / PATIENCE if known else 0.0
    if fall > FALL and "falling" not in state["remarks"]:
        state["remarks"]["falling"] = (
            f"The better answers have become less likely, by {fall:.2f} nats per token, while the margin is "
            f"{stats['margin']:.3g}: the loss sees only the difference to the worse ones. If the answers get worse, "
            "take a larger beta, a term that holds them up (nll_coef: 1), a lower learning rate or fewer steps."
        )
    return state | {"first": first, "recent": recent}


def watch_still(
    state: Mapping[str, Any], stats: Mapping[str, float], moved: float | None, seen: str, fact: str
) -> dict[str, Any]:
    """Say so once where nothing is learnt: `moved` stays 0 (None: no number says how far the policy is from where it
    began). `seen` and `fact` say in words what that is. A gradient may also be 0 because all is learnt."""
    steps, remarks = state.get("steps", 0), dict(state.get("remarks", {}))
    stands = stats["grad_norm"] * stats["learning_rate"] == 0 if moved is None else abs(moved) < STILL
    still = state.get("still", 0) + 1 if stands else 0
    why = ""
    if stands and stats["grad_norm"] == 0:
        why = "no gradient reaches the trained weights: they are frozen or not attached"
    elif still > PATIENCE and stats["learning_rate"] == 0:
        why = f"after {steps} steps {fact} still; the learning rate is 0"
    elif still > PATIENCE:
        why = f"after {steps} steps {fact} still; the updates are too small to be seen"
    if why and "stuck" not in remarks:
        remarks["stuck"] = f"The loss stands still at its first value and {seen}: {why}."
    return {**state, "steps": steps, "still": still, "remarks": remarks}
