"""A small Hugging Face Hub on loopback: the endpoints that huggingface_hub asks for models, and a log of what it asked."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit


class Asked(NamedTuple):
    method: str
    path: str
    range: str | None


@dataclass
class Repo:
    """Files of each commit, and the commits that names stand for."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    error: tuple[int, str] | None = None  #: what every request is answered with: status, X-Error-Code
    token: str | None = None  #: what unlocks it

    def push(self, files: dict[str, bytes], ref: str = "main") -> str:
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.log: list[Asked] = []
        self.cuts: dict[str, list[int]] = {}  #: file: after how many bytes each next answer breaks off
        self.reset = False  #: breaks are resets of the connection, not ends of it

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, method: str = "GET") -> list[str]:
        """The files that were asked for, without repository and revision."""
        return [a.path.split("/resolve/")[1].split("/", 1)[1] for a in self.log if a.method == method and "/resolve/" in a.path]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.log.append(Asked(self.command, path, self.headers.get("Range")))
        name, rest = "", ""
        if path.startswith("/api/models/"):
            user, repo, *more = path[len("/api/models/") :].split("/", 2)
            name, rest = f"{user}/{repo}", more[0] if more else ""
        elif "/resolve/" in path:
            name, rest = path[1:].split("/resolve/")
        repo = self.server.repos.get(name)
        if repo is None:
            self.refuse(404, "RepoNotFound")
        elif repo.token is not None and self.headers.get("Authorization") != f"Bearer {repo.token}":
            self.refuse(401, "GatedRepo")
        elif repo.error is not None:
            self.refuse(*repo.error)
        elif path.startswith("/api/"):
            self.info(name, repo, rest)
        else:
            self.file(repo, *rest.split("/", 1))

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def commit(self, repo: Repo, revision: str) -> str | None:
        commit = repo.refs.get(revision, revision)
        return commit if commit in repo.commits else None

    def info(self, name: str, repo: Repo, rest: str) -> None:
        """GET /api/models/NAME and /api/models/NAME/revision/REVISION."""
        commit = self.commit(repo, rest.partition("revision/")[2] or "main")
        if commit is None:
            self.refuse(404, "RevisionNotFound")
            return
        siblings = [{"rfilename": file} for file in repo.commits[commit]]
        body = json.dumps({"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": [], "downloads": 0}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def file(self, repo: Repo, revision: str, file: str) -> None:
        """HEAD and GET /NAME/resolve/REVISION/FILE, a part of it where a range is asked for."""
        commit = self.commit(repo, revision)
        body = repo.commits[commit].get(file) if commit is not None else None
        if body is None or commit is None:
            self.refuse(404, "EntryNotFound" if commit is not None else "RevisionNotFound")
            return
        wanted = self.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(body) - first))
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if self.command == "GET":
            cuts = self.server.cuts.get(file, [])
            last = first + cuts.pop(0) if cuts else len(body)
            self.wfile.write(body[first:last])
            self.close_connection = last < len(body)
            if last < len(body) and self.server.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
