"""How groups become one forward pass: as a tree (each prompt once) or as plain padded rows.

The tree lays all groups of a batch end to end in one row without padding. Each group is its prompt followed by its
responses; a response attends to its prompt and to itself, and its positions go on where the prompt's end. A group with
a single response is a chain: prompt and response are one causal segment. The rows layout repeats the prompt for every
response and pads; any decoder can run it, and so can an encoder that judges. Of an encoder-decoder, the encoder reads
the prompts (`seq2seq`).

`choose_layout` decides from the configuration first and then by a numeric probe, because a wrong tree would train in
silence. `check_head` compares the output head, which both layouts share.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ..adapters.attached import num_virtual, virtual_cache, virtual_embeddings
from ..core.shapes import spare
from ..errors import InputError
from ..types import Batch, Group, Response
from . import attention, segments, tiled
from .heads import has_score_head, is_encoder, output_head

Layout = Literal["tree", "rows", "seq2seq"]


@dataclass(frozen=True, eq=False)
class Laid:
    """What one forward pass needs; `at`: where in its flattened output each own token is predicted from; `ends`: where
    each score is read (after a response's last own token, or after each of its steps)."""

    input_ids: Tensor
    position_ids: Tensor
    at: Tensor
    ends: Tensor
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    """What encoders are told of a row: 0 in its prompt, 1 in its response."""
    plan: TreePlan | None = None
    decoder_ids: Tensor | None = None
    """Of an encoder-decoder, which reads `input_ids` with its encoder; -1 is the token that a decoder starts with."""


@dataclass(eq=False)
class TreePlan:
    """Segments end to end; segment i attends to itself causally and to all of segment `parent[i]` (-1: to none), and to
    the root of them all, where there is one: the keys and values of the virtual tokens in each layer.

    On a CPU a kernel of our own takes the whole row (`tiled.py`), or segments of like length are computed together
    (`segments.py`); elsewhere, and with a root, every segment is
    one call of the fused kernel.
    """

    lengths: list[int]
    parent: list[int]
    root: Sequence[tuple[Tensor, Tensor]] = ()
    calls: int = 0
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    work: dict[tuple[int, int, torch.dtype], segments.Work] = field(default_factory=dict)
    table: Tensor | None = None

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        self.calls += 1
        if softcap is None and not self.root and query.device.type == "cpu":
            if tiled.serves(query, key, value, self.parent):
                if self.table is None:
                    self.table = tiled.lay_table(self.lengths, self.parent)
                return tiled.attend(query, key, value, scaling, self.table)
            return segments.attend(query, key, value, scaling, self._work(query, key.shape[1]))
        # split (not slicing): its backward is one concatenation instead of a full-size zero tensor per segment.
        queries, keys, values = (x.split(self.lengths, dim=2) for x in (query, key, value))
        out = []
        for i, parent in enumerate(self.parent):
            k, v = [keys[i]], [values[i]]
            if parent >= 0:
                k, v = [keys[parent], *k], [values[parent], *v]
            if self.root:
                k, v = [self.root[layer][0], *k], [self.root[layer][1], *v]
            k, v = (torch.cat(parts, 2) if len(parts) > 1 else parts[0] for parts in (k, v))
            out.append(self._segment(queries[i], k, v, scaling, softcap))
        return torch.cat(out, 2)

    def _work(self, query: Tensor, kv_heads: int) -> segments.Work:
        heads, dtype = query.shape[1], query.dtype
        if (heads, kv_heads, dtype) not in self.work:
            work = segments.lay_work(self.lengths, self.parent, heads, kv_heads, dtype, query.device)
            self.work[heads, kv_heads, dtype] = work
        return self.work[heads, kv_heads, dtype]

    def _segment(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, softcap: float | None) -> Tensor:
        length, context = q.shape[2], k.shape[2]
        if softcap is not None:
            hidden = ~self._mask(length, context, q.device)
            mask = torch.zeros(hidden.shape, dtype=q.dtype, device=q.device).masked_fill(hidden, -torch.inf)
            return softcapped(q, k, v, scaling, softcap, mask)
        gqa = q.shape[1] != k.shape[1]
        if length == context:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=gqa)
        mask = self._mask(length, context, q.device)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=gqa)

    def _mask(self, length: int, context: int, device: torch.device) -> Tensor:
        if (length, context) not in self.masks:
            full = torch.ones(length, context, dtype=torch.bool, device=device)
            self.masks[length, context] = full.tril(context - length)
        return self.masks[length, context]


