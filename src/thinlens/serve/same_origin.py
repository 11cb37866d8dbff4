"""Refusal of requests that another site makes in a visitor's browser.

A page of another site may send a form to a server on the visitor's machine, or be served under a
name that leads there (DNS rebinding). Browsers state where a request comes from.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

SAFE_METHODS = {"GET", "HEAD"}
FORBIDDEN = 403
MISDIRECTED = 421


class SameOrigin:
    """Passes on requests for one of `hosts` (None: for any) whose page is of the same origin."""

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and host_name(host) not in self._hosts:
            error = f"this server is not called {host_name(host)!r}: wanted its own address"
            return JSONResponse({"error": error}, MISDIRECTED)
        if scope["method"] in SAFE_METHODS:
            return None
        origin = headers.get("origin")
        foreign = headers.get("sec-fetch-site") in ("cross-site", "same-site")
        if foreign or (origin is not None and urlsplit(origin).netloc != host):
            error = "a page of another site sent this: wanted the server's own page"
            return JSONResponse({"error": error}, FORBIDDEN)
        return None


def host_name(host: str) -> str:
    """Return the host of a header without its port.

    >>> host_name("localhost:8000"), host_name("[::1]:8000")
    ('localhost', '::1')
    """
    return urlsplit(f"//{host}").hostname or ""
