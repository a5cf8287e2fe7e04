"""Metrics of swapped faces on arrays: identity, expression, pictures, borders.

A metric "against the source" is a ratio to the source's own value: 1 where nothing
changed. `docs/evaluation.md` says how to read them.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fsgan.faces.geometry import fit_similarity, transform_points

MAX_PSNR = 100.0  # dB, of pictures that do not differ

_BORDER = 2  # pixels on either side of the fading part of a mask


@dataclass(frozen=True)
class Summary:
    """Summary statistics of one value a face or frame.

    Attributes:
        mean: arithmetic mean.
        low: 5th percentile.
        median: 50th percentile.
        high: 95th percentile.
        values: the n values themselves.
    """

    mean: float
    low: float
    median: float
    high: float
    values: tuple[float, ...]


Figure = Summary | float | None
"""What is measured: of each face or frame, of the whole, or nothing."""


def summarize(values: np.ndarray) -> Summary | None:
    """Computes summary statistics.

    Args:
        values: float (n,), finite.

    Returns:
        The statistics; None where n is 0.

    Raises:
        ValueError: a value is not finite.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"values must be finite, got {values}")
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
        float64 (n, m) in [-1, 1]; 0 for an embedding that is all 0.
    """
    return _unit(np.asarray(faces, float)) @ _unit(np.asarray(others, float)).T


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
        others: float (l, d), of other people (distractors); None without any.

    Returns:
        "to_target", "to_source": each swapped face's mean cosine similarity to the
        target's and to the source's faces. "within_target": mean similarity of two
        faces of the target, None of one face. "target_to_source": that of a target's
        and a source's face. "moved": (to_target - target_to_source) / (within_target -
        target_to_source) of the means; None where the people are not told apart.
        "nearest_target", "nearest_source", "nearest_other": shares of swapped faces by
        whose their nearest real face is; a tie is not the target's.
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
        ValueError: the shapes differ or are others, or the points of a face coincide.
    """
    source, swapped = np.asarray(source, np.float64), np.asarray(swapped, np.float64)
    if source.shape != swapped.shape or source.shape[1:] not in ((5, 2), (68, 2)):
        raise ValueError(
            "landmarks must be (n, 5, 2) or (n, 68, 2) before and after alike, got "
            f"{source.shape} and {swapped.shape}"
        )
    distances = []
    for old, new in zip(source, swapped, strict=True):
        left, right = old[:2]
        if len(old) == 68:
            left, right = old[36:42].mean(axis=0), old[42:48].mean(axis=0)
        if not (between_eyes := np.linalg.norm(right - left)):
            raise ValueError("landmarks coincide: the eyes have no distance")
        aligned = transform_points(new, fit_similarity(new, old))
        moved = np.linalg.norm(aligned - old, axis=1).mean()
        distances.append(moved / between_eyes)
    return np.array(distances)


def psnr(real: np.ndarray, generated: np.ndarray) -> float:
    """Computes the peak signal-to-noise ratio of a picture.

    Args:
        real: uint8, of any shape.
        generated: uint8, of the same shape.

    Returns:
        10 log10(255^2 / mean squared error) in dB, `MAX_PSNR` at most.

    Raises:
        ValueError: the pictures differ in shape.
    """
    if np.array_equal(real, generated):
        return MAX_PSNR
    return min(float(peak_signal_noise_ratio(real, generated)), MAX_PSNR)


def ssim(real: np.ndarray, generated: np.ndarray) -> float:
    """Computes the structural similarity of a picture, with the Gaussian window.

    Args:
        real: RGB uint8 (height, width, 3), at least 11 pixels a side.
        generated: RGB uint8, of the same shape.

    Returns:
        The similarity, 1 at most.

    Raises:
        ValueError: the pictures differ in shape or are too small.

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


def feature_distance(real: list[np.ndarray], generated: list[np.ndarray]) -> np.ndarray:
    """Compares the feature maps that a network makes of pictures.

    Args:
        real: of each layer float (n, height, width, channels).
        generated: the same of the other pictures.

    Returns:
        float64 (n,) in [0, 4]: squared distance of the features scaled to length 1,
        averaged over the places of a map, then over the maps.

    Source: Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of
    deep features as a perceptual metric", 2018, equation 1 without learned weights.
    """
    layers = [
        ((_unit(a) - _unit(b)) ** 2).sum(axis=-1).mean(axis=(1, 2))
        for a, b in zip(real, generated, strict=True)
    ]
    return np.mean(layers, axis=0, dtype=np.float64)


def seam(source: np.ndarray, swapped: np.ndarray, alpha: np.ndarray) -> float:
    """Compares the gradients along a mask's border with the source's.

    The border is where the mask fades, from above 0 to three quarters of its maximum,
    and two pixels on either side. The energy is the sum of squared differences to the
    next pixel rightwards and downwards.

    Args:
        source: RGB uint8 (height, width, 3).
        swapped: RGB uint8 (height, width, 3), the same frame after the swap.
        alpha: the mask, float [0, 1] (height, width, 1).

    Returns:
        Energy against the source: above 1 there is an edge, below 1 blur; infinity
        where only the source is plain.
    """
    kernel = np.ones((2 * _BORDER + 1, 2 * _BORDER + 1), np.uint8)
    faded, shown = alpha[..., 0] < 0.75 * alpha.max(), alpha[..., 0] > 0
    border = cv2.dilate(faded.astype(np.uint8), kernel)
    border &= cv2.dilate(shown.astype(np.uint8), kernel)
    return ratio(_gradient_energy(swapped, border), _gradient_energy(source, border))


def ratio(value: float, own: float) -> float:
    """Divides a value by the source's own; 1 where both are 0."""
    if own == 0:
        return 1.0 if value == 0 else float("inf")
    return float(value / own)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors along the last axis at length 1; those that are all 0 stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-10)


def _gradient_energy(frame: np.ndarray, border: np.ndarray) -> float:
    """Squared differences to the next pixels, summed over a border."""
    values = frame.astype(np.float64)
    across = np.diff(values, axis=1) ** 2 * border[:, :-1, None]
    down = np.diff(values, axis=0) ** 2 * border[:-1, :, None]
    return float(across.sum() + down.sum())
