"""Metrics of a swap: identity, expression, pictures, borders, motion, sound.

A metric "against the source" is a ratio to the source's own value: 1 where nothing
changed. `docs/evaluation.md` says how to read them.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.signal import correlate
from skimage.metrics import structural_similarity

from fsgan.faces.geometry import fit_similarity, transform_points

MAX_PSNR = 100.0  # dB, of pictures that do not differ

_LEAST_FRAMES = 10  # of which a correlation over time is made
_LEAST_VARIATION = 0.01  # deviation of a mouth or of eyes that move at all, in openings
_BORDER = 2  # pixels on either side of the fading part of a mask
_FLOW_MARGIN = 32  # pixels around a mask in which optical flow is computed


@dataclass(frozen=True)
class Summary:
    """Summary statistics of one value a face or frame."""

    mean: float
    low: float  # 5th percentile
    median: float
    high: float  # 95th percentile
    values: tuple[float, ...]


Figure = Summary | float | None
"""What is measured: of each face or frame, of the whole, or nothing."""


def summarize(values: np.ndarray) -> Summary | None:
    """Computes summary statistics of finite values (n,); None where n is 0."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return None
    low, median, high = np.percentile(values, [5, 50, 95]).tolist()
    return Summary(float(values.mean()), low, median, high, tuple(values.tolist()))


