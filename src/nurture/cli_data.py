"""`nurture data`: look into data files, find what is wrong with them, write them in another form."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import InputError, NurtureError

data = typer.Typer(
    help="Data files: check, show, convert, clean, split, instruct, stats, select.", no_args_is_help=True
)

Files = Annotated[
    list[str], typer.Argument(help="Files, folders, patterns, hub names or lab/<name>.", metavar="FILE...")
]
File = Annotated[str, typer.Argument(help="A file, folder, pattern, hub name or lab/<name>.", metavar="FILE")]
Format = Annotated[str | None, typer.Option(help="The form of the rows; by default it is recognised.")]
Columns = Annotated[
    list[str] | None, typer.Option("--column", help="Ours=theirs, where a column has another name.", metavar="A=B")
]
Wants = Annotated[
    str | None, typer.Option("--as", help="conversation, text, pair, ranking, rating, steps or task.", metavar="KIND")
]


@data.command()
def check(
    files: Files,
    kind: Wants = None,
    format: Format = None,
    column: Columns = None,
    limit: Annotated[int, typer.Option(min=1, help="The most problems to list of each.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read every row and list what is wrong with it. Ends with 2 where something is."""
    from . import api_data
    from .show import printable

    wants, columns = kind_of(kind), columns_of(column)
    found: list[dict[str, Any]] = []
    faulty = False
    for file in files:
        try:
            problems, report = api_data.check(file, wants=wants, format=format, columns=columns, limit=limit)
        except InputError as error:
            faulty = True
            found.append({"source": file, "error": str(error)})
            if not as_json:
                print(printable(str(error)))
            continue
        bad = sum(report.rejected.values())
        faulty |= bad > 0
        listed = [{"where": p.where, "code": p.code, "message": p.message} for p in problems]
        found.append(report.to_json() | {"problems": listed})
        if as_json:
            continue
        for problem in problems:
            print(printable(f"{problem.where} {problem.code} {problem.message}"))
        if bad > len(problems):
            print(f"... and {bad - len(problems):,} more")
        for line in report.lines():
            print(printable(line))
    if as_json:
        print(json.dumps({"sources": found}, ensure_ascii=False))
    if faulty:
        raise typer.Exit(NurtureError.exit_code)


@data.command()
def show(
    file: File,
    model: Annotated[str, typer.Option(help="Whose chat template: a folder, 'lab' or a hub name.")] = "lab",
    n: Annotated[int, typer.Option("-n", min=1, help="How many records.")] = 3,
    train_on: Annotated[str, typer.Option(help="assistant, last or all.")] = "assistant",
    kind: Wants = None,
    format: Format = None,
    column: Columns = None,
    html: Annotated[Path | None, typer.Option(help="Write a page instead.", metavar="OUT")] = None,
) -> None:
    """Show the first records as a model will see them, with what carries loss in colour."""
    from rich.console import Console

    from . import api_data
    from .show_data import page, print_shown

    if train_on not in ("assistant", "last", "all"):
        raise InputError(f"--train-on is {train_on!r}; say assistant, last or all.")
    shown = api_data.show(
        file, model=model, n=n, train_on=train_on, wants=kind_of(kind), format=format, columns=columns_of(column)
    )
    if html:
        from .files import replace_synced

        replace_synced(html, page(shown, f"{file} in the template of {model}").encode())
        print(html)
    else:
        print_shown(Console(), shown)


@data.command()
def convert(
    file: File,
    out: Annotated[Path, typer.Argument(help="A .jsonl, .jsonl.gz or .json file.", metavar="OUT")],
    to: Annotated[str, typer.Option(help="nurture, openai, trl or sharegpt.")] = "nurture",
    kind: Wants = None,
    format: Format = None,
    column: Columns = None,
    on_bad_row: Annotated[str, typer.Option(help="error or quarantine.")] = "error",
) -> None:
    """Write the rows of a file in another form. What that form cannot hold is an error, and nothing is written."""
    from . import api_data
    from .data.convert import FORMS
    from .show import printable

    if to not in FORMS:
        raise InputError(f"--to is {to!r}; say {', '.join(FORMS)}.")
    if on_bad_row not in ("error", "quarantine"):
        raise InputError(f"--on-bad-row is {on_bad_row!r}; say error or quarantine.")
    report = api_data.convert(
        file, out, to, wants=kind_of(kind), format=format, columns=columns_of(column), on_bad_row=on_bad_row
    )
    for line in report.lines():
        print(printable(line), file=sys.stderr)
    print(out)


@data.command()
def clean(
    file: File,
    out: Annotated[Path, typer.Argument(help="A .jsonl, .jsonl.gz or .json file.", metavar="OUT")],
) -> None:
    """Clean a dump of dialogues in ShareGPT's form: HTML to Markdown, turns without a partner, repetitions."""
    from . import api_data
    from .show import printable

    cleaned = api_data.clean(file, out)
    print(f"{cleaned.rows:,} dialogues, {len(cleaned.conversations):,} kept", file=sys.stderr)
    for what, reasons in (("dropped", cleaned.dropped), ("mended", cleaned.mended)):
        for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
            print(printable(f"  {count:,} {what}: {reason}"), file=sys.stderr)
    print(out)


