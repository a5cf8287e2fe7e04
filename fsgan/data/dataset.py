"""A folder of faces, and their masks, as batches for training."""

import itertools
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from prefetch_generator import BackgroundGenerator
from tqdm.auto import tqdm

from fsgan.data.augmentation import AugmentationSettings, sample
from fsgan.data.extract import check_square
from fsgan.data.masks import (
    EYES,
    FACE,
    MOUTH,
    crop_landmarks,
    digest,
    draw_masks,
    read_masks_record,
)
from fsgan.faces.geometry import read_faces_record, recrop
from fsgan.media.images import image_size, list_images, read_image
from fsgan.validation import check_two_folders

log = logging.getLogger(__name__)

RESOLUTIONS = (64, 96, 128, 256)
MIX_ALPHA = 0.2  # both parameters of mixup's Beta distribution
# OpenCV works beside the interpreter, the rest of a sample does not: at 256 pixels four
# threads are kept busy, at 64 two.
THREADS = min(max(os.cpu_count() or 2, 2), 4)
LEAST_TO_SPLIT = 20  # faces, of fewer none are held out
MOST_HELD_OUT = 64  # faces: enough for a mean, and quickly tried
STRETCHES = 4  # of consecutive faces that are held out


@dataclass(frozen=True, eq=False)
class FaceSet:
    """The faces of one person, held in memory.

    Attributes:
        images: Aligned crops, RGB uint8 (n, size, size, 3).
        masks: Eyes, face and mouth, uint8 (n, size, size, 3), 255 is inside; all 0
            without masks.
        names: File name of each face.
        extent: Width of the crops in widths of the standard crop.
    """

    images: np.ndarray
    masks: np.ndarray
    names: list[str]
    extent: float = 1.0

    def __len__(self) -> int:
        """Counts the faces."""
        return len(self.images)


class Samples(NamedTuple):
    """One person's part of a batch: n faces.

    Attributes:
        warped: Distorted faces, the input, RGB float32 (n, R, R, 3) in [-1, 1].
        target: The same faces undistorted, RGB float32 (n, R, R, 3) in [-1, 1].
        masks: Eyes, face and mouth of the targets, float32 (n, R, R, 3) in [0, 1].
    """

    warped: np.ndarray
    target: np.ndarray
    masks: np.ndarray


class Batch(NamedTuple):
    """What one iteration of training sees.

    Attributes:
        sides: Samples of A, then of B; of A alone where one person is trained.
        mix: Share of real faces in what the discriminators see under mixup, float32
            scalar in [0, 1], drawn from Beta(0.2, 0.2).
        mix_perceptual: Share of the raw instead of the composed generated face in the
            perceptual loss, float32 scalar, a second draw of the same kind.
    """

    sides: tuple[Samples, ...]
    mix: np.ndarray
    mix_perceptual: np.ndarray


