"""Who answers in a conversation: a model, and adapters that take turns on its base."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedModel

from ..adapters.adapter import ROLE
from ..adapters.attached import activate
from ..data.template import Template
from ..models.load import LoadedModel, join, resolve_model
from .answers import open_to_talk


class Voice(NamedTuple):
    """A model in memory, the adapter with which it speaks, and how its turns are written."""

    loaded: LoadedModel
    adapter: str
    template: Template


@dataclass
class Speaker:
    """The model that answers. `switch` names another: an adapter of the same kind on the base that is in memory joins
    it there and stays for later; anything else is loaded in its place."""

    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    _held: dict[Path | str, Voice] = field(default_factory=dict[Path | str, Voice])
    """By source; all share one base."""
    _now: Path | str = ""

    @property
    def model(self) -> PreTrainedModel:
        return self._held[self._now].loaded.model

    @property
    def template(self) -> Template:
        return self._held[self._now].template

    def switch(self, name: str) -> None:
        source = resolve_model(name, {})
        source = source.resolve() if isinstance(source, Path) else source
        if source not in self._held:
            joined = self._join(source)
            self._held = {source: self._open(name)} if joined is None else self._held | {source: joined}
        self._now = source
        voice = self._held[source]
        if voice.loaded.adapter is not None and voice.loaded.adapter.peft_type:
            activate(voice.loaded.model, voice.adapter)

    def _open(self, name: str) -> Voice:
        loaded, template = open_to_talk(name, device=self.device, precision=self.precision, seed=self.seed)
        return Voice(loaded, ROLE, template)

    def _join(self, source: Path | str) -> Voice | None:
        if not self._held or isinstance(source, str):
            return None
        name = f"voice{len(self._held)}"
        joined = join(self._held[self._now].loaded, source, name, judges=False)
        return None if joined is None else Voice(joined, name, Template(joined.tokenizer))
