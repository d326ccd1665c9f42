"""Data sets from Kaggle: downloads the archive and unpacks its images. Of C-NMC 2019 every byte is verified."""

from __future__ import annotations

import hashlib
import importlib
import re
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pandas as pd

from lab.data.images import SUFFIXES
from lab.errors import UserError
from lab.files import flush_folder, make_folder
from lab.kaggle.client import Unreachable, read_settings, request_timeout, sign_in, user_errors
from lab.terminal import progress, shows_bars
from lab.text import counted, shown

# The labelled images on Kaggle: folder, number of files, and SHA-256 of their sorted lines "name sha256". Computed from a list of
# all files of the download with their hashes; the numbers are those in the data set's description.
PARTS = {
    "fold_0/all": (2397, "12f6e27584f7e561b90e3352efffc1c912ee4ddb4ccc261d3028124a5390968d"),
    "fold_0/hem": (1130, "c4a6b3804767e780e0524f7714803fa69de6ed13696edc2d3c70ce869b2fc9d6"),
    "fold_1/all": (2418, "32a9d59d7c67b3194bad9f3df4933d97d52c258a32c241995d796f1e296ab583"),
    "fold_1/hem": (1163, "c42608e876f3ca1d4586c863c551f9a2812fafa3180b1e79ff86254894931fa6"),
    "fold_2/all": (2457, "a810d80e951aa08b7ac3d182ecb71502226a5cfafa6415e431c2af328fef5644"),
    "fold_2/hem": (1096, "3f82c9676425be115bf9af571f214dabfbeb45cde94eeae7d2faf15c2d54e54e"),
}
UNPACKED = 6_486_728_094  # size of these images in bytes
Members = dict[str, zipfile.ZipInfo]  # of an archive, by the path that they are unpacked to
MEMBER = re.compile(r"(?:.*/)?training_data/(fold_[0-9]+)/(all|hem)/([^/]+)")


def data_set_name(settings: Path) -> str:
    """Read the data set's name on Kaggle, ``owner/name``, from the settings file."""
    name = read_settings(settings).get("data", "cnmc", fallback="").strip()
    if not re.fullmatch(r"[\w-]+/[\w-]+", name, re.ASCII):
        raise UserError(
            f"{settings}: '{shown(name)}' is not the name of a data set; write the part of its address after "
            f"kaggle.com/datasets/ behind 'cnmc =', below [data]: andrewmvd/leukemia-classification."
        )
    return name


def download(name: str, archive: Path, cnmc: bool = True) -> None:
    """Download a data set as one zip, resuming an interrupted download. ``archive`` exists only if it is complete.

    The images of ``cnmc`` need :data:`UNPACKED` bytes; those of another data set are assumed to need as many as the zip.
    """
    if archive.exists():
        print(f"{archive} is there already")
        return
    page = f"https://www.kaggle.com/datasets/{name}"
    try:
        api = sign_in()
    except Unreachable:
        raise
    except UserError as error:
        browser = f"or download {page} in a browser and give the zip with --archive"
        raise UserError(f"{str(error).rstrip('.')}; {browser}.") from None
    make_folder(archive.parent)
    owner, slug = name.split("/")
    part = archive.with_name(f"{archive.name}.part")
    with request_timeout(), user_errors(f"downloading {name}", page):
        request = importlib.import_module("kagglesdk.datasets.types.dataset_api_service").ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = owner, slug
        with api.build_kaggle_client() as client:
            response = client.datasets.dataset_api_client.download_dataset(request)
            size = int(response.headers.get("Content-Length") or 0)
            present = part.stat().st_size if part.exists() else 0
            if not (size and present == size and zipfile.is_zipfile(part)):
                check_space(archive.parent, max(0, size - present) + (UNPACKED if cnmc else size))
                bars = shows_bars()
                if not bars:
                    print(f"downloading {name}: {size / 1e9:.1f} GB", flush=True)
                api.download_file(response, str(part), client.http_client(), quiet=not bars, resume=True)
    part.replace(archive)
    flush_folder(archive.parent)


