#!/usr/bin/env bash
#SBATCH --job-name=ocr-farm
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --output=ocr-farm-%j.txt
# A Ray cluster inside a Slurm job, and a farm on it. NOT RUN.
#
#   sbatch examples/cluster/ray-slurm.sh /shared/scans --output /shared/read
#
# Submit from the root of the project, on a file system that all machines share. Submit the same line again to go on.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit with sbatch}"
export PATH="$PWD/.venv/bin:$PATH" RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(getent ahostsv4 "$first" | awk 'NR == 1 { print $1 }'):$((20000 + SLURM_JOB_ID % 20000))

srun --nodes=1 --ntasks=1 --overlap --nodelist="$first" \
    ray start --head --node-ip-address="${address%:*}" --port="${address#*:}" --block &
sleep 20 # until the head answers
if ((SLURM_NNODES > 1)); then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --overlap --exclude="$first" \
        ray start --address="$address" --block &
    sleep 20
fi
mindnlp-ocr batch "$@" --ray "$address"
