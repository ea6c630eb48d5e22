"""Run a command when the nodes of a Ray cluster are there: a sweep plans for the nodes that it finds at its start.

    python with_nodes.py --nodes 4 [--ask-for '{"CPU": 96, "GPU": 8}'] [--accept 3] -- psych-ray sweep …

With `--ask-for`, Ray's autoscaler is asked for as many nodes with these resources, until the command has ended. SIGINT
and SIGTERM are passed on. The exit code is the command's, or 0 for one that `--accept` names, where a platform would
repeat what another attempt does not change. Depends on Ray and on nothing of psych_ray.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from types import FrameType

import ray
from ray.autoscaler.sdk import request_resources

EVERY_S = 2.0


def n_nodes() -> int:
    """Live nodes that replicas can run on, as those with a CPU core are."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) >= 1 for node in ray.nodes())


def wait_for(nodes: int, seconds: float) -> int:
    """Wait until so many nodes are there, at most so long; how many are."""
    ends = time.monotonic() + seconds
    while (found := n_nodes()) < nodes and time.monotonic() < ends:
        time.sleep(EVERY_S)
    return found


def run(command: list[str]) -> int:
    """Run a command to its end, which signals only ask for; its exit code."""
    started: list[subprocess.Popen[bytes]] = []
    asked: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        for process in started:
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    # In a process group of its own, as Ctrl-C would reach it twice otherwise, which ends a sweep at once.
    process = subprocess.Popen(command, process_group=0)
    for number in asked:
        process.send_signal(number)
    started.append(process)
    code = process.wait()
    return code if code >= 0 else 128 - code


def main() -> int:
    """Wait, run, release."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", default="auto", help="of the Ray cluster")
    parser.add_argument("--nodes", type=int, default=1, help="that are waited for")
    parser.add_argument("--wait", type=float, default=1800.0, help="seconds; then the command runs on those that came")
    parser.add_argument("--ask-for", type=json.loads, help="resources of a node, as JSON, for Ray's autoscaler")
    parser.add_argument("--accept", type=int, action="append", default=[], help="exit code that counts as success")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    ray.init(address=arguments.address, log_to_driver=False, logging_level="ERROR")
    if arguments.ask_for:
        request_resources(bundles=[arguments.ask_for] * arguments.nodes)
    try:
        found = wait_for(arguments.nodes, arguments.wait)
        print(f"{found} of {arguments.nodes} nodes", file=sys.stderr)
        if not found:
            print(f"with_nodes: no node with a CPU core joined within {arguments.wait:g} s", file=sys.stderr)
            return 1
        code = run(arguments.command)
        return 0 if code in arguments.accept else code
    finally:
        if arguments.ask_for:
            request_resources(bundles=[])


if __name__ == "__main__":
    sys.exit(main())
