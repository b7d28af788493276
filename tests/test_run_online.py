"""Whole runs that learn from their own answers, with a tiny model: what they write, what they learn, and how they go on
after being killed."""

import json
import re
import signal
from collections import defaultdict
from dataclasses import replace

import pytest
from forks import Forks
from rich.console import Console
from safetensors.torch import load_file

from nurture import api
from nurture.errors import InputError
from nurture.evaluate.scoring import load_reward_model, score
from nurture.lab.datasets import DATASETS, open_dataset
from nurture.records import Conversation, Message
from nurture.runs import rows_of

TINY = (
    "model={config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, "
    "num_attention_heads: 2}, tokenizer: lab}"
)
SHORT = (
    "precision=fp32",
    "warmup=0",
    "batch_size=2",
    "max_completion_length=6",
    "samples.count=1",
    "learning_rate=1e-2",
)
GRPO = ("data=lab/prompts", "num_generations=4", "num_iterations=2", "steps=10", "checkpoint.every=3")
PPO = ("data=lab/prompts", "num_generations=2", "num_iterations=1", "num_mini_batches=2", "kl_target=0.1", *GRPO[-2:])
WANTED = "e.*e"
"""A pattern that a tiny new model, whose words are nearly uniform, writes now and then."""
CASES = {"grpo": GRPO, "ppo": PPO}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """The lab's sets, shorter (in this process)."""
    open_dataset.cache_clear()
    for name in ("lab/prompts", "lab/ratings", "lab/demonstrations"):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], size=56))
    yield
    open_dataset.cache_clear()


@pytest.fixture(scope="module")
def forks():
    forks = Forks()
    yield forks
    forks.close()


def words(method, out):
    return (TINY, *SHORT, *CASES[method], f"reward={{name: regex, pattern: '{WANTED}'}}", f"out={out}")


