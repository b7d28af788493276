"""Memory: an allocator that keeps its pages, the peak so far, and an estimate before anything runs."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = -1
KERNELS = 512
"""More than the products of one step need; with fewer, each step would write all of them again."""


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
    # mallopt takes C ints: a larger number would arrive as another one.
    return all(mallopt(option, size) for option, size in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, _NEVER)))


def keep_few_kernels() -> None:
    """Tell torch's matrix library how much of the machine code it writes to keep: over half a megabyte for each size
    and kind of product, of which it would keep 1,024. Before the first product, or it is too late."""
    for capacity in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(capacity, str(KERNELS))


def peak_bytes(device: torch.device) -> int:
    """The most memory this process has held: on the GPU where it computes there, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform.startswith("linux"):  # where, unlike ru_maxrss, it can be forgotten
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def forget_peak(device: torch.device) -> None:
    """Measure `peak_bytes` from here on: what earlier work of this process left behind is given back first. Where the
    system cannot forget a peak (it is not Linux), the earlier one stays."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library, or a sandbox
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


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
    config: Any,
    *,
    parameters: int,
    trained: int,
    itemsize: int,
    tokens: int,
    checkpointing: bool,
    head_bytes: int,
    average_bytes: int = 4,
) -> Estimate:
    """What the run will need, from shapes alone. `head_bytes` is the most that the head holds of logits, and
    `average_bytes` the size of a number in Adam's two averages.

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
        optimizer=2 * average_bytes * trained + masters,
        gradients=trained * itemsize,
        activations=kept + min(head_bytes, 12 * tokens * text.vocab_size),
    )
