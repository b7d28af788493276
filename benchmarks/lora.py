"""LoRA of rank 8 on all linear matrices, otherwise as `benchmarks.sft`: the same model, rows and peer (TRL with peft).

python -m benchmarks.lora
"""

from __future__ import annotations

import argparse

from . import sft

RANK = 8


def table(steps: int, discard: int, rounds: int, peer_steps: int) -> None:
    sft.table(steps, discard, rounds, reference_steps=0, peer_steps=peer_steps, rank=RANK, name="lora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--peer-steps", type=int, default=6)
    parser.add_argument("--discard", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    a = parser.parse_args()
    table(a.steps, a.discard, a.rounds, a.peer_steps)


if __name__ == "__main__":
    main()
