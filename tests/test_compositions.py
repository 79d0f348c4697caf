"""Compositions: exact masks on real pixels, sentences that name what they mean and nothing else, splits apart."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from genmask.data import compositions_cutouts as cutouts
from genmask.data.compositions import Compositions
from genmask.data.compositions_cutouts import find_cut_outs, is_distinct, surely_without
from genmask.data.compositions_expressions import SHARES
from genmask.data.compositions_material import Material
from genmask.data.compositions_pasting import MIN_VISIBLE_SHARE
from genmask.data.drawing import Scene
from genmask.data.expressions import Expression
from genmask.data.photograph_index import Photograph, find_sources, read_classes, read_index
from genmask.data.photographs import SPLITS
from genmask.data.regions import IS, IS_NOT, UNKNOWN
from genmask.evaluation.benchmarks import COMPOSITION_SIZE, COMPOSITIONS, load_benchmark
from genmask.recipes import find_recipe
from genmask.training.datasets import OPEN_PHOTOGRAPHS, open_source
from genmask.training.mask_config import MaskConfig

SIZE = (96, 128)
GREY = (120, 120, 120)
COLOURS = {"tiger": (250, 120, 0), "otter": (0, 60, 220), "car": (200, 0, 160), "rice": (0, 190, 40)}
LAYOUT = {
    "animals": {6: "tiger", 4: "otter"},
    "building_facades": {2: "car", 3: "building facade"},
    "camvid": {4: "road"},
    "indonesian_food": {2: "rice", 1: "plate"},
}


def photograph(source: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """An ellipse of a class on grey; in camvid and in every other facade the lower half is the second or only class."""
    labels = np.zeros(SIZE, dtype=np.uint8)
    image = np.full((*SIZE, 3), GREY, dtype=np.uint8)
    classes = list(LAYOUT[source])
    if source == "camvid" or (source == "building_facades" and number % 2):
        labels[SIZE[0] // 2 :] = classes[-1]
        return image, labels
    label = classes[number % 2] if source == "animals" else classes[0]
    plane = Image.new("1", (SIZE[1], SIZE[0]))
    ImageDraw.Draw(plane).ellipse((20 + number, 16, 90 + 3 * number, 70 + 2 * number), fill=1)
    mask = np.asarray(plane)
    labels[mask], image[mask] = label, COLOURS[LAYOUT[source][label]]
    return image, labels


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four sources of eight photographs for training and six for validation."""
    folder = tmp_path_factory.mktemp("photos")
    for source, classes in LAYOUT.items():
        rows = []
        for number in range(14):
            image, labels = photograph(source, number)
            for kind, array, ending in (("images", image, "png"), ("labels", labels, "png")):
                (folder / source / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / source / f"{kind}/{number}.{ending}")
            rows.append(
                {
                    "image": f"images/{number}.png",
                    "labels": f"labels/{number}.png",
                    "width": SIZE[1],
                    "height": SIZE[0],
                    "split": "train" if number < 8 else "val",
                    "present": [int(label) for label in np.unique(labels) if label],
                }
            )
        (folder / source / "index.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        (folder / source / "classes.json").write_text(json.dumps({0: "unlabelled", **classes}))
    return folder


@pytest.fixture(scope="module")
def material(root: Path) -> Material:
    return Material(root, "train", area=96 * 96)


@pytest.fixture(scope="module")
def compositions(material: Material) -> Compositions:
    return Compositions(material, (80, 112), length=400)


def test_a_sample_is_a_function_of_seed_and_index(root: Path, material: Material) -> None:
    indices = [5, 0, 1000, 5, 3]
    fresh = Material(root, "train", area=96 * 96)
    runs = [
        [Compositions(m, 64, seed)[i] for i in indices] for m, seed in ((material, 0), (fresh, 0), (fresh, 1))
    ]
    described = [[(e.id, e.text, e.image.tobytes(), e.mask.tobytes()) for e in run] for run in runs]  # type: ignore[union-attr]
    assert described[0] == described[1] != described[2]
    assert described[0][0] == described[0][3]
    val = Compositions(Material(root, "val", area=96 * 96), 64)
    assert val[5].image.tobytes() != runs[0][0].image.tobytes()


@pytest.mark.parametrize("size", [(80, 112), (112, 80), (64, 64), (48, 160)])
def test_sizes_are_exact(material: Material, size: tuple[int, int]) -> None:
    for index in range(0, 20, 5):
        example = Compositions(material, size)[index]
        assert example.image.shape == (*size, 3)
        assert example.mask is not None
        assert example.mask.shape == size


def test_masks_are_the_pixels_of_their_objects(compositions: Compositions) -> None:
    """Colours are told apart by hue alone, as they are matched to the background now and then."""
    grey = 0
    for number in range(30):
        made = compositions.composition(number)
        scene = made.scene
        hue = scene.image - scene.image.mean(axis=2, keepdims=True)
        nobody = ~scene.mask(frozenset(range(len(scene.objects))))
        if made.background.photograph.source == "camvid":
            assert np.abs(hue[nobody]).max() < 80, "outside there is grey, but for the soft edges"
            assert np.median(np.abs(hue[nobody])) < 2
            grey += 1
        for thing in scene.objects:
            colour = np.array(COLOURS[thing.category], dtype=float)
            alike = hue[thing.mask] @ (colour - colour.mean())
            assert (alike > 0).mean() > 0.97
            assert thing.mask.sum() >= 0.99 * MIN_VISIBLE_SHARE * thing.area * thing.mask.size
        claims = np.sum([thing.mask for thing in scene.objects], axis=0)
        assert claims.max() == 1, "a pixel is of one object"


def test_kinds_come_in_their_shares(compositions: Compositions) -> None:
    counts = Counter(compositions[index].kind for index in range(len(compositions)))
    for kind, share in SHARES.items():
        assert counts[kind] / len(compositions) == pytest.approx(share, abs=0.05)


def test_a_mask_is_empty_where_the_sentence_names_nothing(compositions: Compositions) -> None:
    for index in range(0, len(compositions), 3):
        example = compositions[index]
        assert example.mask is not None
        assert example.mask.any() == (example.kind != "absent")


def check(scene: Scene, expression: Expression) -> None:
    """By counting, apart from the code that chose the sentence."""
    query, things = expression.query, scene.objects
    alike = [i for i, thing in enumerate(things) if thing.category == query.category]
    targets = sorted(expression.targets)
    if expression.kind == "absent":
        assert targets == []
        assert alike == [] or query.relation is not None
        return
    assert set(targets) <= set(alike)
    if expression.kind == "plural":
        assert len(targets) > 1
        assert targets == alike or query.side is not None
        return
    assert len(targets) == 1
    (target,) = targets
    others = [things[i] for i in alike if i != target]
    mine = things[target]
    if expression.kind == "category":
        assert others == []
    elif query.extreme is not None:
        assert others, "nobody says 'the largest' of the only one"
        measures = {
            "leftmost": lambda thing: -thing.centre[0],
            "rightmost": lambda thing: thing.centre[0],
            "topmost": lambda thing: -thing.centre[1],
            "bottommost": lambda thing: thing.centre[1],
            "largest": lambda thing: thing.area,
            "smallest": lambda thing: -thing.area,
        }
        measure = measures[query.extreme]
        assert all(measure(mine) > measure(other) for other in others)
    elif query.side is not None and query.side != "middle":
        edge = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}
        for axis, sign in (edge[word] for word in query.side.split()):
            assert sign * (mine.centre[axis] - 0.5) > 0
            if len(query.side.split()) == 1:
                assert all(sign * (other.centre[axis] - 0.5) < 0.021 for other in others)
    elif query.relation in ("left of", "right of", "above", "below"):
        assert query.anchor is not None
        (anchor,) = (thing for thing in things if thing.category == query.anchor.category)
        axis, sign = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}[
            query.relation
        ]
        assert sign * (mine.centre[axis] - anchor.centre[axis]) > 0
        assert all(sign * (other.centre[axis] - anchor.centre[axis]) <= 0.03 for other in others)


