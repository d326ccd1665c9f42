"""Kaggle through its official client: it signs in without a question, and each of its faults becomes one sentence.

The client is imported only where it is needed: it is an extra, it signs in as it is imported, and where it finds no
credentials it prints a page of advice.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from configparser import ConfigParser
from configparser import Error as SettingsError
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from lab.errors import UserError
from lab.text import shown

PATIENCE = 60.0  # seconds without a byte after which the service counts as gone; the client by itself waits for ever
TOKEN = (
    "make a token at https://www.kaggle.com/settings/api (Generate New Token), save it as the file ~/.kaggle/access_token "
    "or set KAGGLE_API_TOKEN to it, and run the command again"
)


def read_settings(path: Path) -> ConfigParser:
    """The settings file with the names on Kaggle. Raises :class:`UserError` where it is missing or no such file."""
    settings = ConfigParser(interpolation=None)
    try:
        with path.open(encoding="utf-8-sig") as file:
            settings.read_file(file)
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such file; it comes with the project and holds the names on Kaggle."
        ) from None
    except (SettingsError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a settings file ({shown(str(error))}); mend that line.") from None
    return settings


def sign_in() -> Any:
    """The client's ``KaggleApi``, signed in from what the student left for it (a token, kaggle.json, variables); never asks.

    Raises :class:`UserError` where the client is not installed, or there are no credentials, or they are refused.
    """
    with limited(), muted():
        try:
            library = importlib.import_module("kaggle")
        except ImportError as error:
            raise UserError(
                f"the Kaggle client is not installed ({error}): pip install -r requirements-extras.txt -c constraints.txt"
            ) from None
        with spoken("signing in", "https://www.kaggle.com/settings/api"):
            try:
                library.api.authenticate()
            except SystemExit:  # the client's way to say that it found nothing, or a token that is not valid
                source = importlib.import_module("kagglesdk.kaggle_env").get_access_token_from_env()[1]
                why = f"the token in {source} is not valid" if source else "no Kaggle credentials were found"
                raise UserError(f"{why}; {TOKEN}.") from None
    return library.api


class Unreachable(UserError):
    """Kaggle cannot be reached, or does not know us: nothing else that is asked of it now will go better."""


@contextmanager
def muted() -> Iterator[io.StringIO]:
    """Keep what the client prints; yields it."""
    with redirect_stdout(io.StringIO()) as said:
        yield said


@contextmanager
def limited(seconds: float | None = None) -> Iterator[None]:
    """Give every request of the client a time limit; it sets none, and a service that is silent would hold us for ever."""
    try:
        adapter = importlib.import_module("requests.adapters").HTTPAdapter
    except ImportError:  # no client then either, which is said elsewhere
        yield
        return
    send = adapter.send

    def send_limited(
        self: Any, request: Any, stream: bool = False, timeout: Any = None, *rest: Any, **more: Any
    ) -> Any:
        return send(self, request, stream, timeout or seconds or PATIENCE, *rest, **more)

    adapter.send = send_limited
    try:
        yield
    finally:
        adapter.send = send


@contextmanager
def spoken(doing: str, page: str) -> Iterator[None]:
    """Raise what the client raises as a :class:`UserError` of one sentence; ``page`` is where a person sees to it."""
    requests, urllib3 = importlib.import_module("requests"), importlib.import_module("urllib3")
    try:
        yield
    except requests.HTTPError as error:
        kind = Unreachable if error.response.status_code == 401 else UserError
        raise kind(f"{doing}: {refusal(error.response, page)}") from None
    except (
        *(requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError),
        urllib3.exceptions.HTTPError,
    ) as error:
        raise Unreachable(
            f"{doing}: Kaggle cannot be reached ({type(error).__name__}); look at the network, or at "
            f"https://status.kaggle.com, and run the command again."
        ) from None
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{doing}: Kaggle's answer is not understood ({type(error).__name__}: {shown(str(error))}); a newer client may: pip "
            f"install --upgrade kaggle."
        ) from None


def refusal(answer: Any, page: str) -> str:
    """What a status above 399 means to a student, with the service's own words."""
    status = answer.status_code
    try:
        said = str(answer.json().get("message") or "")
    except (ValueError, AttributeError):
        said = ""
    words = f" (it says: {shown(said, 300)})" if said else ""
    if status == 401:
        return f"Kaggle refuses the credentials{words}; {TOKEN}."
    if status == 403:
        return (
            f"Kaggle does not let this account in{words}; open {page} in a browser, join by the class's invitation and accept "
            f"the rules, then run the command again."
        )
    if status == 404:
        return f"Kaggle knows no such page{words}: {page}; correct the name in the settings file."
    if status == 429:
        after = answer.headers.get("Retry-After", "")
        when = f"in {after} s" if after.isdigit() else "later, or tomorrow if today's submissions are used up"
        return f"too many requests for Kaggle{words}; run the command again {when}."
    if status >= 500:
        return f"Kaggle has a fault of its own, status {status}{words}; run the command again later."
    return f"Kaggle refuses it, status {status}{words}; see {page}."
