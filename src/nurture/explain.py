"""`nurture explain METHOD`: the page of a method as documentation. Everything comes from its class."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .methods import METHODS
from .recipe import SECTIONS, Stage, method_class, own_fields
from .runs import METRICS


def explain(method: str, *, everything: bool = False) -> RenderableType:
    """What a method does, with its equation and paper; its fields; the metrics it logs. With `everything` also the
    fields that every stage has."""
    kind = method_class(method)
    parts: list[RenderableType] = [
        Text(method, style="bold"),
        _indented(Text(_prose(inspect.getdoc(kind) or ""))),
        Text(),
    ]

    parts.append(Text("Fields", style="bold"))
    own = {name: kind.model_fields[name] for name in own_fields(kind)}
    parts += [_fields(own) if own else _indented(Text("none of its own")), Text()]

    parts.append(Text("Data", style="bold"))
    kinds = " or ".join(repr(name) for name in (kind.data, *kind.accepts))
    parts += [_indented(Text(f"records of the kind {kinds}")), Text()]

    parts += [Text("Metrics", style="bold"), _pairs({**kind.metrics, **METRICS}), Text()]
    if everything:
        parts.append(Text("Fields of every stage", style="bold"))
        parts.append(_fields(dict(_stage_fields(Stage.model_fields))))
    else:
        parts.append(Text(f"The fields of every stage: nurture explain {method} --all", style="dim"))
    return Group(*parts)


def list_methods() -> RenderableType:
    """Every method with the first sentence of its page."""
    first = {name: _prose(inspect.getdoc(kind) or "").partition(". ")[0] for name, kind in METHODS.items()}
    return Group(_pairs(first), Text("More on each: nurture explain METHOD", style="dim"))


def _prose(docstring: str) -> str:
    """Paragraphs as single lines, to be wrapped anew; what is indented (equations) stays as it is."""
    paragraphs = docstring.split("\n\n")
    return "\n\n".join(p if p.startswith(" ") else " ".join(p.split()) for p in paragraphs)


def _stage_fields(fields: Mapping[str, FieldInfo], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field by its dotted path, those of a section behind the section's own (those of `eval.data` are told as
    those of `data`)."""
    for name, field in fields.items():
        if name == "method":
            continue
        yield f"{above}{name}", field
        if name in SECTIONS and not (above and name in Stage.model_fields):
            yield from _stage_fields(SECTIONS[name].model_fields, f"{above}{name}.")


def _fields(fields: Mapping[str, FieldInfo]) -> RenderableType:
    return _pairs({f"{name} = {_default(field)}": field.description or "" for name, field in fields.items()})


def _default(field: FieldInfo) -> str:
    """The default as it would be written in a recipe."""
    if field.is_required():
        return "(must be given)"
    if field.default is PydanticUndefined:
        return "(the method's own)"
    value = field.default
    if isinstance(value, str):
        return value
    return json.dumps(value) if not hasattr(value, "model_fields") else "{…}"


def _pairs(pairs: Mapping[str, str]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, meaning in pairs.items():
        table.add_row(Text(name, style="cyan"), Text(" ".join(meaning.split())))
    return _indented(table)


def _indented(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, 2))
