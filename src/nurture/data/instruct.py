"""Instruction data from the rows of NLP data sets: Jinja templates, several phrasings to a task.

A template is one text with the parts of PromptSource: the prompt, `|||`, the answer. `answer_choices` holds the
classes, also apart by `|||`; in the template they are `answer_choices`, and `| choice(label)` takes one. Templates are
other people's code, so they render in Jinja's immutable sandbox, and a name that a row lacks is an error.

    Template("{{ review }}\\nIs this review good or bad? ||| {{ answer_choices | choice(label) }}", "bad ||| good")

A file of tasks (YAML) names for each task its rows and its templates; `nurture data instruct` builds and mixes them:

    reviews:
      data: reviews.jsonl
      templates:
        - {source: "{{ review }} Good or bad? ||| {{ answer_choices | choice(label) }}", choices: bad ||| good}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..core.random import stream_key
from ..errors import DataError, InputError, did_you_mean
from ..records import Conversation, Message
from ..yaml12 import read_yaml

BORDER = "|||"


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    environment.filters["choice"] = lambda choices, label: choices[label]
    environment.filters["most_frequent"] = lambda items: [item for item, _ in Counter(items).most_common(1)]
    return environment


_ENVIRONMENT = _environment()


@dataclass(frozen=True)
class Template:
    """One phrasing of a task."""

    source: str
    choices: str = ""
    """The classes, apart by `|||`; may name columns, as in `{{ option_a }} ||| {{ option_b }}`."""
    options: bool = False
    """Whether the classes are listed below the prompt, as FLAN does. Wei et al. 2022, arXiv:2109.01652, §2.1."""
    turned: bool = False
    """A task turned around (write a review of this sentiment); it is counted apart."""
    name: str = ""

    def __post_init__(self):
        if self.source.count(BORDER) != 1:
            raise InputError(f"template {self._called}: one {BORDER} must stand between the prompt and the answer.")
        if self.options and not self.choices:
            raise InputError(f"template {self._called}: options lists the classes, and there are no choices.")
        _ = self._parts  # so that a mistake in the template shows when it is written down

    @property
    def _called(self) -> str:
        return repr(self.name or self.source[:60])

    @cached_property
    def _parts(self) -> tuple[Any, ...]:
        try:
            return tuple(
                _ENVIRONMENT.from_string(part.strip())
                for part in (*self.source.split(BORDER), *(self.choices.split(BORDER) if self.choices else ()))
            )
        except TemplateError as error:
            raise InputError(f"template {self._called} is not valid Jinja: {error}.") from None

    def render(self, row: Mapping[str, Any], origin: str = "") -> tuple[str, str]:
        """(prompt, answer) of a row."""
        prompt, answer, *choices = self._parts
        try:
            classes = [choice.render(row) for choice in choices]
            given = {**row, "answer_choices": classes} if classes else dict(row)
            asked, said = prompt.render(given).strip(), answer.render(given).strip()
        except (TemplateError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise DataError(origin or "row", "TEMPLATE_FAILED", f"template {self._called}: {error}.") from None
        if not asked or not said:
            empty = "prompt" if not asked else "answer"
            raise DataError(origin or "row", "EMPTY_RENDERING", f"template {self._called} renders an empty {empty}.")
        if self.options:
            if said not in classes:
                raise DataError(
                    origin or "row", "NOT_A_CHOICE", f"template {self._called}: {said!r} is none of {classes}."
                )
            asked += "\nOptions:\n" + "\n".join(f"- {choice}" for choice in classes)
        return asked, said


@dataclass(frozen=True)
class Built:
    """Conversations, and how many of them each template made."""

    conversations: list[Conversation]
    counts: Mapping[str, int]
    turned: int
    """How many are of tasks turned around."""


def build(
    rows: Iterable[tuple[str, Mapping[str, Any]]],
    templates: Sequence[Template],
    *,
    per_row: int = 1,
    seed: int = 0,
) -> Built:
    """`per_row` phrasings of each row, drawn without repetition; rows come with their origins.

    Which phrasings a row gets depends on the seed and its place alone."""
    if not templates:
        raise InputError("Instructions need at least one template.")
    if not 1 <= per_row <= len(templates):
        raise InputError(
            f"per_row is {per_row}; with {len(templates)} templates it must be from 1 to {len(templates)}."
        )
    counts = Counter[str]({template.name or template.source: 0 for template in templates})
    conversations: list[Conversation] = []
    turned = 0
    for place, (origin, row) in enumerate(rows):
        order = sorted(range(len(templates)), key=lambda i: stream_key(seed, "template", place, i))
        for i in order[:per_row]:
            template = templates[i]
            prompt, answer = template.render(row, origin)
            conversations.append(Conversation((Message("user", prompt), Message("assistant", answer)), origin=origin))
            counts[template.name or template.source] += 1
            turned += template.turned
    return Built(conversations, dict(counts), turned)


# ---- a file of tasks ----


@dataclass(frozen=True)
class NlpTask:
    """One task: where its rows are, and its phrasings."""

    data: str
    templates: tuple[Template, ...]


TEMPLATE_FIELDS = {field.name: bool if field.default is False else str for field in fields(Template)}


def read_tasks(path: Path) -> dict[str, NlpTask]:
    """The tasks of a YAML file by name. A path of rows is as seen from where the command is given, as in recipes."""
    return {str(name): _task(f"{path}: {name}", value) for name, value in read_yaml(path).value.items()}


def _task(where: str, written: object) -> NlpTask:
    if not isinstance(written, Mapping):
        raise InputError(f"{where}: must be a mapping with data and templates, not {written!r}.")
    _refuse_unknown(where, written, ("data", "templates"))
    data, listed = written.get("data"), written.get("templates")
    if not isinstance(data, str) or not data:
        raise InputError(f"{where}: data must name a file of rows, not {data!r}.")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{where}: templates must be a list of at least one template, not {listed!r}.")
    return NlpTask(data, tuple(_template(f"{where}: template {i}", one) for i, one in enumerate(listed, start=1)))


def _template(where: str, written: object) -> Template:
    """A template as a text, or with its fields."""
    given: Any = {"source": written} if isinstance(written, str) else written
    if not isinstance(given, Mapping) or "source" not in given:
        raise InputError(f"{where}: must be a text (prompt {BORDER} answer), or a mapping with 'source'.")
    _refuse_unknown(where, given, TEMPLATE_FIELDS)
    for name, value in given.items():
        if type(value) is not TEMPLATE_FIELDS[name]:
            kind = "true or false" if TEMPLATE_FIELDS[name] is bool else "a text"
            raise InputError(f"{where}: {name} must be {kind}, not {value!r}.")
    return Template(**given)


def _refuse_unknown(where: str, written: Mapping[Any, Any], known: Iterable[str]) -> None:
    if unknown := [key for key in written if key not in known]:
        raise InputError(f"{where}: {unknown[0]!r} is not read here.{did_you_mean(str(unknown[0]), known)}")
