"""Tree = padded rows = each response alone, in values and gradients, for every family."""

import numpy as np
import pytest
import torch
from families import ROWS, TREE, tiny

from nurture.core.logp import selected_logp
from nurture.core.reduce import global_norm
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


def test_rows_are_right_where_the_tree_is_not():
    """In the rows layout a sliding-window model equals transformers' own logits, response by response."""
    model = tiny("mistral-window")
    batch = mixed_batch()
    ours, _ = run(model, "rows", [batch], torch.ones(batch.num_own))
    want = []
    with torch.no_grad():
        for i, (prompt, r) in enumerate((g.prompt, r) for g in batch.groups for r in g.responses):
            ids = torch.as_tensor(np.concatenate([prompt, r.ids]))
            logp = model(ids[None]).logits[0].log_softmax(-1)
            own = batch.owned[i] + len(prompt)
            want.append(logp[own - 1, ids[own]])
    torch.testing.assert_close(ours, torch.cat(want), rtol=1e-5, atol=1e-5)


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
        laid.plan.parent[-1] = len(laid.plan.parent) - 2
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
