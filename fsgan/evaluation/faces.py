"""What an evaluation learns from single faces: persons, lips and brows, rebuilding."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from fsgan.assets import find_weights
from fsgan.data.dataset import center_crop_batch, load_faces, split_faces
from fsgan.evaluation.face_metrics import (
    ReconstructionScores,
    Spread,
    expression_distance,
    reconstruction_scores,
)
from fsgan.faces.descriptors import describe
from fsgan.faces.landmarks import LandmarkDetector
from fsgan.media.images import list_images, read_image
from fsgan.models.checkpoint import read_settings
from fsgan.models.vggface import FILE, load_vggface
from fsgan.swap.generator import FaceGenerator

CHOSEN = 64
"""Faces of each person, and frames, whose identity is compared."""

_CHOSEN_68 = 16  # faces whose 68 landmarks are compared: they take a second each

Item = TypeVar("Item")


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """Chooses some of a list.

    Args:
        items: in their order.
        count: of those to choose, at most.

    Returns:
        Up to `count` of them, evenly spread, the first and the last among them.
    """
    picked = np.linspace(0, len(items) - 1, min(count, len(items))).round()
    return [items[int(index)] for index in picked]


def read_crops(folder: str | Path) -> list[np.ndarray]:
    """Reads some of the crops in a folder.

    Args:
        folder: of face crops, as of `fsgan.extract_faces`.

    Returns:
        Up to 64 of them, evenly chosen, RGB uint8 (size, size, 3).

    Raises:
        FileNotFoundError: the folder is missing or holds no picture.
        ValueError: a file is no picture.
    """
    return [read_image(path) for path in evenly(list_images(folder), CHOSEN)]


def describe_each(crops: Sequence[np.ndarray]) -> np.ndarray:
    """Describes crops that may differ in size.

    Args:
        crops: RGB uint8 (size, size, 3) each, at least one.

    Returns:
        float32 (n, d), as of `fsgan.faces.descriptors.describe`.

    Raises:
        ValueError: one of them is not square RGB uint8.
    """
    return np.concatenate([describe(crop[None]) for crop in crops])


def expression_68(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[Spread | None, str]:
    """Measures how far 68 landmarks moved by a swap.

    Args:
        pairs: aligned crops of source and swapped faces, RGB uint8 (size, size, 3);
            up to 16 of them, evenly chosen, are used.

    Returns:
        As of `face_metrics.expression_distance`, None where there is no pair or
        no detector of so many; and a sentence on it for the reader of the figures.
    """
    try:
        detector = LandmarkDetector()
    except FileNotFoundError as error:
        return None, f"Expression is measured by five landmarks only: {error}."
    if not pairs:
        return None, "No swapped face is found whose 68 landmarks could be measured."
    chosen = evenly(pairs, _CHOSEN_68)
    old, new = (np.stack(detector.detect(side)) for side in zip(*chosen, strict=True))
    note = f"68 landmarks are measured on {len(chosen)} faces."
    return Spread.of(expression_distance(old, new)), note


def rebuild(
    checkpoint: Path, folders: dict[str, Path]
) -> tuple[dict[str, ReconstructionScores], str]:
    """Measures how near decoders come to faces of their own that training held out.

    Args:
        checkpoint: folder of the weights.
        folders: of the face crops that training had, of "a" and "b".

    Returns:
        By person the scores, none where nothing was held out; and a sentence on them
        for the reader of the figures.

    Raises:
        FileNotFoundError: a folder is missing or empty.
        ValueError: the checkpoint is damaged, or a crop is not square.
    """
    settings = read_settings(checkpoint)
    share = settings.get("training", {}).get("validation", 0)
    model = settings["model"]
    resolution, coverage = model.resolution, model.coverage
    network = load_vggface() if find_weights(FILE) else None
    scores, counts = {}, []
    for person in model.sides:
        faces = load_faces(folders[person], None, resolution, coverage)
        _, held_out = split_faces(faces, share)
        counts.append(f"{len(held_out)} faces of {person.upper()}")
        if len(held_out):
            x = center_crop_batch(held_out.images, resolution, coverage)
            real = _bytes((x + 1) * 127.5)
            rebuilt = _bytes(FaceGenerator(checkpoint, person, "float32")(real)[1])
            scores[person] = reconstruction_scores(real, rebuilt, network)
    note = (
        f"Rebuilt are {' and '.join(counts)}, the share of {share:g} that training "
        "held out if it had these very folders; they are whole pictures, without mask."
    )
    return scores, note


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