def softcapped(q: Tensor, k: Tensor, v: Tensor, scaling: float, softcap: float, mask: Tensor | None) -> Tensor:
    """Attention with capped scores (Gemma 2), which no fused kernel has; `mask` is added to them. Softmax in fp32, as
    in the model's own code."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = softcap * torch.tanh(q @ k.mT * (scaling / softcap))
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1, dtype=torch.promote_types(q.dtype, torch.float32)).to(q.dtype) @ v


def lay_tree(batch: Batch) -> Laid:
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    lengths: list[int] = []
    parent: list[int] = []
    at: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    start = response = 0
    for group in batch.groups:
        prompt = len(group.prompt)
        chain = len(group.responses) == 1 or prompt == 0
        if not chain:
            ids.append(group.prompt)
            positions.append(np.arange(prompt))
            lengths.append(prompt)
            parent.append(-1)
        root, root_start = len(lengths) - 1, start
        start += 0 if chain else prompt
        for r in group.responses:
            own, size = batch.owned[response], len(r.ids)
            if chain:
                ids += [group.prompt, r.ids]
                positions.append(np.arange(prompt + size))
                lengths.append(prompt + size)
                parent.append(-1)
                at.append(start + prompt + own - 1)
                ends.append(start + prompt + batch.ends[response])
                start += prompt + size
            else:
                ids.append(r.ids)
                positions.append(np.arange(prompt, prompt + size))
                lengths.append(size)
                parent.append(root)
                # The first token of a response is predicted where its prompt ends.
                at.append(np.where(own == 0, root_start + prompt - 1, start + own - 1))
                ends.append(start + batch.ends[response])
                start += size
            response += 1
    if more := spare(start):  # a segment of its own, which nobody attends to and nothing is read from
        ids.append(np.zeros(more, np.int64))
        positions.append(np.zeros(more, np.int64))
        lengths.append(more)
        parent.append(-1)
    assert all(n > 0 for n in lengths), "an empty prompt or response cannot be a segment"

    def row(parts: list[np.ndarray]) -> Tensor:
        return torch.as_tensor(np.concatenate(parts) if parts else np.zeros(0), dtype=torch.long).to(batch.device)

    return Laid(row(ids)[None], row(positions)[None], row(at), row(ends), plan=TreePlan(lengths, parent))


def lay_rows(batch: Batch) -> Laid:
    rows = [(g.prompt, r.ids) for g in batch.groups for r in g.responses]
    width = max(len(p) + len(r) for p, r in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    at: list[np.ndarray] = []
    ends: list[np.ndarray] = []
    for i, (prompt, response) in enumerate(rows):
        size = len(prompt) + len(response)
        ids[i, :size] = np.concatenate([prompt, response])
        mask[i, :size] = 1
        types[i, len(prompt) : size] = 1
        at.append(i * width + len(prompt) + batch.owned[i] - 1)
        ends.append(i * width + len(prompt) + batch.ends[i])

    def tensor(x: np.ndarray) -> Tensor:
        return torch.as_tensor(x, dtype=torch.long).to(batch.device)

    positions = tensor(np.broadcast_to(np.arange(width), ids.shape).copy())
    where = tensor(np.concatenate(at)), tensor(np.concatenate(ends))
    return Laid(tensor(ids), positions, *where, attention_mask=tensor(mask), token_type_ids=tensor(types))


def lay_seq2seq(batch: Batch) -> Laid:
    """A row for every response: its prompt for the encoder, itself behind the start token for the decoder."""
    rows = [(g.prompt, r.ids) for g in batch.groups for r in g.responses]
    if not all(len(prompt) for prompt, _ in rows):
        raise InputError(
            "data: an encoder-decoder reads a prompt and writes an answer, and here is a text without one."
        )
    prompts = [torch.as_tensor(prompt, dtype=torch.long) for prompt, _ in rows]
    answers = [torch.as_tensor(np.concatenate([[-1], ids]), dtype=torch.long) for _, ids in rows]
    ids = nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(batch.device)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(p) for p in prompts], batch_first=True).to(batch.device)
    decoder_ids = nn.utils.rnn.pad_sequence(answers, batch_first=True).to(batch.device)
    starts = np.arange(len(rows)) * decoder_ids.shape[1]
    at = np.concatenate([start + own for start, own in zip(starts, batch.owned, strict=True)])
    ends = np.concatenate([start + 1 + end for start, end in zip(starts, batch.ends, strict=True)])
    where = (torch.as_tensor(x, dtype=torch.long).to(batch.device) for x in (at, ends))
    return Laid(ids, torch.zeros_like(ids), *where, attention_mask=mask, decoder_ids=decoder_ids)


LAY: dict[Layout, Callable[[Batch], Laid]] = {"tree": lay_tree, "rows": lay_rows, "seq2seq": lay_seq2seq}


def body(model: PreTrainedModel) -> nn.Module:
    """The decoder without its output head."""
    return model.base_model


def hidden_states(model: PreTrainedModel, laid: Laid) -> Tensor:
    """`[positions, H]` after the last layer. The layout must be the one the model is set to (`set_layout`)."""
    if laid.decoder_ids is not None:
        return _encode_decode(model, laid)
    if laid.attention_mask is not None and rope_follows_length(model.config.get_text_config()):
        return _row_by_row(model, laid.input_ids, laid.attention_mask)
    if n := num_virtual(model):
        return _after_virtual(model, laid, n)
    extra: dict[str, Any] = {"attention_mask": laid.attention_mask} if laid.plan is None else {"plan": laid.plan}
    out = body(model)(input_ids=laid.input_ids, position_ids=laid.position_ids, use_cache=False, **extra)
    return out.last_hidden_state.flatten(0, 1)


def classify(model: PreTrainedModel, laid: Laid) -> Tensor:
    """`[rows, criteria]` the scores of an encoder, which reads every row as a whole."""
    assert laid.attention_mask is not None
    two_kinds = (getattr(model.config, "type_vocab_size", None) or 0) > 1
    types = {"token_type_ids": laid.token_type_ids} if two_kinds else {}
    return model(input_ids=laid.input_ids, attention_mask=laid.attention_mask, **types).logits


def _encode_decode(model: PreTrainedModel, laid: Laid) -> Tensor:
    encoder, decoder = model.get_encoder(), model.get_decoder()
    read = encoder(input_ids=laid.input_ids, attention_mask=laid.attention_mask).last_hidden_state
    out = decoder(
        input_ids=_started(model, laid), encoder_hidden_states=read, encoder_attention_mask=laid.attention_mask,
        use_cache=False,
    )  # fmt: skip
    return out.last_hidden_state.flatten(0, 1)


def _started(model: PreTrainedModel, laid: Laid) -> Tensor:
    assert laid.decoder_ids is not None
    first = model.config.decoder_start_token_id
    return torch.where(laid.decoder_ids < 0, 0 if first is None else first, laid.decoder_ids)


def _after_virtual(model: PreTrainedModel, laid: Laid, n: int) -> Tensor:
    """`hidden_states` of the real tokens, which stand `n` positions further on."""
    positions = laid.position_ids + n
    if laid.plan is not None:
        plan = replace(laid.plan, root=virtual_root(model))
        out = body(model)(input_ids=laid.input_ids, position_ids=positions, use_cache=False, plan=plan)
        return out.last_hidden_state.flatten(0, 1)
    assert laid.attention_mask is not None
    rows = len(laid.input_ids)
    mask = torch.cat([laid.attention_mask.new_ones(rows, n), laid.attention_mask], 1)
    if (prompt := virtual_embeddings(model)) is None:
        extra = {"input_ids": laid.input_ids, "past_key_values": virtual_cache(model, rows)}
    else:
        positions = torch.cat([torch.arange(n, device=positions.device).expand(rows, n), positions], 1)
        extra = {"inputs_embeds": with_prompt(model, prompt, laid.input_ids)}
    out = body(model)(position_ids=positions, attention_mask=mask, use_cache=False, **extra)
    return out.last_hidden_state[:, -laid.input_ids.shape[1] :].flatten(0, 1)


def with_prompt(model: PreTrainedModel, prompt: Tensor, input_ids: Tensor) -> Tensor:
    """`[rows, n + width, H]` the virtual tokens' embeddings before those of the text."""
    return torch.cat([prompt.expand(len(input_ids), -1, -1), model.get_input_embeddings()(input_ids)], 1)


