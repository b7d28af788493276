"""Data files from Python: check, show and convert, the verbs of `nurture data`.

from nurture import api_data
problems, report = api_data.check("rows.jsonl")
api_data.convert("rows.jsonl", "pairs.jsonl", to="trl", wants="pair")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import InputError
from .records import Completion, Conversation, Message, Pair, Ranking, Rating, Record, Steps, Task, Text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from .data.convert import Form
    from .data.formats import Kind
    from .data.report import DataReport
    from .data.rows import BadRow
    from .data.template import Template, TrainOn


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

    reading = Reading(source, wants=wants, format=format, columns=columns)
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

    reading = Reading(source, wants=wants, format=format, columns=columns, on_request=True)
    return convert_file(reading, Path(out), to, on_bad_row=on_bad_row)


@dataclass(frozen=True)
class Part:
    """A piece of decoded text: `trained` carries loss."""

    text: str
    trained: bool


@dataclass(frozen=True)
class Shown:
    """A record as a model will see it. `views` are its sequences with a title each: one of a conversation, one an
    answer of a pair; `facts` are what else the record says."""

    origin: str
    kind: str
    views: tuple[tuple[str, tuple[Part, ...]], ...]
    facts: Mapping[str, str]


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
    from .data.template import Template, ensure_chat

    tokenizer = load_tokenizer(model)
    ensure_chat(tokenizer)
    template = Template(tokenizer)
    records = list(islice(_records(source, wants, format, columns), n))
    return [_shown(record, template, train_on) for record in records]


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name, or `lab`, without its weights."""
    from transformers import AutoTokenizer

    from .models.load import TOKENIZER_FILES, download, quiet, resolve_model

    found = Path(__file__).parent / "lab" / "base" if model == "lab" else resolve_model(model, {})
    folder = found if isinstance(found, Path) else download(found, TOKENIZER_FILES)
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            return tokenizer
    except Exception as error:  # tokenizers raises plain `Exception` for a bad tokenizer.json
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{folder}: its tokenizer cannot be read: {reason}") from error


def _records(
    source: str | Path, wants: Kind | None, format: str | None, columns: Mapping[str, str] | None
) -> Iterator[Record]:
    """The records of a source or of the lab's data set; a bad row that is met is raised."""
    from .data.load import Reading
    from .data.rows import BadRow

    if str(source).startswith("lab/"):
        from .lab.datasets import open_dataset

        yield from open_dataset(str(source))
        return
    for found in Reading(source, wants=wants, format=format, columns=columns):
        if isinstance(found, BadRow):
            raise found.error
        yield from found


def _shown(record: Record, template: Template, train_on: TrainOn) -> Shown:
    return Shown(record.origin, type(record).__name__, tuple(_views(record, template, train_on)), _facts(record))


def _views(record: Record, template: Template, train_on: TrainOn) -> Iterator[tuple[str, tuple[Part, ...]]]:
    match record:
        case Conversation() | Text() | Completion():
            yield "", _parts(record, template, train_on)
        case Pair(prompt, chosen, rejected):
            yield "chosen", _answer(prompt, chosen, template)
            yield "rejected", _answer(prompt, rejected, template)
        case Ranking(prompt, responses, ranks):
            for rank, response in sorted(zip(ranks, responses, strict=True), key=lambda pair: pair[0]):
                yield f"rank {rank}", _answer(prompt, response, template)
        case Rating(prompt, response):
            yield "", _answer(prompt, response, template)
        case Steps(prompt, steps, labels):
            parts = [Part(template.tokenizer.decode(template.encode_prompt(prompt).tolist()), False)]
            parts += [Part(f"{step} [{label:g}]\n", True) for step, label in zip(steps, labels, strict=True)]
            yield "steps with their labels", tuple(parts)
        case Task(prompt):
            yield "prompt", (Part(template.tokenizer.decode(template.encode_prompt(prompt).tolist()), False),)


def _answer(prompt: tuple[Message, ...], response: tuple[Message, ...], template: Template) -> tuple[Part, ...]:
    """Of prompt and answer the answer carries loss."""
    before = tuple(replace(message, train=False) for message in prompt)
    return _parts(Conversation((*before, *response)), template, "assistant")


def _parts(record: Conversation | Text | Completion, template: Template, train_on: TrainOn) -> tuple[Part, ...]:
    """The decoded tokens, in runs that carry loss or do not. (A text is shown whole, not in windows.)"""
    import numpy as np

    from .data.raw import encode_completions, encode_texts

    match record:
        case Conversation():
            group = template.encode(record, train_on)
        case Completion():
            (group,) = encode_completions([record], template.tokenizer)
        case Text():
            ((group,),) = encode_texts([record], template.tokenizer, max(len(record.text.encode()) * 2, 16))
    ids = np.concatenate([group.prompt, *(r.ids for r in group.responses)])
    mask = np.concatenate([np.zeros(len(group.prompt), bool), *(r.mask for r in group.responses)])
    runs = np.split(np.arange(len(ids)), np.flatnonzero(np.diff(mask)) + 1)
    return tuple(Part(template.tokenizer.decode(ids[run].tolist()), bool(mask[run[0]])) for run in runs if len(run))


def _facts(record: Record) -> dict[str, str]:
    facts: dict[str, Any] = {}
    match record:
        case Pair():
            facts["margin"] = record.margin
        case Ranking():
            facts["scores"] = record.scores
        case Rating():
            facts |= record.scores
        case Task():
            facts |= {"answer": record.answer, "family": record.family or None, **record.info}
        case Conversation():
            facts["tools"] = ", ".join(str(t.get("function", t).get("name")) for t in record.tools) or None
        case _:
            pass
    return {name: str(value) for name, value in facts.items() if value is not None}
