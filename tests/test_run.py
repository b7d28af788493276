"""Whole runs, through the same door as the command line: killed, starved, misled, resumed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nurture.train.checkpoint import CheckpointStore
from nurture.train.faults import FAILPOINTS

MODEL = [
    f"model.config.{k}={v}"
    for k, v in {
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    }.items()
] + ["model.tokenizer.vocab_size=400"]  # fmt: skip
SAMPLES = ["samples.count=2", "samples.max_tokens=6", "samples.every=4"]


@pytest.fixture(scope="module")
def base(forks, tmp_path_factory):
    """A model folder and a data file, as a user has them."""
    folder = tmp_path_factory.mktemp("base")
    turns = [(f"What is {a} plus {b}?", f"It is {a + b}.") for a in range(10) for b in range(8)]
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in turns
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, output = forks.train("sft", *MODEL, f"data={data}", f"out={folder / 'run'}", "steps=1", "samples.count=0")
    assert code == 0, output
    return folder / "run" / "model", data


def words(base, out, *more):
    model, data = base
    return [
        f"model={model}",
        f"data={data}",
        f"out={out}",
        "batch_size=4",
        "learning_rate=1e-3",
        "seed=0",
        *SAMPLES,
        *more,
    ]


def outcome(run):
    """What must be byte-equal."""
    files = ["model/model.safetensors", "model/config.json", "metrics.jsonl", "samples.jsonl"]
    return {name: (run / name).read_bytes() for name in files}


GOAL = ["steps=12", "checkpoint.every=3", "eval.share=0.2", "eval.every=4", "tokens_per_micro=60"]


@pytest.fixture(scope="module")
def goals(forks, base, tmp_path_factory):
    """The uninterrupted run, with groups of one and of sixteen responses."""
    results = {}
    for n in (1, 16):
        out = tmp_path_factory.mktemp("goal") / "run"
        code, output = forks.train("sft", *words(base, out, *goal(n)), groups_of=n)
        assert code == 0, output
        results[n] = outcome(out)
        results[n, "seconds"] = forks.seconds
    return results


def goal(n):
    return GOAL if n == 1 else [*GOAL, "batch_size=2"]


def held(run):
    """Every file of a run folder but the lock, which says who was here last."""
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def losses(run):
    return [json.loads(row)["loss"] for row in (run / "metrics.jsonl").read_text().splitlines()]


def events(run, name):
    rows = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == name]


@pytest.mark.long
def test_tokens_kept_from_an_earlier_run_change_nothing(forks, base, goals, tmp_path):
    """Not the run that keeps them, not one that uses them, not one that is killed and resumes with them."""
    cache = {"NURTURE_CACHE": str(tmp_path / "cache")}
    for name in ("keeps", "uses"):
        code, output = forks.train("sft", *words(base, tmp_path / name, *GOAL), env=cache)
        assert code == 0, output
        assert ("tokens from an earlier run" in output) == (name == "uses")
        assert outcome(tmp_path / name) == goals[1]
    out = tmp_path / "killed"
    fault = {"NURTURE_FAULT": "step.after_update:kill9@8"}
    code, output = forks.train("sft", *words(base, out, *GOAL), env=cache | fault)
    assert code == -signal.SIGKILL, output
    code, output = forks.train("sft", *words(base, out, *GOAL), env=cache)
    assert code == 0 and outcome(out) == goals[1], output


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_on_two_threads_and_started_again(forks, base, tmp_path, precision):
    """Where sums are shared out among threads, as on every laptop; with kernels where the machine has bf16 units."""
    settings = [*goal(16), f"precision={precision}"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert forks.train("sft", *words(base, whole, *settings), groups_of=16, threads=2)[0] == 0
    fault = {"NURTURE_FAULT": "step.after_update:kill9@8"}
    code, output = forks.train("sft", *words(base, out, *settings), env=fault, groups_of=16, threads=2)
    assert code == -signal.SIGKILL, output
    code, output = forks.train("sft", *words(base, out, *settings), groups_of=16, threads=2)
    assert code == 0 and outcome(out) == outcome(whole), output
    assert "2 threads" in output and "no longer in every bit" not in output


# -- killed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param(name, marks=[pytest.mark.long] * (name not in ("step.micro", "checkpoint.after_tensors")))
        for name in FAILPOINTS
        if name != "checkpoint.after_set_aside"
    ],
)
def test_killed_at_a_failpoint_and_started_again(forks, base, goals, tmp_path, failpoint):
    out = tmp_path / "run"
    n = 16 if failpoint.startswith("step.") else 1
    hit = {"checkpoint.mid_prune": 1, "run.before_model": 1, "run.before_finished": 1}.get(failpoint, 2)
    fault = {"NURTURE_FAULT": f"{failpoint}:kill9@{hit}"}
    code, output = forks.train("sft", *words(base, out, *goal(n)), env=fault, groups_of=n)
    assert code == -signal.SIGKILL, f"{failpoint} was not reached: {output}"
    code, output = forks.train("sft", *words(base, out, *goal(n)), groups_of=n)
    assert code == 0, output
    assert outcome(out) == goals[n]
    assert not list((out / "checkpoints").glob(".*"))


@pytest.mark.long
@pytest.mark.parametrize("n", [1, 16], ids=["single", "groups-of-16"])
def test_killed_at_random_moments(forks, base, goals, tmp_path, n):
    """The moments are counted in rows of metrics from where the run stands, plus a random part of a step's time."""
    out, draw, killed = tmp_path / "run", random.Random(n), 0
    a_step = goals[n, "seconds"] / 12
    for _ in range(40):
        moment = (str(out / "metrics.jsonl"), draw.randint(0, 11), draw.uniform(0, 2 * a_step))
        code, output = forks.train("sft", *words(base, out, *goal(n)), kill=moment, groups_of=n)
        killed += code == -signal.SIGKILL
        if code == 0 and "finished already" in output:
            break
    assert killed >= 2
    code, output = forks.train("sft", *words(base, out, *goal(n)), groups_of=n)
    assert code == 0, output
    assert outcome(out) == goals[n]