def virtual_root(model: PreTrainedModel) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the virtual tokens, `[1, kv_heads, n, D]` a layer, for the model in the tree layout: given by
    a prefix, computed once from a prompt. Empty where there are no virtual tokens."""
    if (cache := virtual_cache(model, 1)) is not None:
        return [(layer.keys, layer.values) for layer in cache.layers]
    if (prompt := virtual_embeddings(model)) is None:
        return []
    plan = RootPlan()
    positions = torch.arange(prompt.shape[1], device=prompt.device)[None]
    body(model)(inputs_embeds=prompt, position_ids=positions, use_cache=False, plan=plan)
    return [plan.root[layer] for layer in sorted(plan.root)]


@dataclass(eq=False)
class RootPlan:
    """Virtual tokens attend causally to themselves; what the text will see of them stays here."""

    root: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, softcap: float | None
    ) -> Tensor:
        self.root.setdefault(layer, (key, value))  # the first time: activation checkpointing comes again in backward
        return TreePlan([query.shape[2]], [-1]).attend(layer, query, key, value, scaling, softcap)


def check_virtual(model: PreTrainedModel, layout: Layout, checkpointing: bool = False) -> None:
    """InputError where virtual tokens cannot be combined with how this model must be run."""
    if not num_virtual(model) or layout == "tree":
        return
    if layout == "seq2seq":
        raise InputError("adapter: virtual tokens are not known in an encoder-decoder; use lora or bottleneck.")
    if kinds := rope_follows_length(model.config.get_text_config()):
        raise InputError(
            f"adapter: virtual tokens would change the {kinds.pop()} rotary embedding of this model, whose frequencies "
            "follow the length of the text; use lora."
        )
    if virtual_cache(model, 1) is not None and checkpointing:
        raise InputError(
            "adapter: a prefix in the rows layout is part of the model's cache, which gradient_checkpointing switches "
            "off; leave gradient_checkpointing out or use prompt."
        )


def rope_follows_length(config: PretrainedConfig) -> set[str]:
    """The kinds of rotary embedding, if any, whose frequencies depend on the longest position of the whole pass."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {rope.get("rope_type"), *(v.get("rope_type") for v in rope.values() if isinstance(v, dict))}
    return kinds & {"dynamic", "longrope"}


