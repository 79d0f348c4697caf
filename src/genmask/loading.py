"""Strict loading of a network from a folder: its config.json and safetensors, every key accounted for.

The libraries' own loaders answer a missing or misspelt key with a warning and a random or meta-device
parameter. Here it is an error that names the key. Pickled weights are never read.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

WEIGHT_NAMES = ("model.safetensors", "diffusion_pytorch_model.safetensors")
"""File names of transformers and diffusers; a sharded model has `<name>.index.json` in its place."""

RENAMED_KEYS = {
    "qwen2_5_vl": (
        (re.compile(r"^visual\."), "model.visual."),
        (re.compile(r"^model\.(?!visual\.|language_model\.)"), "model.language_model."),
    ),
}
"""By `config.model_type`: keys of published (and, still, of saved) checkpoints -> keys of the module."""


class ModelFolderError(ValueError):
    """A model folder that cannot be used; the message is one line: what was found, expected, what to do."""


def load_model(model_class: Any, folder: str | Path, *, dtype: torch.dtype | None = None) -> Any:
    """Build a model from `folder/config.json` and fill it from the safetensors beside it, strictly.

    Args:
        model_class: a diffusers `ModelMixin` or transformers `PreTrainedModel` class.
        folder: holds config.json and one of `WEIGHT_NAMES`, whole or in shards.
        dtype: floating type of the parameters; None keeps the file's. Modules that the class lists in
            `_keep_in_fp32_modules` are float32 whenever a dtype is asked for.

    Returns:
        The model on the CPU, in evaluation mode; no tensor of it is on the meta device.

    Raises:
        ModelFolderError: a missing or half-written file; a missing or unexpected key; a wrong shape.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    with _parameters_on_meta(), torch.random.fork_rng(devices=[]):  # some constructors draw
        try:
            if hasattr(model_class, "config_class"):
                model = model_class(model_class.config_class.from_dict(config))
            else:
                model = model_class.from_config(config)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ModelFolderError(
                f"Got {folder / 'config.json'} that {model_class.__name__} cannot be built from "
                f"({_one_line(error)}), expected a config saved by that class."
            ) from error
    load_weights(model, folder, dtype=dtype)
    return model.eval()


def load_weights(
    model: nn.Module, folder: str | Path, *, dtype: torch.dtype | None = None, leave_out: Collection[str] = ()
) -> None:
    """Fill `model` from the safetensors of `folder`, in place; its parameters may be on the meta device.

    Args:
        model: its parameters are replaced, their `requires_grad` kept.
        folder: as in `load_model`.
        dtype: as in `load_model`.
        leave_out: keys that the folder must hold and the model must not take: they stay as they are.

    Raises:
        ModelFolderError: as in `load_model`.
    """
    folder = Path(folder)
    files = _weight_files(folder)
    expected = model.state_dict()
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    renames = RENAMED_KEYS.get(getattr(model.config, "model_type", ""), ())

    stored: dict[str, tuple[Path, str]] = {}  # key of the model -> file and key in it
    for file in files:
        with _opened(file) as tensors:
            for key in tensors.keys():  # noqa: SIM118 (a safe_open, not a dict)
                name = key
                for pattern, replacement in renames:
                    name = pattern.sub(replacement, name)
                if name in stored:
                    raise ModelFolderError(f"Got {name} twice in {folder}, expected one tensor of each key.")
                stored[name] = (file, key)
    missing = sorted(expected.keys() - stored.keys() - tied)
    unexpected = sorted(stored[name][1] for name in stored.keys() - expected.keys())
    if missing or unexpected:
        parts = [
            f"{len(keys)} {what} ({_some(keys)})"
            for what, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise ModelFolderError(
            f"Got weights in {folder} that do not fit {type(model).__name__}: {' and '.join(parts)}; "
            f"expected exactly its {len(expected)} keys. Take config.json and weights from the same model."
        )
    if unknown := sorted(set(leave_out) - expected.keys()):
        raise ModelFolderError(f"Got keys to leave out that {type(model).__name__} lacks: {_some(unknown)}.")

    keep_float32 = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    for file in files:
        state: dict[str, Tensor] = {}
        with _opened(file) as tensors:
            for name, (owner, key) in stored.items():
                if owner != file or name in leave_out:
                    continue
                tensor = tensors.get_tensor(key)
                if tensor.shape != expected[name].shape:
                    raise ModelFolderError(
                        f"Got {key} of shape {tuple(tensor.shape)} in {file}, expected "
                        f"{tuple(expected[name].shape)} by config.json. Take both from the same model."
                    )
                target = tensor.dtype
                if dtype is not None and tensor.is_floating_point():
                    target = torch.float32 if keep_float32.intersection(name.split(".")) else dtype
                # A copy: what safetensors returns is a view of the file, which a later save may overwrite.
                state[name] = tensor.to(target, copy=True)
        model.load_state_dict(state, strict=False, assign=True)
    if tied:
        model.tie_weights()  # type: ignore[operator]
    on_meta = [
        name for name, tensor in model.state_dict().items() if tensor.is_meta and name not in leave_out
    ]
    on_meta += [name for name, buffer in model.named_buffers() if buffer.is_meta]
    assert not on_meta, f"tensors without values after loading {folder}: {on_meta}"


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ModelFolderError if it is missing, half-written or another kind of value."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFolderError(
            f"Got {file.parent} without a readable {file.name} ({_one_line(error)}), expected a "
            "complete model folder."
        ) from error
    except ValueError as error:
        raise ModelFolderError(
            f"Got {file} that is not JSON ({_one_line(error)}): half-written? Copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise ModelFolderError(f"Got {file} that holds a {type(content).__name__}, expected a JSON object.")
    return content


def count_parameters(folder: Path) -> int:
    """Of the network in `folder`, from the headers of its files; ModelFolderError as for `load_model`."""
    count = 0
    for file in _weight_files(folder):
        with _opened(file) as tensors:
            count += sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return count


def _weight_files(folder: Path) -> list[Path]:
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            absent = [shard for shard in shards if not (folder / shard).is_file()]
            if absent or not shards:
                raise ModelFolderError(
                    f"Got {index} without {_some(absent) if absent else 'a weight_map'}, expected every shard "
                    "it lists beside it. Copy or download the folder again."
                )
            return [folder / shard for shard in shards]
    raise ModelFolderError(
        f"Got no weights in {folder}, expected {' or '.join(WEIGHT_NAMES)} (or its .index.json with "
        "the shards); pickled weights (.bin, .pt) are not read."
    )


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelFolderError(
            f"Got {file} that is not a whole safetensors file ({_one_line(error)}): half-written? "
            "Copy or download it again."
        ) from error


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Parameters made in this thread take no memory and no time to initialise; buffers get real values."""
    thread = threading.get_ident()

    def to_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> Any:
        if parameter is None or threading.get_ident() != thread:
            return None
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(to_meta)
    try:
        yield
    finally:
        handle.remove()


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
