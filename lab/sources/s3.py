"""Images in a bucket of S3 or of a server with its interface, such as MinIO: downloads them in parallel and verifies them.

boto3 finds credentials, region and ``AWS_ENDPOINT_URL`` as usual: variables, ``~/.aws``, the role of the machine. It is an
optional package, imported where it is used.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lab.data.images import SUFFIXES
from lab.errors import UserError
from lab.files import flush_folder, make_folder
from lab.sources.folders import UNLISTABLE
from lab.sources.kaggle_download import check_space
from lab.terminal import progress, shows_bars
from lab.text import counted, shown

WORKERS = 16  # downloads at a time: small objects wait for the network
TRIES = 5  # of a request, with growing pauses (botocore's standard mode)
TIMEOUT = 30  # seconds without a byte
CHUNK = 1 << 20
AGAIN = "run the command again, which resumes"


class Stored(NamedTuple):
    """An object of a bucket: key, size in bytes, and ETag without quotation marks."""

    key: str
    size: int
    etag: str


def split_address(address: str) -> tuple[str, str]:
    """``s3://bucket/prefix`` as bucket and prefix; a prefix is a folder, and ends in a slash unless it is empty."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if not address.startswith("s3://") or not bucket:
        raise UserError(f"{shown(address)} is not an address of the form s3://bucket/prefix.")
    prefix = prefix.strip("/")
    return bucket, f"{prefix}/" if prefix else ""


def fetch(address: str, folder: Path) -> None:
    """Download all images below an address into ``folder``, which exists only if they are complete.

    Until then they are in a hidden folder beside it, in which the next call resumes. Raises :class:`UserError` for missing
    credentials, a bucket or a prefix that is not there, denied access, and a service that breaks off or does not answer.
    """
    bucket, prefix = split_address(address)
    client = sign_in()
    with user_errors(address, client.meta.endpoint_url):
        objects = list(images(client, bucket, prefix))
    if not objects:
        raise UserError(f"{address}: there is no image ({', '.join(sorted(SUFFIXES))}) below this address.")
    check_names(address, prefix, objects)
    part = folder.with_name(f".{folder.name}.part")
    make_folder(part)
    targets = {part / one.key.removeprefix(prefix): one for one in objects}
    for path in [path for path in part.rglob("*") if path.is_file() and path not in targets]:
        path.unlink()  # of another content of the bucket, or half a file
    present = sum(path.is_file() for path in targets)
    size = sum(one.size for path, one in targets.items() if not path.is_file())
    check_space(part, size)
    kept = f", {present:,} of them are there" if present else ""
    print(f"{address}: {counted(len(objects), 'image')}{kept}; downloading {size / 1e6:,.0f} MB", flush=True)
    with user_errors(address, client.meta.endpoint_url):
        download_all(client, bucket, targets)
    part.replace(folder)
    flush_folder(folder.parent)
    print(f"verified: {counted(len(objects), 'image')}, sizes and checksums as in the bucket", flush=True)


def sign_in() -> Any:
    """A client of S3."""
    try:
        boto3 = importlib.import_module("boto3")
        config = importlib.import_module("botocore.config").Config
    except ImportError as error:
        install = "pip install -r requirements-extras.txt -c constraints.txt"
        raise UserError(f"boto3 is not installed ({error}): {install}") from None
    options = config(
        retries={"mode": "standard", "total_max_attempts": TRIES},
        connect_timeout=TIMEOUT,
        read_timeout=TIMEOUT,
        max_pool_connections=WORKERS,
    )
    with user_errors("S3", ""):
        try:
            return boto3.session.Session().client("s3", config=options)
        except ValueError as error:  # such as an AWS_ENDPOINT_URL without http://
            raise UserError(f"S3: {shown(str(error))}; correct AWS_ENDPOINT_URL.") from None


