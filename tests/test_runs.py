"""Run folders as their readers see them, and that what is written is what is documented."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from nurture.errors import InputError
from nurture.methods import METHODS
from nurture.recipe import stage_from, to_yaml
from nurture.runs import EVENTS, METRICS, is_locked, list_runs, read_run, rows_of, runs_table
from nurture.train.lock import lock_run

ROOT = Path(__file__).parent.parent
SOURCES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "src" / "nurture").rglob("*.py")}
PAGE = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")


def make_run(folder: Path, events: list[dict], losses: list[object] = (), method: str = "sft") -> Path:  # pyright: ignore[reportArgumentType]
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(stage_from(method, ["data=rows.jsonl", "steps=40"])))
    rows = ({"step": i, "loss": loss} for i, loss in enumerate(losses, start=1))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def event(name: str, at: float, **facts: object) -> dict:
    return {"event": name, "time": at, **facts}


START = event("start", 100.0, steps="1,040 updates = 2.00 passes")


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([], "interrupted"),
        ([START], "interrupted"),
        ([START, event("stop", 110.0, signal="SIGTERM")], "interrupted"),
        ([START, event("stop", 110.0, signal="SIGTERM"), START], "interrupted"),
        ([START, event("stop", 110.0, error="The loss is not finite", exit_code=3)], "failed"),
        ([START, event("stop", 110.0, signal="SIGINT"), START, event("finish", 130.0)], "finished"),
        ([START, event("finish", 130.0), event("start", 200.0)], "interrupted"),
    ],
)
def test_the_state_is_what_happened_last(tmp_path, events, state):
    assert read_run(make_run(tmp_path / "run", events)).state == state


def test_a_run_is_running_while_its_lock_is_held_and_no_longer(tmp_path):
    folder = make_run(tmp_path / "run", [START])
    holder = "import sys, time; from pathlib import Path; from nurture.train.lock import lock_run\n"
    holder += "with lock_run(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", holder, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        assert read_run(folder).state == "running"
        with pytest.raises(InputError, match=f"process {process.pid}"), lock_run(folder):
            pass
    finally:
        process.kill()
        process.wait()
    assert (folder / ".lock").read_text(), "the killed process left its name behind"
    assert read_run(folder).state == "interrupted"


def test_a_lock_file_that_names_a_living_process_that_does_not_hold_it_is_stale(tmp_path):
    import os
    import socket

    (tmp_path / ".lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    assert not is_locked(tmp_path)
    (tmp_path / ".lock").write_text(json.dumps({"pid": 1, "host": "another-machine"}))
    assert is_locked(tmp_path)
    for text in ("", "{", "{}"):
        (tmp_path / ".lock").write_text(text)
        assert not is_locked(tmp_path)


def test_steps_loss_and_time_add_up_over_resumptions(tmp_path):
    events = [START, event("timing", 104.0), event("start", 1000.0, steps="1,040 updates"), event("timing", 1003.5)]
    run = read_run(make_run(tmp_path / "run", events, losses=[2.0, "NaN", 1.5]))
    assert (run.step, run.steps, run.loss, run.seconds) == (3, 1040, 1.5, 7.5)
    assert run.num_bytes == sum(p.stat().st_size for p in (tmp_path / "run").iterdir())


def test_the_table_lists_every_run_below_a_folder(tmp_path):
    make_run(tmp_path / "a" / "sft", [START, event("finish", 130.0)], [2.0, 1.25])
    make_run(tmp_path / "b", [START], [3.0], method="lm")
    (tmp_path / "not-a-run").mkdir()
    make_run(tmp_path / "a" / ".replaced", [START], [3.0])
    make_run(tmp_path / "c", [START], [3.0])
    (tmp_path / "c" / "config.yaml").write_text("method: [sft\n")
    runs = list_runs(tmp_path)
    named = [(r.folder.relative_to(tmp_path).as_posix(), r.method) for r in runs]
    assert named == [("a/sft", "sft"), ("b", "lm"), ("c", "?")]
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(runs_table(runs, tmp_path))
    lines = console.export_text().splitlines()
    assert re.search(r"a/sft +sft +finished +2/1040 +1\.2500 +30\.0 s", lines[1])
    assert re.search(r"b +lm +interrupted +1/1040 +3\.0000", lines[2])
    assert re.search(r"c +\? +damaged", lines[3])
    with pytest.raises(InputError, match="there is no such folder"):
        list_runs(tmp_path / "none")


def test_a_row_that_is_still_being_written_is_left_out_and_a_broken_one_is_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert list(rows_of(path)) == []
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert list(rows_of(path)) == [{"step": 1}, {"step": 2}]
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:2: not a JSON row"):
        list(rows_of(path))


# --- what is written is what is documented ----------------------------------------------------------------------------


def section(title: str) -> dict[str, str]:
    """The rows of the tables of one section of the page, first column -> last column."""
    text = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    cells = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {row[0].strip("`"): row[-1] for row in cells}


def test_the_page_documents_every_event_and_metric_word_for_word():
    assert section("Events") == EVENTS
    methods = {name: meaning for kind in METHODS.values() for name, meaning in kind.metrics.items()}
    documented = section("Metrics")
    assert documented.keys() == {*METRICS, *methods}
    assert all(documented[name] == meaning for name, meaning in METRICS.items())
    for name, kind in METHODS.items():
        for metric, meaning in kind.metrics.items():
            assert f"| `{metric}` | `{name}` | {meaning} |" in PAGE


def emitted() -> set[str]:
    return {name for text in SOURCES.values() for name in re.findall(r"\.emit\(\s*\"(\w+)\"", text)}


def test_every_event_in_the_source_is_documented_and_every_documented_event_occurs_in_the_source():
    assert emitted() == set(EVENTS)
    for path, text in SOURCES.items():
        assert len(re.findall(r"\.emit\(", text)) == len(re.findall(r"\.emit\(\s*\"", text)), (
            f"{path}: name it literally"
        )


def test_every_file_a_run_writes_is_on_the_page():
    names = {"config.yaml", "data_report.json", "rejected.jsonl", "metrics.jsonl", "samples.jsonl", "events.jsonl"}
    names |= {
        "model/",
        "model/value/",
        "finished.json",
        "report.html",
        "trackers.json",
        "tensorboard/",
        ".lock",
        "checkpoints/latest",
    }
    names |= {
        "checkpoints/step-NNNNNNNN/",
        "ref_logp.safetensors",
        "reward_card.json",
        "drawn/KEY.jsonl",
        "drawn-I.jsonl",
    }
    assert section("Files").keys() == names
    written = {name for text in SOURCES.values() for name in re.findall(r"\"([\w.-]+\.(?:jsonl|html))\"", text)}
    assert {n for n in written if n.endswith(".html")} == {"report.html"}
    assert names >= {"metrics.jsonl", "samples.jsonl", "events.jsonl", "rejected.jsonl"} and written
