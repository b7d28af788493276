"""Checkpoints under SIGKILL, bit rot and full disks: forked processes, damaged files, small disks, all of them real."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor
from train.children import child, end_of, run_child, wait_for

from nurture.errors import InputError
from nurture.train import checkpoint as module
from nurture.train.checkpoint import CheckpointStore, Damaged, DiskFull, SaveFailed, verify
from nurture.train.context import Context
from nurture.train.faults import FAILPOINTS

CONTEXT = Context(
    config={"learning_rate": 1e-3, "adapter": {"r": 16}},
    data={"train": "d" * 64},
    versions={"torch": "2.13.0"},
    device="cpu x86_64 AVX512",
    threads=2,
)
POINTS = [name for name in FAILPOINTS if name.startswith("checkpoint.")]
COMMITTED = POINTS[POINTS.index("checkpoint.after_rename") :]
"""From here on the new checkpoint is the newest."""


def tensors_of(step: int) -> dict[str, Tensor]:
    """Every kind of tensor a run may hold, as a function of the step."""
    g = torch.Generator().manual_seed(step)
    weight = torch.randn(40, 60, generator=g)
    bits = torch.randint(-(2**15), 2**15, (33,), generator=g, dtype=torch.int16)
    return {
        "w.weight": weight,
        "w.transposed": weight.T,
        "bf16": bits.view(torch.bfloat16),  # arbitrary bits: NaN payloads and denormals too
        "fp16": bits.flip(0).view(torch.float16),
        "moment": torch.randn(7, 11, generator=g, dtype=torch.float64),
        "rng": torch.randint(0, 256, (5056,), generator=g, dtype=torch.uint8),
        "count": torch.tensor(step),
        "flags": torch.tensor([True, False, True]),
        "none": torch.empty(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(3, generator=g)),
    }


def state_of(step: int) -> dict[str, object]:
    return {"step": step, "position": [step, 0.1 * step], "best": None, "text": "ü\ud800 ✓", "nested": {"b": 1e-300}}


def store_of(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder, keep=2, shard_bytes=4096)


def save(folder: Path, *steps: int, like: int | None = None) -> None:
    for step in steps:
        content = step if like is None else like
        store_of(folder).save(step, tensors_of(content), state_of(content), CONTEXT)


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_holds(folder: Path, step: int, like: int | None = None) -> None:
    """The newest checkpoint is that of `step`, complete, and equal to what was saved bit by bit."""
    loaded = store_of(folder).load_newest()
    assert loaded is not None and loaded.step == step
    expected = tensors_of(step if like is None else like)
    assert loaded.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded.tensors[name].dtype == tensor.dtype and loaded.tensors[name].shape == tensor.shape
        assert bits(loaded.tensors[name]) == bits(tensor), name
    assert loaded.state == state_of(step if like is None else like)


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_run_that_never_saved_has_no_checkpoint(tmp_path: Path):
    assert store_of(tmp_path / "checkpoints").load_newest() is None
    assert not (tmp_path / "checkpoints").exists()


def test_what_is_loaded_is_what_was_saved(tmp_path: Path):
    path = store_of(tmp_path).save(7, tensors_of(7), state_of(7), CONTEXT)
    assert_holds(tmp_path, 7)
    assert (tmp_path / "latest").read_text() == f"{path.name}\n" == "step-00000007\n"
    files = json.loads((path / "manifest.json").read_bytes())["files"]
    assert len(files) > 2, "the tensors were meant to fill several files"
    assert max(f["size"] for name, f in files.items()) < 4096 + tensors_of(7)["w.weight"].nbytes
    for name, about in files.items():  # the digests are those that anyone's sha256sum prints
        printed = subprocess.run(["sha256sum", path / name], capture_output=True, text=True, check=True).stdout.split()
        assert printed[0] == about["sha256"]


def test_the_manifest_says_what_the_numbers_depend_on(tmp_path: Path):
    path = store_of(tmp_path).save(7, tensors_of(7), state_of(7), CONTEXT)
    manifest = verify(path)
    assert manifest["step"] == 7 and manifest["schema"] == 1
    context = manifest["context"]
    assert context["config"] == CONTEXT.config and context["data"] == CONTEXT.data
    assert len(context["config_digest"]) == len(context["data_digest"]) == 64
    assert (context["threads"], context["world_size"], context["promise"]) == (2, 1, "A")


def test_equal_content_gives_equal_bytes_whatever_the_order(tmp_path: Path):
    reverse = dict(reversed(tensors_of(3).items()))
    store_of(tmp_path / "a").save(3, tensors_of(3), state_of(3), CONTEXT)
    store_of(tmp_path / "b").save(3, reverse, dict(reversed(state_of(3).items())), CONTEXT)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_every_written_file_is_plain_safetensors_or_json(tmp_path: Path):
    path = store_of(tmp_path).save(1, tensors_of(1), state_of(1), CONTEXT)
    for file in path.iterdir():
        if file.suffix == ".json":
            json.loads(file.read_bytes())
        else:
            with safe_open(file, "pt") as opened:
                assert len(list(opened.keys())) >= 1


@pytest.mark.parametrize("state", [{"pair": (1, 2)}, {"by": {1: "a"}}])
def test_a_state_that_json_would_change_is_refused(tmp_path: Path, state: dict[str, object]):
    with pytest.raises(AssertionError, match="plain JSON"):
        store_of(tmp_path).save(1, {}, state, CONTEXT)
    with pytest.raises(ValueError, match="JSON compliant"):
        store_of(tmp_path).save(1, {}, {"loss": float("nan")}, CONTEXT)
    assert not visible(tmp_path)


# ---------------------------------------------------------------- killed


@pytest.mark.parametrize("point", POINTS)
def test_sigkill_at_every_failpoint(tmp_path: Path, point: str):
    """The newest valid checkpoint wins, nothing is left over, and the run ends with the bytes it would have had."""
    folder, replacing = tmp_path / "run", point == "checkpoint.after_set_aside"
    save(folder, 1, 2, 3)
    if replacing:
        save(folder, 4, like=99)
    assert run_child(lambda: save(folder, 4), f"{point}:kill9") == -signal.SIGKILL
    if replacing:
        assert_holds(folder, 4, like=99)
    else:
        assert_holds(folder, 4 if point in COMMITTED else 3)
    assert not [name for name in visible(folder) if name.startswith(".")]
    save(folder, 4, 5)
    save(tmp_path / "uninterrupted", 1, 2, 3, 4, 5)
    assert contents(folder) == contents(tmp_path / "uninterrupted")


def test_sigkill_at_any_moment(tmp_path: Path):
    """The failpoints are places we thought of; these are places nobody did."""
    rng = random.Random(0)
    reached = 0

    def save_on(after: int) -> None:
        for step in range(after + 1, after + 1000):
            save(tmp_path / "run", step)
            (tmp_path / f"saved-{step}").touch()

    for _ in range(12):
        with child(lambda after=reached: save_on(after)) as pid:
            wait_for(tmp_path / f"saved-{reached + 1}")
            time.sleep(rng.uniform(0, 0.06))
            os.kill(pid, signal.SIGKILL)
            assert end_of(pid) == -signal.SIGKILL
        said = max(int(p.name.removeprefix("saved-")) for p in tmp_path.glob("saved-*"))
        loaded = store_of(tmp_path / "run").load_newest()
        assert loaded is not None and loaded.step in (said, said + 1) and not loaded.rejected
        reached = loaded.step
        assert_holds(tmp_path / "run", reached)
        assert not [name for name in visible(tmp_path / "run") if name.startswith(".")]


# ---------------------------------------------------------------- damaged


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position // 8 % len(data)] ^= 1 << position % 8
    path.write_bytes(data)


@pytest.mark.parametrize(
    "name", ["manifest.json", "state.json", "tensors-00000.safetensors", "tensors-00001.safetensors"]
)
def test_a_truncated_file_is_named_with_its_size_and_the_one_before_is_used(tmp_path: Path, name: str):
    save(tmp_path, 1, 2)
    file = tmp_path / "step-00000002" / name
    size = file.stat().st_size
    os.truncate(file, size - 1)
    loaded = store_of(tmp_path).load_newest()
    assert loaded is not None and loaded.step == 1
    (rejected,) = loaded.rejected
    assert rejected.path.name == "step-00000002" and name in rejected.reason and str(size - 1) in rejected.reason
    assert name == "manifest.json" or str(size) in rejected.reason


@settings(max_examples=150)
@given(which=st.integers(0, 10**6), position=st.integers(0, 10**6))
def test_one_flipped_bit_anywhere_is_seen(tmp_path: Path, which: int, position: int):
    pristine, damaged = tmp_path / "pristine" / "step-00000002", tmp_path / "damaged" / "step-00000002"
    if not pristine.exists():
        save(tmp_path / "pristine", 2)
    shutil.rmtree(damaged, ignore_errors=True)
    shutil.copytree(pristine, damaged)
    verify(damaged)
    files = sorted(damaged.iterdir())
    file = files[which % len(files)]
    flip(file, position)
    with pytest.raises(Damaged, match=file.name.replace(".", r"\.")):
        verify(damaged)


def test_when_all_are_damaged_each_reason_is_given_and_nothing_starts_afresh(tmp_path: Path):
    save(tmp_path, 1, 2)
    flip(tmp_path / "step-00000001" / "tensors-00000.safetensors", 9999)
    (tmp_path / "step-00000002" / "manifest.json").unlink()
    with pytest.raises(InputError) as error:
        store_of(tmp_path).load_newest()
    message = str(error.value)
    assert "step-00000001: tensors-00000.safetensors has SHA-256" in message
    assert "step-00000002: manifest.json is missing" in message


def test_vanished_checkpoints_do_not_start_afresh(tmp_path: Path):
    save(tmp_path, 1)
    shutil.rmtree(tmp_path / "step-00000001")
    with pytest.raises(InputError, match="latest names 'step-00000001', which is missing"):
        store_of(tmp_path).load_newest()


def test_foreign_files_and_links_are_refused_before_anything_is_read(tmp_path: Path):
    save(tmp_path, 1, 2, 3)
    step, other = tmp_path / "step-00000003", tmp_path / "step-00000002"
    (step / "evil.pt").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    with pytest.raises(Damaged, match=r"evil\.pt does not belong"):
        verify(step)
    (step / "evil.pt").unlink()
    verify(step)
    (tmp_path / "elsewhere").write_bytes((step / "state.json").read_bytes())
    (step / "state.json").unlink()
    (step / "state.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Damaged, match="not a plain file"):
        verify(step)
    other.rename(tmp_path / "real")
    other.symlink_to(tmp_path / "real")
    with pytest.raises(Damaged, match="not a folder of its own"):
        verify(other)


def forge(path: Path, **changes: object) -> None:
    """A manifest whose own digest is right, and which says something else."""
    manifest = json.loads((path / "manifest.json").read_bytes())
    del manifest["digest"]
    manifest |= changes
    forged = module.canonical_json({**manifest, "digest": module.digest_of(manifest)})
    (path / "manifest.json").write_bytes(forged)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step": 9}, "of step 9"),
        ({"schema": 2}, "schema 2, this version reads 1"),
        ({"files": {"../../x": {"size": 1, "sha256": "0"}}}, "'../../x', which no checkpoint holds"),
        ({"files": {"evil.pt": {"size": 1, "sha256": "0"}}}, "which no checkpoint holds"),
        ({"files": {"state.json": 1}}, "is not a manifest"),
        ({"files": []}, "is not a manifest"),
        ({"context": 1}, "is not a manifest"),
    ],
)
def test_a_forged_manifest_is_refused(tmp_path: Path, changes: dict[str, object], reason: str):
    path = store_of(tmp_path).save(1, tensors_of(1), state_of(1), CONTEXT)
    forge(path, **changes)
    with pytest.raises(Damaged) as damage:
        verify(path)
    assert reason in str(damage.value)


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path):
    save(tmp_path / "run", 1, 2, 3)
    flip(tmp_path / "run" / "step-00000003" / "state.json", 50)
    store = store_of(tmp_path / "run")
    loaded = store.load_newest()
    assert loaded is not None and loaded.step == 2
    store.save(3, tensors_of(3), state_of(3), CONTEXT)
    save(tmp_path / "clean", 1, 2, 3)
    assert contents(tmp_path / "run") == contents(tmp_path / "clean")


# ---------------------------------------------------------------- pruned


def test_the_newest_and_the_protected_are_kept(tmp_path: Path):
    store = CheckpointStore(tmp_path, keep=3)
    for step in range(1, 9):
        store.save(step, {}, {}, CONTEXT, protect={2})
    assert visible(tmp_path) == {"latest", *(f"step-{n:08d}" for n in (2, 6, 7, 8))}


def test_a_damaged_checkpoint_does_not_count_as_kept(tmp_path: Path):
    save(tmp_path, 1, 2, 3)
    flip(tmp_path / "step-00000003" / "state.json", 0)
    store = store_of(tmp_path)
    store.load_newest()
    store.save(4, {}, {}, CONTEXT)
    assert {p.name for p in store.paths()} == {f"step-{n:08d}" for n in (2, 3, 4)}
    assert [verify(p)["step"] for p in store.paths() if "3" not in p.name] == [4, 2]


def test_keeping_one_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="keep=1"):
        CheckpointStore(tmp_path, keep=1)


# ---------------------------------------------------------------- no room


@pytest.mark.parametrize("point", [p for p in POINTS if p != "checkpoint.after_set_aside"])
def test_a_disk_that_fills_up_anywhere(tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 1, 2, 3)
    before = contents(tmp_path)
    monkeypatch.setattr("nurture.train.faults._hits", Counter())
    monkeypatch.setenv("NURTURE_FAULT", f"{point}:enospc")
    with pytest.raises(DiskFull, match=rf"step 4 .*{tmp_path}"):
        save(tmp_path, 4)
    monkeypatch.delenv("NURTURE_FAULT")
    assert not [name for name in visible(tmp_path) if name.startswith(".")]
    if point not in COMMITTED:
        assert contents(tmp_path) == before
    assert_holds(tmp_path, 4 if point in COMMITTED else 3)


def test_too_little_room_is_seen_before_anything_is_touched(tmp_path: Path):
    save(tmp_path, 1)
    before = contents(tmp_path)
    huge = torch.empty(1, dtype=torch.uint8).expand(1 << 50)  # a petabyte that takes one byte
    with pytest.raises(DiskFull) as error:
        store_of(tmp_path).save(2, {"w": huge}, {}, CONTEXT)
    needed, free = int((2**50 + 2) * 1.2), shutil.disk_usage(tmp_path).free
    assert f"needs {needed} bytes (1.4 TB)" in str(error.value) or f"needs {needed} bytes" in str(error.value)
    said = int(str(error.value).split("where ")[1].split(" ")[0])
    assert abs(said - free) < 2**30
    assert contents(tmp_path) == before
    with pytest.raises(DiskFull):
        store_of(tmp_path / "not" / "yet").save(2, {"w": huge}, {}, CONTEXT)
    assert not (tmp_path / "not").exists()


def test_a_really_full_disk(small_disk: Path, monkeypatch: pytest.MonkeyPatch):
    tensors = {f"w{i}": torch.ones(50_000) for i in range(8)}
    store = CheckpointStore(small_disk, shard_bytes=400_000)
    store.save(1, {"w": torch.ones(1000)}, {}, CONTEXT)
    before = contents(small_disk)
    with pytest.raises(DiskFull, match="needs"):
        store.save(2, tensors, {}, CONTEXT)
    monkeypatch.setattr(module, "SPARE", 0)  # room there was, and someone else took it meanwhile
    with pytest.raises(DiskFull, match=r"filled up.* the newest is still .*step-00000001"):
        store.save(2, tensors, {}, CONTEXT)
    assert contents(small_disk) == before
    assert shutil.disk_usage(small_disk).free > 900_000


def test_a_disk_that_refuses(tmp_path: Path):
    save(tmp_path, 1)

    def body() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.raises(SaveFailed, match=r"could not be written.*the newest is still .*step-00000001"):
            save(tmp_path, 2)

    assert run_child(body) == 0
    assert_holds(tmp_path, 1)
    (tmp_path / "file").touch()
    with pytest.raises(SaveFailed, match="could not be written"):
        store_of(tmp_path / "file").save(1, {}, {}, CONTEXT)
