"""What people said of answers, as groups: one prompt, each answer to it once, and the judgement on each.

A row that says nothing, or something impossible, is refused here with its line, whichever file it came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..core.random import numpy_generator
from ..errors import DataError, InputError
from ..records import Conversation, Message, Pair, Ranking, Rating, Record, Steps
from ..types import Group, Response
from .template import Template

Judged = Pair | Ranking | Rating | Steps


@dataclass(frozen=True, slots=True)
class Judging:
    """What a method wants to know: which criteria, in which order, on which scale (None: any), from which rating on
    an answer is a wanted one, whether the scores of a ranking are ratings, whether a row may rate only some of the
    criteria, and whether the method could go by others."""

    criteria: tuple[str, ...] = ("overall",)
    scale: tuple[float, float] | None = None
    wanted_from: float = 0.5
    rates_rankings: bool = False
    partly: bool = False
    chosen: bool = True


def fault_of(record: Record, judging: Judging) -> DataError | None:
    """What is wrong with a judgement nothing can be learnt from."""
    try:
        _check(record, judging)
    except DataError as error:
        return error
    return None


def _check(record: Record, judging: Judging) -> None:
    where = record.origin
    if isinstance(record, Pair | Ranking) and len(judging.criteria) > 1:
        told = "a comparison does not say which of the criteria it is about"
        raise DataError(where, "CRITERIA", f"{told}: learn one of them from it, or several from ratings.")
    match record:
        case Pair():
            if _texts(record.chosen) == _texts(record.rejected):
                raise DataError(where, "EQUAL", "the chosen and the rejected answer are the same; take the row out.")
            if record.margin is not None and not math.isfinite(record.margin):
                raise DataError(where, "MARGIN", f"the margin is {record.margin}; it must be a number.")
        case Ranking():
            answers = [_texts(r) for r in record.responses]
            if len(answers) < 2:
                raise DataError(where, "ALONE", f"a ranking of {len(answers)} says nothing; it needs two answers.")
            if len(record.ranks) != len(answers):
                raise DataError(
                    where, "RANKS", f"{len(answers)} answers have {len(record.ranks)} ranks; give each one."
                )
            seen: dict[tuple[str, ...], int] = {}
            for i, (answer, rank) in enumerate(zip(answers, record.ranks, strict=True)):
                if seen.setdefault(answer, rank) != rank:
                    raise DataError(where, "EQUAL", f"answer {i} occurs twice with different ranks; keep one of them.")
        case Rating():
            _check_rating(record, judging)
        case Steps():
            if not record.steps or len(record.labels) != len(record.steps):
                counted = f"{len(record.steps)} steps have {len(record.labels)} labels"
                raise DataError(where, "LABELS", f"{counted}; every step needs one, and there must be a step.")
            if empty := [i for i, step in enumerate(record.steps) if not step.strip()]:
                raise DataError(where, "EMPTY", f"step {empty[0]} is empty; take it out with its label.")
            if wrong := [x for x in record.labels if not 0 <= x <= 1]:
                raise DataError(
                    where, "LABELS", f"a step is labelled {wrong[0]:g}; labels go from 0 (wrong) to 1 (right)."
                )
        case _:
            pass


def _check_rating(record: Rating, judging: Judging) -> None:
    ratings = _ratings(record, judging)
    missing = [c for c, value in zip(judging.criteria, ratings, strict=True) if value is None]
    if len(missing) == len(ratings) or (missing and not judging.partly):
        has = ", ".join(record.scores) or "none"
        advice = "Name the criteria in criteria" + (", or say missing: skip." if len(missing) < len(ratings) else ".")
        if not judging.chosen:
            advice = f"This method goes by {missing[0]!r} alone: call the rating that it should learn from so."
        raise DataError(record.origin, "CRITERIA", f"has no rating for {missing[0]!r}; it has {has}. {advice}")
    for criterion, value in zip(judging.criteria, ratings, strict=True):
        if value is None:
            continue
        if not math.isfinite(value):
            raise DataError(record.origin, "SCALE", f"{criterion} is rated {value}; a rating must be a number.")
        if judging.scale and not judging.scale[0] <= value <= judging.scale[1]:
            low, high = judging.scale
            raise DataError(
                record.origin, "SCALE", f"{criterion} is rated {value:g}, outside [{low:g}, {high:g}]; set scale."
            )


def _ratings(record: Rating, judging: Judging) -> list[float | None]:
    """By criterion; a thumb up or down is a rating of the whole answer."""
    same = {"overall": record.scores.get("desirable")}
    return [record.scores.get(criterion, same.get(criterion)) for criterion in judging.criteria]


def encode(records: Sequence[Judged], template: Template, judging: Judging) -> list[Group | DataError]:
    """For each record, in their order, its group or what is wrong with it."""
    if records and isinstance(records[0], Steps):
        return [_steps(r, template) for r in records if isinstance(r, Steps)]
    answers = [_answers(record) for record in records]
    spoken = [_conversation(r.prompt, a, r.origin) for r, some in zip(records, answers, strict=True) for a in some]
    encoded = iter(template.encode_each(spoken, "assistant"))
    found: list[Group | DataError] = []
    for record, some in zip(records, answers, strict=True):
        parts = [next(encoded) for _ in some]
        faults = [part for part in parts if isinstance(part, DataError)]
        group = faults[0] if faults else _joined([p for p in parts if isinstance(p, Group)], record.origin)
        found.append(group if isinstance(group, DataError) else _judged(group, record, judging))
    return found


def _judged(group: Group, record: Judged, judging: Judging) -> Group:
    """The group with what was said of its answers."""
    said = _said(record, judging)
    responses = tuple(replace(r, **one) for r, one in zip(group.responses, said, strict=True))
    margin = (record.margin or 0.0) if isinstance(record, Pair) else 0.0
    return replace(group, responses=responses, margin=margin, labeller=getattr(record, "labeller", ""))


def _answers(record: Judged) -> tuple[tuple[Message, ...], ...]:
    match record:
        case Pair():
            return (record.chosen, record.rejected)
        case Ranking():
            return record.responses
        case Rating():
            return (record.response,)
        case Steps():
            raise AssertionError("steps are one answer, cut up")


def _said(record: Judged, judging: Judging) -> list[dict[str, object]]:
    """What is known of each answer, as fields of a `Response`."""
    match record:
        case Pair():
            return [{"rank": 1, "label": 1.0}, {"rank": 2, "label": 0.0}]
        case Ranking():
            ranks = _dense(record.ranks)
            if judging.rates_rankings and record.scores:
                return [{"rank": r, "scores": (s,)} for r, s in zip(ranks, record.scores, strict=True)]
            return [{"rank": rank} for rank in ranks]
        case Rating():
            scores = tuple(math.nan if x is None else float(x) for x in _ratings(record, judging))
            return [{"scores": scores, "label": float(scores[0] >= judging.wanted_from)}]
        case Steps():
            raise AssertionError("steps carry their own labels")


def _dense(ranks: Sequence[int]) -> list[int]:
    """The same order from 1 without gaps: people number ties in more than one way (1, 2, 2, 4 or 1, 2, 2, 3), and a row
    may be a piece of a longer ranking, whose best answer is not its first."""
    place = {rank: number for number, rank in enumerate(sorted(set(ranks)), start=1)}
    return [place[rank] for rank in ranks]


def _conversation(prompt: Sequence[Message], answer: Sequence[Message], origin: str) -> Conversation:
    """Only what the assistant says in the answer is its own."""
    before = [replace(m, train=False) for m in prompt]
    after = [replace(m, train=m.role == "assistant") for m in answer]
    return Conversation((*before, *after), origin=origin)


def _joined(encoded: Sequence[Group], origin: str) -> Group | DataError:
    """One group of single answers. Tokens that are the same before all of them are the prompt; where a tokenizer
    draws the end of a prompt into an answer, that piece stays with each answer, not trained."""
    prompts = [g.prompt for g in encoded]
    shared = min(map(len, prompts))
    while shared and any(not np.array_equal(p[:shared], prompts[0][:shared]) for p in prompts):
        shared -= 1
    responses: list[Response] = []
    for g in encoded:
        (r,), rest = g.responses, g.prompt[shared:]
        if not r.mask.any():
            return DataError(origin, "EMPTY", "an answer has no token of the assistant's; take the row out.")
        responses.append(Response(np.concatenate([rest, r.ids]), np.concatenate([np.zeros(len(rest), bool), r.mask])))
    return Group(prompts[0][:shared], tuple(responses), origin)


def _steps(record: Steps, template: Template) -> Group | DataError:
    answer = (Message("assistant", "\n".join(record.steps)),)
    try:
        group, ends = template.encode_steps(_conversation(record.prompt, answer, record.origin), record.steps)
    except DataError as error:
        return error
    (response,) = group.responses
    said = replace(response, step_ends=ends, step_labels=tuple(map(float, record.labels)))
    return replace(group, responses=(said,))


def _texts(messages: Sequence[Message]) -> tuple[str, ...]:
    return tuple(f"{m.role}: {m.content.strip()}" for m in messages)


def join_ratings(groups: Sequence[Group]) -> list[Group]:
    """Rated answers to the same prompt as one group, where the first of them stood."""
    joined: dict[bytes, Group] = {}
    for i, g in enumerate(groups):
        rated = all(r.scores and r.rank is None for r in g.responses)
        name = g.prompt.tobytes() if rated else str(i).encode() + b"#"
        known = joined.get(name)
        joined[name] = replace(known, responses=known.responses + g.responses) if known else g
    return list(joined.values())


def add_unrelated(groups: Sequence[Group], max_length: int, seed: int) -> list[Group]:
    """To each group an answer to another prompt, unlabelled: what KTO measures its point of reference on."""
    order = numpy_generator(seed, "unrelated answers").permutation(len(groups))
    found: dict[int, Response] = {}
    for place, i in enumerate(order):
        prompt = groups[i].prompt
        for step in range(1, len(order)):
            other = groups[order[(place + step) % len(order)]]
            answer = other.responses[int(i) % len(other.responses)]
            if len(prompt) + len(answer.ids) <= max_length and not np.array_equal(prompt, other.prompt):
                found[int(i)] = Response(answer.ids, answer.mask)
                break
        else:
            raise InputError(f"{groups[i].key}: no answer to another prompt fits behind this one; give more prompts.")
    return [replace(g, responses=(*g.responses, found[i])) for i, g in enumerate(groups)]
