#!/usr/bin/env bash
# DeepSpeed's launcher on one node of a job, without ssh: `srun --ntasks-per-node=1 scripts/slurm/launch.sh SCRIPT [FLAG...]`
#
# MASTER_ADDR, MASTER_PORT   where the ranks meet
# GPUS_PER_NODE              ranks a node; default: those that Slurm gave to the job, by their numbers on this node
# OUTPUT                     gets a file REQUEUE when the script ends with status 85 (saved, start me again)
set -euo pipefail

if [[ -n ${GPUS_PER_NODE:-} ]]; then
    devices=$(seq -s, 0 $((GPUS_PER_NODE - 1)))
else
    devices=${CUDA_VISIBLE_DEVICES:?"Slurm gave this job no GPU; submit with --gpus-per-node, or set GPUS_PER_NODE"}
fi
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
hostfile=$(mktemp)
trap 'rm -f "$hostfile"' EXIT
sed "s/\$/ slots=$((${devices##*,} + 1))/" <<<"$hosts" >"$hostfile"

status=0
deepspeed --no_ssh --hostfile "$hostfile" --include "$(sed "s/\$/:$devices/" <<<"$hosts" | paste -sd@)" \
    --node_rank "$SLURM_NODEID" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" "$@" || status=$?
if ((status == 85)); then
    # A status other than 0 would make srun kill the other nodes' launchers, which are about to end with 85 too.
    touch "$OUTPUT/REQUEUE"
    status=0
fi
exit "$status"
