"""How good swapped faces are: who they are, what they express, how near they come.

Pure functions of arrays: faces are found, aligned and described elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fsgan.faces.geometry import fit_similarity, transform_points

MOST_PSNR = 100.0  # dB, of pictures that do not differ
_WINDOW = 11  # pixels a side, of the structural similarity
_BATCH = 16  # pictures through a network at once


@dataclass(frozen=True)
class Spread:
    """How a measure is spread over n faces. `dataclasses.asdict` of it goes to JSON.

    Attributes:
        mean: their mean.
        low: what 5 % of them are below.
        median: what half of them are below.
        high: what 95 % of them are below.
        values: what was measured of each face, n numbers.
    """

    mean: float
    low: float
    median: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """Sums up what was measured of each face.

        Args:
            values: float (n,), n >= 1, finite.

        Returns:
            How it is spread; quantiles between two faces are interpolated.

        Raises:
            ValueError: there is no value, or one is not finite.
        """
        values = np.asarray(values, np.float64)
        if values.ndim != 1 or not values.size or not np.isfinite(values).all():
            raise ValueError(
                "values must be one finite number for each of at least one face, got "
                f"the shape {values.shape}, {np.count_nonzero(~np.isfinite(values))} "
                "of them not finite"
            )
        low, median, high = np.percentile(values, [5, 50, 95]).tolist()
        return cls(float(values.mean()), low, median, high, tuple(values.tolist()))


@dataclass(frozen=True)
class IdentityScores:
    """Whose faces the swapped ones are.

    Attributes:
        to_target: for each swapped face the mean cosine similarity to the real faces of
            the target.
        to_source: for each swapped face that to the real faces of the source.
        within_target: mean similarity of two different real faces of the target; None
            where there is one only.
        target_to_source: mean similarity of a real face of the target and one of the
            source.
        moved: how far the swapped faces came on the way from the source to the target,
            (mean of to_target - target_to_source) / (within_target - target_to_source).
            About 0 is no nearer than the source was, 1 as near as another real face of
            the target. Whatever the descriptor, it means the same. None where the two
            people are not told apart or there is one face of the target.
        retrieved_target: share of swapped faces whose nearest real face is the
            target's, in [0, 1]; of equally near ones it is not.
        retrieved_source: that whose nearest is the source's.
        retrieved_distractors: that whose nearest is neither's.
    """

    to_target: Spread
    to_source: Spread
    within_target: float | None
    target_to_source: float
    moved: float | None
    retrieved_target: float
    retrieved_source: float
    retrieved_distractors: float


@dataclass(frozen=True)
class ReconstructionScores:
    """How near generated pictures come to the real ones.

    Attributes:
        psnr: peak signal-to-noise ratio in dB, 100 (`MOST_PSNR`) at most.
        ssim: structural similarity, 1 at most.
        feature_distance: as of `feature_distance`, 0 at least; None without a network.
    """

    psnr: Spread
    ssim: Spread
    feature_distance: Spread | None


def similarity_matrix(faces: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Compares each face of one list with each of another, as for a heat map.

    Args:
        faces: float (n, d), descriptors of any length, n >= 1, as of
            `fsgan.faces.descriptors.describe`.
        others: float (m, d), of the same descriptor, m >= 1.

    Returns:
        float64 (n, m), cosine similarity in [-1, 1]; 0 to a descriptor that is all 0.

    Raises:
        ValueError: there is no face, or the descriptors are not of one kind.
    """
    faces, others = np.asarray(faces, np.float64), np.asarray(others, np.float64)
    if (
        faces.ndim != 2
        or others.ndim != 2
        or not faces.size
        or not others.size
        or faces.shape[1] != others.shape[1]
    ):
        raise ValueError(
            "descriptors must be (n, d) and (m, d) of at least one face each, got "
            f"{faces.shape} and {others.shape}"
        )
    return _unit(faces) @ _unit(others).T


