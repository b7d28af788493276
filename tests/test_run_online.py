"""Whole runs that learn from their own answers, with a tiny model: what they write, what they learn, and how they go on
after being killed."""

import json
import re
import signal
from collections import defaultdict

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from shorter import shorter

from nurture import api
from nurture.errors import Alarmed, InputError, RewardLost
from nurture.evaluate.scoring import load_reward_model, score
from nurture.records import Conversation, Message
from nurture.runs import rows_of
from nurture.train.checkpoint import CheckpointStore

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
def few_rows():
    with shorter({"lab/prompts": 56, "lab/ratings": 56, "lab/demonstrations": 56}):
        yield


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
@pytest.mark.parametrize(
    "failpoint",
    [
        "step.after_update",
        pytest.param("run.after_metrics", marks=pytest.mark.long),
        pytest.param("step.before_update", marks=pytest.mark.long),
    ],
)
def test_killed_in_the_middle_of_a_rollout_it_ends_the_same(forks, goals, tmp_path, method, failpoint):
    code, output = forks.train(method, *words(method, tmp_path), env={"NURTURE_FAULT": f"{failpoint}:kill9@7"})
    assert code == -signal.SIGKILL, output
    # Every third update is asked for, and the rollout that update 3 is part of ends with update 4.
    saved = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert saved == ["step-00000004", "step-00000006"]
    code, output = forks.train(method, *words(method, tmp_path))
    assert code == 0 and "Going on after step" in output, output
    assert outcome(tmp_path) == outcome(goals[method])


@pytest.mark.long
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


@pytest.mark.parametrize("method", CASES)
def test_where_the_time_of_each_rollout_went_stands_among_the_events(goals, method):
    told = [event for event in rows_of(goals[method] / "events.jsonl") if event["event"] == "rollout"]
    assert [event["step"] for event in told] == [2, 4, 6, 8, 10]
    for event in told:
        assert list(event["seconds"]) == ["sample", "reward", "score", "train"]
        assert all(seconds >= 0 for seconds in event["seconds"].values()) and event["seconds"]["train"] > 0


@pytest.mark.long
def test_two_processes_equal_one(forks, tmp_path):
    """Each draws, rewards and learns from its share of the prompts; together they are the run of one."""
    for method in CASES:
        one, two = tmp_path / f"{method}-1", tmp_path / f"{method}-2"
        reward = f"reward={{name: regex, pattern: '{WANTED}'}}"
        same = (TINY, *SHORT, *CASES[method][:-2], "batch_size=3", "steps=4", "oversample=1.5", reward)
        assert forks.train(method, *same, f"out={one}")[0] == 0
        code, output = forks.train(method, *same, f"out={two}", ranks=2)
        assert code == 0, output
        for a, b in zip(*(rows_of(out / "metrics.jsonl") for out in (one, two)), strict=True):
            assert a.keys() == b.keys()
            # (Of a PPO update with a single prompt each process has one answer, and so the prompt stands twice.)
            for key in a.keys() - ({"tokens"} if method == "ppo" else set()):
                assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-4, abs=1e-5, nan_ok=True), key
        drawn = [[(r["prompt"], r["response"]) for r in rows_of(out / "samples.jsonl")] for out in (one, two)]
        assert drawn[0] == drawn[1]


def test_the_price_of_a_nat_is_written_as_it_is_steered(goals):
    """By the recorded distances, one after the other, as Ziegler's rule has it."""
    price = 0.05
    for row in rows_of(goals["ppo"] / "metrics.jsonl"):
        price *= 1 + 0.1 * min(max(row["kl"] / 0.1 - 1, -0.2), 0.2)
        assert row["kl_coef"] == pytest.approx(price, rel=1e-6)
    assert "kl_coef" not in next(iter(rows_of(goals["grpo"] / "metrics.jsonl")))


# -- alarms ----------------------------------------------------------------------------------------------------------


def test_an_alarm_is_said_once_and_ends_a_run_that_is_to_stop(tmp_path):
    """Six tokens are too few for almost any answer, so the alarm for cut-off answers rings after its window."""
    more = ("data=lab/prompts", "num_generations=2", "steps=6", "alarms.window=2", "alarms.no_signal=null")
    reward = "reward={name: regex, pattern: e}"
    run("grpo", tmp_path / "warned", *more, reward)
    rung = [e for e in rows_of(tmp_path / "warned" / "events.jsonl") if e["event"] == "alarm"]
    assert [(e["step"], e["alarm"]) for e in rung] == [(2, "length")]
    steered = (*more, reward, "alarms.length=null", "kl_target=1e-9", "num_iterations=1")
    run("ppo", tmp_path / "far", *steered)  # five times such a target is passed at once
    run("ppo", tmp_path / "told", *steered, "alarms.kl=100")
    far, told = ([e.get("alarm") for e in rows_of(tmp_path / name / "events.jsonl")] for name in ("far", "told"))
    assert "kl" in far and "kl" not in told
    assert "of the answers are cut off at max_completion_length" in rung[0]["reason"]

    words = (*more, reward, "alarms.stop=[length]")
    with pytest.raises(Alarmed, match=r"Stopped by an alarm\. length: 100%") as error:
        run("grpo", tmp_path / "stopped", *words)
    assert error.value.exit_code == 3
    assert (tmp_path / "stopped" / "checkpoints" / "latest").read_text() == "step-00000002\n"
    run("grpo", tmp_path / "stopped", *words)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "warned"), "it goes on, and ends as it would have"


