"""Every way a model folder could run code, reach outside itself or be broken is refused before anything acts on it."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nurture.errors import InputError
from nurture.models.load import load_model, train_tokenizer
from nurture.models.save import model_card, save_model
from nurture.models.vet import VetError, model_digest, vet, vet_tokenizer

PRISTINE = {
    "model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    spec = {"config": PRISTINE, "tokenizer": {"vocab_size": 264}}
    fresh = load_model(spec, dtype=torch.float32, device=torch.device("cpu"), seed=0, texts=["a few words"] * 9)
    folder = tmp_path_factory.mktemp("vet") / "pristine"
    save_model(
        fresh.model, fresh.tokenizer, folder, state=None, dtype=torch.float32, original_dropout=None,
        card=model_card("tiny", base_model=None, method="lm"),
    )  # fmt: skip
    return folder


@pytest.fixture
def folder(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "model"))


@pytest.fixture
def marker(tmp_path):
    return tmp_path / "executed"


def edit(path, change=None, **keys):
    settings = json.loads(path.read_text()) if path.exists() else {}
    settings.update(keys)
    if change:
        change(settings)
    path.write_text(json.dumps(settings))


class Evil:
    """Unpickling this runs a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def refused(folder, rule, file=None, match=None):
    """Refused by `vet`, and by `load_model` too, with the rule and the file in the sentence."""
    for attempt in (vet, lambda f: load_model(f, dtype=torch.float32, device=torch.device("cpu"), seed=0)):
        with pytest.raises(VetError, match=match) as caught:
            attempt(folder)
        assert caught.value.rule == rule and caught.value.exit_code == 2
        if file is not None:
            assert caught.value.file.name == file and file in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_pristine_folder_passes(folder):
    vetted = vet(folder)
    assert (vetted.model_type, vetted.architecture) == ("llama", "LlamaForCausalLM")
    assert [p.name for p in vetted.weights] == ["model.safetensors"]
    assert vetted.config["hidden_size"] == 16 and len(vetted.digest) == 64
    assert vet_tokenizer(folder) == folder.resolve()


def test_the_evil_pickle_of_these_tests_is_evil(marker):
    pickle.loads(pickle.dumps(Evil(marker)))
    assert marker.exists()


@pytest.mark.parametrize(
    "name",
    ["evil.pt", "rng_state.pth", "pytest.pkl", "pytorch_model.bin", "training_args.bin", "model.ckpt", "tf_model.h5",
     "flax_model.msgpack", "optimizer.PT", "x.joblib"],
)  # fmt: skip
@pytest.mark.parametrize("beside_safetensors", [True, False])
def test_pickles_are_refused_and_never_opened(folder, marker, name, beside_safetensors):
    (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    if not beside_safetensors:
        (folder / "model.safetensors").unlink()
    refused(folder, "PICKLE", name)
    assert not marker.exists()


def test_an_index_of_pickles_is_refused(folder):
    edit(folder / "pytorch_model.bin.index.json", weight_map={"a": "pytorch_model-00001-of-00001.bin"})
    refused(folder, "PICKLE", "pytorch_model.bin.index.json")


@pytest.mark.parametrize("place", ["", "custom_generate", "a/b"])
@pytest.mark.parametrize("name", ["modeling_evil.py", "generate.py", "x.so", "x.pyc"])
def test_code_is_refused_anywhere_in_the_folder(folder, marker, place, name):
    (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / place / name).write_text(f"import os; os.mkdir({str(marker)!r})")
    refused(folder, "CODE", name)
    assert not marker.exists()


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json"]
)
@pytest.mark.parametrize("nested", [False, True])
def test_auto_map_is_refused_in_every_settings_file(folder, marker, file, nested):
    outside = folder.parent / "outside.py"
    outside.write_text(f"import os; os.mkdir({str(marker)!r})")
    auto_map = {
        "auto_map": {"AutoConfig": "outside.X", "AutoModelForCausalLM": "outside.X", "AutoTokenizer": "outside.X"}
    }
    edit(folder / file, **({"inner": [{"deep": auto_map}]} if nested else auto_map))
    refused(folder, "RUNS_CODE", file, match="auto_map")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", "evil/kernel"),
        ("experts_implementation", "evil/kernel"),
        ("kernel_config", {"RMSNorm": "evil/kernel:RMSNorm"}),
        ("fusion_config", {"patch_embeddings": True}),
        ("transformers_weights", "adapter_model.bin"),
        ("configuration_files", ["config.4.0.0.json"]),
    ],
)
def test_settings_that_reach_for_code_or_other_files_are_refused(folder, key, value):
    edit(folder / "config.json", **{key: value})
    refused(folder, "RUNS_CODE", "config.json", match=key)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("_attn_implementation_internal", "evil/kernel"),
        ("_attn_implementation", "eager"),
        ("_experts_implementation_internal", "evil/kernel"),
        ("_commit_hash", "main"),
        ("_anything", None),
        ("__class__", "x"),
        ("_name_or_path", ["org/name"]),
        ("_name_or_path", None),
        ("_from_model_config", "true"),
        ("_sliding_window_pattern", True),
        ("_attn_implementation_autoset", 1),
    ],
)
def test_private_keys_are_refused_at_any_depth(folder, file, key, value):
    edit(folder / file, text_config={"inner": {key: value}})
    refused(folder, "PRIVATE_KEY", file, match=repr(key))