def test_every_sentence_names_its_target_and_nothing_else(compositions: Compositions) -> None:
    kinds = set()
    for number in range(100):
        made = compositions.composition(number)
        assert len({expression.text for expression in made.expressions}) == Compositions.EXPRESSIONS
        for expression in made.expressions:
            check(made.scene, expression)
            kinds.add(expression.kind)
    assert kinds == set(SHARES)


def test_what_is_said_is_english(compositions: Compositions) -> None:
    texts = {compositions[index].text for index in range(len(compositions))}
    assert {"the tiger", "both tigers", "the rice", "the larger tiger", "the leftmost otter"} <= texts
    assert texts & {"both portions of rice", "all portions of rice", "all the portions of rice"}
    assert not any(word in text for text in texts for word in ("rices", "all the two", "of both"))


def test_regions_know_every_object_and_claim_nothing_of_the_unknown(compositions: Compositions) -> None:
    with_unknown = 0
    for index in range(0, 200, 4):
        example, made = compositions[index], compositions.composition(index // 4)
        assert example.regions is not None
        labels, table = example.regions.labels, example.regions.table
        for column, name in enumerate(compositions.concepts):
            drawn = np.isin(labels, np.flatnonzero(table[:, column] == IS))
            things = [i for i, thing in enumerate(made.scene.objects) if thing.category == name]
            assert np.array_equal(drawn, made.scene.mask(frozenset(things)))
        assert set(np.unique(table[0])) <= {IS_NOT, UNKNOWN}
        if example.ignore is not None:
            with_unknown += 1
            assert made.background.photograph.source == "camvid"
            assert (table[labels[example.ignore]] == UNKNOWN).all()
            assert not (example.ignore & made.scene.mask(frozenset(range(len(made.scene.objects))))).any()
    assert with_unknown


def test_nothing_is_pasted_where_something_else_could_be_called_the_same(material: Material) -> None:
    drawn = frozenset(("person", "car", "truck", "tiger"))

    def coco(*names: str, source: str = "coco_instances") -> Photograph:
        path = Path("1.png")
        classes = dict(enumerate(names, start=1))
        return Photograph(source=source, image=path, labels=path, classes=classes, height=9, width=9)

    assert surely_without("car", coco("chair"), drawn)
    assert not surely_without("car", coco("truck"), drawn), "one may pass for the other"
    assert not surely_without("person", coco("person"), drawn)
    assert not surely_without("horse", coco("chair"), drawn), "not drawn there, so it may be anywhere"
    assert surely_without("tiger", coco("road", source="camvid"), frozenset())
    assert not surely_without("person", coco("road", source="camvid"), frozenset())
    assert not is_distinct("bear", frozenset(("teddy bear",)))
    for backgrounds in material.backgrounds.values():
        for background in backgrounds:
            assert not set(background.names) & set(background.photograph.classes.values())


def test_only_whole_objects_are_cut_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, good = photograph("animals", 0)
    rows, columns = np.nonzero(good)
    label = int(good.max())
    holed, cut_off, thin, small, torn = (good.copy() for _ in range(5))
    holed[rows.mean().astype(int) - 10 : rows.mean().astype(int) + 10, columns.mean().astype(int) - 10 :][
        :, :20
    ] = 0
    cut_off[:] = np.roll(good, -30, axis=0)
    thin[:] = 0
    thin[5:90, 5:12] = thin[83:90, 5:120] = label
    small[:] = 0
    small[10:30, 10:30] = label
    torn[:, columns.mean().astype(int) - 2 : columns.mean().astype(int) + 2] = 0
    for name, labels, count in (
        ("good", good, 1),
        ("holed", holed, 0),
        ("cut off", cut_off, 0),
        ("thin", thin, 0),
        ("small", small, 0),
        ("torn", torn, 0),
    ):
        path = tmp_path / f"{name}.png"
        Image.fromarray(labels).save(path)
        photo = Photograph(
            source="animals", image=path, labels=path, classes={label: "tiger"}, height=SIZE[0], width=SIZE[1]
        )
        assert len(find_cut_outs(photo)) == count, name
    monkeypatch.setattr(cutouts, "REJECTED", {"animals": frozenset(("good",))})
    good_photo = Photograph(
        source="animals",
        image=tmp_path / "good.png",
        labels=tmp_path / "good.png",
        classes={label: "tiger"},
        height=SIZE[0],
        width=SIZE[1],
    )
    assert find_cut_outs(good_photo) == []


def test_wrong_arguments_are_named(root: Path, material: Material) -> None:
    with pytest.raises(ValueError, match="one of train, val"):
        Material(root, "test", area=64**2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="animals, building_facades, camvid, indonesian_food"):
        Material(root, "train", ("zoo",), area=64**2)
    with pytest.raises(ValueError, match="nothing can be cut out"):
        Material(root, "train", ("camvid",), area=64**2)
    with pytest.raises(ValueError, match="at least 32"):
        Compositions(material, 16)
    with pytest.raises(ValueError, match=r"'colour'.*category"):
        Compositions(material, 64, shares={"colour": 1.0})
    with pytest.raises(TypeError, match="length="):
        len(Compositions(material, 64))
    with pytest.raises(IndexError):
        Compositions(material, 64, length=3)[3]


def test_the_open_sets_use_photographs_of_open_terms_alone(root: Path) -> None:
    sizes = ((64, 64), (48, 80))
    everything = open_source("compositions", root, sizes)
    assert list(everything.concepts) == ["car", "otter", "rice", "tiger"]  # type: ignore[union-attr]
    for name in ("open-compositions", "open-photographs"):
        source = open_source(name, root, sizes)
        assert not {"tiger", "otter", "road"} & set(source.concepts)  # type: ignore[union-attr]
        for index, (height, width) in enumerate(sizes * 3):
            example = source.segmentation(index, height, width)  # type: ignore[union-attr]
            assert example.image.shape == (height, width, 3)
            again = open_source(name, root, sizes).segmentation(index, height, width)  # type: ignore[union-attr]
            assert np.array_equal(again.image, example.image)
            assert again.text == example.text
    model = find_recipe("tiny-open").model
    assert isinstance(model, MaskConfig)
    used = {name for name, _ in (*model.segmentation_sources, *model.generation_sources)}
    assert used == {"scenes", "open-photographs", "open-compositions"}
    assert not set(OPEN_PHOTOGRAPHS) - {"building_facades", "indonesian_food"}, (
        "look at the terms of a new one"
    )


def test_a_source_uses_two_of_a_pictures_four_sentences(root: Path) -> None:
    source = open_source("compositions", root, ((64, 64),))
    ids = [int(source.segmentation(index, 64, 64).id.split("/")[1]) for index in range(40)]  # type: ignore[union-attr]
    assert len(set(ids)) == 40
    assert {number // 4 for number in ids} == set(range(20))
    assert {number % 4 for number in ids} == {0, 1, 2, 3}


@pytest.mark.skipif("GENMASK_DATA" not in os.environ, reason="GENMASK_DATA is not set")
def test_the_real_photographs() -> None:
    folder = Path(os.environ["GENMASK_DATA"]) / "photos"
    named = {source: set(read_classes(folder / source).values()) for source in find_sources(folder)}
    assert set(cutouts.CUT_FROM) | set(cutouts.NEVER_THERE) | set(cutouts.BACKGROUND_SHARES) <= set(named)
    for source, names in cutouts.CUT_FROM.items():
        assert names <= named[source] | {"person"}
    ids = {
        (source, photo.id)
        for source in named
        for split in SPLITS
        for photo in read_index(folder / source, split)
    }
    assert {(source, name) for source, names in cutouts.REJECTED.items() for name in names} <= ids

    benchmark, val = load_benchmark("compositions/val", folder)
    assert isinstance(val, Compositions)
    assert len(val) == COMPOSITIONS
    assert benchmark.layout
    held_out = {(source, photo.id) for source in named for photo in read_index(folder / source, "val")}
    used = {
        (cut_out.photograph.source, cut_out.photograph.id)
        for found in val.material.cut_outs.values()
        for cut_out in found
    } | {
        (background.photograph.source, background.photograph.id)
        for found in val.material.backgrounds.values()
        for background in found
    }
    trained_on = {(source, photo.id) for source in named for photo in read_index(folder / source, "train")}
    assert used <= held_out
    assert not used & trained_on
    for index in range(0, 40, 3):
        example = val[index]
        assert example.image.shape == (*COMPOSITION_SIZE, 3)
        assert example.mask is not None
        assert example.mask.any() == (example.kind != "absent")
        check(val.composition(index // 4).scene, val.composition(index // 4).expressions[index % 4])
