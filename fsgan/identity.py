"""Who a face is: descriptors of aligned crops, compared by the angle between them.

With the weights of VGGFace in `weights/` a network that learned faces describes them.
Without, a descriptor that never learned anything does: it counts the local binary
patterns of each part of the crop. It tells the people of one clip apart; it does NOT
know a person again on another photograph. Measured on single faces of 10 people in
clips and 9 on photographs, by cosine similarity:

===============================================  =====  ================
pairs of the same person, and of two people      AUC    equal error rate
===============================================  =====  ================
in one clip; in clips of one camera              0.989  3.4 % at 0.52
the same face relit, turned, blurred by program  0.991  5.3 % at 0.41
two photographs (4 pairs of the same only)       0.75   a guess
===============================================  =====  ================

With one face known of each of five people, all other 105 of their clips found their
own, relit too. Others tried, equal errors in clips and found when relit: the patterns
without the mean of the crop subtracted 4.2 %, 77 %; HOG 6 %, 79 %; colour histograms
7.8 %, 27 %; pixels 12 %, 78 %; DCT 14 %, 87 %; patterns with HOG 4.8 %, 93 %.
Descriptor and thresholds were chosen on the very faces they are measured on, so
expect worse.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from skimage.feature import local_binary_pattern

from fsgan.detection import FaceDetector
from fsgan.geometry import align, crop_matrix
from fsgan.images import list_images, read_image
from fsgan.vggface import FILE, load_vggface, preprocess
from fsgan.weights import find_weights

log = logging.getLogger(__name__)

_CROP_SIZE = 256  # pixels, of the crops of a reference
_BATCH = 16  # crops through VGGFace at once
_PATTERN_SIZE = 96  # pixels, of the crop whose patterns are counted
_GRID = 8  # cells on a side
_PATTERNS = 59  # "nri_uniform" ones of 8 neighbours


@dataclass(frozen=True)
class Descriptor:
    """A way to describe faces, and how alike two faces of one person are by it.

    Attributes:
        name: "VGGFace" or "local binary patterns".
        function: RGB uint8 (n, size, size, 3) to float (n, d), of any length.
        threshold: cosine similarity from which on two faces are one person's.
        doubtful: cosine similarity below which they are not, in whatever light.
        margin: by how much the right one of several people is more alike than the rest.
    """

    name: str
    function: Callable[[np.ndarray], np.ndarray]
    threshold: float
    doubtful: float
    margin: float


@cache
def load_descriptor() -> Descriptor:
    """Takes VGGFace where its weights are in `weights/`, else local binary patterns.

    Which one it is, is logged once. Nothing is downloaded.

    The thresholds of the patterns are measured: at 0.55, 5 % of pairs of one person in
    one clip are missed (a hand before the face, a turned head) and 0.4 % of pairs of
    two people taken for one; relit, 60 % are missed. Below 0.35 lie 0.7 % of pairs of
    one person, relit, and 88 % of those of two. A relit face was at least 0.046 more
    like its own person than like any of eight others, in 99 % of cases 0.059.
    Those of VGGFace are not measured here: a cosine distance of 0.4 to 0.6, mostly 0.5,
    is what examples with keras-vggface take for the border between two people.

    Returns:
        The descriptor.

    Raises:
        ValueError: the weight file is damaged.
    """
    if find_weights(FILE):
        log.info("faces are told apart by VGGFace")
        network = load_vggface()
        return Descriptor(
            "VGGFace", lambda crops: _features(network, crops), 0.5, 0.4, 0.05
        )
    log.info(
        "faces are told apart by local binary patterns, good within one clip only: "
        "%s is not in weights/",
        FILE,
    )
    return Descriptor("local binary patterns", _patterns, 0.55, 0.35, 0.05)


def describe(crops: np.ndarray) -> np.ndarray:
    """Describes faces by unit vectors; their dot product is the cosine similarity.

    Args:
        crops: RGB uint8 (n, size, size, 3), n >= 1, aligned as by
            `fsgan.extract_faces`.

    Returns:
        float32 (n, d), rows of length 1; d depends on the descriptor.

    Raises:
        ValueError: there is no crop, they are not square RGB uint8, or the weight file
            of VGGFace is damaged.

    Source: Ahonen, Hadid and Pietikäinen 2006, "Face description with local binary
    patterns: Application to face recognition", with square roots of the histograms and
    less their mean over the crop; Cao et al. 2018, "VGGFace2".
    """
    crops = np.asarray(crops)
    if (
        crops.dtype != np.uint8
        or crops.ndim != 4
        or not crops.size
        or crops.shape[1:] != (crops.shape[1], crops.shape[1], 3)
    ):
        raise ValueError(
            "crops must be RGB uint8 (n, size, size, 3) with at least one face, got "
            f"{crops.dtype} {crops.shape}"
        )
    vectors = load_descriptor().function(crops).astype(np.float32)
    # Features may all be 0: such a face is like nothing.
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-6)


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

        Without the weights of VGGFace take crops from the very clip in which the person
        is looked for: another photo of the person says next to nothing.

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


def _features(network, crops: np.ndarray) -> np.ndarray:
    """Mean of VGGFace's last feature map, float32 (n, 2048)."""
    from keras import ops

    means = []
    for start in range(0, len(crops), _BATCH):
        x = crops[start : start + _BATCH].astype(np.float32) / 127.5 - 1
        features = network(preprocess(x))[0]  # (b, 7, 7, 2048)
        means.append(ops.convert_to_numpy(ops.mean(features, axis=(1, 2))))
    return np.concatenate(means)


def _patterns(crops: np.ndarray) -> np.ndarray:
    """Counts of local binary patterns in each cell, float (n, 3776)."""
    return np.stack([_patterns_of(crop) for crop in crops])


def _patterns_of(crop: np.ndarray) -> np.ndarray:
    size = (_PATTERN_SIZE, _PATTERN_SIZE)
    gray = cv2.resize(
        cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), size, interpolation=cv2.INTER_AREA
    )
    codes = local_binary_pattern(gray, 8, 1, "nri_uniform").astype(int)
    cell = _PATTERN_SIZE // _GRID
    cells = codes.reshape(_GRID, cell, _GRID, cell).swapaxes(1, 2)
    cells = cells.reshape(_GRID**2, cell**2)
    counts = np.sqrt([np.bincount(codes, minlength=_PATTERNS) for codes in cells])
    # What the whole crop has in common tells of light, lens and sharpness.
    return (counts - counts.mean(axis=0)).ravel()


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
