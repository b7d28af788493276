"""`nurture data stats` and `nurture data select`: look at data, and choose from it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .cli_data import Columns, Format, Wants, columns_of, kind_of
from .errors import InputError, did_you_mean

if TYPE_CHECKING:
    from .data.quality.stats import Judge, Stats
    from .data.quality.units import Tokens, Unit
    from .data.select import Selection, SelectStep
    from .records import Record

Files = Annotated[list[str], typer.Argument(help="Files, lab/<name> or bundled/<name>.", metavar="FILE...")]
Model = Annotated[str | None, typer.Option("--model", help="Count the tokens of this model ('lab', a folder, a name).")]

STEPS = {
    "exact": "exact",
    "near": "near or near=0.7",
    "minhash": "minhash or minhash=0.8",
    "decontaminate": "decontaminate=FILE",
    "length": "length=SHORTEST:LONGEST, either may be missing",
    "language": "language=en,de",
    "rules": "rules",
    "longest": "longest=1000",
    "diverse": "diverse=1000",
    "best": "best=1000:REWARD_MODEL, a folder or a hub name",
    "screen": "screen=0.4",
}


def add_to(data: typer.Typer) -> None:
    """Add the commands to the group `nurture data`."""
    data.command("stats")(stats)
    data.command("select")(select)
    data.command("labellers")(labellers)


def stats(
    files: Files,
    model: Model = None,
    against: Annotated[
        list[str] | None, typer.Option(help="An evaluation set to look for in the data; may be given again.")
    ] = None,
    embed: Annotated[
        Path | None, typer.Option(help="A folder of an embedding model to compare topics with, instead of TF-IDF.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Where a language model answers that judges how coherent dialogues are, and its name there."),
    ] = None,
    judge_key_env: Annotated[str, typer.Option(help="The environment variable that holds the judge's key.")] = "",
    task_column: Annotated[
        str | None, typer.Option(help="The column that names a row's task; by default family or task, if all have it.")
    ] = None,
    kind: Wants = None,
    format: Format = None,
    column: Columns = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots and examples.")] = None,
) -> None:
    """What a data set is like, per source and in all: lengths, diversity, balance, form, languages, duplicates."""
    from .api_data import read, task_names
    from .data.quality.page import page
    from .data.quality.stats import measure

    names = _short_names(dict.fromkeys(files))
    wants, columns = kind_of(kind), columns_of(column)
    sources = {s: list(read(name, wants=wants, format=format, columns=columns)) for name, s in names.items()}
    tasks = {s: task_names(name, sources[s], task_column) for name, s in names.items()}
    found = measure(
        sources,
        tasks={name: named for name, named in tasks.items() if named},
        unit=_tokens(model) if model else None,
        against=[record for name in against or [] for record in read(name)],
        embed=_embedder(embed) if embed else None,
        embed_name=str(embed or ""),
        judge=_judge(judge, judge_key_env) if judge else None,
    )
    if html:
        html.write_text(page(found), encoding="utf-8")
    if as_json:
        print(json.dumps({"sources": [one.to_json() for one in found], "published": _published()}, ensure_ascii=False))
    else:
        _show(found)
        if html:
            print(f"The page with plots and examples is {html}.")


def select(
    file: Annotated[str, typer.Argument(help="A file, lab/<name> or bundled/<name>.", metavar="FILE")],
    out: Annotated[Path, typer.Argument(help="A new .jsonl file.", metavar="OUT")],
    steps: Annotated[list[str], typer.Argument(help="; ".join(STEPS.values()), metavar="STEP...")],
    model: Model = None,
    kind: Wants = None,
    format: Format = None,
    column: Columns = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Choose rows, step by step: nurture data select FILE OUT exact near=0.7 language=en diverse=1000."""
    from dataclasses import asdict

    from .api_data import read
    from .data.convert import whole_file
    from .data.select import select as choose

    if out.suffix != ".jsonl":
        raise InputError(f"{out}: the chosen rows are written as JSON lines; give it a name that ends in .jsonl.")
    if out.exists():
        raise InputError(f"{out} exists; choose another name or remove it.")
    chosen_steps = [step_from(word, _tokens(model) if model else None) for word in steps]
    records = list(read(file, wants=kind_of(kind), format=format, columns=columns_of(column)))
    selection = choose(records, chosen_steps)
    with whole_file(out) as put:
        for row in rows_of(file, [records[place] for place in selection.kept]):
            put(row)
    if as_json:
        print(json.dumps({"kept": len(selection.kept), "steps": [asdict(s) for s in selection.steps]}))
    else:
        _show_selection(selection, out)


