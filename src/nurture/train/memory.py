"""Memory: an allocator that keeps its pages, the peak so far, and an estimate before anything runs."""

from __future__ import annotations

import ctypes
import resource
import sys
from dataclasses import dataclass
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_pages() -> bool:
    """Tell glibc to keep freed memory for the next tensor.

    By default every tensor above 32 MB is a fresh mapping that the kernel must fill with zeroed pages on first touch
    and takes back on free, over and over in each layer of each step. Returns whether this C library took the advice.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(option, size) for option, size in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 1 << 34)))


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held: on the GPU where it computes there, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def available_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def total_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    import psutil

    return psutil.virtual_memory().total


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes a training run will hold at once."""

    weights: int
    optimizer: int
    gradients: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.optimizer + self.gradients + self.activations


def estimate(
    config: Any, *, parameters: int, trained: int, itemsize: int, tokens: int, checkpointing: bool, chunk_bytes: int
) -> Estimate:
    """What the run will need, from shapes alone.

    Activations per token and layer: what autograd keeps of the norms, projections, attention and residual of one block
    (about 14 hidden sizes in the compute format, two norms in fp32) and of its gated MLP (about 5 intermediate sizes).
    With activation checkpointing only each block's input stays, plus one block in full.
    """
    text = config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    intermediate = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * hidden
    block = tokens * (itemsize * (14 * hidden + 5 * intermediate) + 4 * 4 * hidden)
    kept = tokens * hidden * itemsize * layers + block if checkpointing else block * layers
    masters = 0 if itemsize == 4 else 4 * trained
    return Estimate(
        weights=parameters * itemsize,
        optimizer=8 * trained + masters,
        gradients=trained * itemsize,
        activations=kept + 3 * min(chunk_bytes, 4 * tokens * text.vocab_size),
    )
