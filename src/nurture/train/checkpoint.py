"""Checkpoints: atomic to write, verified to load, and never a pickle.

    checkpoints/.tmp-00000123-<pid>-<random>/    written and flushed file by file, the manifest last, then renamed to
    checkpoints/step-00000123/{tensors-00000.safetensors, ..., state.json, manifest.json}
    checkpoints/latest                           the name of the newest, for people; loading does not depend on it

A folder named `step-...` is a whole checkpoint or has been damaged since; its manifest holds size and SHA-256 of every
file, and loading takes the newest folder that agrees with its manifest.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError
from ..files import canonical_json, digest_of, free_bytes, readable_size, replace_synced, sha256_of, sync, write_synced
from .context import Context
from .faults import failpoint
from .heartbeat import heartbeat

SCHEMA = 1
SPARE = 1.2
"""Free space asked for, as a multiple of the bytes about to be written."""

Manifest = Mapping[str, Any]


class SaveFailed(InputError):
    """A checkpoint could not be written; the ones before it are untouched."""


class DiskFull(SaveFailed):
    """There is not enough room for a checkpoint."""


class Damaged(Exception):
    """Why a folder is not the checkpoint its manifest describes."""


@dataclass(frozen=True, slots=True)
class Rejected:
    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A verified checkpoint, and the newer ones that were passed over for it."""

    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    manifest: Manifest
    path: Path
    rejected: tuple[Rejected, ...] = ()