def test_the_private_keys_transformers_writes_itself_are_dropped(folder):
    harmless = {"_name_or_path": "org/name", "_sliding_window_pattern": 6, "_attn_implementation_autoset": True}
    edit(folder / "config.json", **harmless, rope_parameters={"rope_type": "default", "rope_theta": 1e4, **harmless})
    edit(folder / "generation_config.json", _from_model_config=True)
    vetted = vet(folder)
    assert "_" not in {key[0] for key in (*vetted.config, *vetted.config["rope_parameters"], *vetted.generation)}
    loaded = load_model(folder, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    assert not any(hasattr(loaded.model.config, key) for key in harmless if key != "_name_or_path")
    assert "org/name" not in loaded.model.config.to_json_string(use_diff=False)


@pytest.mark.parametrize("writer", ["Gemma3TextConfig", "LlamaConfig", "MambaConfig", "Qwen2Config"])
def test_what_the_installed_transformers_writes_is_accepted(folder, writer):
    import transformers

    model = transformers.AutoModelForCausalLM.from_config(
        getattr(transformers, writer)(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=264,
                                      num_key_value_heads=1, intermediate_size=24, head_dim=8)
    )  # fmt: skip
    model.save_pretrained(folder)
    assert vet(folder).architecture == type(model).__name__
    loaded = load_model(folder, dtype=torch.float32, device=torch.device("cpu"), seed=0).model
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_infinity_as_transformers_writes_it_is_a_number(folder):
    edit(folder / "config.json", limits=[0.0, {"__float__": "Infinity"}])
    assert vet(folder).config["limits"] == [0.0, float("inf")]
    edit(folder / "config.json", limits={"__float__": "os.system"})
    refused(folder, "PRIVATE_KEY", "config.json")


def shard(folder, name):
    """Move the weights to `name` and write an index that names it."""
    weights = load_file(folder / "model.safetensors")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").rename(folder / name)
    edit(folder / "model.safetensors.index.json", metadata={}, weight_map=dict.fromkeys(weights, name))


def test_an_honest_index_passes(folder):
    shard(folder, "model-00001-of-00001.safetensors")
    assert [p.name for p in vet(folder).weights] == ["model-00001-of-00001.safetensors"]


@pytest.mark.parametrize("name", ["../../x", "../x.safetensors", "sub/x.safetensors", "model.bin.safetensors/../../y"])
def test_shard_names_outside_the_folder_are_refused(folder, name):
    edit(folder / "model.safetensors.index.json", weight_map={"a": name})
    (folder / "model.safetensors").unlink()
    refused(folder, "SHARD_NAME", "model.safetensors.index.json", match="beside it")


def test_an_absolute_shard_name_is_refused(folder):
    shutil.copy(folder / "model.safetensors", folder.parent / "x.safetensors")
    (folder / "model.safetensors").unlink()
    edit(folder / "model.safetensors.index.json", weight_map={"a": str(folder.parent / "x.safetensors")})
    refused(folder, "SHARD_NAME", "model.safetensors.index.json")


@pytest.mark.parametrize(
    ("weight_map", "rule", "match"),
    [
        (None, "SHARD_NAME", "no weight_map"),
        ({}, "SHARD_NAME", "no weight_map"),
        ({"a": 3}, "SHARD_NAME", "no weight_map"),
        ({"a": "model-00001-of-00002.safetensors"}, "SHARD_MISSING", "not in the folder"),
        ({"a": "model-1.safetensors"}, "SHARD_NAME", "does not hold"),
        ({"a": "model-1.bin"}, "SHARD_NAME", "beside it"),
    ],
)
def test_an_index_that_lies_is_refused(folder, weight_map, rule, match):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    edit(folder / "model.safetensors.index.json", weight_map=weight_map)
    refused(folder, rule, "model.safetensors.index.json", match=match)


def test_one_file_and_an_index_are_one_too_many(folder):
    edit(folder / "model.safetensors.index.json", weight_map={"a": "model.safetensors"})
    refused(folder, "TWO_WEIGHTS", "model.safetensors.index.json")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "extra.txt", "sub/deep.txt"])
