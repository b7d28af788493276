"""The HTML report of `nurture data stats`: one self-contained page, plots drawn as SVG, no script and no network.

All text of the data is escaped, and a policy in the page's head forbids everything that is not in it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from .rates import FAULTS
from .stats import Near, Stats
from .table import ROWS, ULTRACHAT, percent, published_cell, summary_lines

BARS = 12
"""Bars of a chart; what is rarer is drawn together as the rest."""

SHOWN_CHARACTERS = 400

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 220, 44, 8, 14, 40
ROW, LABEL = 22, 150


def page(stats: Sequence[Stats], title: str = "Data quality") -> str:
    last = stats[-1]
    sections = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="lead">{_text(_lead(stats))}</p>',
        _section("Measures", _table(stats)),
        *(_section(f"Plots of {s.source}" if len(stats) > 1 else "Plots", _plots(s)) for s in stats),
        _section("Near-duplicates", _pairs(last.rouge, "instructions, ROUGE-L at least 0.7")),
        _section("Exact duplicates", _pairs(last.exact, "dialogues with the same words")),
        _section("Overlap with the evaluation set", _overlap(last)),
        _section("Faults of form", _faults(last)),
        _section("Rude words", _words(last)),
    ]
    body = "\n".join(part for part in sections if part)
    return (
        f"{_HEAD}<title>{_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


def _lead(stats: Sequence[Stats]) -> str:
    last = stats[-1]
    several = f" from {len(stats) - 1} sources" if len(stats) > 1 else f" from {last.source}"
    return f"{last.dialogues:,} dialogues{several}, {last.total:,} {last.unit}."


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>\n{content}\n</section>" if content else ""


def _table(stats: Sequence[Stats]) -> str:
    heads = "".join(f"<th>{_text(s.source)}</th>" for s in stats)
    rows = "\n".join(
        f'<tr><th>{_text(name)}<span class="note">{_text(meaning)}</span></th>'
        + "".join(f"<td>{_text(cell(s))}</td>" for s in stats)
        + f'<td class="soft">{_text(published_cell(ULTRACHAT, name))}</td></tr>'
        for name, meaning, cell in ROWS
    )
    notes = "".join(f"<p>{_text(line)}</p>" for line in summary_lines(stats))
    head = f"<tr><th></th>{heads}<th>{_text(ULTRACHAT.name)}, published</th></tr>"
    return f'<div class="wide"><table class="measures">{head}\n{rows}\n</table></div><div class="note">{notes}</div>'


# ---- plots ----


def _plots(stats: Stats) -> str:
    figures = [
        _figure("Lengths of dialogues", f"in {stats.unit}, the scale is logarithmic", histogram(stats)),
        _figure("Tasks", stats.task_kind, bars(stats.tasks)),
        _figure("Form of answers", "by their looks", bars(stats.forms)),
        _figure("Languages", "by script and function words", bars(stats.languages)),
    ]
    return f'<div class="charts">{"".join(figures)}</div>'


def _figure(title: str, caption: str, drawing: str) -> str:
    if not drawing:
        return ""
    return f"<figure><figcaption><b>{_text(title)}</b> {_text(caption)}</figcaption>{drawing}</figure>"


def histogram(stats: Stats) -> str:
    """How many dialogues have which length."""
    most = max((count for *_, count in stats.histogram), default=0)
    if not most:
        return ""
    width = (WIDTH - LEFT - RIGHT) / len(stats.histogram)
    floor = HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="lengths of dialogues">']
    for tick in (0.5, 1.0):
        y = floor - tick * (floor - TOP)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{percent(tick * most / stats.dialogues)}</text>'
        )
    for i, (low, high, count) in enumerate(stats.histogram):
        x, tall = LEFT + i * width, count / most * (floor - TOP)
        told = f"{low:,} to {high - 1:,}: {count:,} dialogues ({percent(count / stats.dialogues)})"
        parts.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{floor - tall:.1f}" width="{width - 2:.1f}" height="{tall:.1f}">'
            f"<title>{_text(told)}</title></rect>"
        )
        parts.append(f'<text x="{x:.1f}" y="{floor + 15}" text-anchor="middle">{_short_number(low)}</text>')
    last = stats.histogram[-1][1]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{floor + 15}" text-anchor="end">{_short_number(last)}</text>')
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{_text(stats.unit)}</text>')
    return "".join([*parts, "</svg>"])


def bars(counts: Mapping[str, int]) -> str:
    """The commonest kinds, and all others together."""
    whole = sum(counts.values())
    if not whole:
        return ""
    shown = list(counts.items())[:BARS]
    rest = whole - sum(count for _, count in shown)
    shown += [(f"{len(counts) - BARS:,} others", rest)] if rest else []
    most = max(count for _, count in shown)
    room = WIDTH - LABEL - 60
    parts = [f'<svg viewBox="0 0 {WIDTH} {ROW * len(shown) + 8}" role="img" aria-label="shares">']
    for i, (kind, count) in enumerate(shown):
        y, wide = 4 + i * ROW, count / most * room
        style = "bar rest" if rest and i == BARS else "bar"
        parts.append(
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{_text(_cut(kind or "(none)", 22))}</text>'
            f'<rect class="{style}" x="{LABEL}" y="{y + 2}" width="{wide:.1f}" height="{ROW - 6}">'
            f"<title>{_text(kind)}: {count:,}</title></rect>"
            f'<text x="{LABEL + wide + 6:.1f}" y="{y + 15}">{percent(count / whole)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _short_number(n: int) -> str:
    return f"{n // 1024}k" if n >= 4096 else f"{n}"


# ---- examples ----


def _pairs(near: Near, what: str) -> str:
    if not near.examples:
        return ""
    lead = f"{near.removed:,} of {near.among:,} {what}. Some of them, each below the earlier one it resembles:"
    return f"<p>{_text(lead)}</p>" + _pair_table([(e[2:], e[:2]) for e in near.examples])


def _overlap(stats: Stats) -> str:
    if not stats.against or not stats.against.examples:
        return ""
    lead = f"{stats.against.rows:,} rows share words with the evaluation set. Some of them, below its row:"
    return f"<p>{_text(lead)}</p>" + _pair_table([(e[2:], e[:2]) for e in stats.against.examples])


def _pair_table(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> str:
    rows: list[str] = []
    for first, second in pairs:
        for style, (where, text) in (("first", first), ("second", second)):
            rows.append(
                f'<tr class="{style}"><td>{_text(where)}</td><td><pre>{_text(_cut(text, SHOWN_CHARACTERS))}</pre></td>'
                "</tr>"
            )
    return f'<table class="pairs">{"".join(rows)}</table>'


def _faults(stats: Stats) -> str:
    if not stats.faults:
        return ""
    heads = "<tr><th>fault</th><th>dialogues</th><th>meaning</th><th>the first</th></tr>"
    rows = "".join(
        f"<tr><td>{_text(fault)}</td><td>{count:,}</td><td>{_text(FAULTS[fault])}</td>"
        f"<td>{_text(stats.fault_examples.get(fault, ''))}</td></tr>"
        for fault, count in stats.faults.items()
    )
    return f'<table class="pairs">{heads}{rows}</table>'


def _words(stats: Stats) -> str:
    if not stats.toxic_words:
        return ""
    found = ", ".join(f"{word} ({count:,})" for word, count in list(stats.toxic_words.items())[:20])
    return f"<p>{_text(found)}</p>"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


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
  --ink: #1c2024; --soft: #60646c; --paper: #fcfcfd; --card: #f2f3f5; --rule: #d9dbe0; --s0: #1f6feb; --rest: #9aa3af;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e8eaed; --soft: #a0a6b0; --paper: #14171a; --card: #1e2226; --rule: #363b42; --s0: #6cb0ff; --rest: #69707a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { margin: 0; font-size: 1.7rem; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.15rem; border-bottom: 1px solid var(--rule); padding-bottom: .3rem; }
.lead { margin: .25rem 0 0; color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; overflow-wrap: anywhere; }
th { font-weight: 500; }
.measures th:first-child { width: 17rem; min-width: 12rem; }
.measures tr + tr, .pairs tr.first, .pairs tr + tr:not(.second) { border-top: 1px solid var(--rule); }
.measures td { font-variant-numeric: tabular-nums; min-width: 8rem; }
.soft, .note { color: var(--soft); }
.note { display: block; font-size: .78rem; font-weight: 400; line-height: 1.35; }
.note p { margin: .4rem 0 0; }
.pairs td:first-child { white-space: nowrap; color: var(--soft); width: 1%; }
.pairs tr.second td { padding-bottom: .7rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 1.25rem; }
figure { margin: 0; padding: .75rem; background: var(--card); border-radius: 8px; }
figcaption { font-size: .85rem; color: var(--soft); margin-bottom: .5rem; }
figcaption b { color: var(--ink); margin-right: .4em; }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); }
.grid { stroke: var(--rule); }
.bar { fill: var(--s0); } .bar.rest { fill: var(--rest); }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: .82rem/1.45 ui-monospace, monospace; }
"""
