"""Where the arithmetic happens: the device, and the number format its fast unit works in."""

from __future__ import annotations

import os
import sys

import torch

from ..errors import InputError

DEVICES, PRECISIONS = ("auto", "cpu", "cuda", "mps"), ("auto", "fp32", "bf16")


def choose_device(device: str) -> torch.device:
    """The device of that name, or with `auto` a CUDA device where there is one."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for, but torch sees no CUDA device; use device: cpu or auto.")
    if device not in DEVICES:
        raise InputError(f"device: {device!r} is none of {', '.join(DEVICES)}.")
    if device == "mps" and not torch.backends.mps.is_available():
        raise InputError("device: mps was asked for, but this machine has none; use device: cpu or auto.")
    return torch.device(device)


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """bf16 where the hardware multiplies matrices in it (elsewhere bf16 is several times slower than fp32)."""
    if precision not in PRECISIONS:
        raise InputError(f"precision: {precision!r} is none of {', '.join(PRECISIONS)}.")
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    return torch.bfloat16 if has_bf16_matrix_unit(device) else torch.float32


def has_bf16_matrix_unit(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(cpu_features() & {"amx_bf16", "avx512_bf16"})


def cpu_features() -> set[str]:
    """The instruction sets that decide how fast this CPU multiplies matrices."""
    if not sys.platform.startswith("linux"):
        return set()
    with open("/proc/cpuinfo") as f:
        flags = next((line for line in f if line.startswith("flags")), "").split()
    return set(flags) & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile"}


def deterministic() -> None:
    """Equal runs give equal bits. (Filling fresh memory with NaN, torch's companion of this switch, finds bugs but
    costs a pass over every tensor.)"""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
