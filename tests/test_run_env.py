"""Whole runs in which a tool answers between the turns of a tiny model that has seen calls."""

import json
import re
import signal
from collections import defaultdict
from functools import partial

import numpy as np
import pytest
from rich.console import Console

from nurture import api
from nurture.api_data import load_tokenizer
from nurture.data.template import Template
from nurture.envs import Calculator
from nurture.errors import InputError
from nurture.lab.datasets import open_dataset
from nurture.methods import GRPO
from nurture.records import Conversation
from nurture.rewards import reward_from, score_all
from nurture.rollout.conversation import several_turns
from nurture.rollout.loop import Prompt, Rollouts
from nurture.runs import rows_of
from nurture.types import Response

TINY = (
    "model={config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, "
    "num_attention_heads: 2}, tokenizer: lab}"
)
SUMS = [(2, "+", 3), (7, "-", 4), (3, "*", 3), (9, "+", 1)]
RESULT = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
FIELDS = ("precision=fp32", "warmup=0", "batch_size=2", "samples.count=0", "learning_rate=1e-3")
ONLINE = (*FIELDS, "max_completion_length=40", "reward=number", "env=calculator", "steps=8", "checkpoint.every=3")
CASES = {
    "grpo": ("num_generations=4", "num_iterations=2"),
    "ppo": ("num_generations=2", "num_iterations=1", "num_mini_batches=2"),
}
WORLDS = re.compile(r"<\|im_end\|>\n<\|im_start\|>tool\n(-?\d+)<\|im_end\|>\n<\|im_start\|>assistant\n")


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model that has been shown how to call the calculator, and the questions it was shown it with."""
    folder = tmp_path_factory.mktemp("start")
    shown, asked = [], []
    for a, sign, b in SUMS:
        question, result = f"What is {a} {sign} {b}?", str(RESULT[sign](a, b))
        turns = [
            ("user", question),
            ("assistant", f"<calc>{a}{sign}{b}</calc>"),
            ("tool", result),
            ("assistant", result),
        ]
        shown.append({"messages": [{"role": role, "content": content} for role, content in turns]})
        asked.append({"question": question, "answer": f"#### {result}"})
    for name, rows in {"shown": shown, "asked": asked}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [TINY, f"data={folder / 'shown.jsonl'}", *FIELDS[:2], "batch_size=4", "samples.count=0", "steps=120"]
    api.train("sft", [*words, "learning_rate=1e-2", f"out={folder / 'sft'}"], console=Console(quiet=True))
    return folder


def words(start, method, out):
    return (f"model={start / 'sft' / 'model'}", f"data={start / 'asked.jsonl'}", *ONLINE, *CASES[method], f"out={out}")


def outcome(run):
    files = ["model/model.safetensors", "model/config.json", "metrics.jsonl", "samples.jsonl"]
    return {name: (run / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def goals(forks, start, tmp_path_factory):
    results = {}
    for method in CASES:
        results[method] = tmp_path_factory.mktemp("goal") / method
        code, output = forks.train(method, *words(start, method, results[method]))
        assert code == 0, output
    return results


@pytest.mark.long
@pytest.mark.parametrize("method", CASES)
def test_killed_in_the_middle_of_a_rollout_it_ends_the_same(forks, start, goals, tmp_path, method):
    fault = {"NURTURE_FAULT": "step.after_update:kill9@5"}
    code, output = forks.train(method, *words(start, method, tmp_path), env=fault)
    assert code == -signal.SIGKILL, output
    code, output = forks.train(method, *words(start, method, tmp_path))
    assert code == 0 and "Going on after step 4" in output, output
    assert outcome(tmp_path) == outcome(goals[method])


@pytest.mark.parametrize("method", CASES)
def test_what_the_tool_said_is_right_and_is_not_learnt_from(goals, method):
    """Read from the text alone: each call is followed by its result, the score is that of the last turn, and what is
    counted as written are the model's own tokens."""
    drawn = defaultdict(list)
    for row in rows_of(goals[method] / "samples.jsonl"):
        drawn[row["rollout"]].append(row)
    called = 0
    for row in (row for rows in drawn.values() for row in rows):
        turns = WORLDS.split(row["response"])
        own, heard = turns[::2], turns[1::2]
        assert row["turns"] == len(own) <= 4
        for call, result in zip(own, heard, strict=False):
            a, sign, b = re.search(r"<calc>\s*(\d+)\s*([-+*])\s*(\d+)\s*</calc>\s*$", call).groups()
            assert int(result) == RESULT[sign](int(a), int(b))
            called += 1
        question = re.search(r"What is (\d) ([-+*]) (\d)\?", row["prompt"])
        gold = RESULT[question[2]](int(question[1]), int(question[3]))
        numbers = re.findall(r"\d+", own[-1])
        if not re.search(r"[\w.-]\d", own[-1]):  # what is a number inside a word is the reward's own affair
            assert row["score"] == float(bool(numbers) and int(numbers[-1]) == gold), row
    assert called >= 8, "the model calls"
    for m in rows_of(goals[method] / "metrics.jsonl"):
        rows = drawn[(m["step"] - 1) // 2]
        assert m["rollout/turns"] == pytest.approx(np.mean([r["turns"] for r in rows]))
        assert m["rollout/length"] == pytest.approx(np.mean([r["tokens"] for r in rows]))
        assert m["trained_tokens"] <= sum(r["tokens"] for r in rows)
        if (m["step"] - 1) % 2 == 0:
            assert m["sampler_gap"] < 1e-4, "log-probs of every turn are the trainer's, on the recorded ids"


# -- a policy by hand ------------------------------------------------------------------------------------------------


def played(policy, max_turns=6):
    """Rollouts of a `policy` of prompt and what was heard so far to its next turn, on the lab's reasoning tasks."""
    tokenizer = load_tokenizer("lab")
    template = Template(tokenizer)
    tasks = list(open_dataset("lab/reasoning", n=12))
    stop = template.stop_ids[0]

    def draw(requests, sampling):
        drawn = []
        for request in requests:
            heard = re.findall(r"tool\n(-?\d+)", tokenizer.decode(request.prompt.tolist()))
            ids = np.array([*tokenizer(policy(request.task or said[request.key.split()[1]], heard))["input_ids"], stop])
            one = Response(ids, np.ones(len(ids), bool), logp_sampler=np.full(len(ids), -1.0, np.float32))
            drawn.append([one] * request.n)
        return drawn

    said = {str(i): task for i, task in enumerate(tasks)}
    decode = lambda ids: str(tokenizer.decode(list(ids)))  # noqa: E731
    talking = several_turns(draw, lambda request: Calculator(request.task), decode, template.encode_turn, max_turns)
    prompts = [Prompt(task, template.encode_prompt(task.prompt), f"task {i}") for i, task in enumerate(tasks)]
    method = GRPO(num_generations=2, max_completion_length=200, beta=0.0)

    rollouts = Rollouts(
        prompts,
        talking,
        partial(score_all, reward_from("number")),
        None,
        method,
        decode,
        len(prompts),
        0,
        template.stop_ids,
    )
    return rollouts.rollout(0, {}), rollouts, template, said


def working(task):
    return [step.partition("=")[0] for step in task.info["working"]]


def test_a_policy_that_asks_the_tool_earns_the_reward():
    """It knows the first operand and the operations, and takes every total from what it hears."""

    def asks(task, heard):
        steps = working(task)
        if len(heard) == len(steps):
            return heard[-1]
        step = steps[len(heard)]
        return f"<calc>{step}</calc>" if not heard else f"<calc>{heard[-1]}{re.search(r'[-+*].*', step)[0]}</calc>"

    batch, rollouts, template, said = played(asks)
    assert rollouts.metrics["rollout/score"] == 1.0
    steps = [len(working(said[g.key.split()[1]])) for g in batch.groups]
    assert rollouts.metrics["rollout/turns"] == pytest.approx(np.mean([n + 1 for n in steps]))
    for group in batch.groups:
        task = said[group.key.split()[1]]
        for response in group.responses:
            # The same tokens and mask as those of the conversation, tokenised at once by what fine-tuning uses.
            conversation = template.encode(Conversation((*task.prompt, *response.turns)))
            whole = np.concatenate([conversation.prompt, conversation.responses[0].ids])
            mine = np.concatenate([group.prompt, response.ids])
            np.testing.assert_array_equal(mine, whole[: len(mine)])
            np.testing.assert_array_equal(response.mask, conversation.responses[0].mask[: len(response.mask)])


def test_a_policy_that_only_calls_earns_nothing():
    _, rollouts, _, _ = played(lambda task, heard: f"<calc>{working(task)[0]}</calc>", max_turns=2)
    assert rollouts.metrics["rollout/score"] == 0.0 and rollouts.metrics["rollout/truncated"] == 1.0


# -- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "more", "sentence"),
    [
        ("grpo", ["env=calculater"], "env.name: 'calculater' is not an environment. Did you mean 'calculator'?"),
        ("grpo", ["env={name: calculator, max_turns: 1}"], "env.max_turns must be greater than or equal to 2"),
        ("grpo", ["env={name: calculator, turns: 3}"], "env.turns is not a field of env. Did you mean 'max_turns'?"),
        ("grpo", ["env=json:loads"], "environment 'json:loads' is no class with a role, which is user or tool."),
        ("grpo", ["env=nowhere:Env"], "environment 'nowhere:Env': no module named 'nowhere' can be found from here."),
        ("sft", ["env=calculator"], "env is set, but method 'sft' draws no answers of its own; take it out."),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path, method, more, sentence):
    with pytest.raises(InputError) as error:
        api.train(method, ["data=lab/reasoning", *more, f"out={tmp_path / 'refused'}"], console=Console(quiet=True))
    assert sentence in str(error.value)
    assert not (tmp_path / "refused").exists()
