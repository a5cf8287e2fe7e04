"""An evaluation as a page to read: figures, plots, worst frames."""

from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fsgan.evaluation.results import (
    NOT_MEASURED,
    Evaluation,
    FrameScores,
    render,
    worst_stretches,
)
from fsgan.media.images import contact_sheet, write_beside, write_image
from fsgan.media.provenance import STATEMENT, image_xmp

_STANDS_OUT = 0.9  # share of the frames that are better, from which a reason is named
_TILE = 192  # pixels, of a face among the worst
_THUMBNAILS = 8  # beside a heat map, at most
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
_HISTOGRAMS = {"psnr": "PSNR, dB", "ssim": "SSIM", "features": "features"}


def write_report(
    evaluation: Evaluation,
    worst: list[tuple[int, np.ndarray, np.ndarray]],
    faces: dict[str, list[np.ndarray]],
    out_dir: str | Path,
) -> Path:
    """Writes the page, one file that needs no other, and its pictures beside it.

    Args:
        evaluation: what was measured.
        worst: index, face in the source and in the swapped frame of some bad frames,
            RGB uint8 (height, width, 3), the worst first.
        faces: aligned crops of "target", "source" and "swapped", RGB uint8 (size, size,
            3), evenly chosen from those of the heat maps.
        out_dir: folder for `report.html`, `identity.png`, `over_time.png`,
            `reconstruction.png` and, if frames are given, `worst.jpg`. What shows
            swapped faces is marked as synthetic.

    Returns:
        `report.html`.

    Raises:
        OSError: the folder cannot be written.
    """
    out_dir = Path(out_dir)
    plots = {
        "identity": draw_identity(evaluation, faces),
        "over_time": draw_frames(evaluation),
        "reconstruction": draw_reconstruction(evaluation),
    }
    for name, figure in plots.items():
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        xmp = image_xmp() if name == "identity" else None
        write_image(out_dir / f"{name}.png", pixels, xmp)
    frames = {frame.index: frame for frame in evaluation.frames}
    reasons = [_reason(frames[index], evaluation.frames) for index, *_ in worst]
    sheet = out_dir / "worst.jpg"
    sheet.unlink(missing_ok=True)  # of an earlier evaluation
    if worst:
        labels = [
            label
            for (index, *_), reason in zip(worst, reasons, strict=True)
            for label in (f"frame {index}", reason.split(" (")[0])
        ]
        tiles = [picture for _, *both in worst for picture in both]
        write_image(sheet, contact_sheet(tiles, 4, _TILE, labels), image_xmp())
    page = render(
        "evaluation_report.html",
        evaluation=evaluation,
        plots={
            name: _data_url((out_dir / f"{name}.png").read_bytes(), "png")
            for name in plots
        },
        worst=[
            (frames[index], reason, [_data_url(_jpeg(x), "jpeg") for x in both])
            for (index, *both), reason in zip(worst, reasons, strict=True)
        ],
        stretches=worst_stretches(evaluation),
        out=Path(evaluation.swapped),
        statement=STATEMENT,
    )
    with write_beside(out_dir / "report.html") as path:
        path.write_text(page, encoding="utf-8")
    return out_dir / "report.html"


def draw_identity(evaluation: Evaluation, faces: dict[str, list[np.ndarray]]) -> Figure:
    """Draws how alike faces are, as heat maps on one colour scale.

    Args:
        evaluation: what was measured.
        faces: aligned crops of "target", "source" and "swapped", for the margins.

    Returns:
        A figure that belongs to no window.
    """
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
        _thumbnails(axis.inset_axes((-0.13, 0, 0.12, 1)), faces[name], True)
        _thumbnails(axis.inset_axes((0, 1.01, 1, 0.12)), columns, False)
    if maps:
        figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.7)
    return figure


def draw_frames(evaluation: Evaluation) -> Figure:
    """Draws what was measured of each frame, over the time in the source.

    Args:
        evaluation: what was measured.

    Returns:
        A figure that belongs to no window.
    """
    figure = Figure(figsize=(11.5, 9), layout="constrained")
    axes = figure.subplots(len(_CURVES), 1, sharex=True)
    for axis, (title, measures) in zip(axes, _CURVES.items(), strict=True):
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        for measure, colour in measures.items():
            _curve(axis, evaluation.frames, measure, colour)
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
    """Draws how near held-out faces come to themselves.

    Args:
        evaluation: what was measured.

    Returns:
        A figure that belongs to no window.
    """
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


def _jpeg(picture: np.ndarray) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 90]
    return cv2.imencode(".jpg", picture[..., ::-1], options)[1].tobytes()


def _data_url(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def _thumbnails(strip: Axes, faces: Sequence[np.ndarray], down: bool) -> None:
    """Lays faces along a margin, each at the middle of its share of it."""
    strip.set(xlim=(0, 0.12 if down else 1), ylim=(1, 0) if down else (0.12, 0))
    strip.set_axis_off()
    for place, face in enumerate(faces):
        middle = (place + 0.5) / len(faces)
        along, across = (middle - 0.055, middle + 0.055), (0.0, 0.11)
        extent = (*across, *along[::-1]) if down else (*along, *across[::-1])
        strip.imshow(face, extent=extent, aspect="auto")


def _curve(
    axis: Axes, frames: Sequence[FrameScores], measure: str, colour: str
) -> None:
    """Draws a measure of the frames that have it, with gaps where there are."""
    points = [(frame.seconds, getattr(frame, measure)) for frame in frames]
    points = [point for point in points if point[1] is not None]
    if not points:
        return _say_not_measured(axis)
    seconds, values = np.array(points, float).T
    steps = np.diff(seconds)
    gaps = np.flatnonzero(steps > 3 * np.median(steps)) + 1 if len(steps) else []
    seconds, values = (np.insert(part, gaps, np.nan) for part in (seconds, values))
    label = measure.replace("_", " the ")
    axis.plot(seconds, values, ".-", color=colour, lw=1, ms=3, label=label)


def _say_not_measured(axis: Axes) -> None:
    axis.text(0.5, 0.5, NOT_MEASURED, transform=axis.transAxes, ha="center")
