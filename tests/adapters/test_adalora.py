"""AdaLoRA is algorithm 1 of its paper: against a NumPy reference, and against peft's allocator on the same numbers."""

import numpy as np
import pytest
import torch
from adapted import adapted, engine_of, learn, make_base

from nurture.adapters.adalora import AdaLoRA, RankBudget
from nurture.errors import InputError
from nurture.methods import SFT

STEM = "layer.{}.proj"


class Learner:
    """Masters and parameters of three matrices, as the optimiser holds them."""

    def __init__(self, matrices=3, r=4, seed=0):
        draw = torch.Generator().manual_seed(seed)
        self.parameters = {}
        for i in range(matrices):
            for part, shape in {"E": (r, 1), "A": (r, 5 + i), "B": (7, r)}.items():
                value = torch.randn(shape, generator=draw)
                self.parameters[f"{STEM.format(i)}.lora_{part}.policy"] = torch.nn.Parameter(value)
        self.master = {n: p.data for n, p in self.parameters.items()}

    def gradients(self, draw):
        return {n: torch.randn(p.shape, generator=draw) for n, p in self.parameters.items()}


def reference(history, adapter, first, final, matrices, r):
    """Algorithm 1 as the paper writes it, with triplets ranked by `sorted`. Yields the kept triplets of each step."""
    sensitivity, uncertainty, kept = {}, {}, {(i, j) for i in range(matrices) for j in range(r)}
    total, target = matrices * r, matrices * adapter.target_r
    for t, (values, gradients) in enumerate(history, 1):
        if t <= final:
            for name in values:
                now = np.abs(values[name] * gradients[name])
                sensitivity[name] = adapter.beta1 * sensitivity.get(name, 0.0) + (1 - adapter.beta1) * now
                uncertainty[name] = adapter.beta2 * uncertainty.get(name, 0.0) + (1 - adapter.beta2) * np.abs(
                    now - sensitivity[name]
                )
        if first < t <= final and (t % adapter.deltaT == 0 or t == final):
            budget = int(target + (total - target) * (1 - (t - first) / (final - first)) ** 3)
            score = {}
            for i in range(matrices):
                e, a, b = (
                    sensitivity[f"{STEM.format(i)}.lora_{x}.policy"] * uncertainty[f"{STEM.format(i)}.lora_{x}.policy"]
                    for x in "EAB"
                )
                for j in range(r):
                    score[i, j] = e[j, 0] + a[j].mean() + b[:, j].mean()
            kept = set(sorted(score, key=lambda key: -score[key])[:budget])
        yield kept


@pytest.mark.parametrize("interval", [1, 3])
def test_it_is_algorithm_1(interval):
    adapter = AdaLoRA(init_r=4, target_r=2, deltaT=interval, tinit=3, tfinal=5)
    learner, steps = Learner(), 20
    first, final = adapter.phases(steps)
    assert (first, final) == (3, 15)
    budget = RankBudget(adapter, learner, first, final)
    draw, history, masks = torch.Generator().manual_seed(1), [], []
    for _ in range(steps):
        gradients = learner.gradients(draw)
        history.append(
            ({n: v.double().numpy().copy() for n, v in learner.master.items()},
             {n: g.double().numpy() * 0.5 for n, g in gradients.items()})
        )  # fmt: skip
        budget.before_update(gradients, 0.5)
        for name, master in learner.master.items():
            master.add_(gradients[name], alpha=-0.1)
        told = budget.after_update()
        masks.append({(i, j) for i in range(3) for j in range(4) if budget.kept[f"{STEM.format(i)}.lora_E.policy"][j]})
        assert told["rank"] == len(masks[-1])
        if len(masks) > first and (len(masks) >= final or len(masks) % interval == 0):
            for i in range(3):
                e = learner.master[f"{STEM.format(i)}.lora_E.policy"]
                assert {(i, j) for j in range(4) if e[j]} == {m for m in masks[-1] if m[0] == i}
    assert masks == list(reference(history, adapter, first, final, 3, 4))
    assert len(masks[-1]) == 3 * 2, "the budget is spent, and not more"
    assert len({len([m for m in masks[-1] if m[0] == i]) for i in range(3)}) > 1, "some matrices get more than others"


