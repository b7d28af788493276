"""Adapter folders: continued, refused, exported; and the sentences for what cannot be."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from adapted import CPU, TEXTS, adapted, declared, gap, learn, load, logits, make_base, numbered_rows, save
from rewound import rewound
from rich.console import Console
from transformers import AutoModelForCausalLM

from nurture import api
from nurture.adapters import ADAPTERS
from nurture.adapters.ia3 import IA3
from nurture.adapters.lora import LoRA
from nurture.adapters.targets import linear_names
from nurture.errors import InputError
from nurture.export import export
from nurture.methods import SFT
from nurture.models.layouts import set_layout
from nurture.models.load import attach_adapter, embed_new_tokens
from nurture.protocols import Request, Sampling
from nurture.recipe import stage_from
from nurture.rollout.sampler import LocalSampler
from nurture.run import run_stage

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    loaded = adapted(base, "lora")
    roles, _ = learn(loaded, SFT(), steps=5)
    return save(loaded, roles, tmp_path_factory.mktemp("lora") / "model")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return numbered_rows(tmp_path_factory.mktemp("rows"), 24)


def words(base, rows, adapter, *more):
    return [
        f"model={base}", f"data={rows}", f"adapter={adapter}", "device=cpu", "precision=fp32", "batch_size=4",
        "samples.max_tokens=4", "samples.count=1", *more,
    ]  # fmt: skip


# -- a run ---------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize(
    "adapter",
    [
        "{name: lora, r: 4, lora_dropout: 0.1}",
        "{name: adalora, init_r: 4, target_r: 2}",
        "{name: lora, r: 2, init_lora_weights: pissa}",
        "{name: bottleneck, bottleneck_size: 4}",
        "{name: ptuning, num_virtual_tokens: 3, encoder_reparameterization_type: LSTM, encoder_dropout: 0.1}",
        "{name: prefix, num_virtual_tokens: 3}",
    ],
    ids=lambda a: a.split(",")[0].removeprefix("{name: "),
)
def test_a_resumed_run_ends_bit_for_bit(base, rows, adapter, tmp_path):
    stage = stage_from("sft", words(base, rows, adapter, "steps=8", "checkpoint.every=4"))
    whole = run_stage(stage, tmp_path / "whole", QUIET)
    again = rewound(tmp_path / "whole", tmp_path / "resumed", 4)
    resumed = run_stage(stage, again, QUIET)
    assert (again / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    if "lora, r: 2" in adapter:
        size = sum(p.stat().st_size for p in (again / "checkpoints" / "step-00000004").glob("*.safetensors"))
        assert size < 0.5 * (base / "model.safetensors").stat().st_size, "a checkpoint holds what is trained"


def test_ranks_are_shown_and_saved(base, rows, tmp_path):
    stage = stage_from("sft", words(base, rows, "{name: adalora, init_r: 4, target_r: 2}", "steps=10"))
    model = run_stage(stage, tmp_path / "run", QUIET)
    events = [json.loads(line) for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    ranks = next(e for e in events if e["event"] == "ranks")["ranks"]
    pattern = json.loads((model / "adapter_config.json").read_text())["rank_pattern"]
    assert {n.removesuffix(".lora_E"): sum(kept) for n, kept in pattern.items()} == ranks
    assert sum(ranks.values()) == 2 * len(ranks)


def test_training_goes_on_from_a_folder(base, lora, rows, tmp_path):
    stage = stage_from("sft", [w for w in words(lora, rows, "x", "steps=4") if not w.startswith("adapter")])
    model = run_stage(stage, tmp_path / "run", QUIET)
    again = load(model)
    assert again.adapter == declared("lora") and again.base == str(base.resolve())
    assert gap(logits(again.model), logits(load(lora).model)) > 1e-4
    assert api.evaluate(str(model), [f"data={rows}", "device=cpu", "precision=fp32"])["loss"] > 0
    assert "".join(api.chat_session(str(model), max_tokens=3, device="cpu").reply("Hello")) is not None


@pytest.mark.long
@pytest.mark.parametrize("case", ["prompt", "ptuning", "prefix", "ia3", "adalora"])
def test_every_kind_can_go_on(base, case, tmp_path):
    from nurture.adapters.attached import train_on

    loaded = adapted(base, case)
    roles, _ = learn(loaded, SFT(), steps=10)
    again = load(save(loaded, roles, tmp_path / "first"))
    before = logits(again.model)
    train_on(again.model)
    assert all(n for n, p in again.model.named_parameters() if p.requires_grad)
    if case == "adalora":  # its ranks are allocated already: it goes on with them
        again = replace(again, adapter=ADAPTERS["lora"]())
    roles, _ = learn(again, SFT(), steps=3, rate=1e-2)
    assert gap(logits(again.model), before) > 1e-4
    third = load(save(again, roles, tmp_path / "second"))
    assert gap(logits(third.model), logits(again.model)) < 1e-6


def test_pissa_with_magnitudes_is_saved_as_it_is(base, tmp_path):
    """DoRA's magnitudes are no part of what becomes relative to the base."""
    loaded = load(base)
    adapter = LoRA(r=2, use_dora=True, init_lora_weights="pissa")
    loaded = attach_adapter(loaded, adapter, steps=5, seed=0)
    roles, _ = learn(loaded, SFT(), steps=5)
    expected = logits(loaded.model)
    assert gap(logits(load(save(loaded, roles, tmp_path / "adapter")).model), expected) < 1e-5


