#!/bin/sh
# Healthy while this container does what it was started for: a node of Ray runs, or psych-ray. Whether the head answers
# is asked by docker/compose.yaml, as that needs the cluster's token.
pgrep -x raylet >/dev/null || pgrep -f '[p]sych-ray' >/dev/null
