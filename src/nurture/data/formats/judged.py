"""Answers that were ranked, scored or labelled: rankings and ratings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...records import Message, Ranking, Rating
from .demonstrations import asked
from .format import (
    Fault,
    Format,
    Row,
    answer,
    assistant,
    equally_long,
    items,
    kind_of,
    number,
    string,
    whole,
    yes_or_no,
)
from .preferences import hh_turns
from .turns import check_answer, read_answer, read_prompt, read_turns

Turns = tuple[Message, ...]

# ---- rankings ----


def ranking(row: Row, origin: str) -> Ranking:
    """Ours: `prompt`, `responses`, and `ranks`, 1 for the best, equal ones for ties."""
    responses, ranks = equally_long(row, "responses", "ranks", ("answers", "numbers"))
    places = tuple(whole(rank, f"ranks[{i}]") for i, rank in enumerate(ranks))
    scores = row.get("scores")
    found = _ranking(read_prompt(row["prompt"], "prompt"), _read_all(responses, "responses"), places, origin)
    return found if scores is None else with_scores(found, _numbers(items(scores, "scores", "numbers"), "scores"))


def ranking_scores(row: Row, origin: str) -> Ranking:
    """`prompt`, `responses` and a number for each in `scores`: the higher the better."""
    return _by_scores(read_prompt(row["prompt"], "prompt"), row, origin)


def stable_alignment(row: Row, origin: str) -> Ranking:
    """Stable Alignment: `query`, `responses`, `scores`."""
    return _by_scores(asked(row, "query"), row, origin)


def nectar(row: Row, origin: str) -> Ranking:
    """Nectar: a prompt in Anthropic's style, and `answers` of the form `{"answer": ..., "rank": ...}`."""
    prompt = string(row["prompt"], "prompt")
    turns = hh_turns(prompt, "prompt") if prompt.startswith("\n\nHuman:") else read_prompt(prompt, "prompt")
    if turns[-1] == Message("assistant", ""):  # the header of the answer to come
        turns = turns[:-1]
    answers = _objects(row["answers"], "answers", ("answer", "rank"))
    texts = tuple(assistant(answer(a["answer"], f"answers[{i}].answer")) for i, a in enumerate(answers))
    return _ranking(turns, texts, tuple(whole(a["rank"], f"answers[{i}].rank") for i, a in enumerate(answers)), origin)


def ordered(row: Row, origin: str) -> Ranking:
    """`prompt` and `responses` from the best to the worst. Nothing in the row says so, so you must."""
    responses = _read_all(items(row["responses"], "responses", "answers"), "responses")
    ranks = tuple(range(1, len(responses) + 1))
    return _ranking(read_prompt(row["prompt"], "prompt"), responses, ranks, origin)


def ultrafeedback_ranking(row: Row, origin: str) -> Ranking:
    """UltraFeedback's answers by their `overall_score`."""
    completions = _objects(row["completions"], "completions", ("response", "overall_score"))
    texts = tuple(assistant(answer(c["response"], f"completions[{i}].response")) for i, c in enumerate(completions))
    scores = _numbers([c["overall_score"] for c in completions], "overall_score")
    return _scored(asked(row, "instruction"), texts, scores, origin)


def with_scores(ranking: Ranking, scores: tuple[float, ...]) -> Ranking:
    if len(scores) != len(ranking.responses):
        raise Fault("LENGTHS_DIFFER", f"'scores' holds {len(scores)} for {len(ranking.responses)} answers.")
    return Ranking(ranking.prompt, ranking.responses, ranking.ranks, ranking.origin, scores)


def ranks_of(scores: Sequence[float]) -> tuple[int, ...]:
    """1 for the highest; equal scores tie, and the next place counts them (1, 2, 2, 4)."""
    return tuple(1 + sum(other > score for other in scores) for score in scores)


def _by_scores(prompt: Turns, row: Row, origin: str) -> Ranking:
    responses, scores = equally_long(row, "responses", "scores", ("answers", "numbers"))
    return _scored(prompt, _read_all(responses, "responses"), _numbers(scores, "scores"), origin)