@data.command()
def split(
    file: File,
    out: Annotated[Path, typer.Argument(help="A .jsonl, .jsonl.gz or .json file.", metavar="OUT")],
    longest: Annotated[int, typer.Option(min=1, help="The most words of a dialogue; tokens with --model.")],
    model: Annotated[str | None, typer.Option(help="Count in its template: a folder, 'lab' or a hub name.")] = None,
    format: Format = None,
    column: Columns = None,
) -> None:
    """Split long dialogues before turns of the user: no question is parted from its answer, none is lost."""
    from . import api_data

    done = api_data.split(file, out, longest, model=model, format=format, columns=columns_of(column))
    unit = f"tokens of {model}" if model else "words"
    print(f"{done['dialogues']:,} dialogues, {done['split']:,} of them split: {done['pieces']:,} rows", file=sys.stderr)
    if done["too_long"]:
        print(f"{done['too_long']:,} rows are one round of more than {longest:,} {unit}", file=sys.stderr)
    if done["unanswered"]:
        print(f"{done['unanswered']:,} last questions without an answer were left out", file=sys.stderr)
    print(out)


@data.command()
def instruct(
    tasks: Annotated[Path, typer.Argument(help="A YAML file: NAME: {data: rows.jsonl, templates: [...]}.")],
    out: Annotated[Path, typer.Argument(help="A .jsonl, .jsonl.gz or .json file.", metavar="OUT")],
    per_row: Annotated[int, typer.Option(min=1, help="How many phrasings of each row.")] = 1,
    cap: Annotated[int | None, typer.Option(min=1, help="A task of more counts as one of so many.")] = None,
    temperature: Annotated[float, typer.Option(help="Above 1, small tasks are taken more often.")] = 1.0,
    size: Annotated[int | None, typer.Option(min=1, help="How many instructions to write.")] = None,
    seed: Annotated[int, typer.Option(help="Names the draws.")] = 0,
) -> None:
    """Build instructions from the rows of NLP data sets, by templates, and mix the tasks."""
    from . import api_data
    from .show import printable

    mixture, built = api_data.instruct(
        tasks, out, per_row=per_row, cap=cap, temperature=temperature, size=size, seed=seed
    )
    for name, made in built.items():
        turned = f", {made.turned:,} of them of the task turned around" if made.turned else ""
        print(printable(f"{name}: {len(made.conversations):,} instructions{turned}"), file=sys.stderr)
        for template, count in made.counts.items():
            print(printable(f"  {count:,} by {' '.join(template.split())[:100]}"), file=sys.stderr)
    for line in mixture.lines():
        print(printable(line), file=sys.stderr)
    print(out)


@data.command("best-of")
def best_of(
    model: Annotated[str, typer.Argument(help="Who answers: a folder, 'lab' or a hub name.", metavar="MODEL")],
    tasks: Annotated[str, typer.Argument(help="What is asked: lab/prompts or a file of prompts.", metavar="TASKS")],
    out: Annotated[Path, typer.Argument(help="A .jsonl file.", metavar="OUT")],
    reward: Annotated[str, typer.Option(help="A reward by name, or YAML: '{name: model, model: DIR}'.")] = "lab",
    n: Annotated[int, typer.Option("-n", min=1, help="Answers to each task.")] = 8,
    keep: Annotated[str, typer.Option(help="best, all, pairs or rankings.")] = "best",
    above: Annotated[float | None, typer.Option(help="Only where the score, or that of the best, is higher.")] = None,
    most: Annotated[int | None, typer.Option(min=1, help="At most so many of a task (all).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first tasks.")] = None,
    temperature: Annotated[float, typer.Option(min=0)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 256,
    seed: Annotated[int, typer.Option(min=0)] = 42,
) -> None:
    """Answer tasks n times and keep what a reward likes best: rejection sampling, or pairs for DPO."""
    from . import api
    from .evaluate.best_of import BestOf
    from .yaml12 import Tree

    written = Tree({})
    written.lay_over(f"reward={reward}")
    plan = BestOf(n, keep, above, most, limit, temperature, max_tokens, seed)  # pyright: ignore[reportArgumentType]
    counts = api.best_of(model, tasks, written.value["reward"], out, plan)
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()), file=sys.stderr)
    print(out)


def columns_of(words: list[str] | None) -> dict[str, str]:
    columns: dict[str, str] = {}
    for word in words or []:
        ours, equals, theirs = word.partition("=")
        if not (ours and equals and theirs):
            raise InputError(f"--column {word!r}: write our name, = and yours, as in prompt=question.")
        columns[ours] = theirs
    return columns


def kind_of(word: str | None) -> Any:
    from .data.formats import KINDS
    from .errors import did_you_mean

    if word is not None and word not in KINDS:
        raise InputError(f"--as is {word!r}; kinds are {', '.join(KINDS)}.{did_you_mean(word, KINDS)}")
    return word
