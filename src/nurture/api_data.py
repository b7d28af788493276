"""Data files and the lab's data sets from Python: check, show, convert, clean, split and instruct, the verbs of
`nurture data`.

from nurture import api_data
problems, report = api_data.check("rows.jsonl")
api_data.convert("rows.jsonl", "pairs.jsonl", to="trl", wants="pair")
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .data.convert import Form
    from .data.dialogues import Cleaned
    from .data.formats import Kind
    from .data.instruct import Built
    from .data.mix import Mixture
    from .data.report import DataReport
    from .data.rows import BadRow
    from .data.sources import Opened
    from .data.template import Template, TrainOn
    from .data.views import Shown
    from .records import Message, Record


def check(
    source: str | Path,
    *,
    wants: Kind | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int = 100,
) -> tuple[list[BadRow], DataReport]:
    """The first `limit` problems of a source, and what became of every row. Memory does not grow with the file."""
    from .data.load import Reading
    from .data.rows import BadRow

    reading = Reading(opened(source), wants=wants, format=format, columns=columns)
    problems: list[BadRow] = []
    for found in reading:
        if isinstance(found, BadRow) and len(problems) < limit:
            problems.append(found)
    return problems, reading.report


def convert(
    source: str | Path,
    out: str | Path,
    to: Form = "nurture",
    *,
    wants: Kind | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    on_bad_row: Literal["error", "quarantine"] = "error",
) -> DataReport:
    """Write a source's records as ours or as OpenAI's, TRL's or ShareGPT's rows."""
    from .data.convert import convert_file
    from .data.load import Reading

    reading = Reading(opened(source), wants=wants, format=format, columns=columns, on_request=True)
    return convert_file(reading, Path(out), to, on_bad_row=on_bad_row)


def instruct(
    tasks: str | Path,
    out: str | Path,
    *,
    per_row: int = 1,
    cap: int | None = None,
    temperature: float = 1.0,
    size: int | None = None,
    seed: int = 0,
) -> tuple[Mixture, dict[str, Built]]:
    """Build instructions of a file of tasks (`data/instruct.py`) and write one epoch of their mixture: `per_row`
    phrasings of each row; tasks in proportion to their rows, of which no more than `cap` count."""
    from .data.convert import as_nurture, whole_file
    from .data.instruct import build, read_tasks
    from .data.mix import Mixture, Part, mix

    built = {
        name: build(_plain_rows(task.data), task.templates, per_row=per_row, seed=seed)
        for name, task in read_tasks(Path(tasks)).items()
    }
    parts = tuple(Part(name, len(made.conversations), cap=cap) for name, made in built.items())
    mixture = Mixture(parts, temperature, size, seed)
    with whole_file(Path(out)) as put:
        for conversation in mix({name: made.conversations for name, made in built.items()}, mixture):
            put(as_nurture(conversation))
    return mixture, built


def clean(source: str | Path, out: str | Path) -> Cleaned:
    """Write what is left of a dump of dialogues in ShareGPT's form once it is cleaned (`data/dialogues.py`)."""
    from .data.convert import as_nurture, whole_file
    from .data.dialogues import clean_sharegpt

    cleaned = clean_sharegpt(_plain_rows(str(source)))
    if not cleaned.conversations:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in cleaned.dropped.items())
        raise InputError(f"{source}: no dialogue is left ({reasons}); nothing was written. Is it of ShareGPT's form?")
    with whole_file(Path(out)) as put:
        for conversation in cleaned.conversations:
            put(as_nurture(conversation))
    return cleaned


