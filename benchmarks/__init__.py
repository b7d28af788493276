"""Speed and memory as ratios measured in one run. `python -m benchmarks` runs all of them."""
