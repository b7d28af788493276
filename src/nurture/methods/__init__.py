"""One method, one page. The table below is the registry: YAML, command line, JSON schema and forms come from it."""

from .lm import LM
from .method import Method
from .sft import SFT

METHODS: dict[str, type[Method]] = {"lm": LM, "sft": SFT}

__all__ = ["LM", "METHODS", "SFT", "Method"]
