"""A chat template comes from strangers and may compute for ever. It is tried first, in a process that can be killed.

Run by its path in a Python of its own, which imports nothing of ours and little else, so that a trial takes a fifth of
a second: JSON on the standard input (`template`, `messages`, `special`), nothing on the output. The rendering may fail;
only time and memory are tried, and who renders in earnest tells what is wrong with the template.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

SECONDS, MEGABYTES = 2, 256
"""Processor time and memory that one rendering may take."""
PATIENCE = 60
"""Seconds after which even a process that is given no processor has had its time."""
OUT_OF_MEMORY = 70


@lru_cache(maxsize=256)
def takes_too_much(template: str, messages: str, special: str) -> str:
    """What a template takes too much of (empty: of nothing); `messages` and `special` are JSON."""
    told = json.dumps({"template": template, "messages": json.loads(messages), "special": json.loads(special)})
    try:
        ended = subprocess.run(
            [sys.executable, "-I", str(Path(__file__))], input=told.encode(), capture_output=True, timeout=PATIENCE
        ).returncode
    except subprocess.TimeoutExpired:
        ended = -1
    if ended == OUT_OF_MEMORY:
        return f"more than {MEGABYTES} MB"
    return f"more than {SECONDS} seconds" if ended < 0 else ""


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEGABYTES << 20, MEGABYTES << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _render(told: dict[str, Any]) -> None:
    import re

    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = json.dumps
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: form}
    template = re.sub(r"\{%[-+]?\s*(end)?generation\s*[-+]?%\}", "", told["template"])  # marks, which compute nothing
    environment.from_string(template).render(messages=told["messages"], add_generation_prompt=True, **told["special"])


if __name__ == "__main__":
    told = json.load(sys.stdin)
    _bound()
    try:
        _render(told)
    except MemoryError:
        sys.exit(OUT_OF_MEMORY)
    except Exception:
        sys.exit(0)
