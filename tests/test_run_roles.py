"""Whole runs in which several roles share one base: PPO with an adapter, and a reward model that is one."""

import json
import warnings

import numpy as np
import pytest
import torch
from adapted import CARD, CPU, SHAPE, load
from families import scale_up
from rewound import rewound
from rich.console import Console
from safetensors.torch import load_file
from shorter import shorter
from transformers import AutoModelForSequenceClassification

from nurture.errors import InputError
from nurture.evaluate.scoring import load_reward_model, score
from nurture.export import export
from nurture.models.load import LAB, load_model
from nurture.models.roles import LocalRoles
from nurture.models.save import save_model
from nurture.recipe import stage_from
from nurture.records import Conversation, Message
from nurture.run import run_stage
from nurture.runs import rows_of
from nurture.train.optim import AdamW
from nurture.train.processes import Processes
from nurture.types import Batch

QUIET = Console(quiet=True)
SHORT = ("precision=fp32", "warmup=0", "learning_rate=1e-2", "samples.count=0", "device=cpu")
LORA = "adapter={name: lora, r: 4}"
FEW = {"lab/prompts": 24, "lab/ratings": 24, "lab/comparisons": 24}
PPO = ("data=lab/prompts", "batch_size=2", "max_completion_length=5", "num_generations=2", "num_iterations=2")


@pytest.fixture(autouse=True)
def few_rows():
    with shorter(FEW):
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model with the lab's tokenizer, in a folder."""
    config = {"model_type": "qwen2", **SHAPE}
    fresh = load_model({"config": config, "tokenizer": str(LAB)}, dtype=torch.float32, device=CPU, seed=0)
    scale_up(fresh.model, 2.0)
    folder = tmp_path_factory.mktemp("base") / "model"
    save_model(fresh.model, fresh.tokenizer, folder, state=None, dtype=torch.float32, card=CARD, original_dropout=None)
    return folder


@pytest.fixture(scope="module")
def judge(base, tmp_path_factory):
    """A reward model that is an adapter with a head."""
    with shorter(FEW):
        return train(
            "reward", base, tmp_path_factory.mktemp("judge"), LORA, "data=lab/ratings", "steps=3", "batch_size=4"
        )


def train(method, base, out, *words):
    return run_stage(stage_from(method, [f"model={base}", *SHORT, *words]), out, QUIET)


