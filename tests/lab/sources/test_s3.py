"""Images from a bucket: against a server with S3's interface on this machine, and the faults of the service."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import prepare
from lab.errors import UserError
from lab.sources import s3
from tests.made import PROJECT, Capture, Patch, command

boto3 = pytest.importorskip("boto3", reason="needs boto3: pip install -r requirements-extras.txt -c constraints.txt")
server = pytest.importorskip("moto.server", reason="needs moto: pip install -r requirements-dev.txt -c constraints.txt")

CLASSES, COUNT = ("benign", "early", "pre", "pro"), 1000


def image(number: int) -> bytes:
    """A small PNG file, another for each number."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), (number % 256, number // 256, 7), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server with a bucket of 1,000 images in folders per class, and other objects."""
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    address = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=address, **keys)
    client.create_bucket(Bucket="cells")
    for number in range(COUNT):
        client.put_object(Bucket="cells", Key=f"lab/set/{CLASSES[number % 4]}/{number}.png", Body=image(number))
    for key in ("lab/set/readme.txt", "lab/set/early/.hidden.png", "lab/set2/early/9.png"):
        client.put_object(Bucket="cells", Key=key, Body=image(9999))
    yield address
    running.stop()


@pytest.fixture
def signed(endpoint: str, tmp_path: Path, monkeypatch: Patch) -> str:
    """An empty working folder, credentials, and no second try. Returns the endpoint."""
    monkeypatch.chdir(tmp_path)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    values = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    nowhere = str(tmp_path / "none")
    values |= {"AWS_SHARED_CREDENTIALS_FILE": nowhere, "AWS_CONFIG_FILE": nowhere, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in (values | {"AWS_ENDPOINT_URL": endpoint}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "TRIES", 1)
    return endpoint


def client() -> Any:
    return s3.sign_in()


def refused(address: str, folder: str = "images") -> str:
    """The sentence that a download ends with."""
    with pytest.raises(UserError) as raised:
        s3.fetch(address, Path(folder))
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message and not Path(folder).exists()
    return message


def test_a_thousand_images_become_lists(signed: str, capsys: Capture) -> None:
    command(prepare, "s3", "s3://cells/lab/set", "--name", "mine")
    output = capsys.readouterr().out
    assert "s3://cells/lab/set: 1,000 images; downloading" in output and "verified: 1,000 images" in output
    assert "split by image, with a folder per class" in output
    files = {path.name: path.read_bytes() for path in Path("data/mine").rglob("*") if path.is_file()}
    assert files == {f"{number}.png": image(number) for number in range(COUNT)}
    lists = pd.concat(pd.read_csv(f"csv/mine/{name}.csv") for name in ("train", "valid", "test_labels"))
    assert len(lists) == COUNT and set(lists["label"]) == {0, 1, 2, 3}
    said = "The bucket s3://cells/lab/set, with a folder per class (prepare.py s3).\n"
    assert Path("csv/mine/source.txt").read_text() == said
    first = lists["Path"].iloc[0]
    assert CLASSES[lists["label"].iloc[0]] in first and Path("data/mine", first).is_file()
    with pytest.raises(UserError, match=r"data/mine: has the images of s3://cells/lab/set, not of s3://cells/cnmc"):
        command(prepare, "s3", "s3://cells/cnmc", "--name", "mine", "--fresh")
    command(prepare, "s3", "s3://cells/lab/set", "--name", "mine", "--fresh")
    assert "data/mine is there already" in capsys.readouterr().out


def test_the_word_s3_can_be_left_out(signed: str, tmp_path: Path) -> None:
    """As typed in a terminal: the address alone is the command, and another mistake is still one sentence."""
    for words, expected in (
        (["s3://none/set"], "s3://none/set: there is no such bucket"),
        (["s3:/cells/lab"], "invalid choice"),
    ):
        done = subprocess.run(
            [sys.executable, PROJECT / "prepare.py", *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr


def test_the_names_of_cnmc_are_split_by_patient(signed: str, capsys: Capture) -> None:
    """The unlabelled images of the whole C-NMC are left out."""
    client().put_object(Bucket="cells", Key="cnmc/testing_data/1.bmp", Body=image(99))
    for patient in range(1, 13):
        kind = "all" if patient % 2 else "hem"
        name = f"UID_{patient if patient % 2 else f'H{patient}'}_1_1_{kind}"
        client().put_object(Bucket="cells", Key=f"cnmc/fold_0/{kind}/{name}.bmp", Body=image(patient))
    command(prepare, "s3", "s3://cells/cnmc/")
    output = capsys.readouterr().out
    assert "split by patient, as the file names are those of C-NMC" in output and "12 patients" in output
    assert Path("csv/cnmc/classes.csv").read_text() == "label,name\n0,normal\n1,leukemia blast\n"


def test_a_stopped_download_goes_on(signed: str, monkeypatch: Patch, capsys: Capture) -> None:
    """What has arrived is not loaded again, unless it has other bytes; the folder is there only when all is."""
    download, loaded = s3.download, list[str]()

    def stop(client: Any, bucket: str, target: Path, stored: s3.Stored) -> None:
        if len(loaded) >= 300:
            raise KeyboardInterrupt
        loaded.append(stored.key)
        download(client, bucket, target, stored)

    monkeypatch.setattr(s3, "download", stop)
    with pytest.raises(KeyboardInterrupt):
        s3.fetch("s3://cells/lab/set", Path("images"))
    assert not Path("images").exists()
    arrived = list(Path(".images.part").rglob("*.png"))
    assert 300 <= len(arrived) <= 300 + s3.WORKERS
    arrived[0].write_bytes(arrived[0].read_bytes()[::-1])  # as many bytes, but others
    (arrived[1].parent / "old.png").write_bytes(b"of an earlier content")
    loaded.clear()

    def count(client: Any, bucket: str, target: Path, stored: s3.Stored) -> None:
        loaded.append(stored.key)
        download(client, bucket, target, stored)

    monkeypatch.setattr(s3, "download", count)
    s3.fetch("s3://cells/lab/set", Path("images"))
    assert f"{len(arrived):,} of them are there" in capsys.readouterr().out
    assert len(loaded) == COUNT - len(arrived) + 1
    names = sorted(path.name for path in Path("images").rglob("*") if path.is_file())
    assert names == sorted(f"{number}.png" for number in range(COUNT)) and not Path(".images.part").exists()


def test_an_upload_in_parts_is_verified(signed: str) -> None:
    data = np.random.default_rng(0).bytes(11 << 20)
    upload = client().create_multipart_upload(Bucket="cells", Key="large/a/1.png")["UploadId"]
    place = {"Bucket": "cells", "Key": "large/a/1.png", "UploadId": upload}
    pieces = [data[: 6 << 20], data[6 << 20 :]]
    tags = [client().upload_part(**place, PartNumber=n, Body=piece)["ETag"] for n, piece in enumerate(pieces, 1)]
    parts = [{"PartNumber": number, "ETag": tag} for number, tag in enumerate(tags, 1)]
    client().complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
    s3.fetch("s3://cells/large", Path("images"))
    assert Path("images/a/1.png").read_bytes() == data
    (stored,) = s3.images(client(), "cells", "large/")
    assert stored.etag.endswith("-2")
    Path("other.png").write_bytes(data[:-1] + b"x")
    assert not s3.intact(client(), "cells", Path("other.png"), stored)


def test_other_bytes_than_in_the_bucket_are_refused(signed: str, monkeypatch: Patch) -> None:
    found = s3.images

    def changed(*place: Any) -> Iterator[s3.Stored]:
        return (one._replace(size=one.size + (one.key.endswith("/7.png"))) for one in found(*place))

    monkeypatch.setattr(s3, "images", changed)
    message = refused("s3://cells/lab/set/pro")
    assert "lab/set/pro/7.png: arrived with other bytes than it has in the bucket; run the command again" in message


def test_an_object_that_was_replaced_meanwhile(signed: str, monkeypatch: Patch) -> None:
    found = s3.images

    def older(*place: Any) -> Iterator[s3.Stored]:
        return (one._replace(etag="0" * 32) for one in found(*place))

    monkeypatch.setattr(s3, "images", older)
    assert "an object was replaced or removed meanwhile" in refused("s3://cells/lab/set/pro")


def test_wrong_addresses_and_credentials(signed: str, monkeypatch: Patch) -> None:
    assert refused("s3://nothing/here") == "s3://nothing/here: there is no such bucket; check its name and the region."
    assert "there is no image (.bmp, " in refused("s3://cells/lab/other")
    for address in ("s3://", "s3:///x", "cells/lab"):
        assert "is not an address of the form s3://bucket/prefix" in refused(address)
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "no credentials for S3" in refused("s3://cells/lab/set")
    assert "is not the address of a bucket" in refused("s3://no bucket/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    assert "correct AWS_ENDPOINT_URL" in refused("s3://cells/lab/set")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "cannot be reached" in refused("s3://cells/lab/set")


@pytest.mark.parametrize("name", ["a\\b.png", "a//b.png", "/b.png", "a\nb.png", "C:/b.png"])
def test_keys_that_cannot_be_files_of_a_list(name: str) -> None:
    objects = [s3.Stored("set/a/fine.png", 1, "e"), s3.Stored(f"set/{name}", 1, "e")]
    with pytest.raises(UserError, match="1 key cannot be the name of a file in a list"):
        s3.check_names("s3://cells/set", "set/", objects)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A local HTTP server with this handler; yields its address."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()


@pytest.mark.parametrize(
    ("code", "status", "expected"),
    [
        ("AccessDenied", 403, "access is denied; ask for the rights s3:ListBucket and s3:GetObject there."),
        ("InvalidAccessKeyId", 403, "the credentials are refused (InvalidAccessKeyId); renew them."),
        ("SlowDown", 503, "the service is throttling requests (SlowDown); wait a little and run the command again"),
        ("InternalError", 500, "the service answered InternalError"),
    ],
)
def test_answers_of_the_service(signed: str, monkeypatch: Patch, code: str, status: int, expected: str) -> None:
    """A server that answers every request so."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Refusing) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert expected in refused("s3://cells/lab/set")


def test_a_download_that_breaks_off(signed: str, monkeypatch: Patch) -> None:
    """The listing arrives, then each object ends too early."""
    content = (
        b"<?xml version='1.0'?><ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>set/a/1.png</Key>"
        b'<Size>1000</Size><ETag>"00000000000000000000000000000000"</ETag></Contents></ListBucketResult>'
    )

    class Breaking(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listing = "list-type" in self.path
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) if listing else 1000))
            self.end_headers()
            self.wfile.write(content if listing else b"half")
            if not listing:
                time.sleep(0.05)
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Breaking) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert "the download broke off" in refused("s3://cells/set")
    assert not list(Path(".images.part").rglob("1.png"))
