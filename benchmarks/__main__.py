"""Every benchmark, one after the other: `python -m benchmarks`. Nothing else should run beside it."""

from . import measure, rewards, sampler, sft

if __name__ == "__main__":
    print(f"machine: {measure.machine()}\n")
    sft.table(steps=8, discard=3, rounds=1, reference_steps=0, peer_steps=6)
    print()
    sampler.table(sampler.CASES, rounds=5)
    print()
    rewards.table()
