"""`fresh=true`: a run makes way for another one in its folder, and comes back where that one never begins.

The old run waits in `.replaced/`. A run has begun when its `config.yaml` is written; until then whatever ends the
process, also a kill at any moment, leaves the old run there or brings it back at the next start.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import InputError

ASIDE = ".replaced"
REFUSED = ".replaced.back"
"""The same once the new run was refused, while what there is of that is deleted."""
MOVING = ".replaced.moving"
"""The same while its files are on their way, there or back: none of them is in two places."""


def set_aside(out: Path) -> None:
    """Take a run out of the way, and nothing that is not one."""
    held = [path for path in out.iterdir() if path.name != ".lock"]
    if held and not (out / "config.yaml").exists():
        raise InputError(f"{out} is not a run folder (it has no config.yaml); fresh=true deletes run folders only.")
    (out / MOVING).mkdir()
    for path in held:
        path.rename(out / MOVING / path.name)
    (out / MOVING).rename(out / ASIDE)


def forget(out: Path) -> None:
    """The new run has begun."""
    shutil.rmtree(out / ASIDE, ignore_errors=True)


def put_back(out: Path) -> None:
    """The new run was refused: what there is of it goes, and the old one stands where it stood."""
    if (out / ASIDE).is_dir():
        (out / ASIDE).rename(out / REFUSED)
    if (out / REFUSED).is_dir():
        for path in out.iterdir():
            if path.name not in (".lock", REFUSED):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (out / REFUSED).rename(out / MOVING)
    if (out / MOVING).is_dir():
        for path in (out / MOVING).iterdir():
            path.rename(out / path.name)
        (out / MOVING).rmdir()


def recover(out: Path) -> None:
    """Tidy up after a process that was killed in the middle."""
    if (out / ASIDE).is_dir() and (out / "config.yaml").exists():
        forget(out)
    else:
        put_back(out)
