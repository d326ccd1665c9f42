"""C-NMC 2019 from Kaggle: downloads the archive, unpacks its labelled images, and verifies every byte of them."""

from __future__ import annotations

import hashlib
import importlib
import re
import shutil
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

import pandas as pd

from lab.errors import UserError
from lab.files import flush_folder, make_folder
from lab.kaggle.client import Unreachable, limited, read_settings, sign_in, spoken
from lab.terminal import progress, shows_bars
from lab.text import counted, shown

# The labelled images as Kaggle hands them out: folder, files, and SHA-256 of their sorted lines "name sha256". Computed from a
# list of all files of the download with their hashes; the counts are those that the makers of the data set state.
PARTS = {
    "fold_0/all": (2397, "12f6e27584f7e561b90e3352efffc1c912ee4ddb4ccc261d3028124a5390968d"),
    "fold_0/hem": (1130, "c4a6b3804767e780e0524f7714803fa69de6ed13696edc2d3c70ce869b2fc9d6"),
    "fold_1/all": (2418, "32a9d59d7c67b3194bad9f3df4933d97d52c258a32c241995d796f1e296ab583"),
    "fold_1/hem": (1163, "c42608e876f3ca1d4586c863c551f9a2812fafa3180b1e79ff86254894931fa6"),
    "fold_2/all": (2457, "a810d80e951aa08b7ac3d182ecb71502226a5cfafa6415e431c2af328fef5644"),
    "fold_2/hem": (1096, "3f82c9676425be115bf9af571f214dabfbeb45cde94eeae7d2faf15c2d54e54e"),
}
UNPACKED = 6_486_728_094  # bytes of those images
MEMBER = re.compile(r"(?:.*/)?training_data/(fold_[0-9]+)/(all|hem)/([^/]+)")


def data_set_name(settings: Path) -> str:
    """The data set's name on Kaggle, ``owner/name``, from the settings file."""
    name = read_settings(settings).get("data", "cnmc", fallback="").strip()
    if not re.fullmatch(r"[\w-]+/[\w-]+", name, re.ASCII):
        raise UserError(
            f"{settings}: '{shown(name)}' is no data set's name; write what follows kaggle.com/datasets/ in its address behind "
            f"'cnmc =', below [data]: andrewmvd/leukemia-classification."
        )
    return name


def download(name: str, archive: Path) -> None:
    """Download a data set as one zip, resuming what an interrupted download left; ``archive`` is there whole or not at all."""
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
    with limited(), spoken(f"downloading {name}", page):
        request = importlib.import_module("kagglesdk.datasets.types.dataset_api_service").ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = owner, slug
        with api.build_kaggle_client() as client:
            answer = client.datasets.dataset_api_client.download_dataset(request)
            size = int(answer.headers.get("Content-Length") or 0)
            if not (size and part.exists() and part.stat().st_size == size and zipfile.is_zipfile(part)):
                have = part.stat().st_size if part.exists() else 0
                check_room(archive.parent, max(0, size - have) + UNPACKED)
                bars = shows_bars()  # the client's own
                if not bars:
                    print(f"downloading {name}: {size / 1e9:.1f} GB", flush=True)
                api.download_file(answer, str(part), client.http_client(), quiet=not bars, resume=True)
    part.replace(archive)
    flush_folder(archive.parent)


def check_room(folder: Path, needed: int) -> None:
    """Raise :class:`UserError` where a disk has not so many bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder.resolve()}: the images need {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free there; make room, or "
            f"name a folder on another disk with --to."
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the labelled images of a download to ``folder/training_data/…``; the folder is there whole or not at all.

    Raises :class:`UserError` where the archive is damaged, is another data set's, or names files outside of itself.
    """
    make_folder(folder.parent)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was stopped; unpacking takes a minute or two
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = labelled(archive, zipped)
            check_room(folder.parent, sum(member.file_size for member in members.values()))
            for place, member in progress(members.items(), "unpacking"):
                target = part / place
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
        part.replace(folder)
        flush_folder(folder.parent)
    except (UserError, OSError):
        raise
    except Exception as error:  # damaged archives raise nearly anything
        raise UserError(
            f"{archive}: is no whole zip archive ({shown(str(error)) or type(error).__name__}); remove it and run the command "
            f"again."
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def labelled(archive: Path, zipped: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The labelled images of an archive by the place that each is unpacked to, which is put together here, not taken from it."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in zipped.infolist():
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or re.match(r"[A-Za-z]:", str(name)):
            raise UserError(
                f"{archive}: holds '{shown(member.filename)}', which leads outside of it; do not unpack it."
            )
        match = MEMBER.fullmatch(str(name))
        if match and not member.is_dir() and not match[3].startswith("."):
            members["training_data/" + "/".join(match.groups())] = member
    counts = Counter("/".join(place.split("/")[1:3]) for place in members)
    wrong = compare({part: (number, "") for part, number in counts.items()}, hashes=False)
    if wrong:
        raise UserError(
            f"{archive}: is not the whole of C-NMC 2019 ({'; '.join(wrong)}); remove it and download it anew."
        )
    return members


def verify(folder: Path, table: pd.DataFrame) -> None:
    """Hold the images found below a folder, columns ``path`` and ``sha256``, against those that Kaggle hands out: names, counts
    and every byte. Raises :class:`UserError` that names the parts which differ."""
    lines: dict[str, list[str]] = {}
    for path, digest in zip(table["path"], table["sha256"], strict=True):
        place = PurePosixPath(path)
        lines.setdefault(f"{place.parent.parent.name}/{place.parent.name}", []).append(f"{place.name} {digest}\n")
    found = {
        part: (len(rows), hashlib.sha256("".join(sorted(rows)).encode()).hexdigest()) for part, rows in lines.items()
    }
    wrong = compare(found, hashes=True)
    if wrong:
        raise UserError(
            f"{folder}: holds not what Kaggle hands out as C-NMC 2019: {'; '.join(wrong)}; remove the folder and run the command "
            f"again, or take it as it is with `python prepare.py cnmc {folder}`."
        )
    print(f"verified: {counted(len(table), 'image')}, every byte as Kaggle hands them out")


def compare(found: dict[str, tuple[int, str]], hashes: bool) -> list[str]:
    """Where folders differ from :data:`PARTS`, in words."""
    wrong = []
    for part in sorted(PARTS.keys() | found.keys()):
        (expected, digest), (count, other) = PARTS.get(part, (0, "")), found.get(part, (0, ""))
        if count != expected:
            wrong.append(f"{shown(part)} holds {counted(count, 'image')} instead of {expected:,}")
        elif hashes and digest != other:
            wrong.append(f"{shown(part)} holds other bytes")
    return wrong