def test_lost_rewards_keep_what_was_learnt(tmp_path, monkeypatch):
    """A reward that breaks down ends the run with a checkpoint; mended, the run ends as if nothing had happened. An
    oracle may fail, and some rewards: that is told."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "def worth(answers):\n"
        "    calls = Path('calls')\n"
        "    if Path('broken').exists() and len(calls.read_text()) >= int(Path('broken').read_text()):\n"
        "        raise ConnectionError('the judge is dead')\n"
        "    calls.open('a').write('x')\n"
        "    return [float('nan') if i == 0 else float(a.text.count('e')) for i, a in enumerate(answers)]\n"
        "def dead(answers):\n"
        "    raise ConnectionError('the judge is dead')\n"
    )
    more = ("data=lab/prompts", "num_generations=4", "steps=4", "reward={name: function, path: 'mine:worth'}")
    run("grpo", tmp_path / "whole run", *more, "oracle={name: function, path: 'mine:dead'}")
    events = rows_of(tmp_path / "whole run" / "events.jsonl")
    (first, *_) = [e for e in events if e["event"] == "unscored"]
    assert first["answers"] == 1 and first["reasons"][0]["kind"] == "failed" and "nan" in first["reasons"][0]["reason"]
    assert all(
        row["rollout/failed"] == row["rollout/unscored"] == 1 for row in rows_of(tmp_path / "whole run/metrics.jsonl")
    )

    (tmp_path / "calls").write_text("")
    (tmp_path / "broken").write_text("3")
    with pytest.raises(RewardLost, match="the judge is dead"):
        run("grpo", tmp_path / "broken run", *more, "oracle={name: function, path: 'mine:dead'}")
    assert (tmp_path / "broken run" / "checkpoints" / "latest").read_text() == "step-00000003\n"
    (tmp_path / "broken").unlink()
    run("grpo", tmp_path / "broken run", *more, "oracle={name: function, path: 'mine:dead'}", "stop_limit=0.9")
    assert outcome(tmp_path / "broken run") == outcome(tmp_path / "whole run")


@pytest.mark.long
def test_a_rank_whose_rewards_are_lost_ends_all_with_what_was_learnt(forks, tmp_path):
    """The reward of rank 1 breaks down in the third rollout: both save, and say the same; mended, both go on."""
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from pathlib import Path\n"
        "calls = 0\n"
        "def worth(answers):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == 3 and os.environ['RANK'] == '1' and Path(__file__).with_name('broken').exists():\n"
        "        raise ConnectionError('the judge is dead')\n"
        "    return [float(a.text.count('e')) for a in answers]\n"
    )
    (tmp_path / "broken").touch()
    words = (
        TINY, *SHORT, "data=lab/prompts", "num_generations=4", "steps=4", "batch_size=2",
        "reward={name: function, path: 'mine:worth'}",
    )  # fmt: skip
    code, output = forks.train("grpo", *words, f"out={tmp_path / 'run'}", ranks=2, cwd=tmp_path)
    assert code == 4 and output.count("the judge is dead") >= 2, output
    assert (tmp_path / "run" / "checkpoints" / "latest").read_text() == "step-00000002\n"
    (tmp_path / "broken").unlink()
    assert forks.train("grpo", *words, f"out={tmp_path / 'run'}", ranks=2, cwd=tmp_path)[0] == 0
    assert forks.train("grpo", *words, f"out={tmp_path / 'whole'}", ranks=2, cwd=tmp_path)[0] == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_the_oracle_is_watched_and_not_learnt_from(tmp_path):
    """The reward pays for the letter e, the oracle counts another letter: its mean stands beside the reward's."""
    more = ("data=lab/prompts", "num_generations=4", "steps=2", "reward={name: regex, pattern: e}")
    _, plain, _ = run("grpo", tmp_path / "plain", *more)
    _, watched, samples = run("grpo", tmp_path / "watched", *more, "oracle={name: regex, pattern: o}")
    for a, b in zip(plain, watched, strict=True):
        assert a["loss"] == b["loss"] and "rollout/oracle" not in a
    rows = [s for s in samples if s.get("rollout") == 0]
    assert all(s["oracle"] == float("o" in s["response"]) for s in rows)
    assert watched[0]["rollout/oracle"] == pytest.approx(sum(s["oracle"] for s in rows) / len(rows))


