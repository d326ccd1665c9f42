"""Serves the page: by default on loopback, with limits on uploads, and without requests to other machines.

Fonts are the system's, scripts and styles come from this process, and Gradio's telemetry is off. Only the routes that the page
needs are open. Gradio's other routes are closed, because some fetch URLs for a visitor or give out data of the process.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from importlib.util import find_spec
from pathlib import Path

# Gradio reads these when it is imported. It makes requests to its own server only, and fails if a SOCKS proxy is set for them.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "NO_PROXY": "*", "no_proxy": "*"}

import gradio as gr
from gradio.themes.utils import fonts
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from lab.errors import UserError
from lab.page.answers import MAX_BYTES, Content
from lab.page.figures import colour_rules
from lab.page.layout import build
from lab.page.texts import LANGUAGES

# "Page TC" (page.css) is for Chinese characters only.
FONTS = [fonts.Font(name) for name in ("Page TC", "system-ui", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")]
MONO = [fonts.Font(name) for name in ("ui-monospace", "Consolas", "monospace")]
LABEL = {"background_fill": "transparent", "background_fill_dark": "transparent", "text_weight": "600"}
LABEL |= {"text_color": "*body_text_color", "text_color_dark": "*body_text_color"}
FONT = "/fonts/zh.otf"
OPEN_PREFIXES = ("/assets/", "/static/", "/gradio_api/run/", "/gradio_api/heartbeat/", "/gradio_api/upload")
OPEN_PATHS = {"/", "/zh", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/startup-events"}
OPEN_PATHS |= {"/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/app_id"}


class OpenRoutesOnly:
    """Middleware that answers 404 to any path outside the open ones. No route serves uploads or image files: images are embedded
    in the page's HTML. It also redirects to the page in the visitor's language, and serves the font of page.css."""

    def __init__(self, app: ASGIApp, language: str) -> None:
        self.app, self.language = app, language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path == "/" and self.wanted(Request(scope)) != "en":
            return await RedirectResponse(f"/zh?{Request(scope).url.query}")(scope, receive, send)
        if scope["type"] == "http" and path == FONT and (font := find_font()):
            response = FileResponse(font, media_type="font/otf", headers={"cache-control": "max-age=86400"})
            return await response(scope, receive, send)
        if scope["type"] != "http" or path in OPEN_PATHS or path.startswith(OPEN_PREFIXES):
            # Without compression: compressing megabytes of script takes longer than sending them over loopback.
            headers = [header for header in scope.get("headers", []) if header[0] != b"accept-encoding"]
            await self.app({**scope, "headers": headers}, receive, send)
        else:
            await PlainTextResponse("not found", status_code=404)(scope, receive, send)

    def wanted(self, request: Request) -> str:
        """The language: that in the address, or else the one that the browser remembers (page.js), or else the server's."""
        given = (request.query_params.get("lang"), request.cookies.get("language"), self.language)
        return next(language for language in given if language in LANGUAGES)


def find_font() -> Path | None:
    """A font with Chinese characters: that of the report, if it is installed."""
    package = find_spec("pylopdf_fonts_zh_tw")
    path = Path(package.origin or "").with_name("NotoSansTC-Regular.otf") if package else None
    return path if path and path.is_file() else None


def theme() -> gr.themes.Base:
    """Gradio's Soft theme with the system's fonts and plain labels."""
    labels = {f"block_{part}_{name}": value for part in ("title", "label") for name, value in LABEL.items()}
    soft = gr.themes.Soft(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", font=FONTS, font_mono=MONO)
    # Soft's own blue is too pale behind white text, and its grey on white.
    fill = {"color_accent": "*primary_600", "checkbox_label_background_fill_selected": "*primary_600"}
    text = {"body_text_color_subdued": "*neutral_500"}
    text |= {f"link_text_color{state}": "*secondary_600" for state in ("", "_visited", "_active")}
    text |= {f"link_text_color{state}_dark": "*secondary_400" for state in ("", "_visited", "_active")}
    return soft.set(**labels, **fill, **text, block_title_padding="0")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    return host in ("localhost", "::1") or host.startswith("127.")


def launch(content: Content, host: str, port: int | None, folder: str, language: str = "en") -> tuple[gr.Blocks, str]:
    """Start serving the page and return it with its address. Uploads are stored in ``folder``; the page opens in ``language``.

    Raises UserError if the port is out of range or cannot be used.
    """
    if port is not None and not 0 < port < 2**16:
        raise UserError(f"--port {port}: must be 1 to 65535; without --port, the first free port is used.")
    os.environ["GRADIO_TEMP_DIR"] = folder
    # Gradio requests its own page once; this request must not go through a proxy.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost", host]))
    # Check the Host header against DNS rebinding: otherwise a web site could read the page through a visitor's browser.
    hosts = ["127.0.0.1", "localhost", host] if is_loopback(host) and ":" not in host else ["*"]
    guards = [Middleware(TrustedHostMiddleware, allowed_hosts=hosts), Middleware(OpenRoutesOnly, language=language)]
    page = build(content)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=MAX_BYTES,
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
            f"{where}: cannot listen there ({str(error).splitlines()[0]}). If another program uses the port, give another --port."
        ) from None
    return page, address


def serve(content: Content, host: str, port: int | None, language: str = "en") -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="page-") as folder:
        page, address = launch(content, host, port, str(Path(folder).resolve()), language)
        if not is_loopback(host):
            print(f"Listening on {host}: anyone who can reach this machine can open the page and upload images.")
        print(f"The page is open at {address}  (Ctrl-C stops it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nstopped.")
        finally:
            page.close(verbose=False)
