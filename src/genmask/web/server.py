"""Starts the page: an address, limits, and a folder that goes with it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from genmask.web.folder import PageFolder

if TYPE_CHECKING:
    from genmask.pipeline import GenMaskPipeline

LOCAL = ("127.0.0.1", "localhost", "[::1]", "::1")
"""Names by which only this machine reaches the page."""
TRIED_PORTS = 20
SWEEP_SECONDS, MAX_AGE_SECONDS = 60.0, 3600.0
MAX_FOLDER_BYTES = 2 * 1024**3
MAX_ANSWER_BYTES = 512 * 1024**2
MAX_SESSIONS = 128
"""Visitors whose state Gradio remembers."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What visitors may ask for at once."""

    queue_size: int = 64
    """Requests that may wait; further ones are told that the queue is full."""
    concurrency: int = 2
    """Moves of the threshold and downloads at a time. The model answers one request after the other, always."""
    max_upload_mb: int = 20
    """Largest file of a picture, in megabytes."""
    max_megapixels: int = 16
    """Largest picture."""

    def __post_init__(self) -> None:
        for field in fields(Limits):
            if (value := getattr(self, field.name)) < 1:
                raise ValueError(f"Got --{field.name.replace('_', '-')} {value}, expected at least 1.")


def require_gradio() -> None:
    """Refuse in one line, before a model is loaded, where the extra is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("Got no gradio, which the page is made with: pip install 'genmask[web]'.")


@contextlib.contextmanager
def serve(
    pipeline: GenMaskPipeline,
    *,
    model: str,
    host: str = "127.0.0.1",
    port: int = 7860,
    limits: Limits | None = None,
) -> Iterator[str]:
    """Serve the page in threads of its own until the context ends; one page per process.

    Args:
        pipeline: the model; nothing else may run it meanwhile.
        model: its name, shown on the page.
        host: address to listen on; only on another than this machine's own can others reach the page.
        port: where it is taken, the next free one; 0 is any free one.
        limits: what visitors may ask for.

    Yields:
        The page's address.

    Raises:
        ValueError: no port can be had.
    """
    limits = limits or Limits()
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    port = free_port(host, port)
    folder = PageFolder(MAX_AGE_SECONDS, MAX_FOLDER_BYTES)
    settings = {
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder.path),  # Gradio serves every file in these two, whoever put it there
        "GRADIO_EXAMPLES_CACHE": str(folder.path),
        "GRADIO_ALLOWED_PATHS": "",
        "GRADIO_ANALYTICS_MAX_EVENTS": "100",  # remembered for a monitoring page that is not shown
        "NO_PROXY": "*",  # Gradio asks its own page whether it is there, and nobody else anything
        "no_proxy": "*",
    }
    with folder.swept(SWEEP_SECONDS), _environment(settings):
        import gradio
        from starlette.middleware import Middleware

        from genmask.web.gate import Gate
        from genmask.web.page import Page, build
        from genmask.web.style import CSS, THEME

        max_upload = limits.max_upload_mb * 1_000_000
        page = Page(pipeline, folder, limits.max_megapixels * 1_000_000, MAX_ANSWER_BYTES)
        gate = Middleware(
            Gate,
            max_upload=max_upload,
            hosts=frozenset(LOCAL) if host in LOCAL else None,
            before_upload=folder.sweep,
        )
        blocks = build(page, model)
        folder.keep()
        folder.known = blocks.temp_file_sets
        blocks.queue(max_size=limits.queue_size, default_concurrency_limit=limits.concurrency, api_open=False)
        try:
            blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                inline=False,
                show_error=False,
                allowed_paths=[],
                max_file_size=max_upload,
                state_session_capacity=MAX_SESSIONS,
                enable_monitoring=False,
                run_history=False,
                ssr_mode=False,
                mcp_server=False,
                pwa=False,
                footer_links=["api"],
                app_kwargs={"middleware": [gate]},
                theme=THEME,
                css=CSS,
            )
            yield f"http://{'localhost' if host == '127.0.0.1' else host}:{port}/"
        finally:
            blocks.close(verbose=False)
            gradio.Blocks.instances.discard(blocks)


def free_port(host: str, port: int) -> int:
    """The port, or the next that is free; any free one for 0.

    Raises:
        ValueError: the host is none of this machine, or none of `TRIED_PORTS` ports is free.
    """
    if not 0 <= port < 65536:
        raise ValueError(f"Got port {port}, expected 1 to 65535, or 0 for any that is free.")
    bare = host.strip("[]")
    candidates = [0] if port == 0 else range(port, min(port + TRIED_PORTS, 65536))
    for candidate in candidates:
        try:
            family, _, _, _, address = socket.getaddrinfo(bare, candidate, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                return int(probe.getsockname()[1])
        except OSError as error:
            reason = error.strerror or str(error)
    raise ValueError(
        f"Got host {host!r}, on which no port from {port} to {candidates[-1]} can be listened on ({reason}): name "
        "another with --host or --port."
    )


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
