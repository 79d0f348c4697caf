"""The package as others get it: imported without torch, built into a wheel, run from an empty environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import genmask

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "genmask"


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("statement", ["import genmask", "from genmask import Segmentation"])
def test_importing_needs_no_torch(statement: str) -> None:
    heavy = {"torch", "diffusers", "transformers", "accelerate"}
    code = f"import sys; {statement}; print(sorted({heavy} & set(sys.modules)))"
    assert run(sys.executable, "-c", code, cwd=PACKAGE.parent).strip() == "[]"


def test_the_public_names_resolve_and_an_unknown_one_lists_them() -> None:
    assert {"GenMaskPipeline", "Segmentation"} <= set(dir(genmask))
    assert genmask.Segmentation.__module__ == "genmask.segmentation"
    assert genmask.GenMaskPipeline.__module__ == "genmask.pipeline"
    with pytest.raises(AttributeError, match=r"'Segmentator'.*GenMaskPipeline, Segmentation"):
        _ = genmask.Segmentator


def test_the_file_tree_in_the_readme_names_every_module() -> None:
    tree = (ROOT / "README.md").read_text().split("\nsrc/genmask/\n")[1].split("```")[0]
    modules = {path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert set(re.findall(r"^ +(\w+\.py) ", tree, flags=re.MULTILINE)) == modules


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built from a copy: setuptools leaves its working files beside the sources.
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        PACKAGE.parent, source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("wheel", "--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", output, source)
    run(sys.executable, "-m", "pip", *build, cwd=source)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment that holds this wheel and, by reference, its dependencies."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=folder,
    )
    site_packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    # A path named in a .pth file is searched, but .pth files there (an editable genmask's) are not run.
    dependencies = sysconfig.get_path("purelib")
    (Path(site_packages.strip()) / "dependencies.pth").write_text(f"{dependencies}\n")
    return folder / "bin"


def test_the_wheel_holds_every_file_of_the_package_and_its_licence(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    info = f"genmask-{genmask.__version__}.dist-info"
    assert {name for name in names if not name.startswith(info)} == {
        path.relative_to(PACKAGE.parent).as_posix() for path in files
    }
    assert f"{info}/licenses/LICENSE" in names


def test_the_wheel_is_what_an_empty_environment_imports(installed: Path, tmp_path: Path) -> None:
    code = "import genmask, importlib.metadata as m; print(genmask.__file__, m.version('genmask'))"
    file, version = run(installed / "python", "-I", "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(installed.parent)
    assert version == genmask.__version__


@pytest.mark.skipif(not (PACKAGE / "models" / "tiny").is_dir(), reason="the bundled model is not here yet")
def test_the_wheel_segments_in_an_empty_environment(installed: Path, tmp_path: Path) -> None:
    picture = Image.new("RGB", (200, 120), (60, 120, 60))
    ImageDraw.Draw(picture).ellipse((40, 30, 100, 90), fill=(220, 30, 30))
    picture.save(tmp_path / "picture.png")
    command = ("segment", "picture.png", "--text", "the red circle", "--output", "masks")
    run(installed / "python", "-I", installed / "genmask", *command, cwd=tmp_path)
    (mask,) = (tmp_path / "masks").glob("*.mask.png")
    assert Image.open(mask).size == picture.size
