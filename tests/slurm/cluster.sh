#!/usr/bin/env bash
# A Slurm cluster of several nodes on this machine, for tests: `cluster.sh install`, `cluster.sh up DIR NODES`, `cluster.sh down DIR`.
# Needs root. After `up`, SLURM_CONF=DIR/slurm.conf makes sbatch and the others talk to it. Every node has two GPUs that are none.
set -euo pipefail

install() {
    command -v slurmctld slurmd >/dev/null && return
    if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
        echo "Slurm is missing: install it as root (Debian, Ubuntu: apt-get install slurm-wlm)" >&2
        exit 1
    fi
    export DEBIAN_FRONTEND=noninteractive
    local get=(apt-get install --quiet --quiet --yes --no-install-recommends slurm-wlm)
    "${get[@]}" || { apt-get update --quiet --quiet && "${get[@]}"; }
}

# configure DIR NODES
configure() {
    local dir=$1 host node ports=$((20000 + RANDOM % 5000))
    host=$(hostname -s)
    cat >"$dir/slurm.conf" <<EOF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$ports
AuthType=auth/none
CredType=cred/none
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0,requeue_delay=1
MinJobAge=86400
KillWait=10
ReturnToService=2
GresTypes=gpu
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
    for ((node = 1; node <= $2; node++)); do
        # More CPUs than there may be: a job of two tasks, and one beside it.
        echo "NodeName=node$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((ports + node)) CPUs=3 Gres=gpu:2"
    done >>"$dir/slurm.conf"
    for gpu in 0 1; do
        [[ -e $dir/gpu$gpu ]] || mknod "$dir/gpu$gpu" c 1 3
    done
    echo "Name=gpu File=$dir/gpu[0-1]" >"$dir/gres.conf"
}

# up DIR NODES
up() {
    local dir=$1 node
    mkdir -p "$dir/state"
    configure "$dir" "$2"
    export SLURM_CONF=$dir/slurm.conf
    slurmctld -i
    for ((node = 1; node <= $2; node++)); do
        mkdir -p "$dir/spool/node$node"
        slurmd -N "node$node"
    done
    for _ in {1..60}; do
        (($(sinfo --noheader --Node --states=idle 2>/dev/null | wc -l) < $2)) || return 0
        sleep 0.5
    done
    echo "the nodes did not come up:" >&2
    cat "$dir"/*.log >&2
    down "$dir"
    exit 1
}

# down DIR   Ends jobs, too.
down() {
    local file
    export SLURM_CONF=$1/slurm.conf
    timeout 20 scancel --user="$(id -un)" 2>/dev/null || true
    for _ in {1..80}; do # until their processes are gone, which takes KillWait
        [[ -n $(timeout 20 squeue --noheader 2>/dev/null) ]] || break
        sleep 0.5
    done
    for file in "$1"/slurmd.*.pid "$1"/slurmctld.pid; do
        [[ ! -s $file ]] || kill "$(<"$file")" 2>/dev/null || true
    done
    for file in "$1"/slurmd.*.pid "$1"/slurmctld.pid; do
        for _ in {1..40}; do
            [[ -s $file ]] && kill -0 "$(<"$file")" 2>/dev/null || break
            sleep 0.25
        done
    done
}

case "${1:-}" in
    install) install ;;
    up) up "${2:?DIR}" "${3:?NODES}" ;;
    down) down "${2:?DIR}" ;;
    *) sed -n '2,3s/^# //p' "$0" >&2 && exit 2 ;;
esac
