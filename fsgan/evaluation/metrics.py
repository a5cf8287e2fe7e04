"""How well a swap sits in its footage: measures against the source's own."""

from collections.abc import Iterable
from itertools import pairwise

import cv2
import numpy as np

_REACH = 2  # pixels that the band reaches beyond the fading part of the mask


def seam(source: np.ndarray, swapped: np.ndarray, alpha: np.ndarray) -> float:
    """Compares the gradients along a mask's border with the source's at that place.

    The border is where the mask fades, from 0 to three quarters of its greatest value,
    and the two pixels on either side. Gradients are differences to the next pixel
    rightwards and downwards, squared and summed over the border and the channels.

    Args:
        source: RGB uint8 (height, width, 3).
        swapped: RGB uint8 (height, width, 3), the same frame after the swap.
        alpha: the mask, float [0, 1] (height, width, 1).

    Returns:
        Energy in `swapped` over energy in `source`: 1 where nothing changes, more where
        there is a seam, less where the border is blurred; infinity if only the source
        is plain.
    """
    kernel = np.ones((2 * _REACH + 1, 2 * _REACH + 1), np.uint8)
    faded, shown = alpha[..., 0] < 0.75 * alpha.max(), alpha[..., 0] > 0
    band = cv2.dilate(faded.astype(np.uint8), kernel)
    band &= cv2.dilate(shown.astype(np.uint8), kernel)
    return _ratio(*(_gradient_energy(frame, band) for frame in (swapped, source)))


def flicker(
    source: Iterable[np.ndarray],
    swapped: Iterable[np.ndarray],
    alphas: Iterable[np.ndarray],
) -> float:
    """Compares the change from frame to frame inside a face with the source's own.

    Frames are compared pixel by pixel as they stand, so that a face that shakes in its
    place counts as well as one that changes its light. A pixel has the weight of the
    mask in both frames.

    Args:
        source: frames, RGB uint8 (height, width, 3) each, in their order in time.
        swapped: the same frames after the swap.
        alphas: their masks, float [0, 1] (height, width, 1) each.

    Returns:
        Mean absolute change in `swapped` over that in `source`: 1 where nothing is
        swapped; infinity if only the source stands still.

    Raises:
        ValueError: there are not as many of one as of the others.
    """
    change = np.zeros(2)
    for before, after in pairwise(zip(source, swapped, alphas, strict=True)):
        weight = np.minimum(before[2], after[2])
        for index in range(2):
            difference = cv2.absdiff(before[index], after[index])
            change[index] += np.sum(difference * weight, dtype=np.float64)
    return _ratio(change[1], change[0])


def _gradient_energy(frame: np.ndarray, band: np.ndarray) -> float:
    """Squared differences to the next pixels, summed over a band of a frame."""
    values = frame.astype(np.float64)
    across = np.diff(values, axis=1) ** 2 * band[:, :-1, None]
    down = np.diff(values, axis=0) ** 2 * band[:-1, :, None]
    return float(across.sum() + down.sum())


def _ratio(measured: float, own: float) -> float:
    """The ratio of two amounts; 1 if there is nothing of either."""
    if own == 0:
        return 1.0 if measured == 0 else float("inf")
    return float(measured / own)
