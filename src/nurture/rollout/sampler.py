"""Drawing responses from a model in the trainer's own process, over the trainer's own weights.

Rows are admitted in the order of the requests whenever a place is free, each prompt is read once for all of its
responses, and all rows advance together by one token a step. What a row draws is a function of (seed, key, k) and its
own tokens: never of the rows beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..adapters.attached import num_virtual, virtual_cache, virtual_embeddings
from ..core.random import stream_key, uniform
from ..core.sampling import draw, filter_logits, greedy
from ..core.shapes import spare
from ..errors import InputError, NumericsError
from ..models.heads import Head, output_head
from ..models.layouts import Layout, body, check_virtual, is_seq2seq, layout_of, virtual_root, with_prompt
from ..protocols import Request, Sample, Sampling
from .cache import DecodePlan, KeyValueCache, PrefillPlan
from .fused import FusedDecoder, Step, has_hooks, is_llama_shaped, probe
from .native import has_product, native, product
from .products import Product, linear, packed, pays_to_pack

Decode = Callable[[Sequence[int]], str]
Event = Sample | tuple[int, int, int]

FEWEST, MOST = 64, 256
"""Rows at once. A small model needs many: what a step costs apart from its products is the same for one and for all."""
CACHE_BYTES = 1 << 30
FIRST_ROOM = 32
"""Rows of the cache begin with room for the longest prompt and this many more tokens."""
STEP_ROWS = 16
"""A step has a multiple of this many rows, as far as there are places; `core/shapes.py` says why."""


class LocalSampler:
    """Implements `protocols.Sampler`.

    `layout` is the engine's choice for this model: with `tree` Nurture drives the attention, with continuous batching
    over a preallocated cache; with `rows` the model keeps its own cache, and the responses of one prompt run together.
    `decode` turns ids into text; only stop strings need it. `max_batch` rows run at once (by default 64, or up to 256
    whose keys and values fit `CACHE_BYTES`), fewer if `max_cache_tokens` (rows times the length of the longest) would
    be exceeded; `prefill_tokens` bounds how many tokens of waiting prompts are read in one pass. None of the three
    changes what is drawn.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        layout: Layout = "tree",
        decode: Decode | None = None,
        max_batch: int | None = None,
        max_cache_tokens: int | None = None,
        prefill_tokens: int = 4096,
    ):
        if is_seq2seq(model):
            raise InputError(
                f"{type(model).__name__} is an encoder-decoder, whose answers are not drawn here; use transformers' "
                "generate on its folder."
            )
        self.model, self.decode = model, decode
        self.layout: Layout = layout
        self.max_batch, self.max_cache_tokens, self.prefill_tokens = max_batch, max_cache_tokens, prefill_tokens
        self._agreed: dict[tuple[type, ...], bool] = {}

    def sample(self, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        """All samples, ordered by (request, k)."""
        done = [event for event in self.stream(requests, sampling) if isinstance(event, Sample)]
        return sorted(done, key=lambda s: (s.request, s.k))

    def stream(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Event]:
        """Tokens as they are drawn, `(request, k, token)`, and each finished `Sample`.

        With stop strings, a token is held back while the text could still turn out to be one (or ends within a
        character), so the tokens that spell the string are in the `Sample` alone. Without, every token is streamed.
        """
        requests = list(requests)
        self._check(requests, sampling)
        return self._tree(requests, sampling) if self.layout == "tree" else self._rows(requests, sampling)

    # --- the tree layout: our plans, our cache ---------------------------------------------------------------------

    @torch.inference_mode()
    def _tree(self, requests: list[Request], sampling: Sampling) -> Iterator[Event]:
        with self._driven():
            pack = pays_to_pack(list(self.model.parameters()), sampling.max_tokens)
            head, step = _Output(output_head(self.model), pack), self._fused(pack)
            places, virtual = self._places(requests, sampling), num_virtual(self.model)
            root = virtual_root(self.model)
            prompts = max((len(r.prompt) for r in requests), default=0) + virtual
            cache = KeyValueCache(places, prompts + FIRST_ROOM, prompts + sampling.max_tokens)
            waiting = self._waiting(requests, sampling)
            ready: deque[_Ready] = deque()
            active: list[_Row] = []
            while ready or waiting or active:
                entered: list[_Ready] = []
                while len(active) + len(entered) < places and (ready or waiting):
                    if not ready:
                        ready.extend(self._prefill(waiting, places - len(active) - len(entered), head, root))
                    entered.append(ready.popleft())
                if entered:
                    self._draw(torch.stack([e.logits for e in entered]), [e.row for e in entered], sampling)
                    for e in entered:
                        yield from e.row.events()
                    _enter([e for e in entered if not e.row.reason], active, cache)
                if active:
                    self._draw(self._step(active, cache, head, step, virtual), active, sampling)
                    for row in active:
                        yield from row.events()
                    _leave(active, cache, virtual)

    def _prefill(
        self, waiting: deque[_Row], places: int, head: _Output, root: Sequence[tuple[Tensor, Tensor]]
    ) -> list[_Ready]:
        """Read the next prompts, each once, as many as there are places for and as the token budget holds."""
        prompts: list[list[_Row]] = []
        tokens = taken = 0
        while waiting and taken < places:
            first = waiting[0]
            if prompts and tokens + first.start > self.prefill_tokens:
                break
            siblings = [waiting.popleft()]
            while waiting and waiting[0].request == first.request:
                siblings.append(waiting.popleft())
            prompts.append(siblings)
            tokens, taken = tokens + first.start, taken + len(siblings)
        lengths = [siblings[0].start for siblings in prompts]
        more = spare(sum(lengths))  # one more prompt, which nobody answers
        plan = PrefillPlan(lengths + [more] * (more > 0), root)
        virtual = root[0][0].shape[2] if root else 0
        ids = self._ids(np.concatenate([*(siblings[0].prompt for siblings in prompts), np.zeros(more, np.int64)]))
        starts = [np.arange(n) for n in lengths]
        positions = self._ids(virtual + np.concatenate([*starts, np.zeros(more, np.int64)]))
        out = body(self.model)(input_ids=ids[None], position_ids=positions[None], use_cache=False, plan=plan)
        ends = self._ids(np.cumsum(lengths) - 1)
        logits = head(out.last_hidden_state[0].index_select(0, ends))
        return [_Ready(row, logits[i], plan, i) for i, siblings in enumerate(prompts) for row in siblings]

    def _step(self, active: list[_Row], cache: KeyValueCache, head: _Output, step: Step | None, virtual: int) -> Tensor:
        """Feed every active row its newest token: `[B, V]` logits of the next."""
        more = min(spare(len(active), STEP_ROWS), cache.rows - len(active))  # rows of one token, which nobody reads
        lengths = [virtual + row.length - 1 for row in active] + [0] * more
        cache.reserve(max(lengths) + 1)
        plan = DecodePlan(cache, lengths, self.model.dtype, self.model.device)
        ids = self._ids(np.array([row.ids[-1] for row in active] + [0] * more))
        if step is not None:
            return head(step(ids, plan))[: len(active)]
        out = body(self.model)(input_ids=ids[:, None], position_ids=plan.positions, use_cache=False, plan=plan)
        return head(out.last_hidden_state[:, 0])[: len(active)]

    def _places(self, requests: list[Request], sampling: Sampling) -> int:
        longest = max((len(r.prompt) for r in requests), default=1) + sampling.max_tokens + num_virtual(self.model)
        most = self.max_batch
        if most is None:
            fitting = CACHE_BYTES // (longest * cache_bytes(self.model)) if self.layout == "tree" else 0
            most = min(max(fitting, FEWEST), MOST)
        rows = min(most, sum(r.n for r in requests)) or 1
        if self.max_cache_tokens is None:
            return rows
        return max(1, min(rows, self.max_cache_tokens // longest))

    def _fused(self, pack: bool) -> Step | None:
        """The fastest step that a probe found equal to the modules', while they are such."""
        decoder = body(self.model)
        if not is_llama_shaped(decoder) or has_hooks(decoder):
            return None
        best, kernel = None, native(decoder)  # which reads the weights as they are
        for step in (FusedDecoder(decoder, pack and kernel is None), kernel):
            if step is None or not self._agrees(decoder, step):
                break
            best = step
        return best

    def _agrees(self, decoder: nn.Module, step: Step) -> bool:
        kinds = (type(step), *(type(m) for m in decoder.modules()))
        if kinds not in self._agreed:
            self._agreed[kinds] = probe(decoder, step)
        return self._agreed[kinds]

    # --- the rows layout: the model's own attention and cache --------------------------------------------------------

    @torch.no_grad()
    def _rows(self, requests: list[Request], sampling: Sampling) -> Iterator[Event]:
        """The responses of one prompt, up to `max_batch`, run side by side without padding, so windows, recurrent
        states and stretched rotations see exactly what they would see alone."""
        places = self._places(requests, sampling)
        waiting = self._waiting(requests, sampling)
        with self._driven():
            while waiting:
                rows = [waiting.popleft()]
                while waiting and waiting[0].request == rows[0].request and len(rows) < places:
                    rows.append(waiting.popleft())
                yield from self._side_by_side(rows, sampling)

    def _side_by_side(self, rows: list[_Row], sampling: Sampling) -> Iterator[Event]:
        unread = self._ids(rows[0].prompt)[None].expand(len(rows), -1)
        cached: dict[str, Any] = {}
        first: dict[str, Any] = {"input_ids": unread}
        if (prompt := virtual_embeddings(self.model)) is not None:
            first = {"inputs_embeds": with_prompt(self.model, prompt, unread)}
        elif (prefix := virtual_cache(self.model, len(rows))) is not None:
            first["past_key_values"] = prefix
        while True:
            out = self.model(use_cache=True, **(first or {"input_ids": unread, **cached}))
            first = {}
            unfinished = [i for i, row in enumerate(rows) if not row.reason]
            self._draw(out.logits[unfinished, -1].float(), [rows[i] for i in unfinished], sampling)
            for i in unfinished:
                yield from rows[i].events()
            if all(row.reason for row in rows):
                return
            # A finished row goes on being fed its last token; nothing of it is read.
            new = self._ids(np.array([row.ids[-1] for row in rows]))[:, None]
            cached = _own_cache(out)
            assert cached or not num_virtual(self.model), "virtual tokens need the model's own cache"
            unread = new if cached else torch.cat([unread, new], 1)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _draw(self, logits: Tensor, rows: list[_Row], sampling: Sampling) -> None:
        if sampling.temperature == 0.0:
            token, logp = greedy(logits)
        else:
            counters = np.array([len(row.ids) for row in rows], np.uint64)
            numbers = uniform(np.array([row.stream for row in rows], np.uint64), counters)
            kept = filter_logits(logits, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
            token, logp = draw(kept, torch.from_numpy(numbers).to(logits.device))
        if not logp.isfinite().all():
            raise NumericsError("the model's logits are not finite numbers: nothing can be drawn from them.")
        for row, t, p in zip(rows, token.tolist(), logp.tolist(), strict=True):
            row.push(t, p)

    def _waiting(self, requests: list[Request], sampling: Sampling) -> deque[_Row]:
        stops = frozenset(sampling.stop_ids)
        return deque(
            _Row(number, k, request.prompt, stream_key(sampling.seed, "sample", request.key, k), stops,
                 _room(request, sampling), sampling, self.decode)
            for number, request in enumerate(requests)
            for k in range(request.n)
        )  # fmt: skip

    def _ids(self, values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=torch.long).to(self.model.device)

    @contextmanager
    def _driven(self) -> Iterator[None]:
        """The model in the sampler's layout, with dropout off; as it was before, afterwards."""
        training = [module for module in self.model.modules() if module.training]
        with layout_of(self.model, self.layout):
            self.model.eval()
            try:
                yield
            finally:
                for module in training:
                    module.training = True

    def _check(self, requests: list[Request], sampling: Sampling) -> None:
        check_sampling(sampling)
        if sampling.stop_strings and self.decode is None:
            raise InputError("stop_strings need a tokenizer: none was given to the sampler.")
        check_virtual(self.model, self.layout)
        limit = position_limit(self.model)
        if limit is not None:
            limit -= num_virtual(self.model)
        for number, request in enumerate(requests):
            name = f"prompt {request.key!r}" if request.key else f"prompt {number + 1}"
            size = len(request.prompt)
            if size == 0:
                raise InputError(f"{name} is empty: give it at least one token (a begin-of-text token will do).")
            if request.n < 1:
                raise InputError(f"{name} asks for {request.n} responses: ask for at least 1.")
            if (room := _room(request, sampling)) < 1:
                raise InputError(f"{name} leaves room for {room} tokens: it must be at least 1.")
            if limit is not None and size + room > limit:
                raise InputError(
                    f"{name} has {size} tokens and max_tokens is {room}: together {size + room}, but the model has "
                    f"{limit} positions; shorten one of them."
                )


def _room(request: Request, sampling: Sampling) -> int:
    """The most tokens of a response to this prompt."""
    return sampling.max_tokens if request.max_tokens is None else min(request.max_tokens, sampling.max_tokens)


def check_sampling(sampling: Sampling) -> None:
    """Every field within its range, or one sentence that says which is not."""
    rules = (
        ("max_tokens", sampling.max_tokens >= 1, "at least 1"),
        ("temperature", 0.0 <= sampling.temperature < float("inf"), "0 (greedy) or a finite positive number"),
        ("top_k", sampling.top_k >= 0, "0 (off) or a positive number"),
        ("top_p", 0.0 < sampling.top_p <= 1.0, "above 0 and at most 1 (off)"),
        ("min_p", 0.0 <= sampling.min_p < 1.0, "at least 0 (off) and below 1"),
        ("stop_strings", all(sampling.stop_strings), "without empty strings"),
    )
    for name, holds, allowed in rules:
        if not holds:
            raise InputError(f"{name} is {getattr(sampling, name)!r}: it must be {allowed}.")


def position_limit(model: PreTrainedModel) -> int | None:
    """How many positions the model has, where they are a table (GPT-2, OPT); rotary and ALiBi positions go on."""
    config = model.config.get_text_config()
    if getattr(config, "rope_parameters", None) or getattr(config, "alibi", False):
        return None
    return getattr(config, "max_position_embeddings", None)


def cache_bytes(model: PreTrainedModel) -> int:
    """What the keys and values of one token take."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    kept = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * config.num_hidden_layers * kept * width * model.dtype.itemsize


@dataclass(slots=True)
class _Ready:
    """A row whose prompt was read: the logits of its first token, and where its keys and values are."""

    row: _Row
    logits: Tensor
    prefill: PrefillPlan
    prompt: int


@dataclass(slots=True)
class _Row:
    """One response under way."""

    request: int
    k: int
    prompt: np.ndarray
    stream: int
    stops: frozenset[int]
    room: int
    sampling: Sampling
    decode: Decode | None
    ids: list[int] = field(default_factory=list[int])
    logp: list[float] = field(default_factory=list[float])
    reason: str = ""
    streamed: int = 0
    undecided: bool = False

    @property
    def start(self) -> int:
        return len(self.prompt)

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.ids)

    def push(self, token: int, logp: float) -> None:
        self.ids.append(token)
        self.logp.append(logp)
        strings = self.sampling.stop_strings
        tail = self._tail() if strings else ""
        if token in self.stops:
            self.reason = "stop"
        elif any(s in tail for s in strings):
            self.reason = "string"
        elif len(self.ids) >= self.room:
            self.reason = "length"
        self.undecided = tail.endswith("\ufffd") or any(tail.endswith(s[:n]) for s in strings for n in range(1, len(s)))

    def events(self) -> Iterator[Event]:
        """What is new since the last call: tokens, and the finished sample."""
        if self.reason != "string" and (self.reason or not self.undecided):
            for token in self.ids[self.streamed :]:
                yield self.request, self.k, token
            self.streamed = len(self.ids)
        if self.reason:
            logp = np.array(self.logp, np.float32)
            yield Sample(self.request, self.k, np.array(self.ids, np.int64), logp, self.reason)

    def _tail(self) -> str:
        """The text of the last tokens: enough of them to hold any stop string even at one byte a token, and a few more
        since a decoder may treat the first ones it sees differently."""
        assert self.decode is not None
        longest = max(len(s.encode()) for s in self.sampling.stop_strings)
        return self.decode(self.ids[-(longest + 8) :])


class _Output:
    """`[B, H] -> [B, V]` logits in fp32, rows first."""

    def __init__(self, head: Head, pack: bool):
        self.head = head
        self.multiply: Product = lambda x: linear(x, head.weight, head.bias)
        if has_product(head.weight, head.bias):
            self.multiply = lambda x: product(x, head.weight, head.bias)
        elif pack:
            self.multiply = packed([head.weight], [head.bias])

    def __call__(self, hidden: Tensor) -> Tensor:
        logits = self.multiply(hidden).float().contiguous()
        if self.head.scale != 1.0:
            logits = logits * self.head.scale
        return logits if self.head.softcap is None else self.head.softcap * torch.tanh(logits / self.head.softcap)


def _enter(entered: Sequence[_Ready], active: list[_Row], cache: KeyValueCache) -> None:
    """New rows take the places behind the active ones; siblings get their prompt in one copy."""
    for _, group in groupby(entered, key=lambda e: (id(e.prefill), e.prompt)):
        siblings = list(group)
        place = len(active)
        active += [e.row for e in siblings]
        cache.write_prompt(siblings[0].prefill, siblings[0].prompt, slice(place, len(active)))


def _leave(active: list[_Row], cache: KeyValueCache, virtual: int) -> None:
    """Finished rows leave; the last active row moves into the place of each, so that active rows stay in front."""
    for place in range(len(active)):
        while len(active) > place and active[-1].reason:
            active.pop()
        if place < len(active) and active[place].reason:
            last = active.pop()
            cache.move(len(active), place, virtual + last.length - 1)
            active[place] = last


def _own_cache(out: Any) -> dict[str, Any]:
    """The model's own cache under the name it takes it by; empty for a model that has none."""
    for name in ("past_key_values", "cache_params"):
        if (cache := getattr(out, name, None)) is not None:
            return {name: cache}
    return {}
