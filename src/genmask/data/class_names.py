"""Names of the classes of COCO-Stuff, ADE20K and PASCAL VOC, in the order of their ids, and how to say them."""

from __future__ import annotations

import numpy as np

from genmask.data.phrases import (
    MASS_NOUNS,
    PLURAL_NOUNS,
    indefinite_phrase,
    plain_phrase,
    plural,
    surely_absent,
)


def _names(text: str) -> tuple[str, ...]:
    """The parts between commas, in order; line breaks count as spaces."""
    return tuple(" ".join(name.split()) for name in text.split(","))


def _classes(text: str) -> tuple[tuple[str, ...], ...]:
    """The parts between semicolons, each a name and its synonyms."""
    return tuple(_names(part) for part in text.split(";"))


COCO_STUFF = _names("""
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, street
sign, stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
hat, backpack, umbrella, shoe, eye glasses, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball,
kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, plate, wine glass, cup,
fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake,
chair, couch, potted plant, bed, mirror, dining table, window, desk, toilet, door, tv, laptop, mouse,
remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, blender, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush, hair brush, banner, blanket, branch, bridge, building-other,
bush, cabinet, cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter,
cupboard, curtain, desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile,
floor-wood, flower, fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house,
leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow,
plant-other, plastic, platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand,
sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent,
textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall-stone,
wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood
""")
"""Ids 1 to 182 as the data set spells them: things to "hair brush" (91), stuff from "banner" (92) on."""

COCO_STUFF_NEVER_USED = frozenset(
    _names("street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door, blender, hair brush")
)
"""Things that have an id and not one pixel: not seeing the label says nothing about the thing."""

COCO_STUFF_SPOKEN = {
    "building-other": "building",
    "ceiling-other": "ceiling",
    "ceiling-tile": "tiled ceiling",
    "desk-stuff": "desk",
    "door-stuff": "door",
    "floor-marble": "marble floor",
    "floor-other": "floor",
    "floor-stone": "stone floor",
    "floor-tile": "tiled floor",
    "floor-wood": "wooden floor",
    "food-other": "food",
    "furniture-other": "furniture",
    "ground-other": "ground",
    "mirror-stuff": "mirror",
    "plant-other": "plant",
    "playingfield": "playing field",
    "sky-other": "sky",
    "solid-other": "solid material",
    "structural-other": "structure",
    "textile-other": "textile",
    "wall-brick": "brick wall",
    "wall-concrete": "concrete wall",
    "wall-other": "wall",
    "wall-panel": "wall panel",
    "wall-stone": "stone wall",
    "wall-tile": "tiled wall",
    "wall-wood": "wooden wall",
    "water-other": "water",
    "waterdrops": "water drops",
    "window-blind": "window blind",
    "window-other": "window",
}
"""What people say, where the data set writes something else."""

COCO_STUFF_LISA = {"sky-other": "sky"}
"""The one name that LISA's list writes otherwise, so that 28 rather than 29 names in it hold a dash."""

COCO_STUFF_FAMILIES = ("ceiling", "floor", "wall")
"""Surfaces sorted by material, "floor-wood" and "floor-other": "the floor" means all of them."""

PASCAL_VOC = _names("""
aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person,
pottedplant, sheep, sofa, train, tvmonitor
""")
"""Ids 1 to 20 as the data set spells them."""

PASCAL_VOC_SPOKEN = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
PASCAL_VOC_SYNONYMS = {
    "aeroplane": ("airplane", "plane"),
    "bicycle": ("bike",),
    "motorbike": ("motorcycle",),
    "sofa": ("couch",),
    "tv monitor": ("screen",),
}

