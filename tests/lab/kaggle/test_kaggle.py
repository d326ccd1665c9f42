"""Kaggle: uploads, scores, the download of the data set and the faults of the service, tested with a local stand-in server."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import shutil
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import prepare
import submit
from lab.errors import UserError
from lab.files import alone
from lab.kaggle import client, competitions
from lab.sources import kaggle_download
from tests.hostile_images import encode
from tests.kaggle_stand_in import KEY, TOKEN, USER, Kaggle, serve
from tests.made import DEPTHS, PROJECT, command, make_data

pytestmark = pytest.mark.skipif(
    find_spec("kaggle") is None,
    reason="needs the Kaggle client: pip install -r requirements-extras.txt -c constraints.txt",
)
SETTINGS = (
    "[competitions]\nresnet18 = dlp-18\nresnet50 = dlp-50\nresnet152 = dlp-152\n[data]\ncnmc = someone/leukemia\n"
)
SEND = ("--kaggle", "--data", "csv/tiny")


@pytest.fixture
def kaggle(tmp_path: Path, working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    """A service without faults; a working folder with settings and three correct submissions; a home with a token."""
    (tmp_path / "home" / ".kaggle").mkdir(parents=True)
    (tmp_path / "home" / ".kaggle" / "access_token").write_text(TOKEN)
    (working_folder / "kaggle.ini").write_text(SETTINGS)
    make_data(working_folder / "csv" / "tiny")
    for depth in (18, 50, 152):
        _, *ids = Path(f"csv/tiny/resnet_{depth}_test.csv").read_text().split("\n")
        rows = "".join(f"{name},{index % 2}\n" for index, name in enumerate(ids))
        Path(f"csv/tiny/submission_resnet{depth}.csv").write_text(f"ID,label\n{rows}")
    stand_in = Kaggle()
    server = serve(stand_in)
    stand_in.connect(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(competitions, "PAUSE", 0.0)
    yield stand_in
    stand_in.answering.set()
    server.shutdown()
    server.server_close()


def refused(*options: str, module: ModuleType = submit) -> str:
    """Run a command that must fail; returns its message."""
    with pytest.raises(UserError) as caught:
        command(module, *options)
    return str(caught.value)


def clock(sleep: Callable[[float], None], monotonic: Callable[[], float] = time.monotonic) -> SimpleNamespace:
    """The module ``time`` with another ``sleep``, to replace it in one module."""
    return SimpleNamespace(**vars(time) | {"sleep": sleep, "monotonic": monotonic})


def digest(depth: int) -> str:
    return hashlib.sha256(Path(f"csv/tiny/submission_resnet{depth}.csv").read_bytes()).hexdigest()[:16]


# ---- uploads ---------------------------------------------------------------------------------------------------------


def test_each_depth_is_sent_to_its_own_competition_and_gets_a_score(
    kaggle: Kaggle, capsys: pytest.CaptureFixture[str]
) -> None:
    kaggle.pending = 2
    command(submit, *SEND)
    output = capsys.readouterr().out
    sent = [body for method, body in kaggle.requests if method == "CreateSubmission"]
    assert [body["competitionName"] for body in sent] == ["dlp-18", "dlp-50", "dlp-152"]
    for depth, body in zip((18, 50, 152), sent, strict=True):
        assert kaggle.uploads[body["blobFileTokens"]] == Path(f"csv/tiny/submission_resnet{depth}.csv").read_bytes()
        assert body["submissionDescription"] == f"resnet{depth}, tiny, sha256 {digest(depth)}"
        assert f"submission_resnet{depth}.csv, 10 rows → dlp-{depth}" in output
        assert f"resnet{depth}: score 0.97843" in output
    assert "Authentication" not in output  # printed by the client


def test_the_teams_name_is_the_student_id(kaggle: Kaggle, capsys: pytest.CaptureFixture[str]) -> None:
    rule = "the lab requires the student ID as the team's name on Kaggle"
    options = (*SEND, "--model", "resnet18")
    command(submit, *options, "--dry-run")
    assert rule in capsys.readouterr().out
    command(submit, *options, "--student-id", "311605004")
    output = capsys.readouterr()
    assert rule not in output.out + output.err
    command(submit, *options)
    assert f"resnet18: the team's name is '311605004'; {rule}" in capsys.readouterr().out
    command(submit, *options, "--student-id", "311605005")
    expected = f"but {rule}, 311605005; change it at https://www.kaggle.com/competitions/dlp-18/team."
    assert f"warning: resnet18, dlp-18: the team's name is '311605004', {expected}" in capsys.readouterr().err


def test_the_same_file_is_never_sent_twice(kaggle: Kaggle, capsys: pytest.CaptureFixture[str]) -> None:
    kaggle.pending = 10**9
    lines = refused(*SEND, "--wait", "0").splitlines()
    for line, model in zip(lines, DEPTHS, strict=True):
        assert re.match(rf"{model}, dlp-\d+: no score after 0 s, but the file is there; run the command again", line)
    for submissions in kaggle.submissions.values():
        submissions[0]["pending"] = 0
    command(submit, *SEND)
    output = capsys.readouterr().out
    assert output.count("not sent again") == 3 and output.count("score 0.97843") == 3
    assert kaggle.methods().count("CreateSubmission") == 3
    kaggle.pending = 1
    path = Path("csv/tiny/submission_resnet18.csv")
    changed = path.read_text().replace(",0\n", ",1\n")
    path.write_text(changed)
    command(submit, *SEND)  # another file is another submission
    assert kaggle.methods().count("CreateSubmission") == 4
    assert kaggle.uploads["blob3"].decode() == changed


def test_a_dry_run_prints_everything_and_sends_no_request(
    kaggle: Kaggle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kaggle", None)  # the client is not needed
    command(submit, *SEND, "--dry-run")
    output = capsys.readouterr().out
    for depth in (18, 50, 152):
        row = rf"csv/tiny/submission_resnet{depth}\.csv +10 +dlp-{depth} +resnet{depth}, tiny, sha256 {digest(depth)}"
        assert re.search(row, output)
    assert kaggle.requests == []


def test_an_incorrect_submission_is_not_sent(kaggle: Kaggle) -> None:
    Path("csv/tiny/submission_resnet18.csv").write_bytes(Path("csv/tiny/submission_resnet50.csv").read_bytes())
    Path("csv/tiny/submission_resnet152.csv").unlink()
    message = refused(*SEND)
    assert "another order than in resnet_18_test.csv; it is that of resnet_50_test.csv" in message
    assert "submission_resnet152.csv: is missing; python predict.py --model resnet152 --data csv/tiny" in message
    assert kaggle.requests == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            (PROJECT / "kaggle.ini").read_text(),
            "the competition of resnet18, resnet50, resnet152 is missing; .*'resnet18 ='",
        ),
        (
            SETTINGS.replace("dlp-50", "https://www.kaggle.com/competitions/dlp-50"),
            "write only the part of its address",
        ),
        ("resnet18 = dlp\n", "kaggle.ini: cannot be read as a settings file"),
        (None, "the competition of resnet18, resnet50, resnet152 is missing"),  # the project's kaggle.ini is read
    ],
)
def test_incomplete_settings_are_refused(kaggle: Kaggle, content: str | None, expected: str) -> None:
    Path("kaggle.ini").unlink()
    if content is not None:
        Path("kaggle.ini").write_text(content)
    assert re.search(expected, refused(*SEND)) and kaggle.requests == []
    assert "none.ini: there is no such file" in refused(*SEND, "--settings", "none.ini")


# ---- credentials -----------------------------------------------------------------------------------------------------


def test_without_credentials_the_message_explains_how_to_get_a_token(
    kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "home" / ".kaggle" / "access_token").unlink()
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user is asked"))
    monkeypatch.setattr("webbrowser.open", lambda *_: pytest.fail("a browser is opened"))
    message = refused(*SEND)
    assert message.startswith("no Kaggle credentials were found; make a token at https://www.kaggle.com/settings/api")
    assert "~/.kaggle/access_token" in message and "KAGGLE_API_TOKEN" in message and "\n" not in message
    assert kaggle.requests == [] and capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["token variable", "key variables", "kaggle.json", "access_token"])
def test_each_kind_of_credentials(kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    token = tmp_path / "home" / ".kaggle" / "access_token"
    if kind != "access_token":
        token.unlink()
    if kind == "token variable":
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    if kind == "key variables":
        monkeypatch.setenv("KAGGLE_USERNAME", USER)
        monkeypatch.setenv("KAGGLE_KEY", KEY)
    if kind == "kaggle.json":
        token.with_name("kaggle.json").write_text(f'{{"username": "{USER}", "key": "{KEY}"}}')
        token.with_name("kaggle.json").chmod(stat.S_IRUSR)
    command(submit, *SEND, "--model", "resnet18")
    assert len(kaggle.submissions["dlp-18"]) == 1


def test_invalid_credentials(kaggle: Kaggle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tmp_path / "home" / ".kaggle" / "access_token"
    token.write_text("KGAT_old")
    assert refused(*SEND).startswith("the token in access_token is not valid; make a token at")
    token.unlink()
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", "wrong")
    message = refused(*SEND)
    expected = "resnet18, dlp-18: Kaggle refuses the credentials (its message: Unauthenticated); make a token at"
    assert message.startswith(expected) and "\n" not in message  # the other depths are not tried


def test_without_the_client(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kaggle", None)
    assert "pip install -r requirements-extras.txt -c constraints.txt" in refused(*SEND)


# ---- faults of the service -------------------------------------------------------------------------------------------

FAULTS = {
    "not joined": ("dlp-50", (403, "You must accept the rules", {}), "www.kaggle.com/competitions/dlp-50 in a"),
    "no such": ("dlp-50", (404, "", {}), "no such page: https://www.kaggle.com/competitions/dlp-50; correct"),
    "busy": ("dlp-50", (429, "", {"Retry-After": "17"}), "too many requests for Kaggle; run the command again in 17 s"),
    "used up": ("dlp-50", (429, "", {}), "later, or tomorrow if today's submissions are used up"),
    "closed": ("dlp-50", (400, "The deadline\nis over", {}), r"status 400 (its message: The deadline\nis over)"),
    "broken": ("dlp-50", (500, "oops", {}), "an internal error, status 500 (its message: oops); run the command"),
    "storage": ("upload", (400, "", {}), "did not arrive (Could not submit to competition); run the command again"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_sentence_and_the_other_depths_are_sent(
    kaggle: Kaggle, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request, fault, expected = FAULTS[name]
    kaggle.faults[request] = fault
    message = refused(*SEND)
    assert expected in message
    if request != "upload":
        assert message.startswith("resnet50, dlp-50: ") and "\n" not in message
        assert list(kaggle.submissions) == ["dlp-18", "dlp-152"]
        assert capsys.readouterr().out.count("score 0.97843") == 2


def test_a_submission_that_kaggle_cannot_score(kaggle: Kaggle) -> None:
    kaggle.verdict, kaggle.reason = "ERROR", "Submission must have 1067 rows"
    message = refused(*SEND, "--model", "resnet18")
    assert message == f"resnet18, dlp-18: Kaggle refused csv/tiny/submission_resnet18.csv ({kaggle.reason})."
    kaggle.verdict = "COMPLETE"
    command(submit, *SEND, "--model", "resnet18")  # a refused file may be sent again
    assert kaggle.methods().count("CreateSubmission") == 2


def test_a_failed_request_for_the_score_is_repeated(
    kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_every_other_time(_: float) -> None:
        kaggle.faults = {} if "ListSubmissions" in kaggle.faults else {"ListSubmissions": (429, "", {})}

    kaggle.pending = 3
    monkeypatch.setattr(competitions, "time", clock(fail_every_other_time))
    command(submit, *SEND, "--model", "resnet18")
    assert "resnet18: score 0.97843" in capsys.readouterr().out
    kaggle.submissions.clear()
    kaggle.pending = 10**9
    monkeypatch.setattr(competitions, "time", clock(lambda _: None, iter([0.0, 100.0, 1000.0]).__next__))
    assert "no score after 15 min, but the file is there" in refused(*SEND, "--model", "resnet18")


def test_a_service_that_is_gone_or_silent(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.2)
    kaggle.answering.clear()
    assert refused(*SEND).startswith("signing in: Kaggle cannot be reached (ReadTimeout); check the network")
    kaggle.answering.set()
    environment = sys.modules["kagglesdk.kaggle_env"]
    monkeypatch.setitem(environment._env_to_endpoint, environment.KaggleEnv.PROD, "http://127.0.0.1:9")
    assert refused(*SEND).startswith("signing in: Kaggle cannot be reached (ConnectionError)")


def test_a_response_that_the_client_does_not_know(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle, "listed", lambda _: [{"ref": 1, "status": "NEWER_THAN_THE_CLIENT"}])
    expected = r"resnet18, dlp-18: Kaggle's response is not understood \(KeyError.*--upgrade kaggle"
    assert re.match(expected, refused(*SEND, "--model", "resnet18"))


# ---- the data set ----------------------------------------------------------------------------------------------------


def tiny_cnmc() -> dict[str, bytes]:
    """The files of a small download: three folds, both classes, two unlabelled parts."""
    files = {}
    for patient in range(12):
        kind, prefix = ("all", "") if patient % 2 else ("hem", "H")
        for cell in (1, 2):
            pixels = np.random.default_rng(10 * patient + cell).integers(0, 256, (6, 6, 3), np.uint8)
            name = f"fold_{patient % 3}/{kind}/UID_{prefix}{patient}_1_{cell}_{kind}.bmp"
            files[f"C-NMC_Leukemia/training_data/{name}"] = encode(Image.fromarray(pixels), "BMP")
    files["C-NMC_Leukemia/testing_data/C-NMC_test_final_phase_data/1.bmp"] = b"unlabelled"
    files["C-NMC_Leukemia/validation_data/C-NMC_test_prelim_phase_data_labels.csv"] = b"Patient_ID,new_names,labels\n"
    return files


LARGE = {"C-NMC_Leukemia/testing_data/C-NMC_test_final_phase_data/2.bmp": bytes(4 << 20)}


def zipped(files: dict[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name, data in files.items():
            target.writestr(name, data)
    return archive.getvalue()


def parts_of(rows: list[tuple[str, str]]) -> dict[str, tuple[int, str]]:
    """Oracle of kaggle_download.PARTS for files given as (path, SHA-256)."""
    lines: dict[str, list[str]] = {}
    for path, content in rows:
        *_, fold, label, name = path.split("/")
        lines.setdefault(f"{fold}/{label}", []).append(f"{name} {content}\n")
    texts = {part: "".join(sorted(names)).encode() for part, names in lines.items()}
    return {part: (len(lines[part]), hashlib.sha256(text).hexdigest()) for part, text in texts.items()}


@pytest.fixture
def cnmc(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The service has a small C-NMC, which is accepted as the real one."""
    files = tiny_cnmc()
    rows = [(path, hashlib.sha256(data).hexdigest()) for path, data in files.items() if "training_data" in path]
    monkeypatch.setattr(kaggle_download, "PARTS", parts_of(rows))
    monkeypatch.setattr(kaggle_download, "UNPACKED", 1000)
    kaggle.archive = zipped(files)
    return files


