"""PEFT adapter folders: what is written beside the tensors, and how strictly a folder is read back.

A folder is PEFT's (adapter_config.json, adapter_model.safetensors) with one file more, nurture_adapter.json: the
adapter as it was declared, and the digest of the base it was trained on. A reward model's is that of a sequence
classifier, whose head PEFT keeps among the adapter's tensors.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ..errors import InputError
from . import ADAPTERS, of_peft_type
from .adalora import rank_pattern
from .adapter import ROLE, Adapter
from .attached import adapter_state, attached, put, to_compute_format
from .freeze import HEAD

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's own weights, as which the head of a sequence classifier is saved."""
SAVED_HEAD = re.compile(re.escape(PREFIX) + r"((score|(pre_)?classifier|(.*\.)?pooler)\.(dense\.)?(weight|bias))")
MODULES_TO_SAVE = {"score", "classifier", "pre_classifier", "pooler"}
CONFIG, WEIGHTS, DECLARED = "adapter_config.json", "adapter_model.safetensors", "nurture_adapter.json"

SHAPES = {
    "peft_type", "r", "lora_alpha", "target_modules", "exclude_modules", "lora_dropout", "use_rslora", "use_dora",
    "bias", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
    "trainable_token_indices", "feedforward_modules", "target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1",
    "beta2", "orth_reg_weight", "total_step", "num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads",
    "num_transformer_submodules", "encoder_hidden_size", "encoder_num_layers", "encoder_dropout",
    "encoder_reparameterization_type", "prefix_projection", "bottleneck_size", "non_linearity", "peft_version",
}  # fmt: skip
"""The entries of adapter_config.json that say what the tensors mean. Any other must be at its default: some name code
to import (`megatron_core`), some change the base (`layer_replication`)."""

NOT_NEEDED = {
    "base_model_name_or_path", "revision", "inference_mode", "init_lora_weights", "init_ia3_weights", "init_weights",
    "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs", "task_type",
}  # fmt: skip
"""Entries about how the adapter began and where it lay. Nothing of them is used."""


@dataclass(frozen=True)
class Saved:
    """What an adapter folder says of itself."""

    folder: Path
    settings: Mapping[str, Any]
    """The part of adapter_config.json that gives the tensors their meaning."""
    adapter: Adapter
    base: str
    base_digest: str | None
    """None for a folder that Nurture did not write."""
    reward: Mapping[str, Any] | None = None
    """Of a reward model: how its scores are to be read."""

    def base_source(self) -> str | Path:
        """Where the base is: the path that was noted, the same as seen from this folder, or a hub name."""
        here = Path(os.path.normpath(self.folder / self.base))
        path = Path(self.base).expanduser()
        found = next((p for p in (path, here) if p.exists()), None)
        if found is None and (path.is_absolute() or self.base.startswith(".")):
            raise InputError(
                f"{self.folder} is an adapter on the model {self.base}, which is not there; put it back, or correct "
                f"base_model_name_or_path in its {CONFIG}."
            )
        return found or self.base


def read(folder: Path, settings: Mapping[str, Any], declared: Mapping[str, Any] | None) -> Saved:
    """The meaning of a vetted adapter_config.json and, where there is one, of nurture_adapter.json."""
    path = folder / CONFIG
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{path} does not name the base in base_model_name_or_path; add it.")
    if declared is not None and declared.get("base") == "lab":
        base = "lab"
    elif revision := settings.get("revision"):
        base = base if Path(base).exists() else f"{base}@{revision}"
    kept = _checked(path, settings)
    adapter = _declared(path, kept, declared)
    digest = str(declared["base_digest"]) if declared is not None and "base_digest" in declared else None
    return Saved(folder, kept, adapter, base, digest, None if declared is None else declared.get("reward"))


def _checked(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    from . import peft_compat  # noqa: F401  (enters the bottleneck adapter)

    kind: Any = settings.get("peft_type")
    ours = {adapter.peft_type for adapter in ADAPTERS.values() if adapter.peft_type}
    if kind not in ours:
        raise InputError(f"{path}: peft_type {kind!r} is none that Nurture knows; it knows {', '.join(sorted(ours))}.")
    defaults = {f.name: f.default for f in fields(PEFT_TYPE_TO_CONFIG_MAPPING[kind])}
    for key, value in settings.items():
        if key == "modules_to_save" and isinstance(value, list) and MODULES_TO_SAVE.issuperset(value):  # `saved_head`
            continue
        if key not in SHAPES | NOT_NEEDED and value and value != defaults.get(key):
            raise InputError(f"{path} sets {key}, which changes more than the adapter's tensors: it is not loaded.")
    return {key: value for key, value in settings.items() if key in SHAPES}


def _declared(path: Path, settings: Mapping[str, Any], declared: Mapping[str, Any] | None) -> Adapter:
    if declared is not None:
        written = declared.get("adapter")
        kind = ADAPTERS.get(str(written.get("name"))) if isinstance(written, Mapping) else None
        if kind is None or kind.peft_type != settings["peft_type"]:
            raise InputError(
                f"{path.parent / DECLARED} does not describe a {settings['peft_type']} adapter; remove it."
            )
    else:
        kind = of_peft_type(settings["peft_type"])
        assert kind is not None, "`_checked` has refused any other"
        written = {key: settings[key] for key in kind.model_fields if settings.get(key) is not None}
        for key in ("tinit", "tfinal"):
            written.pop(key, None)
    try:
        return kind.model_validate(written)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InputError(f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}.") from None


def put_saved(model: PreTrainedModel, saved: Saved, role: str = ROLE) -> None:
    """Attach a saved adapter with its tensors. Prompts and prefixes come back as what their encoder made of them."""
    from peft import set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from safetensors.torch import load_file

    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[saved.settings["peft_type"]]  # pyright: ignore[reportArgumentType]
    settings = {k: v for k, v in saved.settings.items() if k not in ("peft_type", "peft_version")}
    config = kind(task_type="CAUSAL_LM", inference_mode=bool(saved.adapter.virtual), **settings)
    tensors = {n: t for n, t in load_file(saved.folder / WEIGHTS).items() if not SAVED_HEAD.fullmatch(n)}
    try:
        held = put(model, config, saved.adapter, role)
        found = set_peft_model_state_dict(held.peft, tensors, adapter_name=role)
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{saved.folder} does not fit the base {saved.base}: {reason}") from error
    if not saved.adapter.virtual and (unexpected := found.unexpected_keys):
        raise InputError(f"{saved.folder} does not fit the base {saved.base}: it has no place for {unexpected[0]}.")
    if not saved.adapter.virtual:
        missing = set(adapter_state(model, {}, role)) - set(tensors)
        if missing:
            raise InputError(f"{saved.folder} is incomplete: {WEIGHTS} lacks {sorted(missing)[0]}.")
    to_compute_format(model)


def saved_head(folder: Path) -> dict[str, Tensor]:
    """The head of a reward model's adapter folder, by the model's own names; nothing of any other's."""
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, "pt") as file:
        names = file.keys()
        return {match[1]: file.get_tensor(name) for name in names if (match := SAVED_HEAD.fullmatch(name))}


