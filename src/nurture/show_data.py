"""Records as a model will see them, in the terminal and as a page: what carries loss is green."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from .show import printable

if TYPE_CHECKING:
    from .data.views import Part, Shown


def print_shown(console: Console, shown: Sequence[Shown]) -> None:
    """Without colours what carries loss stands between ⟦ and ⟧."""
    for record in shown:
        console.print(Text(printable(f"{record.origin}  {record.kind}"), style="bold"))
        for title, parts in record.views:
            text = Text()
            for part in parts:
                piece = printable(part.text)
                if not part.trained:
                    text.append(piece)
                elif console.is_terminal:
                    text.append(piece, style="green")
                else:
                    text.append(f"⟦{piece}⟧")
            console.print(Panel(text, title=Text(title) if title else None, title_align="left"))
        for name, value in record.facts.items():
            console.print(Text(printable(f"  {name}: {value}"), style="dim"))


STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { font-size: 1rem; margin: 2rem 0 .5rem; } h3 { font-size: .9rem; font-weight: normal; margin: .5rem 0 .2rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #8886; border-radius: 6px; padding: .7rem; }
mark { background: #2a93; color: inherit; border-radius: 3px; box-decoration-break: clone; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: .9rem; } dt { opacity: .7; }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
"""


def page(shown: Sequence[Shown], title: str) -> str:
    """One page that holds all it needs and loads nothing. All text of the data is escaped."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{_text(title)}</h1>\n"
        f"<p><mark>Marked</mark> text carries loss.</p>\n{''.join(map(_record, shown))}</body>\n</html>\n"
    )


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


def _text(text: str) -> str:
    return html.escape(printable(text))
