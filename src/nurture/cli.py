"""The command line. Nothing heavy is imported before a command needs it: `nurture --help` answers at once.

Exit codes: 0 done · 2 bad input or configuration · 3 numerics stopped the run, or a check of `selftest` failed · 4 a
process hung, or one or a reward was lost · 130 / 143 stopped by Ctrl-C / SIGTERM, with a checkpoint.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .cli_data import data
from .cli_quality import add_to as add_quality_commands
from .errors import InputError, NurtureError

if TYPE_CHECKING:
    from rich.console import Console

    from .api import ChatSession

app = typer.Typer(
    help="Turn a pretrained language model into an aligned assistant.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Words = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show sizes, memory and the first example; train nothing.")]
Model = Annotated[str, typer.Argument(help="A folder (runs/sft/model), 'lab' or a hub name.", metavar="MODEL")]

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

CHECKS_FAILED = 3
GRADED = ("lab/test", "lab/reasoning", "lab/reasoning-test", "lab/prompts", "lab/prompts-test")
"""Data sets with an oracle."""


def main() -> None:
    """A fault of the user ends in one sentence and its exit code, a fault of ours in a traceback."""
    if "RANK" in os.environ:
        from .train.heartbeat import install_child_handlers

        install_child_handlers()
    try:
        app()
    except NurtureError as error:
        print(f"nurture: error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _print_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        print(f"nurture {__version__}")
        raise typer.Exit


@app.callback()
def nurture(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Turn a pretrained language model into an aligned assistant."""


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file.", metavar="RECIPE")],
    words: Words = None,
    dry_run: DryRun = False,
    out: Annotated[Path | None, typer.Option(help="Where the stage folders go; by default runs/<name>.")] = None,
) -> None:
    """Run the stages of a recipe.

    Any field can be set by its path, as in stages.sft.learning_rate=1e-4. out=DIR is the folder, fresh=true runs
    finished stages again. The same command goes on with an interrupted run.
    """
    from . import api
    from .recipe import load_recipe, take, take_flag

    folder, rest = take(words or [], "out")
    fresh, rest = take_flag(rest, "fresh")
    loaded = load_recipe(recipe, rest)
    where = out or Path(folder or f"runs/{loaded.name}")
    if not dry_run:
        _launch_if_many(loaded.processes, where)
    models = api.run(recipe, rest, where, dry_run=dry_run, fresh=fresh, console=_console())
    for name, model in models.items():
        print(f"{name}: {model}")


@app.command()
def train(
    method: Annotated[str, typer.Argument(help="sft, lm, …, package.module:Class or file.py:Class.", metavar="METHOD")],
    words: Words = None,
    dry_run: DryRun = False,
) -> None:
    """Train one stage without a recipe file: nurture train sft model=DIR data=FILE out=DIR steps=100.

    'nurture explain METHOD --all' lists every key. fresh=true begins again; the same command goes on with an
    interrupted run.
    """
    from . import api

    words = words or []
    if not dry_run:
        stage, out, _ = api.read_words(method, words)
        _launch_if_many(stage.processes, out)
    model = api.train(method, words, dry_run=dry_run, console=_console())
    if model is not None:
        print(model)


@app.command()
def chat(
    model: Model,
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0, max=1)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of an answer.")] = 512,
    seed: Annotated[int, typer.Option(min=0)] = 42,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16")] = "auto",
) -> None:
    """Talk to a model in the terminal; also reads its lines from a pipe."""
    from . import api

    session = api.chat_session(
        model,
        system=system,
        temperature=temperature,
        top_p=top_p,
        max_tokens=max_tokens,
        seed=seed,
        device=device,
        precision=precision,
    )
    _talk(session)


@app.command()
def quickstart(words: Words = None) -> None:
    """From the lab's base model to an assistant, measured before and after, in minutes: recipes/quickstart.yaml.

    out=DIR is the folder (runs/quickstart), fresh=true runs it again, stages.sft.epochs=1 sets a field.
    """
    from . import api
    from .recipe import take, take_flag

    folder, rest = take(words or [], "out")
    fresh, rest = take_flag(rest, "fresh")
    out = Path(folder or "runs/quickstart")
    models = api.quickstart(rest, out, fresh=fresh, console=_console())
    last = list(models.values())[-1]
    print(
        f"The report:     {out / 'report.html'}\nTalk to it:     nurture chat {last}\nWhat it knows:  nurture lab show"
    )