def test_pefts_allocator_keeps_the_same_triplets():
    """peft scores with the values after the update; given the same values, it and we rank alike."""
    from peft import AdaLoraConfig
    from peft.tuners.adalora.layer import RankAllocator

    adapter = AdaLoRA(init_r=4, target_r=2, tinit=2, tfinal=4)
    learner = Learner(seed=3)
    budget = RankBudget(adapter, learner, *adapter.phases(14))
    config = AdaLoraConfig(init_r=4, target_r=2, tinit=2, tfinal=4, total_step=14, beta1=0.85, beta2=0.85)
    theirs = torch.nn.Module()
    names = {n.replace(".", "_", 2): n for n in learner.parameters}
    for n in names:
        holder = theirs
        *parents, last = n.split(".")
        for part in parents:
            holder.register_module(part, getattr(holder, part, torch.nn.Module()))
            holder = getattr(holder, part)
        holder.register_parameter(last, torch.nn.Parameter(learner.parameters[names[n]].detach().clone()))
    allocator = RankAllocator(theirs, config, "policy")
    draw = torch.Generator().manual_seed(5)
    for t in range(1, 11):
        gradients = learner.gradients(draw)
        own = dict(theirs.named_parameters())
        for n, ours in names.items():
            own[n].data.copy_(learner.master[ours])
            own[n].grad = gradients[ours]
        allocator.update_ipt(theirs)
        budget.before_update(gradients, 1.0)
        budget.after_update()
        wanted, masks = allocator.budget_schedule(t)
        if masks and wanted < allocator.init_bgt:
            pattern = allocator.mask_to_budget(theirs, wanted)
            assert wanted == budget.budget(t)
            for n, kept in pattern.items():
                assert budget.kept[names[n]].flatten().tolist() == kept


def test_the_penalty_is_pefts(tmp_path):
    """`AdaLoraModel.forward` adds the same term to the loss."""
    loaded = adapted(make_base(tmp_path / "base"), "adalora")
    roles = engine_of(loaded, "rows")
    ids = torch.arange(9)[None]
    held = loaded.model._attached
    tuner = held.peft.base_model
    with torch.no_grad():
        plain = loaded.model(input_ids=ids, labels=ids).loss
        added = tuner(input_ids=ids, labels=ids).loss - plain
    assert float(roles.companion.penalty()) == pytest.approx(float(added), rel=1e-4)


def test_ranks_change_in_a_training_and_respect_the_budget(tmp_path):
    loaded = adapted(make_base(tmp_path / "base"), "adalora", steps=12)
    roles, steps = learn(loaded, SFT(), steps=12, rate=1e-2, of=12)
    matrices = len(roles.companion.ranks())
    assert [s.metrics["rank"] for s in steps][:1] == [4.0 * matrices]
    ranks = [s.metrics["rank"] for s in steps]
    assert ranks == sorted(ranks, reverse=True) and ranks[-1] == 2 * matrices
    assert len(set(roles.companion.ranks().values())) > 1
    for name, mask in roles.companion.kept.items():
        parameter = dict(loaded.model.named_parameters())[name]
        assert torch.equal(parameter != 0, mask), "the model computes with what was allocated"
        assert torch.equal(roles.optimizer.master[name] != 0, mask), "and so do the masters"
    assert steps[0].metrics["penalty"] > steps[-1].metrics["penalty"] > 0


def test_a_schedule_without_room_is_refused():
    with pytest.raises(InputError, match="leave no update of 4"):
        AdaLoRA(tinit=2, tfinal=2).phases(4)
