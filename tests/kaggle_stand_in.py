"""A stand-in for Kaggle: a small server for the requests of the installed client, with faults that a test can choose.

The client posts JSON to ``/v1/<service>/<method>`` of an address in its table of environments, uploads files with PUT to an
address in the response, and follows the redirect of a download. ``Kaggle.connect`` puts this server into that table.
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
    """The state of the service, the requests it received, and its faults."""

    pending: int = 1  # number of lists in which a new submission has no score yet
    score: str = "0.97843"
    verdict: str = "COMPLETE"  # or ERROR
    reason: str = ""
    team: str = "311605004"
    # By method or competition: status, message and headers of the response.
    faults: dict[str, tuple[int, str, dict[str, str]]] = field(default_factory=dict)
    archive: bytes = b""
    cut: list[int] = field(default_factory=list)  # number of bytes after which the next downloads break off
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    submissions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    answering: threading.Event = field(default_factory=threading.Event)  # while it is not set, requests wait
    address: str = ""

    def methods(self) -> list[str]:
        return [method for method, _ in self.requests]

    def connect(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        """Connect the client to this server, with ``home`` as the home folder."""
        for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "http_proxy", "HTTP_PROXY", "all_proxy"):
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(home))
        patch.setenv("USERPROFILE", str(home))
        patch.setenv("KAGGLE_CONFIG_DIR", str(home / ".kaggle"))
        # On import, the client looks for credentials and makes its folder, both in this home.
        kaggle, environment = importlib.import_module("kaggle"), importlib.import_module("kagglesdk.kaggle_env")
        patch.setitem(environment._env_to_endpoint, environment.KaggleEnv.PROD, self.address)
        patch.setattr(kaggle.KaggleApi, "config", str(home / ".kaggle" / "kaggle.json"))

    def respond(self, method: str, body: dict[str, Any], known: bool) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Return status, JSON and headers; ``known``: the credentials are valid."""
        self.requests.append((method, body))
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
        state = {"description": body.get("submissionDescription"), "status": "PENDING", "pending": self.pending}
        mine.insert(0, {"ref": number, "date": "2026-11-21T14:00:00.000Z", "teamName": self.team, **state})
        return {"message": "Successfully submitted", "ref": number}

    def listed(self, competition: str) -> list[dict[str, Any]]:
        """Return the submissions as the client gets them, and score those that were pending long enough."""
        submissions = self.submissions.get(competition, [])
        for item in submissions:
            item["pending"] -= 1
            if item["pending"] < 0 and item["status"] == "PENDING":
                item["status"] = self.verdict
                item |= {"publicScore": self.score} if self.verdict == "COMPLETE" else {"errorDescription": self.reason}
        return [{key: value for key, value in item.items() if key != "pending"} for item in submissions]


def serve(kaggle: Kaggle) -> ThreadingHTTPServer:
    """Start the server on a free local port; ``shutdown`` and ``server_close`` stop it."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def known(self) -> bool:
            credentials = self.headers.get("Authorization", "")
            return credentials in (f"Bearer {TOKEN}", "Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode())

        def send(self, status: int, headers: dict[str, str], size: int, data: bytes) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(size)} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def send_json(self, status: int, content: dict[str, Any], headers: dict[str, str]) -> None:
            data = json.dumps(content).encode()
            self.send(status, {"Content-Type": "application/json"} | headers, len(data), data)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_POST(self) -> None:
            body = json.loads(self.body() or b"{}")
            kaggle.answering.wait(20)
            self.send_json(*kaggle.respond(self.path.rsplit("/", 1)[1], body, self.known()))

        def do_PUT(self) -> None:
            data = self.body()
            status, message, headers = kaggle.faults.get("upload", (200, "", {}))
            if status == 200:
                kaggle.uploads[self.path.rsplit("/", 1)[1]] = data
            self.send_json(status, {"message": message}, headers)

        def do_GET(self) -> None:
            data, start = kaggle.archive, 0
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            kaggle.ranges.append(self.headers.get("Range", ""))
            if match and self.headers.get("If-Range") == '"one"':
                start = int(match[1])
            headers = {"Content-Type": "application/zip", "ETag": '"one"', "Accept-Ranges": "bytes"}
            headers["Last-Modified"] = "Sat, 21 Nov 2026 14:00:00 GMT"
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            rest = data[start:]
            self.send(206 if start else 200, headers, len(rest), rest[: kaggle.cut.pop(0)] if kaggle.cut else rest)

    kaggle.answering.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    kaggle.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
