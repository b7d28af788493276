"""Code of one's own, by its name: `package.module:Class`."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from .errors import InputError, did_you_mean


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
