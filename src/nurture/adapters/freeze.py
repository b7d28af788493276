"""Freezing: some of the model's own weights learn, the others stay."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator
from torch import nn

from ..errors import InputError, did_you_mean
from .adapter import Adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = re.compile(r"(score|classifier|pre_classifier|pooler)\.|.*\.pooler\.")
"""The head of a reward model; on an encoder, which has more than a matrix there, all that stands on the layers. It is
new, so it always learns."""
RANGE = re.compile(r"(-?\d+)(?:-(\d+))?")


def _listed(value: Any) -> Any:
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [str(word) if type(word) is int else word for word in listed]


class Freeze(Adapter):
    """Only some of the model's own weights are trained. Howard and Ruder 2018, arXiv:1801.06146, section 3.3; bias
    only: Ben Zaken et al. 2022, arXiv:2106.10199.

        W  <-  W - eta * dL/dW        for the weights W that `train` names; the others stay bit for bit

    The whole model is saved, since part of it is new. Layers before the first trained one need no backward pass.
    """

    name: Literal["freeze"] = "freeze"  # pyright: ignore[reportIncompatibleVariableOverride]
    train: Annotated[list[str], BeforeValidator(_listed, json_schema_input_type=str | int | list[str | int])] = Field(
        default=["-1"]
    )
    """What learns: the number of a layer (`11`; `-1` is the last), a range (`8-11`, both ends included), `head`,
    `bias`, the name of a module or weight (`mlp.down_proj`), or a pattern over weight names (`*.self_attn.*.weight`).
    A list of these trains all that any of them names."""

    mergeable: ClassVar = True

    @field_validator("train")
    @classmethod
    def _something(cls, train: list[str]) -> list[str]:
        if not train:
            raise ValueError("must name at least one layer, module or pattern")
        return train

    def select(self, model: PreTrainedModel) -> None:
        chosen = {name for word in self.train for name in _named(word, model)}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen or HEAD.match(name) is not None)


def _named(word: str, model: PreTrainedModel) -> set[str]:
    """The names of the parameters that a word of `train` means."""
    names = [name for name, _ in model.named_parameters()]
    if match := RANGE.fullmatch(word):
        where, count = _layers(model)
        first, last = int(match[1]), int(match[2] or match[1])
        first, last = (i + count if i < 0 else i for i in (first, last))
        if not 0 <= first <= last < count:
            raise InputError(f"adapter.train: {word!r}: this model has the layers 0 to {count - 1}.")
        prefixes = tuple(f"{where}.{i}." for i in range(first, last + 1))
        return {name for name in names if name.startswith(prefixes)}
    if word == "head":
        return _head(model)
    if word == "bias":
        found = {name for name in names if name.rpartition(".")[2] == "bias"}
    elif "*" in word or "?" in word:
        found = {name for name in names if fnmatchcase(name, word)}
    else:
        found = {name for name in names if f".{word}." in f".{name}."}
    if not found:
        parts = {part for name in names for part in name.split(".") if not part.isdigit()}
        raise InputError(
            f"adapter.train: {word!r} matches no weight of {type(model).__name__}.{did_you_mean(word, parts)}"
        )
    return found


def _layers(model: PreTrainedModel) -> tuple[str, int]:
    if model.config.is_encoder_decoder:
        stacks = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and re.match(r".*coder\.", n)]
        ends = [n for n in stacks if n.count(".") == min(s.count(".") for s in stacks)]
        raise InputError(
            f"adapter.train: {type(model).__name__} counts its layers twice, once in the encoder and once in the "
            f"decoder; name the stack too, as {' or '.join(f'{n}.0' for n in ends)}."
        )
    count = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, count
    raise InputError(f"adapter.train: {type(model).__name__} has no list of layers; name its modules instead.")


def _head(model: PreTrainedModel) -> set[str]:
    if scores := {name for name, _ in model.named_parameters() if HEAD.match(name)}:
        return scores
    head: Any = model.get_output_embeddings()
    inputs: Any = model.get_input_embeddings()
    own = {id(p) for p in head.parameters()}
    if id(inputs.weight) in own:
        raise InputError(
            "adapter.train: 'head': the output matrix of this model is its input embedding (tie_word_embeddings), so "
            "the head cannot learn alone; name the embedding module to train both."
        )
    return {name for name, p in model.named_parameters() if id(p) in own}
