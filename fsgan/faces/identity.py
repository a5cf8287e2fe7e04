"""Who a face is: a person known from pictures, found again among tracks and crops."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fsgan.faces.descriptors import describe, load_descriptor
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import align, crop_matrix
from fsgan.media.images import list_images, read_image

log = logging.getLogger(__name__)

_CROP_SIZE = 256  # pixels, of the crops of a reference


class Identity:
    """A person, known from pictures."""

    def __init__(self, descriptors: np.ndarray) -> None:
        """Takes what is known of the person.

        Args:
            descriptors: float32 (n, d), n >= 1, as of `describe`.
        """
        self.descriptors = descriptors

    @classmethod
    def of(
        cls, reference: str | Path | Sequence[np.ndarray], max_crops: int = 32
    ) -> "Identity":
        """Learns a person from a photo or from face crops.

        With local binary patterns take crops from the very clip in which the person is
        looked for: another photo of the person says next to nothing.

        Args:
            reference: a photo with one face in it; a folder of face crops of one
                person, as of `fsgan.extract_faces`; or crops, RGB uint8
                (size, size, 3) each.
            max_crops: so many of the crops are used, evenly chosen.

        Returns:
            The person.

        Raises:
            FileNotFoundError: the photo or folder is missing, or the folder is empty.
            ValueError: the photo shows no face or several, a file is no picture, a crop
                is not square, or there is none.
        """
        if isinstance(reference, str | Path):
            reference = Path(reference)
            if not reference.is_dir():
                return cls(describe(_face_of(reference)[None]))
            reference = [
                read_image(path) for path in _evenly(list_images(reference), max_crops)
            ]
        crops = [crop[None] for crop in _evenly(reference, max_crops)]
        if not crops:
            raise ValueError("reference must hold at least one face crop, got none")
        return cls(np.concatenate([describe(crop) for crop in crops]))

    def similarity(self, crops: np.ndarray) -> np.ndarray:
        """Measures how alike faces and the person are.

        Args:
            crops: RGB uint8 (n, size, size, 3), aligned as by `fsgan.extract_faces`.

        Returns:
            float32 (n,), cosine similarity in [-1, 1] with that picture of the person
            that each face is most like.
        """
        return _nearest(describe(crops), self.descriptors)

    def matches(self, crops: np.ndarray) -> np.ndarray:
        """Decides for each face alone whether it is the person.

        Of several faces in one clip `choose` decides better.

        Args:
            crops: RGB uint8 (n, size, size, 3), aligned as by `fsgan.extract_faces`.

        Returns:
            bool (n,); error rates as of `load_descriptor`.
        """
        return self.similarity(crops) >= load_descriptor().threshold

    def choose(
        self,
        tracks: Sequence[np.ndarray],
        spans: Sequence[tuple[int, int]] | None = None,
    ) -> list[bool]:
        """Decides which tracks of one clip show the person.

        The track most like the person is it, unless it is too unlike, or another one is
        about as much like the person but not like that track. Tracks that are as much
        like it as two faces of one person are, are the person too.

        Args:
            tracks: crops of each track, RGB uint8 (n, size, size, 3), n >= 1, evenly
                chosen over its length; eight are enough.
            spans: first and last frame of each track; of tracks with a frame in common
                one at most is the person. None takes no notice of it.

        Returns:
            For each track whether it is the person. None is where it cannot be told: a
            warning says why.

        Raises:
            ValueError: a track holds no crop, or spans and tracks differ in number.
        """
        if spans is not None and len(spans) != len(tracks):
            raise ValueError(
                f"spans must be one for each of {len(tracks)} tracks, got {len(spans)}"
            )
        if not len(tracks):
            return []
        descriptor = load_descriptor()
        described = [describe(track) for track in tracks]
        scores = np.array(
            [np.median(_nearest(faces, self.descriptors)) for faces in described]
        )
        best = int(np.argmax(scores))
        alike = np.array(
            [np.median(_nearest(faces, described[best])) for faces in described]
        )
        same = np.maximum(scores, alike) >= descriptor.threshold
        same[best] = True
        chosen = []
        for track in np.argsort(-scores):
            if same[track] and not _overlaps(track, chosen, spans):
                chosen.append(int(track))
        rest = [score for track, score in enumerate(scores) if track not in chosen]
        said = ", ".join(f"{score:.2f}" for score in scores)
        if scores[best] < descriptor.doubtful:
            log.warning(
                "no face in the clip is like the person (similarities %s by %s): take "
                "face crops of the clip itself as reference, or name the track",
                said,
                descriptor.name,
            )
            return [False] * len(tracks)
        if rest and max(rest) > scores[best] - descriptor.margin:
            log.warning(
                "two faces in the clip are about equally like the person (similarities "
                "%s by %s): name the track",
                said,
                descriptor.name,
            )
            return [False] * len(tracks)
        return [track in chosen for track in range(len(tracks))]


def _nearest(faces: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Similarity of each face with the nearest of those known."""
    return (faces @ known.T).max(axis=1)


def _overlaps(
    track: int, others: list[int], spans: Sequence[tuple[int, int]] | None
) -> bool:
    """Whether a track has a frame in common with one of the others."""
    return spans is not None and any(
        spans[track][0] <= spans[other][1] and spans[other][0] <= spans[track][1]
        for other in others
    )


def _face_of(path: Path) -> np.ndarray:
    """The aligned crop of the one face in a photo."""
    image = read_image(path)
    faces = FaceDetector().detect(image)
    if len(faces) != 1:
        raise ValueError(
            f"the reference photo must show one face, but {path} shows "
            f"{len(faces) or 'none'}: cut the person out of it or take another one"
        )
    return align(image, crop_matrix(faces[0].landmarks, _CROP_SIZE), _CROP_SIZE)


def _evenly(items: Sequence, count: int) -> list:
    """Up to `count` of the items, evenly chosen."""
    picked = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[index] for index in picked]
