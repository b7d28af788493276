"""Rewards made of rewards: weighted sums, products, gates.

A combination is scored where all of its parts are: one part that failed makes it `Failed`, else one that cannot judge
makes it `Unscorable`. The parts' own outcomes stay with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean as mean
from statistics import pstdev
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, WrapValidator, model_validator
from pydantic_core.core_schema import ValidatorFunctionWrapHandler

from ..errors import InputError, did_you_mean
from ..protocols import Answer, Failed, Outcome, Scored, Unscorable
from .contract import outcomes_of
from .reward import Reward


def _part(value: Any, _: ValidatorFunctionWrapHandler) -> Reward:
    from .registry import reward_from

    try:
        return reward_from(value)
    except InputError as error:
        raise ValueError(str(error)) from None


AnyReward = Annotated[SerializeAsAny[Reward], WrapValidator(_part, json_schema_input_type=str | dict[str, Any])]
"""A field that holds any reward: written as a name, or as a name with its fields."""

Parts = Annotated[dict[str, AnyReward], Field(min_length=1)]


class Sum(Reward):
    """The weighted sum of several rewards."""

    name: Literal["sum"] = "sum"  # pyright: ignore[reportIncompatibleVariableOverride]
    of: Parts
    """The rewards, each under a name of your choice: `{accuracy: number, form: {name: format}}`."""
    weights: Annotated[dict[str, Annotated[float, Field(allow_inf_nan=False)]], Field(default_factory=dict)]
    """What each counts; 1 where nothing is said."""

    @model_validator(mode="after")
    def _known(self) -> Sum:
        for name in self.weights:
            if name not in self.of:
                raise ValueError(f"weights: there is no part {name!r}.{did_you_mean(name, self.of)}")
        return self

    def inner(self) -> Iterator[Reward]:
        return iter(self.of.values())

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        weights = {name: self.weights.get(name, 1.0) for name in self.of}
        for parts in _each(self.of, answers):
            yield combined(parts, lambda values: sum(weights[name] * value for name, value in values.items()))


class Product(Reward):
    """The product of several rewards: worth nothing as soon as one of them is."""

    name: Literal["product"] = "product"  # pyright: ignore[reportIncompatibleVariableOverride]
    of: Parts
    """The rewards, each under a name of your choice."""

    def inner(self) -> Iterator[Reward]:
        return iter(self.of.values())

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        for parts in _each(self.of, answers):
            yield combined(parts, lambda values: math.prod(values.values()))


class Ensemble(Reward):
    """The mean of several rewards, lowered by how far they disagree. After Coste et al. 2023, arXiv:2310.02743.

        mean - penalty * standard deviation

    (They subtract the variance. A standard deviation is in the unit of the scores, so `penalty` means the same whatever
    the scale.)

    A policy finds the faults of a learnt reward. Reward models learnt in another order from the same data have other
    faults, so where they disagree, none is to be believed. Members must be on one scale: comparisons leave the level of
    a score open, so train them with `center_rewards_coefficient`.
    """

    name: Literal["ensemble"] = "ensemble"  # pyright: ignore[reportIncompatibleVariableOverride]
    of: Annotated[Parts, Field(min_length=2)]
    """The members, each under a name of your choice: `{a: {name: model, model: reward-a}, b: ...}`."""
    penalty: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    """How many standard deviations the mean is lowered by; 0 is the plain mean."""

    def inner(self) -> Iterator[Reward]:
        return iter(self.of.values())

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        for parts in _each(self.of, answers):
            yield combined(parts, lambda said: mean(said.values()) - self.penalty * pstdev(said.values()))


class Gate(Reward):
    """A reward that is only asked where a first one is high enough. An answer that does not pass costs no time of the
    second, such as a judge's."""

    name: Literal["gate"] = "gate"  # pyright: ignore[reportIncompatibleVariableOverride]
    gate: AnyReward
    """The reward to pass."""
    at_least: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """What it has to be worth."""
    reward: AnyReward
    """What an answer that passes is worth."""
    otherwise: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """What one that does not pass is worth."""

    def inner(self) -> Iterator[Reward]:
        return iter((self.gate, self.reward))

    def score(self, answers: Sequence[Answer]) -> Iterable[Outcome]:
        gates = list(outcomes_of(self.gate, answers))
        passed = [isinstance(g, Scored) and g.value >= self.at_least for g in gates]
        inner = iter(outcomes_of(self.reward, [a for a, p in zip(answers, passed, strict=True) if p]))
        for gate, passes in zip(gates, passed, strict=True):
            if passes:
                yield combined({"gate": gate, "reward": next(inner)}, lambda values: values["reward"])
            elif isinstance(gate, Scored):
                yield Scored(self.otherwise, f"not let through: {gate.reason}", parts={"gate": gate})
            else:
                yield combined({"gate": gate}, lambda values: values["gate"])


def _each(of: Mapping[str, Reward], answers: Sequence[Answer]) -> Iterator[dict[str, Outcome]]:
    """The outcomes of all parts, answer by answer."""
    columns = [outcomes_of(reward, answers) for reward in of.values()]
    return (dict(zip(of, row, strict=True)) for row in zip(*columns, strict=True))


def combined(parts: Mapping[str, Outcome], value: Any) -> Outcome:
    """The outcome of a combination from those of its parts."""
    for kind in (Failed, Unscorable):
        for name, part in parts.items():
            if isinstance(part, kind):
                return kind(f"{name}: {part.reason}", part.code, parts)
    values = {name: part.value for name, part in parts.items() if isinstance(part, Scored)}
    reason = ", ".join(f"{name} {part.value:.3g} ({part.reason})" for name, part in parts.items())  # pyright: ignore[reportAttributeAccessIssue]
    return Scored(value(values), reason, parts=parts)
