"""COCO's instance format: the document of one picture, and one document from those of many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from genmask.polygons import edge_polygon, has_hole
from genmask.segmentation import Segmentation

INFO = {"description": "Written by genmask"}


def coco_document(results: Sequence[Segmentation], image_name: str) -> dict[str, Any]:
    """The results of one picture in COCO's instance format, ready for JSON.

    A text is a category, and what it found is one annotation with its confidence as "score": exact polygons, one
    for each connected part, or compressed run lengths if a part has a hole. A text that found nothing has no
    annotation; its category is among the "neg_category_ids" of the picture, as in LVIS.
    """
    texts = list(dict.fromkeys(result.text for result in results))
    annotations: list[dict[str, Any]] = []
    for result in results:
        if result.box is None:
            continue
        left, top, right, bottom = result.box
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": 1,
                "category_id": texts.index(result.text) + 1,
                "segmentation": _coco_outline(result),
                "area": int(result.mask.sum()),
                "bbox": [left, top, right - left, bottom - top],
                "iscrowd": 0,
                "score": result.confidence,
            }
        )
    found = {annotation["category_id"] for annotation in annotations}
    image = {
        "id": 1,
        "file_name": image_name,
        "width": results[0].image.width,
        "height": results[0].image.height,
        "neg_category_ids": [number for number in range(1, len(texts) + 1) if number not in found],
    }
    return {
        "info": INFO,
        "images": [image],
        "annotations": annotations,
        "categories": [{"id": number, "name": text} for number, text in enumerate(texts, 1)],
    }


def merge_coco(documents: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One COCO document from those of many pictures.

    Numbers follow the order of the documents: pictures and annotations as they come, categories, one for each
    text, at their first appearance. So the same documents give the same numbers, and further ones change none.
    A picture that comes again, by its file_name, is not listed twice.

    Args:
        documents: as `coco_document` returns them; consumed one by one.

    Raises:
        ValueError: a picture comes again in another size.
    """
    images: dict[str, dict[str, Any]] = {}
    categories: dict[str, int] = {}
    annotations: list[dict[str, Any]] = []
    for document in documents:
        category_ids, image_ids = {}, {}
        for category in document["categories"]:
            category_ids[category["id"]] = categories.setdefault(category["name"], len(categories) + 1)
        for image in document["images"]:
            name = image["file_name"]
            merged = images.setdefault(name, {**image, "id": len(images) + 1, "neg_category_ids": []})
            if (merged["width"], merged["height"]) != (image["width"], image["height"]):
                raise ValueError(
                    f"Got {name!r} in two sizes, expected one picture: give pictures names of their own."
                )
            merged["neg_category_ids"] += [category_ids[number] for number in image["neg_category_ids"]]
            image_ids[image["id"]] = merged["id"]
        for annotation in document["annotations"]:
            annotations.append(
                {
                    **annotation,
                    "id": len(annotations) + 1,
                    "image_id": image_ids[annotation["image_id"]],
                    "category_id": category_ids[annotation["category_id"]],
                }
            )
    return {
        "info": INFO,
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
    }


def _coco_outline(result: Segmentation) -> list[list[int]] | dict[str, Any]:
    parts = result.instances()
    if any(has_hole(part.crop) for part in parts):
        return result.rle()
    return [(edge_polygon(part.crop) + part.box[:2]).ravel().tolist() for part in parts]
