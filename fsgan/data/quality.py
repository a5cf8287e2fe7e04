"""How good the faces of a folder are: measures, outliers, copies, advice, a page."""

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from scipy.spatial import KDTree
from tqdm.auto import tqdm

from fsgan.assets import render
from fsgan.data.extract import check_square
from fsgan.faces.geometry import read_crops, read_faces_record
from fsgan.faces.identity import OTHER_PERSON, SAME_PERSON, embed, load_network
from fsgan.faces.pose import estimate_head_pose
from fsgan.media.images import (
    evenly,
    list_images,
    picture_html,
    rasterize,
    read_image,
)
from fsgan.validation import AboveZero, AtLeastZero, Share, checked

log = logging.getLogger(__name__)

OUTLIER = "unlike the others: another person or no face"

_LEAST_TO_COMPARE = 10  # faces: fewer say nothing about what is usual
_MOST_EMBEDDED = 500  # faces of a folder in which outliers are looked for
_MOST_OUTLIERS = 0.2  # share of the faces: more are a light or a look of their own
_LEAST_SPREAD = 0.25  # of the logarithm of the sharpness: less is alike
_BLOCK = 256  # faces compared with all others at once: bounds the memory
_POSE_REACH, _BRIGHTNESS_REACH = 10.0, 25.0  # degrees, levels
_FEW, _SMALL = 200, 64  # faces, pixels: below, the advice says so
_WORTH_SAYING = 0.02  # share of the faces
_WORST = 8  # faces of each folder that are shown
_PANELS = {
    "sharpness": "sharpness",
    "brightness": "brightness, 0..255",
    "size": "size in the source, pixels",
    "blur": "blur",
    "outlier": "outlier score",
}


@checked
@dataclass(frozen=True)
class ExamineSettings:
    """What is rejected. The limits are careful: of good footage, hardly a face is.

    Attributes:
        blur: `FolderReport.measures.blur` from which on a face is blurred, above 0.
        outlier: `FolderReport.measures.outlier` from which on it is another person or
            no face, above 0. Where more than a fifth of a folder is, none is rejected,
            as that may be a light or a look of its own.
        min_confidence: smallest score of the detector, in [0, 1]; 0 keeps all.
        min_size: shorter side of the smallest face, pixels of the source, at least 0.
        near_duplicate: root mean square, in levels of 0..255, up to which two faces are
            nearly one picture, at least 0.
        reject_near_duplicates: whether all but the first of those are rejected.
    """

    blur: AboveZero = 4.0
    outlier: AboveZero = 1.0
    min_confidence: Share = 0.0
    min_size: AtLeastZero = 0.0
    near_duplicate: AtLeastZero = 2.0
    reject_near_duplicates: bool = False


DoctorSettings = ExamineSettings
"""The name that `ExamineSettings` had before."""


@dataclass(frozen=True, eq=False, repr=False)
class FolderReport:
    """What was found in a folder of n faces.

    Attributes:
        path: the folder.
        names: the files, in natural order.
        measures: float64 (n,) each, NaN where it is not known.
            `sharpness`: variance of the Laplacian, of the face at 128 pixels a crop.
            `brightness`: mean gray, 0..255. `confidence`: the detector's, in [0, 1].
            `size`: shorter side of the face's box, pixels of the source. `roll`, `yaw`:
            degrees, clockwise and to the right as seen in the image. `pitch`: degrees
            above the folder's median, as five points do not tell a nod from a short
            nose. `blur`: how far the logarithm of the sharpness lies below the folder's
            median, in robust standard deviations; 0 in a folder of fewer than 10 faces.
            `outlier`: cosine distance from the folder's usual face; 1 is that from
            which on two faces are two people's.
        outlier_share: share of outliers among the faces evenly chosen to look for them.
        duplicates: copy -> first file with exactly its pixels.
        near_duplicates: file -> first file that looks nearly like it.
        rejected: file -> reason.
    """

    path: Path
    names: list[str]
    measures: dict[str, np.ndarray]
    outlier_share: float
    duplicates: dict[str, str]
    near_duplicates: dict[str, str]
    rejected: dict[str, str]

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

    def as_json(self) -> list[dict]:
        """Lists the faces in JSON's own types; None is what is not known."""
        measures = np.column_stack(list(self.measures.values())).round(4)
        rows = np.where(np.isnan(measures), None, measures).tolist()
        return [
            {
                "file": name,
                **dict(zip(self.measures, row, strict=True)),
                "duplicate_of": self.duplicates.get(name),
                "near_duplicate_of": self.near_duplicates.get(name),
                "rejected": self.rejected.get(name),
            }
            for name, row in zip(self.names, rows, strict=True)
        ]


