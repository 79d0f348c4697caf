"""Photographs that make no good cut-out, found by looking at them.

Their class mask joins several objects (a herd, two slices), or holds half of one, or something else altogether
(a fence in front of a bear): no measure of a mask tells these from the good ones.
"""

# fmt: off
REJECTED: dict[str, frozenset[str]] = {
    "animals": frozenset((
        "000000000263_jpg_b80620", "000000000757_jpg_5a9b60", "000000000934_jpg_2d8ba7",
        "000000004208_jpg_1aab9e", "000000004229_jpg_27f8d6", "000000004278_jpg_e0fc0c",
        "000000004338_jpg_be68f6", "000000005184_jpg_8e48cb", "000000006748_jpg_63073e",
        "000000007498_jpg_9e4d8a", "000000008549_jpg_a8aeb3", "000000009203_jpg_9bee15",
        "000000010471_jpg_5815cd", "000000010735_jpg_676bd1", "000000011791_jpg_0fe993",
        "000000013550_jpg_d58ec6", "000000013763_jpg_f37182", "000000013843_jpg_590255",
        "000000014008_jpg_82866f", "000000014818_jpg_00637c", "000000015190_jpg_55852a",
        "000000015599_jpg_a680ff", "000000016704_jpg_99c809", "000000019227_jpg_ca81e4",
        "000000023976_jpg_9a26f0", "000000024290_jpg_1a000b", "000000025191_jpg_f177d2",
        "000000026443_jpg_1da6bf", "000000026762_jpg_85267d", "000000027032_jpg_508710",
        "000000027070_jpg_e97274", "000000032522_jpg_405b8b", "000000037582_jpg_b2a6bb",
        "000000041938_jpg_fe72b6", "000000051894_jpg_360c1e", "000000054262_jpg_910922",
        "000000059079_jpg_8da3d4", "000000062540_jpg_4dfc1d", "000000260166_jpg_7d7aa0",
        "000000260336_jpg_32a20e", "000000262979_jpg_527fa2", "000000273106_jpg_f8c7bd",
        "000000274286_jpg_6618da", "000000280911_jpg_56152c", "000000284778_jpg_4bf351",
        "000000292384_jpg_b531c0", "000000293378_jpg_c29b3c", "000000568315_jpg_d83888",
        "000000577364_jpg_82a816", "26575708196fad75_jpg_459fe1", "2a43729d236705a9_jpg_19b6a5",
        "3135d95572a4bedd_jpg_2edda0", "3642693b01ec44ac_jpg_b3024b", "3e4533865eadfab8_jpg_960914",
        "c333977ef0dfc924_jpg_1af294", "d9d4e60e85ae3ed8_jpg_955808", "e182bb807b715675_jpg_166831",
    )),
    "building_facades": frozenset((
        "20230329_205115_762_R_scaled_0_png_jpg_0b6518", "20230417_202915_787_R_scaled_0_png_jpg_de5209",
        "20230424_211848_867_R_scaled_0_png_jpg_e62208", "IMG_0769_scaled_0_png_jpg_287fcd",
        "IMG_0769_scaled_1_png_jpg_77985d", "IMG_0815_scaled_0_png_jpg_f1fd7b",
        "IMG_0845_scaled_0_png_jpg_d416a6", "IMG_0845_scaled_1_png_jpg_ab1622",
        "IMG_0884_scaled_1_png_jpg_dd46ed",
    )),
    "coco_instances": frozenset((
        "000000025603", "000000057345", "000000069468", "000000092660", "000000108548", "000000113488",
        "000000125870", "000000153299", "000000155341", "000000166918", "000000199681", "000000244592",
        "000000277005", "000000379349", "000000385029", "000000402433", "000000404484", "000000408805",
        "000000423617", "000000436738", "000000454661", "000000493652",
    )),
    "coco_panoptic": frozenset((
        "000000000036", "000000000042", "000000000073", "000000000144", "000000000263", "000000000309",
        "000000000315", "000000000328", "000000000446", "000000000776", "000000006763", "000000009448",
    )),
    "indonesian_food": frozenset((
        "dataset_iphone_00012", "dataset_iphone_00025", "dataset_stage2_101",
    )),
}
# fmt: on
"""By source: ids of photographs."""