def test_links_out_of_the_folder_are_refused(folder, name):
    secret = folder.parent / "secret"
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.rename(secret) if path.exists() else secret.write_text("secret")
    path.symlink_to(secret)
    refused(folder, "LINK", path.name, match="secret")


def test_a_link_to_a_folder_outside_and_a_dangling_link_are_refused(folder):
    (folder / "sub").symlink_to(folder.parent, target_is_directory=True)
    refused(folder, "LINK", "sub")
    (folder / "sub").unlink()
    (folder / "gone.txt").symlink_to("nowhere")
    refused(folder, "LINK", "gone.txt")


def test_links_inside_the_folder_and_to_the_folder_are_fine(folder):
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    (folder.parent / "alias").symlink_to(folder)
    assert vet(folder.parent / "alias").folder == folder.resolve()


def hub_cache(folder, root, repository="models--org--name", blobs="blobs"):
    """The folder rebuilt as a snapshot of the hub's cache."""
    snapshot = root / repository / "snapshots" / "abc123"
    for made in (snapshot, root / repository / blobs):
        made.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, root / repository / blobs / f"{i:040x}")
        (snapshot / file.name).symlink_to(f"../../{blobs}/{i:040x}")
    return snapshot


def test_the_links_of_a_hub_snapshot_are_allowed_in_exactly_that_shape(folder, tmp_path):
    snapshot = hub_cache(folder, tmp_path / "hub")
    assert vet(snapshot).digest == vet(folder).digest
    (snapshot / "notes.txt").symlink_to("../../refs")
    (snapshot.parent.parent / "refs").mkdir()
    refused(snapshot, "LINK", "notes.txt")
    refused(hub_cache(folder, tmp_path / "other", repository="mine"), "LINK")
    refused(hub_cache(folder, tmp_path / "blob", blobs="blob"), "LINK")
    (snapshot / "notes.txt").unlink()
    hub_cache(folder, tmp_path / "hub", repository="models--org--second")
    (snapshot / "notes.txt").symlink_to("../../../models--org--second/blobs/" + "0" * 40)
    refused(snapshot, "LINK", "notes.txt")


@pytest.mark.parametrize("keep", [0, 5, 8, 100, -1])
def test_a_truncated_file_is_named_with_its_sizes(folder, keep):
    path = folder / "model.safetensors"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(keep if keep >= 0 else size - 1)
    refused(
        folder,
        "TRUNCATED",
        path.name,
        match=f"{size - 1} bytes where its header says {size}" if keep < 0 else f"{keep} bytes",
    )


def test_trailing_bytes_and_broken_headers_are_refused(folder):
    path = folder / "model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good + b"x")
    refused(folder, "TRUNCATED", path.name)
    for header in (b"[1, 2]", b'{"a": 1}', b'{"a": {"data_offsets": "x"}}', b"\xff\xff", b"{" * 5000):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        refused(folder, "BAD_HEADER", path.name)
    path.write_bytes(struct.pack("<Q", 2**63) + good[8:])
    refused(folder, "TRUNCATED", path.name)


def test_a_header_only_the_library_can_fault_is_one_sentence_too(folder):
    path = folder / "model.safetensors"
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(InputError, match="could not be loaded as LlamaForCausalLM"):
        load_model(folder, dtype=torch.float32, device=torch.device("cpu"), seed=0)


