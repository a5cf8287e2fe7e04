"""A folder of faces, and their eye masks, as batches for training."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from prefetch_generator import BackgroundGenerator
from tqdm.auto import tqdm

from fsgan.augmentation import AugmentationSettings, sample
from fsgan.images import list_images, read_image

MIX_ALPHA = 0.2  # both parameters of mixup's Beta distribution
PREFETCHED = 4  # batches made ahead of the training step


@dataclass(frozen=True, eq=False)
class FaceSet:
    """The faces of one person, held in memory.

    Attributes:
        images: Aligned crops, RGB uint8 (n, size, size, 3).
        eyes: Eye masks, uint8 (n, size, size), 255 is eye; all 0 without masks.
        names: File name of each face.
    """

    images: np.ndarray
    eyes: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        """Counts the faces."""
        return len(self.images)


class Batch(NamedTuple):
    """What one iteration of training sees: n faces of either side.

    Attributes:
        warped_a: Distorted faces, the input, RGB float32 (n, R, R, 3) in [-1, 1].
        target_a: The same faces undistorted, RGB float32 (n, R, R, 3) in [-1, 1].
        eyes_a: Eye masks of the targets, float32 (n, R, R, 1) in [0, 1].
        warped_b: As `warped_a`, of side B.
        target_b: As `target_a`, of side B.
        eyes_b: As `eyes_a`, of side B.
        mix: Share of real faces in what the discriminators see under mixup, float32
            scalar in [0, 1], drawn from Beta(0.2, 0.2).
        mix_perceptual: Share of the raw instead of the composed generated face in the
            perceptual loss, float32 scalar, a second draw of the same kind.
    """

    warped_a: np.ndarray
    target_a: np.ndarray
    eyes_a: np.ndarray
    warped_b: np.ndarray
    target_b: np.ndarray
    eyes_b: np.ndarray
    mix: np.ndarray
    mix_perceptual: np.ndarray


def load_faces(
    faces_dir: str | Path,
    masks_dir: str | Path | None,
    resolution: int,
    coverage: float,
) -> FaceSet:
    """Reads every face, and its eye mask, once.

    Args:
        faces_dir: Folder of aligned square crops.
        masks_dir: Folder of eye masks, `name.png` for the face `name.jpg` or
            `name.png`; None trains without eye masks.
        resolution: Side of the network's images, pixels: 64, 128 or 256.
        coverage: Share of a crop's width that the network sees, in (0, 1].

    Returns:
        The faces in natural order of their names, all of one size.

    Raises:
        FileNotFoundError: If the folder is missing or holds no picture.
        ValueError: If the resolution is none of the three, a crop is not square, or a
            mask is missing or of another size than its face.
    """
    if resolution not in (64, 128, 256):
        raise ValueError(f"resolution must be 64, 128 or 256, got {resolution!r}")
    paths = list_images(Path(faces_dir))
    # Augmentation and network look at this many pixels: with more of them, sampling in
    # the middle of training would skip some (aliasing) and memory would be wasted. A
    # quarter more leaves room for zooming in.
    largest = round(1.25 * resolution / coverage)
    images, eyes = [], []
    for path in tqdm(paths, desc=f"Reading {faces_dir}", unit="face"):
        image = read_image(path)
        height, width = image.shape[:2]
        if height != width:
            raise ValueError(
                f"faces must be square crops, as extract_faces(...) writes them, but "
                f"{path} is {width}x{height} pixels"
            )
        mask = np.zeros((height, width), np.uint8)
        if masks_dir is not None:
            mask = _read_mask(path, Path(masks_dir), height)
        size = min(height, largest)
        images.append(_resize(image, size))
        eyes.append(_resize(mask, size))
    size = max(len(image) for image in images)
    return FaceSet(
        images=np.stack([_resize(image, size) for image in images]),
        eyes=np.stack([_resize(mask, size) for mask in eyes]),
        names=[path.name for path in paths],
    )


def make_batch(
    faces_a: FaceSet,
    faces_b: FaceSet,
    iteration: int,
    batch_size: int,
    resolution: int,
    settings: AugmentationSettings,
    seed: int,
) -> Batch:
    """Draws the batch of one iteration.

    Everything random comes from `seed` and `iteration` alone, so training that goes on
    after a stop sees the batches it would have seen, and nothing need be saved for it.

    Args:
        faces_a: Faces of side A, one or more: they are drawn with replacement.
        faces_b: Faces of side B, one or more.
        iteration: Number of the iteration, 0 or more.
        batch_size: Faces of either side, 1 or more.
        resolution: Side of the network's images, pixels.
        settings: How much the faces are varied.
        seed: Seed of the training, 0 or more.

    Returns:
        The batch.
    """
    rng = np.random.default_rng([seed, iteration])
    sides = []
    for faces in (faces_a, faces_b):
        samples = []
        for index in rng.integers(len(faces), size=batch_size):
            partner = rng.integers(len(faces_a) + len(faces_b))
            if partner < len(faces_a):
                partner_image = faces_a.images[partner]
            else:
                partner_image = faces_b.images[partner - len(faces_a)]
            image, eyes = faces.images[index], faces.eyes[index]
            samples.append(
                sample(image, eyes, partner_image, settings, resolution, rng)
            )
        sides += [np.stack(part) for part in zip(*samples, strict=True)]
    mixes = rng.beta(MIX_ALPHA, MIX_ALPHA, size=2).astype(np.float32)
    return Batch(*sides, *mixes)


@contextmanager
def batches(
    faces_a: FaceSet,
    faces_b: FaceSet,
    batch_size: int,
    resolution: int,
    settings: AugmentationSettings,
    seed: int,
    first_iteration: int = 0,
) -> Iterator[Iterator[Batch]]:
    """Makes batches ahead of their use, in a thread that ends with the `with` block.

    Args:
        faces_a: Faces of side A.
        faces_b: Faces of side B.
        batch_size: Faces of either side, 1 or more.
        resolution: Side of the network's images, pixels.
        settings: How much the faces are varied.
        seed: Seed of the training, 0 or more.
        first_iteration: Where to start, or to go on.

    Yields:
        An endless iterator over the batches of `first_iteration`, the next one, ...

    Raises:
        ValueError: If `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size!r}")
    stop = threading.Event()

    def produce() -> Iterator[Batch]:
        for iteration in itertools.count(first_iteration):
            if stop.is_set():
                return
            yield make_batch(
                faces_a, faces_b, iteration, batch_size, resolution, settings, seed
            )

    background = BackgroundGenerator(produce(), max_prefetch=PREFETCHED)
    try:
        yield background
    finally:
        stop.set()
        # The thread may wait for room in the queue, so it is emptied until it ends.
        while background.is_alive():
            while not background.queue.empty():
                background.queue.get_nowait()
            background.join(timeout=0.05)


def center_crop_batch(
    faces: np.ndarray, resolution: int, coverage: float
) -> np.ndarray:
    """Cuts out what the network sees of each face, without variation.

    Args:
        faces: Aligned crops, RGB uint8 (n, size, size, 3).
        resolution: Side of the network's images, pixels.
        coverage: Share of the crop's width that is kept, in (0, 1].

    Returns:
        RGB float32 (n, resolution, resolution, 3) in [-1, 1].
    """
    size = faces.shape[1]
    margin = round(size * (1 - coverage) / 2)
    middle = faces[:, margin : size - margin, margin : size - margin]
    crops = np.stack([_resize(face, resolution) for face in middle])
    return crops.astype(np.float32) / 127.5 - 1


def _read_mask(face: Path, masks_dir: Path, size: int) -> np.ndarray:
    """Reads the eye mask of a face of `size` pixels as uint8 (size, size)."""
    path = masks_dir / f"{face.stem}.png"
    if not path.is_file():
        raise ValueError(
            f"{face} has no eye mask, {path} does not exist: run "
            "make_eye_masks(...) again"
        )
    mask = read_image(path)[..., 0]
    if mask.shape != (size, size):
        height, width = mask.shape
        raise ValueError(
            f"eye mask {path} is {width}x{height} pixels, its face {face} "
            f"{size}x{size}: run make_eye_masks(...) again"
        )
    return mask


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square image, averaging the pixels that fall together."""
    shrinks = size < len(image)
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)
