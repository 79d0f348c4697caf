"""Whether the page goes on answering: many requests at once, hostile ones, visitors that leave; and its memory.

    python benchmarks/web_load.py [--requests 1000] [--at-once 200] [--model FOLDER]

Starts `genmask web` on a free port of this machine, talks to it alone, and prints a line for each check: what was sent,
what came back, and how long a plain request took afterwards. The default model is the tests' toy, so that the server is
measured and not the network. Memory is the resident set of the server's process after 200 requests and after all.
Needs the extra `web`, and a clone of the repository for the toy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.hostile import bomb

UPLOAD, CALL = "/gradio_api/upload", "/gradio_api/call/segment"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--model", default=None, help="a model folder or name; the tests' toy by default")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        server(arguments.model or toy(Path(folder))) as (process, address),
    ):
        asyncio.run(check(process, address, arguments.requests, arguments.at_once))


async def check(process: psutil.Process, address: str, requests: int, at_once: int) -> None:
    limits = httpx.Limits(max_keepalive_connections=0)  # a visitor each: nobody takes over a connection
    async with httpx.AsyncClient(base_url=address, timeout=3600, limits=limits) as http:
        path = (await http.post(UPLOAD, files={"files": ("photo.png", photo())})).json()[0]
        started = time.monotonic()
        outcomes = Counter(await asyncio.gather(*(segment(http, path) for _ in range(at_once))))
        print(f"{at_once} at once: {dict(outcomes)}, {time.monotonic() - started:.0f} s")
        await still_answers(http, path)

        for name, content in (
            ("notes.png", b"these are words"),
            ("bomb.png", bomb(60_000)),
            ("large.png", bomb(5_000)),
            ("../../etc/evil.png", photo()),
            ("drawing.svg", SVG),
            ("50MB.png", b"0" * 50_000_000),
        ):
            print(f"{name}: {await hostile(http, name, content)}")
            await still_answers(http, path)

        host, port = httpx.URL(address).host, httpx.URL(address).port
        for _ in range(20):
            event = (await call(http, path)).json()["event_id"]
            with socket.create_connection((host, port)) as leaving:
                leaving.sendall(f"GET {CALL}/{event} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        print("20 visitors left midway")
        await still_answers(http, path)

        early, sizes = min(200, requests // 2), {}
        for number in range(1, requests + 1):
            outcome = await segment(http, path)
            if outcome != "complete":
                raise SystemExit(f"request {number}: {outcome}")
            if number in (early, requests):
                sizes[number] = process.memory_info().rss
                files = list(Path(path).parents[1].rglob("*"))
                print(
                    f"after {number} requests: {sizes[number] / 1e6:.0f} MB, {process.num_threads()} threads, "
                    f"{process.num_fds()} open files, {len(files)} in the page's folder",
                    flush=True,
                )
        growth = sizes[requests] - sizes[early]
        print(f"growth over {requests - early} requests: {growth / 1e6:.1f} MB")


async def call(http: httpx.AsyncClient, path: str) -> httpx.Response:
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    return await http.post(CALL, json={"data": [file, "the red mug", 0.5, False, 0]})


async def segment(http: httpx.AsyncClient, path: str) -> str:
    """How a request ended: complete, or why not."""
    answer = await call(http, path)
    if answer.status_code != 200:
        return answer.text[:80]
    events = (await http.get(f"{CALL}/{answer.json()['event_id']}")).text
    kind, data = events.strip().splitlines()[-2:]
    return "complete" if kind == "event: complete" else data.removeprefix("data: ")[:200]


async def still_answers(http: httpx.AsyncClient, path: str) -> None:
    started = time.monotonic()
    outcome = await segment(http, path)
    if outcome != "complete":
        raise SystemExit(f"afterwards: {outcome}")
    print(f"  afterwards a plain request is answered in {time.monotonic() - started:.2f} s", flush=True)


async def hostile(http: httpx.AsyncClient, name: str, content: bytes) -> str:
    try:
        answer = await http.post(UPLOAD, files={"files": (name, content)})
    except httpx.HTTPError as error:
        return f"hung up on ({type(error).__name__})"
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text}"
    (path,) = answer.json()
    return f"kept as .../{Path(path).name}; {await segment(http, path)}"


@contextlib.contextmanager
def server(model: str) -> Iterator[tuple[psutil.Process, str]]:
    """`genmask web`: its process and address."""
    command = [
        sys.executable,
        "-m",
        "genmask.cli",
        "web",
        "--model",
        model,
        "--port",
        "0",
        "--queue-size",
        "100",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield psutil.Process(process.pid), process.stdout.readline().split()[0]
        finally:
            process.terminate()


def toy(folder: Path) -> str:
    from tests.conftest import toy_pipeline

    toy_pipeline().save_pretrained(folder / "toy")
    return str(folder / "toy")


def photo() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(buffer, format="PNG")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
