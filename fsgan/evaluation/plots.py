"""What an evaluation measured, as plots that belong to no window."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fsgan.evaluation.record import Evaluation, FrameScores
from fsgan.evaluation.verdicts import NOT_MEASURED

_MOST_THUMBNAILS = 8  # beside a heat map
_HEAT_MAPS = {
    "target": ("within the target", "target", "target"),
    "source": ("within the source", "source", "source"),
    "fake": ("swapped against the real target", "fake", "target"),
}


def draw_identity(evaluation: Evaluation, faces: dict[str, list[np.ndarray]]) -> Figure:
    """Draws how alike faces are, as heat maps on one scale of colour.

    Args:
        evaluation: what was measured.
        faces: aligned crops of "target", "source" and "fake", to
            be shown in the margins.

    Returns:
        A figure that belongs to no window.
    """
    maps = {name: np.array(rows) for name, rows in evaluation.heat_maps.items()}
    values = np.concatenate([[1.0], *(of_pairs.ravel() for of_pairs in maps.values())])
    figure = Figure(figsize=(11.5, 4.2), layout="constrained")
    axes = figure.subplots(1, len(_HEAT_MAPS))
    for axis, (name, (title, rows, columns)) in zip(
        axes, _HEAT_MAPS.items(), strict=True
    ):
        axis.set(title=title, xticks=[], yticks=[])
        axis.set_box_aspect(1)
        if name not in maps:
            _say_not_measured(axis)
            continue
        image = axis.imshow(
            maps[name], vmin=values.min(), vmax=values.max(), aspect="auto"
        )
        _thumbnails(axis.inset_axes((-0.13, 0, 0.12, 1)), faces.get(rows, []), True)
        _thumbnails(axis.inset_axes((0, 1.01, 1, 0.12)), faces.get(columns, []), False)
    if maps:
        figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.7)
    return figure


def draw_times(evaluation: Evaluation) -> Figure:
    """Draws what was measured of each frame, over the time in the source.

    Args:
        evaluation: what was measured.

    Returns:
        A figure that belongs to no window.
    """
    identity, frames = evaluation.identity, evaluation.frames
    panels = {
        "cosine similarity": {"to_target": "tab:orange", "to_source": "tab:blue"},
        "expression,\neye distances": {"expression": "tab:green"},
        "pose, degrees": {"pose": "tab:purple"},
        "seam,\nagainst the source": {"seam": "tab:brown"},
        "outside,\nlevels of 255": {"outside": "tab:gray"},
    }
    figure = Figure(figsize=(11.5, 9), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True)
    for axis, (title, measures) in zip(axes, panels.items(), strict=True):
        axis.set_ylabel(title)
        for measure, colour in measures.items():
            _curve(axis, frames, measure, colour)
        for frame in frames:
            if not frame.found:
                axis.axvline(frame.seconds, color="red", alpha=0.5, lw=1)
            elif frame.index in evaluation.worst:
                axis.axvline(frame.seconds, color="black", alpha=0.3, lw=1, ls=":")
        axis.grid(alpha=0.3)
    axes[3].axhline(1, color="tab:brown", ls="--", lw=1)
    if identity is not None:
        for value, label, colour in (
            (identity.within_target, "two faces of the target", "tab:orange"),
            (identity.target_to_source, "target and source", "tab:blue"),
        ):
            if value is not None:
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
    axes = figure.subplots(1, 3)
    titles = {"psnr": "PSNR, dB", "ssim": "SSIM", "feature_distance": "features"}
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        spreads = {
            person.upper(): spread.values
            for person, scores in sorted(evaluation.reconstruction.items())
            if (spread := getattr(scores, measure)) is not None
        }
        axis.set(title=title, ylabel="faces")
        if not spreads:
            _say_not_measured(axis)
            continue
        bins = np.histogram_bin_edges(np.concatenate(list(spreads.values())), 20)
        for person, values in spreads.items():
            axis.hist(values, bins, alpha=0.6, label=person)
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    return figure


def _thumbnails(strip: Axes, faces: Sequence[np.ndarray], down: bool) -> None:
    """Lays faces along a margin, each at the middle of its share of it."""
    strip.set(xlim=(0, 0.12 if down else 1), ylim=(1, 0) if down else (0.12, 0))
    strip.set_axis_off()
    chosen = np.linspace(0, len(faces) - 1, min(len(faces), _MOST_THUMBNAILS))
    for place, index in enumerate(chosen.astype(int)):
        middle = (place + 0.5) / len(chosen)
        along, across = (middle - 0.055, middle + 0.055), (0.0, 0.11)
        extent = (*across, *along[::-1]) if down else (*along, *across[::-1])
        strip.imshow(faces[index], extent=extent, aspect="auto")


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
