"""The figures, drawn by matplotlib: no titles, axes with units, colours that colour-blind people tell apart."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from genmask.analysis.components import Components
from genmask.analysis.densities import BIN, Density
from genmask.analysis.noise import LinearAccuracy, Survival
from genmask.atomic import replace_file
from genmask.segmentation import Segmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#666666"
"""Okabe and Ito's."""
NOISE_LEVEL = "noise level t (1 is pure noise)"
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "genmask",  # or the names of its parts would differ from run to run
}


def draw_survival(
    numbers: Survival, levels: Sequence[float], mask: Sequence[np.ndarray], picture: Sequence[np.ndarray]
) -> Figure:
    """Figure 2.

    Args:
        numbers: the curves.
        levels: noise levels of the pictures.
        mask, picture: decoded at each, (h, w, 3) in [0, 1].
    """
    figure = _figure(7.2, 5.0)
    grid = figure.add_gridspec(3, 1, height_ratios=(1, 1, 2.1))
    for row, decoded in enumerate((mask, picture)):
        places = grid[row].subgridspec(1, len(levels), wspace=0.04)
        for column, (t, image) in enumerate(zip(levels, decoded, strict=True)):
            axes = figure.add_subplot(places[column])
            _show(axes, image)
            if row == 0:
                axes.set_title(f"t = {t:g}", fontsize=9)
            if column == 0:
                axes.set_ylabel(("mask", "picture")[row])
    curves = grid[2].subgridspec(1, 2, wspace=0.1)
    left, right = figure.add_subplot(curves[0]), figure.add_subplot(curves[1])
    left.plot(numbers.t, numbers.mask_iou, color=BLUE, label="masks: IoU")
    left.plot(numbers.t, numbers.mask_correlation, color=BLUE, linestyle="--", label="masks: correlation")
    left.plot(
        numbers.t, numbers.picture_correlation, color=ORANGE, linestyle="--", label="pictures: correlation"
    )
    left.set(xlabel=NOISE_LEVEL, ylabel="agreement with the original", xlim=(0, 1), ylim=(0, 1.02))
    left.legend(loc="lower left")
    right.plot(numbers.t, numbers.mask_psnr, color=BLUE, label="masks")
    right.plot(numbers.t, numbers.picture_psnr, color=ORANGE, label="pictures")
    right.set(xlabel=NOISE_LEVEL, ylabel="PSNR (dB)", xlim=(0, 1), ylim=(0, None))
    right.legend(loc="upper right")
    return figure


def draw_components(numbers: Components, masks: Sequence[np.ndarray], first: Sequence[np.ndarray]) -> Figure:
    """Figure 3: masks (h, w) bool, the first component of their cells (h / 8, w / 8), and what components explain."""
    figure = _figure(7.2, 4.0)
    grid = figure.add_gridspec(3, 1, height_ratios=(1, 1, 1.7))
    bound = max(float(np.abs(plane).max()) for plane in first)
    for row, planes in enumerate((masks, first)):
        places = grid[row].subgridspec(1, len(masks), wspace=0.04)
        for column, plane in enumerate(planes):
            axes = figure.add_subplot(places[column])
            if row == 0:
                _show(axes, plane, cmap="gray", vmin=0, vmax=1)
            else:
                _show(axes, plane, cmap="PuOr_r", vmin=-bound, vmax=bound, interpolation="nearest")
            if column == 0:
                axes.set_ylabel(("mask", "1st component")[row])
    curves = grid[2].subgridspec(1, 2, wspace=0.1)
    left, right = figure.add_subplot(curves[0]), figure.add_subplot(curves[1])
    ranks = np.arange(1, len(numbers.mask_variance) + 1)
    left.bar(ranks - 0.2, np.array(numbers.mask_variance) * 100, 0.4, color=BLUE, label="masks")
    left.bar(ranks + 0.2, np.array(numbers.picture_variance) * 100, 0.4, color=ORANGE, label="pictures")
    left.set(xlabel="principal component of the latents", ylabel="variance explained (%)", xticks=ranks[::3])
    left.legend(loc="upper right")
    right.bar(ranks, numbers.correlation, 0.6, color=BLUE)
    right.set(
        xlabel="principal component of masks' latents",
        ylabel="correlation with the mask",
        xticks=ranks[::3],
        ylim=(0, 1),
    )
    return figure


def draw_linear_accuracy(numbers: LinearAccuracy) -> Figure:
    """Figure 4."""
    figure = _figure(7.2, 2.7)
    left, right = figure.subplots(1, 2)
    names = {1: "from a cell's latents", 3: "and those of its neighbours"}
    for kernel, colour in ((1, BLUE), (3, ORANGE)):
        left.plot(numbers.t, np.array(numbers.accuracy[kernel]) * 100, color=colour)
        right.plot(numbers.t, numbers.iou[kernel], color=colour, label=names[kernel])
    left.axhline(numbers.majority * 100, color=GREY, linestyle=":", label="answering nothing")
    left.set(xlabel=NOISE_LEVEL, ylabel="pixels told right (%)", xlim=(0, 1), ylim=(None, 100.5))
    right.set(xlabel=NOISE_LEVEL, ylabel="IoU", xlim=(0, 1), ylim=(0, 1.02))
    left.legend(loc="center left")
    right.legend(loc="lower left")
    return figure