def write(
    model: PreTrainedModel,
    folder: Path,
    state: Mapping[str, Tensor],
    base: str,
    base_digest: str,
    base_path: str,
    reward: Mapping[str, Any] | None = None,
    role: str = ROLE,
) -> None:
    """The files of a role's adapter in `folder`. `state` holds the fp32 masters by the model's names, `base` the word
    that finds the base again, `base_path` its folder or hub name for other programs. With `reward` (how scores are to
    be read) the head is saved as well."""
    from safetensors.torch import save_file

    held = attached(model)
    assert held is not None
    adapter, config = held.adapters[role], held.peft.peft_config[role]
    if adapter.virtual:  # what is saved is what the encoder makes of the parameters
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in state:
                    parameter.copy_(state[name])
    settings = {**config.to_dict(), "inference_mode": True}
    if adapter.peft_type == "ADALORA":
        own = dict(model.state_dict()) | dict(state)
        config.rank_pattern = settings["rank_pattern"] = rank_pattern(own, settings["init_r"])  # pyright: ignore[reportAttributeAccessIssue]
    tensors = adapter_state(model, state, role)
    if held.start:
        tensors = _relative(held.start, settings, tensors)
    name, _, revision = base_path.partition("@")
    settings["base_model_name_or_path"] = base_path if Path(base_path).exists() else name
    settings["revision"] = None if Path(base_path).exists() else revision or None
    declared = {"adapter": _as_saved(adapter, settings), "base_digest": base_digest, "base": base}
    if reward is not None:
        if head := head_state(model, state, role):
            tensors |= {PREFIX + name: tensor for name, tensor in head.items()}
            modules = {name.removesuffix(".dense").rpartition(".")[2] for name in (n.rpartition(".")[0] for n in head)}
            settings |= {"task_type": "SEQ_CLS", "modules_to_save": sorted(modules)}
        declared["reward"] = dict(reward)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    for name, value in ((CONFIG, settings), (DECLARED, declared)):
        text = json.dumps(value, indent=2, sort_keys=True, default=_plain) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def head_state(model: PreTrainedModel, state: Mapping[str, Tensor], role: str = ROLE) -> dict[str, Tensor]:
    """What stands on the layers, by the model's names: its own head, or that which belongs to another role."""
    own = "" if role == ROLE else f"{role}_"
    head = {n.removeprefix(own): state.get(n, p) for n, p in model.named_parameters() if n.startswith(own)}
    return {n: t.detach().to("cpu", torch.float32) for n, t in head.items() if HEAD.match(n)}


def _as_saved(adapter: Adapter, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The declaration of what the folder holds: PiSSA has become plain LoRA, and encoders are gone."""
    declared = adapter.model_dump(mode="json")
    if declared.get("init_lora_weights") == "pissa":
        declared |= {"init_lora_weights": "default", "r": settings["r"], "lora_alpha": settings["lora_alpha"]}
    return declared


def _relative(
    start: Mapping[str, Tensor], settings: dict[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """PiSSA's B A - B0 A0 as one LoRA of twice the rank: B' = [B, B0], A' = [A; -A0]. What else there is (DoRA's
    magnitudes, new tokens) stays."""
    out = dict(tensors)
    for name, tensor in tensors.items():
        if ".lora_A." not in name and ".lora_B." not in name:
            continue
        own = name.removeprefix("base_model.model.").removesuffix(".weight") + f".{ROLE}.weight"
        first = start[own].detach().to("cpu", torch.float32)
        out[name] = torch.cat([tensor, -first], 0) if ".lora_A." in name else torch.cat([tensor, first], 1)
    settings["r"] *= 2
    settings["lora_alpha"] *= 2**0.5 if settings["use_rslora"] else 2
    settings["init_lora_weights"] = True
    return out


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(getattr(value, "value", value))
