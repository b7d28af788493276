"""The shell of every page we write: one self-contained file without script or network, light or dark as one likes.

Whatever comes from models and data goes through `text`; a policy in the page's head forbids all that is not in it.
"""

from __future__ import annotations

import html
from collections.abc import Iterable


def document(title: str, sections: Iterable[str], style: str = "") -> str:
    """A whole page of finished sections; empty ones are left out."""
    body = "\n".join(part for part in sections if part)
    head = f"{_HEAD}<title>{text(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>"
    return f"{head}\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"


def text(value: object) -> str:
    return html.escape(str(value), quote=True)


def section(title: str, content: str) -> str:
    return f"<section><h2>{text(title)}</h2>\n{content}\n</section>" if content else ""


def colour(number: int) -> str:
    """The class of a series, by its number: `--series` is its colour there."""
    return f"s{number % COLOURS}"


def cut(value: str, most: int) -> str:
    return value if len(value) <= most else value[: most - 1] + "…"


COLOURS = 9
"""So many series are told apart."""

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
"""

_STYLE = """
:root {
  --ink: #1c2024; --soft: #60646c; --paper: #fcfcfd; --card: #f2f3f5; --rule: #d9dbe0; --rest: #9aa3af;
  --s0: #1f6feb; --s1: #c2540a; --s2: #2f9e63; --s3: #8a4fc4; --s4: #b0297a;
  --s5: #0e8a97; --s6: #8a6d00; --s7: #5b6472; --s8: #d1242f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8eaed; --soft: #a0a6b0; --paper: #14171a; --card: #1e2226; --rule: #363b42; --rest: #69707a;
    --s0: #6cb0ff; --s1: #ffa657; --s2: #6fd39a; --s3: #c5a0f0; --s4: #f08cc0;
    --s5: #5fd0dc; --s6: #dcc04a; --s7: #a9b2bf; --s8: #ff7b72;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0; font-size: 1.7rem; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.15rem; border-bottom: 1px solid var(--rule); padding-bottom: .3rem; }
.lead { margin: .25rem 0 0; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 1.25rem; }
figure { margin: 0; padding: .75rem; background: var(--card); border-radius: 8px; }
figcaption { font-size: .85rem; color: var(--soft); }
figcaption b { color: var(--ink); margin-right: .4em; }
svg { display: block; width: 100%; height: auto; font: 11px system-ui, sans-serif; }
svg text { fill: var(--soft); }
.grid { stroke: var(--rule); }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.45 ui-monospace, monospace; }
.note { color: var(--soft); font-size: .8rem; }
""" + "".join(f".s{i} {{ --series: var(--s{i}); }}\n" for i in range(COLOURS))
