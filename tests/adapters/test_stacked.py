"""Several adapters: one on top of another, taking turns on one base, and merged into it. The oracle is peft."""

import json

import numpy as np
import pytest
import torch
from adapted import adapted, gap, learn, load, logits, make_base, numbered_rows, save
from rewound import rewound
from rich.console import Console
from transformers import AutoModelForCausalLM

from nurture import api
from nurture.errors import InputError
from nurture.evaluate.talk import Speaker
from nurture.export import export
from nurture.methods import SFT
from nurture.models.layouts import set_layout
from nurture.recipe import stage_from
from nurture.run import run_stage
from nurture.runs import rows_of

QUIET = Console(quiet=True)
IDS = torch.arange(11)[None]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return numbered_rows(tmp_path_factory.mktemp("rows"), 24)


def trained(base, folder, case, rate=1e-2):
    loaded = adapted(base, case)
    roles, _ = learn(loaded, SFT(), steps=5, rate=rate)
    return save(loaded, roles, folder)


@pytest.fixture(scope="module")
def lora(base, tmp_path_factory):
    return trained(base, tmp_path_factory.mktemp("lora") / "model", "lora")


def plain(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def said(model):
    set_layout(model, "rows")
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def words(model, rows, *more):
    return [
        f"model={model}", f"data={rows}", "device=cpu", "precision=fp32", "batch_size=4", "steps=8", "samples.count=0",
        "learning_rate=1e-2", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("above", ["{name: lora, r: 2}", "{name: ia3}", "{name: bottleneck, bottleneck_size: 4}"])
def test_an_adapter_stands_on_another(base, lora, rows, above, tmp_path):
    """peft's way: merge the lower one into the base, and put the upper one on that."""
    from peft import PeftModel

    stage = stage_from("sft", words(lora, rows, f"adapter={above}", "checkpoint.every=4"))
    upper = run_stage(stage, tmp_path / "upper", QUIET)
    started = next(e for e in rows_of(tmp_path / "upper" / "events.jsonl") if e["event"] == "start")
    assert "its adapter merged: lora (r 4)" in started["model"]
    assert json.loads((upper / "adapter_config.json").read_text())["base_model_name_or_path"] == str(lora)
    lower = PeftModel.from_pretrained(plain(base), lora).merge_and_unload()
    theirs = said(PeftModel.from_pretrained(lower, upper))
    loaded = load(upper)
    assert gap(said(loaded.model), theirs) < 1e-5
    assert gap(said(load(lora).model), theirs) > 1e-3, "it has learnt"
    resumed = run_stage(stage, rewound(tmp_path / "upper", tmp_path / "again", 4), QUIET)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (resumed / name).read_bytes() == (upper / name).read_bytes()


def test_a_stack_starts_where_the_lower_one_ended_and_can_be_merged(base, lora, rows, tmp_path):
    from peft import PeftModel

    upper = run_stage(stage_from("sft", words(lora, rows, "adapter={name: lora, r: 2}")), tmp_path / "upper", QUIET)
    first = next(iter(rows_of(tmp_path / "upper" / "metrics.jsonl")))
    alone = stage_from("sft", words(lora, rows))
    run_stage(alone, tmp_path / "alone", QUIET)
    assert first["loss"] == pytest.approx(next(iter(rows_of(tmp_path / "alone" / "metrics.jsonl")))["loss"], rel=1e-5)
    third = run_stage(stage_from("sft", words(upper, rows, "adapter=ia3")), tmp_path / "third", QUIET)
    theirs = plain(base)
    for folder in (lora, upper, third):
        theirs = PeftModel.from_pretrained(theirs, folder).merge_and_unload()
    assert gap(said(load(third).model), said(theirs)) < 1e-5
    done = export(str(third), tmp_path / "merged", merged=True)
    assert gap(said(plain(done.folder)), said(theirs)) < 1e-5
    whole = run_stage(stage_from("sft", words(third, rows, "adapter=full")), tmp_path / "whole", QUIET)
    assert not (whole / "adapter_config.json").exists() and gap(said(plain(whole)), said(theirs)) > 1e-3


def test_the_reference_of_a_stack_is_the_lower_one(lora, tmp_path):
    """A preference method on top of an adapter compares with what that adapter says."""
    pairs = tmp_path / "pairs.jsonl"
    told = [{"prompt": f"What follows {i}?", "chosen": f" {i + 1}.", "rejected": " no."} for i in range(8)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in told))
    run_stage(stage_from("dpo", words(lora, pairs, "adapter={name: lora, r: 2}")), tmp_path / "dpo", QUIET)
    rows = list(rows_of(tmp_path / "dpo" / "metrics.jsonl"))
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-5) and rows[-1]["loss"] < rows[0]["loss"]


