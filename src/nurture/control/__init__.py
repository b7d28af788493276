"""The classics of reinforcement learning, by the pages and the loop that train language models."""