def _row_by_row(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Each row in a pass of its own, without padding: side by side, one long row would change the frequencies of all
    the others, and what a text is worth would depend on its neighbours."""
    width = input_ids.shape[1]
    out: list[Tensor] = []
    for row, length in zip(input_ids, attention_mask.sum(1).tolist(), strict=True):
        _forget_lengths(model)
        positions = torch.arange(length, device=row.device)[None]
        hidden = body(model)(input_ids=row[None, :length], position_ids=positions, use_cache=False).last_hidden_state
        out.append(F.pad(hidden[0], (0, 0, 0, width - length)))
    return torch.cat(out)


def _forget_lengths(model: nn.Module) -> None:
    """A dynamic rotary embedding keeps the frequencies of the longest row it has seen; with nothing seen it computes
    them from the row at hand."""
    for module in model.modules():
        for name in [n for n in vars(module) if n.endswith("max_seq_len_cached")]:
            setattr(module, name, 0)


def set_layout(model: PreTrainedModel, layout: Layout) -> None:
    """Point the model's attention at Nurture's plans, or back at torch's own kernel (or, for a family without one, at
    transformers' plain code)."""
    if layout == "tree":
        attention.register()
        model.set_attn_implementation(attention.NAME)
        return
    try:
        model.set_attn_implementation("sdpa")
    except ValueError:
        model.set_attn_implementation("eager")


@contextmanager
def layout_of(model: PreTrainedModel, layout: Layout) -> Iterator[None]:
    """The model in another layout for a while."""
    before = model.config._attn_implementation or "eager"
    set_layout(model, layout)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@dataclass(frozen=True, slots=True)
class Choice:
    layout: Layout
    reason: str


def is_seq2seq(model: PreTrainedModel) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def is_decoder(model: PreTrainedModel) -> bool:
    return not is_seq2seq(model) and not is_encoder(model)


def choose_layout(model: PreTrainedModel, max_length: int, wanted: Literal["auto", "tree", "rows"] = "auto") -> Choice:
    """`tree` where it is exact for sequences up to `max_length`, else `rows`, and why. InputError for a model whose
    output head neither layout could serve. (A reward model that was loaded for scoring has none.)"""
    if is_encoder(model):
        if wanted == "tree":
            raise InputError("layout: tree is for decoders, and this is an encoder; use layout: auto.")
        return Choice("rows", "an encoder, which reads every text as a whole")
    if model.get_output_embeddings() is not None or not has_score_head(model):
        check_head(model)
    if is_seq2seq(model):
        if wanted != "auto":
            raise InputError(f"layout: {wanted} is for decoders, and this is an encoder-decoder; use layout: auto.")
        return Choice("seq2seq", "an encoder-decoder, whose encoder reads the prompt")
    max_length += num_virtual(model)
    if wanted == "rows":
        return Choice("rows", "as asked")
    reason = _obstacle(model.config.get_text_config(), max_length) or probe(model)
    if reason is None:
        return Choice("tree", "exact for this model: a probe agreed with the rows layout")
    if wanted == "tree":
        raise InputError(f"layout: tree is not exact for this model ({reason}); use layout: auto or rows.")
    return Choice("rows", reason)


ATTENTION_DROPOUT = re.compile(r"att.*(dropout|pdrop)")


def _obstacle(config: PretrainedConfig, max_length: int) -> str | None:
    """What in a configuration keeps the tree layout from being exact."""
    for name, value in vars(config).items():
        if ATTENTION_DROPOUT.search(name) and isinstance(value, float) and value > 0:
            return f"{name} {value:g} drops probabilities of attention, which only transformers' own attention does"
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) is False:
        window = None
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds and "sliding_attention" not in kinds:
        window = None
    for name, size in (
        ("sliding_window", window),
        ("attention_chunk_size", getattr(config, "attention_chunk_size", None)),
    ):
        if size is not None and size < max_length:
            return f"{name} {size} is shorter than max_length {max_length}"
    odd = kinds - {"full_attention", "sliding_attention", "chunked_attention"}
    if odd:
        return f"it has {', '.join(sorted(odd))} layers"
    stretched = rope_follows_length(config)
    if stretched:
        return f"its {stretched.pop()} rotary embedding depends on the longest position of the whole row"
    return None


