"""What can end a command, and the exit code it ends with. One sentence: what, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class NurtureError(Exception):
    """Ends the command with one clear sentence and no traceback."""

    exit_code = 2


class InputError(NurtureError):
    """A file, a model folder or a recipe is not what it must be."""


class DataError(InputError):
    """A row that cannot be used. `where` is `file:line` or `file:line:column`, `code` names the rule in capitals."""

    def __init__(self, where: str, code: str, message: str):
        super().__init__(f"{where} {code} {message}")
        self.where, self.code, self.message = where, code, message


class NumericsError(NurtureError):
    """Losses or gradients stopped being numbers."""

    exit_code = 3


class Alarmed(NurtureError):
    """An alarm that was to end the run went off; a checkpoint was written."""

    exit_code = 3


class WorkerLost(NurtureError):
    """A process of the run died or hangs."""

    exit_code = 4


class RewardLost(NurtureError):
    """Too many rewards could not be computed; what was learnt from the others would not be what was asked for."""

    exit_code = 4


class Interrupted(NurtureError):
    """A signal asked the run to stop; a checkpoint was written."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'learning_rate'?"`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
