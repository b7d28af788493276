"""Conversations out of dumps of dialogues: cleaned, in threads, and cut to a length without losing a pair.

Rows are plain dictionaries, as the reader gives them. Every row goes somewhere: `Cleaned` counts what became of it.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..records import Conversation, Message

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
         "bard": "assistant", "assistant": "assistant", "model": "assistant", "system": "system",
         "prompter": "user"}  # fmt: skip
"""Who speaks, under the names that dumps use."""

BLOCKED = ("openai's content policy", "regenerate response", "network error", "too many requests",
           "message in conversation", "model: default (gpt-3.5)")  # fmt: skip
"""Words of the web page a dialogue was copied from."""

SHORTEST = 16
"""Characters of a whole dialogue below which it says nothing."""


@dataclass(frozen=True)
class Cleaned:
    """`rows = len(conversations) + the sum of dropped`."""

    conversations: list[Conversation]
    rows: int
    dropped: Mapping[str, int]
    mended: Mapping[str, int]
    """Rows that were kept after a repair, by repair."""

    def __post_init__(self):
        assert self.rows == len(self.conversations) + sum(self.dropped.values()), "every row is kept or dropped"


def clean_sharegpt(rows: Iterable[tuple[str, Mapping[str, Any]]], blocked: Sequence[str] = BLOCKED) -> Cleaned:
    """ShareGPT rows (`conversations` of `from` and `value`, with an optional `id` and `system`), each with its origin.

    HTML becomes Markdown. Turns before the first of a person and after the last answer are cut. What is left must
    alternate, say at least 16 characters, hold no blocked words, and be new: by its id, and by its first two turns.
    """
    kept: list[Conversation] = []
    dropped, mended = Counter[str](), Counter[str]()
    ids, openings = set[str](), set[tuple[str, ...]]()
    total = 0
    for origin, row in rows:
        total += 1
        result = _clean(origin, row, blocked)
        if isinstance(result, str):
            dropped[result] += 1
            continue
        conversation, repairs = result
        identity = str(row.get("id") or "")
        spoken = [m.content for m in conversation.messages if m.role != "system"]
        if (identity and identity in ids) or tuple(spoken[:2]) in openings:
            dropped["repeats an earlier one"] += 1
            continue
        ids.add(identity)
        openings.add(tuple(spoken[:2]))
        mended.update(repairs)
        kept.append(conversation)
    return Cleaned(kept, total, dict(dropped), dict(mended))


def _clean(origin: str, row: Mapping[str, Any], blocked: Sequence[str]) -> tuple[Conversation, list[str]] | str:
    turns = row.get("conversations")
    if not isinstance(turns, list):
        return "has no conversations"
    if row.get("tools"):
        return "has tools"  # what is said to them is no dialogue of two
    messages: list[Message] = []
    repairs: list[str] = []
    for turn in turns:
        role = ROLES.get(str(turn.get("from", turn.get("role"))).lower()) if isinstance(turn, Mapping) else None
        text = turn.get("value", turn.get("content")) if isinstance(turn, Mapping) else None
        if role is None or not isinstance(text, str):
            return "a turn without a known speaker or text"
        plain = to_markdown(text) if looks_like_html(text) else text
        repairs += ["HTML to Markdown"] if plain != text else []
        messages.append(Message(role, plain.strip()))
    system = [m for m in messages[:1] if m.role == "system"]
    spoken = messages[len(system) :]
    if beside := str(row.get("system") or "").strip():
        if system:
            return "two system messages"
        system = [Message("system", beside)]
    while spoken and spoken[0].role != "user":
        spoken, repairs = spoken[1:], [*repairs, "cut what precedes the first question"]
    while spoken and spoken[-1].role != "assistant":
        spoken, repairs = spoken[:-1], [*repairs, "cut what follows the last answer"]
    if not spoken:
        return "no question with an answer"
    if any(m.role != ("user", "assistant")[i % 2] for i, m in enumerate(spoken)):
        return "does not alternate"
    if any(not m.content for m in spoken):
        return "an empty turn"
    whole = "\n".join(m.content for m in spoken)
    if len(whole) < SHORTEST:
        return f"shorter than {SHORTEST} characters"
    if any(word in whole.lower() for word in blocked):
        return "blocked words"
    return Conversation(tuple(system + spoken), origin=origin), list(dict.fromkeys(repairs))


_TAG = re.compile(
    r"</?(?:p|div|span|br|li|ul|ol|pre|code|strong|em|b|i|a|h[1-6]|table|tbody|thead|tr|td|th)\b[^>]*>", re.I
)
_PRE = re.compile(r"<pre\b[^>]*>(.*?)</pre>", re.S | re.I)
_RULES: tuple[tuple[str, str], ...] = (
    (r"<code\b[^>]*>(.*?)</code>", r"`\1`"),
    (r"<(?:strong|b)\b[^>]*>(.*?)</(?:strong|b)>", r"**\1**"),
    (r"<(?:em|i)\b[^>]*>(.*?)</(?:em|i)>", r"*\1*"),
    (r'<a\b[^>]*href="([^"]*)"[^>]*>(.*?)</a>', r"[\2](\1)"),
    (r"<h([1-6])\b[^>]*>(.*?)</h\1>", r"\n\n# \2\n\n"),
    (r"<li\b[^>]*>(.*?)</li>", r"\n- \1"),
    (r"<br\s*/?>", r"\n"),
    (r"<t[dh]\b[^>]*>(.*?)</t[dh]>", r"\1 | "),
    (r"</(?:p|div|ul|ol|tr|table)>", r"\n\n"),
)


def looks_like_html(text: str) -> bool:
    """Whether tags stand outside Markdown's code: at least an opening and a closing one of the same name."""
    outside = re.sub(r"```.*?(?:```|\Z)|`[^`\n]*`", "", text, flags=re.S)
    return (
        re.search(r"<(p|div|span|li|ul|ol|pre|code|strong|em|h[1-6]|table)\b[^>]*>.*?</\1>", outside, re.S | re.I)
        is not None
    )