def _scored(prompt: Turns, responses: tuple[Turns, ...], scores: tuple[float, ...], origin: str) -> Ranking:
    return with_scores(_ranking(prompt, responses, ranks_of(scores), origin), scores)


def _ranking(prompt: Turns, responses: tuple[Turns, ...], ranks: tuple[int, ...], origin: str) -> Ranking:
    if len(responses) < 2:
        raise Fault("TOO_FEW", f"ranks {len(responses)} answer; a ranking needs at least two.")
    if min(ranks) < 1:
        raise Fault("WRONG_TYPE", f"a rank is {min(ranks)}; ranks begin at 1, the best.")
    return Ranking(prompt, responses, ranks, origin)


def _read_all(values: Sequence[object], column: str) -> tuple[Turns, ...]:
    return tuple(read_answer(value, f"{column}[{i}]") for i, value in enumerate(values))


def _numbers(values: Sequence[object], column: str) -> tuple[float, ...]:
    return tuple(number(value, f"{column}[{i}]") for i, value in enumerate(values))


def _objects(value: object, column: str, keys: Sequence[str]) -> list[dict[str, Any]]:
    found = items(value, column, "objects")
    for i, one in enumerate(found):
        if not isinstance(one, dict):
            raise Fault("WRONG_TYPE", f"'{column}[{i}]' must be an object, found {kind_of(one)}.")
        if missing := [k for k in keys if k not in one]:
            raise Fault("MISSING_FIELD", f"'{column}[{i}]' has no {' and no '.join(map(repr, missing))}.")
    return found


# ---- ratings ----

HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")


def rating(row: Row, origin: str) -> Rating:
    """Ours: `prompt`, `response`, and `scores`, a number per criterion."""
    scores = row["scores"]
    if not isinstance(scores, dict) or not scores:
        raise Fault("WRONG_TYPE", f"'scores' must be an object of criteria and numbers, found {kind_of(scores)}.")
    return _rated(row, {name: number(v, f"scores.{name}") for name, v in scores.items() if v is not None}, origin)


def rating_score(row: Row, origin: str) -> Rating:
    """`prompt`, `response` and one number, the criterion `overall`."""
    return _rated(row, {"overall": number(row["score"], "score")}, origin)


def helpsteer(row: Row, origin: str) -> Rating:
    """HelpSteer: `prompt`, `response` and five criteria, each in a column of its own."""
    return _rated(row, {name: number(row[name], name) for name in HELPSTEER}, origin)


def kto(row: Row, origin: str) -> Rating:
    """TRL's unpaired preference: the criterion `desirable` is 1 or 0."""
    label = {"desirable": yes_or_no(row["label"], "label")}
    return Rating(read_prompt(row["prompt"], "prompt"), read_answer(row["completion"], "completion"), label, origin)


def kto_messages(row: Row, origin: str) -> Rating:
    """A conversation and whether its last answer is desirable."""
    return _last_answer(read_turns(row["messages"], "messages"), "messages", row, origin)


def kto_conversations(row: Row, origin: str) -> Rating:
    """LLaMA-Factory's KTO in ShareGPT's columns: whether the last answer is desirable."""
    return _last_answer(read_turns(row["conversations"], "conversations"), "conversations", row, origin)


def kto_instruction(row: Row, origin: str) -> Rating:
    """LLaMA-Factory's KTO in Alpaca's columns."""
    label = {"desirable": yes_or_no(row["label"], "label")}
    return Rating(asked(row, "instruction", "input"), assistant(answer(row["output"], "output")), label, origin)


