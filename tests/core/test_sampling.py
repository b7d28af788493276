"""The filters against transformers' own, the draw against the probabilities it claims."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nurture import kernels
from nurture.core import sampling
from nurture.core.sampling import BLOCK, draw, filter_logits, greedy


@pytest.fixture(autouse=True, scope="module", params=["kernel", "torch"])
def by(request):
    """By the kernel where there is one, and by torch's operations."""
    if request.param == "kernel":
        if kernels.library() is None:
            pytest.skip(f"no kernels: {kernels.why_not()}")
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "_has_kernel", lambda logits: False)
        yield


def random_logits(rows: int, vocabulary: int, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("temperature", [1.0, 0.3, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.35])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.6])
def test_filters_equal_transformers(temperature: float, top_k: int, top_p: float, min_p: float):
    logits = random_logits(16, 300)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p:
        warpers.append(MinPLogitsWarper(min_p))
    theirs = warpers(torch.zeros(16, 1, dtype=torch.long), logits.clone())
    ours = filter_logits(logits, temperature, top_k, top_p, min_p)
    assert torch.equal(ours.isinf(), theirs.isinf())
    torch.testing.assert_close(ours, theirs)


def test_no_filter_is_the_identity():
    logits = random_logits(3, 40)
    assert torch.equal(filter_logits(logits), logits)


@pytest.mark.parametrize("vocabulary", [5, BLOCK, 3 * BLOCK, 1000])
def test_frequencies_match_probabilities(vocabulary: int):
    """Chi-square over cells of equal expected count (tokens sorted by probability, then cut), at p = 1e-4."""
    draws, cells = 40_000, min(vocabulary, 50)
    logits = random_logits(1, vocabulary, scale=1.5)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(draws))
    tokens, logp = draw(logits.expand(draws, -1), uniforms)
    probability = logits[0].double().softmax(-1)
    torch.testing.assert_close(logp.double(), probability[tokens].log(), atol=1e-5, rtol=0)
    cell = ((probability.cumsum(-1) - probability / 2) * cells).long().clamp(max=cells - 1)
    expected = torch.zeros(cells, dtype=torch.float64).index_add(0, cell, probability * draws)
    seen = torch.bincount(cell[tokens], minlength=cells).double()
    used = expected > 0
    statistic = ((seen - expected)[used] ** 2 / expected[used]).sum().item()
    freedom = int(used.sum()) - 1
    # Wilson-Hilferty: the cube root of a chi-square over its freedom is nearly normal; 3.72 is its 1 - 1e-4 quantile.
    spread = 2 / (9 * freedom)
    assert ((statistic / freedom) ** (1 / 3) - (1 - spread)) / spread**0.5 < 3.72


@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.integers(1, 700),
    number=st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2**-53, 2**-60])),
)
@settings(max_examples=200)
def test_draw_inverts_the_cdf(seed: int, vocabulary: int, number: float):
    """NumPy's search in a float64 CDF names the same token, or the number lies within rounding of a boundary."""
    logits = random_logits(1, vocabulary, seed=seed)
    if seed % 2:
        logits = filter_logits(logits, top_k=3)
    token, logp = (x.item() for x in draw(logits, torch.tensor([number], dtype=torch.float64)))
    cdf = logits[0].double().softmax(-1).numpy().cumsum()
    below = cdf[token - 1] if token else 0.0
    assert below - 1e-6 <= number * cdf[-1] <= cdf[token] + 1e-6
    assert np.isfinite(logp), "a token of probability 0 was drawn"


def test_a_row_does_not_depend_on_its_neighbours():
    logits, uniforms = random_logits(32, 700), torch.rand(32, dtype=torch.float64, generator=torch.Generator())
    tokens, logp = draw(logits, uniforms)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(1))
    tokens_shuffled, logp_shuffled = draw(logits[order], uniforms[order])
    assert torch.equal(tokens[order], tokens_shuffled) and torch.equal(logp[order], logp_shuffled)
    for i in (0, 17):
        assert draw(logits[i : i + 1], uniforms[i : i + 1])[0].item() == tokens[i].item()


def test_greedy_is_argmax_with_its_log_probability():
    logits = random_logits(8, 100)
    token, logp = greedy(logits)
    assert torch.equal(token, logits.argmax(-1))
    torch.testing.assert_close(logp, logits.log_softmax(-1).amax(-1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_shows_in_the_log_probability(bad: float):
    logits = random_logits(3, 700)
    logits[1, 400] = bad
    for _, logp in (greedy(logits), draw(logits, torch.tensor([0.1, 0.5, 0.9]))):
        assert not logp[1].isfinite() and logp[[0, 2]].isfinite().all()


def test_both_ends_of_a_distribution_with_holes():
    """The numbers nearest to 0 and to 1 find the first and the last token that has any probability."""
    logits = torch.full((2, 1000), -torch.inf)
    logits[:, [3, 300, 301, 990]] = 0.0
    token, logp = draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64))
    assert token.tolist() == [3, 990]
    torch.testing.assert_close(logp, torch.full((2,), 0.25).log())
