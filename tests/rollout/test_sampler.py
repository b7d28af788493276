"""The sampler against `model.generate` (greedy), a teacher-forced forward pass (log-probs), and itself regrouped."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from families import ROWS, TREE, tiny
from transformers import PreTrainedModel

from nurture.errors import InputError, NumericsError
from nurture.models.layouts import layout_of
from nurture.protocols import Request, Sample, Sampling
from nurture.rollout.fused import FusedDecoder, probe
from nurture.rollout.sampler import LocalSampler

LENGTHS = (5, 17, 9, 1)
NEW = 24
# Read as Latin-1, every id of the tiny vocabulary is one character.
LATIN = bytes(range(256)).decode("latin-1")


def prompts(lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 199, n) for n in lengths]


def requests(n: int = 1, lengths: Sequence[int] = LENGTHS) -> list[Request]:
    return [Request(p, n, key=f"row {i}") for i, p in enumerate(prompts(lengths))]


def decode_latin(ids: Sequence[int]) -> str:
    return "".join(LATIN[i] for i in ids)


def teacher_forced(model: PreTrainedModel, prompt: np.ndarray, sample: Sample, temperature: float) -> np.ndarray:
    ids = torch.tensor(np.concatenate([prompt, sample.ids]))
    with torch.no_grad(), layout_of(model, "rows"):
        logits = model(ids[None]).logits[0, len(prompt) - 1 : -1].double() / temperature
    return logits.log_softmax(-1).gather(-1, ids[len(prompt) :, None])[:, 0].numpy()


def equal(a: Sequence[Sample], b: Sequence[Sample], atol: float = 1e-5) -> None:
    assert [(s.request, s.k, s.reason) for s in a] == [(s.request, s.k, s.reason) for s in b]
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.ids, y.ids)
        np.testing.assert_allclose(x.logp, y.logp, atol=atol, rtol=0)


@pytest.mark.parametrize("family", [*TREE, *ROWS])
def test_greedy_equals_generate(family: str):
    # Step by step Mamba's recurrence rounds otherwise than all at once, in transformers as here: by 6e-5 in fp32.
    model = tiny(family).double() if family == "mamba" else tiny(family)
    sampler = LocalSampler(model, layout="tree" if family in TREE else "rows", max_batch=3)
    samples = sampler.sample(requests(), Sampling(max_tokens=NEW, temperature=0.0))
    assert [(s.request, s.k, s.reason) for s in samples] == [(i, 0, "length") for i in range(len(LENGTHS))]
    for prompt, sample in zip(prompts(), samples, strict=True):
        with layout_of(model, "rows"):
            theirs = model.generate(
                torch.tensor(prompt)[None], max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0
            )
        np.testing.assert_array_equal(sample.ids, theirs[0, len(prompt) :].numpy())
        np.testing.assert_allclose(sample.logp, teacher_forced(model, prompt, sample, 1.0), atol=5e-5, rtol=0)


@pytest.mark.parametrize("family", [*TREE, "mistral-window"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logp_equals_the_teacher_forced_pass(family: str, temperature: float):
    model = tiny(family, factor=2.0)
    sampler = LocalSampler(model, layout="tree" if family in TREE else "rows", max_batch=5)
    samples = sampler.sample(requests(n=3), Sampling(max_tokens=NEW, temperature=temperature, seed=1))
    assert len({s.ids.tobytes() for s in samples}) > len(LENGTHS), "the responses to a prompt differ"
    for sample in samples:
        expected = teacher_forced(model, prompts()[sample.request], sample, temperature)
        np.testing.assert_allclose(sample.logp, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2", "mistral-window"])
def test_grouping_changes_nothing(family: str):
    model, layout = tiny(family, factor=2.0), "tree" if family in TREE else "rows"
    sampling = Sampling(max_tokens=NEW, temperature=0.8, top_k=50, top_p=0.95, min_p=0.01, seed=3)
    free = LocalSampler(model, layout=layout).sample(requests(n=4), sampling)
    sampling = replace(sampling, stop_ids=(int(free[1].ids[3]), int(free[6].ids[8])))
    base = LocalSampler(model, layout=layout).sample(requests(n=4), sampling)
    assert {s.reason for s in base} == {"stop", "length"}, "rows leave at different times"
    for max_batch, prefill_tokens in ((1, 4096), (3, 1), (7, 12), (16, 4096)):
        sampler = LocalSampler(model, layout=layout, max_batch=max_batch, prefill_tokens=prefill_tokens)
        equal(sampler.sample(requests(n=4), sampling), base)
    tight = LocalSampler(model, layout=layout, max_cache_tokens=2 * (max(LENGTHS) + NEW))
    equal(tight.sample(requests(n=4), sampling), base)
    alone = [s for r in requests(n=4) for s in LocalSampler(model, layout=layout).sample([r], sampling)]
    for x, y in zip(alone, base, strict=True):
        np.testing.assert_array_equal(x.ids, y.ids)


def test_draws_are_named_by_seed_key_and_k():
    sampler = LocalSampler(tiny("llama", factor=1.0))
    prompt = prompts()[0]

    def ids(key: str, seed: int, n: int = 1) -> list[bytes]:
        sampling = Sampling(max_tokens=NEW, seed=seed)
        return [s.ids.tobytes() for s in sampler.sample([Request(prompt, n, key)], sampling)]

    assert ids("a", 0, 3) == ids("a", 0, 3)
    assert ids("a", 0, 3)[:2] == ids("a", 0, 2), "asking for more responses keeps the ones there were"
    assert len({*ids("a", 0, 3), *ids("b", 0, 3), *ids("a", 1, 3)}) == 9


def test_first_tokens_follow_the_model():
    """With 4,000 responses, the share of each of the likeliest tokens is its probability within 5 standard errors."""
    model, prompt, n = tiny("qwen2", factor=2.0), prompts()[1], 4000
    samples = LocalSampler(model, max_batch=500).sample([Request(prompt, n)], Sampling(max_tokens=1))
    with torch.no_grad(), layout_of(model, "rows"):
        probability = model(torch.tensor(prompt)[None]).logits[0, -1].double().softmax(-1).numpy()
    share = np.bincount([s.ids[0] for s in samples], minlength=199) / n
    assert (np.abs(share - probability) < 5 * np.sqrt(probability * (1 - probability) / n) + 1e-9).all()


@pytest.mark.parametrize("family", ["qwen3", "mamba"])
def test_stop_ids(family: str):
    model, layout = tiny(family, factor=1.0), "tree" if family in TREE else "rows"
    sampler = LocalSampler(model, layout=layout)
    free = sampler.sample(requests(n=3), Sampling(max_tokens=NEW))
    stops = (int(free[0].ids[4]), int(free[5].ids[9]))
    for whole, cut in zip(free, sampler.sample(requests(n=3), Sampling(max_tokens=NEW, stop_ids=stops)), strict=True):
        hits = np.flatnonzero(np.isin(whole.ids, stops))
        end = hits[0] + 1 if len(hits) else NEW
        np.testing.assert_array_equal(cut.ids, whole.ids[:end])
        assert cut.reason == ("stop" if len(hits) else "length") and len(cut.logp) == end


def test_stop_strings_span_tokens_and_are_never_streamed():
    sampler = LocalSampler(tiny("llama", factor=1.0), decode=decode_latin)
    free = sampler.sample(requests(n=2), Sampling(max_tokens=NEW))
    string = decode_latin(free[3].ids[6:10])
    sampling = Sampling(max_tokens=NEW, stop_strings=(string, decode_latin(free[0].ids[2:4])))
    samples = sampler.sample(requests(n=2), sampling)
    assert samples[3].reason == "string" and samples[0].reason == "string"
    np.testing.assert_array_equal(samples[3].ids, free[3].ids[:10])
    np.testing.assert_array_equal(samples[0].ids, free[0].ids[:4])
    for whole, cut in zip(free, samples, strict=True):
        text = decode_latin(whole.ids)
        ends = [text.find(s) + len(s) for s in sampling.stop_strings if s in text]
        assert len(cut.ids) == min(ends, default=NEW)
    streamed = stream(sampler, requests(n=2), sampling)
    assert streamed[1, 1] == free[3].ids[:6].tolist(), "nothing of the string was shown, all before it was"


def test_a_string_that_only_begins_is_streamed_in_the_end():
    sampler = LocalSampler(tiny("llama", factor=1.0), decode=decode_latin)
    free = sampler.sample(requests(), Sampling(max_tokens=NEW))
    begun = decode_latin(free[1].ids[-2:]) + "never"
    sampling = Sampling(max_tokens=NEW, stop_strings=(begun,))
    assert stream(sampler, requests(), sampling) == {(s.request, s.k): s.ids.tolist() for s in free}


def test_tokens_are_held_back_until_a_character_is_whole():
    """A decoder that writes U+FFFD after an odd number of tokens stands for one whose characters span two."""

    def decode(ids: Sequence[int]) -> str:
        return "x" * (len(ids) // 2) + "\ufffd" * (len(ids) % 2)

    sampler = LocalSampler(tiny("llama"), decode=decode)
    sampling = Sampling(max_tokens=6, stop_strings=("y",))
    seen = []
    for event in sampler.stream([Request(prompts()[0])], sampling):
        seen.append("sample" if isinstance(event, Sample) else "token")
    assert seen == ["token"] * 6 + ["sample"]


def stream(sampler: LocalSampler, wanted: list[Request], sampling: Sampling) -> dict[tuple[int, int], list[int]]:
    tokens: dict[tuple[int, int], list[int]] = {}
    finished = set()
    for event in sampler.stream(wanted, sampling):
        if isinstance(event, Sample):
            finished.add((event.request, event.k))
        else:
            request, k, token = event
            assert (request, k) not in finished, "no token comes after its sample"
            tokens.setdefault((request, k), []).append(token)
    return tokens


@pytest.mark.parametrize("family", ["qwen2", "falcon"])
def test_streaming_equals_sampling(family: str):
    sampler = LocalSampler(tiny(family, factor=1.0), layout="tree" if family in TREE else "rows", max_batch=3)
    sampling = Sampling(max_tokens=NEW, stop_ids=(5, 6, 7, 8), seed=2)
    whole = {(s.request, s.k): s.ids.tolist() for s in sampler.sample(requests(n=3), sampling)}
    assert stream(sampler, requests(n=3), sampling) == whole
    first = next(iter(sampler.stream(requests(n=3), sampling)))
    assert first == (0, 0, whole[0, 0][0]), "the first token comes before anything is finished"


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_rows_outgrow_the_first_allocation(family: str):
    model = tiny(family, factor=2.0)
    wanted = requests(lengths=(3, 40))
    samples = LocalSampler(model).sample(wanted, Sampling(max_tokens=200, temperature=0.9))
    for sample in samples:
        assert len(sample.ids) == 200
        expected = teacher_forced(model, wanted[sample.request].prompt, sample, 0.9)
        np.testing.assert_allclose(sample.logp, expected, atol=5e-5, rtol=0)


def test_fused_step_serves_llamas_and_refuses_lookalikes():
    served = {f for f in TREE if _fused(tiny(f))}
    assert served == {"llama", "qwen2", "qwen3", "mistral", "smollm3"}
    lookalike = tiny("llama")
    with torch.no_grad(), layout_of(lookalike, "tree"):
        decoder = lookalike.base_model
        fused = FusedDecoder(decoder)
        assert probe(decoder, fused)
        for layer in fused.layers:
            layer.rotates = False
        assert not probe(decoder, fused), "a rotation left out is seen"
        assert probe(decoder, FusedDecoder(decoder))
        fused = FusedDecoder(decoder)
        fused.layers[1].scaling *= 1.01
        assert not probe(decoder, fused), "another scale is seen"


def _fused(model: PreTrainedModel) -> bool:
    with torch.no_grad(), layout_of(model, "tree"):
        return LocalSampler(model)._fused(pack=False) is not None


def test_adapters_and_hooks_take_part():
    """Layers that are no longer plain `nn.Linear`, or that carry hooks, are called as what they are."""
    from peft import LoraConfig, get_peft_model

    model = tiny("qwen2", factor=2.0)
    sampler = LocalSampler(model)
    plain = sampler.sample(requests(), Sampling(max_tokens=NEW, temperature=0.9))
    hook = model.model.layers[1].register_forward_hook(lambda m, i, out: out * 0.5)
    hooked = sampler.sample(requests(), Sampling(max_tokens=NEW, temperature=0.9))
    for sample in hooked:
        expected = teacher_forced(model, prompts()[sample.request], sample, 0.9)
        np.testing.assert_allclose(sample.logp, expected, atol=5e-5, rtol=0)
    hook.remove()
    equal(sampler.sample(requests(), Sampling(max_tokens=NEW, temperature=0.9)), plain)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    assert _fused(model)
    changed = sampler.sample(requests(), Sampling(max_tokens=NEW, temperature=0.9))
    assert any(not np.array_equal(a.ids, b.ids) for a, b in zip(plain, changed, strict=True))
    for sample in changed:
        expected = teacher_forced(model, prompts()[sample.request], sample, 0.9)
        np.testing.assert_allclose(sample.logp, expected, atol=5e-5, rtol=0)
    with adapted.disable_adapter():
        equal(sampler.sample(requests(), Sampling(max_tokens=NEW, temperature=0.9)), plain)


@pytest.mark.parametrize("family", ["llama", "gpt2", "llama-dynamic-rope"])
def test_the_model_is_left_as_it_was_and_trains_on(family: str):
    model = tiny(family)
    model.train()
    model.base_model.eval()
    before = {name: m.training for name, m in model.named_modules()}
    implementation = model.config._attn_implementation
    sampler = LocalSampler(model, layout="tree" if family in TREE else "rows")
    sampler.sample(requests(lengths=(250,)) if "rope" in family else requests(), Sampling(max_tokens=6))
    started = sampler.stream(requests(), Sampling(max_tokens=4))
    next(started)
    started.close()
    assert {name: m.training for name, m in model.named_modules()} == before
    assert model.config._attn_implementation == implementation
    assert not any(t.is_inference() for t in (*model.parameters(), *model.buffers()))
    ids = torch.tensor(prompts()[1])[None]
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_bad_requests_are_named():
    sampler = LocalSampler(tiny("gpt2"))
    long = Request(np.arange(250) % 190, key="essay 7")
    with pytest.raises(InputError, match=r"'essay 7' has 250 tokens and max_tokens is 10: together 260.*256 positions"):
        sampler.sample([long], Sampling(max_tokens=10))
    assert len(sampler.sample([long], Sampling(max_tokens=6))[0].ids) == 6
    with pytest.raises(InputError, match="prompt 2 is empty"):
        sampler.sample([Request(np.array([4])), Request(np.zeros(0, np.int64))], Sampling(max_tokens=2))
    with pytest.raises(InputError, match="stop_strings need a tokenizer"):
        sampler.sample(requests(), Sampling(stop_strings=("x",)))
    for field, value in [("temperature", -1.0), ("top_p", 0.0), ("min_p", 1.0), ("max_tokens", 0), ("top_k", -2)]:
        with pytest.raises(InputError, match=field):
            sampler.sample(requests(), Sampling(**{field: value}))
    assert sampler.sample([], Sampling()) == []


def test_rotary_models_have_no_limit():
    model = tiny("llama")
    samples = LocalSampler(model).sample([Request(np.arange(250) % 190)], Sampling(max_tokens=20, temperature=0.0))
    assert len(samples[0].ids) == 20


def test_broken_weights_end_in_one_sentence():
    model = tiny("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(NumericsError, match="not finite"):
        LocalSampler(model).sample(requests(), Sampling())
