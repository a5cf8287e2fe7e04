"""Eye masks of aligned crops, from 68 landmarks or from five points."""

import cv2
import numpy as np

RIGHT_EYE = slice(36, 42)
LEFT_EYE = slice(42, 48)
"""The eyes among the 68 landmarks (iBUG 300-W); the sides are the person's own."""


def eye_mask_from_68_landmarks(landmarks: np.ndarray, size: int = 256) -> np.ndarray:
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


def eye_mask_from_5_landmarks(landmarks: np.ndarray, size: int = 256) -> np.ndarray:
    """Draws the mask of both eyes from the five points of the detector: crude.

    About each eye lies an ellipse with half axes of 0.10 and 0.06 of the crop's side,
    turned with the line between the eyes and blurred like the fine mask. Its centre is
    0.0125 of the side below the point, which the detector sets a little high. These
    numbers agreed best with fine masks of annotated photos; axes in proportion to the
    distance between the eyes agreed less, for it shrinks when a head turns.

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
    """Tints the masked part of a crop red, so that its place can be judged by eye.

    Args:
        image: RGB uint8 (height, width, 3).
        mask: float32 (height, width, 1) in [0, 1].

    Returns:
        RGB uint8 (height, width, 3).
    """
    red = np.array([255, 0, 0], np.float32)
    return np.round(image + 0.6 * mask * (red - image)).astype(np.uint8)


def _blurred(mask: np.ndarray, size: int) -> np.ndarray:
    """Softens a uint8 mask by 7x7 at 256 pixels; float32 (size, size, 1) in [0, 1]."""
    kernel = _odd(7 * size / 256)
    return cv2.GaussianBlur(mask, (kernel, kernel), 0)[..., None].astype("f4") / 255


def _odd(width: float) -> int:
    """The odd whole number nearest to a kernel's width, at least 1."""
    return 2 * max(0, round((width - 1) / 2)) + 1
