"""Which matrices an adapter goes to, checked before peft is asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from ..errors import InputError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .adapter import Targets

ALL = "all-linear"

FEED_FORWARD = re.compile(
    r".*\.(down_proj|fc2|fc_out|dense_4h_to_h|mlp\.c_proj|mlp\.Wo|w2|wo|lin2|ffn_output)|.*\.\d+\.output\.dense"
)
"""The last matrix of the feed-forward sub-layer, by what model families call it."""


def linear_names(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The matrices of the model by name, without its output head."""
    head = model.get_output_embeddings()
    linear = (m for m in model.named_modules() if isinstance(m[1], nn.Linear) or type(m[1]).__name__ == "Conv1D")
    return {name: module for name, module in linear if module is not head}


def check_targets(model: PreTrainedModel, targets: Targets, *, rank: int = 0, field: str = "") -> Targets:
    """The targets as peft is to be told them. InputError unless each is a matrix of the model with room for that
    rank."""
    linear = linear_names(model)
    if isinstance(targets, str) and targets in parts(linear):  # one name, without the brackets of a list
        targets = [targets]
    everything = [name for name, _ in model.named_modules()]
    if targets == ALL:
        chosen = list(linear)
    elif isinstance(targets, str):
        try:
            pattern = re.compile(targets)
        except re.error as error:
            raise InputError(f"adapter.target_modules: {targets!r} is no regular expression: {error}.") from None
        chosen = [name for name in everything if pattern.fullmatch(name)]
        if not chosen:
            raise InputError(
                f"adapter.target_modules: {targets!r} matches no module of {type(model).__name__}, whose matrices are "
                f"{_endings(linear)}.{did_you_mean(targets, parts(linear))}"
            )
    else:
        chosen = []
        for target in targets:
            found = [name for name in everything if is_named(name, target)]
            if not found:
                raise InputError(
                    f"adapter.target_modules: {target!r} matches no module of {type(model).__name__}, whose matrices "
                    f"are {_endings(linear)}.{did_you_mean(target, parts(linear))}"
                )
            chosen += found
    if not chosen:
        raise InputError(f"adapter.target_modules is empty; the matrices of this model are {_endings(linear)}.")
    for name in chosen:
        if name not in linear:
            what = type(model.get_submodule(name)).__name__
            why = "the output head" if what == "Linear" else f"no matrix of a layer but a {what}"
            raise InputError(f"adapter.target_modules: {name!r} is {why}; choose among {_endings(linear)}.")
        shape = matrix_shape(linear[name])
        if rank > min(shape):
            raise InputError(
                f"adapter.{field}: {rank} is more than a matrix of {shape[0]} x {shape[1]} ({name}) can have; its rank "
                f"is at most {min(shape)}."
            )
    return targets


def is_named(name: str, target: str) -> bool:
    """Whether a module's name is what an entry of a list of targets means, or ends in it."""
    return name == target or name.endswith(f".{target}")


def matrix_shape(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, nn.Linear):  # whose weight may be packed into fewer bytes
        return module.out_features, module.in_features
    rows, columns = module.weight.shape  # pyright: ignore[reportGeneralTypeIssues]
    return int(columns), int(rows)


def parts(names: dict[str, nn.Module]) -> set[str]:
    """The last words of these names."""
    return {name.rpartition(".")[2] for name in names}


def _endings(names: dict[str, nn.Module]) -> str:
    return ", ".join(sorted(parts(names)))