PROBE_TOLERANCE = 1e-4
HALF_TOLERANCE = 5e-2
"""For weights in fp16 or bf16, of which one rounding step alone is 1e-3 to 1e-2."""


_heads_checked: set[str] = set()
"""The configurations (`_configuration`) whose output head agreed."""


def check_head(model: PreTrainedModel) -> None:
    """InputError unless `output_head` gives the model's own logits. A difference is no reason for another layout:
    every layout uses the head."""
    output_head(model)
    key = _configuration(model)
    if key in _heads_checked:
        return
    tolerance = PROBE_TOLERANCE
    try:
        if is_seq2seq(model):
            raise TypeError("a small copy knows one stack of layers")
        gap = _head_gap(small_copy(model))
    except Exception:  # whatever a foreign configuration raises, the model itself can answer
        gap = _head_gap(model)
        tolerance = HALF_TOLERANCE if model.dtype in (torch.float16, torch.bfloat16) else PROBE_TOLERANCE
    if not gap < tolerance:
        raise InputError(
            f"The output head of {type(model).__name__} scales or changes its logits in a way Nurture does not know "
            f"(its own logits and Nurture's differ by {gap:.1e}), so it would be trained wrongly; use another model."
        )
    _heads_checked.add(key)


def _head_gap(model: PreTrainedModel) -> float:
    """How far the logits of `output_head` are from the model's own, on eight tokens."""
    group = probe_group(model.config.get_text_config().vocab_size, prompt=3, responses=(5,))
    batch = Batch((group,), model.device)
    laid = lay_seq2seq(batch) if is_seq2seq(model) else lay_rows(batch)
    training = model.training
    try:
        with torch.no_grad(), layout_of(model, "rows"):
            model.eval()
            ours = output_head(model).logits(hidden_states(model, laid))
            asked = {"input_ids": laid.input_ids, "attention_mask": laid.attention_mask, "use_cache": False}
            if laid.decoder_ids is not None:
                asked["decoder_input_ids"] = _started(model, laid)
            theirs = model(**asked).logits
    finally:
        model.train(training)
    return relative_gap(ours, theirs.flatten(0, 1).to(ours.dtype))


