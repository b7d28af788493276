"""OASST's message trees: every thread is a conversation, every set of ranked siblings a ranking."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...records import Conversation, Message, Ranking
from .format import Fault, Format, Row, answer, kind_of
from .turns import conversation

Thread = tuple[Message, ...]


def oasst(row: Row, origin: str) -> list[Conversation]:
    """Every way from the root to the last answer of a branch."""
    found = [conversation(thread, origin) for thread in _threads(_root(row), ())]
    if not found:
        raise Fault("NO_ASSISTANT", "has no answer that may be used, so there is nothing to learn; remove the row.")
    return found


def oasst_ranking(row: Row, origin: str) -> list[Ranking]:
    """Answers to one message that were ranked (0 is the best in the file, 1 in ours)."""
    found = list(_rankings(_root(row), (), origin))
    if not found:
        raise Fault("TOO_FEW", "has no message with two ranked answers, so nothing is preferred; remove the row.")
    return found


def _root(row: Row) -> dict[str, Any]:
    state = row.get("tree_state")
    if state not in (None, "ready_for_export"):
        raise Fault("NOT_READY", f"'tree_state' is {state!r}; only trees ready_for_export were reviewed to the end.")
    root = row["prompt"]
    if not isinstance(root, dict) or "text" not in root:
        raise Fault("WRONG_TYPE", f"'prompt' must be a message with text and replies, found {kind_of(root)}.")
    if not _usable(root):
        raise Fault("NOT_READY", "its first message was deleted or not approved.")
    return root


def _usable(node: dict[str, Any]) -> bool:
    return not node.get("deleted") and node.get("review_result") is not False


def _replies(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [reply for reply in node.get("replies") or [] if _usable(reply)]


def _message(node: dict[str, Any]) -> Message:
    role = {"prompter": "user", "assistant": "assistant"}.get(node.get("role") or "")
    if role is None:
        raise Fault("UNKNOWN_ROLE", f"a message has the role {node.get('role')!r}; roles are prompter and assistant.")
    return Message(role, answer(node.get("text"), "text"))


def _threads(node: dict[str, Any], before: Thread) -> Iterator[Thread]:
    """Threads below a node; a user's last word without an answer is not part of one."""
    thread = (*before, _message(node))
    below = [longer for reply in _replies(node) for longer in _threads(reply, thread)]
    if below:
        yield from below
    elif thread[-1].role == "assistant":
        yield thread


def _rankings(node: dict[str, Any], before: Thread, origin: str) -> Iterator[Ranking]:
    thread = (*before, _message(node))
    replies = _replies(node)
    ranked = [reply for reply in replies if reply.get("rank") is not None and reply.get("role") == "assistant"]
    if len(ranked) > 1:
        ranks = tuple(int(reply["rank"]) + 1 for reply in ranked)
        yield Ranking(thread, tuple((_message(reply),) for reply in ranked), ranks, origin)
    for reply in replies:
        yield from _rankings(reply, thread, origin)


def _left_out(row: Row) -> Iterator[str]:
    """Messages that were deleted or not approved, and user messages nobody answered."""

    def walk(node: dict[str, Any]) -> Iterator[str]:
        for reply in node.get("replies") or []:
            if not _usable(reply):
                yield "replies deleted or not approved"
            elif reply.get("role") == "prompter" and not _replies(reply):
                yield "questions without an answer"
            yield from walk(reply)

    yield from walk(row["prompt"])


FORMATS = (
    Format("oasst", "conversation", ("message_tree_id", "prompt"), ("tree_state", "origin"), oasst, unread=_left_out),
    Format("oasst_ranking", "ranking", ("message_tree_id", "prompt"), ("tree_state", "origin"), oasst_ranking),
)
