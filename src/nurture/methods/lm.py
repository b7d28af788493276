"""Language modelling: learn a text by predicting it, token after token."""

from typing import ClassVar, Literal

from ..types import Batch, Loss, Scores, tally
from .method import Method


class LM(Method):
    """Next-token prediction on plain text, for pretraining or continued pretraining. Bengio et al. 2003, eq. 1;
    Radford et al. 2018, eq. 1.

        L = - sum_t  log p(x_t | x_<t)  /  number of tokens

    Every token but the first of a document is predicted. Documents longer than `max_length` are cut into windows that
    are trained one by one; each window but the first begins with the last token of the one before, so no token of the
    document goes unpredicted. Documents packed together never see each other.
    """

    name: Literal["lm"] = "lm"  # pyright: ignore[reportIncompatibleVariableOverride]

    lab_data: ClassVar = "lab/corpus"
    lab_settings: ClassVar = {"learning_rate": 1e-3, "epochs": 0.1, "batch_size": 32}
    roles: ClassVar = {"policy": ("logp", "hit")}
    data: ClassVar = "text"
    default_learning_rate: ClassVar = 3e-4
    metrics: ClassVar = {
        "loss": "negative log-probability per token, in nats; exp(loss) is the perplexity",
        "token_accuracy": "share of tokens that were the model's first choice",
    }

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"tokens": batch.num_own}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        nll = -scores.policy.logp
        return Loss({"tokens": nll.sum()}, {"loss": tally(nll), "token_accuracy": tally(scores.policy.hit)})
