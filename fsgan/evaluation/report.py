"""An evaluation as a page to read: figures, plots, worst frames."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsgan.assets import render
from fsgan.evaluation.results import NOT_MEASURED, Evaluation, FrameScores
from fsgan.media.files import write_beside
from fsgan.media.images import (
    contact_sheet,
    data_url,
    encode_jpeg,
    rasterize,
    write_image,
)
from fsgan.media.provenance import STATEMENT, image_xmp

_STANDS_OUT = 0.9  # share of the frames that are better, from which a reason is named
_TILE = 192  # pixels, of a face among the worst
# What `worst_frames` ranks by: its name, format, and the sign that makes more worse.
_REASONS = {
    "expression": ("expression", "{:.3f}", 1),
    "seam": ("seam", "{:.2f}", 1),
    "to_target": ("likeness to the target", "{:.3f}", -1),
}
_HEAT_MAPS = {  # the titles
    "target": "within the target",
    "source": "within the source",
    "swapped": "swapped against the real target",
}
_CURVES = {
    "cosine similarity": {"to_target": "tab:orange", "to_source": "tab:blue"},
    "expression,\neye distances": {"expression": "tab:green"},
    "pose, degrees": {"pose": "tab:purple"},
    "seam,\nagainst the source": {"seam": "tab:brown"},
    "outside,\nlevels of 255": {"outside": "tab:gray"},
}
_HISTOGRAMS = {"psnr": "PSNR, dB", "ssim": "SSIM"}


def write_report(
    evaluation: Evaluation,
    worst: list[tuple[int, np.ndarray, np.ndarray]],
    faces: dict[str, list[np.ndarray]],
    out_dir: str | Path,
) -> Path:
    """Writes the page, which needs no other file, and what is in it beside it.

    Args:
        evaluation: what was measured.
        worst: index, face in the source and in the swapped frame of some bad frames,
            RGB uint8 (height, width, 3), the worst first.
        faces: aligned crops of "target", "source" and "swapped", RGB uint8 (size, size,
            3), evenly chosen from those of the heat maps.
        out_dir: folder for `report.html`, `report.json`, `identity.png`,
            `over_time.png`, `reconstruction.png` and, if frames are given, `worst.jpg`.
            What shows swapped faces is marked as synthetic.

    Returns:
        `report.html`.

    Raises:
        OSError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    text = json.dumps(asdict(evaluation), indent=1, allow_nan=False)
    with write_beside(out_dir / "report.json") as path:
        path.write_text(text + "\n", encoding="utf-8")
    figures = {
        "identity": draw_identity(evaluation, faces),
        "over_time": draw_frames(evaluation),
        "reconstruction": draw_reconstruction(evaluation),
    }
    plots = {}
    for name, figure in figures.items():
        xmp = image_xmp() if name == "identity" else None
        write_image(out_dir / f"{name}.png", rasterize(figure), xmp)
        plots[name] = data_url((out_dir / f"{name}.png").read_bytes(), "image/png")
    frames = {frame.index: frame for frame in evaluation.frames}
    shown, tiles, labels = [], [], []
    for index, *pictures in worst:
        reason = _reason(frames[index], evaluation.frames)
        jpegs = (encode_jpeg(picture, image_xmp()) for picture in pictures)
        urls = [data_url(jpeg, "image/jpeg") for jpeg in jpegs]
        shown.append((frames[index], reason, urls))
        tiles += pictures
        labels += [f"frame {index}", reason.split(" (")[0]]
    (out_dir / "worst.jpg").unlink(missing_ok=True)  # of an earlier evaluation
    if worst:
        sheet = contact_sheet(tiles, 4, _TILE, labels)
        write_image(out_dir / "worst.jpg", sheet, image_xmp())
    page = render(
        "evaluation_report.html",
        evaluation=evaluation,
        plots=plots,
        worst=shown,
        statement=STATEMENT,
    )
    with write_beside(out_dir / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return out_dir / "report.html"


def draw_identity(evaluation: Evaluation, faces: dict[str, list[np.ndarray]]) -> Figure:
    """Draws how alike faces are: heat maps on one colour scale, faces on the margin."""
    maps = {name: np.array(rows) for name, rows in evaluation.similarities.items()}
    lowest = min((similarity.min() for similarity in maps.values()), default=0)
    highest = max((similarity.max() for similarity in maps.values()), default=1)
    figure = Figure(figsize=(11.5, 4.2), layout="constrained")
    axes = figure.subplots(1, len(_HEAT_MAPS))
    for axis, (name, title) in zip(axes, _HEAT_MAPS.items(), strict=True):
        axis.set(title=title, xticks=[], yticks=[])
        axis.set_box_aspect(1)
        if name not in maps:
            _say_not_measured(axis)
            continue
        image = axis.imshow(maps[name], vmin=lowest, vmax=highest, aspect="auto")
        columns = faces["source" if name == "source" else "target"]
        for place, strip in (
            ((-0.13, 0, 0.12, 1), contact_sheet(faces[name], 1)),
            ((0, 1.01, 1, 0.12), contact_sheet(columns, len(columns))),
        ):
            margin = axis.inset_axes(place)
            margin.imshow(strip, aspect="auto")
            margin.set_axis_off()
    if maps:
        figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.7)
    return figure


