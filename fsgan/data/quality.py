"""How good the crops of a folder are, and which to reject."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform
from tqdm.auto import tqdm

from fsgan.faces.descriptors import describe
from fsgan.faces.pose import estimate_head_pose
from fsgan.media.images import list_images, read_image

LEAST_TO_COMPARE = 10  # faces: fewer say nothing about what is usual
MOST_STRANGERS = 0.2  # share of the faces: more are a light or a look of their own

# Equal faces have no spread to speak of: what is this little apart is still alike.
_LEAST_SPREAD_OF_SHARPNESS = 0.25  # of the logarithm
_LEAST_SPREAD_OF_STEPS = 0.15


@dataclass(frozen=True)
class DoctorSettings:
    """What is rejected. The limits are careful: of good footage, hardly a face is.

    Attributes:
        blur: a face is blurred from this `Measures.blur` on, above 0.
        strangeness: a face is another person or none from this
            `Measures.strangeness` on, above 0. Where more than a fifth of a folder is,
            none is rejected, as that may be a light or a look of its own; the advice
            says so.
        min_confidence: smallest score of the detector, in [0, 1]; 0 keeps all.
        min_size: shorter side of the smallest face, pixels of the source, at least 0.
        near_duplicate: faces that differ by no more than this are nearly one picture,
            root mean square in levels of 0..255, at least 0.
        reject_near_duplicates: whether all but the first of those are rejected.
    """

    blur: float = 4.0
    strangeness: float = 2.5
    min_confidence: float = 0.0
    min_size: float = 0.0
    near_duplicate: float = 2.0
    reject_near_duplicates: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        for name in ("blur", "strangeness"):
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
        strangeness: from face to like face one comes to the most usual one; how far the
            logarithm of the largest step on the way lies above the folder's median, in
            robust standard deviations. 0 in a folder of fewer than 10 faces.
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
    strangeness: np.ndarray
    brightness: np.ndarray
    confidence: np.ndarray
    size: np.ndarray
    roll: np.ndarray
    yaw: np.ndarray
    pitch: np.ndarray


@dataclass(frozen=True, eq=False)
class Folder:
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

    @property
    def accepted(self) -> np.ndarray:
        """Which faces are not rejected, bool (n,)."""
        return np.array([name not in self.rejected for name in self.names])


def examine_folder(
    path: str | Path, entries: list[dict], settings: DoctorSettings
) -> Folder:
    """Measures and judges the faces of a folder; it changes no file.

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
    small, descriptors = [], []
    duplicates: dict[str, str] = {}
    first_of: dict[bytes, str] = {}
    for index, face in enumerate(tqdm(paths, desc=f"Examining {path}", unit="face")):
        image = read_image(face)
        height, width = image.shape[:2]
        if height != width:
            raise ValueError(
                f"faces must be square crops, as extract_faces writes them, but {face} "
                f"is {width}x{height} pixels"
            )
        pixels = hashlib.sha256(image.tobytes()).digest()
        if (first := first_of.setdefault(pixels, face.name)) != face.name:
            duplicates[face.name] = first
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        small.append(cv2.resize(gray, (32, 32), interpolation=cv2.INTER_AREA))
        seen[index] = _sharpness_and_brightness(gray)
        descriptors.append(describe(image[None], "local binary patterns")[0])
        if entry := record.get(face.name):
            left, top, right, bottom = entry["box"]
            pose = estimate_head_pose(np.array(entry["landmarks"]))
            known[index] = entry["confidence"], min(right - left, bottom - top), *pose
    sharpness, brightness = seen.T
    confidence, size, roll, yaw, pitch = known.T
    if not np.isnan(pitch).all():
        pitch = pitch - np.nanmedian(pitch)
    blur = -_deviation(sharpness, _LEAST_SPREAD_OF_SHARPNESS)
    strangeness = _deviation(_steps(np.array(descriptors)), _LEAST_SPREAD_OF_STEPS)
    measures = Measures(
        sharpness, blur, strangeness, brightness, confidence, size, roll, yaw, pitch
    )
    near = _near_duplicates(names, np.array(small), settings.near_duplicate)
    near = {name: first for name, first in near.items() if name not in duplicates}
    rejected = _judge(names, measures, duplicates, near, settings)
    unrecorded = len(set(names) - set(record))
    return Folder(Path(path), names, measures, duplicates, near, rejected, unrecorded)