@pytest.mark.long
@pytest.mark.parametrize("adapter", [LORA, "adapter={name: prefix, num_virtual_tokens: 3}"], ids=["lora", "prefix"])
def test_ppo_on_one_base_resumes_byte_for_byte(base, judge, tmp_path, adapter):
    words = (*PPO, "steps=4", "checkpoint.every=2", adapter, f"reward={{name: model, model: {judge}}}")
    whole = train("ppo", base, tmp_path / "whole", *words)
    again = rewound(tmp_path / "whole", tmp_path / "again", 2)
    resumed = train("ppo", base, again, *words)
    for file in ("metrics.jsonl", "samples.jsonl", "model/adapter_model.safetensors"):
        assert (again / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file
    assert (resumed / "value" / "adapter_model.safetensors").read_bytes() == (
        whole / "value" / "adapter_model.safetensors"
    ).read_bytes()
    saved = load_file(resumed / "adapter_model.safetensors")
    assert resumed.name == whole.name and not [n for n in saved if "value" in n or "score" in n]
    newest = max((again / "checkpoints").glob("step-*"))
    kept = {name for shard in newest.glob("tensors-*.safetensors") for name in load_file(shard)}
    assert "exp_avg.value_score.weight" in kept and [n for n in kept if ".value." in n]
    assert not [n for n in kept if "base_layer" in n or "embed_tokens" in n or ".reward." in n], "only what learns"
    started = next(e for e in rows_of(again / "events.jsonl") if e["event"] == "start")
    assert started["critic"].startswith("a second adapter") and "adapter off" in started["reference"]
    assert ("on the model's own base" in started["reward"]) == (adapter == LORA), "another kind is a model of its own"
    first = next(iter(rows_of(again / "metrics.jsonl")))
    assert first["rollout/kl"] == pytest.approx(0, abs=1e-5) or adapter != LORA


def test_a_critic_is_saved_beside_the_adapter(base, judge, tmp_path):
    """As a folder that peft loads over transformers' classifier, with the values that the run ended with."""
    from peft import PeftModel

    words = (*PPO, "steps=4", LORA, f"reward={{name: model, model: {judge}}}")
    folder = train("ppo", base, tmp_path / "run", *words)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    kept = {n: x for shard in newest.glob("tensors-*.safetensors") for n, x in load_file(shard).items()}
    saved = load_file(folder / "value" / "adapter_model.safetensors")
    masters = {n.removeprefix("master."): x for n, x in kept.items() if n.startswith("master.") and ".value." in n}
    assert len(saved) == len(masters) + 1
    for name, tensor in masters.items():
        assert torch.equal(saved[f"base_model.model.{name.replace('.value.', '.')}"], tensor), name
    assert torch.equal(saved["base_model.model.score.weight"], kept["master.value_score.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
        theirs = PeftModel.from_pretrained(plain, folder / "value").eval()
    ours = load_reward_model(folder / "value", precision="fp32")
    theirs.config.pad_token_id = ours.template.tokenizer.pad_token_id
    talk = Conversation((Message("user", "What is 2 + 2?"), Message("assistant", "It is 4.")))
    assert score(ours, [talk])[0] == pytest.approx(_scored_by(theirs, ours.template, talk), abs=1e-5)
    again = train("ppo", base, tmp_path / "again", *words, f"critic={folder / 'value'}", "steps=1")
    started = next(e for e in rows_of(tmp_path / "again" / "events.jsonl") if e["event"] == "start")
    assert "adapter and head trained along" in started["critic"] and again.is_dir()


def _scored_by(model, template, talk):
    group = template.encode_many([talk], "last")[0]
    response = group.responses[0]
    ids = np.concatenate([group.prompt, response.ids[: response.mask.nonzero()[0][-1] + 1]])
    with torch.no_grad():
        return float(model(input_ids=torch.as_tensor(ids)[None]).logits[0, 0])


@pytest.mark.parametrize("adapter", [LORA, "adapter=full", "adapter={name: freeze, train: layers}"])
def test_a_critic_starts_as_a_reward_adapter(base, judge, tmp_path, adapter):
    """On the same base as one more adapter; where all weights learn, as a copy with the adapter merged. Either way its
    values are the scores of the reward model, which transformers' classifier gives too."""
    from nurture.setup import set_up

    stage = stage_from("ppo", [
        f"model={base}", *SHORT, *PPO, "steps=2", adapter, "reward=lab", f"critic={judge}",
    ])  # fmt: skip
    setup = set_up(stage, Processes())
    merged = export(str(judge), tmp_path / "merged", merged=True).folder
    theirs = AutoModelForSequenceClassification.from_pretrained(merged, dtype=torch.float32).eval()
    cast = setup.cast
    roles = LocalRoles(cast.models, cast.layouts, AdamW(cast.trained.items()), Processes(), adapters=cast.adapters)
    talk = Conversation((Message("user", "What is 2 + 2?"), Message("assistant", "It is 4.")))
    batch = Batch(tuple(setup.template.encode_many([talk], "last")))
    own = batch.groups[0].responses[0]
    ids = np.concatenate([batch.groups[0].prompt, own.ids])
    with torch.no_grad():
        hidden = theirs.model(input_ids=torch.as_tensor(ids)[None]).last_hidden_state[0]
        expected = theirs.score(hidden)[len(batch.groups[0].prompt) - 1 : -1, 0][torch.as_tensor(own.mask)]
    found = roles.score(batch, {"value": ("value",)}).value.value
    assert torch.allclose(found, expected, atol=1e-5) and found.abs().max() > 1e-4
    trained = [n for n in cast.trained if "value" in n]
    assert "value_score.weight" in trained or "value.score.weight" in trained
    run_stage(stage, tmp_path / "run", QUIET)


def test_a_critic_that_would_change_frozen_weights_is_refused(base, judge, tmp_path):
    with pytest.raises(InputError, match="differs from the model in weights that this run does not train"):
        train("ppo", base, tmp_path / "run", *PPO, "steps=1", "adapter={name: freeze, train: -1}", "reward=lab",
              f"critic={judge}")  # fmt: skip
    with pytest.raises(InputError, match="is no ia3 adapter with a head on the model's own base"):
        train("ppo", base, tmp_path / "run", *PPO, "steps=1", "adapter=ia3", "reward=lab", f"critic={judge}")


@pytest.mark.parametrize("scored_by", ["head", "likelihood"])
def test_a_joined_reward_model_says_what_it_says_alone(base, judge, tmp_path, scored_by):
    if scored_by == "likelihood":
        words = (LORA, "data=lab/comparisons", "scored_by=likelihood", "steps=3", "batch_size=4")
        judge = train("reward", base, tmp_path / "judge", *words)
        assert json.loads((judge / "adapter_config.json").read_text())["task_type"] == "CAUSAL_LM"
        with pytest.raises(InputError, match="is no lora adapter with a head"):
            train("ppo", base, tmp_path / "no", *PPO, "steps=1", LORA, "reward=lab", f"critic={judge}")
    words = (*PPO, "steps=3", "num_iterations=1", LORA, f"reward={{name: model, model: {judge}}}")
    train("grpo", base, tmp_path / "run", *words)
    assert "on the model's own base" in (tmp_path / "run" / "events.jsonl").read_text()
    alone = load_reward_model(judge, precision="fp32")
    rows = [row for row in rows_of(tmp_path / "run" / "samples.jsonl") if "rollout" in row]
    assert len(rows) == 12
    for row in rows:  # also after the policy has learnt
        asked = row["prompt"].removeprefix("<|im_start|>user\n").partition("<|im_end|>")[0]
        talk = Conversation((Message("user", asked), Message("assistant", row["response"])))
        assert row["score"] == pytest.approx(score(alone, [talk])[0], abs=2e-5)


def test_a_reward_adapter_is_pefts_sequence_classifier(base, judge):
    """The same scores from PeftModel.from_pretrained over transformers' own classifier, whatever head that drew."""
    from peft import PeftModel

    settings = json.loads((judge / "adapter_config.json").read_text())
    assert settings["task_type"] == "SEQ_CLS" and settings["modules_to_save"] == ["score"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
        theirs = PeftModel.from_pretrained(plain, judge).eval()
    ours = load_reward_model(judge, precision="fp32")
    theirs.config.pad_token_id = ours.template.tokenizer.pad_token_id
    for text in ("Yes.", "No, 4 is the sum of 2 and 2."):
        talk = Conversation((Message("user", "What is 2 + 2?"), Message("assistant", text)))
        group = ours.template.encode_many([talk], "last")[0]
        response = group.responses[0]
        ids = np.concatenate([group.prompt, response.ids[: response.mask.nonzero()[0][-1] + 1]])
        with torch.no_grad():
            expected = theirs(input_ids=torch.as_tensor(ids)[None]).logits[0, 0]
        found = score(ours, [talk])[0]
        assert found == pytest.approx(float(expected), abs=1e-5) and abs(found) > 1e-3


def test_merged_a_reward_adapter_is_a_plain_classifier(judge, tmp_path):
    out = export(str(judge), tmp_path / "merged", merged=True).folder
    plain = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
    ours = load_reward_model(judge, precision="fp32")
    talk = Conversation((Message("user", "What is 2 + 2?"), Message("assistant", "It is 4.")))
    group = ours.template.encode_many([talk], "last")[0]
    response = group.responses[0]
    ids = np.concatenate([group.prompt, response.ids[: response.mask.nonzero()[0][-1] + 1]])
    with torch.no_grad():
        expected = float(plain(input_ids=torch.as_tensor(ids)[None]).logits[0, 0])
    assert score(ours, [talk])[0] == pytest.approx(expected, abs=1e-5)
    assert load_reward_model(out, precision="fp32").criteria == ours.criteria


def test_a_reward_adapter_learns_further(base, judge, tmp_path):
    again = train("reward", judge, tmp_path / "more", "data=lab/ratings", "steps=2", "batch_size=4")
    first, then = (load_file(folder / "adapter_model.safetensors") for folder in (judge, again))
    assert first.keys() == then.keys()
    assert not [n for n in first if torch.equal(first[n], then[n])], "head and adapter both learn"
    with pytest.raises(InputError, match="judges overall, but criteria are kind"):
        train("reward", judge, tmp_path / "other", "data=lab/ratings", "criteria=[kind]", "steps=1")


def test_a_reward_adapter_writes_nothing(judge):
    with pytest.raises(InputError, match="is a reward model, which scores texts"):
        load(judge)


def test_reward_rows_learn_with_frozen_layers_and_a_head(base, tmp_path):
    """With `freeze` the head learns beside the layers that are named."""
    words = ("adapter={name: freeze, train: -1}", "data=lab/ratings", "steps=2", "batch_size=4")
    model = train("reward", base, tmp_path / "frozen", *words)
    before, after = load_file(base / "model.safetensors"), load_file(model / "model.safetensors")
    changed = {n for n, t in after.items() if n in before and not torch.equal(t, before[n])}
    assert changed and all(n.startswith("model.layers.1.") for n in changed)
    assert after["score.weight"].abs().sum() > 0
