"""Records as a model will see them, in the terminal and as a page: what carries loss is green."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from .html_page import document, text
from .show import printable

if TYPE_CHECKING:
    from .data.views import Part, Shown


def print_shown(console: Console, shown: Sequence[Shown]) -> None:
    """Without colours what carries loss stands between ⟦ and ⟧."""
    for record in shown:
        console.print(Text(printable(f"{record.origin}  {record.kind}"), style="bold"))
        for title, parts in record.views:
            said = Text()
            for part in parts:
                piece = printable(part.text)
                if not part.trained:
                    said.append(piece)
                elif console.is_terminal:
                    said.append(piece, style="green")
                else:
                    said.append(f"⟦{piece}⟧")
            console.print(Panel(said, title=Text(title) if title else None, title_align="left"))
        for name, value in record.facts.items():
            console.print(Text(printable(f"  {name}: {value}"), style="dim"))


STYLE = """
h2 { font-size: 1rem; margin: 2rem 0 .5rem; } h3 { font-size: .9rem; font-weight: normal; margin: .5rem 0 .2rem; }
pre { border: 1px solid var(--rule); border-radius: 8px; padding: .7rem; }
mark { background: #2a93; color: inherit; border-radius: 3px; box-decoration-break: clone; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: .9rem; } dt { opacity: .7; }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
"""


def page(shown: Sequence[Shown], title: str) -> str:
    title = printable(title)
    lead = "<p><mark>Marked</mark> text carries loss.</p>"
    return document(title, [f"<h1>{text(title)}</h1>", lead, *map(_record, shown)], STYLE)


def _record(record: Shown) -> str:
    views = "".join(
        (f"<h3>{_text(title)}</h3>" if title else "") + f"<pre>{''.join(map(_part, parts))}</pre>\n"
        for title, parts in record.views
    )
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in record.facts.items())
    listed = f"<dl>{facts}</dl>\n" if facts else ""
    return f"<section>\n<h2>{_text(record.origin)} · {_text(record.kind)}</h2>\n{views}{listed}</section>\n"


def _part(part: Part) -> str:
    return f"<mark>{_text(part.text)}</mark>" if part.trained else _text(part.text)


def _text(value: str) -> str:
    return text(printable(value))
