"""Code of one's own, by its name: `package.module:Class`, or `folder/file.py:Class`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import InputError, did_you_mean


def listed_or_named(what: str, name: str, listed: Mapping[str, Any]) -> Any:
    """What `listed` has under the name, or else `package.module:name` or `file.py:name`."""
    if name in listed:
        return listed[name]
    if ":" not in name:
        article = "an" if what[0] in "aeiou" else "a"
        known = f"{did_you_mean(name, listed)} Known are {', '.join(listed)}."
        raise InputError(f"{name!r} is not {article} {what}.{known}")
    return named_object(what, name)


def named_object(what: str, path: str) -> Any:
    """What `package.module:name` names, also in the current folder, or `folder/file.py:name`. `what` it is to be
    begins the errors."""
    place, _, name = path.rpartition(":")
    in_a_file = place.endswith(".py")
    if in_a_file and not Path(place).is_file():
        raise InputError(f"{what} {path!r}: there is no file {place}.")
    try:
        module = _from_file(place) if in_a_file else _imported(place)
    except ModuleNotFoundError as error:
        raise InputError(f"{what} {path!r}: no module named {error.name!r} can be found from here.") from error
    except Exception as error:  # the code of others
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, SyntaxError) else f" ({last.filename}:{last.lineno})"
        raise InputError(
            f"{what} {path!r}: {place} cannot be imported: {type(error).__name__}: {error}{where}"
        ) from error
    found = getattr(module, name, None)
    if found is None:
        raise InputError(f"{what} {path!r}: {place} has no {name!r}.{did_you_mean(name, vars(module))}")
    return found


def _imported(name: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return importlib.import_module(name)


def _from_file(place: str) -> ModuleType:
    """The file as a module whose name is the place as it was given first, so that `MODULE:NAME` of what is in it reads
    back. What lies beside it can be imported."""
    file = str(Path(place).resolve())
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get("__file__") == file:
            return module
    if (folder := os.path.dirname(file)) not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(place, file)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = sys.modules[place] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[place]
        raise
    return module
