"""The doctor tells what is there and what to do about what is not."""

import importlib.metadata
import platform

import torch
from rich.console import Console

from nurture import doctor
from nurture.doctor import Row, doctor_table, examine, matrix_rate


def test_it_finds_this_machine(tmp_path):
    rows = {row.what: row for row in examine(tmp_path)}
    assert platform.python_version() in rows["Python"].found and rows["Python"].state == "ok"
    assert rows["torch"].found == importlib.metadata.version("torch")
    assert str(tmp_path) in rows["disk"].found
    assert {"GPU", "CPU", "threads", "memory", "precision", "matrix products, fp32", "matrix products, bf16"} <= set(
        rows
    )
    extras = importlib.metadata.metadata("nurture-llm").get_all("Provides-Extra") or []
    assert extras and {f"extra: {name}" for name in extras} <= set(rows)
    for row in rows.values():
        assert row.state in ("ok", "warn", "missing") and bool(row.advice) == (row.state != "ok"), row
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(doctor_table(list(rows.values())))
    assert max(map(len, capture.get().splitlines())) <= 80


def test_a_wrong_or_absent_library_is_told_with_the_remedy():
    torch_version = importlib.metadata.version("torch")
    assert doctor._library("torch", ">=1", "do this") == Row("torch", "ok", torch_version)
    assert doctor._library("torch", "<1", "do this") == Row("torch", "warn", f"{torch_version}, wanted <1", "do this")
    assert doctor._library("no-such-thing", ">=1", "do this").state == "missing"


def test_the_rate_counts_the_operations_that_were_done(monkeypatch):
    """On a clock that only the product moves, two seconds each, the rate is known."""

    class Clock:
        now = 0.0

        def perf_counter(self) -> float:
            return self.now

    clock, product = Clock(), torch.mm

    def mm(a, b):
        clock.now += 2.0
        return product(a, b)

    monkeypatch.setattr(doctor, "time", clock)
    monkeypatch.setattr(torch, "mm", mm)
    assert matrix_rate(torch.device("cpu"), torch.float32) == 2 * doctor.MATRIX**3 / 2.0
