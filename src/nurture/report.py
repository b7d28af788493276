"""`report.html`: one self-contained page about one run, also of one that still goes on or was interrupted.

Curves are SVG drawn here.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import readable_size, replace_synced
from .html_page import colour, document, section, text
from .recipe import method_class
from .runs import METRICS, Run, read_run, rows_of
from .show import duration
from .yaml12 import read_yaml

POINTS = 400
"""The most points of a drawn curve; a longer one keeps the lowest and highest of each stretch."""

NO_CURVE = ("step", "skipped")
SHOWN_EVENTS = 200
STRETCHES = 20
"""Points of the curve over the distance from the reference."""
SHOWN_SAMPLES = 8
"""Answers shown of one prompt, spread over the run."""


def write_report(folder: Path) -> Path:
    """Write `report.html` from the other files of the run folder; returns its path."""
    path = folder / "report.html"
    replace_synced(path, page(folder).encode())
    return path


def page(folder: Path) -> str:
    metrics = list(rows_of(folder / "metrics.jsonl"))
    events = list(rows_of(folder / "events.jsonl"))
    written = list(rows_of(folder / "samples.jsonl"))
    samples = [row for row in written if "rollout" not in row]
    run = read_run(folder)
    title = f"{run.method}: {folder.absolute().name}"
    sections = [
        f"<h1>{text(title)}</h1>",
        f'<p class="lead">{text(_summary(run))}</p>',
        section("Facts", facts_table(_facts(run, metrics, events))),
        section("Reward card", _reward_card(folder)),
        section("Curves", _curves(metrics, events, _meanings(run.method))),
        section("Rollouts", _rollouts([row for row in written if "rollout" in row])),
        section("Samples", _samples(samples)),
        section("Data", _data(folder)),
        section("Events", _events(events)),
        section("Configuration", f"<pre>{text((folder / 'config.yaml').read_text(encoding='utf-8'))}</pre>"),
    ]
    return document(title, sections, STYLE)


def _summary(run: Run) -> str:
    of = f" of {run.steps}" if run.steps is not None else ""
    return f"{run.state.capitalize()} at step {run.step}{of} after {duration(run.seconds)}."


# --- facts ------------------------------------------------------------------------------------------------------------


def _facts(run: Run, metrics: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    config = read_yaml(run.folder / "config.yaml").value
    facts = {"method": run.method, "model": _short(config.get("model")), "data": _short(config.get("data"))}
    for name in ("loss", "eval/loss", "eval/perplexity", "eval/token_accuracy"):
        values = [float(row[name]) for row in metrics if name in row]
        if values:
            facts[name] = _number(values[0]) if len(values) == 1 else f"{_number(values[0])} → {_number(values[-1])}"
    best = [event for event in events if event["event"] == "best"]
    if best:
        facts["best step"] = str(best[-1].get("step"))
    if tokens := sum(row.get("tokens", 0) for row in metrics):
        facts["tokens trained on"] = f"{tokens:,.0f}"
    if skipped := sum(1 for row in metrics if row.get("skipped")):
        facts["updates skipped"] = str(skipped)
    timings = [event for event in events if event["event"] == "timing"]
    if speeds := sorted(event["tokens_per_second"] for event in timings if "tokens_per_second" in event):
        facts["tokens per second (median)"] = f"{speeds[len(speeds) // 2]:,.0f}"
    if peaks := [event["memory"] for event in timings if "memory" in event]:
        facts["peak memory"] = readable_size(max(peaks))
    if starts := [event for event in events if event["event"] == "start"]:
        facts |= {
            key: _short(value) for key, value in starts[-1].items() if key not in ("event", "time", "data", "model")
        }
    facts["time"] = duration(run.seconds)
    facts["size on disk"] = readable_size(run.num_bytes)
    return facts


def facts_table(facts: Mapping[str, str]) -> str:
    rows = "\n".join(f"<tr><th>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in facts.items())
    return f'<table class="facts">\n{rows}\n</table>'


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1e5 and math.isfinite(value) else f"{value:.4g}"


# --- curves -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Series:
    """One curve: (step, value) with finite values only, in the order of the steps."""

    name: str
    points: Sequence[tuple[float, float]]


def _meanings(method: str) -> Mapping[str, str]:
    try:
        return {**METRICS, **method_class(method).metrics}
    except InputError:  # a method of one's own that cannot be imported from here: its curves have no caption
        return METRICS


def _curves(
    metrics: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], meanings: Mapping[str, str]
) -> str:
    """A chart for every metric in the order of its first appearance; what is measured in training and in evaluation
    shares one. Speed and memory come from the events."""
    names = list(dict.fromkeys(name for row in metrics for name in row if name not in NO_CURVE))
    timings = [event for event in events if event["event"] == "timing"]
    charts: list[str] = []
    for name in names:
        if name.startswith("eval/") and name.removeprefix("eval/") in names:
            continue
        together = [name, f"eval/{name}"] if f"eval/{name}" in names else [name]
        charts.append(figure(name, meanings.get(name, ""), [series_of(part, metrics) for part in together]))
    charts.append(_over_optimisation(metrics))
    spent = [{"step": event["step"], **event["seconds"]} for event in events if event["event"] == "rollout"]
    parts = dict.fromkeys(name for row in spent for name in row if name != "step")
    charts.append(figure("seconds", "of each rollout, by what they went into", [series_of(p, spent) for p in parts]))
    charts.append(figure("tokens_per_second", "since the start", [series_of("tokens_per_second", timings)]))
    memory = series_of("memory", timings)
    charts.append(figure("memory", "peak GB", [Series("memory", [(x, y / 1e9) for x, y in memory.points])]))
    drawn = "\n".join(chart for chart in charts if chart)
    return f'<div class="charts">\n{drawn}\n</div>' if drawn else "<p>No step is recorded yet.</p>"


EXPLOITED = "in nats per response: where the reward rises on and the oracle falls, the reward is being exploited"
"""What is to be seen where reward and oracle are drawn over the distance."""


def by_distance(metrics: Sequence[Mapping[str, Any]]) -> list[Series]:
    """What the reward and the oracle say at each distance from the reference, as means over stretches of updates."""
    names = ("rollout/score", "rollout/oracle")
    rows = [row for row in metrics if all(name in row for name in ("rollout/kl", *names))]
    size = max(1, math.ceil(len(rows) / STRETCHES))
    stretches = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [Series(n, sorted((mean(some, "rollout/kl"), mean(some, n)) for some in stretches)) for n in names]


def mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    """Of a metric over rows that all have it."""
    return sum(float(row[name]) for row in rows) / len(rows)


def _over_optimisation(metrics: Sequence[Mapping[str, Any]]) -> str:
    meaning = f"over the distance from the reference, {EXPLOITED}"
    return figure("reward and oracle", meaning, by_distance(metrics), across="nat")


def series_of(name: str, rows: Iterable[Mapping[str, Any]]) -> Series:
    """A metric over the steps of a run."""
    pairs = [(row["step"], row[name]) for row in rows if name in row and "step" in row]
    return Series(name, [(float(x), float(y)) for x, y in pairs if math.isfinite(float(y))])


def figure(title: str, meaning: str, series: Sequence[Series], across: str = "step") -> str:
    drawn = [s for s in series if s.points]
    if not drawn:
        return ""
    named = [f'<span class="key {colour(i)}">{text(s.name)}</span>' for i, s in enumerate(drawn)]
    keys = "".join(named) if drawn[1:] else ""
    caption = f"<figcaption><b>{text(title)}</b> {text(meaning)} {keys}</figcaption>"
    return f"<figure>{caption}{chart(drawn, across)}</figure>"


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 520, 220, 58, 10, 10, 26


def chart(series: Sequence[Series], across: str = "step") -> str:
    """Curves over the step (or whatever else goes across) in one SVG: axes with round numbers, a title on every point
    to hover over."""
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    (x0, x1), (y0, y1) = _span(xs, 0.0), _span(ys, 0.04)

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(series[0].name)} over the {across}s">']
    for tick in ticks(y0, y1, 5):
        y = at(x0, tick)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(tick)}</text>')
    for tick in ticks(x0, x1, 6):
        if tick == round(tick) or across != "step":
            x = at(tick, y0)[0]
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_tick(tick)}</text>')
    for number, one in enumerate(series):
        points = thinned(one.points, POINTS)
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in points))
        parts.append(f'<polyline class="curve {colour(number)}" points="{path}"/>')
        kind = f"{'dot' if len(points) <= 40 else 'dot hidden'} {colour(number)}"
        for step, value in points:
            x, y = at(step, value)
            at_x = f"{step:.0f}" if across == "step" else _number(step)
            told = f"{across} {at_x}: {text(one.name)} {_number(value)}"
            parts.append(f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{told}</title></circle>')
    return "".join([*parts, "</svg>"])


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return low - room, high + room
    return low - margin * (high - low), high + margin * (high - low)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most about `most` round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [k * step for k in range(first, last + 1)]


def _tick(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}"
    return f"{value:.6g}"


def thinned(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most about `most` points: of each stretch the lowest and the highest, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    kept: dict[tuple[float, float], None] = {points[0]: None}
    for start in range(0, len(points), stretch):
        some = points[start : start + stretch]
        ends = {min(some, key=lambda p: p[1]), max(some, key=lambda p: p[1])}
        kept |= dict.fromkeys(sorted(ends))
    return list(kept | {points[-1]: None})


# --- samples, data, events --------------------------------------------------------------------------------------------


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    prompts: dict[str, list[Mapping[str, Any]]] = {}
    for sample in samples:
        prompts.setdefault(str(sample.get("prompt", "")), []).append(sample)
    parts: list[str] = []
    for prompt, answers in prompts.items():
        rows = "".join(_answer(answer) for answer in _spread(answers, SHOWN_SAMPLES))
        parts.append(f'<div class="sample"><pre class="prompt">{text(prompt)}</pre><table>{rows}</table></div>')
    return "\n".join(parts)


def _rollouts(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best, the worst and any answer of the first rollout and of the last."""
    scored = [row for row in rows if "score" in row]
    if not scored:
        return ""
    parts: list[str] = []
    for number in dict.fromkeys((scored[0]["rollout"], scored[-1]["rollout"])):
        some = sorted((row for row in scored if row["rollout"] == number), key=lambda row: row["score"])
        any_one = random.Random(number).choice(some)
        for what, row in {"best": some[-1], "worst": some[0], "any": any_one}.items():
            said = f"score {_number(row['score'])}: {row['reason']}"
            said += f"; oracle {_number(row['oracle'])}" if "oracle" in row else ""
            cells = f'<pre>{text(row["response"])}</pre><span class="note">{text(said)}</span>'
            head = f"<tr><th>rollout {number + 1}, {what}</th><td>{cells}</td></tr>"
            parts.append(
                f'<div class="sample"><pre class="prompt">{text(row["prompt"])}</pre><table>{head}</table></div>'
            )
    return "\n".join(parts)


