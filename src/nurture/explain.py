"""`nurture explain NAME`: the page of a method, an adapter, a reward or an environment, all of it from its class."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .adapters import ADAPTERS, Adapter
from .envs import ENVS, speaker
from .errors import InputError, did_you_mean
from .methods import METHODS, Method
from .named import named_object
from .recipe import SECTIONS, Environment, Stage, method_class, own_fields
from .rewards.function import is_reward_class
from .rewards.registry import ELSEWHERE, REWARDS, reward_class
from .runs import METRICS

KNOWN_AS = {
    "dapo": "grpo with other fields: nurture explain grpo",
    "dr-grpo": "grpo with other fields: nurture explain grpo",
    "cispo": "grpo with other fields: nurture explain grpo",
    "gspo": "grpo with other fields: nurture explain grpo",
    "rlhf": "a recipe of several stages, recipes/rlhf.yaml; nurture explain reward and ppo tell of its methods",
    "r1": "a recipe of several stages, recipes/r1.yaml; nurture explain sft and grpo tell of its methods",
    "rest": "a recipe of several stages, recipes/rest.yaml: nurture explain sft, on answers that a model drew itself",
}
"""What people call by a name of its own and is none of the pages."""


def explain(name: str, *, everything: bool = False) -> RenderableType:
    """What a method, an adapter, a reward or an environment does, also your own (`file.py:name`), with its equation and
    paper; its fields; the metrics a method logs. With `everything` also the fields that every stage has."""
    if name in ADAPTERS:
        return Group(*_page(name, ADAPTERS[name]), *_adapter_facts(name, ADAPTERS[name]))
    own = named_object("code", name) if ":" in name else None
    if callable(own) and not inspect.isclass(own):
        told = inspect.getdoc(own) or "(It has no docstring.)"
        return Group(Text(name, style="bold"), _indented(Text(told)), Text(), Text(f"reward={name}", style="dim"))
    if name in (*REWARDS, *ELSEWHERE) or is_reward_class(own):
        use = f"nurture train grpo model=DIR data=FILE 'reward={{name: {name}, ...}}'"
        return Group(*_page(name, reward_class(name)), Text(use, style="dim"))
    if name in ENVS or hasattr(own, "role"):
        return Group(*_environment(name))
    if name not in METHODS and ":" not in name:
        if known := KNOWN_AS.get(name.lower().replace("_", "-")):
            raise InputError(f"{name} is {known}.")
        pages = (*METHODS, *ADAPTERS, *REWARDS, *ELSEWHERE, *ENVS)
        raise InputError(f"{name!r} has no page.{did_you_mean(name, pages)} There are {', '.join(pages)}.")
    if own is not None and not (inspect.isclass(own) and issubclass(own, Method)):
        raise InputError(
            f"{name!r} is no subclass of nurture.methods.Method or nurture.rewards.Reward, no function and no "
            "environment with a role."
        )
    kind = method_class(name)
    parts = _page(name, kind)
    parts.append(Text("Data", style="bold"))
    kinds = " or ".join(repr(name) for name in (kind.data, *kind.accepts))
    parts += [_indented(Text(f"records of the kind {kinds}")), Text()]

    parts += [Text("Metrics", style="bold"), _pairs(_metrics(kind)), Text()]
    if everything:
        parts.append(Text("Fields of every stage", style="bold"))
        parts.append(_fields(dict(_stage_fields(Stage.model_fields))))
    else:
        parts.append(Text(f"The fields of every stage: nurture explain {name} --all", style="dim"))
    return Group(*parts)


def _metrics(kind: type[Method]) -> dict[str, str]:
    """What runs of this method write to `metrics.jsonl`, and what it means."""
    from_own_answers = kind.data == "task"

    def logged(name: str) -> bool:
        match name:
            case "rollout/explained_variance":
                return "value_error" in kind.metrics
            case "eval/perplexity":
                return kind.data in ("conversation", "text")
            case "eval/token_accuracy":
                return "token_accuracy" in kind.metrics
            case "eval/loss":
                return not from_own_answers
            case "eval/score":
                return from_own_answers
            case _:
                return from_own_answers or not name.startswith("rollout/")

    return {**kind.metrics, **{name: meaning for name, meaning in METRICS.items() if logged(name)}}


def _page(name: str, kind: type[BaseModel]) -> list[RenderableType]:
    """Its name, its text and its own fields."""
    own = {field: kind.model_fields[field] for field in own_fields(kind)}
    return [
        Text(name, style="bold"),
        _indented(Text(_prose(inspect.cleandoc(kind.__doc__ or "(It has no docstring.)")))),
        Text(),
        Text("Fields", style="bold"),
        _fields(own) if own else _indented(Text("none of its own")),
        Text(),
    ]


def _adapter_facts(name: str, kind: type[Adapter]) -> list[RenderableType]:
    plain = not kind.peft_type
    rate = "the method's own"
    if kind.faster != 1:
        rate = f"{kind.faster:g} times the method's own, at most {kind.fastest:g}"
    facts = {
        "starts as": "the model it adapts" if kind.identity else "another model: the virtual tokens are seen",
        "saved as": "a plain model" if plain else f"a PEFT folder ({kind.peft_type})",
        "can be merged": "it is plain" if plain else "yes" if kind.mergeable else "no",
        "learning rate": f"{rate}, unless the stage says otherwise",
    }
    use = Text(f"nurture train sft model=DIR data=FILE adapter={name}", style="dim")
    return [Text("Facts", style="bold"), _pairs(facts), Text(), use]


def _environment(name: str) -> list[RenderableType]:
    kind = speaker(name)
    fields = {field: told for field, told in Environment.model_fields.items() if field != "name"}
    use = f"nurture train grpo model=DIR data=FILE reward=REWARD 'env={{name: {name}, max_turns: 4}}'"
    return [
        Text(name, style="bold"),
        _indented(Text(_prose(inspect.getdoc(kind) or "(It has no docstring.)"))),
        Text(),
        Text("Fields", style="bold"),
        _fields(fields),
        Text(),
        Text("Facts", style="bold"),
        _pairs({"speaks as": f"{kind.role}; what it says is no part of what is learnt"}),
        Text(),
        Text(use, style="dim"),
    ]


def list_methods() -> RenderableType:
    """Every method, adapter, reward and environment with the first sentence of its page."""
    methods, adapters, rewards, environments = (
        {name: _prose(inspect.getdoc(kind) or "").partition(". ")[0].rstrip(".") for name, kind in kinds.items()}
        for kinds in (METHODS, ADAPTERS, REWARDS | {name: reward_class(name) for name in ELSEWHERE}, ENVS)
    )
    return Group(
        Text("Methods", style="bold"), _pairs(methods), Text(),
        Text("Adapters: what is trained of the model", style="bold"), _pairs(adapters), Text(),
        Text("Rewards: what an answer is worth", style="bold"), _pairs(rewards), Text(),
        Text("Environments: who answers the model between its turns", style="bold"), _pairs(environments), Text(),
        Text("More on each: nurture explain NAME", style="dim"),
    )  # fmt: skip


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
    if field.default is PydanticUndefined and field.default_factory_takes_validated_data:
        return "(the method's own)"
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str) if not hasattr(value, "model_fields") else "{…}"


def _pairs(pairs: Mapping[str, str]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, meaning in pairs.items():
        table.add_row(Text(name, style="cyan"), Text(" ".join(meaning.split())))
    return _indented(table)


def _indented(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, 2))
