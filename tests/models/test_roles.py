"""Several roles on one base: each computes and learns as if the base were its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from adapted import adapted, declared, engine_of, load, make_base, save
from engine import demonstrations

from nurture.adapters.attached import active, adapter_parameters, attached, copy_adapter, train_on
from nurture.core.logp import selected_logp
from nurture.errors import InputError
from nurture.methods import PPO, Distill
from nurture.models.cast import assemble
from nurture.models.heads import add_score_head, output_head, score_head
from nurture.models.layouts import hidden_states, lay_rows, set_layout
from nurture.models.load import join
from nurture.models.roles import LocalRoles
from nurture.rollout.record import advantages, record
from nurture.train.loop import Budget, train
from nurture.train.optim import AdamW
from nurture.train.processes import Processes

CASES = ("lora", "lora-dora", "lora-pissa", "lora-some", "ia3", "bottleneck", "prompt", "ptuning-lstm", "prefix",
         "ptuning_v2", "qlora")  # fmt: skip
BATCH = demonstrations(seed=3)
PASSES = pytest.mark.parametrize(
    ("pieces", "checkpointing"),
    [
        pytest.param(False, False, id="whole"),
        pytest.param(True, True, id="pieces-checkpointing"),
        pytest.param(True, False, id="pieces", marks=pytest.mark.long),
        pytest.param(False, True, id="checkpointing", marks=pytest.mark.long),
    ],
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "model")


def stir(model, role, seed):
    """Other values for a role's adapter, far enough from each other that a mistaken one shows."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(model, role).values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=draw))


def together(base, case, layout, checkpointing):
    """Actor and critic on one base."""
    loaded = adapted(base, case)
    cast = assemble(loaded, layout, "policy", critic=True, ref=True, fresh=True)
    model = loaded.model
    stir(model, "policy", 1)
    stir(model, "value", 2)
    score_head(model, "value").weight.data.normal_(generator=torch.Generator().manual_seed(3))
    set_layout(model, layout)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
    roles = LocalRoles(cast.models, cast.layouts, AdamW(cast.trained.items()), Processes(), adapters=cast.adapters)
    return roles, cast


def alone(base, case, role, seed):
    """The same adapter as the only one of a model of its own."""
    model = adapted(base, case).model
    stir(model, "policy", seed)
    if role == "value":
        add_score_head(model, 1)
        score_head(model).weight.data.normal_(generator=torch.Generator().manual_seed(3))
    set_layout(model, "rows")
    return model


def mixed(logp, value):
    """A loss in which the gradient of each role depends on what the other says."""
    return (logp * value.tanh()).sum() + 0.1 * (value - logp.exp()).square().sum()


@PASSES
@pytest.mark.parametrize("case", CASES)
def test_two_roles_that_learn_have_the_gradients_of_two_models(base, case, pieces, checkpointing):
    declared(case)
    roles, cast = together(base, case, "tree", checkpointing)
    if pieces:  # scored without a graph, and again piece by piece in backward
        roles.tokens_per_pass = 40
    scores = roles.score(BATCH, {"policy": ("logp",), "value": ("value",), "ref": ("logp",)})
    roles.backward(mixed(scores.policy.logp, scores.value.value))
    found = roles.gradients()

    actor, critic = alone(base, case, "policy", 1), alone(base, case, "value", 2)
    laid = lay_rows(BATCH)
    at = [hidden_states(m, laid).index_select(0, laid.at) for m in (actor, critic)]
    logp = selected_logp(at[0], output_head(actor), BATCH.target).logp
    mixed(logp, score_head(critic)(at[1])[:, 0]).backward()
    assert set(found) == set(cast.trained)
    model = cast.models["policy"]
    for role, single in (("policy", actor), ("value", critic)):
        expected = {n: p.grad for n, p in adapter_parameters(single, "policy").items()}
        names = {id(p): n for n, p in model.named_parameters()}
        for name, parameter in adapter_parameters(model, role).items():
            gap = (found[names[id(parameter)]] - expected[name]).norm()
            assert gap <= 1e-5 * expected[name].norm() + 1e-7, f"{role} {name}"
    gap = (found["value_score.weight"] - critic.score.weight.grad).norm()
    assert gap <= 1e-5 * critic.score.weight.grad.norm()


@pytest.mark.parametrize("case", CASES)
def test_the_reference_is_the_base(base, case):
    declared(case)
    roles, cast = together(base, case, "tree", checkpointing=False)
    plain = load(base, quantized=declared(case).quantized).model
    if case == "lora-pissa":  # which takes a part out of the base: there it is a frozen copy of the adapter
        assert cast.adapters["ref"] == "ref"
        with active(cast.models["ref"], "ref"):
            assert not any(p.requires_grad for p in adapter_parameters(plain, "ref").values())
    else:
        assert cast.adapters["ref"] is None
    set_layout(plain, "tree")
    own = LocalRoles({"ref": plain}, {"ref": "tree"}, AdamW([]), Processes())
    expected, found = (r.score(BATCH, {"ref": ("logp",)}).ref.logp for r in (own, roles))
    assert torch.allclose(found, expected, atol=2e-5) if case == "lora-pissa" else torch.equal(found, expected)
    assert not found.requires_grad
    assert attached(cast.models["policy"]).active == "policy", "the policy's adapter is on again"


