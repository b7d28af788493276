"""What is saved is what is loaded, by us and by plain transformers, for every family."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from families import ROWS, TREE, scale_up
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from nurture.errors import InputError
from nurture.models import save as saving
from nurture.models.load import load_model, parameter_count, resolve_model, train_tokenizer
from nurture.models.save import model_card, save_model
from nurture.models.vet import VetError, model_digest, vet

CPU = torch.device("cpu")
TEXTS = [f"The number {i * i} follows {i}; it's a square, naïve but true.\n\tNext:  {i + 1}" for i in range(200)]
FAMILIES = {**TREE, "bloom": ROWS["bloom"], "falcon": ROWS["falcon"], "mamba": ROWS["mamba"]}
FRESH = {
    "config": {
        "model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "tie_word_embeddings": True,
    },
    "tokenizer": {"vocab_size": 300},
}  # fmt: skip
CARD = model_card("tiny", base_model=None, method="lm")


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


def family(name, tokenizer):
    config = FAMILIES[name]()
    config.vocab_size = len(tokenizer)
    config.eos_token_id = tokenizer.eos_token_id
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    scale_up(model, 4.0)
    return model


def save(model, tokenizer, folder, **changes):
    settings = {"state": None, "dtype": torch.float32, "card": CARD, "original_dropout": None, **changes}
    save_model(model, tokenizer, folder, **settings)
    return folder


def load(source, dtype=torch.float32, **changes):
    return load_model(source, **{"dtype": dtype, "device": CPU, "seed": 0, **changes})


def logits(model):
    ids = torch.arange(5, 29)[None] * 7 % 260
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture(scope="module")
def fresh():
    return load(FRESH, texts=TEXTS)


@pytest.fixture
def folder(fresh, tmp_path):
    return save(fresh.model, fresh.tokenizer, tmp_path / "model", original_dropout=fresh.original_dropout)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_model_passes_vetting_and_gives_the_same_logits(name, tokenizer, tmp_path):
    model = family(name, tokenizer)
    folder = save(model, tokenizer, tmp_path / name)
    assert vet(folder).architecture == type(model).__name__

    ours, plain = load(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert ours.unexpected == ours.new_tokens == ()
    assert torch.equal(logits(ours.model), logits(model))
    assert torch.equal(logits(plain), logits(model))
    text = "It's  naïve: 12345 <|im_start|>user\nhi<|im_end|>\n\n é ✓ <|endoftext|>"
    ids = tokenizer(text)["input_ids"]
    for read in (ours.tokenizer, AutoTokenizer.from_pretrained(folder)):
        assert read(text)["input_ids"] == ids and read.decode(ids) == text
        assert read.chat_template == tokenizer.chat_template
        assert (read.eos_token, read.pad_token) == ("<|endoftext|>", "<|pad|>")
    shared = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert (ours.model.get_input_embeddings().weight is ours.model.get_output_embeddings().weight) == shared
    assert parameter_count(ours.model) == sum(t.numel() for t in load_file(folder / "model.safetensors").values())

    again = save(ours.model, ours.tokenizer, tmp_path / "again", original_dropout=ours.original_dropout)
    for file in folder.iterdir():  # what was read is written back, and dropout with it
        if file.name != "tokenizer_config.json":  # AutoTokenizer may have put its own class in place
            assert (again / file.name).read_bytes() == file.read_bytes(), file.name


def test_greedy_text_is_that_of_plain_transformers(folder, fresh):
    scaled = copy.deepcopy(fresh.model)
    scale_up(scaled, 4.0)
    save(scaled, fresh.tokenizer, folder)
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ours = load(folder)
    prompt = tokenizer("The number 16", return_tensors="pt")
    wanted = plain.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert torch.equal(ours.model.generate(**prompt, max_new_tokens=12, do_sample=False), wanted)
    ends = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert plain.generation_config.eos_token_id == ends == ours.model.generation_config.eos_token_id


def test_saving_is_deterministic_and_says_its_dtype(fresh, tmp_path):
    fresh.tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=4)  # leaves state in the tokenizer
    a = save(fresh.model, fresh.tokenizer, tmp_path / "a", dtype=torch.bfloat16)
    b = save(copy.deepcopy(fresh.model), train_tokenizer(TEXTS, 300), tmp_path / "b", dtype=torch.bfloat16)
    assert {p.name for p in a.iterdir()} == {p.name for p in b.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "README.md",
    }  # fmt: skip
    assert all((b / p.name).read_bytes() == p.read_bytes() for p in a.iterdir())
    assert model_digest(a) == model_digest(b)
    assert json.loads((a / "config.json").read_text())["dtype"] == "bfloat16"
    assert {t.dtype for t in load_file(a / "model.safetensors").values()} == {torch.bfloat16}
    keys = (a / "config.json").read_text() + (a / "generation_config.json").read_text()
    assert '"_' not in keys and "auto_map" not in keys and "attn_implementation" not in keys


def test_full_precision_weights_replace_the_models_own(fresh, tmp_path):
    masters = {n: p.detach().double() + 1 for n, p in fresh.model.named_parameters()}
    written = load_file(
        save(fresh.model, fresh.tokenizer, tmp_path / "m", state=masters, dtype=torch.bfloat16) / "model.safetensors"
    )
    assert written.keys() == masters.keys()  # tied: lm_head is not written twice
    assert all(torch.equal(written[n], masters[n].to(torch.bfloat16)) for n in masters)


def test_shards_load_like_one_file(fresh, folder, tmp_path):
    sharded = save(fresh.model, fresh.tokenizer, tmp_path / "sharded", max_shard_size="20KB")
    assert len(vet(sharded).weights) > 2 and not (sharded / "model.safetensors").exists()
    assert torch.equal(logits(load(sharded).model), logits(fresh.model))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(sharded)), logits(fresh.model))


@pytest.mark.parametrize("point", ["before", "between", "after"])
def test_a_save_killed_at_either_rename_leaves_a_whole_model(point, fresh, folder, monkeypatch):
    """`before` and `after` the first rename of a replacement, `between` the two: the old or the new model is there."""
    old = model_digest(folder)
    changed = copy.deepcopy(fresh.model)
    next(changed.parameters()).data += 1
    real, calls = Path.rename, []

    def rename(self, target):
        calls.append(self.name)
        if (point == "before" and len(calls) == 1) or (point == "between" and len(calls) == 2):
            raise KeyboardInterrupt
        result = real(self, target)
        if point == "after" and len(calls) == 2:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "rename", rename)
        save(changed, fresh.tokenizer, folder)
    saving.finish_replacing(folder)
    assert (model_digest(folder) == old) == (point != "after")
    assert torch.equal(logits(load(folder).model), logits(changed if point == "after" else fresh.model))
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_a_fresh_model_is_a_function_of_its_seed(fresh):
    before = torch.get_rng_state()
    same, other = load(FRESH, texts=TEXTS), load(FRESH, texts=TEXTS, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert same.digest == fresh.digest != other.digest
    assert torch.equal(logits(same.model), logits(fresh.model))
    assert not torch.equal(logits(other.model), logits(fresh.model))
    assert same.model.config.vocab_size == len(same.tokenizer) == 300
    assert same.model.config.eos_token_id == same.tokenizer.eos_token_id


def test_a_fresh_model_is_the_same_in_every_precision(fresh):
    half = load(FRESH, dtype=torch.bfloat16, texts=TEXTS).model
    for (name, p), q in zip(half.named_parameters(), fresh.model.parameters(), strict=True):
        assert p.dtype == torch.bfloat16 and torch.equal(p, q.bfloat16()), name
    assert half.get_input_embeddings().weight is half.get_output_embeddings().weight
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32


def test_weights_load_straight_into_the_wanted_dtype(folder, fresh):
    half = load(folder, dtype=torch.bfloat16)
    for (name, p), q in zip(half.model.named_parameters(), fresh.model.parameters(), strict=True):
        assert p.dtype == torch.bfloat16 and torch.equal(p, q.bfloat16()), name
    assert half.model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert half.model.get_input_embeddings().weight is half.model.get_output_embeddings().weight


def test_a_loaded_model_does_not_depend_on_its_file(folder, fresh):
    model = load(folder).model
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(8)
    assert torch.equal(logits(model), logits(fresh.model))


def test_dropout_is_zero_unless_asked_and_saved_as_it_was(tokenizer, tmp_path):
    config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}  # GPT-2's default: 0.1
    spec = {"config": config, "tokenizer": {"vocab_size": 300}}
    plain, dropped = load(spec, texts=TEXTS), load(spec, texts=TEXTS, dropout=0.5)
    assert not plain.model.training and dropped.model.training
    rates = [{m.p for m in x.model.modules() if isinstance(m, torch.nn.Dropout)} for x in (plain, dropped)]
    assert rates == [{0.0}, {0.5}]
    folder = save(dropped.model, tokenizer, tmp_path / "m", original_dropout=dropped.original_dropout)
    settings = json.loads((folder / "config.json").read_text())
    assert {settings[k] for k in ("attn_pdrop", "embd_pdrop", "resid_pdrop")} == {0.1}
    plain.model.train()
    assert torch.equal(logits(plain.model), logits(load(folder).model.train()))


def test_mixtures_of_experts_round_trip_without_router_jitter(fresh, tmp_path):
    config = {**FRESH["config"], "model_type": "mixtral", "num_local_experts": 2, "router_jitter_noise": 0.25}
    mixture = load({**FRESH, "config": config}, texts=TEXTS, dropout=0.1)
    assert mixture.model.config.router_jitter_noise == 0.0 and mixture.model.config.attention_dropout == 0.1
    folder = save(mixture.model, fresh.tokenizer, tmp_path / "m", original_dropout=mixture.original_dropout)
    assert json.loads((folder / "config.json").read_text())["router_jitter_noise"] == 0.25
    assert torch.equal(logits(load(folder).model), logits(mixture.model.eval()))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(mixture.model))


def test_the_tokenizer_is_deterministic_and_keeps_digits_apart(tokenizer):
    assert train_tokenizer(TEXTS, 300).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert [tokenizer.decode([i]) for i in tokenizer("2047")["input_ids"]] == list("2047")
    assert len({*tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"])}) == 4
    for text in ("line\r\n\ttab  two", "日本語 ✓ \x00 é", "".join(map(chr, range(1, 500)))):
        normal = __import__("unicodedata").normalize("NFC", text)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == normal
    assert tokenizer.chat_template is None  # whoever trains on conversations gives it one
    with pytest.raises(InputError, match="at least 260"):
        train_tokenizer(TEXTS, 259)


def test_a_tokenizer_that_transformers_would_read_otherwise_is_not_saved(tokenizer, tmp_path):
    from tokenizers import pre_tokenizers

    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    save(family("llama", tokenizer), other, tmp_path / "llama")
    with pytest.raises(InputError, match=r"'qwen2' model.* with another pre_tokenizer"):
        save(family("qwen2", tokenizer), other, tmp_path / "qwen2")
    assert [p.name for p in tmp_path.iterdir()] == ["llama"]


def test_a_fresh_model_can_take_the_tokenizer_of_a_folder(folder, fresh):
    taken = load({**FRESH, "tokenizer": str(folder)})
    assert taken.tokenizer.get_vocab() == fresh.tokenizer.get_vocab()
    assert torch.equal(logits(taken.model), logits(fresh.model))


def test_a_fresh_model_can_take_the_tokenizer_of_a_hub_name(folder, fresh, tmp_path, monkeypatch):
    """From the hub's cache, as a download leaves it: the tokenizer alone, without weights."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    cached, commit = tmp_path / "hub" / "models--org--name", "a" * 40
    snapshot = cached / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, snapshot)
    for name in ("org/name", f"org/name@{commit}"):
        taken = load({**FRESH, "tokenizer": name})
        assert taken.tokenizer.get_vocab() == fresh.tokenizer.get_vocab()
        assert torch.equal(logits(taken.model), logits(fresh.model))


