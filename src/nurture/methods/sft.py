"""Supervised fine-tuning: learn to answer by imitating answers."""

from typing import ClassVar, Literal

from ..types import Batch, Loss, Scores, tally
from .method import Method


class SFT(Method):
    """Supervised fine-tuning on demonstrations. Ouyang et al. 2022, arXiv:2203.02155, step 1.

        L = - sum_t  log p(y_t | x, y_<t)  /  number of trained tokens

    Only tokens of the assistant carry loss: `y` is what the assistant said, with the stop token that ends each of its
    turns; `x` is everything before. The mean is over the trained tokens of the whole global batch, so neither
    micro-batches, packing nor the number of processes change the objective.
    """

    name: Literal["sft"] = "sft"  # pyright: ignore[reportIncompatibleVariableOverride]
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """Which turns carry loss: every assistant turn, only the last one, or every token of the conversation.
    A message may override it for itself with `"train": true|false`."""

    lab_data: ClassVar = "lab/demonstrations"
    lab_settings: ClassVar = {"learning_rate": 5e-4, "epochs": 1, "batch_size": 32}
    roles: ClassVar = {"policy": ("logp", "hit")}
    metrics: ClassVar = {
        "loss": "negative log-probability per trained token, in nats; exp(loss) is the perplexity",
        "token_accuracy": "share of trained tokens that were the model's first choice",
    }

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"tokens": batch.num_own}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        nll = -scores.policy.logp
        return Loss({"tokens": nll.sum()}, {"loss": tally(nll), "token_accuracy": tally(scores.policy.hit)})
