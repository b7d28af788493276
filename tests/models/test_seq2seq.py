"""Encoder-decoders: a T5 (whose output is scaled) and an mT0 (an `mt5`) learn to answer, as transformers has them."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from adapted import CARD, CPU, numbered_rows
from families import scale_up
from rewound import rewound
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, MT5Config, T5Config, T5Tokenizer

from nurture.adapters import ADAPTERS
from nurture.core.logp import selected_logp
from nurture.errors import InputError
from nurture.models.heads import output_head
from nurture.models.layouts import choose_layout, hidden_states, lay_seq2seq
from nurture.models.load import attach_adapter, load_model
from nurture.models.save import save_model
from nurture.recipe import stage_from
from nurture.rollout.sampler import LocalSampler
from nurture.run import run_stage
from nurture.runs import rows_of
from nurture.types import Batch, Group, Response

QUIET = Console(quiet=True)
WORDS = [f"{word} {i}" for i in range(30) for word in ("translate the number", "answer is", "what follows")]
KEYS_VALUES = {f"{where}.{which}" for where in ("SelfAttention", "EncDecAttention") for which in "kv"}
LORA = "adapter={name: lora, r: 8, lora_alpha: 32, target_modules: [q, v]}"
SHAPE = {
    "vocab_size": 200, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trained.train_from_iterator(
        WORDS, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    )
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    return T5Tokenizer(vocab=[(piece, score) for piece, score in pieces], extra_ids=0)


@pytest.fixture(scope="module", params=["t5", "mt5"])
def base(request, tmp_path_factory):
    kind = {"t5": T5Config, "mt5": MT5Config}[request.param]
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(kind(**SHAPE)).eval()
    scale_up(model, 2.0)
    folder = tmp_path_factory.mktemp("base") / request.param
    save_model(model, tokenizer(), folder, state=None, dtype=torch.float32, card=CARD, original_dropout=None)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return numbered_rows(tmp_path_factory.mktemp("rows"), 16, "what follows {}", "answer is {}")


def train(base, rows, out, *words):
    settings = ("device=cpu", "precision=fp32", "batch_size=8", "warmup=0", "schedule=constant", "learning_rate=3e-2")
    return run_stage(stage_from("sft", [f"model={base}", f"data={rows}", *settings, *words]), out, QUIET)


def losses(run):
    return [row["loss"] for row in rows_of(run / "metrics.jsonl")]


def load(folder):
    return load_model(folder, dtype=torch.float32, device=CPU, seed=0)


def test_its_loss_and_gradients_are_transformers(base):
    """Several answers to one prompt, of other lengths, against `labels` one at a time."""
    model = load(base).model
    assert choose_layout(model, 64).layout == "seq2seq"
    draw = np.random.default_rng(0)

    def ids(n):
        return draw.integers(3, 120, n)

    answers = ((5, (4, 7)), (9, (3,)))
    groups = [Group(ids(p), tuple(Response(ids(n), np.ones(n, bool)) for n in lengths)) for p, lengths in answers]
    batch = Batch(tuple(groups))
    laid = lay_seq2seq(batch)
    found = selected_logp(hidden_states(model, laid).index_select(0, laid.at), output_head(model), batch.target).logp
    (-found.sum()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    total = 0.0
    for group in groups:
        for response in group.responses:
            out = model(input_ids=torch.as_tensor(group.prompt)[None], labels=torch.as_tensor(response.ids)[None])
            loss = out.loss * len(response.ids)
            loss.backward()
            total += loss.item()
    assert -float(found.sum()) == pytest.approx(total, rel=1e-5)
    for name, parameter in model.named_parameters():
        gap = (gradients[name] - parameter.grad).norm()
        assert gap <= 1e-4 * parameter.grad.norm() + 1e-6, name


def test_lora_learns_and_its_folder_is_pefts(base, rows, tmp_path):
    from peft import PeftModel

    folder = train(base, rows, tmp_path / "run", LORA, "steps=20")
    found = losses(tmp_path / "run")
    assert found[-1] < 0.7 * found[0]
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["task_type"], settings["r"], settings["lora_alpha"]) == ("SEQ_2_SEQ_LM", 8, 32)
    again = load(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.float32)
        theirs = PeftModel.from_pretrained(plain, folder).eval()
    asked = torch.as_tensor(again.tokenizer("what follows 3")["input_ids"])[None]
    said = torch.as_tensor(again.tokenizer("answer is 4")["input_ids"])[None]
    with torch.no_grad():
        expected = theirs(input_ids=asked, labels=said).logits
        assert torch.allclose(again.model(input_ids=asked, labels=said).logits, expected, atol=1e-5)


def test_the_whole_model_learns_and_goes_on_byte_for_byte(base, rows, tmp_path):
    whole = train(base, rows, tmp_path / "whole", "steps=6", "checkpoint.every=3", "learning_rate=3e-3")
    again = rewound(tmp_path / "whole", tmp_path / "again", 3)
    resumed = train(base, rows, again, "steps=6", "checkpoint.every=3", "learning_rate=3e-3")
    assert (again / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    first, then = load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors")
    assert first.keys() == then.keys() and all(torch.equal(t, then[n]) for n, t in first.items())
    assert losses(again)[-1] < losses(again)[0]
    assert type(AutoModelForSeq2SeqLM.from_pretrained(resumed)) is type(load(resumed).model)


def test_what_it_cannot_do_is_one_sentence(base, rows, tmp_path):
    for words, why in (
        (["adapter=prompt"], "virtual tokens are not known in an encoder-decoder"),
        (["layout=tree"], "layout: tree is for decoders"),
    ):
        with pytest.raises(InputError, match=why):
            train(base, rows, tmp_path / "refused", *words, "steps=1")
    with pytest.raises(InputError, match="is an encoder-decoder, which method 'grpo' cannot train"):
        stage = stage_from("grpo", [f"model={base}", "data=lab/prompts", "device=cpu", "steps=1"])
        run_stage(stage, tmp_path / "refused", QUIET)
    with pytest.raises(InputError, match="whose answers are not drawn here"):
        LocalSampler(load(base).model)


@pytest.mark.parametrize(
    ("adapter", "there"),
    [
        (ADAPTERS["bottleneck"](bottleneck_size=4), {"SelfAttention.o", "EncDecAttention.o", "DenseReluDense.wo"}),
        (ADAPTERS["bottleneck"](bottleneck_size=4, placement="pfeiffer"), {"DenseReluDense.wo"}),
        (ADAPTERS["ia3"](), {*KEYS_VALUES, "DenseReluDense.wo"}),
    ],
    ids=["bottleneck", "pfeiffer", "ia3"],
)
def test_where_adapters_go_by_default(base, adapter, there):
    model = attach_adapter(load(base), adapter, steps=5, seed=0).model
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    found = {".".join(re.split(r"\.(?:ia3|bottleneck)_", name)[0].split(".")[-2:]) for name in trained}
    assert found == there


def test_a_layer_by_its_number_is_refused_where_two_stacks_count_theirs(base):
    with pytest.raises(InputError, match=r"name the stack too, as encoder\.block\.0 or decoder\.block\.0"):
        attach_adapter(load(base), ADAPTERS["freeze"](), steps=5, seed=0)
    model = attach_adapter(load(base), ADAPTERS["freeze"](train="decoder.block.1"), steps=5, seed=0).model
    assert {name[:15] for name, p in model.named_parameters() if p.requires_grad} == {"decoder.block.1"}
