"""The page over HTTP: which routes are open, limits on uploads, and which addresses it listens on."""

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
from lab.page.answers import MAX_BYTES
from lab.page.server import is_loopback, launch
from lab.page.texts import TEXTS
from tests.made import PROJECT
from tests.made_page import Served, made_page, save_staged, served

pytestmark = pytest.mark.filterwarnings(r"ignore:.*(silent_downcasting|copy keyword)")  # Gradio's use of pandas


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Served]:
    with made_page(folder) as made:
        yield made


def request(url: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and body of a response, without a proxy; the path of the URL is sent unchanged."""
    if data is not None:
        headers = {"Content-Type": "application/json"} | headers
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, data, headers), timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(address: str, data: bytes, name: str = "cell.png") -> tuple[int, bytes]:
    """Upload a file."""
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + data + b"\r\n--x--\r\n"
    return request(f"{address}/gradio_api/upload", body, **{"Content-Type": "multipart/form-data; boundary=x"})


def predict(address: str, index: object, uploads: object = ()) -> tuple[int, str]:
    """Ask for a prediction as the browser does: status and response."""
    config = json.loads(request(f"{address}/config")[1])
    number = next(function["id"] for function in config["dependencies"] if function["api_name"] == "predict")
    body = {"data": [index, uploads, -1, ""], "fn_index": number, "session_hash": "test"}
    status, response = request(f"{address}/gradio_api/run/predict", json.dumps(body).encode())
    return status, response.decode()


def as_upload(path: object) -> dict[str, object]:
    """A file as Gradio describes an upload."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def test_the_page_is_open_and_contains_the_first_prediction(page: Served) -> None:
    address, content = page
    assert address.startswith("http://127.0.0.1:")
    status, body = request(address + "/")
    assert status == 200 and content.valid and content.valid.images.ids[0].encode() in body


@pytest.mark.parametrize("prefix", ["/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"])
@pytest.mark.parametrize(
    "path", ["{weights}", "{valid}", "{relative}", "../../../../../../../../../../etc/passwd", "/etc/passwd", "{demo}"]
)
def test_no_file_is_given_out(page: Served, folder: Path, prefix: str, path: str) -> None:
    files = {"weights": folder / "weights/tiny/resnet18/best.safetensors", "valid": folder / "csv/tiny/valid/0.png"}
    files |= {"relative": Path("csv/tiny/valid.csv"), "demo": PROJECT / "demo.py"}
    status, body = request(page[0] + prefix + path.format(**files))
    assert status in (403, 404) and len(body) < 1000 and b"root:" not in body and b"PNG" not in body


@pytest.mark.parametrize(
    "path",
    [
        *("/gradio_api/file=http://127.0.0.1:9/secret", "/gradio_api/proxy=http://127.0.0.1:9/secret", "/monitoring"),
        *("/gradio_api/monitoring", "/gradio_api/vibe-code/", "/gradio_api/runs", "/gradio_api/info", "/docs"),
        *("/gradio_api/openapi.json", "/gradio_api/component_server", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        *("/gradio_api/queue/join", "/gradio_api/call/predict", "/openapi.json", "/gradio_api/deep_link", "/login"),
    ],
)
def test_routes_that_the_page_does_not_need_are_closed(page: Served, path: str) -> None:
    for data in (None, b"{}"):
        assert request(page[0] + path, data) == (404, b"not found")


def test_a_file_named_by_its_path_is_not_read(page: Served, folder: Path) -> None:
    """A client that does not use the page may name a file that was never uploaded."""
    for path in (folder / "csv/tiny/valid/0.png", folder / "weights/tiny/resnet18/best.safetensors", "/etc/passwd"):
        for described in (as_upload(path), {"path": str(path)}):
            status, response = predict(page[0], -1, [described])
            assert status == 500 and len(response) < 500 and "panel" not in response


def test_an_address_in_place_of_an_upload_is_not_requested(page: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/cell.png"
        assert predict(page[0], -1, [as_upload(url)])[0] == 500
        with pytest.raises(TimeoutError):
            server.accept()


def test_an_upload_is_predicted_but_not_served(page: Served, folder: Path) -> None:
    status, body = upload(page[0], (folder / "csv/tiny/valid/0.png").read_bytes(), "../../mine.png")
    (path,) = json.loads(body)
    assert status == 200 and Path(path).resolve().is_relative_to((folder / "uploads").resolve())
    response = predict(page[0], -1, [as_upload(path)])[1]
    assert "mine.png" in response and response.count("panel resnet") >= 3
    assert request(f"{page[0]}/gradio_api/file={path}")[0] == 404
    Path(path).unlink()
    assert "The upload was deleted" in predict(page[0], -1, [as_upload(path)])[1]


def test_a_large_upload_is_refused(page: Served, folder: Path) -> None:
    status, body = upload(page[0], b"\0" * (MAX_BYTES + 1))
    assert status == 413 and b"maximum allowed size" in body
    assert all(path.stat().st_size <= MAX_BYTES for path in (folder / "uploads").rglob("*") if path.is_file())


@pytest.mark.parametrize("index", [-1, 99, "0", None, {"a": 1}, 1.5])
def test_an_index_outside_the_list_selects_no_image(page: Served, index: object) -> None:
    assert "panel resnet" in predict(page[0], 0)[1]
    response = predict(page[0], index)[1]
    assert "panel resnet" not in response and "valid/" not in response


def test_the_page_opens_in_the_language_of_the_address_of_the_browser_or_of_the_command(
    page: Served, folder: Path
) -> None:
    with served(folder, page[1], language="zh") as in_chinese:
        for address, path, cookie, language in (
            (page[0], "/", "", "en"),
            (page[0], "/?lang=zh", "", "zh"),
            (page[0], "/", "language=zh", "zh"),
            (page[0], "/?lang=en", "language=zh", "en"),
            (page[0], "/?lang=xx", "language=xx", "en"),
            (in_chinese, "/", "", "zh"),
            (in_chinese, "/", "language=en", "en"),
        ):
            body = request(address + path, Cookie=cookie)[1].decode()
            assert f'"lang":"{TEXTS[language]("lang")}"' in body.replace('": "', '":"'), (path, cookie)


def test_the_font_of_chinese_characters_is_served(page: Served) -> None:
    status, body = request(page[0] + "/fonts/zh.otf")
    assert status == 200 and body.startswith(b"OTTO")
    assert request(page[0] + "/fonts/../zh.otf")[0] == request(page[0] + "/fonts/")[0] == 404


def test_only_addresses_of_this_machine_are_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.2", "example.org", "")))


def test_another_host_name_is_refused(page: Served) -> None:
    assert request(page[0] + "/", Host="pictures.example")[0] == 400


def test_a_port_out_of_range_or_in_use_is_refused(page: Served, tmp_path: Path) -> None:
    for port in (0, -1, 65536):
        with pytest.raises(UserError, match=f"--port {port}: must be 1 to 65535"):
            launch(page[1], "127.0.0.1", port, str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"--host 127.0.0.1 --port {port}: cannot listen there"):
            launch(page[1], "127.0.0.1", port, str(tmp_path))


SERVE = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from tests.made_page import make_content
from lab.errors import run
from lab.page.server import serve
run(lambda: serve(make_content(Path(sys.argv[3]), ["resnet18"], lists=False), "0.0.0.0", None))
"""


def test_the_command_prints_its_address_behind_a_proxy_and_sigterm_stops_it_without_leaving_files(
    tmp_path: Path,
) -> None:
    save_staged(tmp_path / "weights", ["resnet18"])
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary"), "PYTHONUNBUFFERED": "1"}
    environment |= {"ALL_PROXY": "socks5://127.0.0.1:9"}  # which does not matter
    line = [sys.executable, "-c", SERVE, str(PROJECT), str(PROJECT / "tests"), str(tmp_path)]
    process = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    output = ""
    while "The page is open at" not in output:
        line_read = process.stdout.readline()
        assert line_read, process.communicate()
        output += line_read
    assert "Listening on 0.0.0.0: anyone who can reach this machine can open the page" in output
    assert request(output.split("open at ")[1].split()[0].replace("0.0.0.0", "127.0.0.1"))[0] == 200
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped." in rest and "Traceback" not in errors
    assert not list((tmp_path / "temporary").glob("page-*"))
