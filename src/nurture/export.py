"""Exporting: a plain model that any tool loads, checked against what it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .core.random import stream_key
from .data.template import Template
from .errors import InputError
from .evaluate.answers import with_chat
from .evaluate.exam import results_of
from .models.heads import classifier, has_score_head, is_encoder, output_head, score_head
from .models.layouts import classify, hidden_states, is_seq2seq, lay_rows, lay_seq2seq, layout_of, relative_gap
from .models.load import LoadedModel, load_model, resolve_model
from .models.save import model_card, save_model
from .types import Batch, Group, Response

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BOUND = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""How far the logits of the exported model may be from those before, relative to their size: sums in another order, and
what rounding the weights to the format costs."""
PROMPTS, LENGTH = 16, 32


@dataclass(frozen=True)
class Exported:
    folder: Path
    gap: float
    bound: float


def export(
    name: str, out: Path, *, merged: bool = False, dtype: Literal["fp32", "bf16", "fp16"] | None = None
) -> Exported:
    """Write a model as plain weights to `out`: an adapter merged into its base, or another number format.

    The logits of 16 texts of random tokens are computed in fp32 before, and again from the written folder. A folder
    whose logits are further off than `BOUND` is not kept. A reward model becomes a sequence classifier, and its scores
    stand for the logits.
    """
    if out.exists():
        raise InputError(f"{out} exists already; name another folder.")
    source = resolve_model(name, {})
    loaded = _load(source)
    adapter = loaded.adapter
    if adapter is not None and not merged:
        raise InputError(f"{name} is an adapter ({adapter.name}) on {loaded.base}; --merge adds it to a copy of that.")
    if adapter is None and merged:
        raise InputError(f"{name} is a plain model: there is no adapter to merge; leave --merge out.")
    if is_encoder(loaded.model) and not has_score_head(loaded.model):
        raise InputError(f"{name} is an encoder that has not learnt to judge; train it with method reward first.")
    before = _logits(loaded)
    model = loaded.model if adapter is None else _load(source, merged=True).model
    if has_score_head(model):
        model.config.pad_token_id = loaded.tokenizer.pad_token_id
        model = classifier(model, loaded.criteria, loaded.reward or {})
    elif loaded.reward is not None:
        model.config.reward = dict(loaded.reward)
    written = FORMATS[dtype] if dtype else loaded.saved_dtype
    card = model_card(
        out.resolve().name,
        base_model=loaded.base or loaded.source,
        method=adapter.name if adapter else "export",
        settings={"merged": name if adapter else "no", "format": str(written).removeprefix("torch.")},
        results=results_of(loaded.digest, source.absolute().parent) if isinstance(source, Path) else {},
        before=_history(source) if isinstance(source, Path) else "",
        judges=has_score_head(loaded.model),
    )
    save_model(
        model, loaded.tokenizer, out, state=None, dtype=written, card=card,
        original_dropout=loaded.original_dropout, stop_ids=Template(loaded.tokenizer).stop_ids,
    )  # fmt: skip
    gap = relative_gap(_logits(_load(out)), before)
    if not gap <= BOUND[written]:
        import shutil

        shutil.rmtree(out)
        raise InputError(
            f"{name}: the exported model is not the same: its logits on {PROMPTS} texts differ by {gap:.1e}, more than "
            f"{BOUND[written]:.0e}; nothing was kept. Try --dtype fp32."
        )
    return Exported(out, gap, BOUND[written])


def _load(source: str | Path, merged: bool = False) -> LoadedModel:
    cpu = torch.device("cpu")
    return with_chat(load_model(source, dtype=torch.float32, device=cpu, seed=0, reward=True, merged=merged))


def _logits(loaded: LoadedModel) -> Tensor:
    """`[tokens, V]` (of a reward model the scores) of the same random texts for every model of a vocabulary."""
    model = loaded.model
    draw = np.random.Generator(np.random.Philox(key=stream_key(0, "export")))
    vocabulary = len(loaded.tokenizer)
    groups = tuple(
        Group(ids[:1], (Response(ids[1:], np.ones(LENGTH, bool)),))
        for ids in (draw.integers(0, vocabulary, LENGTH + 1) for _ in range(PROMPTS))
    )
    batch = Batch(groups, model.device)
    laid = lay_seq2seq(batch) if is_seq2seq(model) else lay_rows(batch)
    model.eval()
    with torch.no_grad(), layout_of(model, "rows"):
        if is_encoder(model):
            return classify(model, laid)
        hidden = hidden_states(model, laid).index_select(0, laid.at)
        return score_head(model)(hidden) if has_score_head(model) else output_head(model).logits(hidden)


def _history(folder: Path) -> str:
    """What the card of the model says of its training (data, settings, results), for the card of the exported one."""
    card = folder / "README.md"
    if not card.exists():
        return ""
    text = card.read_text(encoding="utf-8")
    start = text.find("\n## ")
    return "" if start < 0 else text[start:].replace("\n## ", "\n### ").strip()