def test_the_parts_of_a_reward_are_told(tmp_path):
    parts = "reward={name: sum, of: {e: {name: regex, pattern: e}, o: {name: regex, pattern: o}}}"
    _, metrics, samples = run("grpo", tmp_path, "data=lab/prompts", "num_generations=4", "steps=1", parts)
    row = metrics[0]
    assert row["rollout/part/e"] + row["rollout/part/o"] == pytest.approx(row["rollout/score"])
    assert samples[1]["parts"].keys() == {"e", "o"}


# -- the critic and the mix ------------------------------------------------------------------------------------------


def test_the_critic_starts_as_the_reward_model_and_texts_are_mixed_in(tmp_path):
    """What the critic expects at first at an answer's last token's place is what the reward model makes of the same
    hidden state; so with a critic of its own head the first rollout's values are not 0."""
    start, _, _ = run("grpo", tmp_path / "start", "data=lab/prompts", "num_generations=2", "steps=1", "reward=lab")
    few = ("steps=3", "batch_size=4", "learning_rate=1e-2", "eval.share=0.2", "precision=fp32")
    words = [f"model={start}", "data=lab/ratings", *few, f"out={tmp_path / 'judge'}"]
    judge = api.train("reward", words, console=Console(quiet=True))
    common = (f"model={start}", "data=lab/prompts", "num_generations=2", "steps=1", "num_iterations=1", "reward=lab")
    new, told = tmp_path / "new", tmp_path / "told"
    _, (plain,), _ = run("ppo", new, *common, "learning_rate=0")
    _, (told_row,), _ = run("ppo", told, *common, f"critic={judge}", "learning_rate=0")
    assert plain["policy_loss"] == pytest.approx(0, abs=1e-3) and plain["value_error"] != told_row["value_error"]
    kept = CheckpointStore(told / "checkpoints").load_newest().tensors
    learnt = load_file(judge / "model.safetensors")
    for name, tensor in learnt.items():
        assert torch.equal(kept[f"master.value.{name}"], tensor.float()), name
    mixed = ("ptx_coef=1", "ptx_data=lab/demonstrations")
    _, (row,), _ = run("ppo", tmp_path / "ptx", *common, *mixed, "learning_rate=1e-3")
    assert row["ptx_loss"] > 1 and row["trained_tokens"] > plain["trained_tokens"]


def test_the_critic_learns_at_a_rate_of_its_own(goals, tmp_path):
    """AdamW's first update moves a weight by its learning rate times its gradient over itself and eps: by ten times as
    much where the critic learns ten times as fast, and the policy by the same."""
    start = f"model={goals['ppo'] / 'model'}"
    reward = f"reward={{name: regex, pattern: '{WANTED}'}}"
    words = (start, "data=lab/prompts", "steps=1", "num_iterations=1", "weight_decay=0", reward)
    kept = {}
    for ratio in (1, 10):
        out = tmp_path / str(ratio)
        run("ppo", out, *words, "learning_rate=1e-3", f"critic_lr_ratio={ratio}")
        kept[ratio] = CheckpointStore(out / "checkpoints").load_newest().tensors
    name = "master.value.score.weight"
    assert kept[1][name].abs().max() == pytest.approx(1e-3, rel=0.01), "the head of a new critic starts at 0"
    torch.testing.assert_close(kept[10][name], 10 * kept[1][name], rtol=1e-4, atol=1e-8)
    policy = [n for n in kept[1] if n.startswith("master.") and not n.startswith("master.value.")]
    assert policy and all(torch.equal(kept[1][n], kept[10][n]) for n in policy)


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
        ("grpo", ["data=lab/prompts", "critic=lab"], "critic is set, but method 'grpo' has no critic"),
        ("ppo", ["data=lab/prompts", "critic=lab"], "critic: lab has no score head"),
        ("ppo", ["data=lab/prompts", "ptx_coef=1"], "ptx_data and ptx_coef belong together"),
        (
            "ppo",
            ["data=lab/prompts", "num_generations=1", "oversample=2"],
            "oversample, refills: one answer to a prompt",
        ),
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
            [TINY, *(SHORT if method != "sft" else ()), *more, f"out={tmp_path / 'refused'}"],
            console=Console(quiet=True),
        )
    assert sentence in str(error.value)
    assert not (tmp_path / "refused").exists()