def cosine_similarity(faces: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compares each embedding of one list with each of another.

    Args:
        faces: float (n, d), as of `fsgan.faces.identity.embed`.
        others: float (m, d).

    Returns:
        float64 (n, m) in [-1, 1].
    """
    faces, others = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (np.asarray(faces, float), np.asarray(others, float))
    )
    return faces @ others.T


def identity_scores(
    swapped: np.ndarray,
    target: np.ndarray,
    source: np.ndarray,
    others: np.ndarray | None = None,
) -> dict[str, Figure]:
    """Measures whose faces the swapped ones are.

    Args:
        swapped: float (n, d), embeddings of swapped faces, n >= 1.
        target: float (m, d), of real faces of the person to be seen, m >= 1.
        source: float (k, d), of real faces of the person in the footage, k >= 1.
        others: float (l, d), of other people (distractors).

    Returns:
        "to_target", "to_source": each swapped face's mean cosine similarity to theirs;
        "within_target", "target_to_source": mean similarity of two real faces; "moved":
        (to_target - target_to_source) / (within_target - target_to_source), None where
        the people are not told apart; "nearest_target", "nearest_source",
        "nearest_other": shares of swapped faces by whose their nearest real face is; a
        tie is not the target's.
    """
    to_target = cosine_similarity(swapped, target)
    to_source = cosine_similarity(swapped, source)
    to_others = np.full((len(to_target), 1), -np.inf)
    if others is not None:
        to_others = cosine_similarity(swapped, others)
    # argmax takes the first of equal ones: the target comes last.
    people = (to_others, to_source, to_target)
    nearest = np.argmax([similarity.max(axis=1) for similarity in people], axis=0)
    apart = float(cosine_similarity(target, source).mean())
    within, moved = None, None
    if len(target) > 1:
        pairs = cosine_similarity(target, target)[~np.eye(len(target), dtype=bool)]
        within = float(pairs.mean())
        if within > apart:
            moved = float((to_target.mean() - apart) / (within - apart))
    return {
        "moved": moved,
        "to_target": summarize(to_target.mean(axis=1)),
        "to_source": summarize(to_source.mean(axis=1)),
        "within_target": within,
        "target_to_source": apart,
        "nearest_target": float(np.mean(nearest == 2)),
        "nearest_source": float(np.mean(nearest == 1)),
        "nearest_other": float(np.mean(nearest == 0)),
    }


def expression_distance(source: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """Measures how far landmarks moved within the face.

    The swapped landmarks are aligned to the source's by the least-squares similarity:
    position, size and roll do not count.

    Args:
        source: float (n, 5, 2) or (n, 68, 2), (x, y) pixels, in the detector's order or
            that of iBUG 300-W.
        swapped: the same faces after the swap, of the same shape.

    Returns:
        float64 (n,), mean distance of the points over the distance between the eyes.

    Raises:
        ValueError: the points of a face coincide.
    """
    distances = []
    for old, new in zip(source, swapped, strict=True):
        left, right = old[:2]
        if len(old) == 68:
            left, right = old[36:42].mean(axis=0), old[42:48].mean(axis=0)
        aligned = transform_points(new, fit_similarity(new, old))
        moved = np.linalg.norm(aligned - old, axis=1).mean()
        distances.append(moved / np.linalg.norm(right - left))
    return np.array(distances)


def follows(
    source: np.ndarray, swapped: np.ndarray, people: np.ndarray
) -> float | None:
    """Measures whether what opens and closes in the source does so in the swap.

    Args:
        source: float (n,), of each face in each frame how far its mouth or eyes are
            open, as of `fsgan.faces.mesh`.
        swapped: float (n,), the same faces after the swap.
        people: int (n,), whose faces; of each person the mean is taken away first.

    Returns:
        Pearson's correlation over all faces; 0 where the swap does not move. None where
        there are fewer than 10, or the source hardly moves (by less than 0.01).
    """
    both = np.stack([source, swapped]).astype(np.float64)
    if both.shape[1] < _LEAST_FRAMES:
        return None
    for person in np.unique(people):
        both[:, people == person] -= both[:, people == person].mean(1, keepdims=True)
    deviations = np.sqrt((both**2).mean(axis=1))
    if deviations[0] < _LEAST_VARIATION:
        return None
    return float(both.prod(axis=0).mean() / max(deviations.prod(), 1e-12))


def sharpness(face: np.ndarray, mask: np.ndarray) -> float:
    """Measures how much fine detail a face has.

    Args:
        face: RGB uint8 (size, size, 3).
        mask: float [0, 1] (size, size, 1), of the face; a thirty-second of the side is
            taken off its border.

    Returns:
        Standard deviation of the Laplacian of the luminance within the mask.
    """
    width = 2 * (len(face) // 32) + 1
    inside = cv2.erode(mask, np.ones((width, width), np.uint8)) > 0.5
    gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(gray, cv2.CV_64F)[inside].std())


def mask_iou(mask: np.ndarray, other: np.ndarray) -> float:
    """Computes the intersection over union of soft masks, float [0, 1] of one shape."""
    union = np.maximum(mask, other).sum()
    return float(np.minimum(mask, other).sum() / max(union, 1e-12))


def psnr(real: np.ndarray, generated: np.ndarray) -> float:
    """Computes the peak signal-to-noise ratio of uint8 pictures of one shape.

    Returns:
        10 log10(255^2 / mean squared error) in dB, `MAX_PSNR` at most.
    """
    return min(cv2.PSNR(real, generated), MAX_PSNR)


def ssim(real: np.ndarray, generated: np.ndarray) -> float:
    """Computes the structural similarity of two pictures, with the Gaussian window.

    Args:
        real: RGB uint8 (height, width, 3), at least 11 pixels a side.
        generated: RGB uint8, of the same shape.

    Returns:
        The similarity, 1 at most.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: From error
    visibility to structural similarity", 2004, as in scikit-image.
    """
    similarity = structural_similarity(
        real,
        generated,
        channel_axis=-1,
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    return float(similarity)


def seam(source: np.ndarray, swapped: np.ndarray, alpha: np.ndarray) -> float | None:
    """Compares the gradients along a mask's border with the source's.

    The border is where the mask fades, from above 0 to three quarters of its maximum,
    and two pixels on either side. The energy is the sum of squared differences to the
    next pixel rightwards and downwards.

    Args:
        source: RGB uint8 (height, width, 3).
        swapped: the same frame after the swap.
        alpha: the mask, float [0, 1] (height, width, 1).

    Returns:
        Energy against the source: above 1 there is an edge, below 1 blur. None where
        there is no mask or only the source is plain.
    """
    if not alpha.any():
        return None
    part = mask_window(alpha, 2 * _BORDER)
    source, swapped, alpha = source[part], swapped[part], alpha[part]
    kernel = np.ones((2 * _BORDER + 1, 2 * _BORDER + 1), np.uint8)
    faded, shown = alpha[..., 0] < 0.75 * alpha.max(), alpha[..., 0] > 0
    border = cv2.dilate(faded.astype(np.uint8), kernel)
    border &= cv2.dilate(shown.astype(np.uint8), kernel)
    energies = []
    for frame in (swapped, source):
        values = frame.astype(np.float64)
        across = np.diff(values, axis=1) ** 2 * border[:, :-1, None]
        down = np.diff(values, axis=0) ** 2 * border[:-1, :, None]
        energies.append(across.sum() + down.sum())
    return _ratio(*energies)


class Jitter:
    """Acceleration of landmarks against the source's, over all frames in a row."""

    def __init__(self) -> None:
        """Starts before the first frame."""
        self._recent: dict[int, list[tuple[int, np.ndarray]]] = {}
        self._sums = np.zeros(2)
        self._measured = False

    def add(self, run: int, index: int, landmarks: np.ndarray) -> None:
        """Takes a face that is found in source and swap.

        Args:
            run: number of the unbroken run of frames that it belongs to.
            index: of the frame, growing.
            landmarks: float (2, n, 2), (x, y) pixels, in source and swap, not smoothed.
        """
        recent = [*self._recent.get(run, []), (index, landmarks)][-3:]
        self._recent[run] = recent
        if recent[0][0] != index - 2:
            return
        before, middle, after = (points for _, points in recent)
        centred = middle - middle.mean(axis=1, keepdims=True)
        size = np.sqrt((centred**2).sum(axis=2).mean(axis=1))
        change = np.linalg.norm(before - 2 * middle + after, axis=2).mean(axis=1)
        self._sums += change / size
        self._measured = True

    @property
    def value(self) -> float | None:
        """Above 1 the swap trembles.

        None where no face is found in three frames in a row, or only the source moves
        evenly.
        """
        return _ratio(self._sums[1], self._sums[0]) if self._measured else None


class Flicker:
    """Change inside a face from frame to frame, along the source's optical flow.

    Source: the warping error of Lai et al., "Learning Blind Video Temporal
    Consistency", 2018, weighted by the mask, without their occlusions; optical flow by
    Kroeger et al., "Fast Optical Flow using Dense Inverse Search", 2016, as in OpenCV.
    """

    def __init__(self) -> None:
        """Starts before the first frame."""
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._sums = np.zeros(2)
        self._measured = False
        self._last: tuple = (None, [], ())

    def add(
        self,
        index: int,
        runs: list[int],
        source: np.ndarray,
        swapped: np.ndarray,
        alpha: np.ndarray,
    ) -> None:
        """Takes the next frame; it is compared with the one before if its faces are.

        Args:
            index: of the frame, growing.
            runs: numbers of the unbroken runs of frames that its faces belong to.
            source: RGB uint8 (height, width, 3).
            swapped: the same frame after the swap.
            alpha: the mask, float [0, 1] (height, width, 1).
        """
        (last_index, last_runs, last), frame = self._last, (source, swapped, alpha)
        self._last = (index, runs, frame)
        if (last_index, last_runs) != (index - 1, runs):
            return
        if not (last[2].any() and alpha.any()):
            return
        self._measured = True
        part = mask_window((last[2] > 0) | (alpha > 0), _FLOW_MARGIN)
        old, new = ([x[part] for x in pictures] for pictures in (last, frame))
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
            self._sums[index] += change.sum(dtype=np.float64)

    @property
    def value(self) -> float | None:
        """Change against the source: 1 where nothing is swapped.

        None where no two successive frames show a face, or only the source does not
        change.
        """
        return _ratio(self._sums[1], self._sums[0]) if self._measured else None


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


def mask_window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """Finds the rows and columns of a frame that hold a mask.

    Args:
        mask: (height, width, 1), above 0 somewhere.
        margin: pixels around it, as far as the frame reaches.
    """
    left, top, width, height = cv2.boundingRect((mask[..., 0] > 0).astype(np.uint8))
    return (
        slice(max(0, top - margin), top + height + margin),
        slice(max(0, left - margin), left + width + margin),
    )


def _ratio(value: float, own: float) -> float | None:
    """A value against the source's own; 1 where both are 0, None where own alone is."""
    if own == 0:
        return 1.0 if value == 0 else None
    return float(value / own)
