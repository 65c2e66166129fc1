#!/usr/bin/env bash
# Run a command with the share of this node of this array task: `srun --ntasks-per-node=1 scripts/slurm/shard.sh COMMAND...`
set -euo pipefail

tasks=${NUM_SHARDS:-${SLURM_ARRAY_TASK_COUNT:-1}}
exec "$@" --shard_index $((${SLURM_ARRAY_TASK_ID:-0} * SLURM_NNODES + SLURM_NODEID)) --num_shards $((tasks * SLURM_NNODES))