def test_a_base_that_has_changed_is_refused(base, lora, rows, tmp_path):
    import shutil

    lower = shutil.copytree(lora, tmp_path / "lower")
    upper = run_stage(stage_from("sft", words(lower, rows, "adapter=ia3")), tmp_path / "upper", QUIET)
    trained(base, tmp_path / "other", "lora", rate=3e-2)
    shutil.copy(tmp_path / "other" / "adapter_model.safetensors", lower)
    with pytest.raises(InputError, match="was trained on another base"):
        load(upper)


def test_a_circle_is_refused(lora, tmp_path):
    import shutil

    one, two = (shutil.copytree(lora, tmp_path / name) for name in ("one", "two"))
    for folder, other in ((one, two), (two, one)):
        settings = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(other)}))
    with pytest.raises(InputError, match="is an adapter that stands on itself"):
        load(one)


def test_what_cannot_be_below(base, lora, rows, tmp_path):
    prompt = trained(base, tmp_path / "prompt", "prompt")
    for model, adapter, why in (
        (prompt, "lora", "prompt cannot be merged, since no change of the weights does what it does"),
        (lora, "qlora", "is an adapter, and what stands on one is not kept in 4 bits: use lora"),
    ):
        with pytest.raises(InputError, match=why):
            run_stage(stage_from("sft", words(model, rows, f"adapter={adapter}")), tmp_path / "refused", QUIET)


def test_adapters_take_turns_on_one_base(base, lora, tmp_path):
    """The same as peft's load_adapter and set_adapter, with the base in memory once."""
    from peft import PeftModel

    other = trained(base, tmp_path / "other", "lora-some", rate=3e-2)
    theirs = PeftModel.from_pretrained(plain(base), lora, adapter_name="lora")
    theirs.load_adapter(str(other), adapter_name="other")
    speaker = Speaker("cpu", "fp32")
    speaker.switch(str(lora))
    model = speaker.model
    for folder, name in ((lora, "lora"), (other, "other"), (lora, "lora"), (other, "other")):
        speaker.switch(str(folder))
        theirs.set_adapter(name)
        assert speaker.model is model, "the base is there once"
        assert gap(said(speaker.model), said(theirs)) < 1e-5
    for folder in (trained(base, tmp_path / "ia3", "ia3"), base):  # of another kind, and none at all
        speaker.switch(str(folder))
        assert speaker.model is not model
        assert torch.equal(said(speaker.model), said(load(folder).model))


def test_a_chat_goes_on_with_another_adapter(base, lora, tmp_path):
    other = trained(base, tmp_path / "other", "lora", rate=3e-2)
    greedy = {"temperature": 0.0, "max_tokens": 8, "device": "cpu", "precision": "fp32"}
    expected = {f: "".join(api.chat_session(str(f), **greedy).reply("What?")) for f in (lora, other)}
    assert expected[lora] != expected[other]
    session = api.chat_session(str(lora), **greedy)
    for folder in (other, lora, other):
        session.reset()
        session.switch(str(folder))
        assert "".join(session.reply("What?")) == expected[folder]
    with pytest.raises(InputError, match="is no stage of this recipe and no folder"):
        session.switch("no such model")
    assert len(session.history) == 2 and "".join(session.reply("And?")) is not None, "the old one goes on"


def test_a_merged_qlora_is_the_model_that_learnt(base, tmp_path):
    """Its base is the one in 4 bits, written out; peft's delta is added to bitsandbytes' dequantised weight."""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit

    folder = trained(base, tmp_path / "qlora", "qlora")
    merged = plain(export(str(folder), tmp_path / "merged", merged=True).folder)
    loaded = load(folder)
    for theirs, ours in zip(loaded.model.model.layers, merged.model.layers, strict=True):
        packed = theirs.mlp.up_proj
        weight = dequantize_4bit(packed.base_layer.weight.data, packed.base_layer.weight.quant_state)
        assert torch.allclose(ours.mlp.up_proj.weight, weight + packed.get_delta_weight("policy"), atol=1e-6)
    expected = logits(loaded.model, "rows")
    assert gap(logits(load(tmp_path / "merged").model, "rows"), expected) < 1e-4
