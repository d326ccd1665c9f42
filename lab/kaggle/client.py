"""Kaggle's official client: signs in without asking, and turns each of its errors into one sentence.

The client is imported only where it is used, because it is an optional package, signs in on import, and prints a page of advice
if it finds no credentials.
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
from lab.files import PROJECT
from lab.text import shown

TIMEOUT = 60.0  # seconds without a byte after which a request fails; the client sets no timeout
TOKEN = (
    "make a token at https://www.kaggle.com/settings/api (Generate New Token), save it as the file ~/.kaggle/access_token "
    "or set KAGGLE_API_TOKEN to it, and run the command again"
)


def read_settings(path: Path) -> ConfigParser:
    """Read the settings file with the names on Kaggle; if a relative path does not exist, that in the project's folder. Raises
    :class:`UserError` if it is missing or invalid."""
    settings = ConfigParser(interpolation=None)
    try:
        with (path if path.exists() else PROJECT / path).open(encoding="utf-8-sig") as file:
            settings.read_file(file)
    except FileNotFoundError:
        reason = "there is no such file; it comes with the project and contains the names on Kaggle"
        raise UserError(f"{path}: {reason}.") from None
    except (SettingsError, UnicodeDecodeError) as error:
        reason = f"cannot be read as a settings file ({shown(str(error))}); correct that line"
        raise UserError(f"{path}: {reason}.") from None
    return settings


def sign_in() -> Any:
    """Return the client's ``KaggleApi``, signed in with the credentials it finds (a token, kaggle.json, variables).

    Raises :class:`UserError` if the client is not installed or the credentials are missing or refused.
    """
    with request_timeout(), captured_output():
        try:
            library = importlib.import_module("kaggle")
        except ImportError as error:
            install = "pip install -r requirements-extras.txt -c constraints.txt"
            raise UserError(f"the Kaggle client is not installed ({error}): {install}") from None
        with user_errors("signing in", "https://www.kaggle.com/settings/api"):
            try:
                library.api.authenticate()
            except SystemExit:  # the client exits if it finds no credentials or an invalid token
                source = importlib.import_module("kagglesdk.kaggle_env").get_access_token_from_env()[1]
                reason = f"the token in {source} is not valid" if source else "no Kaggle credentials were found"
                raise UserError(f"{reason}; {TOKEN}.") from None
    return library.api


class Unreachable(UserError):
    """Kaggle cannot be reached or refuses the credentials, so that further requests would fail too."""


@contextmanager
def captured_output() -> Iterator[io.StringIO]:
    """Capture what the client prints; yields the buffer."""
    with redirect_stdout(io.StringIO()) as output:
        yield output


@contextmanager
def request_timeout() -> Iterator[None]:
    """Give every request of the client a timeout, because it sets none and would wait forever for a silent service."""
    try:
        adapter = importlib.import_module("requests.adapters").HTTPAdapter
    except ImportError:  # the client is not installed either, which sign_in reports
        yield
        return
    send = adapter.send

    def send_with_timeout(
        self: Any, request: Any, stream: Any = False, timeout: Any = None, *args: Any, **kw: Any
    ) -> Any:
        return send(self, request, stream, timeout or TIMEOUT, *args, **kw)

    adapter.send = send_with_timeout
    try:
        yield
    finally:
        adapter.send = send


@contextmanager
def user_errors(action: str, page: str) -> Iterator[None]:
    """Raise errors of the client as a :class:`UserError` of one sentence; ``page`` is the page that it refers to."""
    requests, urllib3 = importlib.import_module("requests"), importlib.import_module("urllib3")
    unreachable = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    try:
        yield
    except requests.HTTPError as error:
        kind = Unreachable if error.response.status_code == 401 else UserError
        raise kind(f"{action}: {refusal(error.response, page)}") from None
    except (*unreachable, urllib3.exceptions.HTTPError) as error:
        raise Unreachable(
            f"{action}: Kaggle cannot be reached ({type(error).__name__}); check the network and "
            f"https://status.kaggle.com, and run the command again."
        ) from None
    except (requests.RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{action}: Kaggle's response is not understood ({type(error).__name__}: {shown(str(error))}); try a newer client: "
            f"pip install --upgrade kaggle."
        ) from None


def refusal(response: Any, page: str) -> str:
    """Explain an HTTP status of 400 or more, with the message of the service."""
    status = response.status_code
    try:
        text = str(response.json().get("message") or "")
    except (ValueError, AttributeError):
        text = ""
    message = f" (its message: {shown(text, 300)})" if text else ""
    if status == 401:
        return f"Kaggle refuses the credentials{message}; {TOKEN}."
    if status == 403:
        return (
            f"Kaggle denies access to this account{message}; open {page} in a browser, join by the class's invitation and "
            f"accept the rules, then run the command again."
        )
    if status == 404:
        return f"Kaggle has no such page{message}: {page}; correct the name in the settings file."
    if status == 429:
        after = response.headers.get("Retry-After", "")
        when = f"in {after} s" if after.isdigit() else "later, or tomorrow if today's submissions are used up"
        return f"too many requests for Kaggle{message}; run the command again {when}."
    if status >= 500:
        return f"Kaggle has an internal error, status {status}{message}; run the command again later."
    return f"Kaggle refuses the request, status {status}{message}; see {page}."
