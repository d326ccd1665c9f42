"""Serves the page: on loopback by default, with limits, and without a request to any other machine.

Fonts are the system's, scripts and styles come from this process, Gradio's reports home are switched off. Of its many routes
only those that the page needs are open; the ones that fetch addresses for a visitor, or tell of the process, are not.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read as Gradio is imported

import gradio as gr
from gradio.themes.utils import fonts
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lab.errors import UserError
from lab.page.answers import BYTES, Exhibit
from lab.page.figures import colour_rules
from lab.page.layout import build

FONTS = [fonts.Font(name) for name in ("system-ui", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")]
MONO = [fonts.Font(name) for name in ("ui-monospace", "Consolas", "monospace")]
QUIET = {"background_fill": "transparent", "background_fill_dark": "transparent", "text_weight": "600"}
QUIET |= {"text_color": "*body_text_color", "text_color_dark": "*body_text_color"}
OPEN = ("/assets/", "/static/", "/gradio_api/queue/", "/gradio_api/heartbeat/", "/gradio_api/upload")
OPEN_WHOLE = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/startup-events"}
OPEN_WHOLE |= {"/gradio_api/cancel", "/gradio_api/reset"}


class OnlyThePage:
    """Answers 404 to whatever the page does not ask for. Not even uploads are given out again, nor any other file: images are
    part of the page's text."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or path in OPEN_WHOLE or path.startswith(OPEN):
            # Packing megabytes of script takes longer than loopback takes to carry them.
            headers = [header for header in scope.get("headers", []) if header[0] != b"accept-encoding"]
            await self.app({**scope, "headers": headers}, receive, send)
        else:
            await PlainTextResponse("not found", status_code=404)(scope, receive, send)


def theme() -> gr.themes.Base:
    """Gradio's looks with the system's fonts and quiet labels."""
    quiet = {f"block_{part}_{what}": value for part in ("title", "label") for what, value in QUIET.items()}
    soft = gr.themes.Soft(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=MONO)
    return soft.set(**quiet, block_title_padding="0")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    return host in ("localhost", "::1") or host.startswith("127.")


def launch(exhibit: Exhibit, host: str, port: int | None, folder: str) -> tuple[gr.Blocks, str]:
    """Start to serve the page; it, and its address. Uploads and thumbnails go into ``folder``."""
    if port is not None and not 0 < port < 2**16:
        raise UserError(f"--port {port}: must be from 1 to 65535; or give none, for the first that is free.")
    os.environ["GRADIO_TEMP_DIR"] = folder
    # Gradio looks at its own page once; that must not go through a proxy.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost", host]))
    # A foreign site whose name was made to lead to this machine would be read by its visitors' browsers.
    hosts = ["127.0.0.1", "localhost", host] if is_loopback(host) and ":" not in host else ["*"]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(OnlyThePage)]
    page = build(exhibit).queue(max_size=64)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=BYTES,
            allowed_paths=[],
            enable_monitoring=False,
            run_history=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            state_session_capacity=64,
            app_kwargs={"middleware": guards, "docs_url": None, "redoc_url": None},
            theme=theme(),
            css=colour_rules(),
            css_paths=Path(__file__).with_name("page.css"),
        )
    except OSError as error:
        where = f"--host {host}" + (f" --port {port}" if port else "")
        raise UserError(
            f"{where}: cannot listen there ({str(error).splitlines()[0]}); another program may have the port: give another "
            f"--port, or none."
        ) from None
    return page, address


def serve(exhibit: Exhibit, host: str, port: int | None) -> None:
    """Serve the page until Ctrl-C, or until the process is told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        page, address = launch(exhibit, host, port, str(Path(folder).resolve()))
        if not is_loopback(host):
            print(f"Listening on {host}: whoever reaches this machine can open the page and send it images.")
        print(f"The page is open at {address}  (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nclosed.")
        finally:
            page.close(verbose=False)