def check_space(folder: Path, needed: int) -> None:
    """Raise :class:`UserError` if the disk has fewer free bytes than ``needed``."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder.resolve()}: the images need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free there; free some "
            f"space, or name a folder on another disk with --to."
        )


def unpack(archive: Path, folder: Path, choose: Callable[[Path, zipfile.ZipFile], Members]) -> None:
    """Unpack the members of a download that ``choose`` returns (:func:`labelled`, :func:`images`). The folder exists only if it
    is complete. Raises :class:`UserError` if the archive is damaged, of another data set, or has paths that lead outside.
    """
    make_folder(folder.parent)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of an interrupted run
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = choose(archive, zipped)
            check_space(folder.parent, sum(member.file_size for member in members.values()))
            for name, member in progress(members.items(), "unpacking"):
                target = part / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
        part.replace(folder)
        flush_folder(folder.parent)
    except (UserError, OSError):
        raise
    except Exception as error:  # damaged archives raise nearly any exception
        reason = shown(str(error)) or type(error).__name__
        raise UserError(f"{archive}: is not a complete zip archive ({reason}); download it again.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def files_of(archive: Path, zipped: zipfile.ZipFile) -> Iterator[tuple[PurePosixPath, zipfile.ZipInfo]]:
    """The files of an archive with their paths. Raises :class:`UserError` for one that leads outside."""
    for member in zipped.infolist():
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or re.match(r"[A-Za-z]:", str(name)):
            raise UserError(f"{archive}: contains '{shown(member.filename)}', which leads outside; do not unpack it.")
        if not member.is_dir():
            yield name, member


def images(archive: Path, zipped: zipfile.ZipFile) -> Members:
    """All images of an archive by path, without hidden files."""
    members = {
        str(name): member
        for name, member in files_of(archive, zipped)
        if name.suffix.lower() in SUFFIXES and not any(part.startswith((".", "__MACOSX")) for part in name.parts)
    }
    if not members:
        raise UserError(f"{archive}: contains no image ({', '.join(sorted(SUFFIXES))}); name another data set.")
    return members


def labelled(archive: Path, zipped: zipfile.ZipFile) -> Members:
    """The labelled images of C-NMC by target path, which is built here and not taken from the archive."""
    members: Members = {}
    for name, member in files_of(archive, zipped):
        match = MEMBER.fullmatch(str(name))
        if match and not match[3].startswith("."):
            members["training_data/" + "/".join(match.groups())] = member
    counts = Counter("/".join(name.split("/")[1:3]) for name in members)
    differences = compare({part: (number, "") for part, number in counts.items()}, hashes=False)
    if differences:
        raise UserError(f"{archive}: is not the complete C-NMC 2019 ({'; '.join(differences)}); download it again.")
    return members


def verify(folder: Path, table: pd.DataFrame) -> None:
    """Compare the images below a folder, columns ``path`` and ``sha256``, with those on Kaggle: names, counts and every byte.
    Raises :class:`UserError` that names the parts which differ."""
    lines: dict[str, list[str]] = {}
    for name, digest in zip(table["path"], table["sha256"], strict=True):
        path = PurePosixPath(name)
        lines.setdefault(f"{path.parent.parent.name}/{path.parent.name}", []).append(f"{path.name} {digest}\n")
    digests = {part: hashlib.sha256("".join(sorted(rows)).encode()).hexdigest() for part, rows in lines.items()}
    differences = compare({part: (len(rows), digests[part]) for part, rows in lines.items()}, hashes=True)
    if differences:
        raise UserError(
            f"{folder}: differs from C-NMC 2019 on Kaggle: {'; '.join(differences)}; remove the folder and run the command "
            f"again, or use it unchanged with `python prepare.py cnmc {folder}`."
        )
    print(f"verified: {counted(len(table), 'image')}, every byte as on Kaggle")


def compare(parts: dict[str, tuple[int, str]], hashes: bool) -> list[str]:
    """Describe the differences of the number and the hash of files in each folder from :data:`PARTS`."""
    differences = []
    for part in sorted(PARTS.keys() | parts.keys()):
        (expected, digest), (count, other) = PARTS.get(part, (0, "")), parts.get(part, (0, ""))
        if count != expected:
            differences.append(f"{shown(part)} has {counted(count, 'image')} instead of {expected:,}")
        elif hashes and digest != other:
            differences.append(f"{shown(part)} has other bytes")
    return differences
