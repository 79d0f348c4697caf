"""Results as detections of supervision and as rows of pandas."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from genmask import Segmentation
from genmask.interchange import to_pandas, to_supervision

PICTURE = Image.new("RGB", (40, 30), (90, 120, 90))


def results() -> list[Segmentation]:
    """Two parts, nothing, and one part of the same text as the first."""
    soft = np.zeros((3, 30, 40), np.float32)
    soft[0, 2:6, 3:10], soft[0, 15:25, 20:35], soft[2, 10:12, 10:13] = 0.8, 0.9, 0.7
    return [
        Segmentation(image=PICTURE, text=text, target=text, soft_mask=one)
        for text, one in zip(("the mug", "a bicycle", "the mug"), soft, strict=True)
    ]


@pytest.mark.parametrize("instances", [False, True])
def test_detections_hold_what_was_found(instances: bool) -> None:
    supervision = pytest.importorskip("supervision")
    detections = to_supervision(results(), instances=instances)
    mug, _, other = results()
    found = [*mug.instances(), *other.instances()] if instances else [mug, other]
    assert len(detections) == len(found) == (3 if instances else 2)
    for (xyxy, mask, confidence, class_id, _, data), one in zip(detections, found, strict=True):
        assert tuple(xyxy) == one.box
        np.testing.assert_array_equal(mask, one.mask)
        assert confidence == pytest.approx(one.confidence)
        assert class_id == 0
        assert data["class_name"] == "the mug"
    assert detections.area.tolist() == [one.mask.sum() for one in found]
    drawn = supervision.MaskAnnotator().annotate(np.zeros((30, 40, 3), np.uint8), detections)
    assert drawn[20, 25].any()


def test_detections_of_nothing_are_empty_and_merge_with_others() -> None:
    supervision = pytest.importorskip("supervision")
    nothing = to_supervision(results()[1:2])
    assert nothing.is_empty()
    assert len(supervision.Detections.merge([nothing, to_supervision(results())])) == 2


def test_classes_are_numbered_by_text() -> None:
    pytest.importorskip("supervision")
    mug, nothing, _ = results()
    table = Segmentation(image=PICTURE, text="the table", target="the table", soft_mask=mug.soft_mask)
    detections = to_supervision([nothing, table, mug])
    assert detections.class_id.tolist() == [1, 2]
    assert detections["class_name"].tolist() == ["the table", "the mug"]


def test_results_of_several_pictures_are_no_detections_of_one() -> None:
    pytest.importorskip("supervision")
    other = Segmentation(
        image=PICTURE.resize((4, 4)), text="", target="", soft_mask=np.zeros((4, 4), np.float32)
    )
    with pytest.raises(ValueError, match="Got 2 results of 2 sizes, expected those of one picture"):
        to_supervision([results()[0], other])
    with pytest.raises(ValueError, match="Got 0 results"):
        to_supervision([])


def test_rows_can_be_reckoned_with() -> None:
    pandas = pytest.importorskip("pandas")
    table = to_pandas(results())
    assert table["text"].tolist() == ["the mug", "a bicycle", "the mug"]
    assert table["area"].tolist() == [28 + 150, 0, 6]
    assert table["parts"].tolist() == [2, 0, 1]
    assert table.loc[~table["is_empty"], "right"].tolist() == [35, 13]
    assert table.loc[table["is_empty"], ["left", "top", "right", "bottom"]].isna().all().all()
    assert table.groupby("text")["area"].max().to_dict() == {"a bicycle": 0, "the mug": 178}
    assert table["confidence"].tolist() == [one.confidence for one in results()]
    pandas.testing.assert_series_equal(to_pandas([]).dtypes, table.dtypes)


@pytest.mark.parametrize(("convert", "package"), [(to_supervision, "supervision"), (to_pandas, "pandas")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, convert, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"pip install 'genmask\[{package}\]'"):
        convert(results())
