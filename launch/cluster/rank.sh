#!/bin/bash
# One task of a Slurm job step: rank.sh launch/pretrain.py ARGUMENTS...
# Gives Slurm's variables the names that torch.distributed reads. A run that SIGTERM stopped ends with 143 instead of
# 0, so that slurm.sbatch can tell "saved and stopped" from "finished".
set -u
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}"

told=
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM
python "$@" &
child=$!
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do  # a signal ends `wait` early
    wait "$child"
    code=$?
done
if [ -n "$told" ] && [ "$code" -eq 0 ]; then code=143; fi
exit "$code"