def test_an_adapter_that_was_loaded_is_its_own_reference(base):
    """What it starts from is not the base: a frozen copy of the adapter stays what it was."""
    loaded = adapted(base, "lora")
    stir(loaded.model, "policy", 5)
    cast = assemble(loaded, "tree", "policy", critic=False, ref=True, fresh=False)
    set_layout(loaded.model, "tree")
    roles = LocalRoles(cast.models, cast.layouts, AdamW(cast.trained.items()), Processes(), adapters=cast.adapters)
    before = roles.score(BATCH, {"policy": ("logp",)}).policy.logp
    stir(loaded.model, "policy", 6)
    assert torch.equal(roles.score(BATCH, {"ref": ("logp",)}).ref.logp, before.detach())
    assert not torch.equal(roles.score(BATCH, {"policy": ("logp",)}).policy.logp, before)


def test_a_critic_beside_a_finished_adapter(base, tmp_path):
    """It begins as the adapter that was loaded, and has values and gradients as on a model of its own."""
    first = adapted(base, "lora")
    stir(first.model, "policy", 4)
    folder = save(first, engine_of(first), tmp_path / "adapter")
    again, apart = load(folder), load(folder)
    for one in (again, apart):
        train_on(one.model)
    cast = assemble(again, "tree", "policy", critic=True, ref=True, fresh=False)
    assert cast.adapters == {"policy": "policy", "value": "value", "ref": "ref"}
    add_score_head(apart.model, 1)
    for head in (score_head(again.model, "value"), score_head(apart.model)):
        head.weight.data.normal_(generator=torch.Generator().manual_seed(3))
    set_layout(again.model, "tree")
    set_layout(apart.model, "rows")
    roles = LocalRoles(cast.models, cast.layouts, AdamW(cast.trained.items()), Processes(), adapters=cast.adapters)
    scores = roles.score(BATCH, {"policy": ("logp",), "value": ("value",), "ref": ("logp",)})
    assert torch.equal(scores.ref.logp, scores.policy.logp)
    roles.backward(scores.value.value.square().sum())
    found, names = roles.gradients(), {id(p): n for n, p in again.model.named_parameters()}

    laid = lay_rows(BATCH)
    expected = score_head(apart.model)(hidden_states(apart.model, laid).index_select(0, laid.at))[:, 0]
    assert torch.allclose(scores.value.value, expected, atol=1e-5)
    expected.square().sum().backward()
    own = adapter_parameters(again.model, "value")
    for name, parameter in adapter_parameters(apart.model, "policy").items():
        gap = (found[names[id(own[name])]] - parameter.grad).norm()
        assert gap <= 1e-5 * parameter.grad.norm() + 1e-7, name
    head = apart.model.score.weight.grad
    assert (found["value_score.weight"] - head).norm() <= 1e-5 * head.norm()


@pytest.mark.parametrize("case", CASES)
def test_ppo_leaves_the_base_as_it_was(base, case):
    declared(case)
    roles, cast = together(base, case, "tree", checkpointing=False)
    model = cast.models["policy"]
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    trained = {n: p.detach().clone() for n, p in cast.trained.items()}
    method = PPO(kl_in="loss", kl_estimator="full")
    batch = scored(roles, method)
    list(train(roles, method, [batch] * 3, learning_rate=lambda n: 1e-2, budget=Budget(60)))
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert not [n for n, p in cast.trained.items() if torch.equal(p, trained[n])], "actor, critic and its head learn"


def scored(roles, method):
    draw = np.random.default_rng(0)
    groups = [
        replace(g, responses=tuple(replace(r, score=float(draw.normal())) for r in g.responses)) for g in BATCH.groups
    ]
    batch = replace(BATCH, groups=tuple(groups))
    return advantages(record(batch, roles, method), method, {})


def test_a_critic_that_is_a_copy_shares_what_nobody_trains(base):
    """Where the base itself learns there is nothing to switch off, but frozen layers are there once."""
    loaded = adapted(base, "freeze")
    cast = assemble(loaded, "tree", "policy", critic=True, ref=True, fresh=True)
    policy, value, ref = (dict(cast.models[r].named_parameters()) for r in ("policy", "value", "ref"))
    for name, parameter in policy.items():
        for other in (value, ref):
            assert (other[name] is parameter) == (not parameter.requires_grad), name
    assert set(cast.trained) == {n for n, p in policy.items() if p.requires_grad} | {
        f"value.{n}" for n, p in value.items() if p.requires_grad
    }


