"""peft is told of the bottleneck adapter as soon as both it and Nurture are imported, in whatever order.

peft takes seconds to import, so `import nurture` must not do it; and it has no place where a package could announce a
method (`register_peft_method` refuses names that are not in its `PeftType`). What is left is to wait for its import.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Follow(MetaPathFinder, Loader):
    """Finds peft as it would be found anyway, and has our tables entered behind it."""

    def __init__(self, loader: Loader | None = None):
        self.loader = loader

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path) if fullname == "peft" else None
        if spec is not None and spec.loader is not None:
            spec.loader = _Follow(spec.loader)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        assert self.loader is not None
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert self.loader is not None and module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _enter()


def _enter() -> None:
    import_module("nurture.adapters.peft_compat")


def follow() -> None:
    if "peft" in sys.modules:
        _enter()
    else:
        sys.meta_path.insert(0, _Follow())