def ultrafeedback(row: Row, origin: str) -> list[Rating]:
    """UltraFeedback: each answer with a rating per aspect (those that are "N/A" are left out) and `overall`."""
    prompt = asked(row, "instruction")
    found: list[Rating] = []
    for i, one in enumerate(_objects(row["completions"], "completions", ("response",))):
        place = f"completions[{i}]"
        scores = dict(_aspects(one.get("annotations"), place))
        if one.get("overall_score") is not None:
            scores["overall"] = number(one["overall_score"], f"{place}.overall_score")
        if not scores:
            raise Fault("MISSING_FIELD", f"{place!r} has neither annotations nor an overall_score.")
        found.append(Rating(prompt, assistant(answer(one["response"], f"{place}.response")), scores, origin))
    return found


def _aspects(annotations: object, place: str) -> Iterator[tuple[str, float]]:
    if annotations is None:
        return
    if not isinstance(annotations, Mapping):
        raise Fault("WRONG_TYPE", f"'{place}.annotations' must be an object, found {kind_of(annotations)}.")
    for aspect, judged in annotations.items():
        written = judged.get("Rating") if isinstance(judged, Mapping) else judged
        if written not in (None, "N/A"):
            yield aspect, number(written, f"{place}.annotations.{aspect}.Rating")


def _rated(row: Row, scores: dict[str, float], origin: str) -> Rating:
    return Rating(read_prompt(row["prompt"], "prompt"), read_answer(row["response"], "response"), scores, origin)


def _last_answer(turns: Turns, column: str, row: Row, origin: str) -> Rating:
    if len(turns) < 2 or turns[-1].role != "assistant":
        raise Fault("NO_ASSISTANT", f"{column!r} must end with the answer that is labelled, of the assistant.")
    check_answer(turns[-1:], column)
    return Rating(turns[:-1], turns[-1:], {"desirable": yes_or_no(row["label"], "label")}, origin)


def _has(column: str, *keys: str):
    """Whether a column is a list whose first element has these keys."""

    def holds(row: Row) -> bool:
        value = row[column]
        return isinstance(value, list) and bool(value) and isinstance(value[0], dict) and set(keys) <= set(value[0])

    return holds


def _is_ranked(row: Row) -> bool:
    return isinstance(row["scores"], list)


def _is_label(row: Row) -> bool:
    """A column of that name may as well hold a topic."""
    return str(row["label"]).lower() in ("true", "false", "0", "1", "0.0", "1.0")


FORMATS = (
    Format("ranking", "ranking", ("prompt", "responses", "ranks"), ("scores",), ranking, turns=("prompt",)),
    Format(
        "ranking_scores",
        "ranking",
        ("prompt", "responses", "scores"),
        (),
        ranking_scores,
        _is_ranked,
        turns=("prompt",),
    ),
    Format("stable_alignment", "ranking", ("query", "responses", "scores"), (), stable_alignment),
    Format("nectar", "ranking", ("prompt", "answers"), (), nectar, _has("answers", "answer", "rank")),
    Format("ordered", "ranking", ("prompt", "responses"), (), ordered, by_name=True, turns=("prompt",)),
    Format(
        "ultrafeedback", "rating", ("instruction", "completions"), (), ultrafeedback, _has("completions", "response")
    ),
    Format(
        "ultrafeedback_ranking",
        "ranking",
        ("instruction", "completions"),
        (),
        ultrafeedback_ranking,
        _has("completions", "response", "overall_score"),
    ),
    Format("rating", "rating", ("prompt", "response", "scores"), (), rating, turns=("prompt", "response")),
    Format("rating_score", "rating", ("prompt", "response", "score"), (), rating_score, turns=("prompt", "response")),
    Format("helpsteer", "rating", ("prompt", "response", *HELPSTEER), (), helpsteer),
    Format("kto", "rating", ("prompt", "completion", "label"), (), kto, _is_label, turns=("prompt", "completion")),
    Format("kto_messages", "rating", ("messages", "label"), (), kto_messages, _is_label, turns=("messages",)),
    Format(
        "kto_conversations",
        "rating",
        ("conversations", "label"),
        (),
        kto_conversations,
        _is_label,
        turns=("conversations",),
    ),
    Format(
        "kto_instruction",
        "rating",
        ("instruction", "output", "label"),
        ("input", "system", "history"),
        kto_instruction,
        _is_label,
    ),
)
