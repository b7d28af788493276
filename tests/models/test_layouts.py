"""Tree = padded rows = each response alone, in values and gradients, for every family."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers as t
from families import COMMON, NO_GQA, ROWS, TREE, tiny

from nurture.core.logp import selected_logp
from nurture.core.reduce import global_norm
from nurture.errors import InputError
from nurture.models import layouts
from nurture.models.heads import output_head
from nurture.models.layouts import TreePlan, choose_layout, lay_rows, lay_tree, set_layout
from nurture.types import Batch, Group, Response


def group(draw, prompt, lengths, own=0.7):
    ids = lambda n: draw.integers(0, 199, n)  # noqa: E731
    return Group(ids(prompt), tuple(Response(ids(n), draw.random(n) < own) for n in lengths))


def mixed_batch():
    """A chain, a pair, a plain text without a prompt, and a group of sixteen that all read one prompt's last state."""
    draw = np.random.default_rng(0)
    shapes = [(9, (12,)), (7, (5, 11)), (0, (14,)), (5, tuple(draw.integers(1, 9, 16)))]
    return Batch(tuple(group(draw, prompt, lengths) for prompt, lengths in shapes))


def run(model, layout, batches, weights):
    """logp of every own token and the gradients of a weighted sum, forward passes batch by batch."""
    set_layout(model, layout)
    model.zero_grad()
    lay = {"tree": lay_tree, "rows": lay_rows}[layout]
    out = []
    for batch in batches:
        laid = lay(batch)
        hidden = layouts.hidden_states(model, laid).index_select(0, laid.at)
        out.append(selected_logp(hidden, output_head(model), batch.target).logp)
    logp = torch.cat(out)
    (logp * weights).sum().backward()
    return logp.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def gap(ours, theirs):
    """Relative, over all tensors together."""
    return global_norm([ours[n] - theirs[n] for n in theirs]) / global_norm(theirs.values())


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("family", TREE)
def test_tree_equals_rows_equals_alone(family, checkpointing):
    model = tiny(family)
    assert choose_layout(model, 256).layout == "tree"
    batch = mixed_batch()
    weights = torch.randn(batch.num_own, generator=torch.Generator().manual_seed(1))
    alone = [Batch((Group(g.prompt, (r,)),)) for g in batch.groups for r in g.responses]
    if checkpointing:
        model.train()
        model.activation_checkpointing_enable({"use_reentrant": False})
    tree = run(model, "tree", [batch], weights)
    rows = run(model, "rows", [batch], weights)
    single = run(model, "rows", alone, weights)
    for other in (rows, single):
        torch.testing.assert_close(tree[0], other[0], rtol=1e-5, atol=1e-5 * other[0].abs().max().item())
        assert tree[1].keys() == other[1].keys()
        assert gap(tree[1], other[1]) < 1e-5


@pytest.mark.parametrize("family", ROWS)
def test_families_the_tree_cannot_serve_use_rows(family):
    choice = choose_layout(tiny(family), 256)
    assert choice.layout == "rows" and choice.reason


@pytest.mark.parametrize("family", ROWS)
def test_rows_equal_each_row_alone_in_transformers(family):
    """Values and gradients. Rows on either side of 64 and 256, where the frequencies of longrope and of dynamic rotary
    embeddings change, share a pass; the model alone is new for every row, as dynamic ones remember the longest."""
    draw = np.random.default_rng(0)
    shapes = [(9, (12,)), (20, (75, 20)), (0, (14,)), (190, (85, 70))]
    batch = Batch(tuple(group(draw, prompt, lengths) for prompt, lengths in shapes))
    weights = torch.randn(batch.num_own, generator=torch.Generator().manual_seed(1))
    ours, gradients = run(tiny(family), "rows", [batch], weights)
    want, summed = [], {}
    for i, (prompt, r) in enumerate((g.prompt, r) for g in batch.groups for r in g.responses):
        model = tiny(family)
        ids = torch.as_tensor(np.concatenate([prompt, r.ids]))
        own = batch.owned[i] + len(prompt)
        want.append(model(ids[None]).logits[0].log_softmax(-1)[own - 1, ids[own]])
        start = sum(map(len, want[:-1]))
        (want[-1] * weights[start : start + len(own)]).sum().backward()
        for n, p in model.named_parameters():
            if p.grad is not None:
                summed[n] = summed.get(n, 0) + p.grad
    want = torch.cat(want).detach()
    torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5 * want.abs().max().item())
    assert gradients.keys() == summed.keys()
    assert gap(gradients, summed) < 1e-5


HEADS = {
    "granite": lambda: t.GraniteConfig(**COMMON, logits_scaling=3.0),
    "cohere": lambda: t.CohereConfig(**COMMON, logit_scale=0.25),
    "gemma2": TREE["gemma2"],
    "hyperclovax": lambda: t.HyperCLOVAXConfig(**COMMON, logits_scaling=3.0),
    "falcon_h1": lambda: t.FalconH1Config(**COMMON, lm_head_multiplier=0.3, mamba_d_ssm=32, mamba_n_heads=4,
                                          mamba_d_state=8, mamba_chunk_size=8),
    "minicpm3": lambda: t.MiniCPM3Config(**NO_GQA, num_key_value_heads=4, dim_model_base=16, q_lora_rank=24,
                                         kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8),
}  # fmt: skip


