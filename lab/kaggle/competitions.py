"""Uploading each depth's submission to its Kaggle competition, and waiting for the score."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import UserError
from lab.kaggle.client import Unreachable, limited, muted, read_settings, spoken
from lab.terminal import progress
from lab.text import duration, shown

PAUSE = 5.0  # seconds between two looks at the scores


@dataclass(frozen=True)
class Entry:
    """One upload: a depth's checked submission, the competition that it goes to, and the message that stands beside it there.

    The message holds a hash of the file, so that the same file is found again and never sent twice.
    """

    model: str
    path: Path
    rows: int
    competition: str
    message: str

    @property
    def page(self) -> str:
        return f"https://www.kaggle.com/competitions/{self.competition}"


def read_competitions(path: Path, models: list[str]) -> dict[str, str]:
    """The competition of each model. Raises one :class:`UserError` for all that are not, or wrongly, written in the settings."""
    settings = read_settings(path)
    found = {model: settings.get("competitions", model, fallback="").strip() for model in models}
    missing = [model for model, name in found.items() if not name]
    if missing:
        raise UserError(
            f"{path}: the competition of {', '.join(missing)} is not written there yet; open it on Kaggle and write what "
            f"follows kaggle.com/competitions/ in its address behind '{missing[0]} =', below [competitions]."
        )
    for model, name in found.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name):
            raise UserError(
                f"{path}: '{shown(name)}' of {model} is no competition's name; write only what follows "
                f"kaggle.com/competitions/ in its address, such as dlp-lab-3-resnet18."
            )
    return found


def make_entry(model: str, path: Path, rows: int, competition: str, data: str) -> Entry:
    """An upload of a submission that was checked and has so many rows."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry(model, path, rows, competition, f"{model}, {data}, sha256 {digest[:16]}")


def find(api: Any, entry: Entry, ref: int | None = None) -> Any | None:
    """A submission in the competition's list of ours: that of this number or, without one, of this message and not refused."""
    with limited(), muted(), spoken(f"{entry.model}, {entry.competition}", entry.page):
        listed = [one for one in api.competition_submissions(entry.competition) or [] if one is not None]
        fits = [one for one in listed if one.ref == ref] if ref else [one for one in listed if ours(one, entry)]
    return fits[0] if fits else None


def ours(submission: Any, entry: Entry) -> bool:
    """Whether a submission of the list is this entry, and still stands."""
    return submission.description == entry.message and submission.status.name != "ERROR"


def upload(api: Any, entry: Entry) -> int:
    """Send a submission unless it was sent before; its number on Kaggle."""
    before = find(api, entry)
    if before is not None:
        print(f"{entry.model}: {entry.path} is in {entry.competition} already, number {before.ref}; not sent again")
        return int(before.ref)
    print(f"{entry.model}: sending {entry.path}, {entry.rows:,} rows → {entry.competition}", flush=True)
    with limited(), muted() as said, spoken(f"{entry.model}, {entry.competition}", entry.page):
        answer = api.competition_submit(str(entry.path), entry.message, entry.competition, quiet=True)
    if answer.message == api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE or not answer.ref:
        words = shown(said.getvalue()) or shown(answer.message)
        raise UserError(
            f"{entry.model}, {entry.competition}: {entry.path} did not arrive ({words}); run the command again."
        )
    print(f"{entry.model}: arrived, number {answer.ref}")
    return int(answer.ref)


def upload_all(api: Any, entries: list[Entry], limit: float) -> None:
    """Send every entry and show the scores as they arrive, for ``limit`` seconds. One that fails does not keep the others back;
    raises one :class:`UserError` for all that have no score in the end."""
    sent: dict[int, Entry] = {}
    problems = []
    for entry in entries:
        try:
            sent[upload(api, entry)] = entry
        except UserError as error:
            problems.append(str(error))
            if isinstance(error, Unreachable):
                break
    problems += wait(api, sent, limit)
    if problems:
        raise UserError("\n".join(problems))


def wait(api: Any, sent: dict[int, Entry], limit: float) -> list[str]:
    """Print each submission's score when it arrives; what went wrong, in words. A look that fails is repeated until the limit."""
    began = time.monotonic()
    waiting, problems, trouble = dict(sent), [], dict[int, str]()
    with progress(sent, "waiting for scores", unit=" scores") as bar:
        while waiting:
            for ref, entry in list(waiting.items()):
                try:
                    submission = find(api, entry, ref)
                    trouble.pop(ref, None)
                except UserError as error:
                    trouble[ref] = str(error)
                    continue
                if submission is None or submission.status.name == "PENDING":
                    continue
                del waiting[ref]
                bar.update()
                if submission.status.name == "COMPLETE":
                    bar.write(f"{entry.model}: {score_words(submission)}")
                else:
                    why = shown(submission.error_description) or "it does not say why"
                    problems.append(f"{entry.model}, {entry.competition}: Kaggle refused {entry.path} ({why}).")
            if not waiting or time.monotonic() - began >= limit:
                break
            bar.refresh()
            time.sleep(PAUSE)
    for ref, entry in waiting.items():
        last = f" (last: {trouble[ref]})" if ref in trouble else ""
        problems.append(
            f"{entry.model}, {entry.competition}: no score after {duration(limit)}, but the file is there{last}; run the "
            f"command again, which sends nothing twice, or look at {entry.page}/submissions."
        )
    return problems


def score_words(submission: Any) -> str:
    """The scores of a submission that Kaggle has scored."""
    public, private = submission.public_score, submission.private_score
    return f"score {public or 'not shown'}" + (f", private {private}" if private else "")