def identity_scores(
    swapped: np.ndarray,
    target: np.ndarray,
    source: np.ndarray,
    distractors: np.ndarray | None = None,
) -> IdentityScores:
    """Measures whose faces the swapped ones are.

    Any descriptor serves, but not one that training looked through: it says what it was
    made to say. Frames next to each other show almost one face, so take some that lie
    apart.

    Args:
        swapped: float (n, d), descriptors of the swapped faces, as of
            `fsgan.faces.descriptors.describe`.
        target: float (m, d), of real faces of the person to be seen.
        source: float (k, d), of real faces of the person in the footage.
        distractors: float (l, d), of other people; None where there are none.

    Returns:
        The scores.

    Raises:
        ValueError: a list is empty, or the descriptors are not of one kind.
    """
    to_target = similarity_matrix(swapped, target)
    to_source = similarity_matrix(swapped, source)
    to_others = np.full((len(to_target), 1), -np.inf)
    if distractors is not None:
        to_others = similarity_matrix(swapped, distractors)
    # Of equal ones argmax takes the first: the target comes last.
    nearest = np.argmax(
        [found.max(axis=1) for found in (to_others, to_source, to_target)], axis=0
    )
    apart = float(similarity_matrix(target, source).mean())
    within, moved = None, None
    if len(target) > 1:
        within = float(_without_self(similarity_matrix(target, target)).mean())
        if within > apart:
            moved = float((to_target.mean() - apart) / (within - apart))
    shares = [float(np.mean(nearest == person)) for person in range(3)]
    return IdentityScores(
        Spread.of(to_target.mean(axis=1)),
        Spread.of(to_source.mean(axis=1)),
        within,
        apart,
        moved,
        *reversed(shares),
    )


def expression_distance(
    source: np.ndarray, swapped: np.ndarray, less_shape: bool = False
) -> np.ndarray:
    """Measures how far landmarks moved by a swap, besides the whole face.

    The swapped face's points are laid over the source's by the similarity that fits
    best: place, size and roll do not count, a mouth that opens and a head that turns
    do. Five points see a mouth's corners and nothing of eyelids, brows and lips.

    The two people's shapes differ more than expressions do: of 30 speaking faces it was
    0.028 for a good swap and 0.023 for another frame of the same clip. With
    `less_shape` it was 0.011 and 0.023, and 0.018 for a face that does not move.

    Args:
        source: float (n, 5, 2) or (n, 68, 2), (x, y) pixels, in the order of the
            detector or of iBUG 300-W, n >= 1.
        swapped: of the same shape, the same faces after the swap.
        less_shape: leaves out what all the faces have in common, as the target's eyes
            lie wider or the nose is shorter than the source's; what is left is how the
            change comes and goes. Of many faces of one clip only.

    Returns:
        float64 (n,), mean distance of the points over the distance between the eyes of
        the source, 0 where nothing changed. `Spread.of` sums it up.

    Raises:
        ValueError: the shapes differ or are others, or the points of a face coincide.
    """
    source, swapped = np.asarray(source, np.float64), np.asarray(swapped, np.float64)
    if (
        source.shape != swapped.shape
        or source.ndim != 3
        or not len(source)
        or source.shape[1:] not in ((5, 2), (68, 2))
    ):
        raise ValueError(
            "landmarks must be (n, 5, 2) or (n, 68, 2) before and after alike, got "
            f"{source.shape} and {swapped.shape}"
        )
    changes = np.array(
        [_change(*pair, source[0]) for pair in zip(source, swapped, strict=True)]
    )
    if less_shape:
        changes = changes - changes.mean(axis=0)
    return np.linalg.norm(changes, axis=2).mean(axis=1)


def reconstruction_scores(
    real: np.ndarray,
    generated: np.ndarray,
    network: Callable | None = None,
) -> ReconstructionScores:
    """Measures how near generated pictures come to the real ones.

    Args:
        real: RGB uint8 (n, height, width, 3), n >= 1, at least 11 pixels a side.
        generated: RGB uint8, of the same shape.
        network: for `feature_distance`, as of
            `fsgan.models.vggface.load_vggface`. Without one nothing stands in for it:
            a descriptor of faces is made to overlook what this looks at.

    Returns:
        The scores.

    Raises:
        ValueError: the pictures differ in shape, are none or are too small.

    Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: From error
    visibility to structural similarity", 2004, with its Gaussian window, as in
    scikit-image.
    """
    _check_pictures(real, generated)
    if min(real.shape[1:3]) < _WINDOW:
        raise ValueError(
            f"pictures must be at least {_WINDOW} pixels a side, got {real.shape[1:3]}"
        )
    pairs = list(zip(real, generated, strict=True))
    return ReconstructionScores(
        Spread.of([_psnr(*pair) for pair in pairs]),
        Spread.of([_ssim(*pair) for pair in pairs]),
        None if network is None else Spread.of(_distances(network, real, generated)),
    )


