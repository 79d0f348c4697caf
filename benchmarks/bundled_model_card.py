"""Write what `bundled_model.py` measured into the bundled model's card.

python benchmarks/bundled_model.py --model tiny --photos FOLDER --json own.json
python benchmarks/bundled_model.py --model tiny --photos FOLDER --decoder vae --threshold 0.5 --json plain.json
python benchmarks/bundled_model_card.py own.json plain.json src/genmask/models/tiny/README.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bundled_model_report import FREQUENT, GROUPS

BEGIN, END = "<!-- scores: begin -->\n", "<!-- scores: end -->"


def lines(own: dict[str, Any], plain: dict[str, Any]) -> Iterator[str]:
    """Markdown tables of a model as it answers unasked, and beside it with the VAE's decoder and a threshold of 0.5."""
    scenes = own["scenes"], plain["scenes"]
    title = f"{scenes[0]['scenes']:,} drawn scenes of {scenes[0]['picture_size']} px, one sentence each"
    yield f"| {title} | model | VAE decoder, 0.5 | oracle |"
    yield "|---|---|---|---|"

    def row(name: str, get: Callable[[dict[str, Any]], dict[str, Any]], write: Callable[[float], str]) -> str:
        found = [get(each) for each in scenes]
        values = [found[0]["model"], found[1]["model"], found[0]["oracle"]]
        return f"| {name} | " + " | ".join(write(value) for value in values) + " |"

    def get(what: str, kind: str | None = None) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda each: {
            who: (each["one_object"] if kind is None else each["kinds"][kind])[who][what]
            for who in ("model", "oracle")
        }

    yield row("oIoU, sentences that name one object", get("oIoU"), "{:.3f}".format)
    yield row("mIoU, sentences that name one object", get("mIoU"), "{:.3f}".format)
    for kind in scenes[0]["kinds"]:
        yield row(f"oIoU, {kind}", get("oIoU", kind), "{:.3f}".format)
    for name in ("absent", "present"):
        yield row(
            f"{name} targets answered empty", lambda each, n=name: each["answered_empty"][n], "{:.1%}".format
        )
    exchanged = [each["exchanged_sentences_oIoU"] for each in scenes]
    yield f"| oIoU with the sentences exchanged between pictures | {exchanged[0]:.3f} | {exchanged[1]:.3f} | |"
    yield ""

    photographs = own["photographs"], plain["photographs"]
    yield (
        f"| {photographs[0]['photographs']} validation photographs, at their own size | model | VAE decoder, 0.5 | "
        "best constant answer | classes exchanged | oracle |"
    )
    yield "|---|---|---|---|---|---|"
    sources = photographs[0]["sources"]
    for source in sources:
        if source not in GROUPS:
            yield _photographs_row(f"oIoU, {source}", photographs, source, "oIoU")
    pairs, classes, frequent = (
        sources["all"]["model"]["pairs"], sources["all"]["model"]["classes"], sources["frequent"]["model"]["classes"]
    )  # fmt: skip
    name = f"**oIoU over all {pairs:,} (photograph, class) pairs**"
    yield _photographs_row(name, photographs, "all", "oIoU")
    yield _photographs_row(f"**its mean over {classes} classes**", photographs, "all", "macro")
    name = f"its mean over the {frequent} of at least {FREQUENT} training photographs"
    yield _photographs_row(name, photographs, "frequent", "macro")
    yield ""

    speed = own["speed"]
    yield f"| speed, a picture of 256 x 256, {speed['device']}, {speed['threads']} threads | seconds |"
    yield "|---|---|"
    for name, seconds in speed["seconds"].items():
        yield f"| {name} | {seconds:.2f} |"


def _photographs_row(name: str, reports: tuple[dict[str, Any], ...], source: str, what: str) -> str:
    own, plain = (report["sources"][source] for report in reports)
    values = [own["model"], plain["model"], own["constant"], own["exchanged"], own["oracle"]]
    return f"| {name} | " + " | ".join(f"{value[what]:.3f}" for value in values) + " |"


def main(own: str, plain: str, card: str) -> None:
    found = lines(json.loads(Path(own).read_text()), json.loads(Path(plain).read_text()))
    before, rest = Path(card).read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    Path(card).write_text(before + BEGIN + "\n".join(found) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python benchmarks/bundled_model_card.py OWN.json PLAIN.json CARD.md")
    main(*sys.argv[1:])
