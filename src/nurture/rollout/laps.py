"""Where the time of a rollout goes: sampling, rewarding, scoring by the roles, training."""

from __future__ import annotations

import time
from collections.abc import Callable


class Laps:
    """Seconds by what they went into: `lap(name)` books the time since the last lap, or since `begin` or `go_on`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self.begin()

    def begin(self) -> None:
        """Forget everything: a rollout begins."""
        self.seconds: dict[str, float] = {}
        self.go_on()

    def go_on(self) -> None:
        """What lies between the last lap and now is nobody's."""
        self._last = self._clock()

    def lap(self, name: str) -> None:
        now = self._clock()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now

    def __str__(self) -> str:
        return ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.seconds.items()) + " s"
