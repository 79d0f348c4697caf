"""Text-prompted segmentation by direct mask generation, in one forward pass of a diffusion transformer.

>>> from genmask import GenMaskPipeline
>>> pipe = GenMaskPipeline.from_pretrained("tiny")
>>> pipe.segment("photo.jpg", "the red mug").save("masks")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genmask.pipeline import GenMaskPipeline
    from genmask.segmentation import Segmentation

__version__ = "0.1.0"
__all__ = ["GenMaskPipeline", "Segmentation", "__version__"]

# Resolved at first use (PEP 562), so that `import genmask` and the command line's help need no torch.
_HOMES = {"GenMaskPipeline": "genmask.pipeline", "Segmentation": "genmask.segmentation"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'genmask' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