def test_a_damaged_checkpoint_is_passed_over(forks, base, goals, tmp_path):
    out = tmp_path / "run"
    fault = {"NURTURE_FAULT": "run.after_metrics:kill9@8"}
    assert forks.train("sft", *words(base, out, *GOAL), env=fault)[0] == -signal.SIGKILL
    newest = max((out / "checkpoints").glob("step-*"))
    tensors = newest / "tensors-00000.safetensors"
    content = bytearray(tensors.read_bytes())
    content[-5] ^= 1
    tensors.write_bytes(content)
    code, output = forks.train("sft", *words(base, out, *GOAL))
    assert code == 0 and "damaged" in output, output
    assert newest.name in events(out, "checkpoint_rejected")[0]["path"]
    assert outcome(out) == goals[1]


def test_all_checkpoints_damaged_does_not_start_from_scratch(forks, base, tmp_path):
    out = tmp_path / "run"
    fault = {"NURTURE_FAULT": "run.after_metrics:kill9@8"}
    assert forks.train("sft", *words(base, out, *GOAL), env=fault)[0] == -signal.SIGKILL
    for tensors in (out / "checkpoints").glob("step-*/tensors-00000.safetensors"):
        os.truncate(tensors, 100)
    code, output = forks.train("sft", *words(base, out, *GOAL))
    assert code == 2 and output.count("has 100 bytes, expected") >= 2


# -- stopped -------------------------------------------------------------------------------------------------------


def test_sigterm_saves_and_the_same_command_goes_on(forks, base, goals, tmp_path):
    out = tmp_path / "run"
    fault = {"NURTURE_FAULT": "step.micro:sigterm@9"}
    code, output = forks.train("sft", *words(base, out, *GOAL), env=fault)
    assert code == 143 and "goes on from" in output, output
    code, output = forks.train("sft", *words(base, out, *GOAL))
    assert code == 0 and "Going on after step" in output
    assert outcome(out) == goals[1]


