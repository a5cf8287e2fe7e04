"""What one folder of faces has and another lacks, told in sentences and on a page."""

import textwrap
from collections import Counter
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial import KDTree

from fsgan.data.quality import LEAST_TO_COMPARE, MOST_STRANGERS, DoctorSettings, Folder
from fsgan.media.images import read_image

_POSE_REACH, _BRIGHTNESS_REACH = 10.0, 25.0  # degrees, levels
_FEW, _SMALL = 200, 64  # faces, pixels: below, the advice says so
_WORTH_SAYING = 0.02  # share of the faces
_WORST = 8  # faces of each folder that are shown
# What is drawn as histograms of A and B.
_PANELS = {
    "sharpness": "sharpness",
    "brightness": "brightness, 0..255",
    "size": "size in the source, pixels",
    "blur": "blur",
    "strangeness": "strangeness",
}


@dataclass(frozen=True)
class Coverage:
    """How far the accepted faces of A and B are alike in pose and light.

    Attributes:
        pose_missing_in_b: share of A's faces with no face of B in reach, that is within
            an ellipse of 10 degrees of yaw and pitch.
        pose_missing_in_a: the same of B's faces.
        missing_in_b: the same as the first with 25 levels of brightness as third axis.
        missing_in_a: the same of B's faces.
        yaw_overlap: common area of the two histograms of yaw, in [0, 1].
        pitch_overlap: the same of the pitch.
        brightness_overlap: the same of the brightness.
    """

    pose_missing_in_b: float
    pose_missing_in_a: float
    missing_in_b: float
    missing_in_a: float
    yaw_overlap: float
    pitch_overlap: float
    brightness_overlap: float


def compare(a: Folder, b: Folder) -> Coverage | None:
    """Compares pose and light of the accepted faces.

    Args:
        a: the faces of A.
        b: the faces of B.

    Returns:
        The shares and overlaps; None where the poses of one are not known.
    """
    points_a, points_b = _pose_and_light(a), _pose_and_light(b)
    if not len(points_a) or not len(points_b):
        return None
    return Coverage(
        _missing(points_a[:, :2], points_b[:, :2]),
        _missing(points_b[:, :2], points_a[:, :2]),
        _missing(points_a, points_b),
        _missing(points_b, points_a),
        *map(_overlap, points_a.T, points_b.T),
    )


def advise(
    folders: tuple[Folder, ...], coverage: Coverage | None, settings: DoctorSettings
) -> list[str]:
    """Says in a handful of sentences what is wrong and what to do about it.

    Args:
        folders: A, and B where there is one.
        coverage: A against B; None where they cannot be compared.
        settings: those with which the folders were examined.

    Returns:
        Sentences on A, on B, and on what one has and the other lacks.
    """
    labelled = list(zip("AB", folders, strict=False))
    advice = [sentence for pair in labelled for sentence in _advise_on(*pair, settings)]
    if coverage is None:
        return advice
    for (name, mine), (other, theirs) in (labelled, labelled[::-1]):
        advice += _missing_directions(name, mine, other, theirs)
    for name, other, share in (
        ("A", "B", coverage.pose_missing_in_b),
        ("B", "A", coverage.pose_missing_in_a),
    ):
        if share >= _WORTH_SAYING:
            advice.append(
                f"{share:.0%} of {name}'s faces have no face of {other} within "
                f"{_POSE_REACH:.0f} degrees."
            )
    light_a, light_b = (np.median(f.measures.brightness[f.accepted]) for f in folders)
    if abs(light_a - light_b) > _BRIGHTNESS_REACH:
        dark, bright = "AB" if light_a < light_b else "BA"
        advice.append(
            f"{dark} is darker than {bright}: {min(light_a, light_b):.0f} against "
            f"{max(light_a, light_b):.0f} of 255; light them alike where you can."
        )
    return advice


def draw_page(folders: tuple[Folder, ...]) -> Figure:
    """Draws histograms, the poses, and the worst faces of each folder.

    Args:
        folders: A, and B where there is one; the pictures must still lie there.

    Returns:
        One page, 12 inches wide; it belongs to no window.
    """
    figure = Figure(figsize=(12, 6 + 2 * len(folders)), layout="constrained")
    heights = [6] + [2] * len(folders)
    top, *rows = np.ravel(figure.subfigures(len(heights), height_ratios=heights))
    *axes, poses = top.subplots(2, 3).ravel()
    for axis, (measure, title) in zip(axes, _PANELS.items(), strict=True):
        axis.set_title(title, fontsize="medium")
        values = [getattr(folder.measures, measure) for folder in folders]
        values = [part[~np.isnan(part)] for part in values]
        bins = np.histogram_bin_edges(np.concatenate(values), 30)
        for label, part in zip("AB", values, strict=False):
            axis.hist(part, bins, alpha=0.6, label=label)
        axis.legend()
    poses.set_title("yaw and pitch, degrees", fontsize="medium")
    for label, folder in zip("AB", folders, strict=False):
        pose = folder.measures.yaw, folder.measures.pitch
        poses.scatter(*pose, 8, alpha=0.5, label=label)
    poses.legend()
    for row, label, folder in zip(rows, "AB", folders, strict=False):
        row.suptitle(f"{label}, worst first", fontsize="medium")
        axes = row.subplots(1, _WORST)
        for axis in axes:
            axis.set_axis_off()
        for axis, index in zip(axes, _worst(folder), strict=False):
            name = folder.names[index]
            axis.imshow(read_image(folder.path / name))
            reason = textwrap.fill(folder.rejected.get(name, "kept"), 24)
            axis.set_title(f"{name[-24:]}\n{reason}", fontsize=7)
    return figure


