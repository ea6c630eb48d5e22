"""An S3 server on loopback, moto's, with faults between it and its clients.

Real HTTP, so that what is tested is what the object store's library does about a cut connection, a lost answer or a
server that stands still. moto does not compare a body with the SHA-256 that its request is signed with, as S3 does:
this layer does. Does not depend on psych_ray.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from moto.backends import get_backend
from moto.moto_server.werkzeug_app import create_backend_app
from werkzeug.test import Client
from werkzeug.wrappers import Response

_SIGNED = "AWS4-HMAC-SHA256 Credential=key/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
_SKIPPED = {"connection", "content-length", "date", "server", "transfer-encoding"}


@dataclass
class Request:
    """What a handler knows of a request; `forward` passes it on, with another body if one is given."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    handler: Handler = field(repr=False)

    def forward(self, body: bytes | None = None) -> Response:
        return self.handler.backend(self, self.body if body is None else body)


Fault = Callable[[Request], Response | None]
"""What happens to a request; None where no answer is sent, and the connection is reset."""


def status(code: int, name: str = "", message: str = "told by a test") -> Fault:
    """S3's answer to what it refuses, or cannot do now."""
    body = f"<?xml version='1.0'?><Error><Code>{name}</Code><Message>{message}</Message></Error>" if name else ""
    return lambda _: Response(body, code, content_type="application/xml")


def reset(_: Request) -> None:
    """Reset the connection; the request has no effect."""


def lose_answer(request: Request) -> None:
    """Carry the request out, then reset the connection."""
    request.forward()


def carry_out_and_fail(request: Request) -> Response | None:
    """Carry the request out, then answer that the server failed."""
    request.forward()
    return status(500, "InternalError")(request)


def flip_a_bit(request: Request) -> Response:
    """Change a bit of the body in transit."""
    return request.forward(bytes([request.body[0] ^ 1]) + request.body[1:])


def slowly(request: Request) -> Response:
    """Answer late."""
    time.sleep(0.5)
    return request.forward()


def ignore_conditions(request: Request) -> Response:
    """Write in any case, as servers do that know no conditional writes."""
    request.headers = {name: text for name, text in request.headers.items() if name.lower() != "if-none-match"}
    return request.forward()


