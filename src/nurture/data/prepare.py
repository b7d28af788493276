"""Records to groups: tokenised, fitted to a length, and looked at before anything is trained."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.random import stream_key
from ..errors import DataError, InputError
from ..records import Completion, Conversation, Pair, Ranking, Rating, Record, Steps, Text
from ..types import Group, Response
from .cache import through
from .fit import OnLong, fit, num_trained
from .judged import Judging, encode, fault_of, join_ratings
from .load import OnBadRow, refuse_bad, row_of
from .prepared import ANYTHING, Prepared, Wishes
from .raw import encode_completions, encode_texts, end_of_text
from .template import Template, TrainOn

if TYPE_CHECKING:
    from rich.text import Text as RichText

JUDGED = (Pair, Ranking, Rating, Steps)


def prepare(
    records: Sequence[Record],
    template: Template,
    *,
    max_length: int,
    train_on: TrainOn = "assistant",
    on_long: OnLong = "drop",
    judging: Judging = ANYTHING,
    on_bad_row: OnBadRow = "error",
    cache: Path | None = None,
) -> Prepared:
    """Groups of at most `max_length` tokens, in the order of the records.

    A longer row is dropped, an error, or made to fit (`fit.py`). Texts are never too long: they become windows. A row
    of which nothing is trained is dropped. A set of which nothing is trained, or in which no answer ever ends, is
    refused. Judged answers are not cut: it is the whole answer that was judged.

    A row that nothing can be learnt from is an error, or set aside while there are few of them. In the folder `cache`
    the result is kept for the next run.
    """
    wishes = Wishes(max_length, train_on, on_long, judging, on_bad_row)
    if cache is None:
        return _prepared(records, template, wishes)
    return through(cache, records, template, wishes, lambda: _prepared(records, template, wishes))


def _prepared(records: Sequence[Record], template: Template, wishes: Wishes) -> Prepared:
    judged = any(isinstance(record, JUDGED) for record in records)
    if judged and wishes.on_long in ("cut", "split"):
        raise InputError(
            f"on_long: {wishes.on_long} would change answers that were judged as they are; choose drop, cut_prompt or "
            "error."
        )
    rows = [row_of(record.origin) or f"record {i}" for i, record in enumerate(records, start=1)]
    encoded = _encode(records, template, wishes)
    faults = _faults(rows, encoded)
    codes = Counter(fault.code for fault in faults.values())
    refuse_bad("data", len(set(rows)), list(faults.values()), codes, wishes.on_bad_row)
    if wishes.on_long == "error":
        _refuse_long([found for found in encoded if not isinstance(found, DataError)], wishes.max_length)
    groups: list[Group] = []
    counts: dict[str, Any] = Counter[str]()
    for row, record, found in zip(rows, records, encoded, strict=True):
        if row in faults:
            counts["rejected_records"] += 1
            continue
        assert not isinstance(found, DataError), "a fault is a fault of its row"
        (group, *more) = found
        if not more and num_trained(group) == 0:
            counts["dropped_masked"] += 1
        elif group.length <= wishes.max_length:
            groups.extend(found)
        else:
            fitted = fit(record, group, template, wishes.train_on, wishes.max_length, wishes.on_long)
            counts[fitted.counted] += 1
            counts["dropped_pieces"] += fitted.dropped_pieces
            groups.extend(fitted.groups)

    groups = join_ratings(groups) if judged else groups
    trained = sum(num_trained(group) for group in groups)
    if trained == 0:
        long, masked = counts["dropped_long"], counts["dropped_masked"]
        lost = f"{long} are longer than max_length={wishes.max_length}, {masked} have no token that is trained"
        raise InputError(f"ALL_MASKED nothing would be trained: of {len(records)} rows {lost}.")
    _refuse_endless(groups, records, template)
    tokens = sum(group.num_tokens for group in groups)
    left = len(records) - counts["rejected_records"]
    done = Prepared(groups, left, tokens, trained, rejected=tuple(faults.values()))
    return replace(done, **counts)


def _faults(rows: Sequence[str], encoded: Sequence[list[Group] | DataError]) -> dict[str, DataError]:
    """The first fault of each row that has one."""
    faults: dict[str, DataError] = {}
    for row, found in zip(rows, encoded, strict=True):
        if isinstance(found, DataError):
            faults.setdefault(row, DataError(row, found.code, found.message))
    return faults


def _encode(records: Sequence[Record], template: Template, wishes: Wishes) -> list[list[Group] | DataError]:
    """For each record its groups (one, or the windows of a text), or what is wrong with it."""
    encoders: dict[type, Callable[[Any], Sequence[list[Group] | Group | DataError]]] = {
        Conversation: lambda some: template.encode_each(some, wishes.train_on),
        Completion: lambda some: encode_completions(some, template.tokenizer),
        Text: lambda some: encode_texts(some, template.tokenizer, wishes.max_length),
        **{kind: lambda some: encode(some, template, wishes.judging) for kind in JUDGED},
    }
    encoded: list[list[Group] | DataError] = [fault_of(record, wishes.judging) or [] for record in records]
    by_kind: dict[type, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        assert type(record) in encoders, f"a {type(record).__name__} is nothing to train on"
        if not isinstance(encoded[i], DataError):
            by_kind[type(record)].append(i)
    for kind, places in by_kind.items():
        for i, found in zip(places, encoders[kind]([records[i] for i in places]), strict=True):
            encoded[i] = [found] if isinstance(found, Group) else found
    return encoded


def _refuse_long(encoded: Sequence[Sequence[Group]], max_length: int) -> None:
    long = [g for windows in encoded for g in windows if g.length > max_length]
    if long:
        listed = [f"{g.key} TOO_LONG has {g.length} tokens" for g in long[:20]]
        more = [f"... and {len(long) - 20} more"] if len(long) > 20 else []
        advice = "raise max_length, or say on_long: drop, cut_prompt, split or cut."
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
    rows_of = _rows(groups)
    rows = sorted(set(rows_of), key=lambda row: (stream_key(seed, "held out", row), row))
    count = round(size * len(rows)) if isinstance(size, float) and size < 1 else int(size)
    if size > 0:
        count = max(count, 1)
    if not 0 <= count < len(rows):
        raise InputError(f"Cannot hold out {size} of {len(rows)} rows and have any left to train on.")
    held_out = set(rows[:count])
    out = [row in held_out for row in rows_of]
    return [g for g, o in zip(groups, out, strict=True) if not o], [g for g, o in zip(groups, out, strict=True) if o]


def _rows(groups: Sequence[Group]) -> list[str]:
    """The row each group came from. Judgements on answers to one prompt are one row, the first of them."""
    first: dict[bytes, str] = {}
    rows: list[str] = []
    for group in groups:
        row = row_of(group.key)
        judged = any(r.rank is not None or r.scores for r in group.responses)
        rows.append(first.setdefault(group.prompt.tobytes(), row) if judged else row)
    return rows
