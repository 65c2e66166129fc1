# What the jobs share; every .sbatch file sources it, from the root of the repository, where jobs are submitted.

# srun does not take this over from sbatch by itself.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}

signaled=""
trap 'signaled=yes' USR1

# fail MESSAGE
fail() {
    echo "error: $1" >&2
    exit 2
}

# need_command NAME
need_command() {
    command -v "$1" >/dev/null || fail "$1 is not on the path; activate the environment before sbatch, the job inherits it"
}

# choose_benchmarks   Gives PROCESSBENCH and PRMBENCH their defaults; `none` leaves one out.
choose_benchmarks() {
    export PROCESSBENCH=${PROCESSBENCH:-data/processbench} PRMBENCH=${PRMBENCH:-data/prmbench}
    local name
    for name in PROCESSBENCH PRMBENCH; do
        [[ ${!name} == none || -e ${!name} ]] || fail "$name=${!name}: nothing there; none leaves it out"
    done
}

# How a command learns that it has to stop. train.sbatch has a gentler way.
ask_to_stop() {
    kill -TERM "$1" 2>/dev/null || true
}

# supervise COMMAND...   Its exit status. After SIGUSR1 it is asked to stop every second until it does: a run that is still loading its
# model would forget a single request.
supervise() {
    "$@" &
    local command=$!
    while kill -0 "$command" 2>/dev/null; do
        [[ -z $signaled ]] || ask_to_stop "$command"
        sleep 1 &
        wait $! || true # a trapped signal ends it early
    done
    wait "$command"
}

# run_or_requeue COMMAND...   For commands that find what they have finished and go on there.
run_or_requeue() {
    local status=0
    supervise "$@" || status=$?
    if ((status != 0)) && [[ -n $signaled ]]; then
        requeue
    fi
    ((status == 0)) || exit "$status"
}

# Put this job back into the queue and end it.
requeue() {
    # The last task of an array has the array's own job id: by that id all its tasks would be queued again.
    local job=$SLURM_JOB_ID
    [[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
    echo "job $job stopped as asked; queued again, it continues there"
    scontrol requeue "$job"
    exit 0
}
