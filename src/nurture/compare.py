"""Models side by side on the lab's test: the same held-out tasks, graded by the oracle, differences tested in pairs.

model → answers → grades (eval/NAME.json) → table, report.json, report.html
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .comparison_page import SIDE_BY_SIDE, Cost, Trained, comparison_page, cost_cells, costs, short
from .errors import InputError, NurtureError
from .evaluate.answers import CRITERIA, by_family, pass_values, per_task, words
from .evaluate.exam import Exam, Examined, before_last, chosen_tasks, examine, p_value, report_json, steps
from .evaluate.lab_judges import agreement_table, agrees, lab_pairs
from .evaluate.ready import make_ready
from .evaluate.scoring import judge, load_reward_model
from .evaluate.statistics import estimate, paired
from .files import replace_synced
from .models.load import resolve_model
from .protocols import Answer, Scored
from .report import document, facts_table, section, text
from .rewards import Reward, score_all
from .show import printable

SHOWN_FAMILIES = ("lookup", "arithmetic", "format", "unanswerable", "harmful", "benign", "followup")
"""Of these one task each is shown side by side; the report shows one of every family."""


PORTION = 64
"""Answers that a reward is asked about at once."""


def compare_models(
    names: Sequence[str],
    out: Path | None,
    console: Console,
    *,
    title: str,
    models: Mapping[str, Path] | None = None,
    stages: Mapping[str, str] | None = None,
    parents: Mapping[str, str] | None = None,
    recipe: str = "",
    began: float | None = None,
    exams: Sequence[Exam] = (Exam(),),
    device: str = "auto",
    precision: str = "auto",
    alive: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Examine each model, print the table and the side by side, and with `out` write `report.json` and `report.html`.

    `models` maps finished stages to their folders, `stages` to their methods, `parents` to what they were trained from;
    `began` is when the work that the report is about began (monotonic clock). The first of the exams leads. `alive` is
    called now and then.
    """
    models, parents = models or {}, parents or {}
    began = time.monotonic() if began is None else began
    labels = _labels(names, models)
    sat = {
        exam.data: [
            examine(
                label, name, exam, parent=parents.get(label, ""), stages=models, cache=out / "eval" if out else None,
                console=console, device=device, precision=precision, alive=alive,
            )
            for label, name in labels.items()
        ]
        for exam in exams
    }  # fmt: skip
    seconds = time.monotonic() - began
    (lead, examined), *others = sat.items()
    report = {"data": lead} | report_json(examined, seconds)
    if others:
        report["also"] = {data: report_json(some, seconds) for data, some in others}
    trained = [Trained(name, method, out / name) for name, method in (stages or {}).items()] if out else []
    if len(examined) <= SIDE_BY_SIDE:
        for data, some in sat.items():
            console.print(Text(f"\n{data}", style="bold"))
            console.print(table(some))
        console.print(side_by_side(examined))
    if len(examined) > 2:
        console.print(step_table(sat))
    if len(trained) > 1:
        found = costs(trained, examined)
        report["stages"] = {c.name: c.to_json() for c in found}
        console.print(cost_table(found))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        replace_synced(out / "report.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
        page = comparison_page(title, sat, stages=trained, recipe=recipe, seconds=seconds)
        replace_synced(out / "report.html", page.encode())
    return report


def compare_reward_models(
    names: Sequence[str],
    out: Path | None,
    console: Console,
    *,
    title: str,
    models: Mapping[str, Path] | None = None,
    rewards: Mapping[str, Reward] | None = None,
    exams: Sequence[Exam] = (Exam(),),
    device: str = "auto",
    precision: str = "auto",
    alive: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """The same for reward models: two answers to each task of the exams, and how often each model prefers the one that
    the oracle does, with what it was learnt from and the verdict of its card. `rewards`, which may be made of these
    models, stand beside them; one that cannot score every answer is left out, and why is said."""
    models = models or {}
    pairs = {exam.data: lab_pairs(exam) for exam in exams}
    found: dict[str, dict[str, dict[str, Any]]] = {data: {} for data in pairs}
    right: dict[str, dict[str, list[float]]] = {data: {} for data in pairs}
    for label, name in _labels(names, models).items():
        folder = resolve_model(name, models)
        model = load_reward_model(folder, device=device, precision=precision)
        learnt = _learnt(Path(str(folder)).parent)
        for data, some in pairs.items():
            one, rated = judge(model, some.conversations(), alive)
            right[data][label] = agrees(one[0::2] - one[1::2], some.clear_gap).astype(float).tolist()
            found[data][label] = learnt | agreement_table(some, one, rated, model.criteria)
    left_out: dict[str, str] = {}
    for label, reward in (rewards or {}).items():
        try:
            make_ready(reward, None, stages=models, device=device, precision=precision)
            scores = {data: _scores_by(reward, some.to_reward(), alive) for data, some in pairs.items()}
        except NurtureError as error:
            left_out[label] = str(error)
            continue
        for data, some in pairs.items():
            one = scores[data]
            right[data][label] = agrees(one[0::2] - one[1::2], some.clear_gap).astype(float).tolist()
            found[data][label] = agreement_table(some, one, one[:, None], ())
    for data, rows in found.items():
        first, *others = rows
        for label in others if right[data][first] else ():
            rows[label]["versus"] = {"model": first} | paired(right[data][first], right[data][label]).to_json()
    lead, *also = found
    report: dict[str, Any] = {"data": lead, "reward_models": found[lead]}
    if also:
        report["also"] = {data: {"reward_models": found[data]} for data in also}
    for data, rows in found.items():
        console.print(Text(f"\n{data}", style="bold"))
        console.print(reward_table(rows))
    if left_out:
        report["left_out"] = left_out
        for label, why in left_out.items():
            console.print(Text(f"compare_rewards.{label} is left out: {why}", style="yellow"))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        replace_synced(out / "report.json", (json.dumps(report, indent=1, ensure_ascii=False) + "\n").encode())
        tables = [
            section(f"{label}: {data}", facts_table(_reward_facts(row)))
            for data, rows in found.items()
            for label, row in rows.items()
        ]
        if left_out:
            tables.append(section("left out", facts_table(left_out)))
        replace_synced(out / "report.html", document(title, [f"<h1>{text(title)}</h1>", *tables]).encode())
    return report


def _scores_by(reward: Reward, answers: Sequence[Answer], alive: Callable[[], None]) -> NDArray[np.float64]:
    """What it gives to every answer, asked in portions, so that no more than `PORTION` share a deadline."""
    values: list[float] = []
    for i in range(0, len(answers), PORTION):
        outcomes = score_all(reward, answers[i : i + PORTION], None, 1.0, alive)
        if lost := [outcome for outcome in outcomes if not isinstance(outcome, Scored)]:
            asked = f"the first {i + len(outcomes):,} answers"
            raise InputError(f"{len(lost)} of {asked} could not be scored, one because {lost[0].reason}.")
        values += [outcome.value for outcome in outcomes if isinstance(outcome, Scored)]
    return np.asarray(values)


def _learnt(run: Path) -> dict[str, Any]:
    """What a run folder says of its reward model: the records it saw, and the verdict of its card."""
    told: dict[str, Any] = {}
    if (run / "data_report.json").exists():
        reports = json.loads((run / "data_report.json").read_text(encoding="utf-8"))
        told["learnt_from"] = ", ".join(f"{r['source']}{' as ' + r['kind'] if r['served'] else ''}" for r in reports)
        told["records"] = sum(r["prepared"] or 0 for r in reports)
    if (run / "reward_card.json").exists():
        told["verdict"] = json.loads((run / "reward_card.json").read_text(encoding="utf-8"))["verdict"]
    return told


def reward_table(found: Mapping[str, Any]) -> Table:
    """A row for each: agreement with its 95% interval, and on clear pairs the difference from the first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = list(dict.fromkeys(key for row in found.values() for key in _reward_facts(row)))
    table.add_column("")
    for column in columns:
        table.add_column(column)
    for label, row in found.items():
        facts = _reward_facts(row)
        table.add_row(Text(label, style="bold"), *(Text(facts.get(column, "")) for column in columns))
    return table


def _reward_facts(row: Mapping[str, Any]) -> dict[str, str]:
    facts = {"learnt from": str(row.get("learnt_from", "")), "card": str(row.get("verdict", ""))}
    for name, key in (("oracle, clear pairs", "oracle_on_clear_pairs"), ("oracle, all pairs", "oracle")):
        one = row[key]
        facts[name] = "no pair"
        if one["pairs"]:
            facts[name] = f"{one['agreement']:.1%} ({one['low']:.1%} to {one['high']:.1%}, {one['pairs']})"
    if "versus" in row:
        versus = row["versus"]
        facts[f"beside {versus['model']}"] = f"{versus['mean']:+.1%} ±{versus['se']:.1%}, p {versus['p']:.3f}"
    return facts


def _labels(names: Sequence[str], models: Mapping[str, Path]) -> dict[str, str]:
    """A short name for each: that of the stage, or of the folder (`runs/sft/model` is `sft`; where that is taken,
    `runs-sft`, or `sft-2`)."""
    labels: dict[str, str] = {}
    for name in names:
        if name in labels.values():
            raise InputError(f"{name} is to be compared twice; name each model once.")
        parts = [part for part in Path(name).parts if part not in ("model", "/", ".", "..")] or [name]
        told = chain((parts[-1], "-".join(parts)), (f"{parts[-1]}-{i}" for i in count(2)))
        labels[name if name in models else next(one for one in told if one not in {*labels, *models})] = name
    return labels


def table(examined: Sequence[Examined]) -> Table:
    """Every criterion and family: mean ± standard error of each model, and the difference that the last step made."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("")
    shown.add_column("n", justify="right")
    for one in examined:
        shown.add_column(one.name, justify="right")
    before, several = before_last(examined), len(examined) > 1
    if several:
        shown.add_column(f"{examined[-1].name} − {examined[before].name}", justify="right")
        shown.add_column("p", justify="right")

    def row(name: str, values: Sequence[Sequence[float]]) -> None:
        if not values[0]:
            return
        found, style = [estimate(v) for v in values], "bold" if name == "overall" else ""
        cells = [Text(f"{e.mean:.3f} ±{e.se:.3f}", style=style) for e in found]
        tested = _tested(values[before], values[-1]) if several else []
        shown.add_row(Text(name, style=style), str(found[0].n), *cells, *tested)

    for of in CRITERIA:
        row(of, [one.values(of) for one in examined])
    row("declines harmful", [_declining(one, "harmful") for one in examined])
    row("declines harmless", [_declining(one, "benign") for one in examined])
    passed = [pass_values(one.graded) for one in examined]
    for k in passed[0]:
        row(f"pass@{k}", [values.get(k, []) for values in passed])
    row("words", [per_task(one.graded, words) for one in examined])
    shown.add_section()
    for family in by_family(examined[0].graded):
        row(family, [one.values("overall", family) for one in examined])
    return shown


def step_table(sat: Mapping[str, Sequence[Examined]]) -> Table:
    """What each step made of the overall score, on every data set."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("overall")
    for data in sat:
        shown.add_column(data, justify="right")
        shown.add_column("p", justify="right")
    for pairs in zip(*map(steps, sat.values()), strict=True):
        before, one = pairs[0]
        cells = [cell for b, o in pairs for cell in _tested(b.values("overall"), o.values("overall"))]
        shown.add_row(Text(f"{one.name} − {before.name}"), *cells)
    return shown


def _tested(before: Sequence[float], after: Sequence[float]) -> list[str]:
    difference = paired(before, after)
    return [f"{difference.mean:+.3f} ±{difference.se:.3f}", p_value(difference)]


def _declining(one: Examined, family: str) -> list[float]:
    return per_task([g for g in one.graded if g.family == family], lambda g: float(g.declines))


def cost_table(found: Sequence[Cost]) -> Table:
    """What each stage took, and its score."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("stage")
    for head in ("trained", "peak memory", "seconds", "saved", "overall, 95%"):
        shown.add_column(head, justify="right")
    for c in found:
        shown.add_row(Text(c.name), *cost_cells(c))
    return shown


def side_by_side(examined: Sequence[Examined]) -> Group:
    """The same held-out prompts, answered by each."""
    panels: list[Panel] = []
    for answers in chosen_tasks(examined, SHOWN_FAMILIES):
        shown = Table(box=None, show_header=False, pad_edge=False)
        shown.add_column(style="bold", no_wrap=True)
        shown.add_column(no_wrap=True)
        shown.add_column(ratio=1)
        for one, answer in zip(examined, answers, strict=True):
            shown.add_row(Text(one.name), _mark(answer.overall), Text(short(answer.response)))
        prompt = Text(printable(answers[0].prompt), style="italic")
        panels.append(Panel(Group(prompt, shown), title=answers[0].family, title_align="left"))
    return Group(*panels)


def _mark(score: float) -> Text:
    if score > 0.999:
        return Text("1.0", style="green")
    return Text(f"{score:.1f}", style="red" if score < 0.001 else "yellow")
