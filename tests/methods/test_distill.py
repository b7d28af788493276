"""Distillation against transformers' own logits with the divergence written out, and against TRL's."""

import numpy as np
import pytest
import torch
from engine import VOCABULARY, demonstrations, engine, one_step
from families import tiny
from pydantic import ValidationError
from torch.distributions import Categorical, kl_divergence

from nurture.methods import Distill
from nurture.models.layouts import set_layout
from nurture.models.roles import LocalRoles
from nurture.train.loop import Budget, train
from nurture.train.optim import AdamW
from nurture.train.processes import Processes

METHODS = [
    Distill(),
    Distill(divergence="reverse"),
    Distill(divergence="jsd"),
    Distill(divergence="jsd", beta=0.1, temperature=2.0, sft_coef=0.3),
    Distill(temperature=3.0, sft_coef=1.0),
]


def name(method):
    return f"{method.divergence} {method.beta} {method.temperature} {method.sft_coef}"


def own_logits(model, batch):
    """`[T, V]` before each own token and `[T]` that token, one response after the other through the plain model."""
    logits, tokens = [], []
    for group in batch.groups:
        for r in group.responses:
            ids = torch.as_tensor(np.concatenate([group.prompt, r.ids]))
            places = [len(group.prompt) + i for i in np.flatnonzero(r.mask) if len(group.prompt) + i > 0]
            logits.append(model(ids[None]).logits[0][[place - 1 for place in places]])
            tokens.append(ids[places])
    return torch.cat(logits), torch.cat(tokens)


def written_out(method, student, teacher):
    """`[T]` the divergence by torch's own KL between distributions."""
    p, q = (Categorical(logits=logits.double() / method.temperature) for logits in (student, teacher))
    m = Categorical(probs=method.beta * q.probs + (1 - method.beta) * p.probs)
    return {
        "forward": lambda: kl_divergence(q, p),
        "reverse": lambda: kl_divergence(p, q),
        "jsd": lambda: method.beta * kl_divergence(q, m) + (1 - method.beta) * kl_divergence(p, m),
    }[method.divergence]()


@pytest.mark.parametrize("method", METHODS, ids=name)
def test_value_and_gradient_from_full_logits(method):
    batch, model, teacher = demonstrations(), tiny("qwen2", 0), tiny("qwen2", 1)
    logits, tokens = own_logits(model, batch)
    with torch.no_grad():
        goal, _ = own_logits(teacher, batch)
    divergence = written_out(method, logits, goal)
    nll = torch.nn.functional.cross_entropy(logits, tokens, reduction="none")
    loss = (method.temperature**2 * divergence + method.sft_coef * nll).mean()
    loss.backward()
    metrics, ours = one_step(engine("qwen2"), method, batch, tokens=60)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["divergence"] == pytest.approx(divergence.mean().item(), rel=1e-5)
    assert metrics["nll"] == pytest.approx(nll.mean().item(), rel=1e-5)
    assert metrics["token_accuracy"] == pytest.approx((logits.argmax(1) == tokens).float().mean().item())
    theirs = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert theirs.keys() == {n for n in ours if n != "score.weight"}
    for n in theirs:
        torch.testing.assert_close(ours[n], theirs[n], rtol=1e-4, atol=1e-6 + 1e-5 * theirs[n].abs().max().item())


@pytest.mark.parity
@pytest.mark.parametrize("method", METHODS, ids=name)
def test_it_is_trls(method):
    """TRL has no factor temperature^2 and adds no likelihood."""
    pytest.importorskip("trl", reason="compares with TRL (extra: parity)")
    from trl.experimental.gkd import GKDTrainer

    beta = {"forward": 0, "reverse": 1, "jsd": method.beta}[method.divergence]
    batch, model, teacher = demonstrations(), tiny("llama", 0), tiny("llama", 1)
    with torch.no_grad():
        student, goal = own_logits(model, batch)[0], own_logits(teacher, batch)[0]
    theirs = GKDTrainer.generalized_jsd_loss(
        student[None], goal[None], labels=torch.zeros(1, len(student), dtype=torch.long), beta=beta,
        temperature=method.temperature,
    )  # fmt: skip
    metrics, _ = one_step(engine("llama"), method, batch)
    assert metrics["divergence"] == pytest.approx(theirs.item(), rel=1e-5)


def roles_with(teacher, family="llama"):
    """A student beside a teacher of other sizes."""
    student = tiny(family, 0)
    for model in (student, teacher.requires_grad_(False)):
        set_layout(model, "tree")
    models = {"policy": student, "teacher": teacher}
    return LocalRoles(models, dict.fromkeys(models, "tree"), AdamW(list(student.named_parameters())), Processes())


def test_a_teacher_may_be_of_another_architecture():
    batch, teacher = demonstrations(), tiny("gpt2", 3)
    with torch.no_grad():
        expected = written_out(Distill(), own_logits(tiny("llama"), batch)[0], own_logits(teacher, batch)[0])
    metrics, gradients = one_step(roles_with(teacher), Distill(), batch)
    assert metrics["divergence"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert gradients and not any(p.grad is not None for p in teacher.parameters())


def test_a_teacher_whose_table_is_filled_up_further():
    """The rows that no token has change nothing, however large their logits."""
    batch, teacher = demonstrations(), tiny("llama", 1)
    exact, _ = one_step(roles_with(teacher), Distill(), batch)
    wider = tiny("llama", 1)
    wider.resize_token_embeddings(VOCABULARY + 9)
    wider.lm_head.weight.data[VOCABULARY:] = 5.0
    metrics, _ = one_step(roles_with(wider), Distill(), batch)
    assert metrics["divergence"] == pytest.approx(exact["divergence"], rel=1e-6)


@pytest.mark.parametrize("method", METHODS[:3], ids=name)
def test_the_student_comes_to_say_what_the_teacher_says(method):
    """Also where the answers are not those that the teacher would give: it is its distribution that is learnt."""
    roles, batch = engine(), demonstrations()
    steps = train(roles, method, [batch] * 40, learning_rate=lambda n: 3e-3, budget=Budget(1 << 30))
    found = [step.metrics["divergence"] for step in steps]
    assert found[-1] < 0.1 * found[0]


def test_what_would_have_no_effect_is_refused():
    with pytest.raises(ValidationError, match="beta belongs to divergence: jsd, and divergence is reverse"):
        Distill(divergence="reverse", beta=0.2)
    for wrong in ({"beta": 0.0}, {"beta": 1.0}, {"temperature": 0.0}, {"sft_coef": -1.0}, {"divergence": "kl"}):
        with pytest.raises(ValidationError):
            Distill(**({"divergence": "jsd"} | wrong))