@pytest.mark.parametrize(
    "adapter",
    [
        LoRA(target_modules=["q_proj"], layers_to_transform=[7]),
        IA3(target_modules=["o_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=["no such layer", "feed-forward beside the targets"],
)
def test_what_peft_refuses_is_one_sentence(base, adapter):
    with pytest.raises(InputError, match="adapter: peft refuses these settings: "):
        attach_adapter(load(base), adapter, steps=5, seed=0)


def test_all_matrices_of_some_layers(base):
    model = attach_adapter(load(base), LoRA(r=2, layers_to_transform=[1]), steps=5, seed=0).model
    trained = {name.partition(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name in linear_names(load(base).model) if ".layers.1." in name}


def test_one_target_needs_no_brackets(base):
    model = attach_adapter(load(base), LoRA(r=2, target_modules="q_proj"), steps=5, seed=0).model
    assert {n.split(".")[-4] for n, p in model.named_parameters() if p.requires_grad} == {"q_proj"}


# -- new tokens ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("case", ["lora", "lora-pissa"])
def test_new_tokens_learn_and_are_saved(tied, case, tmp_path):
    base = make_base(tmp_path / "base", tie_word_embeddings=tied)
    loaded = load(base)
    loaded.tokenizer.add_special_tokens({"additional_special_tokens": ["<|think|>", "<|done|>"]})
    new = embed_new_tokens(loaded.model, loaded.tokenizer)
    assert new == ("<|think|>", "<|done|>")
    loaded = attach_adapter(replace(loaded, new_tokens=new), declared(case), steps=5, seed=0)
    old = loaded.model.get_input_embeddings().weight.detach().clone()
    from engine import demonstrations

    batch = demonstrations()
    for group in batch.groups:  # the new tokens are read and predicted
        for response in group.responses:
            response.ids[0], response.ids[-1] = 300, 301
    roles, _ = learn(loaded, SFT(), steps=5, batch=batch)
    now = loaded.model.get_input_embeddings().weight.detach()
    assert torch.equal(now[:300], old[:300]) and not torch.equal(now[300:], old[300:])
    expected = logits(loaded.model, batch=batch)
    asked = np.array([5, 300, 9, 301, 7])
    (sample,) = LocalSampler(loaded.model).sample([Request(asked)], Sampling(max_tokens=4, temperature=0.0))
    again = load(save(loaded, roles, tmp_path / "adapter"))
    assert again.new_tokens == new
    assert gap(logits(again.model, batch=batch), expected) < 1e-6
    from peft import PeftModel

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain.resize_token_embeddings(302, mean_resizing=False)
    theirs = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    ids = torch.from_numpy(asked)[None]
    set_layout(loaded.model, "rows")
    with torch.no_grad():
        assert sample.ids[0] == loaded.model(input_ids=ids).logits[0, -1].argmax()
        assert gap(theirs(input_ids=ids).logits, loaded.model(input_ids=ids).logits) < 1e-5
        merged = AutoModelForCausalLM.from_pretrained(
            export(str(tmp_path / "adapter"), tmp_path / "merged", merged=True).folder, dtype=torch.float32
        )
        assert gap(merged(input_ids=ids).logits, theirs(input_ids=ids).logits) < 1e-5


def test_new_tokens_need_an_adapter_that_can_learn_them(base):
    loaded = load(base)
    with pytest.raises(InputError, match="ia3 cannot learn the embeddings of the 1 tokens"):
        attach_adapter(replace(loaded, new_tokens=("<|im_end|>",)), declared("ia3"), steps=5, seed=0)


# -- export --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_a_merged_model_is_plain_and_the_same(lora, dtype, tmp_path):
    done = export(str(lora), tmp_path / "merged", merged=True, dtype=dtype)
    assert done.gap <= done.bound
    plain = AutoModelForCausalLM.from_pretrained(done.folder, dtype=torch.float32)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        expected = load(lora).model(input_ids=ids).logits
        assert gap(plain(input_ids=ids).logits, expected) <= done.bound
    assert {"tokenizer.json", "generation_config.json", "README.md"} <= {p.name for p in done.folder.iterdir()}


def test_the_card_carries_scores_of_this_model_alone(base, lora, tmp_path):
    """Mean, interval and n of the examination that is kept for the recipe, by the formula of a mean's interval."""
    from statistics import fmean, stdev

    run = tmp_path / "recipe" / "sft"
    shutil.copytree(lora, run / "model")
    plain = export(str(run / "model"), tmp_path / "before", merged=True).folder
    assert "## Results" not in (plain / "README.md").read_text()
    told = {"task": 0, "family": "f", "level": 1, "prompt": "", "response": "", "helpful": 1.0, "honest": 1.0,
            "harmless": 1.0, "declines": False, "reason": ""}  # fmt: skip
    scores = [0.0, 1.0, 1.0, 0.6, 1.0]
    answers = [told | {"task": i, "overall": s} for i, s in enumerate(scores)]
    (tmp_path / "recipe" / "eval").mkdir()
    for name, digest in (("other", "0" * 64), ("sft", load(run / "model").digest)):
        rows = answers if name == "sft" else [a | {"overall": 0.25} for a in answers]
        kept = {"key": "x", "model": digest, "data": "lab/test", "answers": rows}
        (tmp_path / "recipe" / "eval" / f"{name}.json").write_text(json.dumps(kept))
    card = (export(str(run / "model"), tmp_path / "after", merged=True).folder / "README.md").read_text()
    mean, wide = fmean(scores), 1.96 * stdev(scores) / len(scores) ** 0.5
    expected = f"| lab/test, overall | {mean:.3f} (95%: {mean - wide:.3f} to {mean + wide:.3f}, n = 5) |"
    assert expected in card and "0.250" not in card


def test_a_merge_that_changes_the_model_is_refused(lora, tmp_path, monkeypatch):
    monkeypatch.setattr("nurture.export.BOUND", {torch.float32: 1e-12})
    with pytest.raises(InputError, match="the exported model is not the same"):
        export(str(lora), tmp_path / "merged", merged=True)
    assert not (tmp_path / "merged").exists()


def test_what_cannot_be_exported(base, lora, tmp_path):
    loaded = adapted(base, "prompt")
    roles, _ = learn(loaded, SFT(), steps=1)
    prompt = save(loaded, roles, tmp_path / "prompt")
    for source, merged, why in (
        (lora, False, "--merge adds it"),
        (base, True, "no adapter to merge"),
        (prompt, True, "prompt cannot be merged"),
    ):
        with pytest.raises(InputError, match=why):
            export(str(source), tmp_path / "out", merged=merged)
    with pytest.raises(InputError, match="exists already"):
        export(str(lora), lora, merged=True)
    with pytest.raises(InputError, match="must be one of fp32, bf16, fp16"):
        api.export(str(lora), dtype="fp8")


# -- refused in one sentence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        ("{name: lora, target_modules: [q_prj]}", "'q_prj' matches no module of Qwen2ForCausalLM.*mean 'q_proj'"),
        ("{name: lora, target_modules: '.*nothing'}", "matches no module"),
        ("{name: lora, target_modules: [lm_head]}", "the output head"),
        ("{name: lora, target_modules: [embed_tokens]}", "a Embedding"),
        ("{name: lora, r: 33}", "adapter.r: 33 is more than a matrix of 32 x 32"),
        ("{name: adalora, init_r: 99}", "adapter.init_r: 99 is more than"),
        ("{name: prompt, num_virtual_tokens: 200}", "200 virtual tokens leave no room in this model's 128 positions"),
        ("{name: freeze, train: 7}", "'7': this model has the layers 0 to 1"),
        ("{name: freeze, train: [mlpp]}", "'mlpp' matches no weight.*Did you mean 'mlp'"),
    ],
)
def test_settings_that_do_not_fit(base, rows, adapter, why, tmp_path):
    with pytest.raises(InputError, match=why) as refused:
        run_stage(stage_from("sft", words(base, rows, adapter)), tmp_path / "run", QUIET)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_tied_head_cannot_learn_alone(rows, tmp_path):
    base = make_base(tmp_path / "base", tie_word_embeddings=True)
    with pytest.raises(InputError, match="its input embedding"):
        run_stage(stage_from("sft", words(base, rows, "{name: freeze, train: head}")), tmp_path / "run", QUIET)


def test_an_adapter_of_another_base(lora, tmp_path):
    folder = shutil.copytree(lora, tmp_path / "adapter")
    other = make_base(tmp_path / "other", scale=3.0)
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(other)}))
    with pytest.raises(InputError, match="was trained on another base"):
        load(folder)
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "/nowhere/base"}))
    with pytest.raises(InputError, match="which is not there"):
        load(folder)


