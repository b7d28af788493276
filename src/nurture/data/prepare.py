"""Records to groups: tokenised, fitted to a length, and looked at before anything is trained."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..core.random import stream_key
from ..errors import DataError, InputError
from ..records import Completion, Conversation, Pair, Ranking, Rating, Record, Steps, Text
from ..types import Batch, Group, Response
from .judged import Judging, check, encode, join_ratings
from .raw import encode_completions, encode_texts, end_of_text
from .report import DataReport
from .rows import BadRow
from .template import Template, TrainOn

if TYPE_CHECKING:
    from rich.text import Text as RichText

OnLong = Literal["drop", "cut", "error"]


ANYTHING = Judging()


@dataclass(frozen=True)
class Prepared:
    """Groups to train on and what became of the records: `records = prepared + dropped_long + dropped_masked`."""

    groups: list[Group]
    records: int
    truncated: int
    dropped_long: int
    dropped_masked: int
    tokens: int
    trained_tokens: int

    def report(self, loaded: DataReport) -> DataReport:
        """The report of the loaded file, completed."""
        return replace(
            loaded,
            prepared=self.records - self.dropped_long - self.dropped_masked,
            truncated=self.truncated,
            dropped_long=self.dropped_long,
            dropped_masked=self.dropped_masked,
            groups=len(self.groups),
            tokens=self.tokens,
            trained_tokens=self.trained_tokens,
        )


def prepare(
    records: Sequence[Record],
    template: Template,
    *,
    train_on: TrainOn = "assistant",
    max_length: int,
    on_long: OnLong = "drop",
    judging: Judging = ANYTHING,
) -> Prepared:
    """Groups of at most `max_length` tokens, in the order of the records.

    A longer row is dropped, or cut at its right end (its answer then has no stop token), or an error. Texts are never
    too long: they become windows. A row of which nothing is trained is dropped. A set of which nothing is trained, or
    in which no answer ever ends, is refused. Judged answers are not cut: it is the whole answer that was judged.
    """
    judged = any(isinstance(record, JUDGED) for record in records)
    if judged and on_long == "cut":
        raise InputError("on_long: cut would change answers that were judged as they are; choose drop or error.")
    _refuse_bad(records, judging)
    encoded = _encode(records, template, train_on, max_length, judging)
    if on_long == "error":
        _refuse_long(encoded, max_length)
    groups: list[Group] = []
    truncated = dropped_long = dropped_masked = 0
    for windows in encoded:
        (group, *more) = windows
        if not more and _num_trained(group) == 0:
            dropped_masked += 1
        elif group.length <= max_length:
            groups.extend(windows)
        elif on_long == "cut" and _num_trained(cut := _cut(group, max_length)):
            truncated += 1
            groups.append(cut)
        else:
            dropped_long += 1

    groups = join_ratings(groups) if judged else groups
    trained = sum(_num_trained(group) for group in groups)
    if trained == 0:
        lost = f"{dropped_long} are longer than max_length={max_length}, {dropped_masked} have no token that is trained"
        raise InputError(f"ALL_MASKED nothing would be trained: of {len(records)} rows {lost}.")
    _refuse_endless(groups, records, template)
    tokens = sum(group.num_tokens for group in groups)
    return Prepared(groups, len(records), truncated, dropped_long, dropped_masked, tokens, trained)


JUDGED = (Pair, Ranking, Rating, Steps)


def _refuse_bad(records: Sequence[Record], judging: Judging) -> None:
    bad: list[str] = []
    for record in records:
        try:
            check(record, judging)
        except DataError as error:
            bad.append(str(error))
    if bad:
        more = [f"... and {len(bad) - 20} more"] if len(bad) > 20 else []
        raise InputError("\n".join([*bad[:20], *more, f"{len(bad)} of {len(records)} rows cannot be learnt from."]))


def set_aside(records: Sequence[Record], judging: Judging) -> tuple[list[Record], list[BadRow]]:
    """The records that can be learnt from, and the others as rows of `rejected.jsonl`."""
    kept: list[Record] = []
    bad: list[BadRow] = []
    for record in records:
        try:
            check(record, judging)
            kept.append(record)
        except DataError as error:
            bad.append(BadRow(error.where, error.code, error.message, repr(record)))
    return kept, bad


def _encode(
    records: Sequence[Record], template: Template, train_on: TrainOn, max_length: int, judging: Judging
) -> list[list[Group]]:
    """For each record its groups: one, or the windows of a text."""
    encoders: dict[type, Callable[[Any], list[list[Group]]]] = {
        Conversation: lambda some: [[group] for group in template.encode_many(some, train_on)],
        Completion: lambda some: [[group] for group in encode_completions(some, template.tokenizer)],
        Text: lambda some: encode_texts(some, template.tokenizer, max_length),
        **{kind: lambda some: [[group] for group in encode(some, template, judging)] for kind in JUDGED},
    }
    by_kind: dict[type, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        assert type(record) in encoders, f"a {type(record).__name__} is nothing to train on"
        by_kind[type(record)].append(i)
    encoded: list[list[Group]] = [[] for _ in records]
    for kind, places in by_kind.items():
        for i, groups in zip(places, encoders[kind]([records[i] for i in places]), strict=True):
            encoded[i] = groups
    return encoded


def _num_trained(group: Group) -> int:
    return Batch((group,)).num_own


def _cut(group: Group, max_length: int) -> Group:
    room = max(max_length - len(group.prompt), 0)
    return Group(group.prompt, tuple(Response(r.ids[:room], r.mask[:room]) for r in group.responses), group.key)


def _refuse_long(encoded: Sequence[Sequence[Group]], max_length: int) -> None:
    long = [g for windows in encoded for g in windows if g.length > max_length]
    if long:
        listed = [f"{g.key} TOO_LONG has {g.length} tokens" for g in long[:20]]
        more = [f"... and {len(long) - 20} more"] if len(long) > 20 else []
        advice = "raise max_length, or say on_long: drop or cut."
        total = f"{len(long)} of {len(encoded)} rows are longer than max_length={max_length}; {advice}"
        raise InputError("\n".join([*listed, *more, total]))


def _refuse_endless(groups: Sequence[Group], records: Sequence[Record], template: Template) -> None:
    chat = any(not isinstance(record, (Text, Completion)) for record in records)
    raw = any(isinstance(record, (Text, Completion)) for record in records)
    stops = np.asarray([*(template.stop_ids if chat else ()), *((end_of_text(template.tokenizer),) if raw else ())])
    if not any(np.isin(r.ids[r.mask], stops).any() for g in groups for r in g.responses):
        raise InputError(
            "NO_STOP no answer ends in a stop token that is trained, so the model would never stop: the chat template "
            "must end a turn with a token the tokenizer knows, and max_length must not cut every answer."
        )


def show_example(group: Group, tokenizer: Any, colour: bool = True) -> RichText:
    """The group's text, what carries loss in green; without colour between ⟦ and ⟧."""
    from rich.text import Text as RichText

    shown = RichText(tokenizer.decode(group.prompt.tolist()))
    for number, response in enumerate(group.responses):
        if len(group.responses) > 1:
            shown.append(f"\n--- {_told(response, number)}\n")
        borders = np.flatnonzero(np.diff(response.mask)) + 1
        for run in np.split(np.arange(len(response.ids)), borders):
            text = tokenizer.decode(response.ids[run].tolist())
            if len(run) and response.mask[run[0]]:
                shown.append(text, style="green") if colour else shown.append(f"⟦{text}⟧")
            else:
                shown.append(text)
    return shown


