"""Whole runs of methods that learn from judgements, on a few rows of the lab, with a tiny model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from shorter import shorter
from transformers import AutoModelForCausalLM

from nurture import api
from nurture.data.convert import as_nurture
from nurture.errors import InputError
from nurture.evaluate.best_of import BestOf
from nurture.evaluate.exam import Exam
from nurture.evaluate.lab_judges import agrees, lab_pairs
from nurture.evaluate.scoring import load_reward_model, score
from nurture.lab.datasets import open_dataset, task_of_all
from nurture.lab.votes import votes
from nurture.records import Conversation, Message
from nurture.runs import rows_of

MODEL = (
    "model={config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, "
    "num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 512}, tokenizer: {vocab_size: 400}}"
)
FEW = {"lab/comparisons": 42, "lab/rankings": 14, "lab/ratings": 28, "lab/steps": 14, "lab/demonstrations": 28}


@pytest.fixture(autouse=True)
def few_rows():
    with shorter(FEW):
        yield


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


def test_another_beta_asks_the_reference_nothing_new(tmp_path, monkeypatch):
    monkeypatch.setenv("NURTURE_CACHE", str(tmp_path / "cache"))
    run("dpo", tmp_path / "first", "data=lab/comparisons")
    _, told = run("dpo", tmp_path / "told", "data=lab/comparisons", "beta=0.3")
    events = [[row["event"] for row in rows_of(tmp_path / name / "events.jsonl")] for name in ("first", "told")]
    assert [some.count("reference") for some in events] == [1, 0]
    monkeypatch.setenv("NURTURE_CACHE", "")
    _, alone = run("dpo", tmp_path / "alone", "data=lab/comparisons", "beta=0.3")
    assert told == alone
    monkeypatch.setenv("NURTURE_CACHE", str(tmp_path / "cache"))
    run("dpo", tmp_path / "other", "data=lab/comparisons", "model=lab", "adapter=lora")
    assert any(e["event"] == "reference" for e in rows_of(tmp_path / "other" / "events.jsonl"))


def test_a_reference_asked_live_is_the_base_with_its_adapter_off(tmp_path):
    words = ("data=lab/comparisons", "model=lab", "adapter=lora")
    _, once = run("dpo", tmp_path / "once", *words)
    _, live = run("dpo", tmp_path / "live", *words, "precompute_ref_log_probs=false")
    for a, b in zip(once, live, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4) and a["margin"] == pytest.approx(b["margin"], abs=1e-4)


def test_kto_finds_unrelated_answers(tmp_path):
    _, metrics = run("kto", tmp_path / "kto", "data=lab/comparisons")
    assert metrics[0]["loss"] == pytest.approx(0.5, abs=1e-4) and metrics[0]["kl"] == pytest.approx(0, abs=1e-4)


def test_a_reward_model_ends_with_its_card_and_scores(tmp_path):
    out = tmp_path / "reward"
    model, metrics = run("reward", out, "data=lab/comparisons")
    assert metrics[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)
    card = json.loads((out / "reward_card.json").read_text())
    readme = (out / "model" / "README.md").read_text()
    assert "pipeline_tag: text-classification" in readme and f"{card['verdict']}: {card['reason']}" in readme
    assert card["verdict"] in ("go", "caution", "no-go") and card["pairs"] == 8
    assert card["lab"]["oracle_on_clear_pairs"]["pairs"] > 100
    assert card["reason"].split(" (")[0].split(",")[0] in (out / "report.html").read_text()
    assert card["accuracy"]["share"] == pytest.approx(metrics[-1]["eval/accuracy"])
    loaded = load_reward_model(model, precision="fp32")
    assert loaded.criteria == ("overall",)
    assert len(score(loaded, [Conversation((Message("user", "Hello!"), Message("assistant", "Hello.")))])) == 1
    words = [f"model={model}", "data=lab/comparisons", "steps=1", "precision=fp32", f"out={tmp_path / 'more'}"]
    assert api.train("reward", words, console=Console(quiet=True)), "a reward model goes on learning"


@pytest.mark.long
def test_a_likelihood_is_a_reward_model_without_a_head(tmp_path):
    """Its score is what transformers' own model of the saved folder says: beta times the mean log-probability."""
    model, _ = run("reward", tmp_path / "reward", "data=lab/comparisons", "scored_by=likelihood", "beta=3.0")
    assert (tmp_path / "reward" / "reward_card.json").exists()
    judge = load_reward_model(model, precision="fp32")
    chats = [Conversation((Message("user", "Hello!"), Message("assistant", text))) for text in ("Hi.", "Good day!")]
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    for said, group in zip(score(judge, chats), judge.template.encode_many(chats, "last"), strict=True):
        ids = torch.tensor(np.concatenate([group.prompt, group.responses[0].ids]))
        with torch.no_grad():
            logp = plain(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
        own = torch.tensor(group.responses[0].mask)
        assert said == pytest.approx(3 * float(logp[len(group.prompt) - 1 :][own].mean()), rel=1e-4)
    exported = api.export(model, tmp_path / "half", dtype="bf16").folder
    assert score(load_reward_model(exported, precision="fp32"), chats) == pytest.approx(score(judge, chats), rel=0.05)
    words = [f"model={model}", "data=lab/demonstrations", "steps=1", "precision=fp32", f"out={tmp_path / 'sft'}"]
    learnt = api.train("sft", words, console=Console(quiet=True))
    with pytest.raises(InputError, match="a language model without a score head"):
        load_reward_model(learnt, precision="fp32")
    adapted = [*words[:4], "adapter=lora", f"out={tmp_path / 'lora'}"]
    with pytest.raises(InputError, match="a language model without a score head"):
        load_reward_model(api.train("sft", adapted, console=Console(quiet=True)), precision="fp32")
    with pytest.raises(InputError, match="cannot learn ratings"):
        run("reward", tmp_path / "no", "data=lab/ratings", "scored_by=likelihood")
    with pytest.raises(InputError, match="no scale on which a gate"):
        run("reward", tmp_path / "no", "data=lab/comparisons", "scored_by=likelihood", "gate=overall")
    with pytest.raises(InputError, match="a likelihood is one number"):
        run("reward", tmp_path / "no", "data=lab/ratings", "scored_by=likelihood", "criteria=[helpful, honest]")
    headed, _ = run("reward", tmp_path / "headed", "data=lab/comparisons")
    with pytest.raises(InputError, match="has a head, and writes no text"):
        run("reward", tmp_path / "no", "data=lab/comparisons", "scored_by=likelihood", f"model={headed}")


@pytest.mark.parametrize(
    ("method", "data", "words"),
    [
        ("reward", "lab/rankings", ("scored_by=likelihood", "ranking=listwise", "lm_coef=0.1")),
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
    shown = (tmp_path / "run" / "report.html").read_text()
    drawn = {"process": ("step accuracy", "accuracy on wrong steps", "<b>calibration</b>"),
             "lab/ratings": ("prompts", "<b>harmless</b>", "rms_of_the_mean"),
             "lab/rankings": ("accuracy", "<b>calibration</b>", "longer_scores_higher")}  # fmt: skip
    if method in ("reward", "process"):
        assert all(what in shown for what in drawn.get(method, drawn.get(data, ())))


def test_the_wrong_kind_of_judgement_is_named(tmp_path):
    told = "lab/steps holds Steps records, but method 'reward' learns from Pair or Ranking or Rating"
    with pytest.raises(InputError, match=told):
        run("reward", tmp_path / "run", "data=lab/steps")


def write(path, records):
    path.write_text("".join(json.dumps(as_nurture(record)) + "\n" for record in records))
    return path


def report_of(out):
    return json.loads((out / "data_report.json").read_text())[0]


def test_the_kind_of_a_file_chooses_the_loss(tmp_path):
    """From a file as from the lab: the same records, the same numbers."""
    ratings = "criteria=[helpful, honest, harmless]"
    for name, words in (("lab/rankings", ()), ("lab/ratings", (ratings,)), ("lab/comparisons", ())):
        short = name.removeprefix("lab/")
        file = write(tmp_path / f"{short}.jsonl", open_dataset(name))
        _, there = run("reward", tmp_path / f"{short}-lab", f"data={name}", "eval.share=0", *words)
        _, here = run("reward", tmp_path / f"{short}-file", f"data={file}", "eval.share=0", *words)
        assert [r["loss"] for r in here] == pytest.approx([r["loss"] for r in there], rel=1e-5)
        assert report_of(tmp_path / f"{short}-file")["format"] == {"comparisons": "pair"}.get(short, short[:-1])


def test_a_ranking_may_be_read_as_its_pairs(tmp_path):
    data = "data={path: lab/rankings, kind: pair}"
    run("reward", tmp_path / "pairs", data)
    report = report_of(tmp_path / "pairs")
    assert report["rows"] == 14 and report["records"] > 30 and report["kind"] == "pair"
    with pytest.raises(InputError, match="kind is steps, but method 'reward' learns from pair or ranking or rating"):
        run("reward", tmp_path / "no", "data={path: lab/rankings, kind: steps}")


def test_rows_that_rate_only_some_criteria(tmp_path):
    rows = list(open_dataset("lab/ratings"))
    rows = rows * 8  # of which one in a hundred may be bad
    rows[3] = replace(rows[3], scores={"helpful": 1.0})
    rows[5] = replace(rows[5], scores={"polite": 1.0})
    file = write(tmp_path / "ratings.jsonl", rows)
    words = (f"data={file}", "criteria=[helpful, harmless]")
    with pytest.raises(InputError, match=r"ratings.jsonl:4 CRITERIA has no rating for 'harmless'"):
        run("reward", tmp_path / "no", *words)
    out = tmp_path / "run"
    run("reward", out, *words, "missing=skip", "on_bad_row=quarantine")
    assert report_of(out)["rejected"] == {"CRITERIA": 1}
    (bad,) = rows_of(out / "rejected.jsonl")
    assert bad["where"].endswith("ratings.jsonl:6") and bad["code"] == "CRITERIA"


def test_labellers_are_screened_and_named_on_the_card(tmp_path):
    rows = [row for i in range(300) for row in votes(task_of_all(1_000_003, "train", i, 0), 0, i, 0)]
    file = write(tmp_path / "votes.jsonl", rows)
    out = tmp_path / "run"
    run("reward", out, f"data={{path: {file}, screen: 0.4}}")
    clickers = {row.labeller for row in rows if "click" in row.labeller}
    report = report_of(out)
    assert set(report["screened"]) == clickers and len(clickers) == 4
    assert report["records"] == 900 - sum(report["screened"].values())
    card = json.loads((out / "reward_card.json").read_text())
    assert set(card["labellers"]) == {"careful", "strict", "prefers_long", "prefers_polite"}
    assert sum(row["n"] for row in card["labellers"].values()) == card["pairs"]


def test_reward_models_side_by_side(tmp_path):
    stage = {"method": "reward", "model": yaml.safe_load(MODEL.removeprefix("model=")), "steps": 2, "batch_size": 4,
             "precision": "fp32", "eval": {"share": 0.2}}  # fmt: skip
    stages = {"a": {**stage, "data": "lab/comparisons"}, "b": {**stage, "data": "lab/rankings"}}
    recipe = tmp_path / "two.yaml"
    members = {label: {"name": "model", "model": label} for label in stages}
    beside = {"ensemble": {"name": "ensemble", "penalty": 0.5, "of": members}, "again": members["a"],
              "short": {"name": "length", "at_most": 1, "unit": "characters"},
              "tokens": {"name": "length", "at_most": 1}, "code": "code"}  # fmt: skip
    told = {"name": "two", "stages": stages, "compare": ["a", "b"], "compare_tasks": 60, "compare_rewards": beside}
    recipe.write_text(yaml.safe_dump(told))
    out = tmp_path / "two"
    api.run(recipe, out=out, console=Console(quiet=True))
    found = json.loads((out / "report.json").read_text())["reward_models"]
    assert list(found) == ["a", "b", "again", "ensemble", "short"]
    assert found["a"]["learnt_from"] == "lab/comparisons"
    whole = json.loads((out / "report.json").read_text())
    assert list(whole["left_out"]) == ["code", "tokens"]
    assert whole["left_out"]["tokens"].startswith("64 of the first 64 answers could not be scored, one because ")
    again = found.pop("again")
    assert all(again[key] == found["a"][key] for key in ("oracle", "oracle_on_clear_pairs", "labeller careful"))
    assert again["versus"]["mean"] == 0
    pairs = lab_pairs(Exam("lab/test", n=60))
    models = [load_reward_model(out / label / "model", precision="fp32") for label in stages]
    scores = [score(model, pairs.conversations()) for model in models]
    ours = np.mean(scores, 0) - 0.5 * np.std(scores, 0)
    same = agrees(ours[0::2] - ours[1::2], pairs.clear_gap)
    assert found["ensemble"]["oracle_on_clear_pairs"]["agreement"] == pytest.approx(same.mean(), abs=1e-9)
    assert found["short"]["oracle"]["agreement"] == 0  # no answer is that short: all are worth the same
    for one in found.values():
        row = one["oracle_on_clear_pairs"]
        assert row["low"] <= row["agreement"] <= row["high"] and 0 < row["pairs"] <= 60
    gap = found["b"]["oracle_on_clear_pairs"]["agreement"] - found["a"]["oracle_on_clear_pairs"]["agreement"]
    assert found["b"]["versus"]["mean"] == pytest.approx(gap)
    assert "beside a" in (out / "report.html").read_text()
    kept = str(out / "b" / "model")
    told = {"name": "two", "stages": {"a": stages["a"]}, "compare": ["a", kept], "compare_tasks": 14}
    recipe.write_text(yaml.safe_dump({**told, "compare_data": ["lab/prompts-test", "lab/test"]}))
    api.run(recipe, out=out, console=Console(quiet=True))
    both = json.loads((out / "report.json").read_text())
    assert list(both["reward_models"]) == ["a", "b"]
    by_hand = api.compare([str(out / "a" / "model")], ["n=14"], console=Console(quiet=True))
    assert both["data"] == "lab/prompts-test" and by_hand["data"] == "lab/test"
    for key in ("oracle", "oracle_on_clear_pairs"):
        assert by_hand["reward_models"]["a"][key] == both["also"]["lab/test"]["reward_models"]["a"][key]
    with pytest.raises(InputError, match="samples=4: a reward model answers nothing"):
        api.compare([str(out / "a" / "model")], ["samples=4", "temperature=1"])
    with pytest.raises(InputError, match="with --pairs FILE"):
        api.evaluate(str(out / "a" / "model"), ["data=lab/comparisons"])
    with pytest.raises(InputError, match="is a reward model; compare it with others that are"):
        api.compare([str(out / "a" / "model"), "lab"])
    recipe.write_text(yaml.safe_dump({"name": "two", "stages": stages, "compare": ["lab", "b"]}))
    with pytest.raises(InputError, match="'b' is a reward model"):
        api.run(recipe, out=out, console=Console(quiet=True))


def test_best_of_n_makes_rows_to_learn_from(tmp_path):
    plan, out = BestOf(n=4, keep="pairs", tasks=6, max_tokens=12), tmp_path / "pairs.jsonl"
    short = {"name": "length", "at_most": 45, "unit": "characters"}
    counts = api.best_of("lab", "lab/prompts", short, out, plan, precision="fp32", console=Console(quiet=True))
    rows = list(rows_of(out))
    assert counts["tasks"] == 6 and counts["drawn"] == 24 and counts["kept"] == len(rows) > 0
    for row in rows:
        assert len(row["chosen"][0]["content"]) <= 45 < len(row["rejected"][0]["content"])
    with pytest.raises(InputError, match="nothing was written"):
        none = BestOf(n=1, keep="all", above=2.0, tasks=2, max_tokens=4)
        api.best_of("lab", "lab/prompts", short, tmp_path / "none.jsonl", none, console=Console(quiet=True))


def test_a_reward_model_of_another_template_is_refused(tmp_path):
    model, _ = run("reward", tmp_path / "reward", "data=lab/comparisons")
    words = ["model=lab", "data=lab/prompts", f"reward={{name: model, model: {model}}}", "steps=1", "batch_size=2"]
    with pytest.raises(
        InputError, match=r"TEMPLATE .* trained with another (chat template|vocabulary) than the policy"
    ):
        api.train("grpo", [*words, f"out={tmp_path / 'grpo'}"], console=Console(quiet=True))