def outcome(run):
    files = ["model/model.safetensors", "model/config.json", "metrics.jsonl", "samples.jsonl"]
    return {name: (run / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def goals(forks, tmp_path_factory):
    """The runs that nobody stopped."""
    results = {}
    for method in CASES:
        results[method] = tmp_path_factory.mktemp("goal") / method
        code, output = forks.train(method, *words(method, results[method]))
        assert code == 0, output
    return results


def run(method, out, *more):
    model = api.train(method, [TINY, *SHORT, *more, f"out={out}"], console=Console(quiet=True))
    return model, list(rows_of(out / "metrics.jsonl")), list(rows_of(out / "samples.jsonl"))


# -- killed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CASES)
@pytest.mark.parametrize("failpoint", ["step.after_update", "run.after_metrics", "step.before_update"])
def test_killed_in_the_middle_of_a_rollout_it_ends_the_same(forks, goals, tmp_path, method, failpoint):
    code, output = forks.train(method, *words(method, tmp_path), env={"NURTURE_FAULT": f"{failpoint}:kill9@7"})
    assert code == -signal.SIGKILL, output
    # Every third update is asked for, and the rollout that update 3 is part of ends with update 4.
    saved = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert saved == ["step-00000004", "step-00000006"]
    code, output = forks.train(method, *words(method, tmp_path))
    assert code == 0 and "Going on after step" in output, output
    assert outcome(tmp_path) == outcome(goals[method])


@pytest.mark.parametrize("method", CASES)
def test_a_signal_is_heeded_where_the_rollout_ends(forks, goals, tmp_path, method):
    code, output = forks.train(method, *words(method, tmp_path), env={"NURTURE_FAULT": "step.after_update:sigterm@7"})
    assert code == 128 + signal.SIGTERM, output
    assert (tmp_path / "checkpoints" / "latest").read_text() == "step-00000008\n"
    assert forks.train(method, *words(method, tmp_path))[0] == 0
    assert outcome(tmp_path) == outcome(goals[method])


def test_checkpoints_stand_only_where_a_rollout_ends(goals):
    saved = [e["step"] for e in rows_of(goals["grpo"] / "events.jsonl") if e["event"] == "checkpoint_saved"]
    assert saved == [4, 6, 10]


# -- what is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", CASES)
def test_metrics_and_samples_tell_of_each_rollout(goals, method):
    out = goals[method]
    metrics = list(rows_of(out / "metrics.jsonl"))
    drawn = defaultdict(list)
    for row in rows_of(out / "samples.jsonl"):
        if "rollout" in row:
            assert row["prompt"].startswith("<|im_start|>user") and "match" in row["reason"]
            found = re.search(WANTED, row["response"], re.DOTALL)
            assert row["score"] == float(found is not None) and row["step"] == 2 * row["rollout"] + 1
            drawn[row["rollout"]].append(row)
    assert [m["step"] for m in metrics] == list(range(1, 11)) and sorted(drawn) == [0, 1, 2, 3, 4]
    for m in metrics:
        rows = drawn[(m["step"] - 1) // 2]
        assert len(rows) == m["rollout/responses"] == (8 if method == "grpo" else 4)
        assert m["rollout/score"] == pytest.approx(sum(r["score"] for r in rows) / len(rows))
        assert m["rollout/length"] == pytest.approx(sum(r["tokens"] for r in rows) / len(rows))
        assert m["rollout/kl"] == pytest.approx(sum(r["kl"] for r in rows) / len(rows), abs=1e-5)
    assert metrics[0]["rollout/kl"] == pytest.approx(0, abs=1e-5) and abs(metrics[-1]["rollout/kl"]) > 1e-3
    assert metrics[0]["sampler_gap"] < 1e-4, "the sampler's log-probs are the trainer's"


def test_the_critic_is_saved_for_going_on_and_is_no_part_of_the_model(goals):
    policy = set(load_file(goals["ppo"] / "model" / "model.safetensors"))
    assert not any(name.startswith("value.") or "score" in name for name in policy)
    newest = max((goals["ppo"] / "checkpoints").glob("step-*"))
    saved = {name for shard in newest.glob("tensors-*.safetensors") for name in load_file(shard)}
    assert {f"exp_avg.value.{name}" for name in policy} < saved and "master.value.score.weight" in saved


# -- what is learnt ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grpo", "rloo", "reinforce++", "ppo"])
def test_what_is_rewarded_becomes_more_frequent(tmp_path, method):
    """The tiny model begins with nearly uniform words, which seldom hold the letter e so often."""
    reward = "reward={name: regex, pattern: 'e.*e.*e'}"
    more = ("num_generations=8", "batch_size=4", "steps=40", "data=lab/prompts", "schedule=constant", reward)
    _, metrics, _ = run(method, tmp_path / method, *more, "num_iterations=1")
    scores = [m["rollout/score"] for m in metrics]
    assert sum(scores[-6:]) / 6 > sum(scores[:6]) / 6 + 0.15


def test_another_model_as_the_reference_stays_as_it_is(goals, tmp_path):
    words = ("data=lab/prompts", "num_generations=4", "steps=2", f"ref={goals['grpo'] / 'model'}")
    _, metrics, _ = run("grpo", tmp_path / "far", *words)
    _, own, _ = run("grpo", tmp_path / "near", *words[:-1])
    assert own[0]["kl"] == pytest.approx(0, abs=1e-6) and metrics[0]["kl"] > 1e-3


def test_tasks_of_a_file_and_a_reward_for_them(tmp_path):
    rows = [{"question": f"What is {a} plus {a}?", "answer": f"#### {2 * a}"} for a in range(6)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, metrics, samples = run(
        "rloo", tmp_path / "run", f"data={tmp_path / 'sums.jsonl'}", "reward=number", "num_generations=2", "epochs=1"
    )
    assert len(metrics) == 3, "six prompts, two a rollout, once"
    asked = {row["prompt"] for row in samples if "rollout" in row}
    assert len(asked) == 6 and all("plus" in prompt for prompt in asked)


def test_a_reward_model_is_the_judge(tmp_path):
    start, _, _ = run("grpo", tmp_path / "start", "data=lab/prompts", "num_generations=2", "steps=1")
    quiet = Console(quiet=True)
    few = ("steps=3", "batch_size=4", "learning_rate=1e-2", "eval.share=0.2", "precision=fp32")
    judge = api.train(
        "reward", [f"model={start}", "data=lab/ratings", *few, f"out={tmp_path / 'judge'}"], console=quiet
    )
    words = (
        f"model={start}",
        "data=lab/prompts",
        "num_generations=2",
        "steps=1",
        f"reward={{name: model, model: {judge}}}",
    )
    _, _, samples = run("grpo", tmp_path / "run", *words)
    known = load_reward_model(judge, precision="fp32")
    for row in [row for row in samples if "rollout" in row]:
        asked = row["prompt"].removeprefix("<|im_start|>user\n").partition("<|im_end|>")[0]
        talk = Conversation((Message("user", asked), Message("assistant", row["response"])))
        assert row["score"] == pytest.approx(score(known, [talk])[0], abs=1e-5)


# -- refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "more", "sentence"),
    [
        ("grpo", ["data=rows.jsonl"], "reward is missing: method 'grpo' must be told"),
        ("grpo", ["data=lab/prompts", "reward=numbre"], "reward: 'numbre' is not a reward. Did you mean 'number'?"),
        ("sft", ["data=lab/demonstrations", "reward=lab"], "reward is set, but method 'sft' does not learn"),
        ("grpo", ["data=lab/demonstrations"], "holds Conversation records, but method 'grpo' learns from Task."),
        ("grpo", ["data=lab/prompts", "eval.share=0.1"], "eval: method 'grpo' has no loss on given rows"),
        ("grpo", ["data=lab/prompts", "dropout=0.1"], "dropout: method 'grpo' learns from probabilities"),
        ("grpo", ["data=lab/prompts", "batch_size=2", "processes=2"], "processes: method 'grpo' draws its answers"),
        ("grpo", ["data=lab/prompts", "max_length=6"], "max_completion_length: 6 leaves no room for a prompt"),
        ("grpo", ["data=lab/prompts", "max_length=30", "on_long=error"], "TOO_LONG"),
        ("grpo", ["data=lab/prompts", "beta=0", "ref=lab"], "ref is set, but method 'grpo' has no reference"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_is_one_sentence(tmp_path, method, more, sentence):
    with pytest.raises(InputError) as error:
        api.train(
            method,
            [TINY, *(SHORT if method == "grpo" else ()), *more, f"out={tmp_path / 'refused'}"],
            console=Console(quiet=True),
        )
    assert sentence in str(error.value)
    assert not (tmp_path / "refused").exists()