ADE20K = _classes("""
wall; building, edifice; sky; floor, flooring; tree; ceiling; road, route; bed; windowpane, window; grass;
cabinet; sidewalk, pavement; person, individual, someone, somebody, mortal, soul; earth, ground; door,
double door; table; mountain, mount; plant, flora, plant life; curtain, drape, drapery, mantle, pall; chair;
car, auto, automobile, machine, motorcar; water; painting, picture; sofa, couch, lounge; shelf; house; sea;
mirror; rug, carpet, carpeting; field; armchair; seat; fence, fencing; desk; rock, stone; wardrobe, closet,
press; lamp; bathtub, bathing tub, bath, tub; railing, rail; cushion; base, pedestal, stand; box; column,
pillar; signboard, sign; chest of drawers, chest, bureau, dresser; counter; sand; sink; skyscraper;
fireplace, hearth, open fireplace; refrigerator, icebox; grandstand, covered stand; path; stairs, steps;
runway; case, display case, showcase, vitrine; pool table, billiard table, snooker table; pillow; screen
door, screen; stairway, staircase; river; bridge, span; bookcase; blind, screen; coffee table, cocktail
table; toilet, can, commode, crapper, pot, potty, stool, throne; flower; book; hill; bench; countertop;
stove, kitchen stove, range, kitchen range, cooking stove; palm, palm tree; kitchen island; computer,
computing machine, computing device, data processor, electronic computer, information processing system;
swivel chair; boat; bar; arcade machine; hovel, hut, hutch, shack, shanty; bus, autobus, coach, charabanc,
double-decker, jitney, motorbus, motorcoach, omnibus, passenger vehicle; towel; light, light source; truck,
motortruck; tower; chandelier, pendant, pendent; awning, sunshade, sunblind; streetlight, street lamp;
booth, cubicle, stall, kiosk; television, television receiver, television set, tv, tv set, idiot box, boob
tube, telly, goggle box; airplane, aeroplane, plane; dirt track; apparel, wearing apparel, dress, clothes;
pole; land, ground, soil; bannister, banister, balustrade, balusters, handrail; escalator, moving staircase,
moving stairway; ottoman, pouf, pouffe, puff, hassock; bottle; buffet, counter, sideboard; poster, posting,
placard, notice, bill, card; stage; van; ship; fountain; conveyer belt, conveyor belt, conveyer, conveyor,
transporter; canopy; washer, automatic washer, washing machine; plaything, toy; swimming pool, swimming
bath, natatorium; stool; barrel, cask; basket, handbasket; waterfall, falls; tent, collapsible shelter; bag;
minibike, motorbike; cradle; oven; ball; food, solid food; step, stair; tank, storage tank; trade name,
brand name, brand, marque; microwave, microwave oven; pot, flowerpot; animal, animate being, beast, brute,
creature, fauna; bicycle, bike, wheel, cycle; lake; dishwasher, dish washer, dishwashing machine; screen,
silver screen, projection screen; blanket, cover; sculpture; hood, exhaust hood; sconce; vase; traffic
light, traffic signal, stoplight; tray; ashcan, trash can, garbage can, wastebin, ash bin, ash-bin, ashbin,
dustbin, trash barrel, trash bin; fan; pier, wharf, wharfage, dock; crt screen; plate; monitor, monitoring
device; bulletin board, notice board; shower; radiator; glass, drinking glass; clock; flag
""")
"""Ids 1 to 150, each a name and its synonyms as in the benchmark's own list (objectInfo150)."""

ADE20K_LISA = {"television": "television receiver"}
"""The one name that LISA's list writes otherwise."""

ADE20K_MISLEADING = frozenset(
    _names("""
animate being, autobus, bath, bill, boob tube, brand, brute, can, card, charabanc, closet, collapsible
shelter, commode, computing device, computing machine, cover, crapper, creature, cycle, data processor,
falls, fauna, flora, goggle box, handbasket, hassock, hutch, icebox, idiot box, individual, information
processing system, light source, machine, mantle, marque, mortal, motorcar, motortruck, mount,
natatorium, notice, omnibus, pall, passenger vehicle, pendant, pendent, placard, posting, pouffe, press,
puff, range, shanty, silver screen, solid food, somebody, someone, soul, span, stand, swimming bath,
throne, transporter, tub, wharfage, wheel
""")
)
"""Synonyms that mean something else to most people, or nothing."""

UNCOUNTABLE = frozenset(
    _names("""
apparel, clothes, clouds, dirt, earth, fencing, flooring, fog, food, fruit, furniture, grass, gravel, ground, land,
leaves, metal, moss, mud, paper, pavement, plant life, plastic, salad, sand, sea, sky, snow, soil,
solid material, stairs, steps, straw, textile, water, water drops, wearing apparel, wood, carpeting, cloth,
chest of drawers, eye glasses, cardboard, broccoli, skis, scissors, structure
""")
)
"""Names that take neither "a" nor "every" and have no plural of their own."""