def cut_answer(request: Request) -> None:
    """Send half of the answer's body, then reset the connection."""
    answer = request.forward()
    request.handler.send(answer, length=len(answer.data) // 2)


def cut_request(request: Request) -> None:
    """Reset the connection in the middle of the body, which is not read to its end (`S3Server.fail` sees to it)."""


TRANSIENT: tuple[Fault, ...] = (
    status(503, "SlowDown"),
    status(500, "InternalError"),
    carry_out_and_fail,
    reset,
    lose_answer,
    slowly,
    cut_answer,
    cut_request,
)
"""What a repetition helps against."""


@dataclass
class _Rule:
    fault: Fault
    method: str
    path: str
    times: int

    def applies(self, method: str, path: str) -> bool:
        return self.times > 0 and method in ("", self.method or method) and self.path in path


class S3Server(ThreadingHTTPServer):
    """The server, its requests so far, and the faults that are to come."""

    daemon_threads = True

    def __init__(self, handler: type[Handler], host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), handler)
        self.requests: list[str] = []
        self.signed_by: set[str] = set()  # access key and region
        self.sent_bytes = 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.client = Client(create_backend_app("s3"))
        self._rules: list[_Rule] = []
        self._share, self._rng = 0.0, random.Random(0)
        self._at_random: tuple[Fault, ...] = ()
        self.is_gone = False
        """Whether connections are closed instead of answered."""

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]}:{self.server_port}"

    def fail(self, fault: Fault, method: str = "", path: str = "", times: int = 1) -> None:
        """Let a fault happen to the next requests of a method whose path contains `path`."""
        self._rules.append(_Rule(fault, method, path, times))

    def fail_at_random(self, faults: Sequence[Fault], share: float, seed: int = 0) -> None:
        """Let this share of all further requests meet one of the faults."""
        self._share, self._at_random, self._rng = share, tuple(faults), random.Random(seed)

    def rule_for(self, method: str, path: str) -> Fault | None:
        if self.is_gone:
            return reset
        for rule in self._rules:
            if rule.applies(method, path):
                rule.times -= 1
                return rule.fault
        return self._rng.choice(self._at_random) if self._rng.random() < self._share else None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether a new connection is served."""
        return not self.is_gone

    def stall(self, _: Request) -> None:
        """Keep the connection open and send nothing."""
        self.released.wait(60)

    def clear(self) -> None:
        """End all faults, and forget objects and requests."""
        self.clear_faults()
        self.requests.clear()
        self.signed_by.clear()
        get_backend("s3").reset()

    def clear_faults(self) -> None:
        """End all faults."""
        self._rules.clear()
        self._share, self.is_gone = 0.0, False

    def create_bucket(self, name: str) -> None:
        assert self.client.put(f"/{name}", headers={"Host": f"127.0.0.1:{self.server_port}"}).status_code == 200

    def count(self, method: str, path: str = "") -> int:
        """Requests of a method whose path contains `path`."""
        return sum(line.startswith(f"{method} ") and path in line for line in self.requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that a client closed."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two wait for each other's acknowledgement, 40 ms
    server: S3Server

    def log_message(self, *_: Any) -> None:
        pass

    def serve(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        signature = re.search(r"Credential=(\w+)/\d+/([\w-]+)/", self.headers.get("Authorization", ""))
        if signature:
            self.server.signed_by.add(" ".join(signature.groups()))
        fault = self.server.rule_for(self.command, self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length // 2 if fault is cut_request else length)
        request = Request(self.command, self.path, dict(self.headers.items()), body, self)
        answer = fault(request) if fault else request.forward()
        if answer is None:
            self.drop()
        else:
            self.send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def backend(self, request: Request, body: bytes) -> Response:
        """Answer as S3 does: one request at a time, and none whose body is not the one that was signed."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        signed = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        digest = hashlib.sha256(body)
        if signed not in ("UNSIGNED-PAYLOAD", digest.hexdigest()):
            return status(400, "XAmzContentSHA256Mismatch")(request)
        if headers.get("x-amz-checksum-sha256", "") not in ("", base64.b64encode(digest.digest()).decode()):
            return status(400, "BadDigest")(request)
        return self.ask(self.command, request.headers, body)

    def ask(self, method: str, headers: dict[str, str], body: bytes = b"") -> Response:
        with self.server.lock:
            return self.server.client.open(self.path, method=method, headers=headers, data=body, buffered=True)

    def send(self, answer: Response, length: int | None = None) -> None:
        data = b"" if self.command == "HEAD" else answer.data
        self.send_response(answer.status_code)
        for name, value in answer.headers.items():
            if name.lower() not in _SKIPPED:
                self.send_header(name, value)
        told = answer.headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", told)
        self.end_headers()
        self.wfile.write(data[:length])
        self.server.sent_bytes += len(data)
        self.wfile.flush()

    def drop(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class GcsHandler(Handler):
    """Google's XML API as far as obstore uses it: S3's with other names of headers, and 404 for what is absent."""

    def backend(self, request: Request, body: bytes) -> Response:
        headers = {name.lower().replace("x-goog-meta-", "x-amz-meta-"): text for name, text in request.headers.items()}
        if headers.pop("x-goog-if-generation-match", "") == "0":
            headers["if-none-match"] = "*"
        headers.setdefault("authorization", _SIGNED)
        if self.command == "DELETE" and self.ask("HEAD", headers).status_code == 404:
            return status(404, "NoSuchKey")(request)
        answer = super().backend(Request(self.command, self.path, headers, body, self), body)
        for name, text in list(answer.headers.items()):
            if name.lower().startswith("x-amz-meta-"):
                answer.headers["x-goog-meta-" + name[11:]] = text
        answer.headers["x-goog-generation"] = "1"
        return answer


@contextmanager
def s3_server(handler: type[Handler] = Handler) -> Iterator[S3Server]:
    """Serve S3, or what a handler makes of it, on a free port of loopback until the context ends."""
    server = S3Server(handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
