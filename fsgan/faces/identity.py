"""Who a face is: embeddings by dlib's network, and a person found again by them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from fsgan.assets import find_weights
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import (
    CROP_SIZE,
    align,
    crop_matrix,
    read_crops,
    warp,
)
from fsgan.media.images import evenly, list_images, read_image

log = logging.getLogger(__name__)

SAME_PERSON = 0.93
"""Cosine similarity from which on two faces are one person's; 0.1 % errors either way
on the faces of docs/identity.md. Two people are about 0.86 alike."""
OTHER_PERSON = 0.915
"""Cosine similarity below which two faces are two people's, in whatever light."""

_MARGIN = 0.02  # by which the right one of several people is more alike than the rest
_MAX_CROPS = 32  # by which a person is known
_FILE = "dlib_face_recognition_resnet_model_v1.dat"
_SHA256 = "55533b28a95800a5"
_CHIP_SIZE = 150  # pixels, of the square that the network sees
_CHIP_CENTRE = np.array([0.525, 0.532])  # of that square, in shares of the crop's side
_CHIP_SIDE = 1.087  # likewise


@cache
def load_network():
    """Loads dlib's network, once; call it first to fail before the work starts.

    Raises:
        FileNotFoundError: dlib or its weights are missing.
        ValueError: the weight file in `weights/` is damaged.

    Source: King, dlib-models, `dlib_face_recognition_resnet_model_v1`.
    """
    # Found, not imported: on import that package asks for the retired pkg_resources.
    package = find_spec("face_recognition_models")
    if package is not None:
        path = Path(package.submodule_search_locations[0], "models", _FILE)
    else:
        path = find_weights(_FILE, _SHA256)
    if path is None or find_spec("dlib") is None:
        raise FileNotFoundError(
            "people are told apart by dlib's network, which is not installed: install "
            "'fsgan[identity]'"
        )
    from dlib import face_recognition_model_v1

    return face_recognition_model_v1(str(path))


def embed(crops: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """Embeds faces; the dot product of two embeddings is their cosine similarity.

    Args:
        crops: RGB uint8 (n, size, size, 3), standard crops as of
            `fsgan.faces.geometry`; in a list, sizes may differ. About a tenth of a
            second each.

    Returns:
        float32 (n, 128), rows of length 1.

    Raises:
        FileNotFoundError: dlib is not installed.
        ValueError: a crop is not square RGB uint8.
    """
    for crop in crops:
        if crop.dtype != np.uint8 or crop.shape != (len(crop), len(crop), 3):
            raise ValueError(
                "crops must be RGB uint8 (n, size, size, 3), got one of "
                f"{crop.dtype} {crop.shape}"
            )
    network = load_network()
    vectors = [network.compute_face_descriptor(_chip(crop)) for crop in crops]
    vectors = np.array(vectors, np.float32).reshape(-1, 128)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Identity:
    """A person, known from pictures.

    Attributes:
        embeddings: float32 (n, 128), n >= 1, one for each picture, as of `embed`.
    """

    embeddings: np.ndarray

    @classmethod
    def of(cls, reference: str | Path | Sequence[np.ndarray]) -> "Identity":
        """Learns a person from a photo or from face crops, evenly chosen if many.

        Args:
            reference: a photo with one face in it; a folder of face crops of one
                person, as of `fsgan.extract_faces`; or standard crops, RGB uint8
                (size, size, 3) each.

        Raises:
            FileNotFoundError: the photo or folder is missing, the folder is empty, or
                dlib is not installed.
            ValueError: the photo shows no face or several, a file is no picture, a crop
                is not square, or there is none.
        """
        load_network()
        if isinstance(reference, str | Path):
            if not Path(reference).is_dir():
                return cls(embed([_face_of(reference)]))
            files = evenly(list_images(reference), _MAX_CROPS)
            reference = list(read_crops(files))
        crops = evenly(reference, _MAX_CROPS)
        if not crops:
            raise ValueError("reference must hold at least one face crop, got none")
        return cls(embed(crops))

    def choose(
        self, tracks: Sequence[np.ndarray], spans: Sequence[tuple[int, int]]
    ) -> list[bool]:
        """Decides which tracks of one clip show the person.

        The track most like the person is it, unless it is too unlike, or another one is
        about as much like the person but not like that track. Tracks that are as much
        like it as two faces of one person are, are the person too.

        Args:
            tracks: crops of each track, as of `embed`, n >= 1; eight are enough.
            spans: first and last frame of each track; of tracks with a frame in common
                one at most is the person.

        Returns:
            For each track whether it is the person. None is where it cannot be told: a
            warning says why.
        """
        if not len(tracks):
            return []
        embedded = [embed(track) for track in tracks]
        scores = _similarities(embedded, self.embeddings)
        best = int(np.argmax(scores))
        alike = np.maximum(scores, _similarities(embedded, embedded[best]))
        chosen: list[int] = []
        for track in np.argsort(-scores).tolist():
            same = track == best or alike[track] >= SAME_PERSON
            if same and not any(_overlap(spans[track], spans[i]) for i in chosen):
                chosen.append(track)
        rest = np.delete(scores, chosen)
        doubt = None
        if scores[best] < OTHER_PERSON:
            doubt = (
                "no face in the clip is like the person (similarities %s): take face "
                "crops of the clip itself as reference, or name the track"
            )
        elif len(rest) and rest.max() > scores[best] - _MARGIN:
            doubt = (
                "two faces in the clip are about equally like the person (similarities "
                "%s): name the track"
            )
        if doubt:
            log.warning(doubt, ", ".join(f"{score:.2f}" for score in scores))
            chosen = []
        return [track in chosen for track in range(len(tracks))]


def _chip(crop: np.ndarray) -> np.ndarray:
    """The square that the network sees, RGB uint8 (150, 150, 3), of an aligned crop."""
    scale = _CHIP_SIZE / (_CHIP_SIDE * len(crop))
    # A share s of the side lies at pixel s * len(crop) - 0.5.
    shift = (_CHIP_SIZE - 1) / 2 - scale * (_CHIP_CENTRE * len(crop) - 0.5)
    matrix = np.column_stack([scale * np.eye(2), shift])
    return warp(crop, matrix, (_CHIP_SIZE, _CHIP_SIZE))


def _similarities(tracks: list[np.ndarray], known: np.ndarray) -> np.ndarray:
    """Of each track the median similarity of its faces with the nearest one known."""
    return np.array([np.median((faces @ known.T).max(axis=1)) for faces in tracks])


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two tracks have a frame in common."""
    return one[0] <= other[1] and other[0] <= one[1]


def _face_of(path: str | Path) -> np.ndarray:
    """The aligned crop of the one face in a photo."""
    image = read_image(path)
    faces = FaceDetector().detect(image)
    if len(faces) != 1:
        raise ValueError(
            f"the reference photo must show one face, but {path} shows "
            f"{len(faces) or 'none'}: cut the person out of it or take another one"
        )
    return align(image, crop_matrix(faces[0].landmarks), CROP_SIZE)
