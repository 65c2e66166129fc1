"""Speed and memory of training: packed and padded batches, balance of ranks, log-probs of a large vocabulary."""
