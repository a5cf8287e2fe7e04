"""Where a face is: boxes, five points, and the warp to the aligned crop and back.

The *standard crop* is the square that `MEAN_LANDMARKS` describes. Stored crops show
more: a crop's *extent* is its width in widths of the standard crop, about one centre.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NotRequired

import cv2
import numpy as np
from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat
from skimage.transform import estimate_transform
from typing_extensions import TypedDict

from fsgan.media.images import read_image
from fsgan.validation import Share, read_json

CROP_SIZE = 256
"""Side in pixels of a standard crop where nothing else decides it."""

CROP_EXTENT = 1.6
"""Extent of the crops that `fsgan.extract_faces` saves: the whole face, chin and all.

In units of the brow-to-lip square of dlib's mean face it is 2.08.
"""

RECORD = "faces.json"

MEAN_LANDMARKS = np.array(
    [
        [0.3259, 0.3134],  # left eye
        [0.7228, 0.3108],  # right eye
        [0.5187, 0.5524],  # nose
        [0.3726, 0.7752],  # left corner of the mouth
        [0.6773, 0.7760],  # right corner of the mouth
    ]
)
"""Mean five-point shape, float64 (5, 2) as (x, y) shares of the aligned crop's side.

Source: faceswap-GAN v2.2 (2018).
"""


@dataclass(frozen=True, eq=False)  # two faces are the same only if they are one
class Face:
    """A face found in a frame.

    The five points are left eye, right eye (as seen in the image), nose, left and right
    corner of the mouth.
    """

    box: np.ndarray  # float (4,), (left, top, right, bottom), pixels of the frame
    landmarks: np.ndarray  # float (5, 2), (x, y), likewise
    confidence: float  # the detector's score in [0, 1]
    track: int | None = None  # number of the face in its video, where it is tracked
    run: int | None = None  # number of the stretch of the track without a jump

    @property
    def size(self) -> float:
        """The shorter side of the box in pixels."""
        return float(min(self.box[2:] - self.box[:2]))


def _file_name(name: str) -> str:
    """A name that stays in its folder, as files are moved and deleted by it."""
    if Path(name).name != name or name in ("", "..") or "\0" in name:
        raise ValueError("it is not the name of a file")
    return name


def _apart(landmarks: list[list[float]]) -> list[list[float]]:
    if not np.ptp(landmarks, axis=0).any():
        raise ValueError("the points coincide")
    return landmarks


def _listed_once(entries: list[dict]) -> list[dict]:
    if len({entry["file"] for entry in entries}) < len(entries):
        raise ValueError("a file is listed twice")
    return entries


# What files hold of a face.
_Pixels = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]
_Point = Annotated[list[_Pixels], Field(min_length=2, max_length=2)]
_Row = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
Box = Annotated[list[_Pixels], Field(min_length=4, max_length=4)]
Landmarks = Annotated[
    list[_Point], Field(min_length=5, max_length=5), AfterValidator(_apart)
]


class FaceEntry(TypedDict):
    """What `faces.json` says of one crop; see `fsgan.extract_faces`."""

    __pydantic_config__ = ConfigDict(extra="allow")
    file: Annotated[str, Field(max_length=255), AfterValidator(_file_name)]
    source: str
    frame: Annotated[int, Field(ge=0)]
    time: FiniteFloat
    box: Box
    landmarks: Landmarks
    confidence: Share
    extent: NotRequired[Annotated[FiniteFloat, Field(ge=0.5, le=4)]]
    matrix: NotRequired[Annotated[list[_Row], Field(min_length=2, max_length=2)]]


class _Record(TypedDict):
    faces: Annotated[list[FaceEntry], AfterValidator(_listed_once)]


def intersection_over_union(boxes_a: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """Measures how much each box of one list overlaps each box of another.

    Args:
        boxes_a: float (n, 4), (left, top, right, bottom).
        boxes_b: float (m, 4), likewise.

    Returns:
        float (n, m), in [0, 1].
    """
    a = np.reshape(boxes_a, (-1, 1, 4)).astype(float)
    b = np.reshape(boxes_b, (1, -1, 4)).astype(float)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.prod(np.maximum(sides, 0), axis=-1)
    area_a, area_b = (np.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (a, b))
    return intersection / (area_a + area_b - intersection)


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Fits the rotation, uniform scale and shift that take points to points.

    Args:
        source: float (n, 2), n >= 2, (x, y).
        target: float (n, 2), (x, y).

    Returns:
        float64 (2, 3) matrix M with ``target ~ M[:, :2] @ source + M[:, 2]``.

    Raises:
        ValueError: the points coincide, so that no similarity is defined.

    Source: Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", 1991, as in scikit-image.
    """
    transform = estimate_transform("similarity", np.asarray(source), np.asarray(target))
    if not transform or not np.all(np.isfinite(transform.params)):
        raise ValueError("landmarks coincide: no similarity transform fits them")
    return transform.params[:2]