def test_tokens_without_an_embedding_get_the_mean_and_are_named(folder, fresh):
    fresh_tokenizer = copy.deepcopy(fresh.tokenizer)
    fresh_tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_start|>", "<|im_end|>", "<|tool|>", "<|x|>"]})
    fresh_tokenizer.save_pretrained(folder)
    grown = load(folder)
    assert grown.new_tokens == ("<|tool|>", "<|x|>")
    weight = grown.model.get_input_embeddings().weight
    assert weight.shape[0] == 302 == grown.model.config.vocab_size
    mean = fresh.model.get_input_embeddings().weight.mean(0)
    torch.testing.assert_close(weight[300:], mean.expand(2, -1), atol=1e-7, rtol=0)
    assert torch.equal(weight[:300], fresh.model.get_input_embeddings().weight)


def test_missing_weights_are_an_error_and_unexpected_ones_reported(folder):
    weights = load_file(folder / "model.safetensors")
    gone = weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights .*model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)
    weights |= {"model.layers.1.mlp.up_proj.weight": gone, "model.extra.weight": torch.ones(2)}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(folder).unexpected == ("model.extra.weight",)
    weights["model.layers.1.mlp.up_proj.weight"] = gone[:-1].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"up_proj\.weight is \[\d+, \d+\] in model\.safetensors, where config"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {**FRESH["config"], "hiden_size": 3}}, "model.config.hiden_size.*'hidden_size'"),
        ({"config": {"model_type": "qwen22"}}, "model_type 'qwen22' is unknown.*'qwen2"),
        ({"config": {**FRESH["config"], "vocab_size": 99}}, "vocab_size is 99 but the tokenizer has 300"),
        ({"config": {**FRESH["config"], "hidden_size": "wide"}}, "not a qwen2 configuration"),
        ({"config": {**FRESH["config"], "auto_map": {"AutoConfig": "x.X"}}}, "RUNS_CODE"),
        ({"config": {**FRESH["config"], "_attn_implementation": "evil/kernel"}}, "PRIVATE_KEY"),
        ({"tokenizer": {"vocab_sise": 300}}, "model.tokenizer.vocab_sise.*'vocab_size'"),
        ({"tokenizer": {"vocab_size": "300"}}, "must be a whole number"),
        ({"tokenizer": {"vocab_size": 300, "train_on": "x"}}, "model.tokenizer.train_on is not a field"),
        ({"tokenizer": "./nowhere"}, r"^model\.tokenizer: './nowhere' is no folder and no hub name\.$"),
        ({"tokenizer": "nobody/nothing"}, "'nobody/nothing' is no folder here and not in the local hub cache"),
        ({"tokenizer": 3}, "must be a folder, a hub name or"),
        ({"tokeniser": 1}, "model.tokeniser.*'tokenizer'"),
        ({"config": None}, "a fresh model needs"),
    ],
)
def test_a_wrong_fresh_model_is_one_sentence(change, message):
    with pytest.raises(InputError, match=message):
        load({**FRESH, **change}, texts=TEXTS)


