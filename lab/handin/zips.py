"""The two zips of the hand-in: their names, their contents, and how they are written."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.errors import UserError
from lab.text import shown

# Taken whole: what an examiner runs, reads and tests. Of folders that we do not know, which may hold a data set or a virtual
# environment as well as a student's own modules, the Python files are taken.
FOLDERS = ("benchmarks", "docs", "lab", "models", "report/results", "resnet", "runs", "studies", "tests")
OUTPUTS = ("csv", "data", "mlruns", "report", "weights")  # what commands write: chosen one by one, or left out
NOTES = ("csv/README.md", "weights/README.md")
KINDS = (".py", ".md", ".txt", ".toml", ".ini")  # of files at the top
NAMES = ("LICENSE", "Makefile")
JUNK = ("__pycache__", "site-packages", ".pyc", ".tmp")
ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")  # what a folder with a Python of its own holds
NEEDED = ("README.md", "requirements.txt", "constraints.txt")  # that imports do not ask for
WINDOWS = re.compile(r'[<>:"/\\|?*]')  # what a file's name cannot hold there
LONGEST = 200  # bytes of a name in UTF-8; the usual file systems hold 255
WHEN = (1980, 1, 1, 0, 0, 0)  # the earliest that the format can say; the same files are to give the same bytes


def stem(student_id: str, name: str) -> str:
    """The name of the hand-in, ``DLP_LAB3_<id>_<name>``, in the composed form (NFC) that every system shows alike."""
    student_id, name = (unicodedata.normalize("NFC", text).strip() for text in (student_id, name))
    if not re.fullmatch(r"[A-Za-z0-9]{4,20}", student_id):
        raise UserError(
            f"--student-id '{shown(student_id)}' is no student ID; it has letters and digits only: 311605004."
        )
    wrong = [c for c in name if WINDOWS.match(c) or (unicodedata.category(c)[0] in "CZ" and c != " ")]
    if not name or wrong or name.endswith("."):
        found = (
            f"'{shown(wrong[0])}' (U+{ord(wrong[0]):04X})" if wrong else "nothing" if not name else "a dot at its end"
        )
        raise UserError(
            f"--name '{shown(name)}': {found} cannot stand in a file's name on every system; write the name without it."
        )
    whole = f"DLP_LAB3_{student_id}_{name}"
    if len(whole.encode()) > LONGEST:
        raise UserError(
            f"--name is too long for a file's name: {len(whole.encode())} bytes, {LONGEST} at most; shorten it."
        )
    return whole


def sources(project: Path) -> dict[str, Path]:
    """The files of the project to hand in, by their place in it. Git is not asked: an unpacked hand-in has none, and a student's
    new module that was never added to it must not be missing."""
    found = [path for path in project.iterdir() if path.suffix in KINDS or path.name in NAMES]
    found += [project / name for name in NOTES]
    found += [path for name in FOLDERS for path in (project / name).rglob("*")]
    for folder in project.iterdir():
        known = folder.name in (*FOLDERS, *OUTPUTS) or any((folder / name).exists() for name in ENVIRONMENTS)
        if folder.is_dir() and not known and not junk(folder.name):
            found += folder.rglob("*.py")
    files = {path.relative_to(project).as_posix(): path for path in found if path.is_file()}
    return {place: path for place, path in sorted(files.items()) if not any(map(junk, place.split("/")))}


def junk(name: str) -> bool:
    """Whether a file or folder is left by a tool: hidden, or a cache."""
    return name.startswith(".") or name.endswith(JUNK)


def find_report(report: Path, project: Path) -> Path:
    """Where the report lies: ``report/<data>/report.pdf`` or, in a hand-in that was unpacked, at the top."""
    own, unpacked = report / "report.pdf", project / "report.pdf"
    return unpacked if unpacked.is_file() and not own.is_file() else own


def report_fault(path: Path) -> str:
    """What is wrong with the report, in words."""
    if not path.is_file():
        return "is missing"
    data = path.read_bytes()
    return "" if data.startswith(b"%PDF-") and b"%%EOF" in data[-1024:] else "is no whole PDF"


def weights_bundle(title: str, data: str, models: Mapping[str, Iterable[Path]]) -> dict[str, Path | bytes]:
    """The files of the second zip by their place: each model's checkpoints, their checksums, and how to prove that they load."""
    files = {f"{model}/{path.name}": path for model, paths in models.items() for path in paths}
    sums = "".join(f"{digest(path)}  {place}\n" for place, path in sorted(files.items()))
    folder = f"weights/{data}"
    readme = f"""The trained weights of {title}, data set {data}: {", ".join(models)}.

Unpack this zip and {title}.zip in the same place, so that weights/ lies beside demo.py. There:

    pip install -r requirements.txt -c constraints.txt
    python submit.py --prove {folder}      # the checksums, and that each network loads and computes
    python demo.py --data {data}           # their results

The checksums alone, inside {folder}: sha256sum -c SHA256SUMS (macOS: shasum -a 256 -c SHA256SUMS).
"""
    bundle: dict[str, Path | bytes] = {f"{folder}/{place}": path for place, path in files.items()}
    return bundle | {f"{folder}/SHA256SUMS": sums.encode(), f"{folder}/README.txt": readme.encode()}


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_zip(archive: Path, title: str, files: Mapping[str, Path | bytes], compress: bool) -> None:
    """Write files, by their place, into a zip under one folder ``title``. Order, times, rights and system are fixed, so that the
    same files give the same bytes; names that are not ASCII are marked as UTF-8 (bit 11), which Windows needs to be told."""
    with zipfile.ZipFile(archive, "w") as zipped:
        for place, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{title}/{place}", WHEN)
            entry.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
            entry.create_system = 3  # Unix, on whatever system this runs: the rights below are Unix's
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            if isinstance(content, bytes):
                zipped.writestr(entry, content)
                continue
            entry.file_size = content.stat().st_size
            with content.open("rb") as source, zipped.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
