"""How good a swap is in motion, and what it left alone: measures of whole videos.

The classes are given frame after frame and keep nothing of them but sums.
"""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from scipy.signal import correlate

from fsgan.evaluation.face_metrics import MOST_PSNR
from fsgan.media.decoding import clock_start, decode, open_media, packets

_RATE = 16_000  # samples a second, at which sounds are compared
_HEARD = 300  # seconds of sound that are compared, at most


def acceleration(landmarks: np.ndarray) -> np.ndarray:
    """Measures how abruptly a face moves from frame to frame.

    Args:
        landmarks: float (n, k, 2), n >= 3, (x, y) pixels of one face in n successive
            frames, as found and not smoothed; NaN where it was not found.

    Returns:
        float64 (n - 2,), the second difference of the points, the mean of its length,
        over the size of the face (the root mean square distance of its points from
        their middle): sizes a frame squared. NaN where one of three successive frames
        lacks the face.

    Raises:
        ValueError: the shape is another one.
    """
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 3 or len(points) < 3 or points.shape[2] != 2:
        raise ValueError(
            "landmarks must be (n, k, 2) of at least 3 successive frames, got "
            f"{points.shape}"
        )
    spread = points - points.mean(axis=1, keepdims=True)
    size = np.sqrt((spread**2).sum(axis=2).mean(axis=1))
    change = np.linalg.norm(np.diff(points, 2, axis=0), axis=2).mean(axis=1)
    return change / size[1:-1]


def jitter(source: np.ndarray, swapped: np.ndarray) -> float | None:
    """Compares how abruptly a swapped face moves with the source's own.

    Only places count in which both faces were found in three successive frames. What
    the detector adds by itself is in both, so a source that stands still makes much of
    little.

    Args:
        source: float (n, k, 2), (x, y) pixels, as of `acceleration`.
        swapped: of the same shape, the same faces after the swap.

    Returns:
        Mean acceleration of `swapped` over that of `source`: 1 where they move alike,
        more where the swap shakes; infinity if only the source moves evenly. None where
        nothing can be compared.

    Raises:
        ValueError: the shapes differ or are others.
    """
    if np.shape(source) != np.shape(swapped):
        raise ValueError(
            "landmarks must be of the same faces before and after, got "
            f"{np.shape(source)} and {np.shape(swapped)}"
        )
    both = np.stack([acceleration(swapped), acceleration(source)])
    both = both[:, ~np.isnan(both).any(axis=0)]
    return _ratio(*both.mean(axis=1)) if both.size else None


