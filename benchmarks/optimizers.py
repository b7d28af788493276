"""What a small model learns in the same number of updates with AdamW and with Muon: lists turned around, and sorted.

Both sides start from the same random weights of the lab's shape (3.9 M parameters) and read the same documents,
which are nothing but lists (`word_lists` of the lab's corpus). Then each continues new lists, and is right when every
word is. The seconds count too: an update of Muon costs more.

    python -m benchmarks.optimizers
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from . import measure

OPTIMIZERS = ("adamw", "muon")
LISTS = 100


def train(optimizer: str, documents: Path, steps: int, rate: float, out: Path) -> tuple[Path, float, float]:
    """The trained model, the mean loss of the last twentieth of the updates, and the seconds of it all."""
    from nurture.api import run

    recipe = out.with_suffix(".yaml")
    recipe.write_text(json.dumps({"name": optimizer, "stages": {"model": {
        "method": "lm", "data": str(documents), "steps": steps, "batch_size": 32, "optimizer": optimizer,
        "learning_rate": rate, "weight_decay": 0.05, "beta2": 0.98,
        "model": {"tokenizer": "lab", "config": {
            "model_type": "llama", "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
            "num_attention_heads": 4, "max_position_embeddings": 1024, "tie_word_embeddings": True, "dtype": "bfloat16",
        }},
    }}}))  # fmt: skip
    started = time.perf_counter()
    model = run(recipe, out=out)["model"]
    seconds = time.perf_counter() - started
    rows = [json.loads(line) for line in (model.parent / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    return model, float(np.mean(losses[-max(1, steps // 20) :])), seconds


def right(model: Path) -> dict[str, float]:
    """The share of new lists of four words that it turns around and sorts without a mistake."""
    from nurture.evaluate.answers import open_to_talk
    from nurture.lab.draw import Draw
    from nurture.lab.words import NOUNS, comma_list
    from nurture.protocols import Request, Sampling
    from nurture.rollout.sampler import LocalSampler

    loaded, template = open_to_talk(str(model))
    draw, tokenizer = Draw("lists"), template.tokenizer
    lists = [draw.sample(NOUNS, 4) for _ in range(LISTS)]
    shares: dict[str, float] = {}
    for name, head, wanted in (
        ("turned around", "In reverse", [words[::-1] for words in lists]),
        ("sorted", "In order", [sorted(words) for words in lists]),
    ):
        prompts = [f"List: {comma_list(words)}.\n{head}:" for words in lists]
        requests = [Request(np.asarray(tokenizer(p)["input_ids"]), key=str(i)) for i, p in enumerate(prompts)]
        plan = Sampling(max_tokens=24, temperature=0, stop_ids=template.stop_ids)
        said = [
            str(tokenizer.decode(s.ids.tolist())).split("\n")[0].strip()
            for s in LocalSampler(loaded.model).sample(requests, plan)
        ]
        shares[name] = float(np.mean([text == comma_list(words) for text, words in zip(said, wanted, strict=True)]))
    return shares


def table(steps: int, rate: float) -> None:
    from nurture.lab.corpus import word_lists
    from nurture.lab.draw import Draw
    from nurture.lab.world import build_world

    found: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as folder:
        documents = Path(folder, "lists.jsonl")
        texts = (word_lists(build_world(0), Draw("benchmark", i)) for i in range(32 * steps))
        documents.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        for optimizer in OPTIMIZERS:
            model, loss, seconds = train(optimizer, documents, steps, rate, Path(folder, optimizer))
            found[optimizer] = {"loss": loss, "seconds": seconds, **right(model)}
            said = "   ".join(f"{name} {value:.3g}" for name, value in found[optimizer].items())
            print(f"{optimizer:6} {steps} updates   {said}", flush=True)
    measure.write("optimizers", {"ours": found["muon"], "peer": found["adamw"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    a = parser.parse_args()
    table(a.steps, a.learning_rate)


if __name__ == "__main__":
    main()
