#!/usr/bin/env bash
# A sweep on a cluster of `ray up`; runs on its head, as aws.yaml and gcp.yaml show. The autoscaler is asked for the
# workers, which it ends some minutes after the sweep. Run again after an error: it continues.
#
#   sweep.sh [OVERRIDE ...]      instead of those below
set -euo pipefail

# ---- edit: how many workers, and what each has: as `resources` of the worker type in the cluster's file
WORKERS=${WORKERS:-4}
RESOURCES=${RESOURCES:-'{"CPU": 96, "GPU": 8}'}
VENV=${VENV:-$HOME/venv}
OVERRIDES=(checkpoints=qwen3 transcripts=psych201 scoring.dtype=bfloat16 results.root=s3://BUCKET/FOLDER)
# ----

if (($#)); then OVERRIDES=("$@"); fi
export PATH=$VENV/bin:$PATH RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
ADDRESS=$(hostname -I | cut -d' ' -f1):6379
exec python "$(dirname "$0")/../with_nodes.py" --address="$ADDRESS" --nodes="$WORKERS" --ask-for="$RESOURCES" -- \
    psych-ray sweep cluster=existing cluster.address="$ADDRESS" "${OVERRIDES[@]}"