def test_names_mean_a_stage_then_the_lab_then_a_path_then_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "sft" / "model").mkdir(parents=True)
    (tmp_path / "base").mkdir()
    stages = {"sft": tmp_path / "runs" / "sft" / "model"}
    assert resolve_model("sft", stages) == stages["sft"]
    assert resolve_model("base", stages) == Path("base")
    assert resolve_model("runs/sft/model", stages) == Path("runs/sft/model")
    assert resolve_model("org/name", stages) == "org/name"
    assert resolve_model("gpt2", stages) == "gpt2"
    assert resolve_model("org/name@abc123", stages) == "org/name@abc123"
    for wrong, hint in {
        "bse": "'base'",
        "sftt": "'sft'",
        "./bse": "'base'",
        "runs/sft/modle/": "'runs/sft/model'",
    }.items():
        with pytest.raises(InputError, match=f"Did you mean {hint}"):
            resolve_model(wrong, stages)
    with pytest.raises(InputError, match="no stage of this recipe and no folder"):
        resolve_model("/no/such/folder", stages)
    (tmp_path / "sft").mkdir()
    with pytest.raises(InputError, match="both a stage and a path"):
        resolve_model("sft", stages)
    assert resolve_model("./sft", stages) == Path("sft")
    with pytest.raises(InputError, match="both a stage and the lab"):
        resolve_model("lab", {"lab": tmp_path})


