"""Stage: eye masks of face crops, from 68 landmarks or from five points."""

import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from fsgan.data.extract import StageResult, check_square, read_faces_record
from fsgan.faces.geometry import CROP_SIZE, MEAN_LANDMARKS, transform_points
from fsgan.faces.landmarks import LandmarkDetector
from fsgan.media.images import contact_sheet, list_images, read_image, write_image

log = logging.getLogger(__name__)

MASK_METHODS = ("auto", "face_alignment", "five_points")
RIGHT_EYE = slice(36, 42)
LEFT_EYE = slice(42, 48)
"""The eyes among the 68 landmarks (iBUG 300-W); the sides are the person's own."""

_BATCH = 16  # crops through the landmark network at once
_SHOWN = 32  # masks on the contact sheet


@dataclass(frozen=True, eq=False, repr=False)
class EyeMasks(StageResult):
    """What `make_eye_masks` did.

    Attributes:
        method: the method used, "face_alignment" or "five_points".
        files: the masks written, in the order of the faces.
        contact_sheet: RGB uint8 picture of up to 32 masks over their faces, those
            first that differ most from the mask of the mean shape: the likeliest wrong.
    """

    method: str
    files: list[Path]
    contact_sheet: np.ndarray

    def __repr__(self) -> str:
        """Says how many masks were made, and how."""
        return f"{len(self)} eye masks by {self.method}, the likeliest wrong first"


def make_eye_masks(
    faces_dir: str | Path, masks_dir: str | Path, method: str = "auto"
) -> EyeMasks:
    """Draws a mask of the eyes for every face crop of a folder.

    Args:
        faces_dir: folder of crops, as of `extract_faces`.
        masks_dir: folder for the masks, PNG files named like the crops.
        method: "face_alignment" draws fine masks from 68 landmarks and downloads the
            network's weights when they are not in `weights/`; "five_points" draws crude
            ones from the points in `faces.json`, or from the mean shape for crops that
            are not recorded there; "auto" takes the first where package and weights are
            at hand, else the second, and logs which.

    Returns:
        The method used, the files and a picture of the masks to look at first.

    Raises:
        FileNotFoundError: there are no crops, or what "face_alignment" needs is
            missing.
        ValueError: `method` is unknown, the two folders are one, a crop is not square,
            or a weight file is damaged.
        OSError: `masks_dir` cannot be written.
    """
    if method not in MASK_METHODS:
        raise ValueError(f"method must be one of {MASK_METHODS}, got {method!r}")
    faces_dir, masks_dir = Path(faces_dir), Path(masks_dir)
    crops = list_images(faces_dir)
    if masks_dir.resolve() == faces_dir.resolve():
        raise ValueError(f"faces and masks need two folders, got {faces_dir} for both")
    method, network = _choose_method(method)
    recorded = {entry["file"]: entry for entry in read_faces_record(faces_dir)}
    files, agreement = [masks_dir / f"{path.stem}.png" for path in crops], []
    with tqdm(total=len(crops), desc="eye masks", unit="face") as progress:
        for start in range(0, len(crops), _BATCH):
            paths = crops[start : start + _BATCH]
            batch = [read_image(path) for path in paths]
            for path, crop in zip(paths, batch, strict=True):
                check_square((crop.shape[1], crop.shape[0]), path)
            sizes = [len(crop) for crop in batch]
            if network is not None:
                points = network.detect(batch)
                masks = map(eye_mask_from_68_landmarks, points, sizes)
            else:
                entries = [recorded.get(path.name) for path in paths]
                points = map(_crop_landmarks, entries, sizes)
                masks = map(eye_mask_from_5_landmarks, points, sizes)
            for file, mask in zip(files[start : start + _BATCH], masks, strict=True):
                gray = np.repeat(np.round(mask * 255).astype(np.uint8), 3, axis=-1)
                write_image(file, gray)
                agreement.append(_agreement(mask))
                progress.update()
    overlays = [
        overlay(read_image(crops[index]), read_image(files[index])[..., :1] / 255)
        for index in np.argsort(agreement, kind="stable")[:_SHOWN]
    ]
    return EyeMasks(method, files, contact_sheet(overlays, size=128))


