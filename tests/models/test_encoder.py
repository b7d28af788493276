"""Encoders that judge: a BERT of twelve layers of which one learns (and its kin), as transformers' own classifiers."""

import json

import numpy as np
import pytest
import torch
import transformers as t
from adapted import CARD, CPU
from engine import one_step
from families import scale_up
from rewound import rewound
from rich.console import Console
from safetensors.torch import load_file

from nurture.adapters import ADAPTERS
from nurture.data.template import Template, ensure_chat
from nurture.errors import InputError
from nurture.evaluate.scoring import load_reward_model, score
from nurture.export import export
from nurture.methods import Reward
from nurture.models.layouts import choose_layout, set_layout
from nurture.models.load import attach_adapter, load_model
from nurture.models.roles import LocalRoles
from nurture.models.save import save_model
from nurture.recipe import stage_from
from nurture.records import Conversation, Message
from nurture.run import run_stage
from nurture.runs import rows_of
from nurture.train.optim import AdamW
from nurture.train.processes import Processes
from nurture.types import Batch, Response

QUIET = Console(quiet=True)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["what", "is", "it", "like", "here", "a", "film", "of", "the", "sea", "good", "bad", "long", "very", "not"]
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *WORDS, *"[].?!01234567"])}
SHAPE = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
         "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
FAMILIES = {
    "bert": lambda **more: t.BertConfig(**SHAPE, **more),
    "distilbert": lambda num_hidden_layers, **more: t.DistilBertConfig(
        vocab_size=len(VOCABULARY), dim=32, hidden_dim=48, n_heads=4, n_layers=num_hidden_layers,
        max_position_embeddings=64, **more),
    "albert": lambda **more: t.AlbertConfig(**SHAPE, embedding_size=16, **more),
    "deberta-v2": lambda **more: t.DebertaV2Config(
        **SHAPE, relative_attention=True, pos_att_type=["p2c", "c2p"], **more),
    "modernbert": lambda **more: t.ModernBertConfig(
        **SHAPE, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3, **more),
}  # fmt: skip
TALKS = [
    ("what is it like ?", "very good and long ."),
    ("what is it like ?", "bad !"),
    ("a film of the sea", "here 1 ."),
]


def tokenizer():
    return t.BertTokenizer(vocab=dict(VOCABULARY))


def saved(folder, kind, family="bert", layers=3, **more):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind.from_config(FAMILIES[family](num_hidden_layers=layers, **more)).eval()
    scale_up(model, 3.0)
    save_model(model, tokenizer(), folder, state=None, dtype=torch.float32, card=CARD, original_dropout=None)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """What people start from: a BERT that was trained to fill in words, without pooler and classifier."""
    return saved(tmp_path_factory.mktemp("base") / "bert", t.AutoModelForMaskedLM, layers=12)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    said = [(f"very good {i % 8} .", 1.0) if i % 2 else (f"not good {i % 8} .", 0.0) for i in range(16)]
    given = [{"prompt": f"what is it like {i % 3} ?", "response": a, "score": s} for i, (a, s) in enumerate(said)]
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def load(folder):
    return load_model(folder, dtype=torch.float32, device=CPU, seed=0, reward=True)


def train(base, rows, out, *words):
    settings = ("device=cpu", "precision=fp32", "batch_size=8", "warmup=0", "schedule=constant", "learning_rate=1e-2")
    return run_stage(stage_from("reward", [f"model={base}", f"data={rows}", *settings, *words]), out, QUIET)


def conversation(prompt, answer):
    return Conversation((Message("user", prompt), Message("assistant", answer)))


