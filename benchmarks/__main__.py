"""Everything that is held against a peer, what several roles cost, and the rewards: `python -m benchmarks`.

Nothing else should run beside it. (`data`, `duplicates` and `optimizers` are asked for by name.)
"""

from . import grpo, lora, measure, preference, rewards, roles, sampler, sft

if __name__ == "__main__":
    print(f"machine: {measure.machine()}\n")
    sft.table(steps=12, discard=4, rounds=1, reference_steps=20)
    print()
    lora.table(steps=12, discard=4, rounds=1)
    print()
    preference.table(steps=8, discard=4, rounds=1, cases=["dpo", "reward", "tree"])
    print()
    grpo.table(list(grpo.SIZES), steps=6, discard=3, rounds=1)
    print()
    roles.table(steps=2, precision="auto")
    print()
    sampler.table(sampler.CASES, rounds=3)
    print()
    rewards.table()