def test_a_finished_run_is_not_run_again(forks, base, tmp_path):
    out = tmp_path / "run"
    assert forks.train("sft", *words(base, out, "steps=2"))[0] == 0
    before = (out / "model" / "model.safetensors").stat().st_mtime_ns
    code, output = forks.train("sft", *words(base, out, "steps=2"))
    assert code == 0 and "finished already" in output
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns == before
    assert forks.train("sft", *words(base, out, "steps=2"), "fresh=true")[0] == 0
    assert (out / "model" / "model.safetensors").stat().st_mtime_ns > before


# -- numbers -------------------------------------------------------------------------------------------------------


def test_training_learns_and_the_best_checkpoint_is_the_model(forks, base, tmp_path):
    out = tmp_path / "run"
    settings = [
        "steps=40",
        "eval.share=0.2",
        "eval.every=5",
        "checkpoint.every=50",
        "learning_rate=3e-3",
        "schedule=constant",
    ]
    assert forks.train("sft", *words(base, out, *settings))[0] == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    evaluated = {row["step"]: row["eval/loss"] for row in rows if "eval/loss" in row}
    assert sorted(evaluated) == [5, 10, 15, 20, 25, 30, 35, 40]
    best = min(evaluated, key=evaluated.get)
    assert events(out, "best")[-1]["step"] == best == events(out, "finish")[0]["step"]
    assert (out / "checkpoints" / f"step-{best:08d}").is_dir()


@pytest.mark.long
def test_the_last_weights_are_the_model_where_that_is_wanted(forks, base, tmp_path):
    """At a learning rate that drives the loss up, so that the best evaluation is an early one."""
    settings = ["steps=6", "eval.share=0.2", "eval.every=1", "learning_rate=0.5", "schedule=constant", "warmup=0"]
    for keep_best in (True, False):
        out = tmp_path / str(keep_best)
        code, output = forks.train("sft", *words(base, out, *settings, f"eval.keep_best={str(keep_best).lower()}"))
        assert code == 0, output
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        evaluated = {row["step"]: row["eval/loss"] for row in rows}
        best = min(evaluated, key=evaluated.get)
        assert best < 6, "else this says nothing"
        kept = best if keep_best else 6
        assert events(out, "finish")[0]["step"] == kept
        held = CheckpointStore(out / "checkpoints").load(kept).tensors
        model = load_file(out / "model" / "model.safetensors")
        for name, tensor in model.items():
            assert torch.equal(tensor, held[f"master.{name}"].to(tensor.dtype)), name
        assert f"| eval/loss | {evaluated[kept]} |" in (out / "model" / "README.md").read_text()


def test_evaluation_has_no_dropout(forks, base, tmp_path):
    evaluated = []
    for dropout in (0, 0.5):
        out = tmp_path / str(dropout)
        settings = ["steps=1", "learning_rate=0", "eval.share=0.2", "layout=rows", f"dropout={dropout}"]
        code, output = forks.train("sft", *words(base, out, *settings))
        assert code == 0, output
        evaluated.append(json.loads((out / "metrics.jsonl").read_text())["eval/loss"])
    assert evaluated[0] == pytest.approx(evaluated[1], rel=1e-6)


@pytest.mark.long
def test_dropout_resumes_exactly(forks, base, tmp_path):
    settings = ["steps=6", "checkpoint.every=2", "dropout=0.3"]
    assert forks.train("sft", *words(base, tmp_path / "straight", *settings))[0] == 0
    fault = {"NURTURE_FAULT": "run.after_metrics:kill9@5"}
    assert forks.train("sft", *words(base, tmp_path / "killed", *settings), env=fault)[0] == -signal.SIGKILL
    assert forks.train("sft", *words(base, tmp_path / "killed", *settings))[0] == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "straight")


def test_a_best_checkpoint_that_could_not_be_saved_is_not_the_best(forks, base, tmp_path):
    out = tmp_path / "run"
    settings = ["steps=6", "eval.share=0.2", "eval.every=2", "learning_rate=1e-2", "checkpoint.on_save_error=continue"]
    fault = {"NURTURE_FAULT": "checkpoint.after_tensors:enospc@1"}
    code, output = forks.train("sft", *words(base, out, *settings), env=fault)
    assert code == 0 and "Training goes on" in output, output
    assert all(event["step"] > 2 for event in events(out, "best"))


