"""The documentation: pages, names and links that exist, and a site that builds without a network."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest
import yaml

from genmask.cli import COMMANDS
from genmask.recipes import RECIPES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src/genmask"
PAGES = sorted(DOCS.rglob("*.md"))


def navigation(entry: object) -> list[str]:
    """The pages of a part of mkdocs.yml's nav, in order."""
    if isinstance(entry, str):
        return [entry]
    children = entry.values() if isinstance(entry, dict) else entry
    assert not isinstance(children, str)
    return [page for child in children for page in navigation(child)]  # type: ignore[attr-defined]


def table_rows(page: str) -> list[list[str]]:
    """Cells of the table rows of a page, without head and rule."""
    lines = (line for line in (DOCS / page).read_text().splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@cache
def defined(module: Path) -> frozenset[str]:
    """Names that a module defines at its top."""
    found: set[str] = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
    return frozenset(found)


def unmarked(text: str) -> str:
    """A page without its blocks of code and comments, in which nothing is a link."""
    return re.sub(r"```.*?```|<!--.*?-->|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ +(.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_every_page_is_in_the_navigation_once() -> None:
    listed = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_every_public_module_is_in_the_reference_once() -> None:
    """The doors have --help and docs/web.md; every other module without a leading underscore is for programs."""
    modules = [
        ".".join(("genmask", *path.relative_to(SOURCE).with_suffix("").parts))
        for path in SOURCE.rglob("*.py")
        if path.name != "__init__.py" and not path.name.startswith("_")
    ]
    public = [name for name in modules if name.split(".")[1] not in ("cli", "commands", "models", "web")]
    reference = [page.read_text() for page in (DOCS / "reference").glob("*.md")]
    shown = re.findall(r"^::: (\S+)$", "\n".join(reference), flags=re.MULTILINE)
    assert set(public) - set(shown) == set()
    assert len(shown) == len(public)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_relative_links_lead_somewhere(page: Path) -> None:
    """On a code host every link is a path in the repository; on the site, one below docs/."""
    for target in re.findall(r"\]\(([^)\s]+)\)", unmarked(page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if page.is_relative_to(DOCS):
            assert file.is_relative_to(DOCS), f"{target} is not on the site"
        if anchor and file.suffix == ".md" and file.parent.name != "reference":
            assert anchor in anchors(file.read_text()), target


def test_the_paper_map_names_what_exists() -> None:
    rows = [row for row in table_rows("paper.md") if len(row) in (4, 5) and code(row[-1])]
    assert len(rows) >= 20
    for row in rows:
        *_, modules, names, _ = row
        files = [SOURCE / module for module in code(modules)]
        for file in files:
            assert file.is_file(), row
        for name in code(names):
            assert any(name in defined(file) for file in files), f"{name} is in none of {code(modules)}"
    numbered = "\n".join(row[0] for row in table_rows("paper.md"))
    for kind, count in (("Eq.", 8), ("Fig.", 7), ("Table", 6)):
        named = {
            int(n) for line in re.findall(rf"^{kind} ([\d, ]+)$", numbered, re.M) for n in line.split(",")
        }
        assert named == set(range(1, count + 1)), kind


def test_every_command_that_the_pages_name_exists() -> None:
    for page in (ROOT / "README.md", *PAGES):
        text = page.read_text()
        for name in re.findall(r"(?:^|[`>]|--no_python |-- *\n *)genmask ([a-z]+)", text, re.M):
            assert name in COMMANDS, f"{page.name}: genmask {name}"
        for recipe in re.findall(r"genmask (?:train|cache) ([a-z][\w.-]*)", text):
            assert recipe in RECIPES, f"{page.name}: {recipe}"
        for script in re.findall(r"python ((?:benchmarks|examples)/\w+\.py)", text):
            assert (ROOT / script).is_file(), f"{page.name}: {script}"
        for test in re.findall(r"tests/test_\w+\.py", text):
            assert (ROOT / test).is_file(), f"{page.name}: {test}"


def test_every_option_of_segment_is_explained() -> None:
    text = "".join((DOCS / page).read_text() for page in ("segment.md", "folders.md"))
    missing = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(COMMANDS["segment"])
        if field.name != "images" and f"`--{field.name.replace('_', '-')}" not in text
    ]
    assert not missing


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a network: every proxy leads nowhere."""
    pytest.importorskip("zensical", reason="pip install 'genmask[docs]'")
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"],
        cwd=folder,
        env=os.environ | nowhere,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_the_site_builds_strictly_and_shows_the_docstrings(site: Path) -> None:
    for page in PAGES:
        built = site / page.relative_to(DOCS).with_suffix(".html")
        if page.name == "index.md":
            built = built.with_name("index.html")
        assert built.is_file(), built
    reference = (site / "reference/pipeline.html").read_text()
    assert 'id="genmask.pipeline.GenMaskPipeline.segment"' in reference
    assert "x0_hat is averaged over this many noises" in reference
    results = (site / "results.html").read_text()
    assert (
        "A small model that finds" in results
    )  # the card: all of its text, without its title and what precedes it
    assert "pipeline_tag" not in results
    assert results.count("<h1") == 1
    assert (site / "tutorial.ipynb").is_file()


def test_a_page_fetches_nothing_from_another_server(site: Path) -> None:
    loads = r"""<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=["']?(?:https?:)?//[^"' >]+"""
    for page in site.rglob("*.html"):
        found = re.findall(loads, page.read_text())
        assert not [tag for tag in found if 'rel="canonical"' not in tag], f"{page}: {found}"
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"""(?:url\(|@import )["']?https?://""", sheet.read_text()), sheet