def examine_folder(path: Path, settings: ExamineSettings) -> FolderReport:
    """Measures the faces of a folder and says which to reject; it changes no file.

    Args:
        path: folder of aligned square crops.
        settings: what is rejected.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: the folder is missing or holds no picture.
        ValueError: a file is no picture, a crop is not square, or `faces.json` is
            damaged.
    """
    files = list_images(path)
    names = [file.name for file in files]
    record = {entry["file"]: entry for entry in read_faces_record(path)}
    measured, thumbnails, duplicates = [], [], {}
    first_of: dict[bytes, str] = {}
    progress = tqdm(files, desc=f"Examining {path}", unit="face")
    for file, image in zip(progress, read_crops(files), strict=True):
        check_square(image.shape[1::-1], file)
        first = first_of.setdefault(hashlib.sha256(image).digest(), file.name)
        if first != file.name:
            duplicates[file.name] = first
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        thumbnails.append(cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA))
        measured.append(_measure_face(gray, record.get(file.name)))
    measures = {
        name: np.array([face[name] for face in measured]) for name in measured[0]
    }
    blur = _measure_blur(measures["sharpness"])
    outlier, outlier_share = score_outliers(files, settings.outlier)
    measures |= {"blur": blur, "outlier": outlier}
    if np.isfinite(measures["pitch"]).any():
        measures["pitch"] -= np.nanmedian(measures["pitch"])
    alike = find_near_duplicates(np.stack(thumbnails), settings.near_duplicate)
    near = {names[index]: names[first] for index, first in alike.items()}
    near = {name: first for name, first in near.items() if name not in duplicates}
    is_outlier = (outlier >= settings.outlier) & (outlier_share <= _MOST_OUTLIERS)
    reasons = [
        (names[index], reason)
        for reason, faces in (
            ("blurred", blur >= settings.blur),
            (OUTLIER, is_outlier),
            ("low confidence", measures["confidence"] < settings.min_confidence),
            ("small", measures["size"] < settings.min_size),
        )
        for index in np.flatnonzero(faces)
    ]
    reasons += [(name, f"duplicate of {first}") for name, first in duplicates.items()]
    if settings.reject_near_duplicates:
        reasons += [(name, f"near-duplicate of {near[name]}") for name in near]
    rejected = dict(reversed(reasons))  # the first reason counts
    return FolderReport(
        path, names, measures, outlier_share, duplicates, near, rejected
    )


def embed_files(files: list[Path]) -> np.ndarray:
    """Embeds the crops in n >= 1 files, float32 (n, 128), rows of length 1."""
    crops = read_crops(tqdm(files, desc="Recognizing", unit="face"))
    return np.concatenate([embed([crop]) for crop in crops])


