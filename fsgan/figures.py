"""Drawings that explain: pictures in rows, curves, the networks, a hand before a face.

They serve the notebook that tells how it works; no stage needs them.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_LABELS = 1.6  # width of the labels beside a row, in pictures
_A, _B, _SHARED = "tab:blue", "tab:orange", "tab:green"  # colours of the networks

# A hand that points up, shares of the crop's width from the middle of its palm: each
# part is a thick line from (x, y) to (x, y).
_HAND = (
    ((0.0, 0.05), (0.0, 0.80), 0.17),  # the wrist
    ((-0.08, -0.05), (-0.10, -0.30), 0.06),
    ((-0.03, -0.05), (-0.035, -0.36), 0.06),
    ((0.03, -0.05), (0.035, -0.35), 0.06),
    ((0.08, -0.05), (0.10, -0.29), 0.06),
    ((0.05, 0.08), (0.24, -0.10), 0.07),  # the thumb
    ((0.0, 0.0), (0.0, 0.02), 0.24),  # the palm
)
_OUTLINE = 0.75  # brightness of the line that parts the fingers, of the skin's


def draw_rows(rows: Mapping[str, np.ndarray], size: float = 1.0) -> Figure:
    """Draws pictures in rows, each with its label.

    Args:
        rows: label -> pictures (n, height, width, channels): RGB uint8, RGB float in
            [-1, 1], or, with one channel, masks in [0, 1].
        size: side of a picture, inches.

    Returns:
        The figure: a row for each label, a column for each picture.

    Raises:
        ValueError: there is no row, or a row of no pictures.
    """
    if not rows or not all(map(len, rows.values())):
        raise ValueError("rows must hold one row or more, each of one picture or more")
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(size * (columns + _LABELS), size * len(rows)))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    left = _LABELS / (columns + _LABELS)
    figure.subplots_adjust(left, 0, 1, 1, wspace=0.03, hspace=0.03)
    for axis in axes.ravel():
        axis.set_axis_off()
    for line, (label, pictures) in zip(axes, rows.items(), strict=True):
        place = line[0].get_position()
        middle = (place.y0 + place.y1) / 2
        figure.text(left - 0.01, middle, label, ha="right", va="center")
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(_displayed(picture), cmap="gray", vmin=0, vmax=1)
    return figure


def draw_curves(
    panels: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]],
) -> Figure:
    """Draws curves in panels side by side, all on one scale.

    Args:
        panels: title -> label -> iterations and values, float (n,) each.

    Returns:
        The figure.

    Raises:
        ValueError: there is no panel.
    """
    if not panels:
        raise ValueError("panels must hold one panel or more")
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for label, (iterations, values) in curves.items():
            axis.plot(iterations, values, ".-", label=label)
        axis.set(title=title, xlabel="iteration")
        axis.legend()
    axes[0].set_ylim(bottom=0)  # of all; earlier it would stop following the curves
    return figure


def draw_networks() -> Figure:
    """Draws who goes through which network, in training and at the swap.

    Returns:
        The figure: two panels.
    """
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    training, swap = figure.subplots(1, 2)
    for axis, title in ((training, "training"), (swap, "the swap, A to B")):
        axis.set(title=title, xlim=(0, 11), ylim=(0.4, 4.6))
        axis.set_axis_off()
        _box(axis, 4.0, 2.5, "encoder", _SHARED)
        _box(axis, 6.7, 3.8, "decoder A", _A)
        _box(axis, 6.7, 1.2, "decoder B", _B)
    for person, y, colour in (("A", 3.8, _A), ("B", 1.2, _B)):
        _box(training, 1.2, y, f"{person}'s face,\ndistorted", "white", colour)
        _box(training, 9.7, y, f"{person}'s face", "white", colour)
        toward = np.sign(2.5 - y)
        _arrow(training, (2.2, y), (3.05, 2.5 - toward * 0.3), colour)
        _arrow(training, (4.95, 2.5 - toward * 0.3), (5.7, y), colour)
        _arrow(training, (7.7, y), (8.7, y), colour)
    _box(swap, 1.2, 3.8, "A's face", "white", _A)
    _box(swap, 9.7, 1.2, "B's face,\nas A looks", "white", _B)
    _arrow(swap, (2.2, 3.8), (3.05, 2.8), _A)
    _arrow(swap, (4.95, 2.2), (5.7, 1.2), _A)
    _arrow(swap, (7.7, 1.2), (8.7, 1.2), _B)
    swap.text(6.7, 2.95, "not used", ha="center", color="gray")
    return figure


def draw_hand(
    face: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws a hand before a face: flat, in the colour of some skin.

    Args:
        face: Crop, RGB uint8 (size, size, 3).
        rng: Source of place, angle, size and colour.

    Returns:
        The crop with the hand, RGB uint8 (size, size, 3), and how much of each pixel
        the hand covers, float32 (size, size, 1) in [0, 1].
    """
    size = len(face)
    scale = size * rng.uniform(0.8, 1.1)
    angle = rng.uniform(-0.9, 0.9)  # radians, 0 points up
    turn = np.exp(1j * angle) * scale  # (x, y) as the complex number x + iy
    middle = size * (rng.uniform(0.35, 0.65) + 1j * rng.uniform(0.5, 0.7))
    red = rng.uniform(140, 230)
    skin = red * np.array([1, rng.uniform(0.65, 0.8), rng.uniform(0.45, 0.7)])
    cover, light = np.zeros((size, size), np.float32), np.ones((size, size), np.float32)
    for *ends, width in _HAND:
        points = [turn * complex(*end) + middle for end in ends]
        line = [(round(point.real), round(point.imag)) for point in points]
        thickness = max(1, round(width * scale))
        cv2.line(cover, *line, 1.0, thickness, cv2.LINE_AA)
        cv2.line(light, *line, _OUTLINE, thickness, cv2.LINE_AA)
        cv2.line(light, *line, 1.0, max(1, thickness - 4), cv2.LINE_AA)
    cover = cover[..., None]
    painted = cover * light[..., None] * skin + (1 - cover) * face
    return painted.round().astype(np.uint8), cover


def _displayed(picture: np.ndarray) -> np.ndarray:
    """What matplotlib shows as it is."""
    if picture.dtype == np.uint8 or picture.shape[-1] == 1:
        return picture
    return (picture.clip(-1, 1) + 1) / 2


def _box(
    axis: Axes, x: float, y: float, text: str, colour: str, edge: str = "black"
) -> None:
    """A box of 2 x 1 around a text; white ones are pictures, the others networks."""
    style = {"boxstyle": "round,pad=0.5", "facecolor": colour, "edgecolor": edge}
    written = "black" if colour == "white" else "white"
    axis.text(x, y, text, color=written, ha="center", va="center", size=11, bbox=style)


def _arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str
) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2}
    axis.annotate("", end, start, arrowprops=style)