def _answer(sample: Mapping[str, Any]) -> str:
    note = '<span class="note">cut at max_tokens</span>' if sample.get("reason") == "length" else ""
    response = text(sample.get("response", ""))
    return f"<tr><th>step {text(sample.get('step', '?'))}</th><td><pre>{response}</pre>{note}</td></tr>"


def _spread(items: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most `most` of them, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


HELD_OUT = (
    "answers", "prompts", "pairs", "pairs_from", "accuracy", "steps", "step_accuracy", "accuracy_on_wrong_steps",
    "accuracy_on_right_steps", "always_the_commoner", "calibration_error",
)  # fmt: skip


def _reward_card(folder: Path) -> str:
    """The verdict on a reward model, and every table of its card."""
    path = folder / "reward_card.json"
    if not path.exists():
        return ""
    card: dict[str, Any] = json.loads(path.read_bytes())
    parts = [f'<p class="verdict"><b>{text(card["verdict"])}</b>: {text(card["reason"])}</p>']
    held_out = {name.replace("_", " "): _told(card[name]) for name in HELD_OUT if name in card}
    parts.append(facts_table(held_out))
    if bins := card.get("calibration"):
        parts.append(_diagonal("calibration", "how often right", "certainty", [(b["sure"], b["share"]) for b in bins]))
    for criterion, row in card.get("criteria", {}).items():
        if fifths := [(b["guess"], b["truth"]) for b in row.pop("by_guess", [])]:
            parts.append(_diagonal(criterion, "as people rate it, by fifths of the guesses", "guess", fifths))
    titles = {
        "by_score_gap": "Accuracy by how far the two scores are apart (quarters of the pairs)",
        "by_margin": "Accuracy by the margin people gave (quarters of the pairs)",
        "calibration": "Calibration: how sure, and how often right",
        "length": "Length",
        "criteria": "Criteria",
        "labellers": "Agreement with each labeller on the held-out comparisons",
        "lab": "Agreement with the lab's judges",
    }
    for name, title in titles.items():
        if rows := card.get(name):
            listed = list(rows.items()) if isinstance(rows, dict) else [(str(i + 1), row) for i, row in enumerate(rows)]
            parts.append(f"<h3>{title}</h3>{facts_table({key: _told(row) for key, row in listed})}")
    for mistake in card.get("worst_mistakes", []):
        rows = "".join(
            f"<tr><th>{kind} {mistake[f'score_{kind}']:.2f}</th><td><pre>{text(mistake[kind])}</pre></td></tr>"
            for kind in ("better", "worse")
        )
        parts.append(
            f'<div class="sample"><pre class="prompt">{text(mistake["prompt"])}</pre><table>{rows}</table></div>'
        )
    return "\n".join(parts)


def _diagonal(title: str, meaning: str, across: str, points: Sequence[tuple[float, float]]) -> str:
    """What was found over what was said; where both are the same, the found curve lies on the other."""
    said = [x for x, _ in points]
    series = [Series("found", points), Series("as said", [(x, x) for x in sorted({min(said), max(said)})])]
    return figure(title, f"{meaning}, over the {across}", series, across)


def _told(row: Any) -> str:
    """A share with its interval, or numbers by name."""
    if isinstance(row, str):
        return row
    if isinstance(row, dict) and "share" in row:
        if row["share"] is None:
            return "no such pairs"
        before = ", ".join(f"{k} {v:.3g}" for k, v in row.items() if k in ("sure", "from", "to"))
        share = f"{row['share']:.1%} ({row['low']:.1%} to {row['high']:.1%}) of {row['n']:,}"
        return f"{before}: {share}" if before else share
    if isinstance(row, dict):
        return ", ".join(f"{k} {_told(v)}" for k, v in row.items())
    return "none" if row is None else f"{row:,}" if isinstance(row, int) else _number(row)


def _data(folder: Path) -> str:
    path = folder / "data_report.json"
    if not path.exists():
        return ""
    report = json.loads(path.read_bytes())
    reports = report if isinstance(report, list) else [report]
    rejected = sum(1 for _ in rows_of(folder / "rejected.jsonl"))
    note = f"<p>{rejected:,} rejected rows are in <code>rejected.jsonl</code>.</p>" if rejected else ""
    return "\n".join(facts_table({key: _short(value) for key, value in one.items()}) for one in reports) + note


def _events(events: Sequence[Mapping[str, Any]]) -> str:
    told = [event for event in events if event["event"] not in ("timing", "example", "rollout")]
    rows: list[str] = []
    for event in told[-SHOWN_EVENTS:]:
        rest = ", ".join(f"{k} {_short(v)}" for k, v in event.items() if k not in ("event", "time", "step"))
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
        cells = (when, event.get("step", ""), event["event"], rest)
        rows.append(f"<tr>{''.join(f'<td>{text(cell)}</td>' for cell in cells)}</tr>")
    omitted = len(told) - len(rows)
    note = f"<p>The {omitted:,} events before these are in <code>events.jsonl</code>.</p>" if omitted else ""
    if not rows:
        return ""
    heads = "<tr><th>time</th><th>step</th><th>event</th><th></th></tr>"
    return f'{note}<table class="events">{heads}{"".join(rows)}</table>'


STYLE = """
th { font-weight: 500; color: var(--soft); white-space: nowrap; }
.facts th { width: 14rem; }
.facts tr + tr, .events tr + tr { border-top: 1px solid var(--rule); }
.events td:nth-child(-n+3) { white-space: nowrap; font-variant-numeric: tabular-nums; }
figcaption { min-height: 2.6em; }
.curve { fill: none; stroke: var(--series); stroke-width: 1.75; stroke-linejoin: round; }
.dot { fill: var(--series); }
.dot.hidden { opacity: 0; } .dot.hidden:hover { opacity: 1; }
.key::before { content: "\\25CF "; color: var(--series); } .key { margin-left: .6em; white-space: nowrap; }
section > pre { background: var(--card); padding: 1rem; border-radius: 8px; }
.sample { margin-bottom: 1.25rem; border: 1px solid var(--rule); border-radius: 8px; padding: .75rem 1rem; }
.sample .prompt { font-weight: 600; margin-bottom: .4rem; }
.sample tr + tr { border-top: 1px solid var(--rule); }
"""
