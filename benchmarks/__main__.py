"""Every benchmark, one after the other: `python -m benchmarks`. Nothing else should run beside it."""

from . import measure, preference, rewards, sampler, sft

if __name__ == "__main__":
    print(f"machine: {measure.machine()}\n")
    sft.table(steps=20, discard=3, rounds=1, reference_steps=20, peer_steps=6)
    print()
    preference.table(steps=10, discard=3, rounds=1, peer_steps=6, cases=["dpo", "reward", "tree"])
    print()
    sampler.table(sampler.CASES, rounds=3)
    print()
    rewards.table()
