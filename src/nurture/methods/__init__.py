"""One method, one page. The union below is the registry: YAML, command line, JSON schema and forms come from it."""

from typing import Annotated

from pydantic import Field

from .lm import LM
from .method import Method
from .sft import SFT

METHODS: dict[str, type[Method]] = {"lm": LM, "sft": SFT}

AnyMethod = Annotated[LM | SFT, Field(discriminator="name")]

__all__ = ["LM", "METHODS", "SFT", "AnyMethod", "Method"]
