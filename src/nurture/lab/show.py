"""The lab for human eyes: the world, its families, graded answers, documents and labellers."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text as RichText

from ..errors import InputError, did_you_mean
from ..records import Task
from .answers import KINDS
from .corpus import MIXTURE
from .datasets import DATASETS
from .draw import Draw
from .families import FAMILIES
from .labellers import LABELLERS
from .oracle import grade
from .relations import OF_KIND, Kind
from .words import cap
from .world import SPLITS, Entity, build_world

_PLURAL: dict[Kind, str] = {"person": "people", "town": "towns", "thing": "things"}


def show(section: str = "world", seed: int = 0) -> RenderableType:
    """Something to print with rich: `world`, `families`, `grades`, `corpus`, `labellers`, `datasets`, or one family."""
    if section in FAMILIES:
        return _family(section, seed)
    if section not in SECTIONS:
        known = [*SECTIONS, *FAMILIES]
        raise InputError(f"the lab cannot show {section!r}; it shows {', '.join(known)}.{did_you_mean(section, known)}")
    return SECTIONS[section](seed)


def _world(seed: int) -> RenderableType:
    """A dozen of each kind; a question mark where nobody knows, an asterisk where the fact is held out."""
    world = build_world(seed)

    def cell(entity: Entity, relation: str) -> str:
        fact = world.facts[entity.name, relation]
        return "?" if fact.value is None else fact.value + ("*" * (world.may_ask("test", entity.name, relation)))

    tables: list[RenderableType] = []
    pools: dict[Kind, tuple[Entity, ...]] = {"person": world.people, "town": world.towns, "thing": world.things}
    for kind, entities in pools.items():
        table = Table("name", *(r.name for r in OF_KIND[kind]), title=f"{len(entities)} {_PLURAL[kind]}, the first 12")
        for entity in entities[:12]:
            table.add_row(entity.name, *(cell(entity, r.name) for r in OF_KIND[kind]))
        tables.append(table)
    known, unknown = ({s: len(part[s]) for s in ("train", "test")} for part in (world.known, world.unknown))
    held_out, nobody = known["test"], sum(unknown.values())
    tables.append(RichText(f"{sum(known.values())} known facts, {held_out} held out (*); {nobody} nobody knows (?)."))
    return Group(*tables)


def _families(seed: int) -> RenderableType:
    table = Table(
        "family",
        "levels",
        "held-out instruction",
        "gold answer",
        title="One held-out task of each family",
        show_lines=True,
    )
    for name, family in FAMILIES.items():
        task = next(iter(family.examples(seed, "test", 1)))
        table.add_row(name, str(len(set(family.LEVELS))), _prompt(task), RichText(task.answer))
    return table


def _prompt(task: Task) -> RichText:
    if len(task.prompt) == 1:
        return RichText(task.prompt[0].content)
    return RichText("\n".join(f"{message.role}: {message.content}" for message in task.prompt))


def _family(name: str, seed: int) -> RenderableType:
    """A task of each level in both splits, with every kind of answer graded for the last."""
    family = FAMILIES[name]
    tables: list[RenderableType] = [RichText((family.__doc__ or "").strip())]
    for split in SPLITS:
        table = Table("level", "instruction", "gold answer", title=f"{name}, {split}", show_lines=True)
        for task in family.examples(seed, split, len(family.LEVELS)):
            table.add_row(str(task.info["level"]), _prompt(task), RichText(task.answer))
        tables.append(table)
    return Group(*tables, _graded(next(iter(family.examples(seed, "test", 1))), seed))


def _graded(task: Task, seed: int) -> RenderableType:
    table = Table("kind", "answer", "helpful", "honest", "harmless", "overall", "reason")
    for kind, (spoil, _) in KINDS.items():
        answer = spoil(task, Draw(seed, "show", kind))
        found = grade(task, answer)
        numbers = (found.helpful, found.honest, found.harmless, found.overall)
        table.add_row(kind, RichText(answer), *(f"{x:.2f}" for x in numbers), RichText(found.reason))
    return Panel(table, title=_prompt(task), title_align="left")


def _grades(seed: int) -> RenderableType:
    return Group(*(_graded(next(iter(family.examples(seed, "test", 1))), seed) for family in FAMILIES.values()))


def _corpus(seed: int) -> RenderableType:
    """One document of each sort."""
    world, panels = build_world(seed), list[RenderableType]()
    for name, (maker, share) in MIXTURE.items():
        document = RichText(maker(world, Draw(seed, "show", name)))
        panels.append(Panel(document, title=f"{name}, {share} in a hundred documents", title_align="left"))
    return Group(*panels)


def _labellers(seed: int) -> RenderableType:
    table = Table("labeller", "accuracy", "noise", "harsh", "bias")
    for labeller in LABELLERS.values():
        harsh = "yes" if labeller.harsh else "no"
        table.add_row(labeller.name, f"{labeller.accuracy:.3f}", f"{labeller.noise:.2f}", harsh, labeller.bias.__name__)
    return table


def _datasets(seed: int) -> RenderableType:
    table = Table("data set", "rows", "what it holds")
    for name, dataset in DATASETS.items():
        table.add_row(name, f"{dataset.size:,}", cap(dataset.description))
    return table


SECTIONS: dict[str, Callable[[int], RenderableType]] = {
    "world": _world,
    "families": _families,
    "grades": _grades,
    "corpus": _corpus,
    "labellers": _labellers,
    "datasets": _datasets,
}
