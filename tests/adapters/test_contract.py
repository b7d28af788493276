"""What every adapter must keep, whatever it learns: one suite over the union. A new one adds to `adapted.CASES`."""

import inspect
import re
import warnings

import numpy as np
import pytest
import torch
from adapted import CASES, STEPS, TEXTS, adapted, declared, engine_of, gap, learn, load, logits, make_base, save
from engine import demonstrations, group, one_step
from transformers import AutoModelForCausalLM

from nurture.adapters import ADAPTERS
from nurture.methods import SFT
from nurture.models.layouts import choose_layout
from nurture.protocols import Request, Sampling
from nurture.recipe import load_stage, stage_from, to_yaml
from nurture.rollout.sampler import LocalSampler
from nurture.types import Batch, Group, Response

DECLARED = {
    "full": r".*",
    "freeze": r"model\.layers\.1\..*",
    "freeze-range": r"model\.layers\.[01]\..*",
    "freeze-head": r"lm_head\.weight",
    "freeze-bias": r".*\.bias",
    "freeze-pattern": r".*\.(self_attn\.q_proj|mlp\..*)\..*",
    "lora-dora": r".*\.(lora_A|lora_B|lora_magnitude_vector)\.policy\.weight",
    "lora-some": r"model\.layers\.1\.self_attn\.[qv]_proj\.lora_[AB]\.policy\.weight",
    "lora": r".*\.lora_[AB]\.policy\.weight",
    "qlora": r".*\.lora_[AB]\.policy\.weight",
    "adalora": r".*\.lora_[ABE]\.policy",
    "ia3": r".*\.ia3_l\.policy",
    "bottleneck": r".*\.(o_proj|down_proj)\.bottleneck_(down|up)\.policy\.(weight|bias)",
    "bottleneck-pfeiffer": r".*\.down_proj\.bottleneck_(down|up)\.policy\.(weight|bias)",
    "virtual": r"virtual_tokens\.policy\..*",
}
LEARNT = {"full": 0.01, "freeze-head": 0.1, "prompt": 0.95, "prompt-text": 0.95, "ptuning": 0.95, "ptuning-lstm": 0.95}
"""How far the loss of one batch must fall. (What a random output head can say at all, if it stays, is 0.55 of it.)"""
RATE = {"ia3": 3e-2, "prompt": 3e-1, "prompt-text": 3e-1, "freeze-bias": 3e-2, "ptuning_v2": 1e-1}
ANSWERS = Batch((group(np.random.default_rng(0), 6, (8, 5)), group(np.random.default_rng(1), 4, (7,))))
RANDOM = torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(params=[pytest.param(c, marks=[pytest.mark.long] if "-" in c else []) for c in CASES])
def case(request):
    """(Each kind of adapter while one works; its variants before a change lands.)"""
    declared(request.param)
    return request.param


@pytest.fixture
def attached(case):
    """Only the cases whose adapter is peft's."""
    if not declared(case).peft_type:
        pytest.skip("trains the model's own weights")
    return case


def own_names(model):
    """The model's own parameters by their names before anything was attached."""
    inside = re.compile(r"\.(lora_\w+|ia3_l|ranknum|bottleneck_\w+)\.|^virtual_tokens\.")
    return {n.replace(".base_layer.", "."): p for n, p in model.named_parameters() if not inside.search(n)}


def test_it_starts_as_the_model_it_adapts(base, case):
    adapter = declared(case)
    before = logits(load(base, quantized=adapter.quantized).model)
    after = logits(adapted(base, case).model)
    if adapter.identity:
        assert gap(after, before) < 1e-5
    else:
        assert gap(after, before) > 1e-3, "virtual tokens are seen"


def test_only_what_is_declared_has_gradients_and_all_of_it_learns(base, case):
    loaded = adapted(base, case)
    pattern = DECLARED["virtual"] if loaded.adapter.virtual else DECLARED.get(case) or DECLARED[case.partition("-")[0]]
    own = {n: p.detach().clone() for n, p in own_names(loaded.model).items()}
    trained = {n: p.detach().clone() for n, p in loaded.model.named_parameters() if p.requires_grad}
    assert trained and all(re.fullmatch(pattern, n) for n in trained)
    missing = [n for n, p in loaded.model.named_parameters() if re.fullmatch(pattern, n) and n not in trained]
    assert not missing
    if case == "adalora":  # lambda alone at first: P and Q have no gradient of the loss while it is zero
        learn(loaded, SFT(), steps=1)
    _, gradients = one_step(engine_of(loaded), SFT(), demonstrations())
    assert set(gradients) == set(trained)
    learn(loaded, SFT(), steps=4, rate=1e-2, of=1000)
    same = [n for n, p in loaded.model.named_parameters() if n in trained and torch.equal(p, trained[n])]
    assert not same, "every declared parameter learns"
    for name, parameter in own_names(loaded.model).items():
        if name not in trained:
            assert torch.equal(parameter, own[name]), f"{name} must stay bit for bit"


def test_tree_and_rows_agree(base, case):
    loaded = adapted(base, case)
    learn(loaded, SFT(), steps=2)
    assert gap(logits(loaded.model, "tree"), logits(loaded.model, "rows")) < 1e-5


def test_both_layouts_have_the_same_gradients(base, case):
    found = {}
    for layout in ("tree", "rows"):
        loaded = adapted(base, case)
        learn(loaded, SFT(), steps=1)
        found[layout] = one_step(engine_of(loaded, layout), SFT(), demonstrations())[1]
    for name, gradient in found["tree"].items():
        assert (gradient - found["rows"][name]).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_activation_checkpointing_changes_nothing(base, case):
    plain, again = adapted(base, case), adapted(base, case)
    again.model.activation_checkpointing_enable({"use_reentrant": False})
    again.model.train()
    expected, found = (one_step(engine_of(m), SFT(), demonstrations())[1] for m in (plain, again))
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name]), name


