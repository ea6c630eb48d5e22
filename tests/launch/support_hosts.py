"""Two hosts on one machine: network namespaces that a pair of virtual devices joins. Needs root and the command ip."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

HOSTS = ("10.213.78.1", "10.213.78.2")


def namespace_of(host: str) -> str:
    """Name of the namespace of a host."""
    return f"pr-{HOSTS.index(host)}-{os.getpid()}"


def within(host: str) -> list[str]:
    """What to put before a command to run it on a host."""
    return ["ip", "netns", "exec", namespace_of(host)]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Iterator[None]:
    """Both, for as long as the context runs; skips the test where this user cannot make them."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("needs the commands ip and unshare to make network namespaces")
    links = [f"prl{i}-{os.getpid()}" for i in range(2)]
    try:
        try:
            for host in HOSTS:
                _ip("netns", "add", namespace_of(host))
            _ip("link", "add", links[0], "type", "veth", "peer", "name", links[1])
            for host, link in zip(HOSTS, links, strict=True):
                _ip("link", "set", link, "netns", namespace_of(host))
                _ip("-n", namespace_of(host), "address", "add", f"{host}/30", "dev", link)
                _ip("-n", namespace_of(host), "link", "set", link, "up")
                _ip("-n", namespace_of(host), "link", "set", "lo", "up")
            subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"namespaces cannot be made here: {error.stderr}")
        yield
    finally:
        for host in HOSTS:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", namespace_of(host))
