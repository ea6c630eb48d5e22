#!/usr/bin/env bash
# A sweep on hosts that are reached by ssh, without a scheduler. Run it on the first of them, the head, in tmux or
# with nohup: when it ends, however it does, Ray ends on all hosts.
#
#   launch/ssh/sweep.sh                                        with the overrides below
#   launch/ssh/sweep.sh checkpoints=… results.root=…           with these instead
#
# Needs keys for ssh that ask nothing, and the repository with its .venv and the results root at the same path on each.
set -euo pipefail

# ---- edit
ADDRESS=${ADDRESS:-10.0.0.1:6379}                # of this host in the network of the others, and a free port
read -ra WORKERS <<<"${WORKERS:-host2 host3}"    # the other hosts, as ssh knows them
VENV=${VENV:-$HOME/psych_ray/.venv}
OVERRIDES=(checkpoints=qwen3 transcripts=psych201 scoring.dtype=bfloat16 results.root=/shared/results)
# ----

if (($#)); then OVERRIDES=("$@"); fi
PATH=$VENV/bin:$PATH
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export PATH RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

ray start --head --block --node-ip-address="${ADDRESS%:*}" --port="${ADDRESS##*:}" --dashboard-host=127.0.0.1 &
head=$!
tail --pid=$$ -f /dev/null & # while it runs, so does Ray on the workers
hold=$!
workers=()
# shellcheck disable=SC2317,SC2329  # by the trap
stop() {
    kill "$hold" 2>/dev/null || true
    wait "${workers[@]}" 2>/dev/null || true # before the head, which they tell
    kill "$head" 2>/dev/null || true
    wait "$head" 2>/dev/null || true
}
trap stop EXIT

# A worker reads what it runs, the secret included, from its standard input, which other users of that host do not see.
# Ray ends there when the input does: with this script, or the connection.
join() {
    cat <<END
export RAY_AUTH_TOKEN=$RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
'$VENV/bin/ray' start --block --address='$ADDRESS' </dev/null & cat; kill \$!; wait \$!
END
    exec tail --pid="$hold" -f /dev/null
}
for worker in "${WORKERS[@]}"; do
    ssh -o BatchMode=yes -o ServerAliveInterval=15 "$worker" bash < <(join) &
    workers+=($!)
done

python "$(dirname "$0")/../with_nodes.py" --address="$ADDRESS" --nodes=$((${#WORKERS[@]} + 1)) \
    --wait="${WAIT:-600}" -- psych-ray sweep cluster=existing cluster.address="$ADDRESS" "${OVERRIDES[@]}" &
sweep=$!
trap 'kill -INT "$sweep"' INT TERM HUP # the sweep ends first, Ray after it
wait "$sweep" || true
while kill -0 "$sweep" 2>/dev/null; do # a signal ended the wait, not the sweep
    wait "$sweep" || true
done
code=0
wait "$sweep" || code=$?
exit "$code"
