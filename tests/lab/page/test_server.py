"""The page over real HTTP: what is open, what is not, how much may be sent, and that it tells nobody."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.errors import UserError
from lab.page.answers import BYTES, Exhibit
from lab.page.server import is_loopback, launch
from tests.made import PROJECT
from tests.made_page import exhibit, made_page, save_staged

pytestmark = pytest.mark.filterwarnings(r"ignore:.*(silent_downcasting|copy keyword)")  # Gradio's own, of pandas


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[tuple[str, Exhibit]]:
    with made_page(folder) as served:
        yield served


def ask(address: str, data: bytes | None = None, kind: str = "application/json") -> tuple[int, bytes]:
    """Status and body of an answer, past any proxy; the path goes out as it is spelled."""
    request = urllib.request.Request(address, data, {"Content-Type": kind} if data is not None else {})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address: str, data: bytes, name: str = "cell.png") -> tuple[int, bytes]:
    """Send a file to the upload's address."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + b"\r\n--x--\r\n"
    return ask(f"{address}/gradio_api/upload", body, "multipart/form-data; boundary=x")


def call(address: str, name: str, *data: object) -> str:
    """Call the page's function of this name, as the browser does; all that comes back, as text."""
    config = json.loads(ask(f"{address}/config")[1])
    number = next(one["id"] for one in config["dependencies"] if one["api_name"] == name)
    said = {"data": data, "fn_index": number, "session_hash": "test", "event_data": None}
    status, body = ask(f"{address}/gradio_api/queue/join", json.dumps(said).encode())
    if status != 200:
        return body.decode()
    return ask(f"{address}/gradio_api/queue/data?session_hash=test")[1].decode()


def test_the_page_is_open_and_holds_the_first_answer(page: tuple[str, Exhibit]) -> None:
    address, shown = page
    assert address.startswith("http://127.0.0.1:")
    status, body = ask(address + "/")
    assert status == 200 and shown.valid and shown.valid.images.ids[0].encode() in body


