"""`nurture doctor`: what this machine has, what it can do a second, and what to do where something is amiss."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from rich.table import Table

DISTRIBUTION = "nurture-llm"
MIN_FREE_DISK = 5e9
MIN_FREE_MEMORY = 2e9
MATRIX = 1024
"""Rows and columns of the matrices whose product is timed."""


@dataclass(frozen=True, slots=True)
class Row:
    """One finding; `advice` says what to do where it is not ok."""

    what: str
    state: Literal["ok", "warn", "missing"]
    found: str
    advice: str = ""


def examine(folder: Path = Path()) -> Iterator[Row]:
    """Everything, in the order a person would ask. `folder` is where runs would be written."""
    yield _python()
    yield from _libraries()
    yield from _machine(folder)
    yield from _arithmetic()
    yield from _extras()


def _python() -> Row:
    from packaging.specifiers import SpecifierSet

    wanted = str(importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"])
    found = f"{platform.python_version()} at {sys.executable}"
    if SpecifierSet(wanted).contains(platform.python_version(), prereleases=True):
        return Row("Python", "ok", found)
    return Row("Python", "warn", found, f"Nurture is tested with Python {wanted}.")


def _libraries() -> Iterator[Row]:
    """What the package requires, against what is installed."""
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires(DISTRIBUTION) or []:
        wanted = Requirement(line)
        if wanted.marker is None:
            yield _library(wanted.name, str(wanted.specifier), f'pip install "{wanted.name}{wanted.specifier}"')


def _library(name: str, wanted: str, remedy: str) -> Row:
    from packaging.specifiers import SpecifierSet

    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Row(name, "missing", "not installed", remedy)
    if SpecifierSet(wanted).contains(found, prereleases=True):
        return Row(name, "ok", found)
    return Row(name, "warn", f"{found}, wanted {wanted}", remedy)


def _machine(folder: Path) -> Iterator[Row]:
    import psutil
    import torch

    from .files import free_bytes, readable_size
    from .train.precision import cpu_features

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            memory = torch.cuda.get_device_properties(number).total_memory
            yield Row("GPU", "ok", f"{torch.cuda.get_device_name(number)}, {readable_size(memory)}")
    elif "+cpu" not in torch.__version__ and torch.version.cuda:
        yield Row("GPU", "warn", "none seen by this CUDA build of torch", "Install the CPU build, or check the driver.")
    else:
        yield Row("GPU", "ok", "none; the CPU is used")

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Row("CPU", "ok", f"{usable} cores, {', '.join(sorted(cpu_features())) or 'no vector features known'}")
    threads = torch.get_num_threads()
    advice = f"Unset OMP_NUM_THREADS, or set it to at most {usable}." if threads > usable else ""
    yield Row("threads", "warn" if advice else "ok", f"torch computes with {threads}", advice)

    memory = psutil.virtual_memory()
    little = memory.available < MIN_FREE_MEMORY
    found = f"{readable_size(memory.available)} of {readable_size(memory.total)} free"
    yield Row(
        "memory", "warn" if little else "ok", found, "Close other programs, or use a smaller model." if little else ""
    )

    free = free_bytes(folder)
    advice = "Checkpoints need about four times the size of the model; make room." if free < MIN_FREE_DISK else ""
    yield Row("disk", "warn" if advice else "ok", f"{readable_size(free)} free in {folder.absolute()}", advice)


def _arithmetic() -> Iterator[Row]:
    import torch

    from . import kernels
    from .train.precision import choose_device, choose_precision

    device = choose_device("auto")
    chosen = choose_precision("auto", device)
    if device.type == "cpu":
        why = kernels.why_not()
        found = "compiled for this CPU" + (", with its matrix tiles" if kernels.has_tiles() else "")
        yield Row("kernels", "ok", f"none ({why}): torch's operations are used, slower in bf16" if why else found)
    name = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}[chosen]
    yield Row("precision", "ok", f"auto means {name} on this {device.type}")
    rates = {dtype: matrix_rate(device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    best = max(rates, key=lambda dtype: rates[dtype])
    for dtype, rate in rates.items():
        label = "bf16" if dtype == torch.bfloat16 else "fp32"
        slow = dtype == chosen and rate < 0.8 * rates[best]
        advice = "The other format is faster here; try precision=..." if slow else ""
        yield Row(f"matrix products, {label}", "warn" if slow else "ok", f"{rate / 1e9:,.0f} GFLOP/s", advice)


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Floating-point operations a second in products of square matrices: the best of the rounds that fit the time."""
    import torch

    a = torch.full((MATRIX, MATRIX), 0.5, device=device, dtype=dtype)

    def once() -> float:
        began = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    once()  # the first one sets the kernels up
    end = time.perf_counter() + seconds
    best = once()
    while time.perf_counter() < end:
        best = min(best, once())
    return 2 * MATRIX**3 / best


def _extras() -> Iterator[Row]:
    """The optional parts; that one is not installed is no fault."""
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in importlib.metadata.requires(DISTRIBUTION) or []]
    for extra in importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []:
        parts = [
            r for r in requirements if r.marker and r.marker.evaluate({"extra": extra}) and not r.marker.evaluate()
        ]
        rows = [_library(part.name, str(part.specifier), f'pip install "{DISTRIBUTION}[{extra}]"') for part in parts]
        lacking = [row for row in rows if row.state != "ok"]
        if lacking:
            found = ", ".join(f"{row.what} {row.found}" for row in lacking)
            yield Row(f"extra: {extra}", "missing", found, f"If you want it: {lacking[0].advice}")
        else:
            yield Row(f"extra: {extra}", "ok", "installed")


def doctor_table(rows: list[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "warn": "yellow", "missing": "dim"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(row.what, Text(row.state, style=colours[row.state]), Text(row.found), Text(row.advice))
    return table
