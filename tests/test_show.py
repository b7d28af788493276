"""What is printed about a run: readable in a log, harmless in a terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from nurture.show import PLAIN_EVERY, SHOWN_CHARACTERS, Progress, duration, header, printable, quantity


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def plain_console() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=60, color_system=None), out


def test_without_a_terminal_there_is_a_line_every_few_seconds_and_one_at_the_end():
    console, out = plain_console()
    clock = Clock()
    with Progress("sft", 100, first=20, console=console, clock=clock) as progress:
        for step in range(21, 101):
            clock.now += 1.0
            metrics = {"loss": 2.0, "learning_rate": 1e-4}
            progress.update(step, metrics, tokens_per_second=5200.0, memory=1_200_000_000)
            if step == 50:
                progress.say("a checkpoint was saved, and this sentence is longer than the console is wide by far")
    lines = out.getvalue().splitlines()
    steps = [int(line.split()[1].split("/")[0]) for line in lines if line.startswith("sft ")]
    assert steps == [21, *range(26, 100, round(PLAIN_EVERY)), 100]
    assert lines[0] == "sft 21/100  loss 2.0000  lr 0.0001  5.2 k tok/s  1.2 GB  1 min 19 s left"
    assert lines[-1] == "sft 100/100  loss 2.0000  lr 0.0001  5.2 k tok/s  1.2 GB"
    assert "a checkpoint was saved, and this sentence is longer than the console is wide by far" in lines


def test_at_a_terminal_the_line_moves_and_shows_the_same_facts():
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    with Progress("sft", 10, console=console) as progress:
        progress.update(10, {"loss": 1.5}, tokens_per_second=99.0, memory=5000)
        progress.say("best so far")
    assert "10/10" in out.getvalue() and "loss 1.5000  99 tok/s  5.0 kB" in out.getvalue()
    assert "best so far" in out.getvalue()


def test_the_header_shows_facts_notes_and_the_example_with_its_mask():
    console, out = plain_console()
    example = Text("question ").append("⟦answer⟧")
    header(console, "sft in runs/x", {"model": "m", "batch": "16 groups\nper update"}, ["12 rows [bold]kept"], example)
    text = out.getvalue()
    assert "sft in runs/x" in text and "question ⟦answer⟧" in text and "12 rows [bold]kept" in text
    assert [line for line in text.splitlines() if line.startswith("batch")] == ["batch  16 groups "]


def test_a_long_example_is_cut_and_says_so():
    console, out = plain_console()
    header(console, "t", {}, example="x" * (SHOWN_CHARACTERS + 1234))
    assert "and 1,234 characters more" in out.getvalue()
    assert out.getvalue().count("x") <= SHOWN_CHARACTERS + 10


@pytest.mark.parametrize("text", ["\x1b]0;owned\x07", "\x1b[2J", "a\rb", "\x9b31m", "\u202egnp.exe", "\x08\x08"])
def test_what_a_terminal_would_obey_is_spelled_out(text):
    shown = printable(text)
    assert shown != text and all(c.isprintable() and c not in "\u202e" for c in shown)
    console, out = plain_console()
    header(console, "t", {"fact": text}, [text], Text(text, style="green"))
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e", "\x08"} & set(out.getvalue())


@given(st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=50))
def test_ordinary_text_is_left_alone(text):
    assert printable(f"{text}\n\t{text}") == f"{text}\n\t{text}"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (7, "7"), (99.99, "99.99"), (999, "999"), (5200, "5.2 k"), (999_499, "999.5 k"), (999_500, "0.9995 M"),
     (134_515_008, "134.5 M"), (7.6e9, "7.6 G"), (2e12, "2.0 T")],
)  # fmt: skip
def test_quantities(number, shown):
    assert quantity(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.0 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (185, "3 min 05 s"), (3599.6, "1 h 00 min"),
     (3725, "1 h 02 min")],
)  # fmt: skip
def test_durations(seconds, shown):
    assert duration(seconds) == shown