def built(config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = t.AutoModelForCausalLM.from_config(config).float().eval()
    layouts.scale_up(model)
    return model


@pytest.mark.parametrize("family", HEADS)
def test_known_heads_give_the_models_own_logits(family):
    model = built(HEADS[family]())
    layout = choose_layout(model, 64).layout
    batch = mixed_batch()
    with torch.no_grad():
        set_layout(model, layout)
        laid = layouts.LAY[layout](batch)
        hidden = layouts.hidden_states(model, laid).index_select(0, laid.at)
        ours = selected_logp(hidden, output_head(model), batch.target).logp
        set_layout(model, "rows")
        want = []
        for i, (prompt, r) in enumerate((g.prompt, r) for g in batch.groups for r in g.responses):
            ids = torch.as_tensor(np.concatenate([prompt, r.ids]))
            own = batch.owned[i] + len(prompt)
            want.append(model(ids[None]).logits[0].log_softmax(-1)[own - 1, ids[own]])
    torch.testing.assert_close(ours, torch.cat(want), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("wanted", ["auto", "tree", "rows"])
def test_an_unknown_head_is_refused_whatever_the_layout(wanted):
    """RecurrentGemma caps its logits under a name of its own, and its layers already rule the tree out."""
    model = built(t.RecurrentGemmaConfig(**COMMON, logits_soft_cap=2.0))
    with pytest.raises(InputError, match="RecurrentGemmaForCausalLM scales or changes its logits"):
        choose_layout(model, 64, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_itself_is_asked_where_no_small_copy_can_be_built(monkeypatch, dtype):
    def small_copy(model):
        raise ValueError

    monkeypatch.setattr(layouts, "small_copy", small_copy)
    monkeypatch.setattr(layouts, "_heads_checked", set())
    monkeypatch.setattr(layouts, "_probed", {})
    model = built(HEADS["granite"]()).to(dtype).train()
    set_layout(model, "tree")
    layouts.check_head(model)
    assert model.training and model.config._attn_implementation == "nurture"
    monkeypatch.setattr(layouts, "_heads_checked", set())
    monkeypatch.setattr(layouts, "output_head", lambda m: dataclasses.replace(output_head(m), scale=1.0))
    with pytest.raises(InputError, match="Granite"):
        choose_layout(model, 64, "rows")


def test_a_head_that_is_not_linear_is_refused():
    model = tiny("llama")
    model.lm_head = torch.nn.Sequential(model.lm_head)
    with pytest.raises(InputError, match="LlamaForCausalLM is not a linear layer but Sequential"):
        choose_layout(model, 64, "rows")


def test_a_window_shorter_than_the_context_decides():
    model = tiny("gemma2")
    assert choose_layout(model, 256).layout == "tree"
    longer = choose_layout(model, 257)
    assert longer.layout == "rows" and "sliding_window 256" in longer.reason


def test_the_probe_sees_a_softcap_that_is_ignored(monkeypatch):
    attend = TreePlan.attend
    monkeypatch.setattr(layouts, "_probed", {})
    monkeypatch.setattr(
        TreePlan, "attend", lambda self, layer, q, k, v, scale, cap: attend(self, layer, q, k, v, scale, None)
    )
    choice = choose_layout(tiny("gemma2"), 256)
    assert choice.layout == "rows" and "differ by" in choice.reason


def test_the_probe_sees_a_prompt_that_leaks(monkeypatch):
    """Responses attending to each other, the mistake packing is known for."""
    lay = layouts.lay_tree

    def leaky(batch):
        laid = lay(batch)
        assert laid.plan is not None
        laid.plan.parent[3] = 2  # the last response of the probe's one group, behind another
        return laid

    monkeypatch.setattr(layouts, "_probed", {})
    monkeypatch.setattr(layouts, "lay_tree", leaky)
    assert choose_layout(tiny("llama"), 256).layout == "rows"


def test_a_call_without_a_plan_raises():
    model = tiny("llama")
    set_layout(model, "tree")
    with pytest.raises(RuntimeError, match="without a plan"):
        model(torch.arange(5)[None])


def test_reruns_are_bit_equal():
    """Sixteen responses read one prompt's last state: its gradient must not depend on the order threads finish."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    try:
        model = tiny("llama")
        batch = mixed_batch()
        weights = torch.randn(batch.num_own, generator=torch.Generator().manual_seed(1))
        first = run(model, "tree", [batch], weights)
        for _ in range(20):
            again = run(model, "tree", [batch], weights)
            assert all(torch.equal(first[1][n], again[1][n]) for n in first[1])
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(threads)