def test_a_hub_name_is_read_from_the_cache_and_its_commit_recorded(folder, fresh, tmp_path, monkeypatch):
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"'org/tiny' is no folder here and not in the local hub cache"):
        load("org/tiny")
    with pytest.raises(InputError, match="could not be fetched"):
        load("not a/hub name/at all")

    repository, commit = tmp_path / "hub" / "models--org--tiny", "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    for made in (snapshot, repository / "blobs", repository / "refs"):
        made.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for i, file in enumerate(folder.iterdir()):
        shutil.copy(file, repository / "blobs" / f"{i:040x}")
        (snapshot / file.name).symlink_to(f"../../blobs/{i:040x}")
    loaded = load("org/tiny")
    assert loaded.source == f"org/tiny@{commit}" and loaded.digest == model_digest(folder)
    assert torch.equal(logits(loaded.model), logits(fresh.model))

    (snapshot / "tokenizer.json").unlink()
    (snapshot / "tokenizer.json").symlink_to("../../../../model/tokenizer.json")  # out of the cache repository
    with pytest.raises(VetError, match="LINK"):
        load("org/tiny")


def test_saving_does_not_touch_the_model(fresh, tmp_path):
    model = copy.deepcopy(fresh.model)
    model.config.use_cache = False
    before = model.config.to_json_string(use_diff=False)
    folder = save(model, fresh.tokenizer, tmp_path / "m", dtype=torch.bfloat16)
    assert model.config.to_json_string(use_diff=False) == before and model.dtype == torch.float32
    assert json.loads((folder / "config.json").read_text())["use_cache"] is False