def draw_densities(numbers: dict[str, Density]) -> Figure:
    """Figure 5: the first density, and beside it the others; the paper's as bars, and as drawn."""
    figure = _figure(7.2, 2.7)
    left, right = figure.subplots(1, 2)
    names = list(numbers)
    edges = np.linspace(0, 1, round(1 / BIN) + 1)
    for axes, name in ((left, names[0]), (right, "power law, a = 0.07")):
        drawn = np.array(numbers[name].drawn) * 100
        axes.stairs(drawn, edges, fill=True, color="#56B4E9", alpha=0.6, label=f"{name}, drawn")
    for axes, shown in ((left, names[:1]), (right, names[1:])):
        for name, colour in zip(shown, (BLUE, ORANGE, GREEN, PURPLE), strict=False):
            probability = np.array(numbers[name].probability) * 100
            axes.plot((edges[1:] + edges[:-1]) / 2, probability, color=colour, linewidth=1.3, label=name)
        axes.set(
            xlabel=NOISE_LEVEL,
            ylabel=f"probability (% per bin of {BIN:g})",
            xlim=(0, 1),
            ylim=(0, 1.35 * axes.dataLim.y1),
        )
        axes.legend(loc="upper left", fontsize=8)
    return figure


def draw_samples(answers: Sequence[Segmentation], truths: Sequence[np.ndarray], columns: int = 2) -> Figure:
    """Figure 7: picture, the model's soft mask and the right mask of each, the sentence above."""
    rows = -(-len(answers) // columns)
    figure = _figure(3.7 * columns, 1.62 * rows)
    grid = figure.add_gridspec(rows, columns, wspace=0.08)
    for number, (answer, truth) in enumerate(zip(answers, truths, strict=True)):
        part = figure.add_subfigure(grid[number // columns, number % columns])
        part.suptitle(textwrap.shorten(answer.text, 56, placeholder=" ..."), fontsize=9)
        places = part.subplots(1, 3)
        _show(places[0], np.asarray(answer.image))
        _show(places[1], answer.soft_mask, cmap="gray", vmin=0, vmax=1)
        _show(places[2], truth, cmap="gray", vmin=0, vmax=1)
        if number < columns:
            for axes, what in zip(places, ("picture", "answer", "truth"), strict=True):
                axes.set_title(what, fontsize=8, color=GREY)
    return figure


def draw_reliability(reports: Mapping[str, Any]) -> Figure:
    """What `measure_calibration` found: share of true pixels against soft value, a row of sources for each decoder.

    A dot is a bin; its area grows with the root of the pixels in it.
    """
    sources = list(next(iter(reports.values()))["sources"])
    figure = _figure(3.2 * len(sources) + 0.8, 3.0 * len(reports))
    places = figure.subplots(len(reports), len(sources), squeeze=False, sharex=True, sharey=True)
    for row, (decoder, report) in zip(places, reports.items(), strict=True):
        for axes, source in zip(row, sources, strict=True):
            axes.plot((0, 1), (0, 1), color=GREY, linestyle=":")
            temperatures = {"before": 1.0, "after": report["temperature"]}
            for (when, temperature), colour in zip(temperatures.items(), (ORANGE, BLUE), strict=True):
                scores = report["sources"][source]["soft_mask"][when]
                soft, true, share = (
                    np.array([row[key] for row in scores["reliability"]]) for key in ("soft", "true", "share")
                )
                label = f"T = {temperature:.2f}, calibration error {scores['calibration_error']:.4f}"
                axes.plot(soft, true, color=colour, linewidth=1.2, label=label)
                axes.scatter(soft, true, 4 + 150 * np.sqrt(share), color=colour, linewidths=0)
            axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), aspect="equal")
            axes.legend(loc="upper left", fontsize=7)
            if axes in places[0]:
                axes.set_title(source, fontsize=9)
            if axes in places[-1]:
                axes.set_xlabel("soft mask")
        row[0].set_ylabel(f"{decoder}: share of true pixels")
    return figure


@contextmanager
def drawing() -> Iterator[None]:
    """Figures are drawn and saved within.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise ValueError(
            "Got no matplotlib, expected it for figures: pip install 'genmask[figures]'"
        ) from error
    with matplotlib.rc_context(STYLE):
        yield


def save_figure(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write it as PNG and as SVG, each in one step; the same numbers give the same bytes."""
    files = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        buffer = BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        files.append(folder / f"{stem}.{suffix}")
        replace_file(files[-1], buffer.getvalue())
    return files


def _figure(width: float, height: float) -> Figure:
    """In inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _show(axes: Axes, image: np.ndarray, **options: Any) -> None:
    axes.imshow(image, **options)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=GREY, linewidth=0.5)
