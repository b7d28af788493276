"""What a reference model says of every answer, asked once before training and kept by content.

A method that learns from given answers asks its reference the same question in every epoch. Asked once, the reference
needs no memory during training: half of it, when all weights are trained. What it said is kept in the run folder, and
in the user's cache for the next run that would ask the same (another beta, another seed).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ..core.logp import selected_logp
from ..data.cache import cache_folder, prune
from ..files import replace_synced
from ..models.heads import output_head
from ..models.layouts import LAY, Layout, hidden_states
from ..types import Batch, Group

Logp = NDArray[np.float32]
CACHE = "references"
"""The folder in the user's cache."""


def content_key(model_digest: str, how: str, groups: Sequence[Group]) -> str:
    """Names the answers to ask about, the model to ask and how it computes."""
    digest = hashlib.sha256(f"{model_digest}\n{how}\n".encode())
    for group in groups:
        for ids in (group.prompt, *(part for r in group.responses for part in (r.ids, r.mask))):
            digest.update(len(ids).to_bytes(8, "little") + ids.tobytes())
    return digest.hexdigest()


def ask(
    model: PreTrainedModel,
    layout: Layout,
    groups: Sequence[Group],
    tokens: int,
    device: torch.device,
    alive: Callable[[], None] = lambda: None,
) -> Logp:
    """The log-prob of every own token, in the flat order of `Batch(groups)`."""
    whole = Batch(tuple(groups), device)
    out = torch.empty(whole.num_own, dtype=torch.float32)
    training = model.training
    model.eval()
    with torch.no_grad():
        for piece in whole.pieces(tokens, "group"):
            alive()
            laid = LAY[layout](piece.batch)
            hidden = hidden_states(model, laid).index_select(0, laid.at)
            logp = selected_logp(hidden, output_head(model), piece.batch.target).logp
            out[piece.own.cpu()] = logp.float().cpu()
    model.train(training)
    return out.numpy()


def keep(path: Path, key: str, logp: Logp) -> None:
    from safetensors.numpy import save

    replace_synced(path, save({"logp": logp}, {"key": key}))


def cached(key: str) -> Logp | None:
    """What an earlier run was told under this key."""
    folder = cache_folder(CACHE)
    found = kept(folder / f"{key[:40]}.safetensors", key) if folder else None
    if folder and found is not None:
        os.utime(folder / f"{key[:40]}.safetensors")  # it was of use
    return found


def cache(key: str, logp: Logp) -> None:
    """Keep it for later runs, which may do without: a full disk is no reason to stop."""
    if folder := cache_folder(CACHE):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            keep(folder / f"{key[:40]}.safetensors", key, logp)
            prune(folder)


def kept(path: Path, key: str) -> Logp | None:
    """What was kept under this key; None where the file is missing, damaged, or of another model or data."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return file.get_tensor("logp") if (file.metadata() or {}).get("key") == key else None
    except (FileNotFoundError, SafetensorError):
        return None


def attach(groups: Sequence[Group], logp: Logp) -> list[Group]:
    """The groups with each response's share of the log-probs."""
    at, out = 0, list[Group]()
    for group in groups:
        owned = Batch((group,)).owned
        responses = []
        for response, own in zip(group.responses, owned, strict=True):
            responses.append(replace(response, logp_ref=logp[at : at + len(own)]))
            at += len(own)
        out.append(replace(group, responses=tuple(responses)))
    assert at == len(logp), "the log-probs are of other groups"
    return out
