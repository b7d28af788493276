"""A model folder that any tool of the ecosystem loads: written whole or not at all, same weights same bytes."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from ..adapters import folder as adapters
from ..adapters.adapter import ROLE
from ..errors import InputError
from ..files import sync
from .load import LAB, LoadedModel

HOW_IT_WAS_READ = ("is_local", "local_files_only", "name_or_path")
"""Entries of tokenizer_config.json that tell of the reading process, not of the tokenizer."""


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    state: Mapping[str, Tensor] | None,
    dtype: torch.dtype,
    card: str,
    original_dropout: Mapping[str, float] | None,
    stop_ids: Sequence[int] = (),
    max_shard_size: str = "5GB",
) -> None:
    """Write config, generation config, weights in `dtype`, tokenizer, chat template and model card to `folder`.

    `state` holds full-precision weights to write in place of the model's own, by the model's names. `stop_ids` join
    the end token in the generation config. `original_dropout` (of `LoadedModel`) puts the run's override back.
    """
    refuse_changed_tokenizer(model, tokenizer)
    with _replacing(folder) as temporary:
        _write_json(temporary / "config.json", _config(model, dtype, original_dropout or {}))
        _write_weights(model, temporary, state or {}, dtype, max_shard_size)
        _write_beside(model, tokenizer, temporary, card, stop_ids)


def save_adapter(
    loaded: LoadedModel,
    folder: Path,
    *,
    state: Mapping[str, Tensor],
    card: str,
    stop_ids: Sequence[int] = (),
    reward: Mapping[str, Any] | None = None,
    value: Mapping[str, Any] | None = None,
) -> None:
    """Write the adapter of a model, without the model: a PEFT folder with tokenizer, chat template and model card. Of
    a reward model, with its head; `reward` says how its scores are to be read. With `value` the critic that learnt on
    the same base is written too, as such a folder in this one."""
    where = str(LAB) if loaded.base == "lab" else loaded.base
    with _replacing(folder) as temporary:
        for role, inside, judges in ((ROLE, temporary, reward), ("value", temporary / "value", value)):
            if role == ROLE or value is not None:
                inside.mkdir(exist_ok=True)
                adapters.write(loaded.model, inside, state, loaded.base, loaded.base_digest, where, judges, role)
                _write_beside(loaded.model, loaded.tokenizer, inside, card, stop_ids)


def _write_beside(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, card: str, stop_ids: Sequence[int]
) -> None:
    if (generation := _generation_config(model, stop_ids)) is not None:
        _write_json(folder / "generation_config.json", generation)
    _write_tokenizer(tokenizer, folder)
    (folder / "README.md").write_text(card, encoding="utf-8")


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when it is complete."""
    folder = Path(folder).absolute()
    temporary, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    folder.parent.mkdir(parents=True, exist_ok=True)
    finish_replacing(folder)
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.rglob("*"):
            sync(path)
        sync(temporary)
    except BaseException:  # a full disk, say, of which half a model would keep the most
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def refuse_changed_tokenizer(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise an InputError if AutoTokenizer would not read back what is saved: for some model types (`qwen2`) it puts
    the type's own text splitting in place of the one in tokenizer.json, and then the same text gives other tokens than
    the model was trained on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_json(folder / "config.json", _config(model, model.dtype, {}))
        _write_tokenizer(tokenizer, folder)
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    written, read = (json.loads(t.backend_tokenizer.to_str()) for t in (tokenizer, found))
    if changed := [part for part in ("normalizer", "pre_tokenizer") if read[part] != written[part]]:
        raise InputError(
            f"Beside a {model.config.model_type!r} model, transformers reads this tokenizer with another "
            f"{' and '.join(changed)}: use another model_type, or that type's own tokenizer."
        )


def finish_replacing(folder: Path) -> None:
    """Tidy up after a `save_model` that was killed: half-written files go, a folder that was set aside comes back."""
    temporary, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in (temporary, old):
        if leftover.exists():
            shutil.rmtree(leftover)


def model_card(
    name: str,
    *,
    base_model: str | None,
    method: str,
    data: Sequence[str] = (),
    license: str = "unknown",
    settings: Mapping[str, Any] | None = None,
    results: Mapping[str, float] | Mapping[str, str] | None = None,
    limits: str = "",
    before: str = "",
    library: str = "transformers",
    judges: bool = False,
) -> str:
    """README.md of a model: front matter for the hub, then what was trained on what, how, and with what result. Of an
    exported model, `before` tells the same of the one it was made from."""
    front: dict[str, Any] = {
        "license": license,
        "base_model": base_model,
        "datasets": list(data) or None,
        "library_name": library,
        "pipeline_tag": "text-classification" if judges else "text-generation",
        "tags": ["nurture", method],
    }
    head = yaml.safe_dump({k: v for k, v in front.items() if v is not None}, sort_keys=False, allow_unicode=True)
    origin = f"`{base_model}`" if base_model else "a fresh initialisation"
    parts = [f"---\n{head}---", f"# {name}", f"Trained from {origin} with `{method}` by Nurture."]
    if data:
        parts.append("## Data\n\n" + "\n".join(f"- `{d}`" for d in data))
    for title, table in (("Settings", settings), ("Results", results)):
        if table:
            rows = "\n".join(f"| {key} | {value} |" for key, value in table.items())
            parts.append(f"## {title}\n\n| | |\n|---|---|\n{rows}")
    if limits:
        parts.append(f"## Limits\n\n{limits}")
    if before:
        parts.append(f"## How it was trained\n\n{before}")
    return "\n\n".join(parts) + "\n"


def _config(model: PreTrainedModel, dtype: torch.dtype, original_dropout: Mapping[str, float]) -> dict[str, Any]:
    config = copy.deepcopy(model.config)
    for path, value in original_dropout.items():
        *parents, name = path.split(".")
        owner: Any = config
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, value)
    config.architectures = [type(model).__name__]
    settings = _public(json.loads(config.to_json_string()))
    settings["dtype"] = str(dtype).removeprefix("torch.")
    return settings


