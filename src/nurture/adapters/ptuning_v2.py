"""P-tuning v2: deep prompts, learnt directly."""

from __future__ import annotations

from typing import ClassVar, Literal

from .adapter import Flag
from .prefix import Prefix


class PTuningV2(Prefix):
    """P-tuning v2, deep prompt tuning. Liu et al. 2022, arXiv:2110.07602, section 3.

        attention(q, [K_l; K], [V_l; V])        K_l, V_l: n learnt keys and values of every layer l

    Prefix tuning whose prompts are usually parameters themselves; whether a network in front of them helps depends on
    the task (section 3.3), so it is a choice.
    """

    name: Literal["ptuning_v2"] = "ptuning_v2"  # pyright: ignore[reportIncompatibleVariableOverride]
    prefix_projection: Flag = False
    """Whether the prompts come out of a network (the re-parameterisation)."""

    faster: ClassVar = 250.0
    fastest: ClassVar = 5e-3
