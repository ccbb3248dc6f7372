"""A stand-in for the Hugging Face hub: as much of its protocol as a probe needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Hub:
    """Repositories by id and commit, and the requests that came."""

    url: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)
    """Of files whose size is to be told other than it is."""
    endless: set[str] = field(default_factory=set)
    """Files that never end, whatever was said of their size; ``siblings`` is the list of files."""
    poured: int = 0
    """Bytes that such files came to."""
    tokens: set[str] = field(default_factory=set)
    status: int = 0
    """With which every request is refused, if it is not 0."""

    def put(self, repo: str, files: dict[str, bytes]) -> str:
        """Add a commit and return its name."""
        commits = self.commits.setdefault(repo, {})
        whole = {**commits.get(self.heads.get(repo, ""), {}), **files}
        commit = hashlib.sha1(repr(sorted(whole.items())).encode()).hexdigest()
        commits[commit] = whole
        self.heads[repo] = commit
        return commit


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub of its server."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def reply(self, value: Any, status: int = 200, **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def pour(self) -> None:
        """Send spaces until nobody takes them any more."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):
            while self.command == "GET":
                self.wfile.write(b" " * (1 << 16))
                self.hub.poured += 1 << 16
        self.close_connection = True

    def refused(self) -> bool:
        sent = self.headers.get("Authorization", "")
        self.hub.tokens |= {sent} if sent else set()
        if self.hub.status:
            self.reply({"error": f"no entry with {sent}"}, self.hub.status)
        return bool(self.hub.status)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_POST(self) -> None:
        data = self.body()
        if self.refused():
            return
        path = urlsplit(self.path).path
        if path == "/api/repos/create":
            raw = json.loads(data)
            repo = f"{raw['organization']}/{raw['name']}" if "organization" in raw else raw["name"]
            self.hub.commits.setdefault(repo, {})
            self.reply({"url": f"{self.hub.url}/{repo}", "name": repo, "id": repo})
        elif "/preupload/" in path:
            names = [each["path"] for each in json.loads(data)["files"]]
            plain = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self.reply({"files": [{"path": name, **plain} for name in names]})
        elif "/commit/" in path:
            repo = path.split("/commit/")[0].removeprefix("/api/models/")
            lines = [json.loads(line) for line in data.splitlines()]
            files = {
                each["value"]["path"]: base64.b64decode(each["value"]["content"])
                for each in lines
                if each["key"] == "file"
            }
            commit = self.hub.put(repo, files)
            url = f"{self.hub.url}/{repo}/commit/{commit}"
            self.reply({"success": True, "commitOid": commit, "commitUrl": url})
        else:
            self.reply({})

    def do_GET(self) -> None:
        if self.refused():
            return
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
            self.info(repo, revision or "main")
        elif "/resolve/" in path:
            repo, _, rest = path[1:].partition("/resolve/")
            commit, _, name = rest.partition("/")
            self.file(repo, commit, name)
        else:
            self.reply({}, 404)

    do_HEAD = do_GET

    def info(self, repo: str, revision: str) -> None:
        commit = self.hub.heads.get(repo, "") if revision == "main" else revision
        files = self.hub.commits.get(repo, {}).get(commit)
        if files is None:
            code = "RevisionNotFound" if repo in self.hub.commits else "RepoNotFound"
            self.reply({"error": "not found"}, 404, X_Error_Code=code)
            return
        if "siblings" in self.hub.endless:
            self.pour()
            return
        there = [
            {"rfilename": name, "size": self.hub.sizes.get(name, len(data)), "blobId": "0" * 40}
            for name, data in files.items()
        ]
        self.reply({"_id": "1", "id": repo, "modelId": repo, "sha": commit, "siblings": there})

    def file(self, repo: str, commit: str, name: str) -> None:
        data = self.hub.commits.get(repo, {}).get(commit, {}).get(name)
        if data is None:
            self.reply({}, 404, X_Error_Code="EntryNotFound")
            return
        if self.command == "GET":
            self.hub.fetched.append(name)
        if name in self.hub.endless:
            self.pour()
            return
        etag = f'"{hashlib.sha1(data).hexdigest()}"'
        self.reply(data, X_Repo_Commit=commit, ETag=etag)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub on this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
