"""Lets through to Gradio what the page and its clients need, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|login_check)/?|/(assets|static)/.+"
    r"|/gradio_api/(info|openapi\.json|app_id|startup-events|theme\.css|upload_progress|queue/data)/?"
    r"|/gradio_api/(heartbeat/\w+|call/\w+/\w+)"
    r"|/gradio_api/file=(?![A-Za-z][\w+.-]+:).+"  # a path, never an address to fetch from elsewhere
)
WRITE = re.compile(r"/gradio_api/(upload|queue/join|call/\w+|cancel|reset)/?")
UPLOAD = "/gradio_api/upload"
MAX_BODY = 1_000_000
"""Bytes of a request that uploads nothing: sentences and numbers."""


class Gate:
    """ASGI middleware: refuses unknown addresses, and bodies that are too large before they are read.

    Gradio has routes that fetch from the network, run a program or edit code; this page wants none of them.

    Args:
        app: what is behind.
        max_upload: bytes of a file; the body of an upload may be as large, and `MAX_BODY` more.
        hosts: names by which the page may be called, None for any. A page on localhost that answers to other
            names can be read by every web site the visitor has open (DNS rebinding).
        before_upload: called before each upload is read.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        max_upload: int,
        hosts: frozenset[str] | None,
        before_upload: Callable[[], None],
    ) -> None:
        self._app, self._max_upload, self._hosts, self._before_upload = app, max_upload, hosts, before_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        if refusal := self._refusal(scope):
            return await _answer(send, *refusal)
        if scope["path"].startswith(UPLOAD):
            from anyio.to_thread import run_sync

            await run_sync(self._before_upload)
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and one line; None to let it through."""
        headers = dict(scope["headers"])
        host = re.sub(r":\d+$", "", headers.get(b"host", b"").decode("latin-1")).lower()
        if self._hosts is not None and host not in self._hosts:
            return 403, f"Got a request for {host!r}, expected one of {', '.join(sorted(self._hosts))}."
        path, method = scope["path"], scope["method"]
        if method in ("GET", "HEAD", "OPTIONS"):
            return None if READ.fullmatch(path) else (404, "There is no such page.")
        if method != "POST" or not WRITE.fullmatch(path):
            return 404, "There is no such page."
        length = headers.get(b"content-length", b"")
        if not re.fullmatch(rb"\d{1,15}", length):
            return 411, "Got a request without Content-Length, expected its size."
        limit = MAX_BODY + (self._max_upload if path.startswith(UPLOAD) else 0)
        if int(length) > limit:
            return 413, f"Got {int(length)} bytes, expected at most {limit}: make the picture smaller."
        return None


async def _answer(send: Send, status: int, line: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": line.encode()})
