"""Uploads each depth's submission to its Kaggle competition, and waits for the score."""

from __future__ import annotations

import hashlib
import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import UserError
from lab.kaggle.client import Unreachable, captured_output, read_settings, request_timeout, user_errors
from lab.terminal import progress, warn
from lab.text import duration, shown

TEAM = "the lab requires the student ID as the team's name on Kaggle"
PAUSE = 5.0  # seconds between two requests for the scores


@dataclass(frozen=True)
class Entry:
    """One upload: a depth's checked submission, its competition, and its description there.

    The description contains a hash of the file, so that the same file is recognised and never sent twice.
    """

    model: str
    path: Path
    rows: int
    competition: str
    message: str

    @property
    def title(self) -> str:
        return f"{self.model}, {self.competition}"

    @property
    def page(self) -> str:
        return f"https://www.kaggle.com/competitions/{self.competition}"


def read_competitions(path: Path, models: list[str]) -> dict[str, str]:
    """Read the competition of each model. Raises :class:`UserError` if one is missing or invalid in the settings."""
    settings = read_settings(path)
    competitions = {model: settings.get("competitions", model, fallback="").strip() for model in models}
    missing = [model for model, name in competitions.items() if not name]
    if missing:
        raise UserError(
            f"{path}: the competition of {', '.join(missing)} is missing; open it on Kaggle and write the part of its address "
            f"after kaggle.com/competitions/ behind '{missing[0]} =', below [competitions]."
        )
    for model, name in competitions.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", name):
            raise UserError(
                f"{path}: '{shown(name)}' of {model} is not the name of a competition; write only the part of its address "
                f"after kaggle.com/competitions/, such as dlp-lab-3-resnet18."
            )
    return competitions


def make_entry(model: str, path: Path, rows: int, competition: str, data: str) -> Entry:
    """Return the entry of a checked submission with this number of rows."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry(model, path, rows, competition, f"{model}, {data}, sha256 {digest[:16]}")


@contextmanager
def request(entry: Entry) -> Iterator[io.StringIO]:
    """Limit, capture and explain a request to the competition of ``entry``; yields what the client prints."""
    with request_timeout(), captured_output() as output, user_errors(entry.title, entry.page):
        yield output


def find_submission(api: Any, entry: Entry, ref: int | None = None) -> Any | None:
    """Return the user's submission with the number ``ref`` or, without one, that of the entry unless Kaggle refused it."""
    with request(entry):
        for submission in api.competition_submissions(entry.competition) or []:
            if submission is None:
                continue
            same_file = submission.description == entry.message and submission.status.name != "ERROR"
            if submission.ref == ref if ref else same_file:
                return submission
    return None


def upload(api: Any, entry: Entry) -> int:
    """Send a submission unless it was sent before; returns its number on Kaggle."""
    earlier = find_submission(api, entry)
    if earlier is not None:
        print(f"{entry.model}: {entry.path} is in {entry.competition} already, number {earlier.ref}; not sent again")
        return int(earlier.ref)
    print(f"{entry.model}: sending {entry.path}, {entry.rows:,} rows → {entry.competition}", flush=True)
    with request(entry) as output:
        response = api.competition_submit(str(entry.path), entry.message, entry.competition, quiet=True)
    if response.message == api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE or not response.ref:
        reason = shown(output.getvalue()) or shown(response.message)
        raise UserError(f"{entry.title}: {entry.path} did not arrive ({reason}); run the command again.")
    print(f"{entry.model}: arrived, number {response.ref}")
    return int(response.ref)


def upload_all(api: Any, entries: list[Entry], limit: float, student_id: str = "") -> None:
    """Send every entry, also after one fails, and print the scores as they arrive within ``limit`` seconds. Warns if a team's
    name is not the ``student_id``. Raises one :class:`UserError` for all entries without a score."""
    sent: dict[int, Entry] = {}
    problems = []
    for entry in entries:
        try:
            sent[upload(api, entry)] = entry
        except UserError as error:
            problems.append(str(error))
            if isinstance(error, Unreachable):
                break
    problems += wait_for_scores(api, sent, limit, student_id)
    if problems:
        raise UserError("\n".join(problems))


def check_team(entry: Entry, team: str, student_id: str) -> None:
    """Warn if the team's name is not the student ID, or print the name if there is no ID to compare. The list of submissions has
    the name; an empty one is unknown."""
    if team and not student_id:
        print(f"{entry.model}: the team's name is '{shown(team)}'; {TEAM}")
    elif team and team != student_id:
        warn(
            f"{entry.title}: the team's name is '{shown(team)}', but {TEAM}, {student_id}; change it at {entry.page}/team."
        )


def wait_for_scores(api: Any, sent: dict[int, Entry], limit: float, student_id: str = "") -> list[str]:
    """Print each score when it arrives; returns the problems. A failed request is repeated until the limit, in seconds."""
    began = time.monotonic()
    pending, problems, errors = dict(sent), [], dict[int, str]()
    teams = dict[int, str]()
    with progress(sent, "waiting for scores", unit=" scores") as bar:
        while pending:
            for ref, entry in list(pending.items()):
                try:
                    submission = find_submission(api, entry, ref)
                    errors.pop(ref, None)
                except UserError as error:
                    errors[ref] = str(error)
                    continue
                if submission is not None:
                    teams[ref] = submission.team_name
                if submission is None or submission.status.name == "PENDING":
                    continue
                del pending[ref]
                bar.update()
                if submission.status.name == "COMPLETE":
                    private = f", private {submission.private_score}" if submission.private_score else ""
                    bar.write(f"{entry.model}: score {submission.public_score or 'not shown'}{private}")
                else:
                    reason = shown(submission.error_description) or "without a reason"
                    problems.append(f"{entry.title}: Kaggle refused {entry.path} ({reason}).")
            if not pending or time.monotonic() - began >= limit:
                break
            bar.refresh()
            time.sleep(PAUSE)
    for ref, team in teams.items():
        check_team(sent[ref], team, student_id)
    for ref, entry in pending.items():
        last = f" (last: {errors[ref]})" if ref in errors else ""
        problems.append(
            f"{entry.title}: no score after {duration(limit)}, but the file is there{last}; run the command again, which "
            f"sends nothing twice, or see {entry.page}/submissions."
        )
    return problems
