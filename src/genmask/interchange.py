"""Results as other libraries take them: supervision's detections and rows of a pandas table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from genmask.segmentation import Segmentation

if TYPE_CHECKING:
    import pandas
    import supervision


def to_supervision(results: Sequence[Segmentation], *, instances: bool = False) -> supervision.Detections:
    """The results of one picture as detections, in order.

    What found nothing has no detection. Classes are numbered by their texts, in the order of `results`; the text
    itself is in `data["class_name"]`.

    Args:
        results: at least one, all of the same picture.
        instances: a detection for each connected part, with its own box and confidence, in place of one for each
            result.

    Raises:
        ValueError: no result, results of several sizes, or supervision is not installed.
    """
    try:
        from supervision import Detections
    except ImportError as error:
        raise ValueError(
            "Got no package supervision, expected it for detections: pip install 'genmask[supervision]'."
        ) from error
    shapes = {result.soft_mask.shape for result in results}
    if len(shapes) != 1:
        raise ValueError(
            f"Got {len(results)} results of {len(shapes)} sizes, expected those of one picture: convert those "
            "of others apart."
        )
    texts = list(dict.fromkeys(result.text for result in results))
    found = [
        (result.text, one)
        for result in results
        for one in (result.instances() if instances else [result])
        if one.box
    ]
    return Detections(
        xyxy=np.array([one.box for _, one in found], dtype=np.float32).reshape(-1, 4),
        mask=np.array([one.mask for _, one in found], dtype=bool).reshape(-1, *shapes.pop()),
        confidence=np.array([one.confidence for _, one in found], dtype=np.float32),
        class_id=np.array([texts.index(text) for text, _ in found], dtype=int),
        data={"class_name": np.array([text for text, _ in found], dtype=np.str_)},
    )


def to_pandas(results: Sequence[Segmentation]) -> pandas.DataFrame:
    """One row for each result, of any pictures, in order.

    Columns: text, target, width, height, threshold, confidence, presence (missing of models that do not tell it),
    is_empty, area (pixels), area_fraction, parts (how many are connected), and left, top, right, bottom (pixels, the
    last two exclusive; missing where nothing was found).

    Raises:
        ValueError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ValueError(
            "Got no package pandas, expected it for tables: pip install 'genmask[pandas]'."
        ) from error
    table = pd.DataFrame([_row(result) for result in results], columns=list(COLUMNS))
    return table.astype(COLUMNS)


COLUMNS = {
    "text": "str",
    "target": "str",
    "width": "int64",
    "height": "int64",
    "threshold": "float64",
    "confidence": "float64",
    "presence": "Float64",
    "is_empty": "bool",
    "area": "int64",
    "area_fraction": "float64",
    "parts": "int64",
    "left": "Int64",
    "top": "Int64",
    "right": "Int64",
    "bottom": "Int64",
}
"""Of `to_pandas`, with their types; Int64 and Float64 are pandas' numbers that can be missing."""


def _row(result: Segmentation) -> list[Any]:
    known = result.to_dict()
    left, top, right, bottom = result.box or (None,) * 4
    known |= {"area": int(result.mask.sum()), "parts": len(result.instances())}
    known |= {"left": left, "top": top, "right": right, "bottom": bottom}
    return [known[name] for name in COLUMNS]
