"""The command line as a person meets it: exit codes, sentences, and nothing heavy before it is needed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nurture import cli
from nurture.errors import InputError
from nurture.recipe import stage_from, to_yaml

HEAVY = ("torch", "transformers", "datasets", "peft", "numpy", "yaml", "pyarrow")

RECIPE = "name: demo\nstages:\n  sft: {method: sft, model: some/model, data: rows.jsonl}\n"


def nurture(*words: str, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nurture", *words],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=1500,
        env=os.environ | {"COLUMNS": "100", "NO_COLOR": "1"},
    )


def run_here(*words: str) -> int:
    """The command in this process: its exit code."""
    before = sys.argv
    sys.argv = ["nurture", *words]
    try:
        cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    finally:
        sys.argv = before
    return 0


def test_help_and_version_load_nothing_heavy(tmp_path):
    code = f"""
import sys
from nurture.cli import main
sys.argv = ["nurture"] + sys.argv[1:]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("heavy:", [name for name in {HEAVY!r} if name in sys.modules])
"""
    for words in (["--help"], ["train", "--help"], ["--version"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "heavy: []" in done.stdout


def test_help_names_every_command(tmp_path):
    done = nurture("--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    for command in ("run", "train", "chat", "eval", "explain", "runs", "report", "doctor", "selftest", "schema"):
        assert f" {command} " in done.stdout


def test_a_fault_of_the_user_is_one_sentence_and_exit_2_with_nothing_written(tmp_path):
    done = nurture("train", "sft", "data=rows.jsonl", "learning_rat=1e-4", cwd=tmp_path)
    told = "nurture: error: learning_rat is not a field of a stage or of 'sft'. Did you mean 'learning_rate'?\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told)
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_a_traceback(monkeypatch, capsys):
    def fail() -> str:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("nurture.api.schema", fail)
    with pytest.raises(ZeroDivisionError):
        run_here("schema")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "none.yaml"], "none.yaml: there is no such file."),
        (["run", "demo.yaml", "stages.stf.steps=1"], "the recipe has no stage 'stf'. Did you mean 'sft'?"),
        (["run", "demo.yaml", "fresh=maybe"], "fresh=maybe: must be true or false."),
        (["run", "demo.yaml", "stages.sft.steps=-1"], "stages.sft.steps must be greater than or equal to 1, not -1."),
        (["train", "sftt", "data=x"], "'sftt' is not a method. Did you mean 'sft'?"),
        (["train", "sft", "data"], "'data' is no setting; write key=value"),
        (["train", "sft", "model=some/model"], "data is missing. What to learn from"),
        (["compare", "lab"], "compare needs two models or more"),
        (["compare", "lab", "runs", "m=3"], "'m=3' is no setting of an exam"),
        (["eval", "lab", "samples=4"], "samples=… of one model at temperature 0 are all the same"),
        (["run", "quickstrat"], "no recipe of that name comes with Nurture. Did you mean 'quickstart'?"),
        (["train", "sft", "data=none.jsonl", "model=./none"], "none.jsonl"),
        (["explain", "sfd"], "'sfd' has no page. Did you mean 'sft'?"),
        (["runs", "none"], "none: there is no such folder."),
        (["report", "."], ". is not a run folder: it has no config.yaml."),
    ],
)
def test_every_bad_command_ends_with_exit_2(tmp_path, monkeypatch, capsys, words, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo.yaml").write_text(RECIPE)
    assert run_here(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("nurture: error: ") and told in error and "Traceback" not in error
    assert [p.name for p in tmp_path.iterdir() if p.name not in ("demo.yaml", "runs")] == []


@pytest.mark.parametrize("words", [["bogus"], ["train"], ["chat"], ["train", "sft", "--steps", "3"]])
def test_wrong_usage_is_exit_2_too(words, capsys):
    assert run_here(*words) == 2
    assert "Usage: " in capsys.readouterr().err


def test_explain_runs_schema_and_report_print_what_they_have(tmp_path, monkeypatch, capsys):
    import json

    monkeypatch.chdir(tmp_path)
    assert run_here("explain", "sft") == 0
    assert "Ouyang et al. 2022" in capsys.readouterr().out
    assert run_here("explain") == 0
    assert "sft" in capsys.readouterr().out
    assert run_here("schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "Recipe"
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    assert run_here("runs") == 0
    assert capsys.readouterr().out == "No run is in runs yet.\n"
    (folder / "config.yaml").write_text(to_yaml(stage_from("sft", ["data=x"])))
    (folder / "events.jsonl").write_text('{"event": "start", "time": 1.0, "steps": "5 updates"}\n')
    assert run_here("runs") == 0
    assert "interrupted" in capsys.readouterr().out
    assert run_here("report", "runs/mine") == 0
    assert capsys.readouterr().out == "runs/mine/report.html\n"
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_reader_that_leaves_early_ends_the_command_quietly(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "nurture", "schema"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


# --- chat -------------------------------------------------------------------------------------------------------------


class Parrot:
    """What the terminal needs of a session. It repeats what it hears and keeps count."""

    def __init__(self):
        self.history: list[str] = []
        self.instructions = ""
        self.closed = 0

    def reset(self) -> None:
        self.history = []

    def system(self, text: str) -> None:
        self.instructions = text
        self.history = []

    def switch(self, model: str) -> None:
        if not model.startswith("runs/"):
            raise InputError(f"model {model!r} is no folder.")
        self.instructions = f"({model})"

    def reply(self, text: str) -> Iterator[str]:
        try:
            for word in f"{len(self.history)} {self.instructions}: {text}".split():
                if word == "interrupt":
                    raise KeyboardInterrupt
                yield word + " "
        finally:
            self.closed += 1
            self.history.append(text)


def chat(monkeypatch, capsys, *lines: str) -> tuple[Parrot, str]:
    import io

    parrot = Parrot()
    monkeypatch.setattr("nurture.api.chat_session", lambda model, **settings: parrot)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    assert run_here("chat", "some-model") == 0
    return parrot, capsys.readouterr().out


def test_a_scripted_chat_reads_as_a_dialogue_and_keeps_its_history(monkeypatch, capsys):
    parrot, out = chat(monkeypatch, capsys, "hello", "", "again")
    assert out == "> hello\n0 : hello \n> \n> again\n1 : again \n"
    assert parrot.history == ["hello", "again"]


def test_the_commands_of_a_chat(monkeypatch, capsys):
    parrot, out = chat(monkeypatch, capsys, "one", "/reset", "two", "/system Be brief.", "three", "/quit", "never")
    assert parrot.instructions == "Be brief." and parrot.history == ["three"]
    assert "0 : two" in out and "0 Be brief.: three" in out and "never" not in out
    _, out = chat(monkeypatch, capsys, "/help", "/rest", "/etc/passwd is a path")
    assert out.count("/system TEXT") == 2 and "There is no command /rest." in out
    assert "0 : /etc/passwd is a path" in out
    _, out = chat(monkeypatch, capsys, "one", "/model runs/other", "two", "/model nowhere", "three")
    assert "1 (runs/other): two" in out and "2 (runs/other): three" in out, "history stays, and a bad name ends nothing"


def test_ctrl_c_stops_an_answer_and_not_the_chat(monkeypatch, capsys):
    parrot, out = chat(monkeypatch, capsys, "please interrupt now", "go on")
    assert "0 : please  (stopped)\n> go on\n1 : go on" in out
    assert parrot.closed == 2


def test_a_model_cannot_drive_the_terminal(monkeypatch, capsys):
    _, out = chat(monkeypatch, capsys, "\x1b]0;owned\x07")
    assert "\\x1b]0;owned\\x07" in out.splitlines()[1]


# --- checks and processes ---------------------------------------------------------------------------------------------


def test_a_failed_check_fails_the_command(monkeypatch, capsys):
    from dataclasses import dataclass

    @dataclass
    class Check:
        name: str
        measured: float
        bound: float
        ok: bool
        note: str = ""

    good, bad = Check("tree = rows", 1e-7, 1e-5, True), Check("sampler = trainer", 1e-2, 5e-5, False, "look here")
    monkeypatch.setattr("nurture.api.selftest", lambda *model: [good, bad])
    assert run_here("selftest") == 3
    told = capsys.readouterr()
    assert "FAILED" in told.out and "look here" in told.out and "1 of 2 checks failed: sampler = trainer" in told.err
    monkeypatch.setattr("nurture.api.selftest", lambda *model: [good])
    assert run_here("selftest", "m") == 0


@pytest.mark.parametrize("code", [0, 3, 4, 143])
def test_several_processes_start_through_the_launcher_whose_exit_code_is_ours(tmp_path, monkeypatch, code):
    started = []

    def launch(command, processes, folder, start_timeout, step_timeout):
        started.append((command[1:], processes, folder))
        return code

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("nurture.train.launch.launch", launch)
    words = ["train", "sft", "data=x", "processes=2", "out=runs/mine"]
    assert run_here(*words) == code
    assert started == [(["-m", "nurture", *words], 2, Path("runs/.mine.ranks"))]


def test_the_lab_can_be_looked_at():
    shown = CliRunner().invoke(cli.app, ["lab", "show", "families"])
    assert shown.exit_code == 0 and "arithmetic" in shown.output
    wrong = CliRunner().invoke(cli.app, ["lab", "show", "familes"])
    assert "Did you mean 'families'?" in str(wrong.exception)