def labellers(
    file: Annotated[str, typer.Argument(help="Comparisons, rankings or ratings with a column 'labeller'.")],
    format: Format = None,
    column: Columns = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Who labelled how much, and how far each agrees with the majority of the others."""
    from dataclasses import asdict

    from .api_data import read
    from .data.labellers import agreements, fleiss_kappa, votes

    found = votes(read(file, format=format, columns=columns_of(column)))
    if not found:
        raise InputError(f"{file}: no row says who labelled it; give the rows a column 'labeller'.")
    everyone, told = fleiss_kappa([list(said.values()) for said in found.values()]), agreements(found)
    if as_json:
        print(json.dumps({"fleiss_kappa": everyone, "labellers": [asdict(one) for one in told]}))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .show import printable

    table = Table("labeller", box=None, pad_edge=False, header_style="bold")
    for title in ("comparisons", "with others", "as their majority", "kappa"):
        table.add_column(title, justify="right")
    for one in told:
        numbers = (f"{one.items:,}", f"{one.shared:,}", f"{one.agreement:.1%}", f"{one.kappa:.2f}")
        table.add_row(Text(printable(one.labeller)), *numbers)
    Console().print(table)
    print(f"All of them: Fleiss' kappa {everyone:.2f} over {len(found):,} comparisons.")


def step_from(word: str, unit: Unit | None = None) -> SelectStep:
    """`near=0.6` -> the step."""
    from .api_data import read
    from .data import select as made

    name, given, value = word.partition("=")
    if name not in STEPS:
        raise InputError(f"{word!r} is no step; there are {', '.join(STEPS.values())}.{did_you_mean(name, STEPS)}")
    if name in ("exact", "rules"):
        if given:
            raise InputError(f"{word!r}: {name} takes no value.")
        return made.Exact() if name == "exact" else made.Rules()
    if name == "screen":
        return made.Screen(_number(word, value)) if given else made.Screen()
    if name in ("near", "minhash"):
        step = made.Near if name == "near" else made.MinHash
        return step(_share(word, value)) if given else step()
    if not value:
        raise InputError(f"{word!r} needs a value: {STEPS[name]}.")
    if name == "decontaminate":
        return made.Decontaminate(list(read(value)))
    if name == "language":
        return made.Language(tuple(value.split(",")))
    if name == "length":
        shortest, colon, longest = value.partition(":")
        if not colon:
            raise InputError(f"{word!r}: write {STEPS[name]}.")
        ends = _whole(word, shortest or "0"), _whole(word, longest) if longest else None
        return made.Length(*ends, unit) if unit else made.Length(*ends)
    if name == "best":
        from .evaluate.scoring import scorer

        number, _, model = value.partition(":")
        if not model:
            raise InputError(f"{word!r}: write {STEPS[name]}.")
        return made.Best(_whole(word, number), scorer(model))
    n = _whole(word, value)
    return made.Longest(n) if name == "longest" else made.Diverse(n)


def _short_names(names: Iterable[str]) -> dict[str, str]:
    """Files without their folders, where that tells them apart."""
    short = {name: name if name.startswith("lab/") else Path(name).name for name in names}
    repeated = {value for value, count in Counter(short.values()).items() if count > 1}
    return {name: name if value in repeated else value for name, value in short.items()}


def _share(word: str, value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InputError(f"{word!r}: the threshold is a number above 0 and at most 1, such as 0.7.")
    return share


def _number(word: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"{word!r}: {value!r} is no number.") from None


def _whole(word: str, value: str) -> int:
    if not value.isdecimal():
        raise InputError(f"{word!r}: {value!r} is no whole number.")
    return int(value)


# ---- in and out ----


def rows_of(name: str, chosen: Sequence[Record]) -> list[dict[str, Any]]:
    """The rows of a source that became these records, as they were written."""
    from .api_data import opened
    from .data.load import row_of
    from .data.rows import Row

    origins = {row_of(record.origin) for record in chosen}
    source = opened(name)
    return [row.value for row in source.scan() if isinstance(row, Row) and source.origin(row) in origins]


def _tokens(model: str) -> Tokens:
    from .api_data import load_template
    from .data.quality.units import Tokens

    return Tokens(load_template(model), model)


def _judge(where: str, key_env: str) -> Judge:
    """`http://127.0.0.1:8000/v1#name` -> dialogues to marks from 1 to 10."""
    from .data.quality.view import turns_of
    from .protocols import Answer, Scored
    from .records import Message, Task
    from .rewards import reward_from, score_all

    url, _, model = where.partition("#")
    if not model:
        raise InputError(f"--judge {where!r}: write URL#MODEL, such as http://127.0.0.1:8000/v1#qwen.")
    judge = reward_from({"name": "judge", "url": url, "model": model, "how": "coherence", "key_env": key_env})
    judge.check()

    def marks(records: Sequence[Record]) -> list[float]:
        answers: list[Answer] = []
        for *before, (_, last) in filter(None, map(turns_of, records)):
            if before:  # a lone turn hangs together with nothing
                answers.append(Answer(Task(tuple(Message(role, said) for role, said in before)), last))
        outcomes = score_all(judge, answers, deadline=60.0 * len(answers)) if answers else []
        return [1 + 9 * one.value if isinstance(one, Scored) else float("nan") for one in outcomes]

    return marks


def _embedder(folder: Path) -> Any:
    from .models.embed import embedder

    return embedder(folder)


# ---- what is printed ----


def _published() -> dict[str, Any]:
    from dataclasses import asdict

    from .data.quality.table import ULTRACHAT

    return asdict(ULTRACHAT)


def _show(found: Sequence[Stats]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .data.quality.table import ROWS, ULTRACHAT, published_cell, summary_lines
    from .show import printable

    table = Table("", box=None, pad_edge=False, header_style="bold")
    for one in found:
        table.add_column(Text(printable(one.source)), overflow="fold")
    table.add_column(Text(f"{ULTRACHAT.name}, published"), style="dim")
    for name, _, cell in ROWS:
        table.add_row(name, *(Text(printable(cell(one))) for one in found), published_cell(ULTRACHAT, name))
    console = Console()
    console.print(table)
    for line in summary_lines(found):
        console.print(Text(printable(line), style="dim"))


def _show_selection(selection: Selection, out: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    from .show import printable

    console = Console()
    for step in selection.steps:
        console.print(Text(f"{step.step}: {step.before:,} -> {step.kept:,}", style="bold"))
        for reason, count in step.reasons.items():
            console.print(Text(printable(f"  {count:,} removed: {reason}")))
        for example in step.examples:
            text = " ".join(example.text.split())
            shown = text if len(text) <= 160 else text[:159] + "…"
            console.print(Text(printable(f"    {example.origin} ({example.reason}): {shown}"), style="dim"))
    print(f"{len(selection.kept):,} rows are in {out}.", file=sys.stderr)
