"""Stage: masks of eyes, face and mouth of face crops, from dense landmarks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from tqdm.auto import tqdm

from fsgan.data.extract import StageResult, check_square
from fsgan.faces.geometry import (
    crop_matrix,
    mean_landmarks,
    read_faces_record,
    recrop,
    transform_points,
)
from fsgan.faces.landmarks import LandmarkDetector
from fsgan.faces.mesh import LEFT_EYE, LIPS, OVAL, RIGHT_EYE, FaceMesh
from fsgan.media.files import check_output, write_json
from fsgan.media.images import contact_sheet, list_images, read_image, write_image
from fsgan.validation import check_two_folders, checked, read_json

MASK_METHODS = ("mesh", "face_alignment")
EYES_OF_68 = (slice(36, 42), slice(42, 48))  # of the landmarks of iBUG 300-W
EYES, FACE, MOUTH = range(3)
"""Channels of the masks."""

_RECORD = "masks.json"
_SHOWN = 32  # masks on the contact sheet

_mesh = FaceMesh()


@dataclass(frozen=True, eq=False, repr=False)
class Masks(StageResult):
    """What `make_masks` did.

    Attributes:
        method: the method used, "mesh" or "face_alignment".
        files: the masks written, in the order of the faces.
        contact_sheet: RGB uint8 picture of up to 32 masks over their faces, those
            first whose eyes are farthest from the mean shape's: the likeliest wrong.
    """

    method: str
    files: list[Path]
    contact_sheet: np.ndarray

    def __repr__(self) -> str:
        """Says how many masks were made, and how."""
        return f"{len(self)} masks by {self.method}, the likeliest wrong first"


@checked
def make_masks(
    faces_dir: str | Path,
    masks_dir: str | Path,
    method: Literal[*MASK_METHODS] = "mesh",
) -> Masks:
    """Draws the masks of eyes, face and mouth for every face crop of a folder.

    Args:
        faces_dir: folder of crops, as of `extract_faces`; those that are not in its
            `faces.json` are taken for standard crops of the mean shape.
        masks_dir: folder for the masks, PNG files named like the crops: red eyes, green
            face, blue mouth. `masks.json` says which crop each was drawn for.
        method: "mesh" draws everything from dense landmarks, in hundredths of a second
            a face. "face_alignment" draws the eyes from 68 landmarks instead; it needs
            the extra `landmarks` and downloads the network's weights when they are not
            in `weights/`.

    Returns:
        The method used, the files and a picture of the masks to look at first.

    Raises:
        FileNotFoundError: there are no crops, or what "face_alignment" needs is
            missing.
        ValueError: `method` is unknown, the two folders are one, a crop is not square,
            or `faces.json`, `masks.json` or a weight file is damaged.
        OSError: `masks_dir` cannot be written.
    """
    faces_dir, masks_dir = Path(faces_dir), Path(masks_dir)
    crops = list_images(faces_dir)
    check_two_folders("faces and masks", faces_dir, masks_dir)
    check_output(masks_dir / crops[0].name)
    detector = LandmarkDetector(download=True) if method == "face_alignment" else None
    record = {entry["file"]: entry for entry in read_faces_record(faces_dir)}
    drawn_for = read_masks_record(masks_dir)
    files, agreement = [masks_dir / f"{path.stem}.png" for path in crops], []
    progress = tqdm(crops, desc="masks", unit="face")
    for path, file in zip(progress, files, strict=True):
        crop, entry = read_image(path), record.get(path.name, {})
        check_square(crop.shape[1::-1], path)
        extent, landmarks = entry.get("extent", 1.0), crop_landmarks(entry, len(crop))
        masks = draw_masks(crop, landmarks, extent)
        if detector is not None:
            standard = np.ascontiguousarray(recrop(crop, extent))
            [points] = detector.detect([standard])
            points = points + (len(crop) - len(standard)) / 2
            eyes = [points[eye] for eye in EYES_OF_68]
            masks[..., EYES] = _draw_hulls(eyes, len(crop), extent, grown=13)
        write_image(file, masks)
        drawn_for[file.name] = digest(path)
        agreement.append(_agreement(masks[..., EYES], extent))
    write_json(masks_dir / _RECORD, drawn_for)
    overlays = [
        overlay(read_image(crops[index]), read_image(files[index]))
        for index in np.argsort(agreement, kind="stable")[:_SHOWN]
    ]
    return Masks(method, files, contact_sheet(overlays, size=128))


def read_masks_record(masks_dir: str | Path) -> dict[str, str]:
    """Reads which crops the masks of a folder were drawn for.

    Args:
        masks_dir: folder of masks, as of `make_masks`.

    Returns:
        Name of a mask -> `digest` of its crop; nothing of older versions' masks.

    Raises:
        ValueError: `masks.json` is damaged.
    """
    path = Path(masks_dir) / _RECORD
    if not path.is_file():
        return {}
    return read_json(path, dict[str, str], "delete it and run make_masks(...) again")


def digest(path: Path) -> str:
    """Tells a file from any other, 16 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def draw_masks(
    crop: np.ndarray, landmarks: np.ndarray | None = None, extent: float = 1.0
) -> np.ndarray:
    """Draws the masks of a face, with soft borders, from its dense landmarks.

    Each is a convex hull: of the eyes' contours, grown by 6 pixels on all sides, of the
    face's outline, and of the lips, grown by 4; in pixels of a standard crop of 256,
    in proportion at other sizes.

    Args:
        crop: RGB uint8 (size, size, 3).
        landmarks: float (5, 2), the face's five points in pixels of the crop; None
            takes those of the mean shape.
        extent: width of the crop in widths of the standard crop.

    Returns:
        uint8 (size, size, 3), 255 is inside: eyes, face, mouth.

    Raises:
        ValueError: the five points coincide.
    """
    size = len(crop)
    if landmarks is None:
        landmarks = mean_landmarks(size, extent)
    mesh = _mesh(crop, landmarks)
    eyes = [mesh[LEFT_EYE], mesh[RIGHT_EYE]]
    # How far the eyes' hulls are grown, and all are blurred: faceswap-GAN v2.2 (2018).
    return np.dstack(
        [
            _draw_hulls(eyes, size, extent, grown=13),
            _draw_hulls([mesh[OVAL]], size, extent, grown=1),
            _draw_hulls([mesh[LIPS]], size, extent, grown=9),
        ]
    )