def _generation_config(model: PreTrainedModel, stop_ids: Sequence[int]) -> dict[str, Any] | None:
    if (generation := getattr(model, "generation_config", None)) is None:  # a classifier writes nothing
        return None
    settings = _public(json.loads(generation.to_json_string()))
    end = settings.get("eos_token_id")
    ends = [*(end if isinstance(end, list) else [] if end is None else [end]), *stop_ids]
    if ends:
        settings["eos_token_id"] = list(dict.fromkeys(ends))
    return settings


def _public(value: Any) -> Any:
    """The same settings without private keys (transformers' way to write infinity is not one)."""
    if isinstance(value, dict) and value.keys() != {"__float__"}:
        return {key: _public(v) for key, v in value.items() if not key.startswith("_")}
    return [_public(v) for v in value] if isinstance(value, list) else value


def _write_weights(
    model: PreTrainedModel, folder: Path, state: Mapping[str, Tensor], dtype: torch.dtype, max_shard_size: str
) -> None:
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file
    from transformers.core_model_loading import revert_weight_conversion
    from transformers.modeling_utils import remove_tied_weights_from_state_dict

    own = model.state_dict()
    unknown = set(state) - set(own)
    assert not unknown, f"the model has no weights {sorted(unknown)[:3]}"
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    kept = remove_tied_weights_from_state_dict(dict(own), model)
    for name in model._keys_to_ignore_on_save or ():
        kept.pop(name, None)
    written: dict[str, Tensor] = {}
    for name, tensor in kept.items():
        tensor = state.get(name, tensor).detach().to("cpu")
        written[name] = tensor.to(dtype) if name in parameters and tensor.is_floating_point() else tensor
    written = revert_weight_conversion(model, written)
    split = split_torch_state_dict_into_shards(
        written, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file, names in split.filename_to_tensors.items():
        save_file({n: written[n].contiguous() for n in names}, folder / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _write_json(folder / "model.safetensors.index.json", index)


def _write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.backend_tokenizer.no_padding()  # left behind by the last call, and no property of the tokenizer
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    _write_json(path, {key: value for key, value in _public(settings).items() if key not in HOW_IT_WAS_READ})


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
