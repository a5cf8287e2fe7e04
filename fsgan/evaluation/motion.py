"""Metrics of a swap in time: jitter, flicker, background, sound.

The classes take frame after frame and keep sums only.
"""

import cv2
import numpy as np
from scipy.signal import correlate

from fsgan.evaluation.metrics import MAX_PSNR, ratio

_FLOW_MARGIN = 32  # pixels around a mask in which optical flow is computed


def acceleration(landmarks: np.ndarray) -> np.ndarray:
    """Measures how abruptly a face moves.

    Args:
        landmarks: float (n, k, 2), n >= 3, (x, y) pixels in successive frames, not
            smoothed; NaN where the face was not found.

    Returns:
        float64 (n - 2,), mean length of the points' second difference over the size of
        the face (root mean square distance from its middle), per frame squared; NaN
        where one of the three frames lacks the face.
    """
    points = np.asarray(landmarks, np.float64)
    centred = points - points.mean(axis=1, keepdims=True)
    size = np.sqrt((centred**2).sum(axis=2).mean(axis=1))
    change = np.linalg.norm(np.diff(points, 2, axis=0), axis=2).mean(axis=1)
    return change / size[1:-1]


def jitter(source: np.ndarray, swapped: np.ndarray) -> float | None:
    """Compares the acceleration of swapped landmarks with the source's.

    Args:
        source: float (n, k, 2), as for `acceleration`.
        swapped: the same faces after the swap, of the same shape.

    Returns:
        Mean acceleration against the source: above 1 the swap trembles; infinity where
        only the source moves evenly. None where no three frames have both faces.

    Raises:
        ValueError: the shapes differ.
    """
    both = np.stack([acceleration(swapped), acceleration(source)])
    both = both[:, ~np.isnan(both).any(axis=0)]
    return ratio(*both.mean(axis=1)) if both.size else None


class Flicker:
    """Change inside a face from frame to frame, along the source's optical flow.

    Source: the warping error of Lai et al., "Learning Blind Video Temporal
    Consistency", 2018, weighted by the mask, without their occlusions; optical flow by
    Kroeger et al., "Fast Optical Flow using Dense Inverse Search", 2016, as in OpenCV.
    """

    def __init__(self) -> None:
        """Starts before the first frame."""
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._change = np.zeros(2)
        self._compared = False
        self._last: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def add(self, source: np.ndarray, swapped: np.ndarray, alpha: np.ndarray) -> None:
        """Takes the next frame.

        Args:
            source: RGB uint8 (height, width, 3).
            swapped: RGB uint8 (height, width, 3), the same frame after the swap.
            alpha: the mask, float [0, 1] (height, width, 1).
        """
        last, self._last = self._last, (source, swapped, alpha)
        if last is None or not (last[2].any() and alpha.any()):
            return
        self._compared = True
        part = surroundings((last[2] > 0) | (alpha > 0), _FLOW_MARGIN)
        old, new = ([x[part] for x in frame] for frame in (last, self._last))
        grays = (cv2.cvtColor(x[0], cv2.COLOR_RGB2GRAY) for x in (old, new))
        flow = self._flow.calc(*grays, None)
        rows, columns = np.indices(flow.shape[:2], np.float32)
        moved = (columns + flow[..., 0], rows + flow[..., 1])
        back = [
            cv2.remap(x, *moved, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for x in new
        ]
        weight = np.minimum(old[2], back[2][..., None])
        for index in range(2):
            change = cv2.absdiff(old[index], back[index]) * weight
            self._change[index] += change.sum(dtype=np.float64)

    def cut(self) -> None:
        """Says that the next frame does not continue the last one."""
        self._last = None

    @property
    def value(self) -> float | None:
        """Change against the source: 1 where nothing is swapped.

        Infinity where only the source does not change; None where no two successive
        frames show a face.
        """
        return ratio(self._change[1], self._change[0]) if self._compared else None


class Background:
    """What changed outside the masks, where a swap leaves everything as it is."""

    def __init__(self) -> None:
        """Starts before the first frame."""
        self._squares = 0.0
        self._count = 0

    def add(
        self, source: np.ndarray, swapped: np.ndarray, alpha: np.ndarray
    ) -> int | None:
        """Takes the next frame.

        Args:
            source: RGB uint8 (height, width, 3).
            swapped: RGB uint8 (height, width, 3), the same frame after the swap.
            alpha: the mask, float [0, 1] (height, width, 1); 0 is the background.

        Returns:
            Largest difference in the background, levels of 255; None without any.
        """
        difference = cv2.absdiff(source, swapped)[alpha[..., 0] == 0]
        if not difference.size:
            return None
        self._squares += float((difference.astype(np.float64) ** 2).sum())
        self._count += difference.size
        return int(difference.max())

    @property
    def psnr(self) -> float | None:
        """Peak signal-to-noise ratio so far, dB, `MAX_PSNR` at most; None without."""
        if not self._squares:
            return MAX_PSNR if self._count else None
        psnr = 10 * np.log10(255**2 * self._count / self._squares)
        return min(float(psnr), MAX_PSNR)


def sound_delay(source: np.ndarray, swapped: np.ndarray, rate: int) -> float | None:
    """Measures by how much a sound comes later than another, by cross-correlation.

    Args:
        source: float (n,), samples.
        swapped: float (m,), samples that begin at the same time.
        rate: samples a second.

    Returns:
        Seconds, to the millisecond; positive is late. None where one is silent.
    """
    source, swapped = np.trim_zeros(source, "b"), np.trim_zeros(swapped, "b")
    if not (len(source) and len(swapped)):
        return None
    lag = int(np.argmax(correlate(swapped, source, "full"))) - (len(source) - 1)
    return round(lag / rate, 3)


def surroundings(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Finds the rows and columns of a frame that hold a mask.

    Args:
        mask: (height, width, 1), above 0 somewhere.
        margin: pixels around it, as far as the frame reaches.

    Returns:
        Rows and columns.
    """
    left, top, width, height = cv2.boundingRect((mask[..., 0] > 0).astype(np.uint8))
    return (
        slice(max(0, top - margin), top + height + margin),
        slice(max(0, left - margin), left + width + margin),
    )
