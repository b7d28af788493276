"""YAML read strictly: the words of YAML 1.2, no key twice, and for every key the line it stands on.

PyYAML's own words are those of YAML 1.1, in which `1e-4` is text, `010` is eight and `no` is false. One of its keys is
kept, `<<`, which takes over the keys of another mapping: stages that differ in one field are common.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import yaml

from .errors import InputError

Places = dict[tuple[str, ...], str]
"""The place of each key, `file:line`; keys laid over from the command line have none."""


@dataclass
class Tree:
    """A mapping, and where each of its keys stands."""

    value: dict[str, Any]
    file: str = ""
    places: Places = field(default_factory=dict[tuple[str, ...], str])

    def where(self, keys: Sequence[str]) -> str:
        """The place of the key, or of the nearest one above it that has one."""
        for end in range(len(keys), 0, -1):
            if tuple(keys[:end]) in self.places:
                return self.places[tuple(keys[:end])]
        return self.file

    def lay_over(self, word: str) -> list[str]:
        """Lay `a.b.c=value` over the tree; returns its keys."""
        path, equals, text = word.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise InputError(f"{word!r} is no setting; write key=value, such as learning_rate=1e-4.")
        below = self.value
        for depth, key in enumerate(keys[:-1], start=1):
            above = below.get(key)
            if isinstance(above, list):
                whole = ".".join(keys[:depth])
                raise InputError(f"{word}: {whole} is a list; set it as a whole, {whole}=[...].")
            if not isinstance(above, dict):
                below[key] = above = dict[str, Any]()
            below = cast("dict[str, Any]", above)
        below[keys[-1]] = _parse(text, word, {})
        self.places[tuple(keys)] = ""
        return keys


def read_yaml(path: Path) -> Tree:
    """A file that holds one mapping."""
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start + 1}); save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}.") from None
    places: Places = {}
    value = _parse(text, str(path), places)
    if value is None or value == {}:
        raise InputError(f"{path}: is empty.")
    if not isinstance(value, dict):
        raise InputError(f"{path}: is not a mapping of keys to values.")
    return Tree(cast("dict[str, Any]", value), str(path), places)


class _Loader(yaml.SafeLoader):
    """Resolves the words of YAML 1.2 only."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


class Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else."""


_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_WORDS = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)
for _tag, _pattern, _first in _WORDS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)
    Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _first)


def _parse(text: str, file: str, places: Places) -> Any:
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        raise InputError(f"{place}: not YAML: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not YAML: {str(error).splitlines()[0]}.") from None
    return None if node is None else _value(node, file, places, (), ())


def _value(node: yaml.Node, file: str, places: Places, keys: tuple[str, ...], above: tuple[yaml.Node, ...]) -> Any:
    if node in above:
        raise InputError(f"{file}:{_line(node)}: a value cannot contain itself.")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, file, places, keys, above)
    if isinstance(node, yaml.SequenceNode):
        inside = (*above, node)
        return [_value(item, file, places, (*keys, str(i)), inside) for i, item in enumerate(node.value)]
    return _word(str(node.value), node.tag.removeprefix("tag:yaml.org,2002:"), f"{file}:{_line(node)}")


def _mapping(
    node: yaml.MappingNode, file: str, places: Places, keys: tuple[str, ...], above: tuple[yaml.Node, ...]
) -> dict[str, Any]:
    inherited: dict[str, Any] = {}
    result: dict[str, Any] = {}
    merged = False
    for key_node, value_node in sorted(node.value, key=lambda pair: not _merges(pair[0])):
        place = f"{file}:{_line(key_node)}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise InputError(f"{place}: a key must be one word.")
        if _merges(key_node):
            if merged:
                raise InputError(f"{place}: << is given twice; write <<: [*one, *other].")
            merged = True
            others = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
            for other in reversed(others):  # the first counts
                if not isinstance(other, yaml.MappingNode):
                    raise InputError(f"{place}: << takes the keys of another mapping, such as <<: *name.")
                told: Places = {}
                taken = _value(other, file, told, keys, (*above, node))
                for key in taken.keys() & inherited.keys():
                    _forget(places, (*keys, key))
                places |= told
                inherited |= taken
            continue
        inside = (*keys, str(key_node.value))
        if inside[-1] in result:
            first = places[inside].rpartition(":")[2]
            raise InputError(f"{place}: {'.'.join(inside)} is given twice, first on line {first}; keep one.")
        if inside[-1] in inherited:
            _forget(places, inside)
        places[inside] = place
        result[inside[-1]] = _value(value_node, file, places, inside, (*above, node))
    return inherited | result


def _forget(places: Places, inside: tuple[str, ...]) -> None:
    """The places of a value that another one takes the place of."""
    for place in [p for p in places if p[: len(inside)] == inside]:
        del places[place]


def _merges(key: yaml.Node) -> bool:
    return isinstance(key, yaml.ScalarNode) and key.value == "<<" and not key.style


def _word(text: str, tag: str, place: str) -> Any:
    match tag:
        case "str":
            return text
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int":
            return int(text)
        case "float":
            return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
        case _:
            raise InputError(f"{place}: the tag {tag!r} means nothing here.")


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1
