#!/usr/bin/env bash
# Read pages on several machines with Ascend cards. NOT RUN ON HARDWARE.
#
# On every machine, with its own number, 0 on the one that MASTER_ADDR names:
#   MASTER_ADDR=10.0.0.1 NODES=2 NODE_RANK=0 examples/cluster/ascend.sh /shared/scans --output-dir /shared/texts --resume
#
# The machines must reach MASTER_PORT of the first. Each machine keeps its workers' logs.
set -euo pipefail
: "${MASTER_ADDR:?the address of the first machine, as the others see it}"
: "${NODES:?how many machines there are}"
: "${NODE_RANK:?the number of this machine, from 0}"
CARDS=${CARDS:-8}
MASTER_PORT=${MASTER_PORT:-8118}

cd "$(dirname "$0")/../.."
set +u # the toolkit reads variables that may not be set
source "${ASCEND_ENV:-/usr/local/Ascend/ascend-toolkit/set_env.sh}"
set -u
export PATH="$PWD/.venv/bin:$PATH" # msrun starts workers with the first python

options=(--config configs/ascend-910b.yaml)
if [[ -n ${TENSOR_PARALLEL:-} ]]; then # one model on all cards: as many parts as there are workers
    options+=(--tensor-parallel "$((NODES * CARDS))")
fi
exec msrun \
    --worker_num "$((NODES * CARDS))" --local_worker_num "$CARDS" \
    --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" --node_rank "$NODE_RANK" \
    --log_dir "logs/node-$NODE_RANK" --join True --cluster_time_out 300 \
    tools/infer.py "${options[@]}" "$@"
