"""What a person at a terminal sees of a training: the facts before it, then a line that moves.

Where the output is no terminal (a log file, CI) the moving line becomes a plain line every few seconds.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from .files import readable_size

PLAIN_EVERY = 5.0
"""Seconds between two lines where there is no terminal."""

SHOWN_CHARACTERS = 2000
"""Of the decoded example."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Text of a model or a data file, safe to print: control characters, which a terminal would obey, are spelled
    out."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def quantity(number: float) -> str:
    """`134.5 M`: four significant digits at most."""
    for unit in ("", " k", " M", " G"):
        if abs(number) < 999.5:
            return f"{number:.4g}{unit}" if abs(number) < 100 or not unit else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f} T"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 05 s`, `1 h 02 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def header(
    console: Console,
    title: str,
    facts: Mapping[str, str],
    notes: Sequence[str] = (),
    example: Text | str | None = None,
) -> None:
    """What is about to happen: facts in two columns, notes (the data report) below, one decoded example in a frame."""
    console.print(Text(title, style="bold"))
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(Text(name, style="dim"), Text(printable(value)))
    console.print(table)
    for note in notes:
        console.print(Text(printable(note)))
    if example is not None:
        console.print(Panel(_example(example), title="first example, trained tokens marked", title_align="left"))


def _example(example: Text | str) -> RenderableType:
    text = example.copy() if isinstance(example, Text) else Text(example)
    shown, spans = printable(text.plain), text.spans
    if shown != text.plain:  # spelled-out characters would shift the marks, so each is replaced one for one
        shown = _CONTROL.sub("�", text.plain)
    safe = Text(shown, spans=spans)
    if len(safe) > SHOWN_CHARACTERS:
        more = len(safe) - SHOWN_CHARACTERS
        safe = safe[:SHOWN_CHARACTERS]
        safe.append(f"\n… and {more:,} characters more", style="dim")
    return safe


class Progress:
    """The moving line of a training.

    with Progress("sft", steps=40) as progress:
        progress.update(1, metrics, tokens_per_second=5200.0, memory=2**30)
    """

    def __init__(
        self,
        title: str,
        steps: int,
        *,
        first: int = 0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`first` is the number of steps done before (a resumed run)."""
        self.console = console or Console(stderr=True)
        self.title, self.steps, self.first, self._clock = title, steps, first, clock
        self._bar: Bar | None = None
        self._started = self._shown = clock()
        if self.console.is_terminal:
            self._bar = Bar(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[facts]}"),
                console=self.console,
                expand=True,
                transient=False,
            )
            self._task = self._bar.add_task(title, total=steps, completed=first, facts="")

    def __enter__(self) -> Progress:
        self._started = self._clock()
        self._shown = self._started - PLAIN_EVERY
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def update(
        self, step: int, metrics: Mapping[str, float], *, tokens_per_second: float, memory: int, split: str = ""
    ) -> None:
        """`split`: where the time of a rollout went."""
        facts = self._facts(step, metrics, tokens_per_second, memory) + [split] * bool(split)
        if self._bar:
            self._bar.update(self._task, completed=step, facts="  ".join(facts))
        elif self._clock() - self._shown >= PLAIN_EVERY or step == self.steps:
            self._shown = self._clock()
            self.say(f"{self.title} {step}/{self.steps}  " + "  ".join(facts))

    def say(self, text: str) -> None:
        """A line that stays (a checkpoint, an evaluation, a warning)."""
        console = self._bar.console if self._bar else self.console
        console.print(Text(printable(text)), soft_wrap=True)

    def _facts(self, step: int, metrics: Mapping[str, float], tokens_per_second: float, memory: int) -> list[str]:
        shown = [f"{name} {metrics[name]:.4f}" for name in ("loss", "reward") if name in metrics]
        if "learning_rate" in metrics:
            shown.append(f"lr {metrics['learning_rate']:.3g}")
        shown += [f"{quantity(tokens_per_second)} tok/s", readable_size(memory)]
        done = step - self.first
        if done > 0 and step < self.steps:
            left = (self._clock() - self._started) / done * (self.steps - step)
            shown.append(f"{duration(left)} left")
        return shown