def crop_landmarks(entry: dict, size: int) -> np.ndarray | None:
    """Finds the five points of a recorded face in its crop.

    Args:
        entry: of `faces.json`; empty for a crop that is not recorded.
        size: side of the crop in pixels.

    Returns:
        float64 (5, 2), (x, y) pixels of the crop; None for an empty entry.
    """
    if not entry:
        return None
    landmarks = np.array(entry["landmarks"])
    matrix = crop_matrix(landmarks, size, entry.get("extent", 1.0))
    return transform_points(landmarks, matrix)


def overlay(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Tints face, mouth and eyes of a crop, so that their place can be checked by eye.

    Args:
        image: RGB uint8 (height, width, 3).
        masks: uint8 (height, width, 3), as of `draw_masks`.

    Returns:
        RGB uint8 (height, width, 3): eyes red, face green, mouth blue.
    """
    tinted = image.astype(np.float32)
    for channel, strength in ((FACE, 0.25), (MOUTH, 0.6), (EYES, 0.6)):
        weight = strength * masks[..., channel, None] / np.float32(255)
        tinted += weight * (255 * np.eye(3, dtype="f4")[channel] - tinted)
    return np.round(tinted).astype(np.uint8)


def _draw_hulls(
    contours: Sequence[np.ndarray], size: int, extent: float, grown: int
) -> np.ndarray:
    """Fills convex hulls, dilates and blurs them, uint8 (size, size).

    `grown` is the side of the dilation's kernel in pixels of a standard crop of 256.
    """
    mask = np.zeros((size, size), np.uint8)
    for points in contours:
        hull = cv2.convexHull(np.round(points).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 255)
    grown, blur = (_odd(width * size / extent / 256) for width in (grown, 7))
    mask = cv2.dilate(mask, np.ones((grown, grown), np.uint8))
    return cv2.GaussianBlur(mask, (blur, blur), 0)


def _agreement(eyes: np.ndarray, extent: float) -> float:
    """How well an eye mask overlaps ellipses about the mean shape's eyes, in [0, 1]."""
    usual, side = np.zeros_like(eyes), len(eyes) / extent
    for eye in mean_landmarks(len(eyes), extent)[:2].tolist():
        cv2.ellipse(usual, (eye, (0.2 * side, 0.12 * side), 0), 255, cv2.FILLED)
    eyes, usual = eyes > 127, usual > 127
    return float((eyes & usual).sum() / (eyes | usual).sum())


def _odd(width: float) -> int:
    """The odd whole number nearest to a kernel's width, at least 1."""
    return 2 * max(0, round((width - 1) / 2)) + 1