def crop_matrix(
    landmarks: np.ndarray, size: int = CROP_SIZE, coverage: float = 1.0
) -> np.ndarray:
    """Computes the similarity that takes a frame to the aligned crop of a face.

    Args:
        landmarks: float (5, 2), (x, y) pixels of the frame.
        size: side of the crop in pixels.
        coverage: width that is shown, in widths of the standard crop, above 0, as of
            `fsgan.ModelConfig`; `CROP_EXTENT` for what `fsgan.extract_faces` saves.

    Returns:
        float64 (2, 3) matrix from frame pixels to crop pixels.

    Raises:
        ValueError: the landmarks coincide.
    """
    return fit_similarity(landmarks, mean_landmarks(size, coverage))


def mean_landmarks(size: int, extent: float = 1.0) -> np.ndarray:
    """Says where the five points of the mean shape lie in a crop.

    Args:
        size: side of the crop in pixels.
        extent: its width in widths of the standard crop.

    Returns:
        float64 (5, 2), (x, y) pixels of the crop.
    """
    # A share s of the side lies at pixel s * size - 0.5: centres are whole numbers.
    return ((MEAN_LANDMARKS - 0.5) / extent + 0.5) * size - 0.5


def recrop(crop: np.ndarray, extent: float, wanted: float = 1.0) -> np.ndarray:
    """Cuts a crop of another extent out of a crop, without changing its scale.

    Args:
        crop: (size, size, channels), any dtype.
        extent: of `crop`.
        wanted: extent of the result; where it is the wider one, the border is repeated.
            The default is the standard crop.

    Returns:
        About (size * wanted / extent, likewise, channels); it may share memory.
    """
    # Whole pixels, as many on all sides: the centre stays.
    margins = [round(side * (1 - wanted / extent) / 2) for side in crop.shape[:2]]
    if min(margins) < 0:
        return np.pad(crop, [*((-margin,) * 2 for margin in margins), (0, 0)], "edge")
    (top, left), (height, width) = margins, crop.shape[:2]
    return crop[top : height - top, left : width - left]


def read_faces_record(faces_dir: str | Path) -> list[FaceEntry]:
    """Reads what `fsgan.extract_faces` wrote down about the crops of a folder.

    Args:
        faces_dir: the folder of crops.

    Returns:
        The entries of its `faces.json`, in which "extent" was once left out where it is
        1; none where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(faces_dir) / RECORD
    if not path.is_file():
        return []
    return read_json(path, _Record, "delete it and extract the faces again")["faces"]


def read_crops(files: Iterable[Path], extent: float = 1.0) -> Iterator[np.ndarray]:
    """Reads face crops, of whatever extent, and gives all of them one.

    Args:
        files: crops in folders as of `fsgan.extract_faces`; those that are not recorded
            there are standard crops.
        extent: as of `recrop`; the default is the standard crop.

    Yields:
        RGB uint8 (size, size, 3), sizes may differ.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is no picture, or a `faces.json` is damaged.
    """
    records: dict[Path, dict[str, float]] = {}
    for file in files:
        if file.parent not in records:
            entries = read_faces_record(file.parent)
            records[file.parent] = {it["file"]: it.get("extent", 1.0) for it in entries}
        stored = records[file.parent].get(file.name, 1.0)
        yield np.ascontiguousarray(recrop(read_image(file), stored, extent))


def invert(matrix: np.ndarray) -> np.ndarray:
    """Inverts an affine matrix, float (2, 3); the inverse is float64 (2, 3)."""
    return cv2.invertAffineTransform(np.asarray(matrix, np.float64))


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Moves points (n, 2), (x, y), by an affine matrix (2, 3); gives float64 (n, 2)."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def align(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Warps a frame to a square crop; pixels outside the frame repeat its border.

    Args:
        image: uint8 or float32 (height, width, channels).
        matrix: float (2, 3), frame pixels to crop pixels, as of `crop_matrix`.
        size: side of the crop in pixels.

    Returns:
        The crop, dtype of `image`, (size, size, channels).
    """
    return warp(image, matrix, (size, size))


def warp(
    image: np.ndarray,
    matrix: np.ndarray,
    extent: tuple[int, int],
    interpolation: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_REPLICATE,
) -> np.ndarray:
    """Warps an image in one step and without aliasing.

    Where the image shrinks, it is sampled on a finer grid and averaged.

    Args:
        image: uint8 or float32 (height, width, channels).
        matrix: float (2, 3), pixels of `image` to pixels of the result.
        extent: (width, height) of the result in pixels.
        interpolation: one of OpenCV's constants.
        border: another one, of what lies outside the image.

    Returns:
        The warped image, dtype of `image`, (height, width, channels); one channel
        loses its axis.
    """
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    fine = max(1, int(np.ceil(0.75 / scale)))
    finer = fine * np.asarray(matrix, np.float64)
    finer[:, 2] += (fine - 1) / 2  # centres of pixels, not their corners
    size = (extent[0] * fine, extent[1] * fine)
    warped = cv2.warpAffine(image, finer, size, flags=interpolation, borderMode=border)
    if fine > 1:
        warped = cv2.resize(warped, extent, interpolation=cv2.INTER_AREA)
    return warped