@pytest.mark.parametrize("case", [*CASES, "freeze"])
def test_the_critics_weights_are_those_that_only_values_depend_on(base, case):
    if case == "freeze":
        cast = assemble(adapted(base, case), "rows", "policy", critic=True, ref=False, fresh=True)
        roles = LocalRoles(cast.models, cast.layouts, AdamW(cast.trained.items()), Processes())
        score_head(cast.models["value"]).weight.data.normal_()
    else:
        roles, cast = together(base, case, "rows", checkpointing=False)
    moved: dict[str, set[str]] = {}
    for role, quantity in (("policy", "logp"), ("value", "value")):
        scores = roles.score(BATCH, {role: (quantity,)})
        roles.backward(getattr(getattr(scores, role), quantity).square().sum())
        moved[role] = {name for name, p in cast.trained.items() if p.grad is not None and p.grad.any()}
        roles.discard()
    assert moved["value"] <= set(cast.critic) and not moved["policy"] & set(cast.critic)
    assert moved["policy"] | set(cast.critic) == set(cast.trained)


def test_ranks_are_not_shared_out_twice(base):
    with pytest.raises(InputError, match="adalora shares out one budget"):
        assemble(adapted(base, "adalora"), "tree", "policy", critic=True, ref=True, fresh=True)


def test_a_copy_begins_as_what_it_copies(base):
    model = adapted(base, "lora").model
    stir(model, "policy", 4)
    copy_adapter(model, "value")
    own, first = adapter_parameters(model, "value"), adapter_parameters(model, "policy")
    assert own.keys() == first.keys() and all(torch.equal(own[n], first[n]) for n in own)
    assert not any(p.requires_grad for p in own.values())
    train_on(model, ["value"])
    assert [n for n, p in model.named_parameters() if p.requires_grad] == [
        n for n, p in model.named_parameters() if ".value." in n
    ]


TEACHES = ("lora", "lora-dora", "ia3", "bottleneck", "prompt", "prefix", "ptuning_v2", "qlora")


@PASSES
@pytest.mark.parametrize("case", TEACHES)
def test_a_teacher_on_the_students_base_teaches_as_a_model_of_its_own(base, tmp_path, case, pieces, checkpointing):
    """The same divergence and the same gradients; nothing of the teacher learns."""
    teacher = adapted(base, case)
    stir(teacher.model, "policy", 7)
    folder = save(teacher, engine_of(teacher), tmp_path / "teacher")
    method, found = Distill(divergence="jsd", beta=0.3, temperature=1.5, sft_coef=0.1), []
    for shared in (False, True):
        student = adapted(base, case)
        stir(student.model, "policy", 1)
        if shared:
            assert join(student, folder, "teacher", judges=False) is not None
            models = {"policy": student.model, "teacher": student.model}
            adapters = {"policy": "policy", "teacher": "teacher"}
        else:
            models, adapters = {"policy": student.model, "teacher": load(folder).model.requires_grad_(False)}, {}
        for model in models.values():
            set_layout(model, "tree")
        if checkpointing:
            student.model.activation_checkpointing_enable({"use_reentrant": False})
            student.model.train()
        trained = {n: p for n, p in student.model.named_parameters() if p.requires_grad}
        layouts = dict.fromkeys(models, "tree")
        roles = LocalRoles(models, layouts, AdamW(trained.items()), Processes(), adapters=adapters)
        if pieces:
            roles.tokens_per_pass = 40
        loss = method.loss(BATCH, roles.score(BATCH, method.asks))
        roles.backward(loss.divided_by(method.counts(BATCH)))
        assert attached(student.model).active == "policy", "the student's adapter is on again"
        assert student.model.training == checkpointing
        found.append((float(loss.stats["divergence"][0]) / BATCH.num_own, roles.gradients()))
    (expected, theirs), (divergence, ours) = found
    assert divergence == pytest.approx(expected, rel=1e-5) and expected > 1e-5
    assert ours.keys() == theirs.keys() and theirs
    for name in theirs:
        assert (ours[name] - theirs[name]).norm() <= 1e-5 * theirs[name].norm() + 1e-7, name


def test_what_cannot_share_a_base_is_a_model_of_its_own(base, tmp_path):
    folders = {}
    for case in ("lora", "ia3", "adalora"):
        teacher = adapted(base, case)
        folders[case] = save(teacher, engine_of(teacher), tmp_path / case)
    assert join(adapted(base, "lora"), folders["ia3"], "teacher", judges=False) is None, "of another kind"
    assert join(adapted(base, "adalora"), folders["adalora"], "teacher", judges=False) is None, "one budget of ranks"
    assert join(adapted(base, "lora-pissa"), folders["lora"], "teacher", judges=False) is None, "the base has changed"
    assert join(load(base), folders["lora"], "teacher", judges=False) is None, "all weights learn"


def test_a_teacher_drops_nothing(base):
    """Not even where it is the model that learns with dropout."""
    student, teacher = load(base).model.requires_grad_(False), load(base, dropout=0.5).model
    for model in (student, teacher):
        set_layout(model, "rows")
    assert teacher.training
    roles = LocalRoles(
        {"policy": student, "teacher": teacher}, {"policy": "rows", "teacher": "rows"}, AdamW([]), Processes()
    )
    apart = roles.score(BATCH, Distill().asks).policy.divergence
    assert apart.abs().max() < 1e-6 and teacher.training