def score_outliers(files: list[Path], limit: float) -> tuple[np.ndarray, float]:
    """Measures how far each face is from the person that most of them show.

    As embedding takes a tenth of a second and more, at most 500 faces are compared,
    evenly chosen, and then those that lie between an outlier and the next chosen face.

    Args:
        files: n crops, in natural order.
        limit: score from which on a face is an outlier.

    Returns:
        `FolderReport.measures.outlier`, all NaN without dlib or of fewer than 10 faces,
        and `FolderReport.outlier_share`.
    """
    scores = np.full(len(files), np.nan)
    if len(files) < _LEAST_TO_COMPARE:
        return scores, 0.0
    try:
        load_network()
    except FileNotFoundError as error:
        log.warning("other people among the faces are not looked for: %s", error)
        return scores, 0.0
    chosen = evenly(range(len(files)), _MOST_EMBEDDED)
    embeddings = embed_files([files[index] for index in chosen])
    usual = embeddings.mean(axis=0)
    for _ in range(10):  # least trimmed squares: settles after a few
        nearest = np.argsort(-embeddings @ usual)[: len(embeddings) // 2 + 1]
        usual = embeddings[nearest].mean(axis=0)
    usual /= np.linalg.norm(usual)
    scores[chosen] = (1 - embeddings @ usual) / (1 - OTHER_PERSON)
    share = float(np.mean(scores[chosen] >= limit))
    beside = [
        index
        for before, after in pairwise(chosen)
        if max(scores[before], scores[after]) >= limit
        for index in range(before + 1, after)
    ]
    if beside and share <= _MOST_OUTLIERS:
        embeddings = embed_files([files[index] for index in beside])
        scores[beside] = (1 - embeddings @ usual) / (1 - OTHER_PERSON)
    return scores, share


def find_near_duplicates(pictures: np.ndarray, limit: float) -> dict[int, int]:
    """Finds faces that are nearly the same picture as an earlier one.

    Args:
        pictures: gray uint8 (n, side, side).
        limit: root mean square of the difference, levels.

    Returns:
        Index -> first face that is nearly the same and has no such face itself.
    """
    # Perceptual hashes would call an open and a shut mouth one picture.
    flat = pictures.reshape(len(pictures), -1) - np.float32(128)
    squares = (flat**2).sum(axis=1)
    most = limit**2 * flat.shape[1]
    first_of: dict[int, int] = {}
    original = np.ones(len(flat), bool)
    for start in range(0, len(flat), _BLOCK):
        stop = start + _BLOCK
        distances = flat[start:stop] @ flat[:stop].T
        distances *= -2
        distances += squares[:stop] + squares[start:stop, None]
        for index, alike in enumerate(distances <= most, start):
            earlier = np.flatnonzero(alike[:index] & original[:index])
            if len(earlier):
                original[index] = False
                first_of[index] = int(earlier[0])
    return first_of


def compare_folders(a: FolderReport, b: FolderReport) -> dict[str, float] | None:
    """Compares pose and light of the accepted faces of A and B.

    Args:
        a: the faces of A.
        b: the faces of B.

    Returns:
        `pose_missing_in_b`: share of A's faces with no face of B in reach, that is
        within an ellipse of 10 degrees of yaw and pitch. `missing_in_b`: the same with
        25 levels of brightness as third axis. `pose_missing_in_a`, `missing_in_a`: of
        B's faces. None where the poses of one folder are not known.
    """
    points = {"a": _pose_and_light(a), "b": _pose_and_light(b)}
    if not all(map(len, points.values())):
        return None
    coverage = {}
    for axes, prefix in ((2, "pose_"), (3, "")):
        for mine, other in ("ab", "ba"):
            tree = KDTree(points[other][:, :axes])
            distances, _ = tree.query(points[mine][:, :axes])
            coverage[f"{prefix}missing_in_{other}"] = float(np.mean(distances > 1))
    return coverage


def advise(
    folders: tuple[FolderReport, ...], coverage: dict[str, float] | None
) -> list[str]:
    """Says in a handful of sentences what is wrong and what to do about it.

    Args:
        folders: A, and B where there is one.
        coverage: as of `compare_folders`; None where they cannot be compared.

    Returns:
        Sentences on A, on B, and on what one has and the other lacks.
    """
    labelled = list(zip("AB", folders, strict=False))
    advice = [sentence for pair in labelled for sentence in _advise_on(*pair)]
    if coverage is None:
        return advice
    for (name, mine), (other, theirs) in (labelled, labelled[::-1]):
        advice += _missing_directions(name, mine, other, theirs)
        share = coverage[f"pose_missing_in_{other.lower()}"]
        if share >= _WORTH_SAYING:
            advice.append(
                f"{share:.0%} of {name}'s faces have no face of {other} within "
                f"{_POSE_REACH:.0f} degrees."
            )
    light = [
        np.median(folder.measures["brightness"][folder.accepted]) for folder in folders
    ]
    if np.ptp(light) > _BRIGHTNESS_REACH:
        darker, brighter = "AB" if light[0] < light[1] else "BA"
        advice.append(
            f"{darker} is darker than {brighter}: {min(light):.0f} against "
            f"{max(light):.0f} of 255; light them alike where you can."
        )
    return advice


def compare_people(a: FolderReport, b: FolderReport) -> list[str]:
    """Says whether two folders look like one person; nothing without dlib."""
    chosen = ([it.path / name for name in evenly(it.names, 8)] for it in (a, b))
    try:
        faces, others = (embed(list(read_crops(files))) for files in chosen)
    except FileNotFoundError:
        return []
    likeness = (faces @ others.T).mean()
    if likeness < SAME_PERSON:
        return []
    return [f"A and B look like one person (similarity {likeness:.2f}): look whether."]


def render_page(folders: tuple[FolderReport, ...], advice: list[str]) -> str:
    """Writes the report as one HTML page, with the worst faces of each folder.

    Args:
        folders: A, and B where there is one; the pictures must still lie there.
        advice: as of `advise`.

    Returns:
        The page, which needs no other file.
    """
    worst = {}
    for label, folder in zip("AB", folders, strict=False):
        # The rejected ones, then the nearest to it.
        badness = np.fmax(folder.measures["blur"], 4 * folder.measures["outlier"])
        order = np.argsort(1000 * folder.accepted - badness, kind="stable")
        worst[label] = [
            (
                name,
                folder.rejected.get(name, "kept"),
                picture_html(cv2.resize(read_image(folder.path / name), (128, 128))),
            )
            for name in np.array(folder.names)[order[:_WORST]]
        ]
    measures = picture_html(rasterize(_draw_measures(folders)))
    return render("dataset_report.html", advice=advice, measures=measures, worst=worst)


def _draw_measures(folders: tuple[FolderReport, ...]) -> Figure:
    """Draws histograms of the measures, and the poses."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    *axes, poses = figure.subplots(2, 3).ravel()
    for axis, (measure, title) in zip(axes, _PANELS.items(), strict=True):
        values = [folder.measures[measure] for folder in folders]
        values = [part[~np.isnan(part)] for part in values]
        bins = np.histogram_bin_edges(np.concatenate(values), 30)
        for label, part in zip("AB", values, strict=False):
            axis.hist(part, bins, alpha=0.6, label=label)
        axis.set_title(title, fontsize="medium")
        axis.legend()
    for label, folder in zip("AB", folders, strict=False):
        pose = folder.measures["yaw"], folder.measures["pitch"]
        poses.scatter(*pose, 8, alpha=0.5, label=label)
    poses.set_title("yaw and pitch, degrees", fontsize="medium")
    poses.legend()
    return figure


def _measure_face(gray: np.ndarray, entry: dict | None) -> dict[str, float]:
    """Measures one face; what `faces.json` does not know of it is NaN."""
    gray = cv2.resize(gray, (128, 128), interpolation=cv2.INTER_AREA)  # no upscaling
    edges = cv2.Laplacian(gray, cv2.CV_64F)
    face = slice(26, 109)  # without its surroundings
    confidence = size = roll = yaw = pitch = np.nan
    if entry is not None:
        left, top, right, bottom = entry["box"]
        confidence, size = entry["confidence"], min(right - left, bottom - top)
        roll, yaw, pitch = estimate_head_pose(np.array(entry["landmarks"]))
    return {
        "sharpness": edges[face, face].var(),
        "brightness": gray[face, face].mean(),
        "confidence": confidence,
        "size": size,
        "roll": roll,
        "yaw": yaw,
        "pitch": pitch,
    }


def _measure_blur(sharpness: np.ndarray) -> np.ndarray:
    """Robust standard deviations of the logarithm below its median."""
    if len(sharpness) < _LEAST_TO_COMPARE:
        return np.zeros(len(sharpness))
    logarithms = np.log(sharpness + 1e-3)
    offsets = np.median(logarithms) - logarithms
    spread = 1.4826 * np.median(np.abs(offsets))  # of a normal distribution
    return offsets / max(spread, _LEAST_SPREAD)


def _pose_and_light(folder: FolderReport) -> np.ndarray:
    """Yaw, pitch and brightness of the accepted faces, in reaches, float64 (n, 3)."""
    found = folder.measures
    points = np.column_stack([found["yaw"], found["pitch"], found["brightness"]])
    points /= (_POSE_REACH, _POSE_REACH, _BRIGHTNESS_REACH)
    return points[folder.accepted & ~np.isnan(found["yaw"])]


def _advise_on(label: str, folder: FolderReport) -> list[str]:
    """Sentences about one folder."""
    count = len(folder)
    kinds = Counter(reason.split(" of ")[0] for reason in folder.rejected.values())
    counted = "; ".join(f"{number} {kind}" for kind, number in kinds.items())
    unrecorded = np.isnan(folder.measures["confidence"]).sum()
    embedded = np.isfinite(folder.measures["outlier"]).sum()
    repeats = len(folder.duplicates) + len(folder.near_duplicates)
    small = np.mean(folder.measures["size"] < _SMALL)
    sentences = (
        (True, f"{label} ({folder.path}) has {count} face{'s' * (count != 1)}."),
        (counted, f"{len(folder.rejected)} of {label} should go: {counted}."),
        (
            folder.outlier_share > _MOST_OUTLIERS,
            f"{folder.outlier_share:.0%} of {label} form a group of their own: look "
            "whether it is another person or only another light.",
        ),
        (
            unrecorded,
            f"{unrecorded} of {label} are not in faces.json: their pose, size and "
            "confidence are not known; extract_faces writes it.",
        ),
        (
            count < _LEAST_TO_COMPARE,
            f"{label} has too few faces to find blurred ones and other people: "
            f"{_LEAST_TO_COMPARE} are needed.",
        ),
        (
            count >= _LEAST_TO_COMPARE and not embedded,
            f"Other people among the faces of {label} were not looked for: that needs "
            "dlib, install 'fsgan[identity]'.",
        ),
        (
            0 < embedded < count,
            f"Other people were looked for among {embedded} of {label}'s {count} faces "
            f"only: {_MOST_EMBEDDED} evenly chosen, and those beside the outliers.",
        ),
        (
            repeats >= count / 4,
            f"{repeats} of {label} nearly repeat another face: search fewer frames, or "
            "film more expressions and directions of view.",
        ),
        (
            count - repeats < _FEW,
            f"{label} has too few different faces, {count - repeats}: a few hundred "
            "are better.",
        ),
        (
            small >= 0.5,
            f"{small:.0%} of {label}'s faces are smaller than {_SMALL} pixels in the "
            "footage: film it closer.",
        ),
    )
    return [sentence for applies, sentence in sentences if applies]


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