class CheckpointStore:
    """The checkpoints of one run. One process at a time writes and sweeps: the holder of the run's lock."""

    def __init__(self, folder: Path, keep: int = 2, shard_bytes: int = 1 << 30):
        if keep < 2:
            raise InputError(
                f"keep={keep} checkpoints is too few: the newest may be the one that a crash damages; keep 2."
            )
        self.folder, self.keep, self.shard_bytes = folder, keep, shard_bytes
        self._verdicts: dict[Path, bool] = {}

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        context: Context,
        protect: Collection[int] = (),
    ) -> Path:
        """Write the checkpoint of `step` and prune to the newest `keep` (and the steps in `protect`).

        `state` must be plain JSON, so that what is loaded equals what was saved. Raises `SaveFailed`, with the
        checkpoints before left as they were, when the disk is full or refuses.
        """
        state_bytes = canonical_json(dict(state))
        assert json.loads(state_bytes) == state, "the state is not plain JSON (a tuple, or a key that is no string?)"
        try:
            failpoint("checkpoint.start")
            self._require_space(step, sum(t.nbytes for t in tensors.values()) + len(state_bytes))
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".tmp-{step:08d}-{os.getpid()}-{secrets.token_hex(4)}"
            self._write(temporary, step, tensors, state_bytes, context)
            path = self._commit(temporary, step)
            self._prune(protect)
            failpoint("checkpoint.end")
        except BaseException as error:
            with contextlib.suppress(OSError):  # a disk that refuses to write may refuse to delete
                self.sweep()
            if isinstance(error, OSError | SafetensorError):
                raise self._failure(step, error) from error
            raise
        return path

    def newest_context(self) -> dict[str, Any] | None:
        """Under what the newest checkpoint that looks whole was made, before anything is read or written; None where
        there is none."""
        for path in self.paths():
            with contextlib.suppress(Damaged):
                return _read_manifest(path / "manifest.json")["context"]
        return None

    def require_room(self, num_bytes: int, *, saves: int, besides: int) -> None:
        """Raises `DiskFull` where `saves` checkpoints of so many bytes, of which `keep` stay and one more is written,
        and `besides` cannot be held. What is there already counts."""
        most = min(self.keep + 1, saves)
        there = sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())
        needed, free = int(SPARE * (num_bytes * most + besides)) - there, self._free_bytes()
        if free < needed:
            raise DiskFull(
                f"{self.folder.parent} needs {readable_size(needed)} for {most} checkpoints and the model, where "
                f"{readable_size(free)} are free; make room, or choose another out=."
            )

    def load_newest(self) -> Checkpoint | None:
        """The newest checkpoint that verifies, or None when the run never saved one.

        Where there are checkpoints and none verifies, this is an error: a run never starts afresh in silence.
        """
        self.sweep()
        rejected: list[Rejected] = []
        for path in self.paths():
            try:
                manifest = verify(path)
            except Damaged as damage:
                self._verdicts[path] = False
                rejected.append(Rejected(path, str(damage)))
            else:
                self._verdicts[path] = True
                return _load(path, manifest, tuple(rejected))
        if rejected:
            reasons = "".join(f"\n  {r}" for r in rejected)
            raise InputError(
                f"No checkpoint in {self.folder} can be used; restore one, or move the folder away:{reasons}"
            )
        if (self.folder / "latest").exists():
            name = (self.folder / "latest").read_text(errors="replace").strip()
            raise InputError(
                f"{self.folder}/latest names {name!r}, which is missing; restore it, or move the folder away."
            )
        return None

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of one step (the best one, say); if it is damaged, an error."""
        path = self.folder / f"step-{step:08d}"
        try:
            return _load(path, verify(path), ())
        except Damaged as damage:
            raise InputError(f"The checkpoint {path} cannot be used ({damage}); restore it.") from None

    def paths(self) -> list[Path]:
        """The folders named as checkpoints, newest first, whether they verify or not."""
        if not self.folder.is_dir():
            return []
        named = [path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(named, key=_step_of, reverse=True)

    def sweep(self) -> None:
        """Remove what an interrupted save left behind, and undo a replacement that it did not finish."""
        if not self.folder.is_dir():
            return
        for aside in self.folder.glob(".replaced-step-*"):
            original = self.folder / aside.name.removeprefix(".replaced-")
            if original.exists():
                _remove(aside)
            else:
                with contextlib.suppress(FileNotFoundError):  # another rank was quicker
                    os.rename(aside, original)
        for pattern in (".tmp-*", ".latest.*.tmp"):
            for leftover in self.folder.glob(pattern):
                _remove(leftover)

    def _require_space(self, step: int, num_bytes: int) -> None:
        needed, free = int(num_bytes * SPARE), self._free_bytes()
        if free < needed:
            raise DiskFull(
                f"The checkpoint of step {step} needs {needed} bytes ({readable_size(needed)}) in {self.folder}, where"
                f" {free} ({readable_size(free)}) are free; make room, or save less often or elsewhere."
            )

    def _free_bytes(self) -> int:
        return free_bytes(next(p for p in (self.folder, *self.folder.absolute().parents) if p.is_dir()))

    def _write(
        self, folder: Path, step: int, tensors: Mapping[str, Tensor], state_bytes: bytes, context: Context
    ) -> None:
        folder.mkdir()
        failpoint("checkpoint.after_folder")
        written: list[Path] = []
        for number, shard in enumerate(_shards(tensors, self.shard_bytes)):
            if number:
                failpoint("checkpoint.mid_tensors")
            written.append(folder / f"tensors-{number:05d}.safetensors")
            save_file(shard, written[-1])
            heartbeat("save", step)
        failpoint("checkpoint.after_tensors")
        written.append(folder / "state.json")
        written[-1].write_bytes(state_bytes)
        failpoint("checkpoint.after_state")
        for number, path in enumerate(written):
            if number:
                failpoint("checkpoint.mid_sync")
            sync(path)
            heartbeat("save", step)
        failpoint("checkpoint.before_manifest")
        write_synced(folder / "manifest.json", _manifest_bytes(step, context, written))
        failpoint("checkpoint.after_manifest")
        sync(folder)
        failpoint("checkpoint.before_rename")

    def _commit(self, temporary: Path, step: int) -> Path:
        path = self.folder / f"step-{step:08d}"
        aside = self.folder / f".replaced-{path.name}"
        if path.is_symlink() or path.exists():  # a damaged one, or the same step saved again
            _remove(aside)
            os.rename(path, aside)
            failpoint("checkpoint.after_set_aside")
        os.rename(temporary, path)
        failpoint("checkpoint.after_rename")
        sync(self.folder)
        _remove(aside)
        self._verdicts[path] = True
        failpoint("checkpoint.before_latest")
        replace_synced(self.folder / "latest", f"{path.name}\n".encode())
        failpoint("checkpoint.after_latest")
        return path

    def _prune(self, protect: Collection[int]) -> None:
        """Only checkpoints that verify count as kept. A doomed one loses its name first, so that a kill in the middle
        of deleting cannot leave something that looks like a damaged checkpoint."""
        kept = 0
        for path in self.paths():
            if kept < self.keep:
                kept += self._verifies(path)
            elif _step_of(path) not in protect:
                doomed = self.folder / f".tmp-pruned-{path.name}-{secrets.token_hex(4)}"
                os.rename(path, doomed)
                failpoint("checkpoint.mid_prune")
                _remove(doomed)
                self._verdicts.pop(path, None)

    def _verifies(self, path: Path) -> bool:
        """Whether the folder verified when this process wrote or last read it."""
        if path not in self._verdicts:
            try:
                verify(path)
                self._verdicts[path] = True
            except Damaged:
                self._verdicts[path] = False
        return self._verdicts[path]

    def _failure(self, step: int, error: OSError | SafetensorError) -> SaveFailed:
        before = next((f"; the newest is still {path}" for path in self.paths()), "")
        # safetensors writes through Rust, which names the system's error by its number
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        full = full or f"os error {errno.ENOSPC})" in str(error) or f"os error {errno.EDQUOT})" in str(error)
        if full:
            free = self._free_bytes()
            return DiskFull(
                f"The disk filled up while the checkpoint of step {step} was written to {self.folder}, where {free}"
                f" bytes ({readable_size(free)}) are free now{before}."
            )
        return SaveFailed(f"The checkpoint of step {step} could not be written to {self.folder} ({error}){before}.")


def verify(path: Path) -> Manifest:
    """The manifest of a checkpoint whose every file is as it was written; raises `Damaged`, naming what is not."""
    if path.is_symlink() or not path.is_dir():
        raise Damaged("is not a folder of its own")
    manifest = _read_manifest(path / "manifest.json")
    if manifest["step"] != _step_of(path):
        raise Damaged(f"manifest.json is of step {manifest['step']}")
    expected, found = set(manifest["files"]) | {"manifest.json"}, {entry.name for entry in path.iterdir()}
    if expected - found:
        raise Damaged(f"{', '.join(sorted(expected - found))} is missing")
    if found - expected:
        raise Damaged(f"{', '.join(sorted(found - expected))} does not belong to it")
    for name, wanted in manifest["files"].items():
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise Damaged(f"{name} is not a plain file")
        if (size := file.stat().st_size) != wanted["size"]:
            raise Damaged(f"{name} has {size} bytes, expected {wanted['size']}")
        if (digest := sha256_of(file)) != wanted["sha256"]:
            raise Damaged(f"{name} has SHA-256 {digest[:16]}..., expected {wanted['sha256'][:16]}...")
    return manifest


_NAME = re.compile(r"step-(\d{8,})")
_FILE = re.compile(r"state\.json|tensors-\d{5,}\.safetensors")


def _step_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    if not match:
        raise Damaged(f"{path.name!r} is not the name of a checkpoint")
    return int(match[1])


def _manifest_bytes(step: int, context: Context, files: list[Path]) -> bytes:
    described = {path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in files}
    manifest = {"schema": SCHEMA, "step": step, "context": context.as_json(), "files": described}
    return canonical_json({**manifest, "digest": digest_of(manifest)})


def _read_manifest(path: Path) -> Manifest:
    if path.is_symlink() or not path.is_file():
        raise Damaged("manifest.json is missing")
    try:
        written = path.read_bytes()
        manifest = json.loads(written)
        as_we_write_it = canonical_json(manifest)
        own_digest = manifest.pop("digest")
        assert isinstance(manifest["context"], dict) and isinstance(manifest["step"], int)
        assert all(file.keys() == {"size", "sha256"} for file in manifest["files"].values())
    except (ValueError, AttributeError, KeyError, TypeError, AssertionError):
        raise Damaged(f"manifest.json ({path.stat().st_size} bytes) is not a manifest") from None
    if written != as_we_write_it or digest_of(manifest) != own_digest:
        raise Damaged("manifest.json does not agree with its own digest")
    if manifest["schema"] != SCHEMA:
        raise Damaged(f"manifest.json has schema {manifest['schema']}, this version reads {SCHEMA}")
    for name in manifest["files"]:
        if not _FILE.fullmatch(name):
            raise Damaged(f"manifest.json lists {name!r}, which no checkpoint holds")
    return manifest


def _load(path: Path, manifest: Manifest, rejected: tuple[Rejected, ...]) -> Checkpoint:
    tensors: dict[str, Tensor] = {}
    for name in sorted(manifest["files"]):
        if name.endswith(".safetensors"):
            tensors |= load_file(path / name)
    state = json.loads((path / "state.json").read_bytes())
    return Checkpoint(manifest["step"], tensors, state, manifest, path, rejected)


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    """The tensors by name in pieces of at most `max_bytes` (a larger tensor is one by itself), each brought to the CPU
    in its turn: saving from a GPU takes no more host memory than that."""
    shard: dict[str, Tensor] = {}
    size = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if shard and size + tensor.nbytes > max_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.cpu().contiguous()
        size += tensor.nbytes
    if shard:
        yield shard


def _remove(path: Path) -> None:
    """Delete a folder, a file or a link, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