def draw_frames(evaluation: Evaluation) -> Figure:
    """Draws what was measured of each frame, over the time in the source."""
    figure = Figure(figsize=(11.5, 9), layout="constrained")
    axes = figure.subplots(len(_CURVES), 1, sharex=True)
    seconds = [frame.seconds for frame in evaluation.frames]
    for axis, (title, measures) in zip(axes, _CURVES.items(), strict=True):
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        for measure, colour in measures.items():
            values = np.array([getattr(x, measure) for x in evaluation.frames], float)
            label = measure.replace("_", " the ")
            axis.plot(seconds, values, ".", color=colour, ms=4, label=label)
            if np.isnan(values).all():
                _say_not_measured(axis)
        for frame in evaluation.frames:
            if not frame.found:
                axis.axvline(frame.seconds, color="red", alpha=0.5, lw=1)
            elif frame.index in evaluation.worst:
                axis.axvline(frame.seconds, color="black", alpha=0.3, lw=1, ls=":")
    axes[3].axhline(1, color="tab:brown", ls="--", lw=1)
    for measure, label, colour in (
        ("within_target", "two faces of the target", "tab:orange"),
        ("target_to_source", "target and source", "tab:blue"),
    ):
        if (value := evaluation.figures.get(measure)) is not None:
            axes[0].axhline(value, color=colour, ls="--", lw=1, label=label)
            axes[0].legend(ncols=4, fontsize="small", loc="best")
    axes[-1].set_xlabel(
        "seconds in the source; dotted: worst frames; red: no face found in the swap"
    )
    return figure


def draw_reconstruction(evaluation: Evaluation) -> Figure:
    """Draws how near held-out faces come to themselves."""
    figure = Figure(figsize=(11.5, 2.8), layout="constrained")
    axes = figure.subplots(1, len(_HISTOGRAMS))
    for axis, (measure, title) in zip(axes, _HISTOGRAMS.items(), strict=True):
        axis.set(title=title, ylabel="faces")
        values = {
            person.upper(): summary.values
            for person in "ab"
            if (summary := evaluation.figures.get(f"{measure}_{person}"))
        }
        if not values:
            _say_not_measured(axis)
            continue
        bins = np.histogram_bin_edges(np.concatenate(list(values.values())), 20)
        for person, of_person in values.items():
            axis.hist(of_person, bins, alpha=0.6, label=person)
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    return figure


def _reason(frame: FrameScores, frames: Sequence[FrameScores]) -> str:
    """What is bad about a frame, in words."""
    if not frame.found:
        return "no face is found in the swap"
    reasons = []
    for measure, (name, style, sign) in _REASONS.items():
        value = getattr(frame, measure)
        if value is not None:
            others = [getattr(other, measure) for other in frames]
            better = [sign * x < sign * value for x in others if x is not None]
            share = float(np.mean(better))
            text = f"{name} {style.format(value)} (worse than {share:.0%} of frames)"
            reasons.append((share, text))
    reasons.sort(reverse=True)
    named = [text for share, text in reasons if share >= _STANDS_OUT]
    return "; ".join(named or [text for _, text in reasons[:1]])


def _say_not_measured(axis: Axes) -> None:
    axis.text(0.5, 0.5, NOT_MEASURED, transform=axis.transAxes, ha="center")