@pytest.mark.parametrize("name", [".metadata", "shard-00000-model-00001-of-00002.safetensors"])
def test_distributed_checkpoints_are_refused_since_their_metadata_is_a_pickle(folder, marker, name):
    (folder / name).write_bytes(pickle.dumps(Evil(marker)))
    refused(folder, "DISTRIBUTED", name)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"model_type": "llamma"}, "'llamma'.*Did you mean 'llama'"),
        ({"model_type": None}, "no model_type"),
        ({"model_type": ["llama"]}, "no model_type"),
        ({"model_type": "clip"}, "no causal language model"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "scores texts and cannot write any"),
        ({"architectures": "LlamaForCausalLM"}, "must be a LlamaForCausalLM"),
        ({"model_type": "qwen2"}, "must be a Qwen2ForCausalLM"),
    ],
)
def test_only_causal_architectures_of_the_installed_transformers_pass(folder, keys, match):
    edit(folder / "config.json", **keys)
    refused(folder, "ARCHITECTURE", "config.json", match=match)


def test_quantised_weights_are_refused(folder):
    edit(folder / "config.json", quantization_config={"quant_method": "gptq"})
    refused(folder, "QUANTIZED", "config.json")


@pytest.mark.parametrize("with_config", [True, False])
def test_an_adapter_is_recognised_and_its_base_named(folder, with_config):
    edit(folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="org/base", auto_mapping=None)
    save_file({"a": torch.ones(1)}, folder / "adapter_model.safetensors")
    if not with_config:
        (folder / "config.json").unlink()
    with pytest.raises(VetError, match=r"PEFT adapter \(LORA\) on org/base") as caught:
        vet(folder)  # where a plain model is wanted; `load_model` goes on to look for the base
    assert caught.value.rule == "ADAPTER" and caught.value.file.name == "adapter_config.json"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b'{"model_type": "llama",}', r"line 1 column \d+"),
        (b"", "line 1 column 1"),
        ('{"model_type": "llama"}'.encode("utf-16"), "not JSON in UTF-8"),
        (b"[]", "holds a list"),
        (b"[" * 100_000, "not JSON in UTF-8"),
    ],
)
def test_bad_json_is_named_with_its_place(folder, text, match):
    (folder / "config.json").write_bytes(text)
    refused(folder, "BAD_JSON", "config.json", match=match)


def test_what_is_missing_is_said(folder, tmp_path):
    refused(tmp_path / "nowhere", "MISSING", "nowhere")
    refused(folder / "config.json", "NOT_A_FOLDER", "config.json")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "EMPTY_FOLDER", "empty")
    for name in ("tokenizer.json", "model.safetensors"):
        hidden = (folder / name).rename(tmp_path / name)
        refused(folder, {"t": "NO_TOKENIZER", "m": "NO_WEIGHTS"}[name[0]], folder.name)
        hidden.rename(folder / name)
    (folder / "model.safetensors").rename(folder / "model.gguf")
    refused(folder, "NO_WEIGHTS", folder.name, match=r"model\.gguf is not what transformers loads")
    (folder / "config.json").unlink()
    refused(folder, "NO_CONFIG", folder.name, match=r"it holds README\.md, generation_config\.json")
    (folder / "config.json").mkdir()
    refused(folder, "UNREADABLE", "config.json")


def test_files_nobody_reads_do_not_matter(folder):
    (folder / "modules.json").write_text("[1, 2]")
    (folder / "notes.json").write_text("not json, and auto_map")
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "optimizer.pt").write_bytes(b"x")  # transformers opens nothing in subfolders
    assert vet(folder).model_type == "llama"


def test_the_digest_is_of_content(folder, tmp_path):
    digest = model_digest(folder)
    assert model_digest(Path(shutil.copytree(folder, tmp_path / "copy"))) == digest
    (folder / "README.md").write_text("another card")
    assert model_digest(folder) == digest
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert model_digest(folder) != digest
    data[-1] ^= 1
    path.write_bytes(data)
    assert model_digest(folder) == digest
    edit(folder / "config.json", rms_norm_eps=1e-3)
    assert model_digest(folder) != digest


def test_a_tokenizer_folder_is_vetted_too(tmp_path, marker):
    folder = tmp_path / "tokenizer"
    train_tokenizer(["some words"], 264).save_pretrained(folder)
    assert vet_tokenizer(folder) == folder.resolve()
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["x.X", None]})
    spec = {"config": PRISTINE, "tokenizer": str(folder)}
    with pytest.raises(VetError, match="RUNS_CODE"):
        load_model(spec, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    edit(folder / "tokenizer_config.json", auto_map=None)
    (folder / "x.pkl").write_bytes(pickle.dumps(Evil(marker)))
    with pytest.raises(VetError, match="PICKLE"):
        load_model(spec, dtype=torch.float32, device=torch.device("cpu"), seed=0)
    assert not marker.exists()
