"""The zips of the hand-in: names, contents and writing."""

from __future__ import annotations

import re
import shutil
import stat
import unicodedata
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from lab.errors import UserError
from lab.files import sha256
from lab.text import shown

# Folders that are included completely. Of other folders, which may be a student's modules, a data set or a virtual environment,
# only the Python files are included.
FOLDERS = ("benchmarks", "docs", "lab", "models", "resnet", "runs", "studies", "tests")
OUTPUTS = ("csv", "data", "mlruns", "report", "weights")  # outputs of commands: included file by file, or not at all
NOTES = ("csv/README.md", "weights/README.md")
PICTURES: tuple[str, ...]  # of README.md
PICTURES = ("pbc8/accuracy_comparison.png", "pbc8/confusion_resnet18.png", "cnmc52/preprocessing.png")
PICTURES += ("pbc8/compare.png", "pbc8/compare.md", "all4/compare.md")
# Suffixes of a data set's histories, logs, metrics and figures, and of the discussion.
RESULTS = (".csv", ".json", ".png", ".txt")
KINDS = (".py", ".md", ".txt", ".toml", ".ini")  # suffixes of files in the project's top folder
NAMES = ("LICENSE", "Makefile")
JUNK = ("__pycache__", "site-packages", ".pyc", ".tmp")
ENVIRONMENTS = ("pyvenv.cfg", "conda-meta")  # files that mark a Python environment
NEEDED = ("README.md", "requirements.txt", "constraints.txt")  # required although no module imports them
WINDOWS = re.compile(r'[<>:"/\\|?*]')  # characters that Windows does not allow in a file name
FORMS = {"18_50": ("resnet18", "resnet50"), "152": ("resnet152",)}  # the two forms that the lab collects the weights in
# Bytes of a name in UTF-8: common file systems allow 255, and the ending of the zip and of a temporary file follow.
MAX_LENGTH = 190
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date of the zip format, so that the same files give the same bytes


def hand_in_name(student_id: str, name: str) -> str:
    """Return the name of the hand-in, ``DLP_LAB3_<id>_<name>``, in Unicode's composed form (NFC). Raises :class:`UserError` if a
    part is invalid."""
    student_id, name = (unicodedata.normalize("NFC", text).strip() for text in (student_id, name))
    if not re.fullmatch(r"[A-Za-z0-9]{4,20}", student_id):
        raise UserError(f"--student-id '{shown(student_id)}' is no student ID; give 4 to 20 letters and digits.")
    invalid = [c for c in name if WINDOWS.match(c) or (unicodedata.category(c)[0] in "CZ" and c != " ")]
    reason = ""
    if not name:
        reason = "an empty name"
    elif invalid:
        reason = f"'{shown(invalid[0])}' (U+{ord(invalid[0]):04X})"
    elif name.endswith("."):
        reason = "a dot at the end"
    if reason:
        raise UserError(f"--name '{shown(name)}': {reason} is not allowed in a file name on every system; change it.")
    title = f"DLP_LAB3_{student_id}_{name}"
    size = len(title.encode())
    if size > MAX_LENGTH:
        raise UserError(f"--name is too long for a file name: {size} bytes, at most {MAX_LENGTH}; shorten it.")
    return title


def source_files(project: Path) -> dict[str, Path]:
    """Return the project's files for the zip by their path in it. Git is not used, because an unpacked hand-in has no repository,
    and a student's module must be included even if it was never added."""
    paths = [path for path in project.iterdir() if path.suffix in KINDS or path.name in NAMES]
    paths += [project / name for name in NOTES] + [project / "report" / "results" / name for name in PICTURES]
    paths += [path for name in FOLDERS for path in (project / name).rglob("*")]
    for folder in project.iterdir():
        known = folder.name in (*FOLDERS, *OUTPUTS) or any((folder / name).exists() for name in ENVIRONMENTS)
        if folder.is_dir() and not known and not is_junk(folder.name):
            paths += folder.rglob("*.py")
    files = {path.relative_to(project).as_posix(): path for path in paths if path.is_file()}
    return {name: path for name, path in sorted(files.items()) if not any(map(is_junk, name.split("/")))}


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden or a cache."""
    return name.startswith(".") or name.endswith(JUNK)


def result_files(report: Path, data: str) -> dict[str, Path]:
    """Return the histories, metrics and figures in ``report/<data>`` by their path in the zip."""
    return {f"report/{data}/{path.name}": path for path in report.glob("*") if path.suffix in RESULTS}


def find_report(report: Path, project: Path) -> Path:
    """Return the path of the report: ``report/<data>/report.pdf`` or, in an unpacked hand-in, ``report.pdf``."""
    own, unpacked = report / "report.pdf", project / "report.pdf"
    return unpacked if unpacked.is_file() and not own.is_file() else own


def report_fault(path: Path) -> str:
    """Describe what is wrong with the report, "" if nothing is."""
    if not path.is_file():
        return "is missing"
    data = path.read_bytes()
    return "" if data.startswith(b"%PDF-") and b"%%EOF" in data[-1024:] else "is not a complete PDF"


def report_keywords(path: Path) -> list[str]:
    """Return the keywords that report.py writes into the PDF: ``missing name``, ``weights resnet18 0a1b…``. A PDF of another
    program has none of these."""
    found = re.search(rb"<pdf:Keywords>(.*?)</pdf:Keywords>", path.read_bytes())
    return found[1].decode(errors="replace").split(", ") if found else []


def zip_names(title: str) -> list[str]:
    """Return the names of the zips: report and sources, then the weights for each form."""
    return [f"{title}.zip", *(f"{title}_weights_{form}.zip" for form in FORMS)]


def weights_bundle(
    title: str, data: str, models: Mapping[str, Iterable[Path]], generated: bool = False
) -> dict[str, Path | bytes]:
    """Return the files of a zip of weights by their path in it: the checkpoints, their checksums, and a README. All zips unpack
    into the same folder, so that a file of the same name has the same bytes in each."""
    folder = f"weights/{data}"
    readme = f"""The trained weights of {title}, data set {data}{" of generated images" * generated}.

Unpack {", ".join(zip_names(title))}
into the same folder, so that weights/ is beside demo.py. There:

    pip install -r requirements.txt -c constraints.txt
    python submit.py --prove {folder}      # the checksums, and that each network loads and computes
    python demo.py --data {data}           # their results

The checksums alone, inside the folder of a model: sha256sum -c SHA256SUMS (macOS: shasum -a 256 -c SHA256SUMS).
"""
    bundle: dict[str, Path | bytes] = {f"{folder}/README.txt": readme.encode()}
    for model, paths in models.items():
        files = {path.name: path for path in paths}
        bundle |= {f"{folder}/{model}/{name}": path for name, path in files.items()}
        sums = "".join(f"{sha256(path)}  {name}\n" for name, path in sorted(files.items()))
        bundle[f"{folder}/{model}/SHA256SUMS"] = sums.encode()
    return bundle


def write_zip(archive: Path, title: str, files: Mapping[str, Path | bytes], compress: bool) -> None:
    """Write files, by their path, into a zip under one folder ``title``. Order, dates, permissions and system are fixed, so that
    the same files give the same bytes. zipfile marks names that are not ASCII as UTF-8 (bit 11), which Windows needs."""
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{title}/{name}", DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
            entry.create_system = 3  # Unix on every system, because the permissions below are Unix's
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            if isinstance(content, bytes):
                zipped.writestr(entry, content)
                continue
            entry.file_size = content.stat().st_size
            with content.open("rb") as source, zipped.open(entry, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
