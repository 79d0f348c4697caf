"""The page as a server: its named API, its limits, and what hostile visitors get."""

from __future__ import annotations

import concurrent.futures
import contextlib
import io
import json
import re
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

import httpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from genmask.pipeline import GenMaskPipeline
from genmask.web.answers import Answers, write_zip
from genmask.web.folder import PageFolder
from genmask.web.page import HINT, MAX_STEPS, MAX_TEXTS, Page
from genmask.web.server import Limits, free_port, serve
from tests.conftest import random_picture, toy_pipeline
from tests.hostile import bomb

UPLOAD, CALL = "/gradio_api/upload", "/gradio_api/call/segment"


@pytest.fixture(scope="module")
def own_pipeline() -> GenMaskPipeline:
    return toy_pipeline()


@pytest.fixture(scope="module")
def served(own_pipeline: GenMaskPipeline) -> Iterator[str]:
    limits = Limits(queue_size=200, max_upload_mb=2, max_megapixels=1)
    with serve(own_pipeline, model="toy", port=0, limits=limits) as address:
        yield address


@pytest.fixture(scope="module")
def http(served: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def client(served: str) -> Client:
    return Client(served, verbose=False)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    random_picture().save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def page_folder() -> Iterator[PageFolder]:
    folder = PageFolder(max_age=60, max_bytes=10**9)
    with folder.swept(interval=60):
        yield folder


def upload(http: httpx.Client, name: str, content: bytes) -> str:
    """Where the server put it."""
    answer = http.post(UPLOAD, files={"files": (name, content)})
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


def segment(http: httpx.Client, path: str, text: str = "the red mug") -> tuple[str, str]:
    """The last event of a call without a client library, and its data."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    call = http.post(CALL, json={"data": [file, text, 0.5, False, 0]})
    assert call.status_code == 200, call.text
    events = http.get(f"{CALL}/{call.json()['event_id']}").text
    kind, data = events.strip().splitlines()[-2:]
    return kind.removeprefix("event: "), data.removeprefix("data: ")


def png() -> bytes:
    buffer = io.BytesIO()
    random_picture().save(buffer, format="PNG")
    return buffer.getvalue()


def test_segment_of_the_api_is_segment_of_the_pipeline(
    client: Client, photo: Path, pipeline: GenMaskPipeline
) -> None:
    records, overlay = client.predict(
        image=handle_file(photo), texts="the red mug\n\nthe table", threshold=0.4, seed=3, api_name="/segment"
    )
    expected = pipeline.segment(str(photo), ["the red mug", "the table"], threshold=0.4, seed=3)
    assert records == json.loads(json.dumps([result.to_dict() for result in expected]))
    with Image.open(overlay) as picture:
        assert picture.size == (80, 60)


def test_generate_of_the_api_is_generate_of_the_pipeline(client: Client, pipeline: GenMaskPipeline) -> None:
    file = client.predict(
        prompt="a red mug",
        num_inference_steps=2,
        guidance_scale=2,
        seed=5,
        height=32,
        width=48,
        api_name="/generate",
    )
    (expected,) = pipeline.generate(
        "a red mug", num_inference_steps=2, guidance_scale=2, seed=5, height=32, width=48
    )
    with Image.open(file) as picture:
        assert np.array_equal(picture, expected)


def test_a_visitor_stops_the_own_drawing_and_no_other(
    pipeline: GenMaskPipeline, page_folder: PageFolder
) -> None:
    page = Page(pipeline, page_folder, max_pixels=10**6, max_bytes=10**9)
    visitor, stranger = SimpleNamespace(session_hash="visitor"), SimpleNamespace(session_hash="stranger")

    def drawn_steps(who_stops: SimpleNamespace) -> int:
        steps: list[int] = []

        def progress(done: tuple[int, int], unit: str) -> None:
            steps.append(done[0])
            if done[0] == 2:
                page.stop(who_stops)

        page.generate("a mug", num_inference_steps=5, guidance_scale=1, request=visitor, progress=progress)
        return steps[-1]

    assert drawn_steps(visitor) == 2
    page.stop(visitor)  # nothing is drawn: nothing is stopped
    assert drawn_steps(stranger) == 5


def test_the_documented_program_runs(served: str, photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[1] / "docs" / "web.md").read_text(encoding="utf-8")
    program, decoding = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert 'Client("http://localhost:7860/")' in program
    names: dict = {}
    exec(program.replace("http://localhost:7860/", served).replace("photo.jpg", str(photo)) + decoding, names)
    assert "the red mug" in capsys.readouterr().out
    assert Image.open(names["picture"]).size == (64, 64)
    assert names["pixels"].shape == (60, 80)


def test_the_api_is_these_two(client: Client) -> None:
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert set(endpoints["named_endpoints"]) == {"/segment", "/generate"}
    assert not endpoints["unnamed_endpoints"]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("/segment", {"texts": " \n"}, "Got 0 sentences"),
        ("/segment", {"texts": "a\n" * (MAX_TEXTS + 1)}, f"Got {MAX_TEXTS + 1} sentences"),
        ("/segment", {"texts": "a mug", "seed": -1}, "seed"),
        ("/segment", {"texts": "mug " * 100_000}, "Got"),
        ("/generate", {"prompt": ""}, "empty text"),
        ("/generate", {"prompt": "a mug", "num_inference_steps": MAX_STEPS + 1}, str(MAX_STEPS)),
        ("/generate", {"prompt": "a mug", "height": 1 << 14, "width": 16}, "128"),
        ("/generate", {"prompt": "<script>alert(1)</script>", "height": 17, "width": 16}, "16"),
    ],
)
def test_what_a_visitor_can_mend_is_said_in_a_line(
    client: Client, photo: Path, name: str, arguments: dict, says: str
) -> None:
    if name == "/segment":
        arguments = {"image": handle_file(photo), **arguments}
    with pytest.raises(AppError) as error:
        client.predict(**arguments, api_name=name)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)
    assert "<script" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("notes.png", b"these are words", "cannot be read as a picture"),
        ("empty.png", b"", "empty"),
        ("bomb.png", bomb(60_000), "megapixels"),
        ("large.png", bomb(1_100), "1.2 megapixels, expected at most 1"),
        ("cut.png", png()[:200], "damaged"),
        (
            "drawing.svg",
            b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
            "cannot be read",
        ),
        ("page.html", b"<script>alert(1)</script>", "cannot be read"),
    ],
)
def test_hostile_uploads(http: httpx.Client, name: str, content: bytes, says: str) -> None:
    path = upload(http, name, content)
    kind, data = segment(http, path)
    assert kind == "error"
    assert says in data
    assert name in data
    assert str(Path(path).parent) not in data  # our folders are no business of a visitor
    assert segment(http, upload(http, "photo.png", png()))[0] == "complete"


def test_what_is_uploaded_never_runs_in_the_browser(http: httpx.Client) -> None:
    for name in ("drawing.svg", "page.html", "page.xhtml", "code.js"):
        path = upload(http, name, b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>')
        answer = http.get(f"/gradio_api/file={path}")
        assert answer.status_code == 200
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["content-type"] == "application/octet-stream"


def test_a_path_in_the_name_leads_nowhere(http: httpx.Client) -> None:
    inside = Path(upload(http, "photo.png", png())).parents[1]
    for name in (
        "../../evil.png",
        "/etc/cron.d/evil.png",
        "..\\..\\evil.png",
        "%2e%2e%2fevil.png",
        "a" * 250 + ".png",
    ):
        answer = http.post(UPLOAD, files={"files": (name, png())})
        assert answer.status_code in (200, 400), name
        if answer.status_code == 200:
            assert Path(answer.json()[0]).resolve().is_relative_to(inside)
            assert segment(http, answer.json()[0])[0] == "complete"


def test_too_large_a_file_is_refused_and_leaves_nothing(http: httpx.Client) -> None:
    path = Path(upload(http, "photo.png", png()))
    before = sorted(path.parents[1].iterdir())
    with contextlib.suppress(httpx.HTTPError):  # it may hang up in the midst of sending
        assert http.post(UPLOAD, files={"files": ("large.png", b"0" * 50_000_000)}).status_code == 413
    assert http.post(UPLOAD, files={"files": ("large.png", b"0" * 2_500_000)}).status_code == 413

    def chunks() -> Iterator[bytes]:
        yield b"0" * 1000

    assert http.post(UPLOAD, content=chunks()).status_code == 411
    assert http.post(CALL, json={"data": ["0" * 1_100_000]}).status_code == 413
    assert sorted(path.parents[1].iterdir()) == before
    assert segment(http, str(path))[0] == "complete"


def test_it_serves_no_file_but_its_own(http: httpx.Client) -> None:
    folder = Path(upload(http, "photo.png", png())).parent
    assert http.get(f"/gradio_api/file={folder}/photo.png").status_code == 200
    for path in (
        "/etc/passwd",
        __file__,
        "pyproject.toml",
        f"{folder}/../../../etc/passwd",
        f"{folder}/..%2f..%2f..%2fetc%2fpasswd",
        f"{folder}/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        str(folder),
    ):
        assert http.get(f"/gradio_api/file={path}").status_code in (403, 404), path
    for address in ("file:///etc/passwd", "http://127.0.0.1:9/", "HTTPS://localhost/"):
        answer = http.get(f"/gradio_api/file={address}")
        assert (answer.status_code, answer.text) == (404, "There is no such page.")  # it was not even tried
    for path in (
        "/static/..%2f..%2fapp.py",
        "/assets/%2e%2e/%2e%2e/blocks.py",
        "/gradio_api/file/etc/passwd",
    ):
        assert http.get(path).status_code in (403, 404), path


def test_gradio_routes_that_the_page_has_no_use_for_are_closed(http: httpx.Client) -> None:
    for path in (
        "monitoring",
        "gradio_api/proxy=http://127.0.0.1:9/",
        "gradio_api/deep_link",
        "gradio_api/vibe-code",
    ):
        assert http.get(f"/{path}").status_code == 404, path
    for path in ("run/segment", "api/segment", "process_recording", "vibe-edit", "component_server", "login"):
        assert http.post(f"/gradio_api/{path}", json={"data": []}).status_code == 404, path


def test_a_request_can_name_neither_our_files_nor_addresses(http: httpx.Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/photo.png"
        for path in ("/etc/passwd", str(Path(__file__))):
            assert segment(http, path)[0] == "error", path
        kind, data = segment(http, address)
        assert kind == "error"
        assert "Got an address" in data
        with pytest.raises(TimeoutError):
            listener.accept()


def test_other_names_of_this_machine_are_refused(http: httpx.Client) -> None:
    assert http.get("/config").status_code == 200
    assert http.get("/config", headers={"host": "attacker.example"}).status_code == 403


def test_many_at_once_get_what_one_gets_alone(http: httpx.Client, served: str) -> None:
    path = upload(http, "photo.png", png())
    texts = ["the red mug", "the table"]
    alone = {text: json.loads(segment(http, path, text)[1])[0] for text in texts}
    assert alone[texts[0]] != alone[texts[1]]

    def ask(text: str) -> bool:
        with httpx.Client(base_url=served, timeout=120) as one:
            kind, data = segment(one, path, text)
        return kind == "complete" and json.loads(data)[0] == alone[text]

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, texts * 12))


def test_who_leaves_midway_harms_nobody(http: httpx.Client, served: str) -> None:
    path = upload(http, "photo.png", png())
    host, port = "localhost", int(served.rstrip("/").rpartition(":")[2])
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    for _ in range(5):
        call = http.post(CALL, json={"data": [file, "the red mug", 0.5, False, 0]}).json()["event_id"]
        with socket.create_connection((host, port)) as leaving:
            leaving.sendall(f"GET {CALL}/{call} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        with socket.create_connection((host, port)) as leaving:  # in the midst of an upload
            start = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n123'
            head = f"POST {UPLOAD} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000\r\n"
            leaving.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + start)
    assert segment(http, path)[0] == "complete"


def test_a_full_queue_says_so(
    own_pipeline: GenMaskPipeline, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = own_pipeline.segment

    def slow(*args: object, **kwargs: object) -> object:
        time.sleep(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(own_pipeline, "segment", slow)
    with serve(own_pipeline, model="toy", port=0, limits=Limits(queue_size=1)) as address:
        client = Client(address, verbose=False)
        jobs = [client.submit(handle_file(photo), "a mug", api_name="/segment") for _ in range(6)]
        errors = [job.exception(timeout=120) for job in jobs]
        assert {"queue is full" in str(error).lower() for error in errors if error} == {True}
        assert None in errors
        assert client.predict(handle_file(photo), "a mug", api_name="/segment")


def test_the_threshold_moves_without_another_run(
    pipeline: GenMaskPipeline, photo: Path, page_folder: PageFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    real = GenMaskPipeline.segment
    monkeypatch.setattr(GenMaskPipeline, "segment", lambda *a, **k: runs.append(1) or real(*a, **k))
    page = Page(pipeline, page_folder, max_pixels=10**6, max_bytes=10**9)
    visitor, other = SimpleNamespace(session_hash="a"), SimpleNamespace(session_hash="b")
    _, cards, _ = page.show(str(photo), "a mug\nthe <b>table</b>", True, 0.99, False, 0, visitor)
    assert "&lt;b&gt;table" in cards
    expected = real(pipeline, str(photo), ["a mug", "the <b>table</b>"], threshold=0.99)
    assert "nothing found" not in cards
    overlay, cards, automatic = page.cut_by_hand(0.99, cards, visitor)
    assert not automatic
    assert len(runs) == 1
    assert cards.count("nothing found") == sum(result.is_empty for result in expected) > 0
    assert Path(overlay).is_file()

    with zipfile.ZipFile(page.download(False, 0.99, cards, visitor)) as archive:
        names = archive.namelist()
        assert names == [
            f"{stem}.{end}"
            for stem in ("01-a-mug", "02-the-b-table-b")
            for end in ("json", "mask.png", "overlay.png")
        ]
        mask = np.asarray(Image.open(io.BytesIO(archive.read("01-a-mug.mask.png")))) > 0
        assert np.array_equal(mask, expected[0].mask)
        assert json.loads(archive.read("01-a-mug.json"))["threshold"] == 0.99
    assert "nothing found" not in page.cut(True, 0.99, cards, visitor)[1]  # the model's own threshold again
    assert not isinstance(page.cut(False, 0.5, HINT, other)[0], str)  # nothing asked yet: nothing to redraw
    with pytest.raises(Exception, match="not remembered"):
        page.cut(False, 0.5, cards, other)


def test_answers_are_forgotten_from_the_oldest_on(pipeline: GenMaskPipeline, tmp_path: Path) -> None:
    results = pipeline.segment(random_picture(), ["a mug"])
    size = 80 * 60 * 7  # three bytes a pixel, four of its soft mask
    answers = Answers(max_bytes=2 * size)
    for visitor in "abac":
        answers.put(visitor, results)
    assert answers.at("b", 0.5) is None
    assert answers.at("a", 0.5) is not None
    answers.put("d", results * 9)
    assert [answers.at(visitor, 0.5) is None for visitor in "acd"] == [True, True, False]
    assert write_zip(results, tmp_path).is_file()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["genmask.zip"]


def test_the_folder_keeps_neither_the_old_nor_too_much() -> None:
    folder = PageFolder(max_age=3600, max_bytes=2500)
    with folder.swept(interval=3600):
        example = folder.new() / "example.png"
        example.write_bytes(b"0" * 5000)
        folder.keep()
        files = [folder.new() / "overlay.jpg" for _ in range(4)]
        for file in files:
            file.write_bytes(b"0" * 1000)
            time.sleep(0.02)
        folder.known = [{str(file) for file in files}]
        folder.sweep()
        assert folder.known == [{str(file) for file in files[2:]}]
        assert [file.exists() for file in files] == [False, False, True, True]
        assert not files[0].parent.exists()
        aged = PageFolder(max_age=0.01, max_bytes=10**9)
        aged.path.rmdir()
        aged.path = folder.path
        aged.keep()
        late = folder.new() / "late.jpg"
        late.write_bytes(b"0")
        time.sleep(0.05)
        aged.sweep()
        assert not late.exists()
        assert example.exists()
    assert not folder.path.exists()


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 20
    assert free_port("127.0.0.1", 0) > 0
    for host, number in (("192.0.2.1", 7860), ("no such host", 7860), ("127.0.0.1", 70_000)):
        with pytest.raises(ValueError, match=r"^Got .*expected|^Got .*with --host or --port"):
            free_port(host, number)
    with pytest.raises(ValueError, match="--queue-size 0"):
        Limits(queue_size=0)


def test_without_gradio_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from genmask.commands.web import Web

    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'genmask\[web\]'"):
        Web().run()


@pytest.mark.slow
def test_memory_and_files_stay_flat(http: httpx.Client) -> None:
    psutil = pytest.importorskip("psutil")
    path = upload(http, "photo.png", png())
    sizes = []
    for number in range(300):
        assert segment(http, path)[0] == "complete"
        if number in (99, 299):
            sizes.append(psutil.Process().memory_info().rss)
    assert sizes[1] - sizes[0] < 20e6