def split(
    source: str | Path,
    out: str | Path,
    longest: int,
    *,
    model: str | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Write dialogues with those longer than `longest` words (or tokens of `model`, its chat template with them) cut
    before turns of the user. Returns how many there were of everything; a question without an answer is left out, since
    alone it teaches nothing. Memory does not grow with the file."""
    from .data.convert import as_nurture, whole_file
    from .data.dialogues import split_long
    from .data.quality.words import words
    from .records import Conversation

    if longest < 1:
        raise InputError(f"longest is {longest}; it must be at least 1.")
    template = load_template(model) if model else None
    counts = {"dialogues": 0, "split": 0, "pieces": 0, "too_long": 0, "unanswered": 0}
    with whole_file(Path(out)) as put:
        for record in read(source, wants="conversation", format=format, columns=columns):
            if not isinstance(record, Conversation):
                raise InputError(f"{record.origin} is raw text without turns, so there is no place to split it.")

            def length(messages: Sequence[Message], whole: Conversation = record) -> int:
                if template is None:
                    return sum(len(words(message.content)) for message in messages)
                return template.encode(replace(whole, messages=tuple(messages))).length

            pieces = split_long(record, longest, length)
            answered = [p for p in pieces if any(m.role == "assistant" for m in p.messages)]
            counts["dialogues"] += 1
            counts["split"] += len(pieces) > 1
            counts["pieces"] += len(answered)
            counts["too_long"] += sum(length(p.messages) > longest for p in answered)
            counts["unanswered"] += len(pieces) - len(answered)
            for piece in answered:
                put(as_nurture(piece))
    return counts


def _plain_rows(source: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of any columns with their names; the first bad one is raised."""
    from .data.rows import BadRow

    rows = opened(source)
    for row in rows.scan():
        if isinstance(row, BadRow):
            raise row.error
        yield rows.origin(row), row.value


def show(
    source: str | Path,
    *,
    model: str = "lab",
    n: int = 3,
    train_on: TrainOn = "assistant",
    wants: Kind | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> list[Shown]:
    """The first `n` records in the chat template of `model` (by default the lab's), with what carries loss."""
    from .data.views import view

    template = load_template(model)
    records = read(source, wants=wants, format=format, columns=columns)
    return [view(record, template, train_on) for record in islice(records, n)]


def load_template(model: str) -> Template:
    """The tokenizer of a model with its chat template, or ours where it has none."""
    from .data.template import Template, ensure_chat

    tokenizer = load_tokenizer(model)
    ensure_chat(tokenizer)
    return Template(tokenizer)


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, or `lab`, without its weights. The folder is vetted first."""
    from transformers import AutoTokenizer

    from .models.load import TOKENIZER_FILES, download, quiet, resolve_model
    from .models.vet import vet_tokenizer

    found = resolve_model(model, {})
    folder = vet_tokenizer(found if isinstance(found, Path) else download(found, TOKENIZER_FILES))
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            return tokenizer
    except Exception as error:  # tokenizers raises plain `Exception` for a bad tokenizer.json
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder}: its tokenizer cannot be read: {reason}") from error


def read(
    source: str | Path,
    *,
    wants: Kind | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Record]:
    """The records of a source, one by one; the first bad row is raised."""
    from .data.load import Reading
    from .data.rows import BadRow

    for found in Reading(opened(source), wants=wants, format=format, columns=columns):
        if isinstance(found, BadRow):
            raise found.error
        yield from found


TASK_COLUMNS = ("family", "task")
"""Columns that name the task of a row, as those of our own tasks do."""


def task_names(source: str | Path, records: Sequence[Record], column: str | None = None) -> list[str] | None:
    """The task of each record of a source, as `column` says; where none is given, as one of `TASK_COLUMNS` does that
    every row has. None where nothing says."""
    from .data.mix import tasks_of
    from .data.rows import Row

    rows = opened(source)
    first = next((row.value for row in rows.scan() if isinstance(row, Row)), {})
    for name in [column] if column else [name for name in TASK_COLUMNS if name in first]:
        said = {rows.origin(row): row.value.get(name) for row in rows.scan() if isinstance(row, Row)}
        if column or all(isinstance(task, str) and task for task in said.values()):
            return tasks_of(said, name, [record.origin for record in records])
    return None


def opened(source: str | Path) -> Opened:
    """The rows of a source as they are written; those of the lab in our own form."""
    from .data.rows import Row
    from .data.sources import Opened, open_source

    if not str(source).startswith("lab/"):
        return open_source(source)
    from .lab.datasets import written

    def rows() -> Iterator[Row]:
        for origin, row in written(str(source)):
            yield Row(origin, row, json.dumps(row, ensure_ascii=False))

    return Opened(str(source), rows, "")