def test_an_adapter_of_a_fresh_model(rows, tmp_path):
    fresh = "{config: {model_type: qwen2, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, "
    fresh += "num_key_value_heads: 2, intermediate_size: 32}, tokenizer: {vocab_size: 300}}"
    with pytest.raises(InputError, match="a fresh model exists in this run alone"):
        run_stage(stage_from("sft", words(fresh, rows, "lora")), tmp_path / "run", QUIET)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "sets megatron"),
        ({"layer_replication": [[0, 2]]}, "sets layer_replication"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
        ({"peft_type": "BOFT"}, "is none that Nurture knows"),
        ({"r": 5}, "does not fit the base"),
        ({"base_model_name_or_path": None}, "does not name the base"),
        ({"auto_map": {"x": "y"}}, "RUNS_CODE"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_folder_that_would_do_more_than_adapt(lora, change, why, tmp_path):
    folder = shutil.copytree(lora, tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | change))
    with pytest.raises(InputError, match=why):
        load(folder)


def test_a_folder_that_peft_wrote(base, tmp_path):
    """Without nurture_adapter.json: what it is stands in adapter_config.json."""
    from peft import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    theirs = get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    theirs.save_pretrained(tmp_path / "adapter")
    loaded = load(tmp_path / "adapter")
    assert loaded.adapter == ADAPTERS["lora"](r=3, lora_alpha=8, target_modules=["q_proj"])
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert gap(loaded.model(input_ids=ids).logits, theirs(input_ids=ids).logits) < 1e-6
    assert CPU and TEXTS
