"""Code of one's own, by its name: `package.module:Class`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

from .errors import InputError, did_you_mean


def listed_or_named(what: str, name: str, listed: Mapping[str, Any]) -> Any:
    """What `listed` has under the name, or else `package.module:name`."""
    if name in listed:
        return listed[name]
    if ":" not in name:
        article = "an" if what[0] in "aeiou" else "a"
        known = f"{did_you_mean(name, listed)} Known are {', '.join(listed)}."
        raise InputError(f"{name!r} is not {article} {what}.{known}")
    return named_object(what, name)


def named_object(what: str, path: str) -> Any:
    """What `package.module:name` names, also in the current folder. `what` it is to be begins the errors."""
    module_name, _, name = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{what} {path!r}: no module named {error.name!r} can be found from here.") from error
    found = getattr(module, name, None)
    if found is None:
        raise InputError(f"{what} {path!r}: {module_name} has no {name!r}.{did_you_mean(name, vars(module))}")
    return found