def _told(response: Response, number: int) -> str:
    """What is known of one of several answers."""
    if response.rank is not None:
        return f"rank {response.rank}"
    if response.scores:
        return "rated " + ", ".join(f"{x:g}" for x in response.scores)
    if response.label is not None:
        return "wanted" if response.label >= 0.5 else "unwanted"
    return f"answer {number + 1}"


def split_eval(groups: Sequence[Group], size: float | int, seed: int) -> tuple[list[Group], list[Group]]:
    """(training, held out): a share of the rows (a fraction below 1) or a number of them, chosen by their keys alone.
    All windows of a text are on one side, and so is all that was said of the answers to one prompt: what one labeller
    says is no test of what was learnt from another's words on the same answers."""
    row_of = _rows(groups)
    rows = sorted(set(row_of), key=lambda row: (stream_key(seed, "held out", row), row))
    count = round(size * len(rows)) if isinstance(size, float) and size < 1 else int(size)
    if size > 0:
        count = max(count, 1)
    if not 0 <= count < len(rows):
        raise InputError(f"Cannot hold out {size} of {len(rows)} rows and have any left to train on.")
    held_out = set(rows[:count])
    out = [row in held_out for row in row_of]
    return [g for g, o in zip(groups, out, strict=True) if not o], [g for g, o in zip(groups, out, strict=True) if o]


def _rows(groups: Sequence[Group]) -> list[str]:
    """The row each group came from: its key without the number of a window, which a key ends in (a file's name may hold
    a `#` too). Judgements on answers to one prompt are one row, the first of them."""
    first: dict[bytes, str] = {}
    rows: list[str] = []
    for group in groups:
        row = re.sub(r"#\d+$", "", group.key)
        judged = any(r.rank is not None or r.scores for r in group.responses)
        rows.append(first.setdefault(group.prompt.tobytes(), row) if judged else row)
    return rows
