"""A local stand-in for the Hugging Face hub: the part of its API that huggingface_hub needs to upload and to fetch."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_ann"
USER = "ann"


class Hub(ThreadingHTTPServer):
    """The server and what it holds.

    Attributes:
        repositories: Commits by repository, the last one the newest; a commit is its files by path.
        private: Repositories that only TOKEN reads.
        requests: Method and path of all requests.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: set[str] = set()
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, name: str, files: dict[str, bytes]) -> str:
        """Add a commit to a repository, which is made if it is not there; returns the commit's number."""
        commits = self.repositories.setdefault(name, {})
        number = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits[number] = {**(list(commits.values())[-1] if commits else {}), **files}
        return number

    def files(self, name: str) -> dict[str, bytes]:
        """Files of the newest commit."""
        return list(self.repositories[name].values())[-1]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that serves until the end of the block."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._resolve()

    def do_GET(self) -> None:
        self._resolve()

    def do_PUT(self) -> None:
        content = self._body()
        self.server.blobs[hashlib.sha256(content).hexdigest()] = content
        self._answer(200, {})

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body)["objects"])
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            self._answer(200, {"files": [self._mode_of(file["path"]) for file in files]})
        elif "/commit/" in path:
            self._commit(path.removeprefix("/api/models/").partition("/commit/")[0], body)
        else:
            self._answer(404, {"error": f"no {path} here"})

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != USER:
            self._answer(403, {"error": f"You don't have the rights to create a model under {asked['organization']}"})
        elif name in self.server.repositories:
            self._answer(409, {"error": "You already created this model repo", "url": f"{self.server.endpoint}/{name}"})
        else:
            self.server.repositories[name] = {}
            if asked.get("visibility") == "private":
                self.server.private.add(name)
            self._answer(200, {"url": f"{self.server.endpoint}/{name}"})

    def _mode_of(self, path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith((".safetensors", ".npz", ".model")) else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False}

    def _batch(self, objects: list[dict[str, Any]]) -> None:
        actions = {"upload": {"href": f"{self.server.endpoint}/lfs"}}
        answer = [{**each, **({} if each["oid"] in self.server.blobs else {"actions": actions})} for each in objects]
        self._answer(200, {"transfer": "basic", "objects": answer})

    def _commit(self, name: str, body: bytes) -> None:
        files = {}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        number = self.server.commit(name, files)
        url = f"{self.server.endpoint}/{name}/commit/{number}"
        self._answer(200, {"commitUrl": url, "commitOid": number})

    def _resolve(self) -> None:
        name, _, rest = unquote(urlsplit(self.path).path).lstrip("/").partition("/resolve/")
        revision, _, path = rest.partition("/")
        commits = self.server.repositories.get(name)
        is_known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if commits is None or (name in self.server.private and not is_known):
            self._refuse(401 if not is_known else 404, "RepoNotFound")
            return
        number = list(commits)[-1] if revision == "main" else revision
        if number not in commits:
            self._refuse(404, "RevisionNotFound")
        elif path not in commits[number]:
            self._refuse(404, "EntryNotFound")
        else:
            content = commits[number][path]
            headers = {"X-Repo-Commit": number, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            self._send(200, content, headers)

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if length := self.headers.get("Content-Length"):
            return self.rfile.read(int(length))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content