def test_overfits_one_batch(base, case):
    loaded = adapted(base, case, steps=60)
    _, steps = learn(loaded, SFT(), steps=60, rate=RATE.get(case, 1e-2), of=60, batch=ANSWERS)
    losses = [step.metrics["loss"] for step in steps]
    assert losses[-1] < LEARNT.get(case, 0.85) * losses[0]


def test_saved_and_loaded_it_says_the_same(base, attached, tmp_path):
    loaded = adapted(base, attached)
    roles, _ = learn(loaded, SFT(), steps=STEPS)
    expected = logits(loaded.model)
    again = load(save(loaded, roles, tmp_path / "adapter"))
    assert again.adapter.name == loaded.adapter.name
    tolerance = 1e-5 if attached == "lora-pissa" else 1e-6  # W - B0 A0 + B A against W + (B A - B0 A0)
    assert gap(logits(again.model), expected) <= tolerance


def test_the_folder_is_pefts(base, attached, tmp_path):
    """PeftModel.from_pretrained on a plain model, and peft's own way through it, give the same logits."""
    from peft import PeftModel

    loaded = adapted(base, attached)
    roles, _ = learn(loaded, SFT(), steps=STEPS)
    folder = save(loaded, roles, tmp_path / "adapter")
    if loaded.adapter.quantized:
        plain = load(base, quantized=True).model
    else:
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(plain, folder).eval()
    ids = torch.randint(0, 199, (1, 12), generator=RANDOM)
    with torch.no_grad():
        found = theirs(input_ids=ids).logits[0, -12:]
    expected = logits(loaded.model, batch=Batch((_chain(ids[0].numpy()),)))
    assert gap(found[:-1], expected) < 1e-5


def _chain(ids):
    return Group(ids[:0], (Response(ids, ids >= 0),))


def test_merged_it_says_the_same(base, attached):
    loaded = adapted(base, attached)
    if not loaded.adapter.mergeable or loaded.adapter.quantized:
        pytest.skip("cannot be merged (or only into the base in full precision)")
    learn(loaded, SFT(), steps=STEPS)
    expected = logits(loaded.model)
    from nurture.adapters.attached import merge

    assert gap(logits(merge(loaded.model)), expected) < 1e-4


def test_switched_off_it_is_the_base(base, attached):
    from nurture.adapters.attached import active

    loaded = adapted(base, attached)
    if attached == "lora-pissa":
        pytest.skip("its base is what is left of W without the start of the update")
    learn(loaded, SFT(), steps=2)
    requires = [p.requires_grad for p in loaded.model.parameters()]
    before = logits(load(base, quantized=loaded.adapter.quantized).model)
    learnt = logits(loaded.model)
    with active(loaded.model, None):
        assert torch.equal(logits(loaded.model), before)
        assert [p.requires_grad for p in loaded.model.parameters()] == requires
    assert torch.equal(logits(loaded.model), learnt)


@pytest.mark.parametrize("layout", ["tree", "rows"])
def test_the_samplers_numbers_are_the_trainers(base, case, layout):
    loaded = adapted(base, case)
    learn(loaded, SFT(), steps=2)
    prompts = [torch.randint(0, 199, (n,), generator=RANDOM).numpy() for n in (3, 7, 5)]
    sampler = LocalSampler(loaded.model, layout=layout)
    samples = sampler.sample([Request(p, n=3, key=str(i)) for i, p in enumerate(prompts)], Sampling(max_tokens=9))
    for sample in samples:
        group = Group(prompts[sample.request], (Response(sample.ids, sample.ids >= 0),))
        said = torch.log_softmax(logits(loaded.model, batch=Batch((group,))), -1)
        expected = said.gather(1, torch.as_tensor(sample.ids)[:, None])[:, 0]
        assert torch.allclose(torch.as_tensor(sample.logp), expected, atol=5e-5)


def test_it_learns_in_bf16_with_fp32_masters(base, attached):
    loaded = adapted(base, attached, torch.bfloat16)
    roles, _ = learn(loaded, SFT(), steps=3, rate=1e-2)
    for name, parameter in roles.optimizer.parameters.items():
        assert parameter.dtype == torch.bfloat16
        assert roles.optimizer.master[name].dtype == torch.float32
        assert torch.equal(roles.optimizer.master[name].bfloat16(), parameter)


def test_the_layout_is_the_tree(base, case):
    assert choose_layout(adapted(base, case).model, 64).layout == "tree"


def test_configuration_round_trip(case, tmp_path):
    adapter = declared(case)
    stage = stage_from("sft", ["data=x.jsonl", f"adapter={adapter.model_dump_json()}"])
    assert stage.adapter == adapter
    (tmp_path / "config.yaml").write_text(to_yaml(stage))
    assert load_stage(tmp_path / "config.yaml") == stage
    assert stage_from("sft", ["data=x.jsonl", f"adapter={adapter.name}"]).adapter == type(adapter)()


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_page_cites_its_source(name):
    kind = ADAPTERS[name]
    page = inspect.getdoc(kind) or ""
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", page), "paper"
    assert re.search(r"^ {4}\S", page, re.M), "the equation"
    undocumented = [n for n, f in kind.model_fields.items() if n != "name" and not f.description]
    assert not undocumented
    assert any(case.partition("-")[0] == name for case in CASES), "it is in the suite"
    assert TEXTS
