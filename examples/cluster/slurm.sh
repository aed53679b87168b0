#!/usr/bin/env bash
#SBATCH --job-name=ocr
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --output=ocr-%j.txt
# Read pages on the machines of a Slurm job. NOT RUN ON HARDWARE.
#
#   sbatch examples/cluster/slurm.sh /shared/scans --output-dir /shared/texts --resume
#
# Submit from the root of the project, on a file system that all machines share. One task a machine: msrun starts its workers.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit with sbatch}"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_ADDR=$(getent ahostsv4 "$first" | awk 'NR == 1 { print $1 }')
NODES=$SLURM_NNODES
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one machine take two ports
export MASTER_ADDR NODES MASTER_PORT
# --kill-on-bad-exit=0: a machine that fails must not end the others; run the same line again.
# shellcheck disable=SC2016 # the number of the machine is known there, not here
exec srun --kill-on-bad-exit=0 bash -c 'NODE_RANK=$SLURM_NODEID exec examples/cluster/ascend.sh "$@"' ascend "$@"
