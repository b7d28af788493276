"""The report page: whole, safe to open, true to the run, at any moment of it."""

import json
import math
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nurture.recipe import stage_from, to_yaml
from nurture.report import POINTS, Series, chart, page, thinned, ticks, write_report

EVIL = "</pre><script>alert('x')</script><img src=http://x.test/a.png onerror=alert(1)>\"'&"


def run_folder(folder: Path, steps: int, *, text: str = "plain", finished: bool = True) -> Path:
    folder.mkdir(exist_ok=True)
    stage = stage_from("sft", ["data=rows.jsonl", "steps=30"]).model_copy(update={"model": text})
    (folder / "config.yaml").write_text(to_yaml(stage), encoding="utf-8")
    metrics = []
    for step in range(1, steps + 1):
        row = {"step": step, "loss": 2.0 / step, "grad_norm": "NaN" if step == 3 else 1.0, "skipped": int(step == 3)}
        metrics.append(
            row | {"tokens": 10, "learning_rate": 0.01} | ({"eval/loss": 2.1 / step} if step % 5 == 0 else {})
        )
    events = [{"event": "start", "time": 100.0, "steps": "30 updates", "note": text}]
    events += [{"event": "timing", "time": 103.0, "step": 2, "tokens_per_second": 50.0, "memory": 2_000_000_000}]
    events += [{"event": "finish", "time": 105.0, "step": steps}] if finished else []
    samples = [{"step": s, "prompt": text, "response": f"{text} {s}", "reason": "length"} for s in (0, steps)]
    for name, rows in (("metrics", metrics), ("events", events), ("samples", samples)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "data_report.json").write_text(json.dumps([{"source": text, "rows": 12}]), encoding="utf-8")
    return folder


class Page(HTMLParser):
    """Tags that open and close in order, every attribute, the text by the tag around it."""

    VOID = ("meta", "line", "circle", "br")

    def __init__(self, source: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(source)
        self.close()
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID[:1]:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def test_the_page_tells_the_run(tmp_path):
    path = write_report(run_folder(tmp_path / "mine", 20))
    assert path == tmp_path / "mine" / "report.html"
    told = Page(path.read_text(encoding="utf-8"))
    assert told.text["title"][0] == "sft: mine"
    assert "Finished at step 20 of 30 after 5.0 s." in told.text["p"]
    assert told.text["h2"] == ["Facts", "Curves", "Samples", "Data", "Events", "Configuration"]
    facts = dict(zip(told.text["th"], told.text["td"], strict=False))
    assert facts["loss"] == "2 → 0.1" and facts["eval/loss"] == "0.42 → 0.105"
    assert facts["tokens trained on"] == "200" and facts["updates skipped"] == "1"
    assert told.text["b"] == ["loss", "grad_norm", "tokens", "learning_rate", "tokens_per_second", "memory"]
    points = told.text["title"][1:]
    assert "step 7: loss 0.2857" in points and "step 10: eval/loss 0.21" in points
    assert not any(p.startswith("step 3: grad_norm") for p in points), "a NaN is no point"
    assert "plain 20" in told.text["pre"] and told.text["span"].count("cut at max_tokens") == 2


def test_nothing_of_a_model_or_a_data_file_becomes_markup(tmp_path):
    plain = Page(page(run_folder(tmp_path / "a", 6)))
    evil = Page(page(run_folder(tmp_path / "b", 6, text=EVIL)))
    assert evil.tags == plain.tags
    assert [name for name, _ in evil.attributes] == [name for name, _ in plain.attributes]
    assert "script" not in evil.tags and "img" not in evil.tags
    assert EVIL in evil.text["pre"], "and it is shown as it is"


def test_the_page_asks_for_nothing_from_anywhere(tmp_path):
    source = page(run_folder(tmp_path / "a", 6))
    told = Page(source)
    assert not {"script", "link", "img", "iframe", "object", "use", "image", "a"} & set(told.tags)
    assert not {"src", "href", "xlink:href", "action"} & {name for name, _ in told.attributes}
    assert "url(" not in source and "@import" not in source
    policy = next(value for name, value in told.attributes if name == "content" and value and "default-src" in value)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_run_that_has_only_begun_has_a_page_too(tmp_path, steps):
    folder = run_folder(tmp_path / "a", steps, finished=False)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "lo')
    told = Page(page(folder))
    assert any(f"Interrupted at step {steps} of 30" in text for text in told.text["p"])


def test_the_least_a_run_folder_can_be(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(stage_from("lm", ["data=x"])))
    told = Page(page(tmp_path))
    assert told.text["h2"] == ["Facts", "Curves", "Configuration"]


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(-1e9, 1e9, allow_subnormal=False)), min_size=1, max_size=60),
    st.integers(1, 2),
)
def test_a_chart_is_well_formed_and_keeps_its_points_inside(points, copies):
    points = sorted({x: (float(x), y) for x, y in points}.values())
    svg = ElementTree.fromstring(chart([Series(f"s{i}<&>", points) for i in range(copies)]))
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    circles = svg.findall("circle")
    assert len(circles) == copies * len(points)
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= width and 0 <= float(circle.attrib["cy"]) <= height
    by_step = [float(c.attrib["cy"]) for c in circles[: len(points)]]
    order = sorted(range(len(points)), key=lambda i: points[i][1])
    heights = [by_step[i] for i in order]
    assert all(a >= b - 0.11 for a, b in pairwise(heights)), "higher values are drawn higher"


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(3, 8))
def test_ticks_are_round_few_and_inside(low, width, most):
    high = low + width
    if (high - low) < 1e-9 * max(abs(low), abs(high)):
        return
    found = ticks(low, high, most)
    assert 1 <= len(found) <= most + 2
    slack = 1e-6 * width + 1e-9 * max(abs(low), abs(high))
    assert all(low - slack <= t <= high + slack for t in found)
    if len(found) > 1:
        step = found[1] - found[0]
        lead = step / 10.0 ** math.floor(math.log10(step) + 1e-6)
        assert min(abs(lead - m) for m in (1, 2, 5, 10)) < 1e-2


def test_a_long_curve_keeps_its_ends_and_its_spikes():
    points = [(float(i), math.sin(i / 500)) for i in range(20_000)]
    points[7_777] = (7777.0, 50.0)
    points[12_345] = (12345.0, -50.0)
    kept = thinned(points, POINTS)
    assert len(kept) <= POINTS + 4
    assert kept == sorted(kept) and set(kept) <= set(points)
    assert {points[0], points[-1], points[7_777], points[12_345]} <= set(kept)
    assert thinned(points[:POINTS], POINTS) == points[:POINTS]
