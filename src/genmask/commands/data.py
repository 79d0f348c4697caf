"""genmask data"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from genmask.commands.inference import Flag


@dataclass(frozen=True, kw_only=True)
class Data:
    """Look through your own data before you train on them: everything that is wrong, at once.

    genmask data check mugs --sheet sheet.png

    Reads a folder with captions.jsonl, COCO instance JSON, or LabelMe's files. Exit code 2 if anything would keep a
    training from reading it.
    """

    action: Annotated[Literal["check"], tyro.conf.Positional]
    """What to do."""
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """The folder, or a COCO file."""
    images: Path | None = None
    """Folder of the pictures, where a COCO file does not lie beside them."""
    sheet: Path | None = None
    """Draw a contact sheet of the samples that can be read, as PNG."""
    json: Flag = False
    """Print one JSON document on stdout, and nothing else there."""

    def run(self) -> None:
        from genmask.data.check import check_folder
        from genmask.data.contact_sheet import contact_sheet

        report = check_folder(self.path, self.images)
        if self.sheet is not None and len(report.examples):
            contact_sheet(report.examples, self.sheet)
        if self.json:
            names = ("layout", "rows", "pictures", "masks", "absent", "captions")
            counts = {name: getattr(report, name) for name in names}
            problems = [asdict(problem) for problem in report.problems]
            print(json.dumps({"path": str(self.path), **counts, "problems": problems}, indent=2))
        else:
            print(report.summary())
            if self.sheet is not None and len(report.examples):
                print(self.sheet)
        if not report.is_usable:
            raise ValueError(
                f"Got {self.path} with {len(report.problems)} problems, expected data that can be read: mend what is "
                "listed above."
            )