def images(client: Any, bucket: str, prefix: str) -> Iterator[Stored]:
    """The images below a prefix, without hidden files."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", []):
            name = PurePosixPath(entry["Key"].removeprefix(prefix))
            if name.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts):
                yield Stored(entry["Key"], int(entry["Size"]), entry["ETag"].strip('"'))


def check_names(address: str, prefix: str, objects: list[Stored]) -> None:
    """Raise :class:`UserError` if a key cannot be a file below the folder, or its name cannot be in a list."""
    names = [one.key.removeprefix(prefix) for one in objects]
    wrong = [name for name in names if UNLISTABLE.search(name) or "//" in f"/{name}" or ":" in name]
    if wrong:
        examples = ", ".join(map(shown, wrong[:4])) + (", …" if wrong[4:] else "")
        raise UserError(
            f"{address}: {counted(len(wrong), 'key')} cannot be the name of a file in a list: {examples}; rename them in the "
            "bucket."
        )


def download_all(client: Any, bucket: str, targets: dict[Path, Stored]) -> None:
    """Download in parallel whatever is not there yet, or is there with other bytes. After an error no further object is begun."""
    stopped = False

    def one(target: Path, stored: Stored) -> None:
        if not stopped and not (
            target.is_file() and target.stat().st_size == stored.size and intact(client, bucket, target, stored)
        ):
            download(client, bucket, target, stored)

    with ThreadPoolExecutor(WORKERS) as pool:
        running = [pool.submit(one, *item) for item in targets.items()]
        step = max(1, len(running) // 10)
        try:
            for number, future in enumerate(progress(running, "downloading"), 1):
                future.result()
                if number % step == 0 and not shows_bars():
                    print(f"downloaded {number:,} of {len(running):,}", flush=True)
        except BaseException:
            stopped = True
            raise


def download(client: Any, bucket: str, target: Path, stored: Stored) -> None:
    """Download an object; the file gets its name when its bytes are verified."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    # IfMatch: the object that was listed, and not one that replaced it since.
    body = client.get_object(Bucket=bucket, Key=stored.key, IfMatch=stored.etag)["Body"]
    with temporary.open("wb") as file:
        for chunk in body.iter_chunks(CHUNK):
            file.write(chunk)
    if temporary.stat().st_size != stored.size or not intact(client, bucket, temporary, stored):
        temporary.unlink()
        raise UserError(
            f"s3://{bucket}/{shown(stored.key)}: arrived with other bytes than it has in the bucket; {AGAIN}."
        )
    temporary.replace(target)


def intact(client: Any, bucket: str, file: Path, stored: Stored) -> bool:
    """Whether a file has the object's bytes, as its ETag tells.

    It is the MD5 of the bytes, or of an upload in parts the MD5 of the parts' MD5s. With encryption by a key of AWS KMS or of the
    client it is no checksum, and only the size is known.
    """
    digest, _, number = stored.etag.partition("-")
    size = stored.size
    if number:
        size = client.head_object(Bucket=bucket, Key=stored.key, PartNumber=1)["ContentLength"]
    with file.open("rb") as opened:
        parts = [hashlib.md5(part, usedforsecurity=False) for part in iter(lambda: opened.read(max(1, size)), b"")]
    if number:
        found = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False).hexdigest()
    else:
        found = (parts[0] if parts else hashlib.md5(b"", usedforsecurity=False)).hexdigest()
    if found == digest:
        return True
    about = client.head_object(Bucket=bucket, Key=stored.key)
    return str(about.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in about


@contextmanager
def user_errors(address: str, endpoint: str) -> Iterator[None]:
    """Turn the errors of boto3 into one sentence each."""
    errors = importlib.import_module("botocore.exceptions")
    at = f" at {endpoint}" if endpoint else ""
    try:
        yield
    except (errors.NoCredentialsError, errors.PartialCredentialsError, errors.ProfileNotFound) as error:
        raise UserError(
            f"{address}: no credentials for S3 ({shown(str(error))}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run "
            "`aws configure`."
        ) from None
    except errors.ClientError as error:
        raise UserError(f"{address}: {reason_of(error)}") from None
    except (errors.EndpointConnectionError, errors.ConnectTimeoutError) as error:
        raise UserError(
            f"{address}: the service{at} cannot be reached ({shown(str(error))}); check the network and AWS_ENDPOINT_URL, then "
            f"{AGAIN}."
        ) from None
    except errors.ParamValidationError as error:
        raise UserError(f"{address}: is not the address of a bucket ({shown(str(error))}).") from None
    except (
        errors.BotoCoreError
    ) as error:  # broken off: IncompleteReadError, ReadTimeoutError, ResponseStreamingError and others
        raise UserError(f"{address}: the download broke off ({shown(str(error))}); {AGAIN}.") from None


def reason_of(error: Any) -> str:
    """What a refused request means, and what to do."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return "there is no such bucket; check its name and the region."
    if code in ("NoSuchKey", "PreconditionFailed") or status == 412:
        return f"an object was replaced or removed meanwhile; {AGAIN}."
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"):
        return f"the credentials are refused ({code}); renew them."
    if status == 403:
        return "access is denied; ask for the rights s3:ListBucket and s3:GetObject there."
    if code in ("SlowDown", "Throttling", "RequestLimitExceeded") or status in (429, 503):
        return f"the service is throttling requests ({code}); wait a little and {AGAIN}."
    return f"the service answered {code or status} ({shown(str(error))}); {AGAIN}."
