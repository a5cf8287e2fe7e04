"""Where a face is: boxes, five points, and the warp to the aligned crop and back."""

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.transform import SimilarityTransform

CROP_SIZE = 256
"""Side in pixels of the aligned crops that `fsgan.extract_faces` saves."""

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
    transform = SimilarityTransform.from_estimate(source, target)
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
        coverage: share of the full crop's width that is shown, in (0, 1], about its
            centre, as of `fsgan.ModelConfig`; `fsgan.extract_faces` saves all of it.

    Returns:
        float64 (2, 3) matrix from frame pixels to crop pixels.

    Raises:
        ValueError: the landmarks coincide.
    """
    shape = (MEAN_LANDMARKS - 0.5) / coverage + 0.5
    # A share s of the side lies at pixel s * size - 0.5: centres are whole numbers.
    return fit_similarity(landmarks, shape * size - 0.5)


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