def _sharpness_and_brightness(gray: np.ndarray) -> tuple[float, float]:
    """Of the face without its surroundings, at a size that holds no upscaling."""
    gray = cv2.resize(gray, (128, 128), interpolation=cv2.INTER_AREA)
    edges = cv2.Laplacian(gray, cv2.CV_64F)
    face = slice(26, 109)
    return edges[face, face].var(), gray[face, face].mean()


def _steps(descriptors: np.ndarray) -> np.ndarray:
    """Largest step, a cosine distance, on the way from each face to the most usual one.

    On the way from face to like face, a rare pose is reached through those between; a
    stranger is not. Source: single-linkage clustering, as in SciPy.
    """
    if len(descriptors) < LEAST_TO_COMPARE:
        return np.ones(len(descriptors))
    distances = np.maximum(1 - descriptors @ descriptors.T, 0)
    usual = np.median(distances, axis=1).argmin()
    tree = linkage(squareform(distances, checks=False), "single")
    steps = squareform(cophenet(tree))[usual]
    steps[usual] = np.partition(steps, 1)[1]  # its own is 0
    return steps


def _deviation(values: np.ndarray, least_spread: float) -> np.ndarray:
    """Robust standard deviations of the logarithms from their median."""
    if len(values) < LEAST_TO_COMPARE:
        return np.zeros(len(values))
    logarithms = np.log(values + 1e-3)
    offsets = logarithms - np.median(logarithms)
    spread = 1.4826 * np.median(np.abs(offsets))  # of a normal distribution
    return offsets / max(spread, least_spread)


def _near_duplicates(
    names: list[str], small: np.ndarray, limit: float
) -> dict[str, str]:
    """Face -> first face that is nearly the same picture and has no such face itself.

    Perceptual hashes are too coarse here: of aligned faces of one person they call an
    open and a shut mouth one picture.
    """
    flat = small.reshape(len(small), -1) - np.float32(128)
    squares = (flat**2).sum(axis=1)
    alike = squares[:, None] + squares - 2 * flat @ flat.T <= limit**2 * flat.shape[1]
    first_of: dict[str, str] = {}
    own = np.ones(len(flat), bool)
    for index, name in enumerate(names):
        earlier = np.flatnonzero(alike[index, :index] & own[:index])
        if len(earlier):
            own[index] = False
            first_of[name] = names[earlier[0]]
    return first_of


def _judge(
    names: list[str],
    measures: Measures,
    duplicates: dict[str, str],
    near_duplicates: dict[str, str],
    settings: DoctorSettings,
) -> dict[str, str]:
    """File -> reason, of the faces that are rejected; the first reason counts."""
    reasons = {}
    strange = measures.strangeness >= settings.strangeness
    if strange.mean() > MOST_STRANGERS:
        strange[:] = False
    for index, name in enumerate(names):
        if measures.blur[index] >= settings.blur:
            reasons[name] = "blurred"
        elif strange[index]:
            reasons[name] = "unlike the others: another person or no face"
        elif measures.confidence[index] < settings.min_confidence:
            reasons[name] = "low confidence"
        elif measures.size[index] < settings.min_size:
            reasons[name] = "small"
        elif name in duplicates:
            reasons[name] = f"duplicate of {duplicates[name]}"
        elif settings.reject_near_duplicates and name in near_duplicates:
            reasons[name] = f"near-duplicate of {near_duplicates[name]}"
    return reasons
