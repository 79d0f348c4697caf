"""From the name of a class to the words people use for it: "the tiger", "all tigers", "the sky above"."""

from __future__ import annotations

import numpy as np

PLURAL_NOUNS = frozenset(
    "accessories boots clogs earrings flats glasses gloves heels jeans leggings loafers panties pants pumps "
    "sandals shoes shorts sneakers socks stockings sunglasses tights wedges skis scissors stairs".split()
)
"""Names that are plural already: "the jeans", never "a jeans" or "all jeanses"."""

MASS_NOUNS = frozenset(
    (
        "hair,skin,intimate,swimwear,vegetation,street,sky,road,pavement,grass,dirt,sand,sea,snow,gravel,water,food,"
        "fruit,paper,cardboard,rice,white bread,broccoli,fried tofu,sweet braised tofu,steamed tofu,fried tempeh,"
        "battered fried tempeh,sweet braised tempeh,steamed tempeh,fried catfish,fried mackerel,"
        "non-building infrastructure,traffic infrastructure,floor,wooden floor,ceiling,playing field,skin"
    ).split(",")
)
"""Names of stuff: "the grass" or "grass", never "a grass" or "all grasses"."""

IRREGULAR_PLURALS = {
    "person": "people",
    "pedestrian": "pedestrians",
    "sheep": "sheep",
    "deer": "deer",
    "mouse": "mice",
    "knife": "knives",
    "shelf": "shelves",
    "scarf": "scarves",
    "roof": "roofs",
}

SYNONYMS = {
    "accessories": ("small accessories",),
    "airplane": ("plane", "aircraft"),
    "balcony fence": ("balcony railing", "railing of the balcony"),
    "baseball glove": ("baseball mitt",),
    "bicycle": ("bike",),
    "bicyclist": ("cyclist", "person on a bicycle"),
    "blouse": ("woman's blouse",),
    "boat": ("vessel",),
    "bag": ("carried bag",),
    "building": ("house front", "built structure"),
    "building facade": ("facade", "front of the building"),
    "cabinet": ("cupboard",),
    "car": ("automobile", "motor car"),
    "cell phone": ("phone", "mobile phone"),
    "couch": ("sofa",),
    "cup": ("mug",),
    "curtain": ("drape",),
    "dining table": ("table for eating",),
    "dirt": ("bare earth", "soil"),
    "donut": ("doughnut",),
    "fence": ("fencing",),
    "flats": ("flat shoes",),
    "floor": ("ground",),
    "glasses": ("eyeglasses",),
    "grass": ("green grass", "lawn"),
    "hair": ("person's hair", "hair on the head"),
    "hair drier": ("hair dryer",),
    "handbag": ("hand bag",),
    "heels": ("high heels", "high-heeled shoes"),
    "horse": ("horse in the picture", "animal with a mane"),
    "house": ("home",),
    "intimate": ("underwear",),
    "jacket": ("worn jacket",),
    "jeans": ("denim trousers", "blue jeans"),
    "light": ("lamp",),
    "motorcycle": ("motorbike",),
    "mountain": ("mountain in the distance",),
    "otter": ("furry otter",),
    "oven": ("stove",),
    "pants": ("trousers",),
    "pavement": ("sidewalk",),
    "pedestrian": ("person walking", "person on foot"),
    "person": ("human", "human being"),
    "plate": ("dish", "round plate"),
    "playing field": ("sports field",),
    "pole": ("post",),
    "potted plant": ("plant in a pot",),
    "railroad": ("railway track",),
    "refrigerator": ("fridge",),
    "remote": ("remote control",),
    "rhesus monkey": ("monkey", "macaque"),
    "rice": ("white rice", "cooked rice"),
    "road": ("roadway", "road surface"),
    "rug": ("carpet",),
    "sea": ("ocean",),
    "shop": ("store", "shop front"),
    "sign": ("street sign", "traffic sign"),
    "skin": ("bare skin", "person's skin"),
    "sky": ("sky above",),
    "sneakers": ("trainers", "sports shoes"),
    "sports ball": ("ball",),
    "stairs": ("steps", "staircase"),
    "street": ("street in front of the building",),
    "sunglasses": ("dark glasses", "shades"),
    "sweater": ("pullover",),
    "teddy bear": ("stuffed bear", "toy bear"),
    "television": ("tv", "tv set"),
    "tiger": ("striped tiger", "big striped cat"),
    "toothbrush": ("tooth brush",),
    "tree": ("tree with leaves and branches",),
    "turtle": ("turtle with its shell", "tortoise"),
    "vegetation": ("plants", "greenery"),
    "white bread": ("slice of bread", "bread"),
    "window": ("window of the building",),
    "window blind": ("blind",),
    "elephant": ("grey elephant", "animal with a trunk"),
    "bear": ("furry bear",),
    "deer": ("wild deer",),
    "dress": ("worn dress",),
}
"""Other names for the whole of a class; each is used after "the"."""