class FlowFlicker:
    """The change inside a face from frame to frame, along the flow of the source.

    What moves is followed, by the optical flow of the source, so only what changes
    while it moves counts: light, colours, details that come and go. A swap that keeps
    to the movements of the source flickers as much as the source itself.

    Source: Kroeger et al., "Fast Optical Flow using Dense Inverse Search", 2016, as in
    OpenCV; the measure is that of Lai et al., "Learning Blind Video Temporal
    Consistency", 2018, without its occlusions: they are in the source, too.
    """

    def __init__(self) -> None:
        """Starts before the first frame."""
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._change = np.zeros(2)
        self._compared = False
        self._before: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def add(self, source: np.ndarray, swapped: np.ndarray, alpha: np.ndarray) -> None:
        """Takes the next frame.

        Args:
            source: RGB uint8 (height, width, 3).
            swapped: RGB uint8 (height, width, 3), the same frame after the swap.
            alpha: the mask, float [0, 1] (height, width, 1).
        """
        before, self._before = self._before, (source, swapped, alpha)
        if before is None or not (before[2].any() and alpha.any()):
            return
        self._compared = True
        part = _around((before[2] > 0) | (alpha > 0), margin=32)
        old, new = ([x[part] for x in frame] for frame in (before, self._before))
        grays = (cv2.cvtColor(x[0], cv2.COLOR_RGB2GRAY) for x in (old, new))
        flow = self._flow.calc(*grays, None)
        rows, columns = np.indices(flow.shape[:2], np.float32)
        place = (columns + flow[..., 0], rows + flow[..., 1])
        source_back, swapped_back, alpha_back = (
            cv2.remap(x, *place, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for x in new
        )
        weight = np.minimum(old[2], alpha_back[..., None])
        for index, (was, comes) in enumerate(
            ((old[1], swapped_back), (old[0], source_back))
        ):
            difference = cv2.absdiff(was, comes)
            self._change[index] += np.sum(difference * weight, dtype=np.float64)

    def cut(self) -> None:
        """Says that the next frame does not go on from the last one."""
        self._before = None

    @property
    def value(self) -> float | None:
        """Change in the swapped frames over that in the source.

        It is 1 where nothing is swapped, infinity if only the source does not change,
        and None where no two successive frames show a face.
        """
        return _ratio(*self._change) if self._compared else None


class Outside:
    """What changed outside the masks, where a swap must leave everything as it is."""

    def __init__(self) -> None:
        """Starts before the first frame."""
        self._squares = 0.0
        self._values = 0

    def add(
        self, source: np.ndarray, swapped: np.ndarray, alpha: np.ndarray
    ) -> int | None:
        """Takes the next frame.

        Args:
            source: RGB uint8 (height, width, 3).
            swapped: RGB uint8 (height, width, 3), the same frame after the swap.
            alpha: the mask, float [0, 1] (height, width, 1); outside is where it is 0.

        Returns:
            Largest difference outside, levels of 255; None where there is no outside.
        """
        difference = cv2.absdiff(source, swapped)[alpha[..., 0] == 0]
        if not difference.size:
            return None
        self._squares += float((difference.astype(np.float64) ** 2).sum())
        self._values += difference.size
        return int(difference.max())

    @property
    def psnr(self) -> float | None:
        """Peak signal-to-noise ratio of all that is outside, dB, 100 at most.

        None stands where nothing is outside.
        """
        if not self._values:
            return None
        if not self._squares:
            return MOST_PSNR
        psnr = 10 * np.log10(255**2 * self._values / self._squares)
        return min(float(psnr), MOST_PSNR)


def audio_offset(
    source: str | Path,
    swapped: str | Path,
    start: float = 0.0,
    end: float | None = None,
) -> float | None:
    """Measures by how much the sound of a swapped video comes later than the source's.

    The first five minutes are compared, by the maximum of their cross-correlation.

    Args:
        source: video.
        swapped: video whose time 0 is `start` in the source.
        start: seconds.
        end: seconds in the source at which the swapped video ends; None for its end.

    Returns:
        Seconds, to the millisecond; positive is late. None where one of them has no
        sound, or nothing is heard in it.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is no video or sound.
    """
    seconds = _HEARD if end is None else min(end - start, _HEARD)
    own = _sound(Path(source), start, seconds)
    heard = _sound(Path(swapped), 0, seconds)
    if not (len(own) and len(heard)):
        return None
    lag = int(np.argmax(correlate(heard, own, "full"))) - (len(own) - 1)
    return round(lag / _RATE, 3)


def _sound(path: Path, start: float, seconds: float) -> np.ndarray:
    """The sound of a file up to its last noise, each sample at its time, mono."""
    samples = np.zeros(round(seconds * _RATE), np.float32)
    with open_media(path) as container:
        if not container.streams.audio:
            return samples[:0]
        track = container.streams.best("audio")
        origin = clock_start(container) + Fraction(start)
        resampler = av.AudioResampler("flt", "mono", _RATE)
        for frame in decode(packets(container, track)):
            if frame is None or frame.pts is None:
                continue
            if frame.pts * frame.time_base - origin > seconds:
                break
            for part in resampler.resample(frame):
                _put(samples, part, origin)
        for part in resampler.resample(None):
            _put(samples, part, origin)
    return np.trim_zeros(samples, "b")


def _put(samples: np.ndarray, frame: av.AudioFrame, origin: Fraction) -> None:
    """Writes a piece of sound where its time says."""
    place = round((frame.pts * frame.time_base - origin) * _RATE)
    values = frame.to_ndarray().ravel()[max(0, -place) :]
    place = max(0, place)
    samples[place : place + len(values)] = values[: max(0, len(samples) - place)]


def _around(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Rows and columns of a mask (height, width, 1), and a margin."""
    lines = (mask[..., 0].any(axis=1), mask[..., 0].any(axis=0))
    ends = (np.flatnonzero(line)[[0, -1]] for line in lines)
    return tuple(slice(max(0, a - margin), b + 1 + margin) for a, b in ends)


def _ratio(measured: float, own: float) -> float:
    """The ratio of two amounts; 1 if there is nothing of either."""
    if own == 0:
        return 1.0 if measured == 0 else float("inf")
    return float(measured / own)