def test_parts_are_those_of_the_real_download(shared_data: Callable[[str], Path]) -> None:
    """Uses the list of all its files."""
    with (shared_data("cnmc_layout") / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if "/training_data/" in row["path"]]
    assert parts_of([(row["path"], row["sha256"]) for row in rows]) == kaggle_download.PARTS
    assert sum(int(row["size"]) for row in rows) == kaggle_download.UNPACKED
    assert sum(count for count, _ in kaggle_download.PARTS.values()) == 10_661
    table = pd.DataFrame({"path": [row["path"] for row in rows], "sha256": [row["sha256"] for row in rows]})
    kaggle_download.verify(Path("x"), table.sample(frac=1, random_state=0))
    table.loc[5000, "sha256"] = "0" * 64
    part = "/".join(rows[5000]["path"].split("/")[-3:-1])
    with pytest.raises(UserError, match=rf"{part} has other bytes; remove"):
        kaggle_download.verify(Path("x"), table)


def test_download_verify_and_lists(
    cnmc: dict[str, bytes], kaggle: Kaggle, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command(prepare, "kaggle")
    output = capsys.readouterr().out
    assert "verified: 24 images, every byte as on Kaggle" in output
    assert "next: python train.py --model resnet18 --data csv/cnmc --root data/C-NMC_Leukemia" in output
    assert ("DownloadDataset", {"ownerSlug": "someone", "datasetSlug": "leukemia"}) in kaggle.requests
    unpacked = {path.relative_to("data").as_posix(): path.read_bytes() for path in Path("data").rglob("*.bmp")}
    assert unpacked == {path: data for path, data in cnmc.items() if "training_data" in path}
    assert not list(Path("data").rglob("*.zip*")) and not list(Path("data").glob(".C-NMC*"))
    # The lists are those of `prepare.py cnmc` on the same folder.
    command(prepare, "cnmc", "data/C-NMC_Leukemia", "--name", "same")
    for name in ("train.csv", "valid.csv", "resnet_18_test.csv", "test_labels.csv"):
        assert Path("csv/cnmc", name).read_bytes() == Path("csv/same", name).read_bytes()

    requests = len(kaggle.requests)
    assert "already has" in refused("kaggle", module=prepare)  # before the download
    command(prepare, "kaggle", "--fresh", "--seed", "1")  # the images exist, so nothing is downloaded
    (tmp_path / "mine.zip").write_bytes(kaggle.archive)
    command(prepare, "kaggle", "--archive", str(tmp_path / "mine.zip"), "--to", "elsewhere", "--out", "lists")
    assert len(kaggle.requests) == requests and (tmp_path / "mine.zip").exists()
    assert Path("lists/train.csv").read_bytes() == Path("csv/same/train.csv").read_bytes()


def test_another_data_set_is_a_folder_per_class(kaggle: Kaggle, capsys: pytest.CaptureFixture[str]) -> None:
    files = {f"Set/{name}/{number}.png": b"" for name in ("benign", "early") for number in range(10)}
    for number, path in enumerate(files):
        files[path] = encode(Image.fromarray(np.full((8, 8, 3), number, np.uint8)), "PNG")
    extra = {"Set/readme.txt": b"text", "__MACOSX/Set/benign/._0.png": b"x", "Set/benign/.hidden.png": b"x"}
    kaggle.archive = zipped(files | extra)
    command(prepare, "kaggle", "--dataset", "https://www.kaggle.com/datasets/else/all-images")
    assert ("DownloadDataset", {"ownerSlug": "else", "datasetSlug": "all-images"}) in kaggle.requests
    unpacked = {p.relative_to("data/all-images").as_posix() for p in Path("data/all-images").rglob("*.*")}
    assert unpacked == set(files)
    lists = pd.concat(pd.read_csv(f"csv/all-images/{name}.csv") for name in ("train", "valid", "test_labels"))
    assert len(lists) == 20 and Path("csv/all-images/classes.csv").read_text() == "label,name\n0,benign\n1,early\n"
    assert "removed data/all-images.zip, because its images are unpacked" in capsys.readouterr().out
    command(prepare, "kaggle", "--dataset", "else/all-images", "--fresh")
    assert "data/all-images is there already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a/readme.txt": b"text"}, "contains no image"),
        ({"a/1.png": b"x", "../evil.png": b"x"}, "leads outside"),
    ],
)
def test_another_data_set_without_images_or_with_evil_paths(
    kaggle: Kaggle, files: dict[str, bytes], expected: str
) -> None:
    kaggle.archive = zipped(files)
    assert expected in refused("kaggle", "--dataset", "else/all-images", module=prepare)
    assert not Path("data/all-images").exists() and not list(Path().rglob("evil*"))


