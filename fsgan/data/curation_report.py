"""What is in a folder of faces: measured, compared with another, advised on, drawn."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jinja2 import Environment
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.spatial import KDTree
from tqdm.auto import tqdm

from fsgan.assets import asset
from fsgan.data.extract import check_square
from fsgan.faces.identity import OTHER_PERSON, embed, load_network
from fsgan.faces.pose import estimate_head_pose
from fsgan.media.images import list_images, picture_html, read_image

log = logging.getLogger(__name__)

OUTLIER = "unlike the others: another person or no face"

_LEAST_TO_COMPARE = 10  # faces: fewer say nothing about what is usual
_MOST_OUTLIERS = 0.2  # share of the faces: more are a light or a look of their own
_LEAST_SPREAD = 0.25  # of the logarithm of the sharpness: less is alike
_BLOCK = 256  # faces compared with all others at once: bounds the memory
_POSE_REACH, _BRIGHTNESS_REACH = 10.0, 25.0  # degrees, levels
_FEW, _SMALL = 200, 64  # faces, pixels: below, the advice says so
_WORTH_SAYING = 0.02  # share of the faces
_WORST = 8  # faces of each folder that are shown
_PANELS = {  # what is drawn as histograms
    "sharpness": "sharpness",
    "brightness": "brightness, 0..255",
    "size": "size in the source, pixels",
    "blur": "blur",
    "outlier": "outlier score",
}


@dataclass(frozen=True)
class ExamineSettings:
    """What is rejected. The limits are careful: of good footage, hardly a face is.

    Attributes:
        blur: a face is blurred from this `Measures.blur` on, above 0.
        outlier: a face is another person or none from this `Measures.outlier` on, above
            0. Where more than a fifth of a folder is, none is rejected, as that may be
            a light or a look of its own; the advice says so.
        min_confidence: smallest score of the detector, in [0, 1]; 0 keeps all.
        min_size: shorter side of the smallest face, pixels of the source, at least 0.
        near_duplicate: faces that differ by no more than this are nearly one picture,
            root mean square in levels of 0..255, at least 0.
        reject_near_duplicates: whether all but the first of those are rejected.
    """

    blur: float = 4.0
    outlier: float = 1.0
    min_confidence: float = 0.0
    min_size: float = 0.0
    near_duplicate: float = 2.0
    reject_near_duplicates: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("blur", "outlier"):
            if not (value := getattr(self, name)) > 0:
                raise ValueError(f"{name} must be above 0, got {value}")
        for name in ("min_size", "near_duplicate"):
            if not (value := getattr(self, name)) >= 0:
                raise ValueError(f"{name} must be at least 0, got {value}")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(
                f"min_confidence must be in [0, 1], got {self.min_confidence}"
            )


@dataclass(frozen=True, eq=False)
class Measures:
    """What was measured of n faces; float64 (n,) each, NaN where it is not known.

    Attributes:
        sharpness: variance of the Laplacian, of the face at 128 pixels a crop.
        blur: how far the logarithm of the sharpness lies below the folder's median, in
            robust standard deviations; 0 in a folder of fewer than 10 faces.
        outlier: distance of the face's embedding from the folder's usual one; 1 is that
            from which on two faces are two people's. NaN without dlib, and in a folder
            of fewer than 10 faces.
        brightness: mean of the face's gray, 0..255.
        confidence: the detector's score in [0, 1].
        size: shorter side of the face's box, pixels of the source.
        roll: degrees, clockwise is positive.
        yaw: degrees, negative looks left as seen in the image.
        pitch: degrees above the median of the folder, negative looks down. Five points
            do not tell a nod from a short nose, so only a person's own faces compare.
    """

    sharpness: np.ndarray
    blur: np.ndarray
    outlier: np.ndarray
    brightness: np.ndarray
    confidence: np.ndarray
    size: np.ndarray
    roll: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray


@dataclass(frozen=True, eq=False)
class FolderReport:
    """What was found in one folder.

    Attributes:
        path: the folder.
        names: its n faces, in natural order.
        measures: what was measured of them.
        duplicates: copy -> first file with exactly its pixels.
        near_duplicates: file -> first file that looks nearly like it.
        rejected: file -> reason.
        unrecorded: number of faces that `faces.json` does not know.
    """

    path: Path
    names: list[str]
    measures: Measures
    duplicates: dict[str, str]
    near_duplicates: dict[str, str]
    rejected: dict[str, str]
    unrecorded: int

    def __len__(self) -> int:
        """Counts the faces."""
        return len(self.names)

    def __repr__(self) -> str:
        """Says how many faces there are."""
        return f"{len(self)} faces in {self.path}, {len(self.rejected)} to reject"

    @property
    def accepted(self) -> np.ndarray:
        """Which faces are not rejected, bool (n,)."""
        return np.array([name not in self.rejected for name in self.names])


@dataclass(frozen=True)
class Coverage:
    """How far the accepted faces of A and B are alike in pose and light.

    Attributes:
        pose_missing_in_b: share of A's faces with no face of B in reach, that is within
            an ellipse of 10 degrees of yaw and pitch.
        pose_missing_in_a: the same of B's faces.
        missing_in_b: the same as the first with 25 levels of brightness as third axis.
        missing_in_a: the same of B's faces.
    """

    pose_missing_in_b: float
    pose_missing_in_a: float
    missing_in_b: float
    missing_in_a: float


def examine_folder(
    path: str | Path, entries: list[dict], settings: ExamineSettings
) -> FolderReport:
    """Measures the faces of a folder and says which to reject; it changes no file.

    Memory grows with the number of faces, a few kilobytes each.

    Args:
        path: folder of aligned square crops.
        entries: what `faces.json` says of them, each with `file`, `box`, `landmarks`
            and `confidence`; faces without an entry are examined as far as pixels go.
        settings: what is rejected.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: the folder is missing or holds no picture.
        ValueError: a file is no picture or a crop is not square.
    """
    paths = list_images(path)
    names = [face.name for face in paths]
    record = {entry["file"]: entry for entry in entries}
    known = np.full((len(paths), 5), np.nan)  # confidence, size, roll, yaw, pitch
    seen = np.empty((len(paths), 2))  # sharpness, brightness
    small = np.empty((len(paths), 32, 32), np.uint8)
    embeddings = []
    embeds = len(paths) >= _LEAST_TO_COMPARE and _knows_identity()
    duplicates: dict[str, str] = {}
    first_of: dict[bytes, str] = {}
    for index, face in enumerate(tqdm(paths, desc=f"Examining {path}", unit="face")):
        image = read_image(face)
        check_square((image.shape[1], image.shape[0]), face)
        pixels = hashlib.sha256(image).digest()
        if (first := first_of.setdefault(pixels, face.name)) != face.name:
            duplicates[face.name] = first
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        small[index] = cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA)
        seen[index] = _sharpness_and_brightness(gray)
        if embeds:
            embeddings.append(embed(image[None])[0])
        if entry := record.get(face.name):
            left, top, right, bottom = entry["box"]
            pose = estimate_head_pose(np.array(entry["landmarks"]))
            known[index] = entry["confidence"], min(right - left, bottom - top), *pose
    sharpness, brightness = seen.T
    *of_record, pitch = known.T
    if not np.isnan(pitch).all():
        pitch = pitch - np.nanmedian(pitch)
    outlier = np.full(len(paths), np.nan)
    if embeds:
        outlier = outlier_scores(np.array(embeddings))
    measures = Measures(
        sharpness, _blur(sharpness), outlier, brightness, *of_record, pitch
    )
    near = find_near_duplicates(names, small, settings.near_duplicate)
    near = {name: first for name, first in near.items() if name not in duplicates}
    rejected = _reject(names, measures, duplicates, near, settings)
    unrecorded = len(set(names) - set(record))
    return FolderReport(
        Path(path), names, measures, duplicates, near, rejected, unrecorded
    )


def outlier_scores(embeddings: np.ndarray) -> np.ndarray:
    """Measures how far each face is from the person that most of them show.

    Args:
        embeddings: float32 (n, d) of length 1, as of `fsgan.faces.identity.embed`.

    Returns:
        float64 (n,): cosine distance from the mean of the half that lies together, in
        units of the distance from which on two faces are two people's.
    """
    usual = embeddings.mean(axis=0)
    for _ in range(10):  # least trimmed squares: settles after a few
        nearest = np.argsort(-embeddings @ usual)[: len(embeddings) // 2 + 1]
        usual = embeddings[nearest].mean(axis=0)
    usual /= np.linalg.norm(usual)
    return (1 - embeddings @ usual).astype(float) / (1 - OTHER_PERSON)


def find_near_duplicates(
    names: Sequence[str], small: np.ndarray, limit: float
) -> dict[str, str]:
    """Finds faces that are nearly the same picture as an earlier one.

    Perceptual hashes are too coarse here: of aligned faces of one person they call an
    open and a shut mouth one picture.

    Args:
        names: of n faces.
        small: their gray pictures, uint8 (n, side, side).
        limit: root mean square of the difference, levels.

    Returns:
        Name -> first face that is nearly the same and has no such face itself.
    """
    flat = small.reshape(len(small), -1) - np.float32(128)
    squares = (flat**2).sum(axis=1)
    most = limit**2 * flat.shape[1]
    first_of: dict[str, str] = {}
    own = np.ones(len(flat), bool)
    for start in range(0, len(flat), _BLOCK):
        stop = min(start + _BLOCK, len(flat))
        distances = flat[start:stop] @ flat[:stop].T
        distances *= -2
        distances += squares[:stop]
        distances += squares[start:stop, None]
        for index, alike in enumerate(distances <= most, start):
            earlier = np.flatnonzero(alike[:index] & own[:index])
            if len(earlier):
                own[index] = False
                first_of[names[index]] = names[earlier[0]]
    return first_of


def compare_folders(a: FolderReport, b: FolderReport) -> Coverage | None:
    """Compares pose and light of the accepted faces.

    Args:
        a: the faces of A.
        b: the faces of B.

    Returns:
        The shares; None where the poses of one are not known.
    """
    points_a, points_b = _pose_and_light(a), _pose_and_light(b)
    if not len(points_a) or not len(points_b):
        return None
    return Coverage(
        _missing(points_a[:, :2], points_b[:, :2]),
        _missing(points_b[:, :2], points_a[:, :2]),
        _missing(points_a, points_b),
        _missing(points_b, points_a),
    )


def advise(
    folders: tuple[FolderReport, ...],
    coverage: Coverage | None,
    settings: ExamineSettings,
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


def draw_measures(folders: tuple[FolderReport, ...]) -> Figure:
    """Draws histograms of the measures, and the poses.

    Args:
        folders: A, and B where there is one.

    Returns:
        A figure, 12 inches wide; it belongs to no window.
    """
    figure = Figure(figsize=(12, 6), layout="constrained")
    *axes, poses = figure.subplots(2, 3).ravel()
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
    return figure


def render_page(
    folders: tuple[FolderReport, ...], advice: list[str], figure: Figure
) -> str:
    """Writes the report as one HTML page, with the worst faces of each folder.

    Args:
        folders: A, and B where there is one; the pictures must still lie there.
        advice: as of `advise`.
        figure: as of `draw_measures`.

    Returns:
        The page, which needs no other file.
    """
    worst = {}
    for label, folder in zip("AB", folders, strict=False):
        names = [folder.names[index] for index in _worst(folder)]
        worst[label] = [
            (
                name,
                folder.rejected.get(name, "kept"),
                picture_html(cv2.resize(read_image(folder.path / name), (128, 128))),
            )
            for name in names
        ]
    source = asset("dataset_report.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True).from_string(source)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    measures = picture_html(np.asarray(canvas.buffer_rgba())[..., :3])
    return page.render(advice=advice, measures=measures, worst=worst)


def _knows_identity() -> bool:
    """Whether dlib is there; if not, the log says what is not looked for."""
    try:
        load_network()
    except FileNotFoundError as error:
        log.warning("other people among the faces are not looked for: %s", error)
        return False
    return True


def _sharpness_and_brightness(gray: np.ndarray) -> tuple[float, float]:
    """Of the face without its surroundings, at a size that holds no upscaling."""
    gray = cv2.resize(gray, (128, 128), interpolation=cv2.INTER_AREA)
    edges = cv2.Laplacian(gray, cv2.CV_64F)
    face = slice(26, 109)
    return edges[face, face].var(), gray[face, face].mean()


def _blur(sharpness: np.ndarray) -> np.ndarray:
    """Robust standard deviations of the logarithm below its median."""
    if len(sharpness) < _LEAST_TO_COMPARE:
        return np.zeros(len(sharpness))
    logarithms = np.log(sharpness + 1e-3)
    offsets = np.median(logarithms) - logarithms
    spread = 1.4826 * np.median(np.abs(offsets))  # of a normal distribution
    return offsets / max(spread, _LEAST_SPREAD)


def _reject(
    names: list[str],
    measures: Measures,
    duplicates: dict[str, str],
    near_duplicates: dict[str, str],
    settings: ExamineSettings,
) -> dict[str, str]:
    """File -> reason, of the faces that are rejected; the first reason counts."""
    reasons = {}
    outliers = measures.outlier >= settings.outlier
    if outliers.mean() > _MOST_OUTLIERS:
        outliers[:] = False
    for index, name in enumerate(names):
        if measures.blur[index] >= settings.blur:
            reasons[name] = "blurred"
        elif outliers[index]:
            reasons[name] = OUTLIER
        elif measures.confidence[index] < settings.min_confidence:
            reasons[name] = "low confidence"
        elif measures.size[index] < settings.min_size:
            reasons[name] = "small"
        elif name in duplicates:
            reasons[name] = f"duplicate of {duplicates[name]}"
        elif settings.reject_near_duplicates and name in near_duplicates:
            reasons[name] = f"near-duplicate of {near_duplicates[name]}"
    return reasons


def _pose_and_light(folder: FolderReport) -> np.ndarray:
    """Yaw, pitch and brightness of the accepted faces, in reaches, float64 (n, 3)."""
    measures = folder.measures
    points = np.column_stack([measures.yaw, measures.pitch, measures.brightness])
    points /= (_POSE_REACH, _POSE_REACH, _BRIGHTNESS_REACH)
    return points[folder.accepted & ~np.isnan(measures.yaw)]


def _missing(points: np.ndarray, others: np.ndarray) -> float:
    """Share of the points with no other in reach."""
    distances, _ = KDTree(others).query(points)
    return float(np.mean(distances > 1))


def _advise_on(
    label: str, folder: FolderReport, settings: ExamineSettings
) -> list[str]:
    """Sentences about one folder."""
    count = len(folder)
    advice = [f"{label} ({folder.path}) has {count} face{'s' * (count != 1)}."]
    if folder.rejected:
        kinds = Counter(reason.split(" of ")[0] for reason in folder.rejected.values())
        counted = "; ".join(f"{number} {kind}" for kind, number in kinds.items())
        advice.append(f"{len(folder.rejected)} of {label} should go: {counted}.")
    others = np.mean(folder.measures.outlier >= settings.outlier)
    if others > _MOST_OUTLIERS:
        advice.append(
            f"{others:.0%} of {label} form a group of their own: look whether it is "
            "another person or only another light."
        )
    if folder.unrecorded:
        advice.append(
            f"{folder.unrecorded} of {label} are not in faces.json: their pose, "
            "size and confidence are not known; extract_faces writes it."
        )
    if count < _LEAST_TO_COMPARE:
        advice.append(
            f"{label} has too few faces to find blurred ones and other people: "
            f"{_LEAST_TO_COMPARE} are needed."
        )
    elif np.isnan(folder.measures.outlier).all():
        advice.append(
            f"Other people among the faces of {label} were not looked for: that needs "
            "dlib, install 'fsgan[identity]'."
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
    name: str, mine: FolderReport, other: str, theirs: FolderReport
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
            degrees = round(sign * limit * _POSE_REACH)
            advice.append(
                f"{other} has no face looking {beyond} {degrees} degrees; {name} has "
                f"{np.sum(past > 0)}: film {other} looking {looking}."
            )
    return advice


def _worst(folder: FolderReport) -> np.ndarray:
    """Indices of the faces to look at: the rejected ones, then the nearest to it."""
    badness = np.fmax(folder.measures.blur, 4 * folder.measures.outlier)
    return np.argsort(-badness - 1000 * ~folder.accepted, kind="stable")[:_WORST]