def test_the_model_card_has_front_matter_a_hub_can_read():
    import yaml

    card = model_card(
        "tiny: a 'test'", base_model="org/base", method="sft", data=["org/data"], license="apache-2.0",
        settings={"learning_rate": 1e-5}, results={"accuracy": 0.5}, limits="It is tiny.",
    )  # fmt: skip
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0", "base_model": "org/base", "datasets": ["org/data"], "library_name": "transformers",
        "pipeline_tag": "text-generation", "tags": ["nurture", "sft"],
    }  # fmt: skip
    assert all(part in body for part in ("# tiny: a 'test'", "| learning_rate | 1e-05 |", "0.5", "It is tiny."))
    assert yaml.safe_load(CARD.split("---\n", 2)[1])["license"] == "unknown"


def test_reading_a_folder_starts_no_network_and_no_code(folder):
    """In a process of its own, where opening a socket and importing from the folder would fail loudly."""
    program = (
        "import socket, sys, torch\n"
        "def refuse(*a, **k): raise SystemExit('a socket was opened')\n"
        "socket.socket.connect = refuse\n"
        "from pathlib import Path\n"
        "from nurture.models.load import load_model\n"
        "load_model(Path(sys.argv[1]), dtype=torch.float32, device=torch.device('cpu'), seed=0)\n"
        "print('loaded', not any('transformers_modules' in m for m in sys.modules))\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, env=environment)
    assert done.stdout == "loaded True\n", done.stderr
    assert transformers.__version__
