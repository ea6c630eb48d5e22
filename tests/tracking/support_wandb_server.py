"""A server that answers as much of W&B's protocol as opening and closing a run needs, and that can stop answering."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PROJECT = {"name": "psych-ray", "entity": {"name": "e"}}
_DATA = {
    "viewer": {"id": "u", "entity": "e", "username": "e", "flags": "{}", "teams": {"edges": []}},
    "serverInfo": {"cliVersionInfo": {"max_cli_version": "99"}, "featuresList": [], "features": []},
    "model": {"bucket": None, **_PROJECT},
    "project": {"run": None},
    "createRunFiles": {"runID": "x", "uploadHeaders": [], "files": []},
    "QueryType": {"fields": []},
    "MutationType": {"fields": []},
    "InputType": {"inputFields": []},
    "__type": {"fields": [], "inputFields": []},
}


class Server(ThreadingHTTPServer):
    """`mute` is set: it takes requests and does not answer; `opened` counts the runs that were opened."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mute = threading.Event()
        self.end = threading.Event()
        self.opened = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        query = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.server.mute.is_set():
            self.server.end.wait(60)
            return
        answer: dict[str, object] = {"exitcode": None, "limits": {}}
        if self.path.startswith("/graphql"):
            asked = json.loads(query)
            self.server.opened += asked.get("operationName") == "UpsertBucket"
            name = (asked.get("variables") or {}).get("name")
            bucket = {"id": "x", "name": name, "displayName": "d", "project": _PROJECT, "historyLineCount": 0}
            answer = {"data": _DATA | {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        self._send(json.dumps(answer).encode())

    do_GET = do_PUT = do_HEAD = do_POST

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.end.set()
            server.shutdown()
            thread.join()