@pytest.mark.parametrize("criteria", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_its_loss_and_gradients_are_transformers(tmp_path, family, criteria):
    """On texts of several lengths, as the tokenizer itself puts them together and pads them."""
    folder = saved(tmp_path / family, t.AutoModelForSequenceClassification, family, num_labels=criteria)
    plain = t.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    plain.config.problem_type = "regression"
    ratings = np.random.default_rng(0).random((len(TALKS), criteria))
    asked = tokenizer()([p for p, _ in TALKS], [a for _, a in TALKS], padding=True, return_tensors="pt")
    if family == "distilbert" or family == "modernbert":
        asked.pop("token_type_ids")
    theirs = plain(**asked, labels=torch.tensor(ratings, dtype=torch.float32))
    theirs.loss.backward()

    loaded = load(folder)
    model = loaded.model
    ensure_chat(loaded.tokenizer, plain=True)
    found = choose_layout(model, 64)
    assert found.layout == "rows" and "an encoder" in found.reason
    set_layout(model, "rows")
    groups = Template(loaded.tokenizer).encode_many([conversation(*talk) for talk in TALKS])
    for group, ids, attended in zip(groups, asked["input_ids"], asked["attention_mask"], strict=True):
        assert [*group.prompt, *group.responses[0].ids] == ids[attended.bool()].tolist()
    batch = Batch(tuple(
        type(g)(g.prompt, (Response(g.responses[0].ids, g.responses[0].mask, scores=tuple(rating)),), g.key)
        for g, rating in zip(groups, ratings.tolist(), strict=True)
    ))  # fmt: skip
    roles = LocalRoles({"reward": model}, {"reward": "rows"}, AdamW(list(model.named_parameters())), Processes())
    names = tuple(map(str, range(criteria)))
    metrics, gradients = one_step(roles, Reward(criteria=names), batch)
    assert metrics["loss"] == pytest.approx(theirs.loss.item(), rel=1e-5)
    scores = roles.score(batch, {"reward": ("score",)}).reward.score
    assert torch.allclose(scores, theirs.logits, atol=1e-5)
    _, cut = one_step(roles, Reward(criteria=names), batch, tokens=12)
    for name, parameter in plain.named_parameters():
        if parameter.grad is None:
            assert name not in gradients
            continue
        for ours in (gradients[name], cut[name]):
            assert (ours - parameter.grad).norm() <= 1e-5 * parameter.grad.norm() + 1e-7, name


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_one_layer_of_twelve_learns_and_goes_on_byte_for_byte(base, rows, tmp_path, optimizer):
    words = ("adapter={name: freeze, train: 11}", "steps=48", "checkpoint.every=24", f"optimizer={optimizer}")
    folder = train(base, rows, tmp_path / "whole", *words)
    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    changed = {n for n, tensor in after.items() if n not in before or not torch.equal(tensor, before[n])}
    new = {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert changed == new | {n for n in before if n.startswith("bert.encoder.layer.11.")}
    losses = [row["loss"] for row in rows_of(tmp_path / "whole" / "metrics.jsonl")]
    assert min(losses[-8:]) < 0.25, "what always answering the mean would cost"

    again = rewound(tmp_path / "whole", tmp_path / "again", 24)
    resumed = load_file(train(base, rows, again, *words) / "model.safetensors")
    assert (again / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    assert resumed.keys() == after.keys() and all(torch.equal(x, resumed[n]) for n, x in after.items())


def test_what_is_saved_is_transformers_classifier(base, rows, tmp_path):
    folder = train(base, rows, tmp_path / "run", "steps=3", "learning_rate=3e-3")
    plain = t.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    read = t.AutoTokenizer.from_pretrained(folder)
    assert type(plain).__name__ == "BertForSequenceClassification" and plain.config.id2label == {0: "overall"}
    with torch.no_grad():
        expected = [float(plain(**read(p, a, return_tensors="pt")).logits) for p, a in TALKS]
    judge = load_reward_model(folder, precision="fp32")
    assert score(judge, [conversation(*talk) for talk in TALKS]) == pytest.approx(expected, abs=1e-5)
    assert score(judge, [conversation(*TALKS[1])]) == pytest.approx(expected[1:2], abs=1e-5), "whatever is beside it"
    more = train(folder, rows, tmp_path / "more", "steps=1")
    assert t.AutoModelForSequenceClassification.from_pretrained(more).num_labels == 1
    half = export(str(folder), tmp_path / "half", dtype="bf16")
    assert half.gap <= half.bound


LORA = "adapter={name: lora, r: 4}"


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_on_it_is_pefts_sequence_classifier(rows, tmp_path, family):
    """Base and head lie in one folder, which peft's own TaskType.SEQ_CLS loads over transformers' classifier."""
    from peft import PeftModel

    base = saved(tmp_path / family, t.AutoModelForSequenceClassification, family, id2label={0: "overall"})
    folder = train(base, rows, tmp_path / "run", LORA, "steps=6")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["task_type"] == "SEQ_CLS" and "classifier" in settings["modules_to_save"]
    before, adapter = load_file(base / "model.safetensors"), load_file(folder / "adapter_model.safetensors")
    for name, tensor in before.items():  # what stands on the layers learnt, nothing else of the model is in the folder
        if name.startswith(("classifier", "pre_classifier")) or ".pooler." in name or name.startswith("pooler"):
            assert not torch.equal(adapter[f"base_model.model.{name}"], tensor), name
        else:
            assert f"base_model.model.{name}" not in adapter
    plain = t.AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
    read = t.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        untrained = [float(plain.eval()(**_inputs(read, p, a, family)).logits) for p, a in TALKS]
        theirs = PeftModel.from_pretrained(plain, folder).eval()
        expected = [float(theirs(**_inputs(read, p, a, family)).logits) for p, a in TALKS]
    judge = load_reward_model(folder, precision="fp32")
    assert score(judge, [conversation(*talk) for talk in TALKS]) == pytest.approx(expected, abs=1e-5)
    assert min(abs(x - y) for x, y in zip(expected, untrained, strict=True)) > 1e-2, "it has learnt"
    merged = export(str(folder), tmp_path / "merged", merged=True).folder
    model = t.AutoModelForSequenceClassification.from_pretrained(merged, dtype=torch.float32).eval()
    with torch.no_grad():
        assert [float(model(**_inputs(read, p, a, family)).logits) for p, a in TALKS] == pytest.approx(
            expected, abs=1e-5
        )


@pytest.mark.parametrize(
    "adapter",
    [
        "ia3",
        "{name: bottleneck, bottleneck_size: 4}",
        "{name: adalora, init_r: 4, target_r: 2}",
        "{name: lora, r: 4, use_dora: true}",
    ],
    ids=["ia3", "bottleneck", "adalora", "dora"],
)
def test_other_adapters_on_it_are_pefts_too(rows, tmp_path, adapter):
    from peft import PeftModel

    base = saved(tmp_path / "bert", t.AutoModelForSequenceClassification, "bert", id2label={0: "overall"})
    folder = train(base, rows, tmp_path / "run", f"adapter={adapter}", "steps=8")
    plain = t.AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32)
    read = t.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(plain, folder).eval()
        expected = [float(theirs(**_inputs(read, p, a, "bert")).logits) for p, a in TALKS]
    judge = load_reward_model(folder, precision="fp32")
    assert score(judge, [conversation(*talk) for talk in TALKS]) == pytest.approx(expected, abs=1e-5)


def _inputs(read, prompt, answer, family):
    asked = read(prompt, answer, return_tensors="pt")
    if family in ("distilbert", "modernbert"):
        asked.pop("token_type_ids", None)
    return asked


@pytest.mark.long
def test_lora_with_a_new_head_learns_and_goes_on_byte_for_byte(base, rows, tmp_path):
    words = (LORA, "steps=48", "checkpoint.every=24", "learning_rate=3e-3")
    folder = train(base, rows, tmp_path / "whole", *words)
    losses = [row["loss"] for row in rows_of(tmp_path / "whole" / "metrics.jsonl")]
    assert min(losses[-8:]) < 0.25, "what always answering the mean would cost"
    again = rewound(tmp_path / "whole", tmp_path / "again", 24)
    resumed = train(base, rows, again, *words)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (resumed / name).read_bytes() == (folder / name).read_bytes()
    more = train(folder, rows, tmp_path / "more", "steps=2")
    first, then = (load_file(f / "adapter_model.safetensors") for f in (folder, more))
    assert first.keys() == then.keys() and not [n for n in first if torch.equal(first[n], then[n])]


def test_what_it_cannot_do_is_one_sentence(base, rows, tmp_path):
    steps = tmp_path / "steps.jsonl"
    steps.write_text(
        json.dumps({"prompt": "what ?", "completions": ["a film", "good"], "labels": [True, False]}) + "\n"
    )
    for words, why in (
        (["adapter=prompt"], "prompt is not known on an encoder; use lora"),
        (["adapter=qlora"], "qlora is not known on an encoder; use lora"),
        (["layout=tree"], "layout: tree is for decoders, and this is an encoder"),
        (["lm_coef=0.1"], "is an encoder, which gives one score to a whole text"),
    ):
        with pytest.raises(InputError, match=why):
            train(base, rows, tmp_path / "refused", *words, "steps=1")
    with pytest.raises(InputError, match="knows no reasoning steps"):
        stage = stage_from("process", [f"model={base}", f"data={steps}", "device=cpu", "steps=1"])
        run_stage(stage, tmp_path / "refused", QUIET)
    with pytest.raises(InputError, match="ARCHITECTURE is an encoder, which reads texts and cannot write any"):
        load_model(base, dtype=torch.float32, device=CPU, seed=0)


LAST = {
    "bert": {"attention.output.dense", "0.output.dense"},
    "distilbert": {"attention.out_lin", "ffn.lin2"},
    "albert": {"attention.dense", "ffn_output"},
    "deberta-v2": {"attention.output.dense", "0.output.dense"},
    "modernbert": {"attn.Wo", "mlp.Wo"},
}
KEYS_VALUES = {"bert": {"self.key", "self.value"}, "distilbert": {"attention.k_lin", "attention.v_lin"},
               "albert": {"attention.key", "attention.value"}, "deberta-v2": {"self.key_proj", "self.value_proj"},
               "modernbert": {"attn.Wqkv"}}  # fmt: skip


@pytest.mark.parametrize("family", LAST)
@pytest.mark.parametrize("name", ["bottleneck", "ia3"])
def test_where_adapters_go_by_default(family, name, tmp_path):
    folder = saved(tmp_path / family, t.AutoModelForSequenceClassification, family, layers=1, num_labels=1)
    model = attach_adapter(load(folder), ADAPTERS[name](), steps=5, seed=0).model
    found = {n.partition(f".{name}_")[0] for n, _ in model.named_parameters() if f".{name}_" in n}
    feed_forward = {end for end in LAST[family] if "att" not in end}
    there = LAST[family] if name == "bottleneck" else KEYS_VALUES[family] | feed_forward
    assert len(found) == len(there) and all(any(n.endswith(end) for n in found) for end in there)
