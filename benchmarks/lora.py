"""LoRA of rank 8 on all linear matrices, otherwise as `benchmarks.sft`: the same model, rows and peer (TRL with peft).

python -m benchmarks.lora
"""

from __future__ import annotations

import argparse

from . import sft

RANK = 8


def table(steps: int, discard: int, rounds: int) -> None:
    sft.table(steps, discard, rounds, reference_steps=0, rank=RANK, name="lora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--discard", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    a = parser.parse_args()
    table(a.steps, a.discard, a.rounds)


if __name__ == "__main__":
    main()
