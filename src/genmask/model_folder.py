"""A model's folder: found by name (a folder, a bundled model, a hub id) and checked to be a whole one."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from genmask.loading import ModelFolderError, read_json
from genmask.processor import GenMaskProcessor

MODEL_INDEX = "model_index.json"
"""Written last into a pipeline folder: where it is missing, the folder is half-written."""
BUNDLED = Path(__file__).parent / "models"
"""The models that come with the package."""
HUB_FILES = [MODEL_INDEX, "README.md", "LICENSE*", "*/*.json", "*/*.safetensors", "*/*.txt", "*/*.jinja"]
"""What is fetched from the hub; never code, never pickled weights."""


def bundled_models() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(index.parent.name for index in BUNDLED.glob(f"*/{MODEL_INDEX}"))


def resolve_model(name: str | Path, **download: Any) -> Path:
    """The folder of a model; the network is asked only for a hub id that is no folder here.

    Args:
        name: an existing folder, a bundled name ("tiny") or a hub id ("organisation/name").
        download: `revision`, `cache_dir`, `token`, `local_files_only` of `huggingface_hub.snapshot_download`.

    Raises:
        ModelFolderError: none of the three, or the hub cannot provide it.
    """
    path, name = Path(name).expanduser(), str(name)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelFolderError(f"Got model {name!r}, a file, expected the folder that holds {MODEL_INDEX}.")
    bundled = bundled_models()
    if name in bundled:
        return BUNDLED / name
    choices = ", ".join(bundled) or "none in this installation"
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        return _download(name, choices, download)
    nearest = difflib.get_close_matches(name, bundled, n=1)
    raise ModelFolderError(
        f"Got model {name!r}, expected an existing folder, a bundled model ({choices}) or a hub id such as "
        f"organisation/name" + (f": did you mean {nearest[0]!r}?" if nearest else ".")
    )


def _download(repository: str, bundled: str, options: dict[str, Any]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=HUB_FILES, **options))
    except (
        Exception
    ) as error:  # whatever the connection, the hub or its client raises: the answer is the same
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelFolderError(
            f"Got model {repository!r}, no folder here and no bundled model ({bundled}), and the hub did not "
            f"provide it ({reason}): check the name and the connection, or give a folder."
        ) from error


def read_model_index(folder: Path, class_name: str) -> dict[str, Any]:
    """A pipeline folder's index, refused unless it is of the pipeline class `class_name`."""
    if not (folder / MODEL_INDEX).is_file():
        raise ModelFolderError(
            f"Got model folder {folder} without {MODEL_INDEX}, which is written last: it is half-written, or "
            "no pipeline folder. Copy, download or save it again."
        )
    index = read_json(folder / MODEL_INDEX)
    found = str(index.get("_class_name"))
    if found != class_name:
        hint = "; `genmask convert` makes one of it" if found.startswith("Wan") else ""
        raise ModelFolderError(f"Got model folder {folder} of a {found}, expected a {class_name}{hint}.")
    return index


def load_processor(folder: Path) -> GenMaskProcessor:
    """The processor of a pipeline or of a published Qwen2.5-VL folder, never from a network."""
    if not folder.is_dir():
        raise ModelFolderError(f"Got no folder {folder}, expected a complete model folder: copy it again.")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        # transformers would make an empty vocabulary, and every text would read the same
        raise ModelFolderError(
            f"Got {folder} without tokenizer.json, expected the model's vocabulary: copy it again."
        )
    try:
        processor = GenMaskProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizer's Rust side raises bare Exceptions
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelFolderError(
            f"Got {folder} that holds no readable processor ({reason[:200]}), expected a tokenizer and a "
            "picture processor: half-written? Copy or download it again."
        ) from error
    for how_it_was_loaded in ("is_local", "local_files_only"):  # a save would write these
        processor.tokenizer.init_kwargs.pop(how_it_was_loaded, None)
    return processor
