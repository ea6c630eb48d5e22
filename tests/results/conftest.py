"""A bucket of a loopback server, and a swept root, for the tests of several modules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cloud_credentials
import pytest
import s3_server
from support_roots import complete

from psych_ray.results.store import open_store


@pytest.fixture(scope="module")
def s3() -> Iterator[s3_server.S3Server]:
    with s3_server.s3_server() as server:
        yield server


@pytest.fixture
def server(s3, monkeypatch, tmp_path) -> s3_server.S3Server:
    """The server with an empty `bucket`; the environment has its address and keys."""
    cloud_credentials.forget_credentials(monkeypatch, tmp_path)
    cloud_credentials.use_keys(monkeypatch, s3)
    s3.clear()
    s3.create_bucket("bucket")
    return s3


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Path:
    """A root of which nothing is missing, to be copied."""
    root = tmp_path_factory.mktemp("roots") / "whole"
    assert complete(open_store(str(root))) == []
    return root