TOO_WIDE = frozenset(
    _names("""
animal, apparel, base, box, cardboard, case, cloth, clothes, earth, fog, furniture, ground, land, leaves, light,
metal, mud, paper, plant, plastic, plaything, pole, seat, shelf, solid material, stage, step, stone, structure,
textile, trade name, water drops, windowpane, wood
""")
)
"""Names of which nobody can say that there is none, whatever the labels show."""

CONFUSABLE = tuple(
    frozenset(_names(group))
    for group in (
        "apparel, clothes, person, hat, tie, bag, handbag, backpack",
        "armchair, bench, chair, couch, furniture, grandstand, ottoman, seat, sofa, stool, swivel chair",
        "ashcan, barrel, basket, bottle, bowl, cup, flowerpot, glass, plate, pot, tank, tray, vase, wine glass",
        "awning, blind, canopy, curtain, tent, umbrella, window blind",
        "bag, basket, box, handbag, backpack, suitcase",
        "ball, plaything, sports ball, teddy bear",
        "banner, bulletin board, flag, painting, poster, signboard, street sign, stop sign, trade name, paper",
        "bannister, cage, column, fence, net, pole, railing",
        "bar, bookcase, buffet, cabinet, case, chest of drawers, coffee table, counter, countertop, cupboard, desk,"
        " dining table, furniture, kitchen island, pool table, shelf, table, wardrobe",
        "bathtub, fountain, lake, river, sea, shower, sink, swimming pool, toilet, water, waterfall",
        "bed, blanket, carpet, cloth, cushion, mat, napkin, pillow, rug, textile, towel",
        "bicycle, minibike, motorcycle",
        "blanket, carpet, curtain, floor, mat, rug, marble floor, stone floor, tiled floor, wooden floor",
        "boat, ship",
        "book, paper, poster",
        "booth, bridge, building, grandstand, hovel, house, pier, roof, skyscraper, structure, tent, tower, wall,"
        " brick wall, concrete wall, stone wall, wooden wall, tiled wall, wall panel",
        "branch, bush, flower, grass, leaves, moss, palm, plant, potted plant, straw, tree",
        "bus, car, truck, van, train",
        "cell phone, remote",
        "chandelier, lamp, light, sconce, streetlight",
        "clouds, fog, sky",
        "computer, crt screen, laptop, monitor, screen, television, television receiver, tv",
        "cushion, pillow",
        "dirt, dirt track, earth, field, floor, grass, gravel, ground, hill, land, mountain, mud, path, pavement,"
        " platform, playing field, railroad, road, rock, runway, sand, sidewalk, snow, stone",
        "dishwasher, hood, microwave, oven, refrigerator, stove, toaster, washer",
        "door, screen door, window, windowpane, mirror, glass, blind",
        "escalator, stairs, stairway, step",
        "food, apple, banana, broccoli, cake, carrot, donut, fruit, hot dog, orange, pizza, salad, sandwich,"
        " vegetable",
        "fork, knife, spoon",
        "hill, mountain, rock, stone",
        "mirror, painting, screen, windowpane",
    )
)
"""Names that two people may give to the same thing: none is surely absent beside another of its group."""


def class_phrase(name: str, rng: np.random.Generator) -> str:
    """A random way to ask for every pixel of a class; half of the time the plain one.

    No synonyms here: what is one in general ("rug", "carpet") is another class in some of these sets.
    """
    if rng.random() < 0.5:
        return plain_phrase(name)
    forms = [name, f"the {name} in the picture"]
    if name in UNCOUNTABLE or name in MASS_NOUNS or name in PLURAL_NOUNS:
        forms += [f"all the {name}"]
    else:
        forms += [indefinite_phrase(name), f"every {name}", f"all {plural(name)}"]
    return forms[rng.integers(len(forms))]


def is_absent(name: str, present: frozenset[str]) -> bool:
    """Whether nothing labelled with one of `present` could also be called `name`, and nobody would overlook it."""
    return (
        name not in TOO_WIDE
        and surely_absent(name, present)
        and not any(name in group and group & present for group in CONFUSABLE)
    )
