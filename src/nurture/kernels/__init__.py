"""Kernels of our own for the CPU, in C++, compiled for the machine at hand the first time it needs them.

What torch does in many passes over memory they do in one, and some products faster than any library at hand: attention
within short segments, and those of a few rows. Every kernel has a twin in torch's operations, which stands beside it
where it is called and against which it is tested. A machine without a compiler, without Linux, or whose CPU has no bf16
products (AVX512-BF16) computes with the twin, as does everyone with `NURTURE_KERNELS=off`.

A kernel takes raw pointers. Whoever calls one has made sure of format, shape and strides.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-fno-math-errno")
NEEDS = {"avx512f", "avx512bw", "avx512vl", "avx512_bf16"}
PATIENCE = 120
"""Seconds the compiler may take."""


def library() -> ctypes.CDLL | None:
    """The kernels, or None where torch's operations are to be used."""
    return _found()[0]


def version() -> str:
    """What decides, beside the libraries, how sums are rounded: the sources and the CPU they were compiled for."""
    found = library()
    return "none" if found is None else Path(found._name).stem


def has_tiles() -> bool:
    """Whether products use the CPU's matrix tiles (AMX)."""
    found = library()
    return found is not None and ctypes.c_bool.in_dll(found, "has_tiles").value


def why_not() -> str | None:
    """Why there are none, in words; None if there are."""
    return _found()[1]


def serves(*tensors: Tensor, formats: Collection[torch.dtype] = (torch.bfloat16,)) -> bool:
    """Whether all of these are in a format and a place that the kernels work on. Those of training are for bf16 alone:
    in fp32 a model that is loaded here computes what it computes elsewhere, to the last bit."""
    return all(t.device.type == "cpu" and t.dtype in formats for t in tensors) and library() is not None


def call(name: str, *arguments: Any) -> None:
    """A kernel, on as many threads as torch's operations. An int is passed as 64 bits, a float as 32."""
    found = library()
    assert found is not None
    found[name](*map(_passed, arguments), ctypes.c_int64(torch.get_num_threads()))


def _passed(x: Tensor | int | float | ctypes.Array[Any] | None) -> Any:
    if isinstance(x, Tensor):
        return ctypes.c_void_p(x.data_ptr())
    if isinstance(x, float):
        return ctypes.c_float(x)
    return ctypes.c_int64(x) if isinstance(x, int) else x


@cache
def _found() -> tuple[ctypes.CDLL | None, str | None]:
    if os.environ.get("NURTURE_KERNELS", "").lower() in ("off", "0", "no", "false"):
        return None, "NURTURE_KERNELS says off"
    if not sys.platform.startswith("linux"):
        return None, "they are written for Linux"
    flags = _cpu_flags()
    if missing := NEEDS - set(flags):
        return None, f"this CPU has no {sorted(missing)[0]}"
    compiler = next((c for c in (os.environ.get("CXX"), "g++", "c++") if c and shutil.which(c)), None)
    if compiler is None:
        return None, "there is no C++ compiler: install g++"
    try:
        found = ctypes.CDLL(str(_built(compiler, flags)))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip() or repr(error)
        return None, f"{compiler} did not compile them: {said.splitlines()[0]}"
    found.start()
    return found, None


def _cpu_flags() -> list[str]:
    with open("/proc/cpuinfo") as f:
        return sorted(next((line for line in f if line.startswith("flags")), "").split())


def _built(compiler: str, flags: list[str]) -> Path:
    """The compiled library, from the user's cache if these sources were compiled for this CPU before."""
    sources = sorted(HERE.glob("*.cpp"))
    digest = hashlib.sha256(repr((compiler, FLAGS, flags)).encode())
    for path in [*sources, *sorted(HERE.glob("*.h"))]:
        digest.update(path.read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nurture" / "kernels"
    built = root / f"{digest.hexdigest()[:16]}.so"
    if built.exists():
        return built
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        objects = [Path(folder) / f"{source.stem}.o" for source in sources]
        commands = [[compiler, *FLAGS, "-c", str(s), "-o", str(o)] for s, o in zip(sources, objects, strict=True)]
        running = [subprocess.Popen(c, stderr=subprocess.PIPE, text=True) for c in commands]
        try:
            for command, process in zip(commands, running, strict=True):
                _, said = process.communicate(timeout=PATIENCE)
                if process.returncode:
                    raise subprocess.CalledProcessError(process.returncode, command, stderr=said)
        finally:
            for process in running:
                process.kill()
                process.wait()
        together = Path(folder) / "kernels.so"
        link = [compiler, "-shared", "-fopenmp", *map(str, objects), "-o", str(together)]
        subprocess.run(link, check=True, capture_output=True, text=True, timeout=PATIENCE)
        os.replace(together, built)  # whole or not at all, whoever else is at it
    return built
