"""The checks of our test suite, on the user's own model and machine.

Each compares two ways to the same number that must agree; the bound is what the arithmetic allows. A check that fails
means that training or sampling with this model on this machine would be wrong, and the command ends with an error.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from ..adapters.attached import num_virtual
from ..core.logp import selected_logp
from ..core.reduce import global_norm
from ..data.template import Template
from ..errors import InputError
from ..methods import SFT
from ..models.heads import output_head
from ..models.layouts import (
    LAY,
    Layout,
    choose_layout,
    hidden_states,
    lay_rows,
    layout_of,
    relative_gap,
    scale_up,
    set_layout,
    small_copy,
)
from ..models.load import LoadedModel, download, embed_new_tokens, load_model, quiet, resolve_model
from ..models.roles import LocalRoles
from ..models.save import save_model
from ..protocols import Request, Sampling
from ..records import Conversation, Message
from ..rollout.sampler import LocalSampler
from ..train.loop import Budget, train
from ..train.optim import AdamW
from ..train.precision import choose_device, choose_precision, deterministic
from ..train.processes import Processes
from ..types import Batch, Group, Response
from .answers import with_chat

TINY = {
    "config": {
        "model_type": "qwen2", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    },
    "tokenizer": {"vocab_size": 400},
}  # fmt: skip

EXACT = 1e-5
"""What fp32 allows two orders of summation to differ by, relatively."""
SAMPLER = 5e-5
"""Nats by which the sampler's log-probabilities may differ from the trainer's in fp32."""
HALF_COPY_LIMIT = 1_000_000_000
"""Parameters up to which a second copy in bf16 is made to measure the gap."""
ROUGH = 0.1
"""The same in bf16, where it is reported rather than promised: beyond this something else is wrong."""


@dataclass(frozen=True, slots=True)
class Check:
    """`measured` against `bound`; `ok` says whether the check holds."""

    name: str
    measured: float
    bound: float
    ok: bool
    note: str = ""


def run_checks(model: str = "tiny", device: str = "auto", precision: str = "fp32", seed: int = 42) -> list[Check]:
    """Every check on one model, in fp32 unless asked otherwise (only there can rounding be told from a mistake)."""
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    source = TINY if model == "tiny" else resolve_model(model, {})
    texts = ["The small test model of the self-test reads these words, counts 1 2 3, and says yes or no."] * 20
    loaded = with_chat(load_model(source, dtype=dtype, device=where, seed=seed, texts=texts))
    if loaded.model.config.is_encoder_decoder:
        raise InputError(f"{model} is an encoder-decoder; the checks here are of models that go on with a text.")
    if model == "tiny":
        scale_up(loaded.model)
    deterministic()
    return list(_checks(loaded, dtype == torch.float32))


def _checks(loaded: LoadedModel, exact: bool) -> Iterator[Check]:
    model, bound = loaded.model, EXACT if exact else ROUGH
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # an adapter brings its own back
            module.p = 0.0
    batch = _batch(model.config.get_text_config().vocab_size, model.device)
    choice = choose_layout(model, 128)
    layout = choice.layout

    def compare(name: str, measured: float, note: str = "") -> Check:
        return Check(name, measured, bound, measured <= bound, note)

    set_layout(model, layout)
    with torch.no_grad():
        whole = _logp(model, layout, batch)
        if not num_virtual(model):  # the model's own code knows nothing of tokens that only peft puts before a text
            plain = _gap(whole, _plain_logp(model, batch))
            yield compare("log-probs: ours = the model's own logits", plain, f"{layout} layout: {choice.reason}")
        singles = [Batch((Group(g.prompt, (r,)),), batch.device) for g in batch.groups for r in g.responses]
        alone = torch.cat([_logp(model, layout, single) for single in singles])
        yield compare("log-probs: in a batch = alone", _gap(whole, alone))
        if layout == "tree":
            with layout_of(model, "rows"):
                yield compare("log-probs: tree layout = padded rows", _gap(whole, _logp(model, "rows", batch)))

    reference = _gradients(model, layout, batch)
    yield compare("gradients: micro-batches = one batch", _distance(_gradients(model, layout, batch, 48), reference))
    if layout == "tree":
        yield compare("gradients: tree layout = padded rows", _distance(_gradients(model, "rows", batch), reference))
        set_layout(model, layout)
    if layout == "tree" or not num_virtual(model):  # in rows, `check_virtual` refuses a prefix together with it
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        again = _gradients(model, layout, batch)
        yield compare("gradients: activation checkpointing = none", _distance(again, reference))
        model.activation_checkpointing_disable()
        model.eval()
    again = _gradients(model, layout, batch)
    differing = sum(not torch.equal(again[n], reference[n]) for n in reference)
    yield _none("gradients: a second run = the first, bit for bit", differing, "tensors that differ")
    del reference, again

    yield from _sampler_checks(loaded, layout, exact)
    yield _resume_check(loaded)
    if loaded.is_peft:
        yield compare("folder: plain peft gives the same log-probs", _peft_gap(loaded, layout))
    else:
        yield _folder_check(loaded)
    yield _template_check(loaded)


def _sampler_checks(loaded: LoadedModel, layout: Layout, exact: bool) -> Iterator[Check]:
    model = loaded.model
    groups = _batch(model.config.get_text_config().vocab_size, model.device).groups
    prompts = [g.prompt for g in groups if len(g.prompt)]
    sampler = LocalSampler(model, layout=layout)
    requests = [Request(p, n=3, key=str(i)) for i, p in enumerate(prompts)]
    samples = sampler.sample(requests, Sampling(max_tokens=24, temperature=0.8, seed=1))
    drawn = Batch(
        tuple(
            Group(p, tuple(Response(s.ids, np.ones(len(s.ids), bool)) for s in samples if s.request == i))
            for i, p in enumerate(prompts)
        ),
        model.device,
    )
    with torch.no_grad():
        trainer = _logp(model, layout, drawn, temperature=0.8)
    ours = torch.as_tensor(np.concatenate([s.logp for s in samples])).to(trainer)
    gap = (ours - trainer).abs().max().item()
    limit = SAMPLER if exact else ROUGH
    yield Check("sampler: log-probs = the trainer's", gap, limit, gap <= limit, "largest difference in nats")
    if not exact or num_virtual(model):
        return
    greedy = sampler.sample([Request(p) for p in prompts], Sampling(max_tokens=16, temperature=0.0))
    differing = 0
    own = model.generation_config
    model.generation_config = GenerationConfig(pad_token_id=0)  # without stop tokens and penalties, as we were asked
    try:
        with layout_of(model, "rows"), torch.no_grad():
            for prompt, sample in zip(prompts, greedy, strict=True):
                ids = torch.as_tensor(prompt)[None].to(model.device)
                out = model.generate(  # pyright: ignore[reportCallIssue]
                    ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16
                )
                differing += int(out[0, len(prompt) :].tolist() != sample.ids.tolist())
    finally:
        model.generation_config = own
    yield _none("sampler: greedy text = transformers' generate", differing, "prompts that differ")
    if model.num_parameters() < HALF_COPY_LIMIT:
        half = copy.deepcopy(model).bfloat16()
        with torch.no_grad():
            gap = (_logp(half, layout, drawn, temperature=0.8) - trainer).abs().max().item()
        yield Check("bf16: largest gap of a log-prob to fp32", gap, float("inf"), True, "measured, not promised")


def _resume_check(loaded: LoadedModel) -> Check:
    """Two steps, a checkpoint, two steps = four steps; on a small copy of the architecture, which fits anywhere."""
    from ..train.checkpoint import CheckpointStore
    from ..train.context import Context

    small = small_copy(loaded.model)
    layout = choose_layout(small, 128).layout
    batch = _batch(small.config.get_text_config().vocab_size, torch.device("cpu"))

    def trained(model: PreTrainedModel, optimizer: AdamW, steps: int) -> None:
        roles = LocalRoles({"policy": model}, {"policy": layout}, optimizer, Processes())
        for _ in train(roles, SFT(), [batch] * steps, learning_rate=lambda n: 1e-3, budget=Budget(64)):
            pass

    def start() -> tuple[PreTrainedModel, AdamW]:
        model = copy.deepcopy(small)
        set_layout(model, layout)
        return model, AdamW(model.named_parameters())

    straight, optimizer = start()
    trained(straight, optimizer, 4)
    first, optimizer = start()
    trained(first, optimizer, 2)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        store.save(2, optimizer.tensors(), {"updates": optimizer.updates}, Context.here({}, {}, torch.device("cpu")))
        second, optimizer = start()
        found = store.load_newest()
        assert found is not None
        optimizer.load(found.tensors, found.state["updates"])
    trained(second, optimizer, 2)
    pairs = zip(straight.parameters(), second.parameters(), strict=True)
    differing = sum(not torch.equal(a, b) for a, b in pairs)
    return _none("resume: through a checkpoint = uninterrupted", differing, "weights that differ, on a small copy")


def _folder_check(loaded: LoadedModel) -> Check:
    """The folder we write, read by plain transformers."""
    from transformers import AutoModelForCausalLM

    model = loaded.model
    batch = _batch(model.config.get_text_config().vocab_size, model.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        save_model(
            model, loaded.tokenizer, path, state=None, dtype=model.dtype, card="",
            original_dropout=loaded.original_dropout,
        )  # fmt: skip
        with quiet():
            plain: Any = AutoModelForCausalLM.from_pretrained(path, dtype=model.dtype)
            plain.to(model.device).eval()
        with torch.no_grad(), layout_of(model, "rows"):
            gap = relative_gap(_all_logits(model, batch).float(), _all_logits(plain, batch).float())
    return Check("folder: plain transformers give the same logits", gap, 1e-6, gap <= 1e-6)


def _peft_gap(loaded: LoadedModel, layout: Layout) -> float:
    """Between our log-probabilities and those of the adapter's folder on its base, read by plain peft."""
    from peft import PeftModel

    model, adapter = loaded.model, loaded.adapter
    assert adapter is not None, "a folder of peft's holds an adapter"
    base = load_model(
        resolve_model(loaded.base, {}), dtype=model.dtype, device=model.device, seed=0, merged=True,
        quantized=adapter.quantized,
    ).model  # fmt: skip
    embed_new_tokens(base, loaded.tokenizer)
    set_layout(base, "rows")
    folder = loaded.source if Path(loaded.source).is_dir() else download(loaded.source)
    gap = 0.0
    with quiet(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        plain = PeftModel.from_pretrained(base, folder).eval()
        for group in _batch(model.config.get_text_config().vocab_size, model.device).groups:
            ids = np.concatenate([group.prompt, group.responses[0].ids])
            text = Batch((Group(ids[:1], (Response(ids[1:], np.ones(len(ids) - 1, bool)),)),), model.device)
            logits = plain(input_ids=torch.as_tensor(ids)[None].to(model.device)).logits[0, -len(ids) : -1]
            theirs = logits.float().log_softmax(-1).gather(1, text.target[:, None]).squeeze(1)
            gap = max(gap, _gap(_logp(model, layout, text), theirs))
    return gap


def _template_check(loaded: LoadedModel) -> Check:
    template = Template(loaded.tokenizer)
    turns = [("user", "Is 2 + 2 = 4?"), ("assistant", "Yes."), ("user", "Sure?"), ("assistant", "Yes, it is.")]
    chat = Conversation(tuple(Message(role, content) for role, content in turns))
    response = template.encode(chat).responses[0]
    ends = int(np.isin(response.ids[response.mask], template.stop_ids).sum())
    return _none("template: every answer ends in a trained stop token", 2 - ends, "answers without one")


def _none(name: str, found: int, what: str) -> Check:
    """A check that nothing of a kind was found."""
    return Check(name, float(found), 0.0, found == 0, what)


def _batch(vocabulary: int, device: torch.device) -> Batch:
    """A chain, a text without prompt, a pair, and sixteen answers to one prompt."""
    draw = np.random.Generator(np.random.Philox(key=7))

    def group(prompt: int, lengths: tuple[int, ...]) -> Group:
        responses = tuple(Response(draw.integers(0, vocabulary, n), draw.random(n) < 0.8) for n in lengths)
        return Group(draw.integers(0, vocabulary, prompt), responses)

    shapes = [(11, (14,)), (0, (17,)), (9, (6, 13)), (12, tuple(int(n) for n in draw.integers(2, 9, 16)))]
    return Batch(tuple(group(*shape) for shape in shapes), device)


def _logp(model: PreTrainedModel, layout: Layout, batch: Batch, temperature: float = 1.0) -> Tensor:
    laid = LAY[layout](batch)
    hidden = hidden_states(model, laid).index_select(0, laid.at)
    return selected_logp(hidden, output_head(model).at(temperature), batch.target).logp


def _plain_logp(model: PreTrainedModel, batch: Batch) -> Tensor:
    with layout_of(model, "rows"):
        logits = _all_logits(model, batch)
    laid = lay_rows(batch)
    chosen = logits.flatten(0, 1).index_select(0, laid.at).float().log_softmax(-1)
    return chosen.gather(1, batch.target[:, None]).squeeze(1)


def _all_logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    laid = lay_rows(batch)
    mask = laid.attention_mask
    assert mask is not None
    logits = model(
        input_ids=laid.input_ids, attention_mask=mask, position_ids=laid.position_ids, use_cache=False
    ).logits
    return logits * mask[..., None]


def _gradients(model: PreTrainedModel, layout: Layout, batch: Batch, tokens: int = 1 << 30) -> dict[str, Tensor]:
    set_layout(model, layout)
    roles = LocalRoles({"policy": model}, {"policy": layout}, AdamW([]), Processes())
    method = SFT()
    for micro in batch.split(tokens):
        roles.backward(method.loss(micro, roles.score(micro, method.roles)).divided_by(method.counts(batch)))
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    return gradients


def _gap(x: Tensor, y: Tensor) -> float:
    return relative_gap(x.double(), y.double())


def _distance(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    return global_norm([ours[n].double() - theirs[n].double() for n in theirs]) / global_norm(theirs.values())
