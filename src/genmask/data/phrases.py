"""From the name of a class to what people say of it: "the tiger", "all tigers", "a photo of a tiger"."""

from __future__ import annotations

import numpy as np

# fmt: off
PLURAL_NOUNS = frozenset((
    "accessories", "boots", "clogs", "earrings", "flats", "glasses", "gloves", "heels", "jeans", "leggings",
    "loafers", "panties", "pants", "pumps", "sandals", "scissors", "shoes", "shorts", "skis", "sneakers",
    "socks", "stairs", "stockings", "sunglasses", "tights", "wedges",
))
# fmt: on
"""Names that are plural already: "the jeans", never "a jeans"."""

# fmt: off
MASS_NOUNS = frozenset((
    "battered fried tempeh", "broccoli", "cardboard", "dirt", "food", "fried catfish", "fried mackerel",
    "fried tempeh", "fried tofu", "fruit", "grass", "gravel", "hair", "intimate",
    "non-building infrastructure", "paper", "pavement", "rice", "sand", "sea", "skin", "sky", "snow",
    "steamed tempeh", "steamed tofu", "street", "sweet braised tempeh", "sweet braised tofu", "swimwear",
    "traffic infrastructure", "vegetation", "water", "white bread",
))
# fmt: on
"""Names of stuff: "the grass", never "a grass" or "all grasses"."""

IRREGULAR_PLURALS = {
    "deer": "deer",
    "knife": "knives",
    "mouse": "mice",
    "person": "people",
    "scarf": "scarves",
    "sheep": "sheep",
    "shelf": "shelves",
}

SYNONYMS = {
    "airplane": ("plane", "aircraft"),
    "balcony fence": ("balcony railing", "railing of the balcony"),
    "baseball glove": ("baseball mitt",),
    "bicycle": ("bike",),
    "bicyclist": ("cyclist", "person on a bicycle"),
    "boat": ("vessel",),
    "building facade": ("facade", "front of the building"),
    "cabinet": ("cupboard",),
    "car": ("automobile",),
    "cell phone": ("phone", "mobile phone"),
    "couch": ("sofa",),
    "cup": ("mug",),
    "dirt": ("bare earth", "soil"),
    "donut": ("doughnut",),
    "elephant": ("animal with a trunk",),
    "flats": ("flat shoes",),
    "glasses": ("eyeglasses", "spectacles"),
    "grass": ("lawn",),
    "hair": ("person's hair",),
    "hair drier": ("hair dryer",),
    "handbag": ("hand bag",),
    "heels": ("high heels", "high-heeled shoes"),
    "intimate": ("underwear",),
    "jeans": ("denim trousers",),
    "light": ("lamp",),
    "motorcycle": ("motorbike",),
    "oven": ("stove",),
    "pants": ("trousers",),
    "pavement": ("sidewalk",),
    "pedestrian": ("person on foot", "walking person"),
    "person": ("human", "human being"),
    "plate": ("dish",),
    "playing field": ("sports field",),
    "pole": ("post",),
    "potted plant": ("plant in a pot",),
    "railroad": ("railway track",),
    "refrigerator": ("fridge",),
    "remote": ("remote control",),
    "rhesus monkey": ("monkey", "macaque"),
    "road": ("roadway", "road surface"),
    "rug": ("carpet",),
    "sea": ("ocean",),
    "shop": ("store",),
    "skin": ("bare skin", "person's skin"),
    "sky": ("sky above",),
    "sneakers": ("trainers", "sports shoes"),
    "sports ball": ("ball",),
    "stairs": ("steps", "staircase"),
    "sunglasses": ("dark glasses", "shades"),
    "sweater": ("pullover",),
    "teddy bear": ("stuffed bear", "toy bear"),
    "television": ("tv", "tv set"),
    "tiger": ("striped big cat",),
    "turtle": ("animal with a shell", "tortoise"),
    "vegetation": ("plants", "greenery"),
    "white bread": ("slice of bread", "bread"),
    "window blind": ("blind",),
}
"""Other names for all that a class holds, each used after "the"."""

_CAPTION_OPENINGS = {
    "camvid": ("a street with", "a view from a car of a street with", "a photo of a road scene with"),
    "clothing_coparsing": ("a person with", "a fashion photo of a person with", "a photo of a person with"),
    "indonesian_food": ("a photo from above of", "a meal with", "a photo of"),
    "building_facades": ("a photo of a building with", "a street view with", "a photo of"),
}

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
        "floor,wooden floor,rug,pavement,platform,road,playing field,dirt,gravel,sand,grass,stairs,snow",
        "building,house,roof,bridge,tent,wall,brick wall,stone wall,tiled wall,wooden wall,window,door",
        "window,window blind,curtain,mirror,door,light",
        "water,sea,river",
        "mountain,rock,stone wall,dirt,gravel,sand,tree",
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
    """The form that is measured: "the tiger"."""
    return f"the {name}"


def indefinite_phrase(name: str) -> str:
    """As a caption mentions it: "a tiger", "an umbrella", "rice", "jeans"."""
    if name in MASS_NOUNS or name in PLURAL_NOUNS:
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def existence_question(name: str) -> str:
    """ "Is there a tiger in the image?"; "Are there jeans in the image?"."""
    return f"{'Are' if name in PLURAL_NOUNS else 'Is'} there {indefinite_phrase(name)} in the image?"


def plural(name: str) -> str:
    """Plural of a count noun: "tigers", "buses", "knives"."""
    if name in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in ("", *"aeiou"):
        return f"{name[:-1]}ies"
    return f"{name}s"


def varied_phrase(name: str, rng: np.random.Generator) -> str:
    """A random way to ask for every pixel of a class; half of the time the plain one."""
    if rng.random() < 0.5:
        return plain_phrase(name)
    forms = [name, f"the {name} in the picture", *(f"the {synonym}" for synonym in SYNONYMS.get(name, ()))]
    if name in MASS_NOUNS or name in PLURAL_NOUNS:
        forms += [f"all the {name}"]
    else:
        forms += [indefinite_phrase(name), f"every {name}", f"all {plural(name)}"]
    return forms[rng.integers(len(forms))]


def caption(names: list[str], source: str, rng: np.random.Generator) -> str:
    """A caption from the classes in a photograph, largest first; it mentions the first three to five."""
    mentioned = [indefinite_phrase(name) for name in names[: rng.integers(3, 6)]]
    openings = _CAPTION_OPENINGS.get(source, ("a photo of", "a picture of", "a photograph of"))
    return f"{openings[rng.integers(len(openings))]} {_listing(mentioned)}"


def _listing(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def surely_absent(name: str, present: frozenset[str]) -> bool:
    """Whether nothing labelled with one of `present` could also be called `name`.

    A label map names each pixel once, so that a missing "table" may hide under "dining table", a "window" in
    a "house" and a "shirt" under "blouse": such pairs, and names that share a word, make no trustworthy
    empty target.
    """
    if name in _NEVER_ABSENT or name in present:
        return False
    words = set(name.split())
    return not any(
        words & set(other.split()) or any(name in group and other in group for group in _CONFUSABLE)
        for other in present
    )