def test_a_download_that_breaks_off_is_resumed(
    cnmc: dict[str, bytes], kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["kaggle.api.kaggle_api_extended"], "time", clock(lambda _: None))
    kaggle.archive = zipped(cnmc | LARGE)
    kaggle.cut = [5 << 19, 3 << 19]  # the client writes whole MiB
    command(prepare, "kaggle")
    assert kaggle.ranges == ["", f"bytes={2 << 20}-", f"bytes={3 << 20}-"]
    assert Path("csv/cnmc/train.csv").exists()


def test_a_download_that_was_stopped_is_resumed(
    cnmc: dict[str, bytes], kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["kaggle.api.kaggle_api_extended"], "time", clock(stop))
    kaggle.archive = zipped(cnmc | LARGE)
    kaggle.cut = [3 << 19]
    with pytest.raises(KeyboardInterrupt):
        command(prepare, "kaggle")
    assert Path("data/C-NMC_Leukemia.zip.part").stat().st_size == 1 << 20
    assert not Path("data/C-NMC_Leukemia").exists() and not Path("data/C-NMC_Leukemia.zip").exists()
    command(prepare, "kaggle")
    assert kaggle.ranges[-1] == f"bytes={1 << 20}-" and Path("csv/cnmc/train.csv").exists()


def test_a_disk_without_enough_space(cnmc: dict[str, bytes], kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kaggle_download, "UNPACKED", 10**18)
    expected = r"the images need 1000000000\.0 GB and .* GB are free there; free some space"
    assert re.search(expected, refused("kaggle", module=prepare))
    assert not Path("data/C-NMC_Leukemia.zip.part").exists()