def _configuration(model: PreTrainedModel) -> str:
    return type(model).__name__ + model.config.to_json_string()


_probed: dict[str, str | None] = {}
"""What `probe` found, by configuration: it is a function of that alone."""


def probe(model: PreTrainedModel) -> str | None:
    """`_probe`, once for each configuration."""
    key = _configuration(model)
    if key not in _probed:
        _probed[key] = _probe(model)
    return _probed[key]


def _probe(model: PreTrainedModel) -> str | None:
    """Run a small copy of the architecture, with weights scaled up so that attention matters, in both layouts.

    None if the hidden states agree and every layer called our attention once; otherwise what was seen. The
    sequences are longer than any window left in the small copy, so a window the configuration hides would show.
    """
    try:
        small = small_copy(model)
    except Exception as error:  # whatever a foreign configuration raises, the rows layout remains right
        return f"no small copy of {type(model).__name__} could be built to probe it ({type(error).__name__})"
    batch = Batch((probe_group(small.config.get_text_config().vocab_size),))
    try:
        with torch.no_grad():
            set_layout(small, "tree")
            laid = lay_tree(batch)
            tree = hidden_states(small, laid).index_select(0, laid.at)
            assert laid.plan is not None
            calls = laid.plan.calls
            set_layout(small, "rows")
            rows_laid = lay_rows(batch)
            rows = hidden_states(small, rows_laid).index_select(0, rows_laid.at)
    except Exception as error:
        return f"{type(model).__name__} does not take the tree layout ({type(error).__name__}: {str(error)[:120]})"
    layers = small.config.get_text_config().num_hidden_layers
    if calls != layers:
        return f"its {layers} layers called our attention {calls} times"
    gap = relative_gap(tree, rows)
    if not gap < PROBE_TOLERANCE:
        return f"tree and rows differ by {gap:.1e} in a probe"
    return None


def relative_gap(x: Tensor, y: Tensor) -> float:
    return ((x - y).norm() / y.norm()).item()


def probe_group(vocabulary: int, prompt: int = 24, responses: tuple[int, ...] = (40, 7, 23), seed: int = 0) -> Group:
    draw = np.random.Generator(np.random.Philox(key=seed))

    def ids(n: int) -> np.ndarray:
        return draw.integers(0, vocabulary, n)

    return Group(ids(prompt), tuple(Response(ids(n), np.ones(n, bool)) for n in responses))


def scale_up(model: nn.Module, factor: float = 4.0) -> None:
    """Make a freshly initialised model's attention and gates matter (at 0.02 they hide a missing softcap)."""
    for module in model.modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            linear: Any = module
            linear.weight.data.mul_(factor)
            if linear.bias is not None:
                linear.bias.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))


def small_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The same class and kind of configuration, narrow, with at most six layers (enough for every kind of layer)."""
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    heads, kv = text.num_attention_heads, getattr(text, "num_key_value_heads", None)
    ratio = heads // kv if kv else 1
    new_heads, head_dim = 2 * ratio, 16
    layers = min(text.num_hidden_layers, 6)
    changes: dict[str, Any] = {
        "vocab_size": 256, "hidden_size": new_heads * head_dim, "intermediate_size": 96, "head_dim": head_dim,
        "num_attention_heads": new_heads, "num_key_value_heads": 2, "num_hidden_layers": layers, "n_inner": None,
        "pad_token_id": None, "bos_token_id": None, "eos_token_id": None, "query_pre_attn_scalar": head_dim,
    }  # fmt: skip
    if getattr(text, "layer_types", None):
        changes["layer_types"] = text.layer_types[:layers]
    if getattr(text, "no_rope_layers", None):
        changes["no_rope_layers"] = text.no_rope_layers[:layers]
    for key, value in changes.items():
        if hasattr(text, key):
            setattr(text, key, value)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        small = type(model)(config).float().eval()
    scale_up(small)
    return small
