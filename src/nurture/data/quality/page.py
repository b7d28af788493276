"""The HTML report of `nurture data stats`, its plots drawn as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...html_page import cut, document, section, text
from .rates import FAULTS
from .stats import Near, Stats
from .table import ROWS, ULTRACHAT, percent, published_cell, summary_lines

BARS = 16
"""Bars of a chart; what is rarer is drawn together as the rest."""

SHOWN_CHARACTERS = 400

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 220, 44, 8, 14, 40
ROW, LABEL = 22, 150


def page(stats: Sequence[Stats], title: str = "Data quality") -> str:
    last = stats[-1]
    sections = [
        f"<h1>{text(title)}</h1>",
        f'<p class="lead">{text(_lead(stats))}</p>',
        section("Measures", _table(stats)),
        *(section(f"Plots of {s.source}" if len(stats) > 1 else "Plots", _plots(s)) for s in stats),
        section("Near-duplicates", _pairs(last.rouge, "instructions, ROUGE-L at least 0.7")),
        section("Exact duplicates", _pairs(last.exact, "dialogues with the same words")),
        section("Overlap with the evaluation set", _overlap(last)),
        section("Faults of form", _faults(last)),
        section("Rude words", _words(last)),
    ]
    return document(title, sections, _STYLE)


def _lead(stats: Sequence[Stats]) -> str:
    last = stats[-1]
    several = f" from {len(stats) - 1} sources" if len(stats) > 1 else f" from {last.source}"
    return f"{last.dialogues:,} dialogues{several}, {last.total:,} {last.unit}."


def _table(stats: Sequence[Stats]) -> str:
    heads = "".join(f"<th>{text(s.source)}</th>" for s in stats)
    rows = "\n".join(
        f'<tr><th>{text(name)}<span class="note">{text(meaning)}</span></th>'
        + "".join(f"<td>{text(cell(s))}</td>" for s in stats)
        + f'<td class="soft">{text(published_cell(ULTRACHAT, name))}</td></tr>'
        for name, meaning, cell in ROWS
    )
    notes = "".join(f"<p>{text(line)}</p>" for line in summary_lines(stats))
    head = f"<tr><th></th>{heads}<th>{text(ULTRACHAT.name)}, published</th></tr>"
    return f'<div class="wide"><table class="measures">{head}\n{rows}\n</table></div><div class="note">{notes}</div>'


# ---- plots ----


def _plots(stats: Stats) -> str:
    figures = [
        _figure("Lengths of dialogues", f"in {stats.unit}, the scale is logarithmic", histogram(stats)),
        _figure("Tasks", "by name" if stats.task_kind == "tasks" else f"by {stats.task_kind}", bars(stats.tasks)),
        _figure("Form of answers", "by their looks", bars(stats.forms)),
        _figure("Languages", "by script and function words", bars(stats.languages)),
    ]
    return f'<div class="charts">{"".join(figures)}</div>'


def _figure(title: str, caption: str, drawing: str) -> str:
    if not drawing:
        return ""
    return f"<figure><figcaption><b>{text(title)}</b> {text(caption)}</figcaption>{drawing}</figure>"


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
            f"<title>{text(told)}</title></rect>"
        )
        parts.append(f'<text x="{x:.1f}" y="{floor + 15}" text-anchor="middle">{_short_number(low)}</text>')
    last = stats.histogram[-1][1]
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{floor + 15}" text-anchor="end">{_short_number(last)}</text>')
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{text(stats.unit)}</text>')
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
            f'<text x="{LABEL - 8}" y="{y + 15}" text-anchor="end">{text(cut(kind or "(none)", 22))}</text>'
            f'<rect class="{style}" x="{LABEL}" y="{y + 2}" width="{wide:.1f}" height="{ROW - 6}">'
            f"<title>{text(kind)}: {count:,}</title></rect>"
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
    return f"<p>{text(lead)}</p>" + _pair_table([(e[2:], e[:2]) for e in near.examples])


def _overlap(stats: Stats) -> str:
    if not stats.against or not stats.against.examples:
        return ""
    lead = f"{stats.against.rows:,} rows share words with the evaluation set. Some of them, below its row:"
    return f"<p>{text(lead)}</p>" + _pair_table([(e[2:], e[:2]) for e in stats.against.examples])


def _pair_table(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> str:
    rows: list[str] = []
    for first, second in pairs:
        for style, (where, said) in (("first", first), ("second", second)):
            rows.append(
                f'<tr class="{style}"><td>{text(where)}</td><td><pre>{text(cut(said, SHOWN_CHARACTERS))}</pre></td>'
                "</tr>"
            )
    return f'<table class="pairs">{"".join(rows)}</table>'


def _faults(stats: Stats) -> str:
    if not stats.faults:
        return ""
    heads = "<tr><th>fault</th><th>dialogues</th><th>meaning</th><th>the first</th></tr>"
    rows = "".join(
        f"<tr><td>{text(fault)}</td><td>{count:,}</td><td>{text(FAULTS[fault])}</td>"
        f"<td>{text(stats.fault_examples.get(fault, ''))}</td></tr>"
        for fault, count in stats.faults.items()
    )
    return f'<table class="pairs">{heads}{rows}</table>'


def _words(stats: Stats) -> str:
    if not stats.toxic_words:
        return ""
    found = ", ".join(f"{word} ({count:,})" for word, count in list(stats.toxic_words.items())[:20])
    return f"<p>{text(found)}</p>"


_STYLE = """
.wide { overflow-x: auto; }
th, td { padding: .3rem 1rem .3rem 0; }
th { font-weight: 500; }
.measures th:first-child { width: 17rem; min-width: 12rem; }
.measures tr + tr, .pairs tr.first, .pairs tr + tr:not(.second) { border-top: 1px solid var(--rule); }
.measures td { font-variant-numeric: tabular-nums; min-width: 8rem; }
.soft { color: var(--soft); }
.note { display: block; font-size: .78rem; font-weight: 400; line-height: 1.35; }
.note p { margin: .4rem 0 0; }
.pairs td:first-child { white-space: nowrap; color: var(--soft); width: 1%; }
.pairs tr.second td { padding-bottom: .7rem; }
figcaption { margin-bottom: .5rem; }
svg { font-size: 12px; }
.bar { fill: var(--s0); } .bar.rest { fill: var(--rest); }
"""
