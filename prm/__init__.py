"""Process reward models: sampled -> graded -> split and encoded -> scored -> aggregated -> judged."""