def eye_mask_from_68_landmarks(
    landmarks: np.ndarray, size: int = CROP_SIZE
) -> np.ndarray:
    """Draws the mask of both eyes from 68 landmarks: fine.

    The convex hulls of the eyes are filled, dilated by 13x13 and blurred by 7x7 at a
    crop of 256 pixels, in proportion at other sizes.

    Args:
        landmarks: float (68, 2), (x, y) pixels of the crop, in the order of iBUG 300-W.
        size: side of the crop in pixels.

    Returns:
        float32 (size, size, 1) in [0, 1].

    Source: faceswap-GAN v2.2 (2018).
    """
    mask = np.zeros((size, size), np.uint8)
    for eye in (RIGHT_EYE, LEFT_EYE):
        hull = cv2.convexHull(np.round(landmarks[eye]).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 255)
    mask = cv2.dilate(mask, np.ones((_odd(13 * size / 256),) * 2, np.uint8))
    return _blurred(mask, size)


def eye_mask_from_5_landmarks(
    landmarks: np.ndarray, size: int = CROP_SIZE
) -> np.ndarray:
    """Draws the mask of both eyes from the five points of the detector: crude.

    About each eye lies an ellipse with half axes of 0.10 and 0.06 of the crop's side,
    turned with the line between the eyes. Its centre is 0.0125 of the side below the
    point, which the detector sets a little high.

    Args:
        landmarks: float (5, 2), (x, y) pixels of the crop, in the detector's order.
        size: side of the crop in pixels.

    Returns:
        float32 (size, size, 1) in [0, 1].
    """
    mask = np.zeros((size, size), np.uint8)
    across = landmarks[1] - landmarks[0]
    angle = float(np.degrees(np.arctan2(across[1], across[0])))
    below = 0.0125 * size * np.array([-across[1], across[0]]) / np.hypot(*across)
    axes = (0.20 * size, 0.12 * size)
    for eye in landmarks[:2] + below:
        cv2.ellipse(mask, (tuple(map(float, eye)), axes, angle), 255, cv2.FILLED)
    return _blurred(mask, size)


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Tints the masked part of a crop red, so that its place can be checked by eye.

    Args:
        image: RGB uint8 (height, width, 3).
        mask: float32 (height, width, 1) in [0, 1].

    Returns:
        RGB uint8 (height, width, 3).
    """
    red = np.array([255, 0, 0], np.float32)
    return np.round(image + 0.6 * mask * (red - image)).astype(np.uint8)


def _choose_method(method: str) -> tuple[str, LandmarkDetector | None]:
    """Decides on the method; loads the network it needs."""
    if method == "five_points":
        return method, None
    try:
        return "face_alignment", LandmarkDetector(download=method == "face_alignment")
    except FileNotFoundError as error:
        if method == "face_alignment":
            raise
        log.warning("crude eye masks from five points, because %s", error)
        return "five_points", None


def _agreement(mask: np.ndarray) -> float:
    """How well a mask overlaps the mask of the mean shape, in [0, 1]."""
    size = len(mask)
    mean = eye_mask_from_5_landmarks(_crop_landmarks(None, size), size) > 0.5
    return float(((mask > 0.5) & mean).sum() / ((mask > 0.5) | mean).sum())


def _crop_landmarks(entry: dict | None, size: int) -> np.ndarray:
    """The five points in pixels of the crop."""
    if entry is None:
        return MEAN_LANDMARKS * size - 0.5
    points = transform_points(np.array(entry["landmarks"]), np.array(entry["matrix"]))
    return (points + 0.5) * size / CROP_SIZE - 0.5


def _blurred(mask: np.ndarray, size: int) -> np.ndarray:
    """Softens a uint8 mask by 7x7 at 256 pixels; float32 (size, size, 1) in [0, 1]."""
    kernel = _odd(7 * size / 256)
    return cv2.GaussianBlur(mask, (kernel, kernel), 0)[..., None].astype("f4") / 255


def _odd(width: float) -> int:
    """The odd whole number nearest to a kernel's width, at least 1."""
    return 2 * max(0, round((width - 1) / 2)) + 1