def to_markdown(text: str) -> str:
    """The text of a chat page's HTML: code blocks, lists, emphasis and links as Markdown, all other tags gone."""
    blocks: list[str] = []

    def block(found: re.Match[str]) -> str:
        language = re.search(r'class="[^"]*language-([\w+#-]+)', found[0])
        code = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r".*?<code\b[^>]*>", "", found[1], count=1, flags=re.S)))
        blocks.append(f"```{language[1] if language else ''}\n{code.strip(chr(10))}\n```")
        return f"\n\n\ue000{len(blocks) - 1}\ue001\n\n"

    text = _PRE.sub(block, text)
    for pattern, becomes in _RULES:
        text = re.sub(pattern, becomes, text, flags=re.S | re.I)
    text = html.unescape(_TAG.sub("", text))
    text = re.sub(r"[ \t]+\n", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    return re.sub("\ue000(\\d+)\ue001", lambda found: blocks[int(found[1])], text)


# ---- long ones ----


def rounds(messages: Sequence[Message]) -> list[tuple[Message, ...]]:
    """A user's turn with all that follows it up to the next user's turn. (What precedes the first one, a system message
    apart, belongs to the first round.)"""
    out: list[list[Message]] = []
    for message in messages:
        if out and (message.role != "user" or all(m.role != "user" for m in out[-1])):
            out[-1].append(message)
        else:
            out.append([message])
    return [tuple(some) for some in out]


def split_long(
    conversation: Conversation, longest: int, length: Callable[[Sequence[Message]], int]
) -> list[Conversation]:
    """Pieces of at most `longest` by `length`, cut before a user's turn: every round is in exactly one piece, in order,
    and each piece has the system message. A round that is longer by itself is a piece of its own, for the policy on
    long rows to judge; nothing is dropped here."""
    system = (
        conversation.messages[:1] if conversation.messages[:1] and conversation.messages[0].role == "system" else ()
    )
    pieces: list[tuple[Message, ...]] = []
    for some in rounds(conversation.messages[len(system) :]):
        if pieces and length((*system, *pieces[-1], *some)) <= longest:
            pieces[-1] += some
        else:
            pieces.append(some)
    if len(pieces) <= 1:
        return [conversation]
    return [
        replace(conversation, messages=(*system, *piece), origin=f"{conversation.origin}#{i}")
        for i, piece in enumerate(pieces)
    ]


# ---- trees ----


def threads(tree: Mapping[str, Any], origin: str = "", *, best_only: bool = False) -> list[Conversation]:
    """The paths of an OpenAssistant tree from its root to the last answer. With `best_only`, of sibling answers only
    the one of the best rank (0 is best; an unranked answer comes last; of equals the first).

    Deleted messages, those that failed review and questions without an answer are left out with all below them; a tree
    that was never finished has no threads.
    """
    if tree.get("tree_state", "ready_for_export") != "ready_for_export" or not _usable(tree["prompt"]):
        return []
    paths = _paths(tree["prompt"], best_only)
    return [Conversation(path, origin=f"{origin}#{i}" if len(paths) > 1 else origin) for i, path in enumerate(paths)]


def _paths(node: Mapping[str, Any], best_only: bool) -> list[tuple[Message, ...]]:
    own = Message(ROLES[node["role"]], node["text"])
    replies = [reply for reply in node.get("replies") or () if _usable(reply)]
    if best_only and own.role == "user" and replies:
        replies = [min(replies, key=lambda reply: (reply.get("rank") is None, reply.get("rank") or 0))]
    longer = [(own, *path) for reply in replies for path in _paths(reply, best_only)]
    return longer or ([(own,)] if own.role == "assistant" else [])


def _usable(node: Mapping[str, Any]) -> bool:
    return not node.get("deleted") and node.get("review_result") is not False