@app.command()
def compare(
    words: Annotated[list[str], typer.Argument(metavar="MODEL... [KEY=VALUE]...", help="Folders, 'lab' or hub names.")],
    as_json: AsJson = False,
) -> None:
    """Models side by side on the lab's test, with paired tests: nurture compare lab runs/sft/model out=DIR. Of reward
    models it is how often each prefers the better of two answers.

    data=lab/test n=1008 samples=1 temperature=0 max_tokens=96 seed=0 say what is asked; with out=DIR a page and
    report.json are written there.
    """
    import json

    from rich.console import Console

    from . import api
    from .recipe import take

    models = [word for word in words if "=" not in word]
    folder, settings = take([word for word in words if "=" in word], "out")
    if len(models) < 2:
        raise InputError("compare needs two models or more: nurture compare lab runs/sft/model.")
    out = Path(folder) if folder else None
    report = api.compare(models, settings, out, console=Console(stderr=as_json))
    if as_json:
        print(json.dumps(report))
    elif out:
        print(f"The report: {out / 'report.html'}")


@app.command(name="eval")
def evaluate(
    model: Model,
    words: Words = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Measure a reward model on these comparisons instead.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model: on the lab's test with its oracle; with data=FILE its loss on the rows of a file; with --pairs
    FILE how often a reward model prefers the better answer.

    On the lab: n=500 tasks, data=lab/reasoning-test samples=16 temperature=1 for pass@k.
    """
    import json

    from . import api

    words = words or []
    data = next((word.partition("=")[2] for word in words if word.startswith("data=")), "lab/test")
    if data in GRADED and not pairs:
        from rich.console import Console

        report = api.compare([model], words, console=Console(stderr=as_json))
        if as_json:
            found = report["reward_models"] if "reward_models" in report else report["models"]
            print(json.dumps(next(iter(found.values()))))
        return
    if pairs:
        where = dict(word.split("=", 1) for word in words if word.startswith(("device=", "precision=")))
        if idle := [word for word in words if word.partition("=")[0] not in where]:
            raise InputError(f"{idle[0]}: beside --pairs there are only device=… and precision=….")
        measured = api.evaluate_reward(model, pairs, **where)
    else:
        measured = api.evaluate(model, words)
    if as_json:
        print(json.dumps(measured))
        return
    width = max(map(len, measured))
    for name, value in measured.items():
        print(f"{name:<{width}}  {f'{value:,}' if isinstance(value, int) else f'{value:.4f}'}")


@app.command()
def export(
    model: Model,
    out: Annotated[Path | None, typer.Option(help="The new folder; by default MODEL-merged or MODEL-DTYPE.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Add an adapter to the weights of its base.")] = False,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16; by default that of the base.")] = None,
) -> None:
    """Write a plain model, checked by comparing the logits of 16 texts before and after."""
    from . import api

    done = api.export(model, out, merge=merge, dtype=dtype)
    print(f"{done.folder}  (logits differ by {done.gap:.1e}, at most {done.bound:.0e} is allowed)")


@app.command()
def explain(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also the fields that every stage has.")] = False,
) -> None:
    """What a method, adapter, reward or environment does, also your own (file.py:name); without a name, all of them."""
    from rich.console import Console

    from .explain import explain, list_methods

    Console().print(explain(name, everything=everything) if name else list_methods())


@app.command()
def runs(folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path("runs")) -> None:
    """The runs below a folder and how they stand."""
    from rich.console import Console

    from .runs import list_runs, runs_table

    found = list_runs(folder)
    if found:
        Console().print(runs_table(found, folder))
    else:
        print(f"No run is in {folder} yet.")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.", metavar="RUN")]) -> None:
    """Write report.html of a run, also of one that still goes on."""
    from .report import write_report

    if not (folder / "config.yaml").exists():
        raise InputError(f"{folder} is not a run folder: it has no config.yaml.")
    print(write_report(folder))


@app.command()
def doctor() -> None:
    """What this machine has and can do, and what to do where something is amiss."""
    from rich.console import Console

    from .doctor import doctor_table, examine

    console = Console()
    with console.status("looking around"):
        rows = list(examine())
    console.print(doctor_table(rows))


@app.command()
def selftest(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", show_default=False)] = None,
) -> None:
    """Check on your own model and machine what Nurture promises (a small random model where none is given)."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from . import api

    checks = api.selftest(model) if model else api.selftest()
    table = Table("check", "measured", "bound", "", "", box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True
    for check in checks:
        verdict = Text("ok", style="green") if check.ok else Text("FAILED", style="bold red")
        table.add_row(Text(check.name), f"{check.measured:.2e}", f"{check.bound:.2e}", verdict, Text(check.note))
    Console().print(table)
    failed = [check.name for check in checks if not check.ok]
    if failed:
        print(f"nurture: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(CHECKS_FAILED)


@app.command()
def schema() -> None:
    """The JSON schema of recipe files, for editors."""
    from . import api

    print(api.schema())


add_quality_commands(data)
app.add_typer(data, name="data")

lab = typer.Typer(help="The lab: a small invented world with an exact grader.", no_args_is_help=True)
app.add_typer(lab, name="lab")


@lab.command("show")
def lab_show(
    section: Annotated[
        str, typer.Argument(help="world, families, grades, corpus, labellers, datasets, or one family.")
    ] = "world",
    seed: Annotated[int, typer.Option(min=0, help="Which world.")] = 0,
) -> None:
    """Look at the world, the families of tasks, and graded answers."""
    from rich.console import Console

    from .lab.show import show

    Console().print(show(section, seed))


def _console() -> Console:
    """Progress goes to the standard error; that of a launched rank is its log, so there it goes to the output."""
    from rich.console import Console

    from .train.launch import launched

    return Console(stderr=not launched())


def _launch_if_many(processes: int, out: Path) -> None:
    """Become the launcher of this same command where it asks for several processes."""
    from .train.launch import launch, launched

    if processes > 1 and not launched():
        ranks = out.with_name(f".{out.name}.ranks")
        command = [sys.executable, "-m", "nurture", *sys.argv[1:]]
        # Reading and tokenising a large file may take many minutes before the first step.
        code = launch(command, processes, ranks, start_timeout=1800, step_timeout=300)
        if code == InputError.exit_code and not any(out.rglob("config.yaml")):  # refused, and said why
            shutil.rmtree(ranks, ignore_errors=True)
        raise typer.Exit(code)


CHAT_HELP = """\
/reset         forget the conversation
/model MODEL   go on with another model or adapter
/system TEXT   set the system message and begin anew (without TEXT: none)
/help          this list
/quit          leave (or Ctrl-D); Ctrl-C stops an answer"""


def _talk(session: ChatSession) -> None:
    """Read a line, stream the answer, until the input ends. What comes from a pipe is echoed, so that the output reads
    as a dialogue."""
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        import readline  # noqa: F401  (gives `input` its editing and history)

        print("/help lists the commands.", file=sys.stderr)
    while True:
        try:
            line = input("> ") if at_terminal else sys.stdin.readline()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /quit leaves)", file=sys.stderr)
            continue
        if not at_terminal:
            if not line:
                return
            print(f"> {line.rstrip()}")
        text = line.strip()
        command, _, rest = text.partition(" ")
        if command == "/quit":
            return
        if command == "/reset":
            session.reset()
        elif command == "/system":
            session.system(rest.strip())
        elif command == "/model":
            _switch(session, rest.strip())
        elif command == "/help":
            print(CHAT_HELP)
        elif command.startswith("/") and command[1:].isalpha():
            print(f"There is no command {command}.\n{CHAT_HELP}")
        elif text:
            _answer(session, text)


def _switch(session: ChatSession, model: str) -> None:
    try:
        session.switch(model)
    except InputError as error:
        print(error, file=sys.stderr)


def _answer(session: ChatSession, text: str) -> None:
    from .show import printable

    answer = session.reply(text)
    try:
        for piece in answer:
            print(printable(piece), end="", flush=True)
        print()
    except KeyboardInterrupt:
        print(" (stopped)")
    except InputError as error:  # a conversation longer than the model's positions, say
        print(f"{error} /reset begins a new conversation.", file=sys.stderr)
    finally:
        if isinstance(answer, Generator):
            answer.close()  # at once, so that what was said is in the history before the next line is read