def test_a_line_of_events_that_a_crash_left_half_written(forks, base, tmp_path):
    out = tmp_path / "run"
    settings = ["steps=3", "checkpoint.every=1"]
    fault = {"NURTURE_FAULT": "run.after_metrics:kill9@2"}
    assert forks.train("sft", *words(base, out, *settings), env=fault)[0] == -signal.SIGKILL
    with (out / "events.jsonl").open("a") as f:
        f.write('{"event": "timi')
    assert forks.train("sft", *words(base, out, *settings))[0] == 0
    assert events(out, "finish")


def test_rows_set_aside_are_written_once_for_all_sources(forks, base, tmp_path):
    model, data = base
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(data.read_text() + '{"messages": []}\n')
    sources = f"data=[{tmp_path / 'a.jsonl'}, {tmp_path / 'b.jsonl'}]"
    out = tmp_path / "run"
    code, output = forks.train("sft", f"model={model}", sources, f"out={out}", "steps=1", "on_bad_row=quarantine")
    assert code == 2 and "only where at most 1% of the rows" in output, output
    assert not out.exists()
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(data.read_text() * 2 + '{"messages": []}\n')
    code, output = forks.train("sft", f"model={model}", sources, f"out={out}", "steps=1", "on_bad_row=quarantine")
    assert code == 0, output
    rejected = [json.loads(row)["where"] for row in (out / "rejected.jsonl").read_text().splitlines()]
    assert [Path(where).name for where in rejected] == ["a.jsonl:161", "b.jsonl:161"]