NO_ZIP, EVIL = "is not a complete zip archive", "../../evil.bmp"
ARCHIVES: dict[str, tuple[Callable[[dict[str, bytes]], bytes], str]] = {
    "no zip": (lambda _: b"<html>sign in</html>", NO_ZIP),
    "truncated": (lambda files: zipped(files)[:-300], NO_ZIP),
    "damaged": (lambda files: zipped(files).replace(next(iter(files.values())), b"x" * 174, 1), NO_ZIP),
    "another": (lambda _: zipped({"cats/1.jpg": b"cat"}), "is not the complete C-NMC 2019 (fold_0/all has 0 images"),
    "missing": (lambda files: zipped(dict(list(files.items())[1:])), "fold_0/hem has 3 images instead of 4"),
    "surplus": (lambda files: zipped(files | {"training_data/fold_3/all/a.bmp": b""}), "has 1 image instead of 0"),
    "parent": (lambda files: zipped(files | {EVIL: b""}), f"contains {EVIL!r}, which leads outside"),
    "absolute": (lambda files: zipped(files | {"/etc/evil": b""}), "contains '/etc/evil', which leads outside"),
    "drive": (lambda files: zipped(files | {"C:\\evil.bmp": b""}), "which leads outside"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_that_is_not_the_data_set(cnmc: dict[str, bytes], tmp_path: Path, name: str) -> None:
    make, expected = ARCHIVES[name]
    (tmp_path / "a.zip").write_bytes(make(cnmc))
    message = refused("kaggle", "--archive", str(tmp_path / "a.zip"), module=prepare)
    assert expected in message and "\n" not in message
    assert not list(Path("data").glob("*C-NMC*")) and not Path("csv/cnmc").exists()
    assert not list(tmp_path.rglob("evil*"))


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_archive_is_refused_or_gives_the_same_images(
    cnmc: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray(zipped(cnmc))
    for _ in range(data.draw(st.integers(0, 2))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    archive, folder = tmp_path / "a.zip", tmp_path / "out" / "images"
    archive.write_bytes(whole[:end])
    shutil.rmtree(folder.parent, ignore_errors=True)
    try:
        kaggle_download.unpack(archive, folder, kaggle_download.labelled)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        rows = [(str(path), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]
        kaggle_download.verify(folder, pd.DataFrame(rows, columns=["path", "sha256"]))
    except UserError as error:
        assert "\n" not in str(error) and str(error).isprintable()
    else:
        unpacked = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        assert unpacked == {path.split("/", 1)[1]: data for path, data in cnmc.items() if "training_data" in path}
    assert [path.name for path in folder.parent.iterdir()] in ([], ["images"])


def test_changed_images_are_not_verified(cnmc: dict[str, bytes], kaggle: Kaggle) -> None:
    command(prepare, "kaggle")
    image = next(Path("data").rglob("UID_1_1_1_all.bmp"))
    image.write_bytes(image.read_bytes()[:60] + b"other" + image.read_bytes()[65:])
    message = refused("kaggle", "--fresh", module=prepare)
    assert message.startswith("data/C-NMC_Leukemia: differs from C-NMC 2019 on Kaggle: fold_1/all has other bytes")
    assert "`python prepare.py cnmc data/C-NMC_Leukemia`" in message


def test_a_second_download_into_the_same_folder_is_refused(cnmc: dict[str, bytes], kaggle: Kaggle) -> None:
    with alone(Path("data"), "downloading"):
        assert "data: another process is downloading there" in refused("kaggle", module=prepare)
    assert kaggle.requests == []


def test_a_connection_that_keeps_breaking_off(
    cnmc: dict[str, bytes], kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["kaggle.api.kaggle_api_extended"], "time", clock(lambda _: None))
    kaggle.cut = [10] * 9
    expected = "downloading someone/leukemia: Kaggle cannot be reached (ChunkedEncodingError)"
    assert refused("kaggle", module=prepare).startswith(expected)


def test_without_a_token_a_download_in_the_browser_is_suggested(
    cnmc: dict[str, bytes], kaggle: Kaggle, tmp_path: Path
) -> None:
    (tmp_path / "home" / ".kaggle" / "access_token").unlink()
    message = refused("kaggle", module=prepare)
    assert message.startswith("no Kaggle credentials were found; make a token at")
    page = "https://www.kaggle.com/datasets/someone/leukemia"
    assert message.endswith(f"; or download {page} in a browser and give the zip with --archive.")