def feature_distance(
    network: Callable, real: np.ndarray, generated: np.ndarray
) -> np.ndarray:
    """Measures how much generated pictures differ to the eyes of a network.

    It is the distance of LPIPS without its learned weights: the features at each place
    of each map are scaled to length 1, the squares of their differences summed, and
    their mean taken over the places and then over the maps.

    Args:
        network: from what `fsgan.models.vggface.preprocess` makes of pictures to a list
            of feature maps (n, height, width, channels).
        real: RGB uint8 (n, height, width, 3), n >= 1.
        generated: RGB uint8, of the same shape.

    Returns:
        float64 (n,), in [0, 4]: 0 where nothing differs, 2 where nothing is alike.

    Raises:
        ValueError: the pictures differ in shape or are none.

    Source: Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of
    deep features as a perceptual metric", 2018, equation 1.
    """
    _check_pictures(real, generated)
    return _distances(network, real, generated)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors along the last axis at length 1; those that are all 0 stay."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-10)


def _without_self(similarities: np.ndarray) -> np.ndarray:
    """The similarities of two different faces, of a matrix of faces with themselves."""
    return similarities[~np.eye(len(similarities), dtype=bool)]


def _change(source: np.ndarray, swapped: np.ndarray, upright: np.ndarray) -> np.ndarray:
    """How the points moved, (n, 2) in distances between the eyes, as `upright` lies."""
    source = transform_points(source, fit_similarity(source, upright))
    laid = transform_points(swapped, fit_similarity(swapped, source))
    left, right = source[:2]
    if len(source) == 68:
        left, right = source[36:42].mean(axis=0), source[42:48].mean(axis=0)
    if not (between := np.linalg.norm(right - left)):
        raise ValueError("landmarks coincide: there is no distance between the eyes")
    return (laid - source) / between


def _check_pictures(real: np.ndarray, generated: np.ndarray) -> None:
    for pictures in (real, generated):
        if (
            pictures.dtype != np.uint8
            or pictures.ndim != 4
            or pictures.shape[3:] != (3,)
            or pictures.shape != real.shape
            or not len(pictures)
        ):
            raise ValueError(
                "pictures must be RGB uint8 (n, height, width, 3), real and generated "
                f"alike, got {real.dtype} {real.shape} and {generated.dtype} "
                f"{generated.shape}"
            )


def _psnr(real: np.ndarray, generated: np.ndarray) -> float:
    if np.array_equal(real, generated):
        return MOST_PSNR
    return min(float(peak_signal_noise_ratio(real, generated)), MOST_PSNR)


def _ssim(real: np.ndarray, generated: np.ndarray) -> float:
    return float(
        structural_similarity(
            real,
            generated,
            channel_axis=-1,
            gaussian_weights=True,
            use_sample_covariance=False,
        )
    )


def _distances(
    network: Callable, real: np.ndarray, generated: np.ndarray
) -> np.ndarray:
    distances = []
    for start in range(0, len(real), _BATCH):
        batches = (pictures[start : start + _BATCH] for pictures in (real, generated))
        layers = zip(*(_maps(network, batch) for batch in batches), strict=True)
        squares = [((_unit(a) - _unit(b)) ** 2).sum(axis=-1) for a, b in layers]
        distances.append(np.mean([layer.mean(axis=(1, 2)) for layer in squares], 0))
    return np.concatenate(distances)


def _maps(network: Callable, pictures: np.ndarray) -> list[np.ndarray]:
    """What a network sees in pictures, float32 (n, height, width, channels) each."""
    from keras import ops

    from fsgan.models.vggface import preprocess

    x = pictures.astype(np.float32) / 127.5 - 1
    return [
        ops.convert_to_numpy(ops.cast(features, "float32"))
        for features in network(preprocess(x))
    ]
