"""Nurture turns a pretrained language model into an aligned assistant.

As data you pass  records -> Group -> Batch -> Scores -> Loss -> Step.  See docs/architecture.md for the rooms.
"""

from . import with_peft

__version__ = "0.1.0"

with_peft.follow()
