"""The chat template: conversations to token ids, and which of them are the assistant's own.

The ids are those of transformers' `apply_chat_template(..., sanitize_control_tokens=True)`, rendered in its immutable
sandbox. The mask is found in the rendered text and carried over to the tokens by their offsets: between the template's
`{% generation %}` markers where it has them, else between the rendering up to a turn (with the generation prompt, so
exactly what the sampler will be given) and the rendering with it. The stop token that ends a turn is trained with it;
white space behind it is not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from ..errors import DataError, InputError
from ..records import Conversation, Message
from ..types import Group, Ids, Response
from .formats.turns import as_turn
from .tokens import MARK_CLOSE, MARK_OPEN, Offsets, tokenize, tokenize_marked, within
from .try_template import takes_too_much

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TrainOn = Literal["assistant", "last", "all"]
Span = tuple[int, int]

TURN_START, TURN_END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"

CHATML = """\
{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' -%}
{%- if tools %}
{{- '<|im_start|>system\n' + (system + '\n\n' if system else '') }}
{{- 'These functions can be called:' }}
{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{% endfor %}
{{- '\nA call is written <tool_call>{"name": ..., "arguments": ...}</tool_call>.<|im_end|>\n' }}
{%- elif system %}
{{- '<|im_start|>system\n' + system + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{{- '<|im_start|>assistant\n' }}
{%- generation %}
{{- message['content'] }}
{%- for call in message['tool_calls'] or [] %}
{{- '\n' if message['content'] or not loop.first else '' }}
{{- '<tool_call>' + ({'name': call['function']['name'], 'arguments': call['function']['arguments']} | tojson) }}
{{- '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>' }}
{%- endgeneration %}
{{- '\n' }}
{%- elif message['role'] != 'system' %}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
"""Ours, for models that come without one: ChatML, with generation markers and calls as JSON between tags."""

PLAIN = """\
{%- for message in messages %}
{%- if message['role'] == 'assistant' %}
{%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}
{%- else %}
{{- message['content'] + eos_token }}
{%- endif %}
{%- endfor %}
"""
"""Ours for encoder-decoders: what is read and what is written, each with the end token behind it."""

PAIRED = """\
{%%- for message in messages %%}
{{- %s if loop.first else %s }}
{%%- if message['role'] == 'assistant' %%}
{%%- generation %%}{{- message['content'] + (%s if loop.last else '') }}{%%- endgeneration %%}
{%%- else %%}
{{- message['content'] + (%s if loop.last else '') }}
{%%- endif %%}
{%%- endfor %%}
"""
"""Ours for encoders: the tokenizer's own marks before, between and behind two texts."""


def ensure_chat(tokenizer: PreTrainedTokenizerBase, plain: bool = False) -> list[str]:
    """Gives a tokenizer without a chat template the ChatML one, with its control tokens; returns the tokens that are
    new, for which the model needs embeddings.

    An end-of-text token it has stays what it is, so documents still end with it. Padding gets a token of its own where
    it has none or shares one with an end: whoever masks padding would otherwise unlearn to stop. With `plain` (of an
    encoder-decoder, or of an encoder) no turns are marked.
    """
    if tokenizer.chat_template:
        return []
    if plain:
        tokenizer.chat_template = PLAIN if tokenizer.cls_token is None else _paired(tokenizer)
        return []
    before = set(tokenizer.get_vocab())
    tokenizer.add_special_tokens({"additional_special_tokens": [TURN_START, TURN_END]}, False)
    if tokenizer.eos_token is None:
        tokenizer.eos_token = TURN_END
    if tokenizer.pad_token is None or tokenizer.pad_token in (tokenizer.eos_token, TURN_END):
        tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.chat_template = CHATML
    return [token for token in (TURN_START, TURN_END, PAD) if token in tokenizer.get_vocab() and token not in before]


def _paired(tokenizer: PreTrainedTokenizerBase) -> str:
    """`PAIRED` with what the tokenizer puts around two texts: `[CLS] a [SEP] b [SEP]`."""
    marks = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}  # pyright: ignore[reportUnhashable]
    ids: list[int] = tokenizer("a", "b")["input_ids"]  # pyright: ignore[reportAssignmentType]
    runs = [list(run) for special, run in groupby(ids, marks.__contains__) if special]
    if len(runs) != 3:
        raise InputError(
            f"{type(tokenizer).__name__} does not mark where a text begins and ends; give it a chat_template."
        )
    before, between, behind = (json.dumps("".join(tokenizer.convert_ids_to_tokens(run))) for run in runs)
    return PAIRED % (before, between, behind, behind)


class Template:
    """A tokenizer with its chat template: its own, `source`, or ours where it has none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: str | None = None):
        if not tokenizer.is_fast:
            raise InputError(
                f"{type(tokenizer).__name__} does not tell where in the text its tokens stand; use the fast tokenizer."
            )
        self.tokenizer = tokenizer
        self.source = source or (tokenizer.get_chat_template() if tokenizer.chat_template else CHATML)
        self.has_markers = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", self.source) is not None

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens at which an answer ends: what the template writes behind an assistant turn, then the end of text."""
        ids = [self.tokenizer.convert_tokens_to_ids(token) for token in self._stops] + [self.tokenizer.eos_token_id]
        return tuple(dict.fromkeys(i for i in ids if isinstance(i, int)))

    # ---- encoding ----

    def encode(self, conversation: Conversation, train_on: TrainOn = "assistant") -> Group:
        """One response: the prompt is all before the first own token, the response the rest."""
        return self.encode_many([conversation], train_on)[0]

    def encode_many(self, conversations: Sequence[Conversation], train_on: TrainOn = "assistant") -> list[Group]:
        """As `encode`, tokenised together."""
        groups: list[Group] = []
        for found in self.encode_each(conversations, train_on):
            if isinstance(found, DataError):
                raise found
            groups.append(found)
        return groups

    def encode_each(self, conversations: Sequence[Conversation], train_on: TrainOn) -> list[Group | DataError]:
        """As `encode_many`; a conversation that the template refuses is its fault, and no other's."""
        rendered: list[tuple[str, _TextMask] | DataError] = []
        for conversation in conversations:
            try:
                rendered.append(self._render_with_mask(conversation, train_on))
            except DataError as error:
                rendered.append(error)
        tokens = iter(self._tokenize([one[0] for one in rendered if not isinstance(one, DataError)]))
        found: list[Group | DataError] = []
        for conversation, one in zip(conversations, rendered, strict=True):
            if isinstance(one, DataError):
                found.append(one)
                continue
            found.append(_group(*next(tokens), one[1], conversation.origin))
        return found

    def encode_steps(self, conversation: Conversation, steps: Sequence[str]) -> tuple[Group, tuple[int, ...]]:
        """A conversation whose last answer is these steps, each on a line; and where in the response the last token of
        every step stands."""
        from transformers.utils.chat_template_utils import mark_control_tokens

        text, mask = self._render_with_mask(conversation, "last")
        ((ids, offsets),) = self._tokenize([text])
        group = _group(ids, offsets, mask, conversation.origin)
        at, stop = mask.spans[-1] if mask.spans else (0, 0)
        ends: list[int] = []
        for written in steps:
            step: Any = mark_control_tokens(written, self._written_by[True])
            begin = text.find(step, at, stop)
            if begin < 0:
                message = "the chat template does not write the steps as they are, so their ends cannot be found."
                raise DataError(conversation.origin, "TEMPLATE", message)
            at = begin + len(step)
            ends.append(int(np.flatnonzero(within(offsets, at - 1, at))[-1]) - len(group.prompt))
        return group, tuple(ends)

    def encode_prompt(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> Ids:
        """The conversation so far and the header of the answer to come: what a sampler is given."""
        text, _ = self._render(messages, tools, generation_prompt=True)
        return next(iter(self._tokenize([text])))[0]

    def encode_turn(self, message: Message) -> Ids:
        """A turn between two of the assistant's, and the header of the second: what follows the stop token of the
        first, in tokens of its own."""
        text, end = self._turn(message)
        ids, offsets = next(iter(self._tokenize([text])))
        return ids[~within(offsets, 0, end)]

    def refuse_lost_turns(self, role: str) -> None:
        """An error where what `role` says after an answer is not written. (How it is written is the template's own
        affair: results of tools are often quoted as JSON.)"""
        said = _PROBE[2][1]
        text, end = self._turn(Message(role, said))
        if said not in text[end:]:
            raise InputError(f"The chat template does not write what the {role} says; use another template.")

    def _turn(self, message: Message) -> tuple[str, int]:
        """The text of a question, an answer and this turn, and where in it the answer ends."""
        before = [Message(role, content) for role, content in _PROBE[:2]]
        text, _ = self._render([*before, message], generation_prompt=True)
        start = text.index(_PROBE[1][1])
        return text, self._with_stop(text, start, start + len(_PROBE[1][1]))[1]

    def _tokenize(self, texts: Sequence[str]) -> Iterable[tuple[Ids, Any]]:
        marked = [MARK_OPEN in text or MARK_CLOSE in text for text in texts]
        plain = tokenize(self.tokenizer, [text for text, m in zip(texts, marked, strict=True) if not m])
        return (tokenize_marked(self.tokenizer, t) if m else next(plain) for t, m in zip(texts, marked, strict=True))

    # ---- rendering ----

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        generation_prompt: bool = False,
        origin: str = "",
        sanitize: bool = True,
    ) -> tuple[str, list[Span]]:
        """The text, control tokens of the messages marked, and what stands between generation markers."""
        from jinja2.exceptions import TemplateError, TemplateSyntaxError
        from transformers.utils.chat_template_utils import mark_control_tokens, render_jinja_template

        if self._too_much:
            raise InputError(f"{self._where} takes {self._too_much} for four short turns; use another template.")
        turns = [as_turn(message) for message in messages]
        schemas: Any = [dict(tool) for tool in tools] or None
        if sanitize:
            turns = [mark_control_tokens(t, self._written_by[t["role"] == "assistant"]) for t in turns]
            schemas = mark_control_tokens(schemas, self._written_by[False])
        try:
            rendered: Any = render_jinja_template(
                conversations=[turns],
                tools=schemas,
                chat_template=self.source,
                return_assistant_tokens_mask=self.has_markers,
                add_generation_prompt=generation_prompt,
                **cast(dict[str, Any], self.tokenizer.special_tokens_map),
            )
        except TemplateSyntaxError as error:
            raise InputError(f"{self._where} is no Jinja: line {error.lineno}: {error}.") from None
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, ArithmeticError) as error:
            message = f"the chat template refuses this conversation: {error}."
            if not origin:
                raise InputError(message[:1].upper() + message[1:]) from None
            raise DataError(origin, "TEMPLATE", message) from None
        (text,), spans = rendered
        return text, spans[0] if self.has_markers else []

    @cached_property
    def _too_much(self) -> str:
        """What a stranger's template takes too much of, before it is rendered here."""
        if self.source in (CHATML, PLAIN):
            return ""
        turns = [as_turn(Message(role, said)) for role, said in _PROBE]
        special = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        return takes_too_much(self.source, json.dumps(turns), json.dumps(special))

    @property
    def _where(self) -> str:
        return f"The chat template of {self.tokenizer.name_or_path or type(self.tokenizer).__name__}"

    def spelled_out(self, messages: Iterable[Message]) -> list[str]:
        """Control tokens that messages hold, and that stay text there."""
        return list(
            dict.fromkeys(t for m in messages for t in self._written_by[m.role == "assistant"].findall(m.content))
        )

    @cached_property
    def _written_by(self) -> dict[bool, re.Pattern[str]]:
        """Control tokens that stay text where a message holds them, for the assistant (True) and everybody else.

        For everybody these are the special tokens and all that the template writes, pieced together or literally; the
        assistant alone may write tokens that are neither special nor delimit turns: `<think>`, `<tool_call>`.
        """
        two_turns = self._probed[: self._probed.index(_PROBE[2][1])]
        added = self.tokenizer.added_tokens_decoder.values()
        extra = set(self.tokenizer.chat_control_tokens or ())
        turn = {t.content for t in added if t.special or t.content in extra or t.content in two_turns}
        named = {t.content for t in added if t.content in self.source and not t.content.isspace()}
        return {True: _any_of(turn), False: _any_of(turn | named)}

    # ---- what the template does to a plain conversation ----

    @cached_property
    def _probed(self) -> str:
        """A plain conversation, rendered; every message of it must be there, once, in its order."""
        text, _ = self._render([Message(r, c) for r, c in _PROBE], sanitize=False)
        places = [[m.start() for m in re.finditer(re.escape(c), text)] for _, c in _PROBE]
        for (role, _), found in zip(_PROBE, places, strict=True):
            if len(found) != 1:
                times = "leaves out" if not found else f"writes {len(found)} times"
                raise InputError(f"The chat template {times} what the {role} says; use another template.")
        if places != sorted(places):
            raise InputError("The chat template puts messages into another order; use another template.")
        return text

    @cached_property
    def _stops(self) -> tuple[str, ...]:
        """Control tokens that the template writes right behind what the assistant says."""
        added = _any_of(t.content for t in self.tokenizer.added_tokens_decoder.values() if not t.content.isspace())
        stops: list[str] = []
        for role, content in _PROBE:
            tail = self._probed[self._probed.index(content) + len(content) :].lstrip()
            if role == "assistant" and (stop := added.match(tail)):
                stops.append(stop[0])
        return tuple(dict.fromkeys(stops))

    # ---- the mask, in the text ----

    def _render_with_mask(self, conversation: Conversation, train_on: TrainOn) -> tuple[str, _TextMask]:
        messages, origin = conversation.messages, conversation.origin
        text, marked = self._render(messages, conversation.tools, origin=origin)
        trained = trained_messages(messages, train_on)
        if train_on == "all":
            untrained = [i for i in range(len(messages)) if i not in trained]
            mask = _TextMask(False, [self._whole_turn(conversation, i, text) for i in untrained])
        else:
            spans = [
                self._answer(conversation, i, text, marked)
                if messages[i].role == "assistant"
                else self._whole_turn(conversation, i, text)
                for i in trained
            ]
            mask = _TextMask(True, spans)
            self._refuse_lost(conversation, trained, "".join(text[start:stop] for start, stop in spans))
        spoken = [i for i, m in enumerate(messages) if m.role in ("system", "user") or i in trained]
        self._refuse_lost(conversation, spoken, text)
        return text, mask

    def _answer(self, conversation: Conversation, i: int, text: str, marked: Sequence[Span]) -> Span:
        """Answer i with its stop token."""
        messages, origin = conversation.messages, conversation.origin
        answers = [k for k, m in enumerate(messages) if m.role == "assistant"]
        if len(marked) == len(answers):
            return self._with_stop(text, *marked[answers.index(i)])
        before, _ = self._render(messages[:i], conversation.tools, generation_prompt=True, origin=origin)
        if not text.startswith(before):
            raise DataError(origin, "TEMPLATE", _NO_PREFIX.format(i=i))
        last = i == len(messages) - 1
        after = text if last else self._render(messages[: i + 1], conversation.tools, origin=origin)[0]
        if text.startswith(after):
            return self._with_stop(text, len(before), len(after))
        # Some templates write the newest answer in another way than older ones (reasoning is left out of those).
        stops = self._stop_pattern.finditer(text, len(before))
        stop = next((m for m in stops if text[m.start() - 1] != MARK_OPEN), None)
        if stop is None:
            raise DataError(origin, "TEMPLATE", _NO_PREFIX.format(i=i))
        return len(before), stop.end()

    def _whole_turn(self, conversation: Conversation, i: int, text: str) -> Span:
        """Message i with its header, in which a template may not look ahead."""
        messages, tools, origin = conversation.messages, conversation.tools, conversation.origin
        before = self._render(messages[:i], tools, origin=origin)[0] if i else ""
        after = self._render(messages[: i + 1], tools, origin=origin)[0]
        if not (text.startswith(before) and text.startswith(after)):
            raise DataError(origin, "TEMPLATE", _NO_PREFIX.format(i=i))
        return len(before), len(after)

    def _with_stop(self, text: str, start: int, stop: int) -> Span:
        """The span without white space behind its stop token, or with the stop token that follows it."""
        inside = text[start:stop].rstrip()
        if self._stops and inside.endswith(self._stops):
            return start, start + len(inside)
        space = _SPACE.match(text, stop)
        following = self._stop_pattern.match(text, space.end() if space else stop)
        return start, following.end() if following else stop

    @cached_property
    def _stop_pattern(self) -> re.Pattern[str]:
        return _any_of(self._stops)

    def _refuse_lost(self, conversation: Conversation, which: Iterable[int], text: str) -> None:
        """Every one of these messages is written out in the text. (Of the others, tool results are often quoted as
        JSON, and the reasoning of older answers may be left out.)"""
        letters = _letters(text)
        for i in which:
            message = conversation.messages[i]
            if message.role != "tool" and _letters(message.content) not in letters:
                lost = f"the chat template does not write message {i}, of the {message.role}, as it is"
                raise DataError(conversation.origin, "TEMPLATE", f"{lost}; use another template.")


_SPACE = re.compile(r"\s*")

_PROBE = (
    ("user", "first-question-7f3a"),
    ("assistant", "first-answer-c19e"),
    ("user", "second-question-52bd"),
    ("assistant", "second-answer-e084"),
)

_NO_PREFIX = (
    "the chat template writes what precedes message {i} in another way once it is answered, so the answer cannot be "
    "told from its prompt; use a template with generation markers, or train_on: last."
)


class _TextMask(NamedTuple):
    """What is trained, in characters: the spans alone (`trained`), or all but the spans."""

    trained: bool
    spans: list[Span]


def trained_messages(messages: Sequence[Message], train_on: TrainOn) -> list[int]:
    """Places of the messages that carry loss."""
    answers = [i for i, m in enumerate(messages) if m.role == "assistant"]
    default = {"assistant": answers, "last": answers[-1:], "all": range(len(messages))}[train_on]
    return [i for i, m in enumerate(messages) if (i in default if m.train is None else m.train)]


def _group(ids: Ids, offsets: Offsets, mask: _TextMask, origin: str) -> Group:
    """One response: the prompt is all before the first own token, the response the rest."""
    own = np.full(len(ids), not mask.trained)
    for start, stop in mask.spans:
        own[within(offsets, start, stop)] = mask.trained
    first = int(np.argmax(own)) if own.any() else len(ids)
    return Group(ids[:first], (Response(ids[first:], own[first:]),), origin)


def _any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Matches any of the words, longer ones first; nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(set(words), key=lambda w: (-len(w), w)))) or "(?!)")


def _letters(text: str) -> str:
    """Without white space and marks, which templates move about."""
    return "".join(text.replace(MARK_OPEN, "").replace(MARK_CLOSE, "").split())
