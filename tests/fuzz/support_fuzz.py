"""Changes to bytes and to JSON, and what every function must do with the result.

`PSYCH_RAY_FUZZ` is the number of examples a test (40 unless set), `PSYCH_RAY_FUZZ_SEED` the seed. What fails is mended
and kept as an example of its own: `@example` here, or a test beside the function.
"""

from __future__ import annotations

import copy
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st

from psych_ray.errors import PsychRayError

EXAMPLES = int(os.environ.get("PSYCH_RAY_FUZZ", "40"))
SEED = int(os.environ.get("PSYCH_RAY_FUZZ_SEED", "0"))
LIMIT_S = 20.0
"""For one example."""
counts: Counter[tuple[str, str]] = Counter()
"""By test: examples that were accepted, and those that were refused."""

T = TypeVar("T")
Test = TypeVar("Test", bound=Callable[..., None])


def fuzz(share: float = 1.0) -> Callable[[Test], Test]:
    """Run a test with `share` of the examples."""

    def decorate(test: Test) -> Test:
        chosen = settings(
            max_examples=max(2, int(EXAMPLES * share)),
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        return chosen(seed(SEED)(test))

    return decorate


class Hang(BaseException):
    """An example that takes longer than `LIMIT_S`."""


@contextmanager
def time_limit(seconds: float = LIMIT_S) -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def accepted(test: str, call: Callable[[], T]) -> T | None:
    """What `call` returns, or None where it refuses with one line. Any other exception, and a hang, fail the test."""
    try:
        with time_limit():
            result = call()
    except PsychRayError as error:
        message = str(error)
        assert message.strip()
        assert len(message.splitlines()) == 1, message
        counts[test, "refused"] += 1
        return None
    counts[test, "accepted"] += 1
    return result


ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 2, 2**31, 2**63, 10**30, 0.5, -0.5, float("nan"), float("inf"), 1e308),
    *("", " ", "x", "0", "null", "..", "/", "../../etc/passwd", "a\0b", "\ud800", "\x1b[31m", "é" * 300, "[/]", "$x$"),
    *([], [None], [[]], {}, {"": {}}, {"a": {"b": [1]}}, ["x"] * 100),
]
_BYTES = [b"", b"\0", b"\xff", b"\n", b"{", b'"', b"[" * 2000, b"\xef\xbb\xbf", b"9" * 400, b"-", b"PK\3\4", b"PAR1"]


Edits = tuple[list[tuple[Any, ...]], float | None]


def byte_edits() -> st.SearchStrategy[Edits]:
    """Up to three ranges to replace or bytes to flip, and where to cut; positions are fractions of the length."""
    position = st.floats(0, 1)
    one = st.tuples(position, st.integers(0, 40), st.sampled_from(_BYTES) | st.binary(max_size=8))
    flip = st.tuples(position, st.integers(1, 255))
    return st.tuples(st.lists(one | flip, min_size=1, max_size=3), st.none() | position)


def edited_bytes(content: bytes, edits: Edits) -> bytes:
    found = bytearray(content)
    for edit in edits[0]:
        at = int(edit[0] * len(found))
        if len(edit) == 3:
            found[at : at + edit[1]] = edit[2]
        elif found:
            found[at % len(found)] ^= edit[1]
    return bytes(found if edits[1] is None else found[: int(edits[1] * len(found))])


def changed_bytes(content: bytes) -> st.SearchStrategy[bytes]:
    """`content` with one to three of its ranges replaced, flipped or cut."""
    return byte_edits().map(lambda edits: edited_bytes(content, edits))


def changed_json(value: Any) -> st.SearchStrategy[Any]:
    """`value` with one to three of its values replaced, removed, or added to under the key of another."""
    paths = list(_paths(value))
    edit = st.tuples(st.sampled_from(paths), st.sampled_from(["replace", "remove", "rename"]), st.sampled_from(ODD))

    def apply(edits: list[tuple[tuple[Any, ...], str, Any]]) -> Any:
        found = json.loads(json.dumps(value))
        for path, what, new in edits:
            found = _edited(found, path, what, copy.deepcopy(new))
        return found

    return st.lists(edit, min_size=1, max_size=3).map(apply)


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    keys = value if isinstance(value, dict) else range(min(len(value), 3)) if isinstance(value, list) else ()
    for key in keys:
        yield from _paths(value[key], (*path, key))


def _edited(value: Any, path: tuple[Any, ...], what: str, new: Any) -> Any:
    if not path:
        return new
    parent = value
    try:
        for key in path[:-1]:
            parent = parent[key]
        old = parent.pop(path[-1]) if what != "replace" else None
        if what == "rename" and isinstance(parent, dict):
            parent[str(new)] = old
        if what == "replace":
            parent[path[-1]] = new
    except (KeyError, IndexError, TypeError, AttributeError):
        pass  # an earlier edit removed it
    return value
