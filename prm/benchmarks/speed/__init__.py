"""Speed of training, scoring and metrics, and memory: packed and padded batches, balance of ranks, a large vocabulary."""