_CONFUSABLE = tuple(
    frozenset(group.split(","))
    for group in (
        "blouse,shirt,t-shirt,top,sweater,jumper,sweatshirt,hoodie,cardigan,vest,bodysuit,bra,intimate,dress,romper",
        "blazer,jacket,coat,cape,cardigan,suit,vest,hoodie,sweater,jumper,sweatshirt",
        "boots,clogs,flats,heels,loafers,pumps,sandals,shoes,sneakers,wedges",
        "bag,purse,wallet,handbag,backpack,suitcase",
        "jeans,pants,leggings,tights,stockings,socks,suit,shorts,romper,bodysuit",
        "dress,romper,skirt,shorts,bodysuit,swimwear,suit,cape",
        "bra,intimate,panties,swimwear,bodysuit",
        "glasses,sunglasses",
        "scarf,tie,necklace,accessories,cape",
        "bracelet,necklace,earrings,ring,watch,accessories,belt,gloves,hat,tie,glasses,sunglasses,wallet",
        "pedestrian,bicyclist,person",
        "bicycle,motorcycle,bicyclist",
        "car,truck,bus,train",
        "pole,sign,fence,traffic light,stop sign,parking meter,light,banner",
        "couch,chair,bench,bed,pillow,blanket",
        "cup,bowl,wine glass,bottle,vase",
        "table,dining table,counter,cabinet,shelf,oven,sink,microwave,refrigerator",
        "fork,knife,spoon",
        "floor,wooden floor,rug,pavement,platform,road,playing field,dirt,gravel,sand,grass,railroad,stairs,rock,snow",
        "building,house,roof,bridge,tent,wall,brick wall,stone wall,tiled wall,wooden wall,window,door,ceiling,fence",
        "window,window blind,curtain,mirror,door,light",
        "water,sea,river",
        "mountain,rock,stone wall,dirt,tree",
        "fruit,apple,banana,orange,food,sandwich,broccoli,carrot,hot dog,pizza,donut,cake",
        "flower,potted plant,tree,vegetation,grass,vase,mountain",
        "blanket,towel,rug,pillow,curtain,window blind,bed,couch",
        "cardboard,paper,book,banner",
        "fence,net",
        "skis,snowboard,skateboard,surfboard",
        "frisbee,kite,sports ball",
        "baseball bat,baseball glove,tennis racket,sports ball",
        "television,laptop,cell phone,remote,keyboard,mouse",
        "cat,dog",
        "sheep,cow,horse",
        "bear,teddy bear",
    )
)
_NEVER_ABSENT = frozenset(
    ("accessories", "intimate", "top", "skin", "hair", "shoes", "light", "person", "food")
)
"""Names too wide for anybody to say "there is none"."""


def plain_phrase(name: str) -> str:
    """The one form that is used for measuring: "the tiger"."""
    return f"the {name}"


def indefinite_phrase(name: str) -> str:
    """As a caption mentions it: "a tiger", "an umbrella", "rice", "jeans"."""
    if name in MASS_NOUNS or name in PLURAL_NOUNS:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(name: str) -> str:
    """Plural of a count noun: "tigers", "buses", "knives"."""
    if name in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def varied_phrase(name: str, rng: np.random.Generator) -> str:
    """A random way to ask for every pixel of a class, half of the time the plain one."""
    forms = [name, f"the {name} in the picture"]
    forms += [f"the {synonym}" for synonym in SYNONYMS.get(name, ())] * 2
    if name in MASS_NOUNS or name in PLURAL_NOUNS:
        forms += [f"all the {name}"]
    else:
        forms += [indefinite_phrase(name), f"every {name}", f"all {plural(name)}"]
    if rng.random() < 0.5:
        return plain_phrase(name)
    return forms[rng.integers(len(forms))]


def surely_absent(name: str, present: list[str]) -> bool:
    """Whether nothing labelled with one of ``present`` could also be called ``name``.

    A label set names each pixel once, so that a missing "table" may hide under "dining table", a "window" in a
    "house" and a "shirt" under "blouse": such pairs, and names that share a word, make no trustworthy empty target.
    """
    if name in _NEVER_ABSENT or name in present:
        return False
    words = set(name.split())
    return not any(
        words & set(other.split()) or any(name in group and other in group for group in _CONFUSABLE)
        for other in present
    )