def _pose_and_light(folder: Folder) -> np.ndarray:
    """Yaw, pitch and brightness of the accepted faces, in reaches, float64 (n, 3)."""
    measures = folder.measures
    points = np.column_stack([measures.yaw, measures.pitch, measures.brightness])
    points /= (_POSE_REACH, _POSE_REACH, _BRIGHTNESS_REACH)
    return points[folder.accepted & ~np.isnan(measures.yaw)]


def _missing(points: np.ndarray, others: np.ndarray) -> float:
    """Share of the points with no other in reach."""
    distances, _ = KDTree(others).query(points)
    return float(np.mean(distances > 1))


def _overlap(values: np.ndarray, others: np.ndarray) -> float:
    """Common area of two histograms with bins as wide as half the reach."""
    both = np.concatenate([values, others])
    edges = np.arange(np.floor(2 * both.min()), np.ceil(2 * both.max()) + 1.5) / 2
    counts = [np.histogram(part, edges)[0] / len(part) for part in (values, others)]
    return float(np.minimum(*counts).sum())


def _advise_on(label: str, folder: Folder, settings: DoctorSettings) -> list[str]:
    """Sentences about one folder."""
    count = len(folder.names)
    advice = [f"{label} ({folder.path}) has {count} face{'s' * (count != 1)}."]
    if folder.rejected:
        kinds = Counter(reason.split(" of ")[0] for reason in folder.rejected.values())
        told = "; ".join(f"{number} {kind}" for kind, number in kinds.items())
        advice.append(f"{len(folder.rejected)} of {label} should go: {told}.")
    strangers = np.mean(folder.measures.strangeness >= settings.strangeness)
    if strangers > MOST_STRANGERS:
        advice.append(
            f"{strangers:.0%} of {label} form a group of their own: look whether it is "
            "another person or only another light."
        )
    if folder.unrecorded:
        advice.append(
            f"{folder.unrecorded} of {label} are not in faces.json: their pose, "
            "size and confidence are not known; extract_faces writes it."
        )
    if count < LEAST_TO_COMPARE:
        advice.append(
            f"{label} has too few faces to tell blurred ones and strangers: "
            f"{LEAST_TO_COMPARE} are needed."
        )
    repeats = len(set(folder.near_duplicates) | set(folder.duplicates))
    if repeats >= count / 4:
        advice.append(
            f"{repeats} of {label} nearly repeat another face: search fewer frames, or "
            "film more expressions and directions of view."
        )
    if count - repeats < _FEW:
        advice.append(
            f"{label} has too few different faces, {count - repeats}: a few hundred "
            "are better."
        )
    sizes = folder.measures.size[~np.isnan(folder.measures.size)]
    if len(sizes) and np.median(sizes) < _SMALL:
        advice.append(
            f"{label}'s faces are small in the footage, {np.median(sizes):.0f} pixels: "
            "film it closer."
        )
    return advice


def _missing_directions(
    name: str, mine: Folder, other: str, theirs: Folder
) -> list[str]:
    """Directions of view that one has and the other lacks."""
    points, others = _pose_and_light(mine), _pose_and_light(theirs)
    advice = []
    for axis, sign, looking, beyond in (
        (0, -1, "left", "left of"),
        (0, 1, "right", "right of"),
        (1, -1, "down", "below"),
        (1, 1, "up", "above"),
    ):
        limit = (sign * others[:, axis]).max()
        past = sign * points[:, axis] - limit
        # A few degrees are within the error of the pose.
        if np.mean(past > 1) >= _WORTH_SAYING:
            advice.append(
                f"{other} has no face looking {beyond} "
                f"{round(sign * limit * _POSE_REACH)} degrees; {name} has "
                f"{np.sum(past > 0)}: film {other} looking {looking}."
            )
    return advice


def _worst(folder: Folder) -> np.ndarray:
    """Indices of the faces to look at: the rejected ones, then the nearest to it."""
    badness = np.maximum(folder.measures.blur, folder.measures.strangeness)
    badness = badness + 1000 * ~folder.accepted
    return np.argsort(-badness, kind="stable")[:_WORST]