@pytest.mark.parametrize("start", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"])
@pytest.mark.parametrize(
    "path", ["{weights}", "{valid}", "{relative}", "../../../../../../../../../../etc/passwd", "/etc/passwd", "{demo}"]
)
def test_no_file_is_given_out(page: tuple[str, Exhibit], folder: Path, start: str, path: str) -> None:
    places = {"weights": folder / "weights/tiny/resnet18/best.safetensors", "valid": folder / "csv/tiny/valid/0.png"}
    places |= {"relative": Path("csv/tiny/valid.csv"), "demo": PROJECT / "demo.py"}
    status, body = ask(page[0] + start + path.format(**places))
    assert status in (403, 404) and len(body) < 1000 and b"root:" not in body and b"PNG" not in body


@pytest.mark.parametrize(
    "path",
    [
        *("/gradio_api/file=http://127.0.0.1:9/secret", "/gradio_api/proxy=http://127.0.0.1:9/secret", "/monitoring"),
        *("/gradio_api/monitoring", "/gradio_api/vibe-code/", "/gradio_api/runs", "/gradio_api/info", "/docs"),
        *("/gradio_api/openapi.json", "/gradio_api/component_server", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        *("/gradio_api/run/take", "/gradio_api/call/take", "/openapi.json", "/gradio_api/deep_link", "/login"),
    ],
)
def test_what_the_page_does_not_need_is_closed(page: tuple[str, Exhibit], path: str) -> None:
    for data in (None, b"{}"):
        assert ask(page[0] + path, data) == (404, b"not found")


def test_a_file_named_by_its_path_is_not_read(page: tuple[str, Exhibit], folder: Path) -> None:
    """Whoever writes to the server directly may name a file that was never uploaded."""
    for path in (folder / "csv/tiny/valid/0.png", folder / "weights/tiny/resnet18/best.safetensors", "/etc/passwd"):
        said = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        answer = call(page[0], "take", said, -1, "")
        assert '"success":false' in answer and "panel" not in answer and "Pillow" not in answer


def test_an_address_in_place_of_an_upload_is_not_asked(page: tuple[str, Exhibit]) -> None:
    with socket.socket() as trap:
        trap.bind(("127.0.0.1", 0))
        trap.listen()
        trap.settimeout(0.2)
        said = {"path": f"http://127.0.0.1:{trap.getsockname()[1]}/cell.png", "meta": {"_type": "gradio.FileData"}}
        assert '"success":false' in call(page[0], "take", said, -1, "")
        with pytest.raises(TimeoutError):
            trap.accept()


def test_an_upload_is_answered_but_not_given_out_again(page: tuple[str, Exhibit], folder: Path) -> None:
    status, body = upload(page[0], (folder / "csv/tiny/valid/0.png").read_bytes(), "../../mine.png")
    (path,) = json.loads(body)
    assert status == 200 and Path(path).resolve().is_relative_to((folder / "uploads").resolve())
    said = {"path": path, "meta": {"_type": "gradio.FileData"}}
    answer = call(page[0], "take", said, -1, "")
    assert "mine.png" in answer and answer.count("panel resnet") >= 3
    assert ask(f"{page[0]}/gradio_api/file={path}")[0] == 404


def test_a_large_upload_is_refused(page: tuple[str, Exhibit], folder: Path) -> None:
    status, body = upload(page[0], b"\0" * (BYTES + 1))
    assert status == 413 and b"maximum allowed size" in body
    assert not any(path.stat().st_size > BYTES for path in (folder / "uploads").rglob("*") if path.is_file())


@pytest.mark.parametrize("place", [-1, 99, "0", None, {"a": 1}, 1.5])
def test_a_place_that_is_not_in_the_grid_is_no_image(page: tuple[str, Exhibit], place: object) -> None:
    config = json.loads(ask(f"{page[0]}/config")[1])
    number = next(one["id"] for one in config["dependencies"] if one["api_name"] == "pick")
    said = {"data": [None, -1, ""], "fn_index": number, "session_hash": "odd"}
    said["event_data"] = {"index": place, "value": None}
    assert ask(f"{page[0]}/gradio_api/queue/join", json.dumps(said).encode())[0] == 200
    answer = ask(f"{page[0]}/gradio_api/queue/data?session_hash=odd")[1].decode()
    assert "panel resnet" not in answer and "valid/" not in answer


def test_only_this_machine_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.2", "example.org", "")))


def test_a_foreign_name_for_this_machine_is_refused(page: tuple[str, Exhibit]) -> None:
    request = urllib.request.Request(page[0] + "/", headers={"Host": "pictures.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_said(page: tuple[str, Exhibit], tmp_path: Path, port: int) -> None:
    with pytest.raises(UserError, match=f"--port {port}: must be from 1 to 65535"):
        launch(page[1], "127.0.0.1", port, str(tmp_path))


def test_a_port_in_use_is_said(page: tuple[str, Exhibit], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--host 127.0.0.1 --port {port}: cannot listen there"):
            launch(page[1], "127.0.0.1", port, str(tmp_path))


SERVE = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from tests.made_page import exhibit
from lab.errors import run
from lab.page.server import serve
run(lambda: serve(exhibit(Path(sys.argv[3]), ["resnet18"], lists=False), "0.0.0.0", None))
"""


def test_the_command_says_where_it_listens_and_leaves_nothing_when_it_is_told_to_end(tmp_path: Path) -> None:
    save_staged(tmp_path / "weights", ["resnet18"])
    assert exhibit(tmp_path, ["resnet18"], lists=False).data == "tiny"
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary"), "PYTHONUNBUFFERED": "1"}
    words = [sys.executable, "-c", SERVE, str(PROJECT), str(PROJECT / "tests"), str(tmp_path)]
    process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    said = ""
    while "The page is open at" not in said:
        line = process.stdout.readline()
        assert line, process.communicate()
        said += line
    assert "Listening on 0.0.0.0: whoever reaches this machine can open the page" in said
    address = said.split("open at ")[1].split()[0].replace("0.0.0.0", "127.0.0.1")
    assert ask(address)[0] == 200
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)  # which ends it as Ctrl-C does
    out, wrong = process.communicate(timeout=60)
    assert process.returncode == 0 and "closed." in out and "Traceback" not in wrong
    assert not list((tmp_path / "temporary").glob("page-*"))
