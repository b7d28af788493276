"""What a run was made under, and what it means when that has changed at its resumption."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from .. import kernels
from ..errors import InputError
from ..files import digest_of

Promise = Literal["A", "B", "C"]
"""What a resumed run keeps of the uninterrupted one. A: every bit (CPU). B: every bit, given deterministic algorithms
and the same accelerators. C: the same samples in the same order and the same global batch; losses within rounding."""

LIBRARIES = ("torch", "transformers", "peft", "tokenizers", "safetensors", "numpy")


@dataclass(frozen=True)
class Context:
    """Everything outside a checkpoint that its numbers depend on. `data` maps the name of a data set to its digest."""

    config: Mapping[str, Any]
    data: Mapping[str, str]
    versions: Mapping[str, str]
    device: str
    threads: int
    world_size: int = 1
    promise: Promise = "A"

    @staticmethod
    def here(
        config: Mapping[str, Any],
        data: Mapping[str, str],
        device: torch.device,
        world_size: int = 1,
        promise: Promise | None = None,
    ) -> Context:
        """This configuration and data on this machine, with these libraries."""
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        versions["python"] = platform.python_version()
        versions["kernels"] = kernels.version() if device.type == "cpu" else "none"
        if promise is None:
            promise = "A" if device.type == "cpu" else "B"
        return Context(config, data, versions, _name_of(device), torch.get_num_threads(), world_size, promise)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"config_digest": digest_of(self.config), "data_digest": digest_of(self.data)}


def _name_of(device: torch.device) -> str:
    """The hardware as far as it decides how sums are rounded."""
    if device.type == "cpu":
        return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return device.type


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that has changed. `refused` stops the resumption, `weaker` costs the exactness of what follows,
    `harmless` is only recorded."""

    key: str
    before: str
    now: str
    effect: Literal["refused", "weaker", "harmless"]

    def __str__(self) -> str:
        return f"{self.key}: {self.before} -> {self.now}"


def check_context(
    manifest: Mapping[str, Any], now: Context, allowed: Collection[str] = (), harmless: Collection[str] = ()
) -> list[Difference]:
    """What differs between a checkpoint's context and this one, by dotted key.

    A changed configuration or data set is refused; `allowed` keys are let pass at the price of exactness, `harmless`
    ones (how often to save or log) at none. A key stands for everything below it. Libraries, hardware, threads and the
    number of processes may change, at that same price.
    """
    before, after = _flat(manifest["context"]), _flat(now.as_json())
    differences: list[Difference] = []
    for full in [*before, *(key for key in after if key not in before)]:
        old, new = (_spelt(flat[full]) if full in flat else "(absent)" for flat in (before, after))
        if full in _DERIVED or old == new:
            continue
        key = full.removeprefix("config.")
        if _under(key, harmless):
            effect = "harmless"
        elif full.startswith(("config.", "data.")) and not _under(key, allowed):
            effect = "refused"
        else:
            effect = "weaker"
        differences.append(Difference(key, old, new, effect))
    return differences


def refuse(differences: list[Difference], run: Path) -> None:
    """Raise an InputError with the differences that may not be, if there are any."""
    refused = [d for d in differences if d.effect == "refused"]
    ways = "choose another out=, or start again with fresh=true"
    if changed := [found["file"] or f"the {found[2]}" for d in refused if (found := _INPUT.fullmatch(d.key))]:
        raise InputError(f"{run} was begun with other inputs: {', '.join(changed)} changed since; restore it, {ways}.")
    if refused:
        listed = "".join(f"\n  {d}" for d in refused)
        raise InputError(f"{run} was begun with other settings; restore them, {ways}:{listed}")


def promise_after(before: Promise, differences: list[Difference]) -> tuple[Promise, str]:
    """The promise that holds from here on, and the sentence that says why it is less (empty where it is not)."""
    weaker = ", ".join(str(d) for d in differences if d.effect == "weaker")
    if not weaker or before == "C":
        return before, ""
    return (
        "C",
        f"Promise C instead of {before}: resumed with {weaker}; losses agree within rounding, no longer in every bit.",
    )


_INPUT = re.compile(r"data\.(?:(?:data|eval)\.\d+:(?P<file>.*)|(model|ref|critic|teacher))")
"""The key of a digest: of a source by its name, or of a model by its part."""
_DERIVED = ("config_digest", "data_digest", "promise")


def _under(key: str, prefixes: Collection[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Leaves by dotted key. A list is one leaf."""
    if isinstance(value, Mapping) and value:
        prefix = f"{key}." if key else ""
        return {k: v for name, below in value.items() for k, v in _flat(below, f"{prefix}{name}").items()}
    return {key: value}


def _spelt(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