def load_faces(
    faces_dir: str | Path,
    masks_dir: str | Path | None,
    resolution: int,
    coverage: float,
    draw_missing: bool = False,
) -> FaceSet:
    """Reads every face, and its masks, once.

    All faces get one extent, a quarter more than the network sees but at least 1: cut
    out of the crops where they are wider, with their border repeated where they are
    not.

    Args:
        faces_dir: Folder of aligned square crops, as of `fsgan.extract_faces`.
        masks_dir: Folder of masks, as of `fsgan.make_masks`: `name.png` for the face
            `name.jpg` or `name.png`. Gray ones, of older versions, are eyes only. None
            reads no masks.
        resolution: Side of the network's images, pixels: 64, 96, 128 or 256.
        coverage: Width that the network sees, in widths of the standard crop, above 0.
        draw_missing: Whether masks that are not there are drawn, in hundredths of a
            second a face; else they are 0.

    Returns:
        The faces in natural order of their names, all of one size.

    Raises:
        FileNotFoundError: If the folder is missing or holds no picture.
        ValueError: If the resolution is none of the four, a crop is not square,
            `faces.json` or `masks.json` is damaged, a mask is missing or not of its
            face, or masks and faces are one folder.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution must be 64, 96, 128 or 256, got {resolution!r}")
    paths = list_images(Path(faces_dir))
    drawn_for = {}
    if masks_dir is not None:
        check_two_folders("faces and masks", faces_dir, masks_dir)
        drawn_for = read_masks_record(masks_dir)
    record = {entry["file"]: entry for entry in read_faces_record(faces_dir)}
    entries = [record.get(path.name, {}) for path in paths]
    stored = [entry.get("extent", 1.0) for entry in entries]
    if coverage > min(stored):
        log.warning(
            "the model sees %g times the standard crop, but faces in %s reach %g: "
            "their border is repeated; extract the faces again",
            coverage,
            faces_dir,
            min(stored),
        )
    extent = max(1.0, 1.25 * coverage)
    # Augmentation and network look at this many pixels: with more of them, sampling in
    # the middle of training would skip some (aliasing) and memory would be wasted. A
    # quarter more leaves room for zooming in.
    largest = round(1.25 * resolution / coverage * extent)
    sizes = [image_size(path) for path in paths]
    for size, path in zip(sizes, paths, strict=True):
        check_square(size, path)
    available = max(
        size * extent / of_crop
        for (size, _), of_crop in zip(sizes, stored, strict=True)
    )
    side = min(round(available), largest)
    images = np.empty((len(paths), side, side, 3), np.uint8)
    masks = np.zeros_like(images)
    progress = tqdm(paths, desc=f"Reading {faces_dir}", unit="face")
    for index, path in enumerate(progress):
        image = read_image(path)
        images[index] = _resize(recrop(image, stored[index], extent), side)
        known = drawn_for.get(f"{path.stem}.png")
        if known is not None and known != digest(path):
            raise ValueError(
                f"the mask of {path} in {masks_dir} was drawn for another face: give "
                "the masks of this folder, or run make_masks(...) again"
            )
        of_face = _masks_of(path, masks_dir, image, entries[index], draw_missing)
        if of_face is not None:
            masks[index] = _resize(recrop(of_face, stored[index], extent), side)
    return FaceSet(images, masks, [path.name for path in paths], extent)


def split_faces(faces: FaceSet, share: float) -> tuple[FaceSet, FaceSet]:
    """Sets faces aside that training never sees.

    Neighbours in a video are nearly one picture: faces set aside one by one would all
    have a twin in training. One long stretch may be unlike everything else (another
    light, a hand before the face). So the middle of each quarter is set aside.

    Args:
        faces: All faces of one person, in the order of the video.
        share: Share to set aside, from 0 to below 1: at least 1 face, at most 64. With
            a share of 0, or of fewer than 20 faces, none are.

    Returns:
        The faces to train on, and those held out, of which there may be none. Both in
        the old order; every face is in one of them.

    Raises:
        ValueError: If the share is out of range.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be a number from 0 to below 1, got {share!r}")
    count = min(max(int(share * len(faces)), 1), MOST_HELD_OUT)
    if share == 0 or len(faces) < LEAST_TO_SPLIT:
        count = 0
    held_out = np.zeros(len(faces), bool)
    for part in range(STRETCHES):
        begin, end = (len(faces) * (part + i) // STRETCHES for i in range(2))
        length = (count + part) // STRETCHES
        start = (begin + end - length) // 2
        held_out[start : start + length] = True
    return _choose(faces, ~held_out), _choose(faces, held_out)


def make_batch(
    face_sets: Sequence[FaceSet],
    iteration: int,
    batch_size: int,
    resolution: int,
    coverage: float,
    settings: AugmentationSettings,
    seed: int,
) -> Batch:
    """Draws the batch of one iteration.

    Everything random comes from `seed` and `iteration` alone, so training that goes on
    after a stop sees the batches it would have seen, and nothing need be saved for it.

    Args:
        face_sets: Faces of A, then of B, or of one person alone; one or more of each:
            they are drawn with replacement. Any of them may lend its colours.
        iteration: Number of the iteration, 0 or more.
        batch_size: Faces of each person, 1 or more.
        resolution: Side of the network's images, pixels.
        coverage: Width that the network sees, in widths of the standard crop.
        settings: How much the faces are varied.
        seed: Seed of the training, 0 or more.

    Returns:
        The batch.
    """
    rng = np.random.default_rng([seed, iteration])
    total = sum(map(len, face_sets))
    sides = []
    for faces in face_sets:
        shape = (3, batch_size, resolution, resolution, 3)
        side = np.empty(shape, np.float32)
        for position, index in enumerate(rng.integers(len(faces), size=batch_size)):
            partner = _image_of_all(face_sets, rng.integers(total))
            side[:, position] = sample(
                faces.images[index],
                faces.masks[index],
                partner,
                settings,
                resolution,
                coverage,
                rng,
                faces.extent,
            )
        sides.append(Samples(*side))
    mixes = rng.beta(MIX_ALPHA, MIX_ALPHA, size=2).astype(np.float32)
    return Batch(tuple(sides), *mixes)


@contextmanager
def batches(
    face_sets: Sequence[FaceSet],
    batch_size: int,
    resolution: int,
    coverage: float,
    settings: AugmentationSettings,
    seed: int,
    first_iteration: int = 0,
    ahead: int = 4,
) -> Iterator[Iterator[Batch]]:
    """Makes batches ahead of their use, in threads that end with the `with` block.

    Args:
        face_sets: Faces of A, then of B, or of one person alone.
        batch_size: Faces of each person, 1 or more.
        resolution: Side of the network's images, pixels.
        coverage: Width that the network sees, in widths of the standard crop.
        settings: How much the faces are varied.
        seed: Seed of the training, 0 or more.
        first_iteration: Where to start, or to go on.
        ahead: Batches that wait to be used, at most, to the next multiple of THREADS.

    Yields:
        An endless iterator over the batches of `first_iteration`, the next one, ...
        What fails in a thread is raised here, in place of the batch.

    Raises:
        ValueError: If `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size!r}")
    stop = threading.Event()

    def produce(first: int) -> Iterator[Batch]:
        for iteration in itertools.count(first, THREADS):
            if stop.is_set():
                return
            yield make_batch(
                face_sets, iteration, batch_size, resolution, coverage, settings, seed
            )

    threads: list[BackgroundGenerator] = []
    try:
        for first in range(first_iteration, first_iteration + THREADS):
            threads.append(BackgroundGenerator(produce(first), -(-ahead // THREADS)))
        yield (next(thread) for thread in itertools.cycle(threads))
    finally:
        stop.set()
        # A thread may wait for room in its queue, so that is emptied until it ends.
        for thread in threads:
            while thread.is_alive():
                while not thread.queue.empty():
                    thread.queue.get_nowait()
                thread.join(timeout=0.01)


def center_crop_batch(
    faces: np.ndarray, resolution: int, coverage: float, extent: float = 1.0
) -> np.ndarray:
    """Cuts out what the network sees of each face, without variation.

    Args:
        faces: Aligned crops, RGB uint8 (n, size, size, 3).
        resolution: Side of the network's images, pixels.
        coverage: Width that is kept, in widths of the standard crop.
        extent: Width of the faces, likewise.

    Returns:
        RGB float32 (n, resolution, resolution, 3) in [-1, 1].
    """
    middle = (recrop(face, extent, coverage) for face in faces)
    crops = np.stack([_resize(face, resolution) for face in middle])
    return crops.astype(np.float32) / 127.5 - 1


def _choose(faces: FaceSet, chosen: np.ndarray) -> FaceSet:
    """The faces where `chosen`, bool (n,), holds."""
    return FaceSet(
        images=faces.images[chosen],
        masks=faces.masks[chosen],
        names=list(itertools.compress(faces.names, chosen)),
        extent=faces.extent,
    )


def _image_of_all(face_sets: Sequence[FaceSet], index: int) -> np.ndarray:
    """The image at `index`, counted on from one set to the next."""
    for faces in face_sets:
        if index < len(faces):
            break
        index -= len(faces)
    return faces.images[index]


def _masks_of(
    face: Path, masks_dir: str | Path | None, image: np.ndarray, entry: dict, draw: bool
) -> np.ndarray | None:
    """The masks of a face, uint8 (size, size, 3): read, or drawn; None if neither."""
    masks = None if masks_dir is None else _read_masks(face, Path(masks_dir), image)
    of_older_version = masks is not None and (masks == masks[..., :1]).all()
    if of_older_version:
        if entry.get("extent", 1.0) != 1:
            raise ValueError(
                f"masks in {masks_dir} are of an older version than the faces in "
                f"{face.parent}: run make_masks(...) again"
            )
        masks[..., [FACE, MOUTH]] = 0
    if draw and (masks is None or of_older_version):
        landmarks = crop_landmarks(entry, len(image))
        drawn = draw_masks(image, landmarks, entry.get("extent", 1.0))
        if of_older_version:
            drawn[..., EYES] = masks[..., EYES]
        masks = drawn
    return masks


def _read_masks(face: Path, masks_dir: Path, image: np.ndarray) -> np.ndarray:
    """Reads the masks of a face, uint8 (size, size, 3)."""
    path = masks_dir / f"{face.stem}.png"
    if not path.is_file():
        raise ValueError(
            f"{face} has no mask, {path} does not exist: run make_masks(...) again"
        )
    masks = read_image(path)
    if masks.shape != image.shape:
        (height, width), size = masks.shape[:2], len(image)
        raise ValueError(
            f"mask {path} is {width}x{height} pixels, its face {face} "
            f"{size}x{size}: run make_masks(...) again"
        )
    return masks


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square image, averaging the pixels that fall together."""
    shrinks = size < len(image)
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method)
