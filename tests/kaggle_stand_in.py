"""A stand-in for Kaggle: a small server that answers what the installed client really sends, well or as badly as it is told.

The client posts JSON to ``/v1/<service>/<method>`` of the address that its table of environments gives, puts the file's bytes
to the address that it is told, and follows the redirect of a download; ``Kaggle.connect`` lets that table point here.
"""

from __future__ import annotations

import base64
import importlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN, USER, KEY = "KGAT_good", "student", "secret"


@dataclass
class Kaggle:
    """What the service holds, what it was asked, and how it is to misbehave."""

    looks: int = 1  # how often a submission is looked at before it has a score; each list counts
    score: str = "0.97843"
    verdict: str = "COMPLETE"  # or ERROR
    why: str = ""
    faults: dict[str, tuple[int, str, dict[str, str]]] = field(
        default_factory=dict
    )  # method or competition: the answer
    archive: bytes = b""
    cut: list[int] = field(default_factory=list)  # after how many bytes the next downloads break off
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    submissions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    silent: threading.Event = field(default_factory=threading.Event)  # unset while the service is to say nothing
    address: str = ""

    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]

    def connect(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        """Let the client talk to this server, from a home folder without credentials."""
        for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "http_proxy", "HTTP_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("USERPROFILE", str(home))
        patch.setenv("KAGGLE_CONFIG_DIR", str(home / ".kaggle"))
        # As it is imported, it looks for credentials and makes its folder: both in this home.
        kaggle, environment = importlib.import_module("kaggle"), importlib.import_module("kagglesdk.kaggle_env")
        patch.setitem(environment._env_to_endpoint, environment.KaggleEnv.PROD, self.address)
        patch.setattr(kaggle.KaggleApi, "config", str(home / ".kaggle" / "kaggle.json"))

    def answer(self, method: str, body: dict[str, Any], known: bool) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, JSON and headers."""
        self.asked.append((method, body))
        for name in (method, body.get("competitionName", "")):
            if name in self.faults:
                status, message, headers = self.faults[name]
                return status, {"code": status, "message": message}, headers
        if method == "IntrospectToken":
            return 200, {"active": body["token"] == TOKEN, "username": USER}, {}
        if not known:
            return 401, {"code": 401, "message": "Unauthenticated"}, {}
        if method == "StartSubmissionUpload":
            token = f"blob{len(self.uploads)}"
            return 200, {"token": token, "createUrl": f"{self.address}/upload/{token}"}, {}
        if method == "CreateSubmission":
            return 200, self.create(body), {}
        if method == "ListSubmissions":
            return 200, {"submissions": self.listed(body["competitionName"]), "nextPageToken": ""}, {}
        if method == "DownloadDataset":
            return 302, {}, {"Location": f"{self.address}/files/archive.zip"}
        return 404, {"code": 404, "message": f"no method {method}"}, {}

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        number = 100 + sum(map(len, self.submissions.values()))
        mine = self.submissions.setdefault(body["competitionName"], [])
        said = {"description": body.get("submissionDescription"), "status": "PENDING", "looks": self.looks}
        mine.insert(0, {"ref": number, "date": "2026-11-21T14:00:00.000Z", **said})
        return {"message": "Successfully submitted", "ref": number}

    def listed(self, competition: str) -> list[dict[str, Any]]:
        """The list as the client gets it; looked at often enough, a submission has its score."""
        shown = []
        for one in self.submissions.get(competition, []):
            one["looks"] -= 1
            if one["looks"] < 0 and one["status"] == "PENDING":
                one["status"] = self.verdict
                one |= {"publicScore": self.score} if self.verdict == "COMPLETE" else {"errorDescription": self.why}
            shown.append({key: value for key, value in one.items() if key != "looks"})
        return shown


def serve(kaggle: Kaggle) -> ThreadingHTTPServer:
    """Start the server on a free port of this machine; ``shutdown`` and ``server_close`` end it."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def known(self) -> bool:
            word = self.headers.get("Authorization", "")
            return word in (f"Bearer {TOKEN}", "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode())

        def say(self, status: int, said: dict[str, Any], headers: dict[str, str]) -> None:
            data = json.dumps(said).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_POST(self) -> None:
            body = json.loads(self.body() or b"{}")
            kaggle.silent.wait(20)
            self.say(*kaggle.answer(self.path.rsplit("/", 1)[1], body, self.known()))

        def do_PUT(self) -> None:
            data = self.body()
            status, message, headers = kaggle.faults.get("upload", (200, "", {}))
            if status == 200:
                kaggle.uploads[self.path.rsplit("/", 1)[1]] = data
            self.say(status, {"message": message}, headers)

        def do_GET(self) -> None:
            data, start = kaggle.archive, 0
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            kaggle.ranges.append(self.headers.get("Range", ""))
            if wanted and self.headers.get("If-Range") == '"one"':
                start = int(wanted[1])
            self.send_response(206 if start else 200)
            headers = {"Content-Type": "application/zip", "Content-Length": str(len(data) - start), "ETag": '"one"'}
            headers |= {"Accept-Ranges": "bytes", "Last-Modified": "Sat, 21 Nov 2026 14:00:00 GMT"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            rest = data[start:]
            self.wfile.write(rest[: kaggle.cut.pop(0)] if kaggle.cut else rest)

    kaggle.silent.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kaggle.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