def test_nonfinite_steps_are_skipped_counted_and_then_stop_the_run(forks, base, tmp_path):
    out = tmp_path / "run"
    code, output = forks.train(
        "sft", *words(base, out, "steps=9", "learning_rate=1e30", "checkpoint.every=1", "samples.every=1")
    )
    assert code == 3 and "steps in a row" in output, output
    assert "last good checkpoint" in output
    skipped = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert next(row for row in skipped if row["skipped"])["loss"] in ("NaN", "Infinity")
    assert events(out, "nonfinite") and events(out, "stop")[-1]["exit_code"] == 3


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_batch(forks, base, tmp_path):
    plain, starved = tmp_path / "plain", tmp_path / "starved"
    exact = ("steps=4", "precision=fp32")
    assert forks.train("sft", *words(base, plain, *exact))[0] == 0
    fault = {"NURTURE_FAULT": "step.micro:oom@2"}
    code, output = forks.train("sft", *words(base, starved, *exact), env=fault)
    assert code == 0 and "Out of memory at step 2" in output, output
    halved = events(starved, "out_of_memory")[0]["tokens_per_micro"]
    kept = json.loads(max((starved / "checkpoints").glob("step-*/state.json")).read_text())
    assert kept["tokens_per_micro"] == halved
    losses = [
        [json.loads(row)["loss"] for row in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (plain, starved)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.long
def test_memory_that_really_runs_out(base, tmp_path):
    """Under a limit of address space a large micro-batch fails in the allocator and a smaller one fits."""
    model, data = base
    out = tmp_path / "run"
    script = (
        "import resource, sys\n"
        "from nurture import api\n"
        "import nurture.run, torch\n"
        "from nurture.train import loop\n"
        "inner = loop._micro_batches\n"
        "def limited(*args):\n"
        "    now = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (now + 100 * 2**20, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        return inner(*args)\n"
        "    finally:\n"
        "        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "loop._micro_batches = limited\n"
        "api.train('sft', sys.argv[1:])\n"
    )
    settings = ["steps=2", "samples.count=0", "batch_size=1600", "tokens_per_micro=100000", "precision=fp32"]
    done = subprocess.run(
        [sys.executable, "-c", script, f"model={model}", f"data={data}", f"out={out}", *settings],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert events(out, "out_of_memory"), "the limit was not reached"


# -- refused -------------------------------------------------------------------------------------------------------


def test_a_changed_configuration_is_refused_with_a_diff(forks, base, tmp_path):
    out = tmp_path / "run"
    assert forks.train("sft", *words(base, out, "steps=2"))[0] == 0
    before = (out / "config.yaml").read_bytes()
    code, output = forks.train("sft", *words(base, out, "steps=3", "learning_rate=5e-4"))
    assert code == 2 and "learning_rate: 0.001 -> 0.0005" in output and "steps: 2 -> 3" in output
    assert (out / "config.yaml").read_bytes() == before


def test_changed_data_is_refused(forks, base, tmp_path):
    model, data = base
    mine = tmp_path / "mine.jsonl"
    shutil.copy(data, mine)
    out = tmp_path / "run"
    fault = {"NURTURE_FAULT": "run.after_metrics:kill9@2"}
    settings = ["steps=3", "checkpoint.every=1"]
    assert forks.train("sft", *words((model, mine), out, *settings), env=fault)[0] == -signal.SIGKILL
    mine.write_text(mine.read_text().replace("It is 3.", "It is 4."))
    before = held(out)
    code, output = forks.train("sft", *words((model, mine), out, *settings))
    assert code == 2 and "mine.jsonl changed since; restore it, choose another out=" in output, output
    assert held(out) == before


def test_a_folder_in_use_is_refused(forks, base, tmp_path):
    from nurture.train.lock import lock_run

    out = tmp_path / "run"
    with lock_run(out):
        code, output = forks.train("sft", *words(base, out, "steps=2"))
    assert code == 2 and f"process {os.getpid()}" in output
    assert not (out / "config.yaml").exists()


@pytest.mark.parametrize("on_error", ["stop", "continue"])
def test_a_full_disk(forks, base, tmp_path, on_error):
    out = tmp_path / "run"
    settings = ["steps=6", "checkpoint.every=2", f"checkpoint.on_save_error={on_error}"]
    fault = {"NURTURE_FAULT": "checkpoint.after_tensors:enospc@2"}
    code, output = forks.train("sft", *words(base, out, *settings), env=fault)
    assert "disk filled up" in output and not list((out / "checkpoints").glob(".tmp*"))
    assert code == (2 if on_error == "stop" else 0), output
    assert (out / "checkpoints" / "step-00000002").is_dir() or on_error == "continue"
    assert forks.train("sft", *words(base, out, *settings))[0] == 0


@pytest.mark.parametrize("wrong", ["data=nowhere.jsonl", "model=./no/such/model", "max_length=9999"])
def test_a_refused_run_leaves_nothing_behind(forks, base, tmp_path, wrong):
    out = tmp_path / "run"
    code, output = forks.train("sft", *words(base, out, "steps=2", wrong))
    assert code == 2 and "nurture: error: " in output and "Traceback" not in output
    assert not out.exists()


def test_stopped_before_the_first_step(forks, base, goals, tmp_path):
    out = tmp_path / "run"
    code, output = forks.train("sft", *words(base, out, *GOAL), env={"NURTURE_FAULT": "step.micro:sigterm@1"})
    assert code == 143 and "step-00000000" in output
    assert forks.train("sft", *words(base, out, *GOAL))[0] == 0
    assert outcome(out) == goals[1]


def test_fresh_deletes_run_folders_only(forks, base, tmp_path):
    out = tmp_path / "precious"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    code, output = forks.train("sft", *words(base, out, "steps=2"), "fresh=true")
    assert code == 2 and "not a run folder" in output
    assert (out / "thesis.tex").read_text() == "years of work"


def test_fresh_replaces_a_run_only_when_the_new_one_begins(forks, base, tmp_path):
    out = tmp_path / "run"
    assert forks.train("sft", *words(base, out, "steps=2"))[0] == 0
    before = held(out)
    for wrong in (f"data={tmp_path}/none.jsonl", f"model={tmp_path}/none", f"eval.data={tmp_path}/none.jsonl"):
        code, output = forks.train("sft", *words(base, out, "steps=2"), wrong, "fresh=true")
        assert code == 2 and "none" in output, output
        assert held(out) == before
    assert forks.train("sft", *words(base, out, "steps=3"), "fresh=true")[0] == 0
    assert not (out / ".replaced").exists() and '"step": 3' in (out / "metrics.jsonl").read_text()


def test_a_disk_too_small_is_told_before_anything_is_written(forks, base, small_disk):
    out = small_disk / "run"
    model = (base[0] / "model.safetensors").stat().st_size
    (small_disk / "films").write_bytes(bytes(shutil.disk_usage(small_disk).free - int(0.7 * model)))
    settings = words(base, out, "steps=3", "checkpoint.every=1")
    code, output = forks.train("sft", *settings)
    assert code == 2 and "for 3 checkpoints and the model" in output and "make room" in output, output
    assert not out.exists()
    code, output = forks.train("sft", *settings, "checkpoint.on_save_error=continue")
    assert code == 2 and "What was saved before is intact" in output, output
    assert "Traceback" not in output and not list(out.glob(".model*"))


# -- more than one process -----------------------------------------------------------------------------------------


def command(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "nurture", *args], capture_output=True, text=True, timeout=1500,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | env,
    )  # fmt: skip


def test_two_processes_equal_one(forks, base, tmp_path):
    settings = ["steps=6", "eval.share=0.2", "eval.every=3", "precision=fp32"]
    assert forks.train("sft", *words(base, tmp_path / "one", *settings))[0] == 0
    code, output = forks.train("sft", *words(base, tmp_path / "two", *settings), ranks=2)
    assert code == 0, output
    one, two = (
        [json.loads(row) for row in (tmp_path / n / "metrics.jsonl").read_text().splitlines()] for n in ("one", "two")
    )
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        assert a["tokens"] == b["tokens"] and a["trained_tokens"] == b["trained_tokens"]
        for key in a:
            assert a[key] == pytest.approx(b[key], rel=1e-5), key


@pytest.mark.long
def test_torchrun_starts_a_run_as_our_launcher_does(base, tmp_path):
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "nurture"]
    for out, start in (("ours", ["nurture"]), ("torchrun", torchrun)):
        settings = words(base, tmp_path / out, "steps=3", "precision=fp32", "processes=2")
        done = subprocess.run(
            [sys.executable, "-m", *start, "train", "sft", *settings], capture_output=True, text=True, timeout=1500,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "ours") == outcome(tmp_path / "torchrun")


@pytest.mark.long
def test_a_run_on_two_processes_that_is_refused_leaves_nothing(base, tmp_path):
    done = command("train", "sft", *words(base, tmp_path / "run", "steps=2", "processes=2", "data=none.jsonl"))
    assert done.returncode == 2 and "none.jsonl" in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_two_stages_on_two_processes_with_a_single_row_to_evaluate(base, tmp_path):
    model, data = base
    one = tmp_path / "one.jsonl"
    one.write_text(data.read_text().splitlines(True)[0])
    settings = f"data: {data}, steps: 2, batch_size: 4, processes: 2, samples: {{count: 0}}, eval: {{data: {one}}}"
    (tmp_path / "recipe.yaml").write_text(
        f"name: two\nstages:\n  a: {{method: sft, model: {model}, {settings}}}\n"
        f"  b: {{method: sft, model: a, {settings}}}\n"
    )
    done = command("run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "b" / "model" / "model.safetensors").exists()


@pytest.mark.long
def test_a_lost_rank_is_named_and_ends_the_run(base, tmp_path):
    done = command(
        "train", "sft", *words(base, tmp_path / "run", "steps=6", "processes=2"),
        NURTURE_FAULT="step.micro:kill9@3#1",
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "rank 1" in done.stderr.lower() and "step" in done.stderr
    again = command("train", "sft", *words(base, tmp_path / "run", "steps=6", "processes=2"))
    assert again.returncode == 0, again.stderr


# -- what comes out ------------------------------------------------------------------------------------------------


def test_the_model_folder_is_plain_and_says_the_same(forks, base, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from nurture import api

    out = tmp_path / "run"
    assert forks.train("sft", *words(base, out, "steps=30", "learning_rate=3e-3"))[0] == 0
    folder = str(out / "model")
    ours = "".join(api.chat_session(folder, temperature=0.0, max_tokens=20).reply("What is 2 plus 3?"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": "What is 2 plus 3?"}]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        text = model.generate(**ids, do_sample=False, max_new_tokens=20)[0, ids["input_ids"].shape[1] :]
    assert ours == tokenizer.decode(text, skip_special_tokens=True)
    assert Path(folder, "README.md").read_text().startswith("---")
    assert (out / "report.html").stat().st_size > 5000
