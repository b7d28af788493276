"""Knowledge distillation: learn what a better model would have said at every token, not only which token came."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from ..types import Asks, Batch, Divergence, Loss, Scores, tally
from .method import Method
from .pairs import NotNegative, Positive


class Distill(Method):
    """Knowledge distillation. Hinton et al. 2015, arXiv:1503.02531; Agarwal et al. 2024, arXiv:2306.13649 (GKD).

        forward   D = KL( q || p )      q: what the teacher says comes next
        reverse   D = KL( p || q )      p: what the student says
        jsd       D = beta KL( q || m ) + (1 - beta) KL( p || m )
                  m = beta q + (1 - beta) p

        L = sum_t  temperature^2 D_t - sft_coef log p(y_t | x, y_<t)
            /  number of trained tokens

    A demonstration says which token came next. A teacher says how likely it held every token of the vocabulary: which
    others would have done as well, and which never. So a row says more, and the answers are only the places where
    the two are compared, whoever wrote them. Their own tokens count through `sft_coef` alone.

    Forward KL wants the student to put weight wherever the teacher does, and spreads a student that is too small for
    that over what lies between. Reverse KL wants it to put weight only there, and lets it choose a part it can do well.
    The teacher stays as it is; no gradient reaches it. Where the student is the teacher, D is 0.
    """

    name: Literal["distill"] = "distill"  # pyright: ignore[reportIncompatibleVariableOverride]
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """What is made small: KL from the teacher to the student (`forward`, Hinton's), KL from the student to the teacher
    (`reverse`), or the generalised Jensen-Shannon divergence (`jsd`), which is bounded."""
    beta: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.5
    """The teacher's share in the mixture m of `jsd`: near 0 its gradient points as forward KL's does, near 1 as
    reverse KL's."""
    temperature: Positive = 1.0
    """Divides the logits of both before they are compared: above 1 the teacher's unlikely tokens weigh more. The factor
    `temperature^2` keeps the gradient's size."""
    sft_coef: NotNegative = 0.0
    """Weight of the negative log-likelihood of the answers themselves."""
    train_on: Literal["assistant", "last", "all"] = "assistant"
    """Where the two are compared: in every assistant turn, only in the last one, or at every token of the conversation.
    A message may override it for itself with `"train": true|false`."""

    lab_data: ClassVar = "lab/demonstrations"
    lab_settings: ClassVar = {"learning_rate": 5e-4, "epochs": 1, "batch_size": 32}
    roles: ClassVar = {"policy": ("logp", "hit", Divergence("teacher", beta=0.0))}
    metrics: ClassVar = {
        "loss": "the divergence times temperature^2, and sft_coef times nll, per trained token",
        "divergence": "how far student and teacher are apart per trained token, in nats, at the temperature; 0 where "
        "they say the same",
        "nll": "negative log-probability per trained token, in nats; exp(nll) is the perplexity",
        "token_accuracy": "share of trained tokens that were the student's first choice",
    }

    @model_validator(mode="after")
    def _beta_has_an_effect(self) -> Distill:
        if self.divergence != "jsd" and self.beta != 0.5:
            raise ValueError(f"beta belongs to divergence: jsd, and divergence is {self.divergence}; take it out")
        return self

    @property
    def asks(self) -> Asks:
        beta = {"forward": 0.0, "reverse": 1.0, "jsd": self.beta}[self.divergence]
        return {"policy": ("logp", "hit", Divergence("teacher", beta, self.temperature))}

    def counts(self, batch: Batch) -> dict[str, float]:
        return {"tokens": batch.num_own}

    def loss(self, batch: Batch, scores: Scores) -> Loss:
        apart, nll = scores.policy.divergence, -scores.policy.logp
        losses = self.temperature**2 * apart + self.sft_coef * nll
        stats = {"loss": losses, "divergence": apart, "nll": nll, "token_accuracy": scores.policy.hit}
        return Loss({"tokens": losses.sum()}, {name: tally(values) for name, values in stats.items()})
