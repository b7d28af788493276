"""From text to token ids with the place of every token in the text. The one file that calls the tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..types import Ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offsets = NDArray[np.int64]
"""`[n, 2]` the characters [start, stop) each token stands for."""

CHUNK = 1024
"""Texts handed to the tokenizer at once; it uses all cores within a chunk."""

MARK_OPEN, MARK_CLOSE = "\U000f0000", "\U000f0001"
"""The private characters that transformers' `mark_control_tokens` puts around control tokens written by a user."""

_MARKED = re.compile(f"{MARK_OPEN}([^{MARK_OPEN}{MARK_CLOSE}]*){MARK_CLOSE}|[{MARK_OPEN}{MARK_CLOSE}]")


def tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, with_bos: bool = False
) -> Iterator[tuple[Ids, Offsets]]:
    """Ids and offsets of each text. `with_bos` adds what the tokenizer puts around a document of its own accord."""
    for start in range(0, len(texts), CHUNK):
        encoded = tokenizer(
            list(texts[start : start + CHUNK]),
            add_special_tokens=with_bos,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        for ids, offsets in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
            yield np.asarray(ids, np.int64), np.asarray(offsets, np.int64).reshape(-1, 2)


def tokenize_inner(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[tuple[Ids, Offsets]]:
    """As `tokenize`, for texts that something precedes: SentencePiece tokenizers put a space before whatever begins a
    string, so each is tokenised behind a line break, which is then taken off again."""
    newline = next(tokenize(tokenizer, ["\n"]))[0]
    k = len(newline)
    behind = tokenize(tokenizer, ["\n" + text for text in texts])
    for text, (ids, offsets) in zip(texts, behind, strict=True):
        if np.array_equal(ids[:k], newline):
            yield ids[k:], np.maximum(offsets[k:] - 1, 0)
        else:  # the line break melted into the text's first token
            yield next(tokenize(tokenizer, [text]))


def tokenize_marked(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[Ids, Offsets]:
    """Ids and offsets (in the marked text) of a chat in which control tokens that a user wrote are marked: they are
    spelled out as ordinary text. The same ids as transformers' `sanitize_control_tokens`, which keeps no offsets."""
    from transformers.utils.chat_template_utils import encode_marked_chat

    ids, offsets = list[Ids](), list[Offsets]()
    at = 0

    def plain(stop: int) -> None:
        if at == 0 or stop > at:
            encode = tokenize if at == 0 else tokenize_inner
            piece, places = next(encode(tokenizer, [text[at:stop]]))
            ids.append(piece)
            offsets.append(places + at)

    for marked in _MARKED.finditer(text):
        plain(marked.start())
        at = marked.end()
        if marked[1]:
            try:
                piece = encode_marked_chat(tokenizer, marked[0])
            except ValueError:
                message = f"The tokenizer cannot spell its control token {marked[1]!r} as text, and a message holds it."
                raise InputError(message) from None
            ids.append(np.asarray(piece, np.int64))
            offsets.append(np.tile(np.asarray([marked.span()], np.int64), (len(piece), 1)))
    plain(len(text))
    return np.concatenate(ids), np.concatenate(offsets)


def within(offsets: Offsets, start: int, stop: int) -> NDArray[np.bool_]:
    """Tokens that stand for any character of [start, stop). One that straddles the start counts: it carries the first
    characters of what follows."""
    first = offsets[:, 0]
    return (np.maximum(offsets[:, 1], first + 1) > start) & (first < stop)
