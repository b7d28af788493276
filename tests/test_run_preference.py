"""Whole runs of methods that learn from judgements, on a few rows of the lab, with a tiny model."""

import json
from dataclasses import replace

import pytest
from rich.console import Console

from nurture import api
from nurture.errors import InputError
from nurture.evaluate.scoring import load_reward_model, score
from nurture.lab.datasets import DATASETS, open_dataset
from nurture.records import Conversation, Message
from nurture.runs import rows_of

MODEL = (
    "model={config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, "
    "num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 512}, tokenizer: {vocab_size: 400}}"
)
FEW = {"lab/comparisons": 42, "lab/rankings": 14, "lab/ratings": 28, "lab/steps": 14}


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    """Each data set of the lab, shorter: a shorter one is the beginning of a longer one."""
    open_dataset.cache_clear()
    for name, size in FEW.items():
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], size=size))
    yield
    open_dataset.cache_clear()


def run(method, out, *words):
    settings = (MODEL, "steps=3", "batch_size=4", "learning_rate=1e-3", "eval.share=0.2", "precision=fp32", "warmup=0")
    model = api.train(method, [*settings, *words, f"out={out}"], console=Console(quiet=True))
    return model, list(rows_of(out / "metrics.jsonl"))


def test_a_reference_asked_once_trains_as_one_in_memory(tmp_path):
    _, once = run("dpo", tmp_path / "once", "data=lab/comparisons")
    _, live = run("dpo", tmp_path / "live", "data=lab/comparisons", "precompute_ref_log_probs=false")
    assert once[0]["loss"] == pytest.approx(0.6931472, abs=1e-5)
    for a, b in zip(once, live, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4) and a["margin"] == pytest.approx(b["margin"], abs=1e-4)
    assert {"eval/loss", "eval/accuracy"} <= once[-1].keys() and "eval/perplexity" not in once[-1]
    assert (tmp_path / "once" / "ref_logp.safetensors").exists()
    assert not (tmp_path / "live" / "ref_logp.safetensors").exists()


def test_kto_finds_unrelated_answers(tmp_path):
    _, metrics = run("kto", tmp_path / "kto", "data=lab/comparisons")
    assert metrics[0]["loss"] == pytest.approx(0.5, abs=1e-4) and metrics[0]["kl"] == pytest.approx(0, abs=1e-4)


def test_a_reward_model_ends_with_its_card_and_scores(tmp_path):
    out = tmp_path / "reward"
    model, metrics = run("reward", out, "data=lab/comparisons")
    assert metrics[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)
    card = json.loads((out / "reward_card.json").read_text())
    assert card["verdict"] in ("go", "caution", "no-go") and card["pairs"] == 8
    assert card["lab"]["oracle_on_clear_pairs"]["pairs"] > 100
    assert card["reason"].split(" (")[0].split(",")[0] in (out / "report.html").read_text()
    assert card["accuracy"]["share"] == pytest.approx(metrics[-1]["eval/accuracy"])
    loaded = load_reward_model(model, precision="fp32")
    assert loaded.criteria == ("overall",)
    assert len(score(loaded, [Conversation((Message("user", "Hello!"), Message("assistant", "Hello.")))])) == 1
    words = [f"model={model}", "data=lab/comparisons", "steps=1", "precision=fp32", f"out={tmp_path / 'more'}"]
    assert api.train("reward", words, console=Console(quiet=True)), "a reward model goes on learning"


@pytest.mark.parametrize(
    ("method", "data", "words"),
    [
        ("reward", "lab/ratings", ("criteria=[helpful, honest, harmless]", "gate=harmless")),
        ("reward", "lab/rankings", ("ranking=listwise", "lm_coef=0.1")),
        ("process", "lab/steps", ()),
        ("stable", "lab/rankings", ()),
        ("orpo", "lab/comparisons", ()),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_every_kind_of_judgement_trains(method, data, words, tmp_path):
    model, metrics = run(method, tmp_path / "run", f"data={data}", *words)
    assert model is not None and len(metrics) == 3
    assert (tmp_path / "run" / "reward_card.json").exists() == (method in ("reward", "process"))


def test_the_wrong_kind_of_judgement_is_named(tmp_path):
    told = "lab/steps holds Steps records, but method 'reward' learns from Pair or Ranking or Rating"
    with pytest.raises(InputError, match=told):
        run("reward", tmp_path / "run", "data=lab/steps")
