"""Tokenised data kept between runs, in files named by a digest of everything the tokens depend on.

That is the records, the chat template, the tokenizer, the wishes of the recipe, the code that makes tokens of them and
the versions of the libraries it uses. Whatever changes, the name changes, so nothing kept can be stale. A file begins
with the digest of its content; one that is damaged is as good as none. Files are written beside their place and moved
into it, so runs at the same time do not meet; those unused for longest go when all together become too large.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import fields, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from ..records import Record
from ..types import Group, Response
from .prepared import COUNTS, Prepared, Wishes

if TYPE_CHECKING:
    from .template import Template

LIMIT = 4 << 30
"""Bytes that all files together may have."""

BYTES_PER_TOKEN = 5
"""Its id, and whether it is trained."""

SUFFIX = ".tokens"
PACKAGE = Path(__file__).parents[1]
CODE = ("data", "core", "errors.py", "files.py", "records.py", "types.py")
"""The parts of the package in which tokens are made, folders as a whole."""
LIBRARIES = ("jinja2", "numpy", "tokenizers", "transformers")
PATHS = ("name_or_path", "vocab_file", "tokenizer_file", "is_local", "local_files_only")
"""Settings of a tokenizer that say where it lies and not what it does."""


def cache_folder(name: str) -> Path | None:
    """A folder in `$NURTURE_CACHE`, by default in `~/.cache/nurture`. None, where that is set to nothing."""
    chosen = os.environ.get("NURTURE_CACHE")
    if chosen is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
        chosen = Path(home, "nurture")
    return Path(chosen, name).expanduser() if str(chosen) else None


def through(
    folder: Path, records: Sequence[Record], template: Template, wishes: Wishes, make: Callable[[], Prepared]
) -> Prepared:
    """What was kept of the same, else what is made now, which is then kept."""
    path = folder / f"{key_of(records, template, wishes)}{SUFFIX}"
    kept = _read(path)
    if kept is not None:
        return replace(kept, cached=f"tokens from an earlier run: {path}")
    made = make()
    try:
        _write(path, made)
    except OSError as error:
        return replace(made, cached=f"the tokens could not be kept in {folder}: {error.strerror}")
    return made


# ---- the name ----


def key_of(records: Iterable[Record], template: Template, wishes: Wishes) -> str:
    digest = hashlib.sha256()
    for part in (repr(wishes), template.source, tokenizer_digest(template), code_digest()):
        digest.update(f"{len(part)}\n{part}\n".encode())
    for record in records:
        digest.update(f"{record!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:40]


def tokenizer_digest(template: Template) -> str:
    tokenizer: Any = template.tokenizer
    settings = {name: value for name, value in tokenizer.init_kwargs.items() if name not in PATHS}
    parts = (
        type(tokenizer).__qualname__,
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.special_tokens_map,
        tokenizer.chat_control_tokens,
        sorted(settings.items()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@cache
def code_digest() -> str:
    """Of the code that makes tokens, ours and the libraries'."""
    digest = hashlib.sha256(repr([(name, version(name)) for name in LIBRARIES]).encode())
    for path in code_files():
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def code_files() -> list[Path]:
    parts = (PACKAGE / name for name in CODE)
    return sorted(file for part in parts for file in ([part] if part.is_file() else part.rglob("*.py")))


# ---- the file ----

SAID = tuple(f.name for f in fields(Response) if f.name not in ("ids", "mask"))


def pack(prepared: Prepared) -> bytes:
    from safetensors.numpy import save

    responses = [r for g in prepared.groups for r in g.responses]
    said = {str(i): found for i, response in enumerate(responses) if (found := _said(response))}
    facts = {
        "counts": {name: getattr(prepared, name) for name in COUNTS},
        "rejected": [(fault.where, fault.code, fault.message) for fault in prepared.rejected],
        "keys": [group.key for group in prepared.groups],
        "margins": {str(i): group.margin for i, group in enumerate(prepared.groups) if group.margin},
        "said": said,
    }
    parts = [ids for g in prepared.groups for ids in (g.prompt, *(r.ids for r in g.responses))]
    tensors = {
        "ids": np.concatenate(parts).astype(np.int32),
        "masks": np.concatenate([r.mask for r in responses]),
        "lengths": np.array([len(ids) for ids in parts], np.int64),
        "responses": np.array([len(g.responses) for g in prepared.groups], np.int64),
        "facts": np.frombuffer(json.dumps(facts).encode(), np.uint8),
    }
    content = save(tensors)
    return hashlib.sha256(content).digest() + content


def unpack(data: bytes) -> Prepared | None:
    """None for a damaged file."""
    from safetensors.numpy import load

    digest, content = data[:32], data[32:]
    if hashlib.sha256(content).digest() != digest:
        return None
    tensors = load(content)
    facts = json.loads(tensors["facts"].tobytes())
    ids, masks = tensors["ids"].astype(np.int64), tensors["masks"]
    parts = iter(np.split(ids, np.cumsum(tensors["lengths"])[:-1]))
    groups: list[Group] = []
    at = number = 0
    for i, (key, count) in enumerate(zip(facts["keys"], tensors["responses"].tolist(), strict=True)):
        prompt, responses = next(parts), list[Response]()
        for _ in range(count):
            own = next(parts)
            said = facts["said"].get(str(number), {})
            told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in said.items()}
            responses.append(Response(own, masks[at : at + len(own)], **told))
            at, number = at + len(own), number + 1
        groups.append(Group(prompt, tuple(responses), key, facts["margins"].get(str(i), 0.0)))
    rejected = tuple(DataError(*fault) for fault in facts["rejected"])
    return Prepared(groups, rejected=rejected, **facts["counts"])


def _said(response: Response) -> dict[str, Any]:
    """What is known of an answer besides its tokens, where that is anything."""
    found = {name: getattr(response, name) for name in SAID}
    assert not any(isinstance(value, np.ndarray) for value in found.values()), "people's answers have no rollout"
    return {name: value for name, value in found.items() if value is not None and value is not False and value != ()}


def _read(path: Path) -> Prepared | None:
    try:
        prepared = unpack(path.read_bytes())
        os.utime(path)  # it was of use
    except OSError:
        return None
    return prepared


def _write(path: Path, prepared: Prepared) -> None:
    if BYTES_PER_TOKEN * prepared.tokens > LIMIT or len(data := pack(prepared)) > LIMIT:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # it holds what the data say
    descriptor, draft = tempfile.mkstemp(".draft", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    prune(path.parent)


def prune(folder: Path) -> None:
    """Remove what was of use longest ago, until the rest is within the limit. (Another run may be doing the same.)"""
    found: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            stat = path.stat()
            found.append((stat.st_mtime, stat.st_size, path))
    room = LIMIT
    for _, size, path in sorted(found, reverse=True):
        room -= size
        if room < 0:
            path.unlink(missing_ok=True)
