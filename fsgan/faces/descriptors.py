"""What tells faces apart: descriptors of aligned crops, compared by their angle.

Three descriptors, the first that is at hand is taken:

* "dlib", a network that learned faces, with the extra `identity` (packages dlib-bin
  and face_recognition_models). It knows a person again on another photograph, and no
  training of this package ever looks through it.
* "VGGFace", another one, with its weights in `weights/`. Training may have looked
  through it (`perceptual`), so it flatters what was trained.
* "local binary patterns" of each part of the crop, which never learned anything. They
  tell the people of one clip apart; they do NOT know a person on another photograph.

Measured on single faces of 9 people and some signers in clips, and of 9 people on
photographs, by cosine similarity; equal error rate and where it lies:

==========================================  ====================  ====================
pairs of the same person, and of two        dlib                  patterns
==========================================  ====================  ====================
clips, 2 292 pairs and 19 921               0.08 % at 0.930       4.5 % at 0.48
photographs, 4 pairs and 62                 none, 0.88 to 0.95    a guess, AUC 0.78
area under the curve, all                   0.999996              0.994
time a face, one core                       75 to 140 ms          2.4 ms
==========================================  ====================  ====================

VGGFace is not measured here: its weights were not at hand. Of patterns alone: with one
face known of each of five people, all other 105 of their clips found their own, relit
too. Others tried, equal errors in clips and found when relit: the patterns without the
mean of the crop subtracted 4.2 %, 77 %; HOG 6 %, 79 %; colour histograms 7.8 %, 27 %;
pixels 12 %, 78 %; DCT 14 %, 87 %; patterns with HOG 4.8 %, 93 %. Descriptors and
thresholds were chosen on the very faces they are measured on, so expect worse.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from skimage.feature import local_binary_pattern

from fsgan.assets import check_weights, find_weights
from fsgan.faces.geometry import warp
from fsgan.models.vggface import FILE, load_vggface, preprocess

log = logging.getLogger(__name__)

DLIB_FILE = "dlib_face_recognition_resnet_model_v1.dat"
DLIB_SHA256 = "55533b28a95800a5"

_CHIP_SIZE = 150  # pixels, of what dlib's network looks at
# Where that lies, as shares of the crop's side: the median of the chips that dlib cuts
# by its own five points out of 230 crops. From its own, descriptors are 0.09 away in
# the median, at most 0.23; those by its 68 points 0.11 and 0.25. People begin at 0.6.
_CHIP_CENTRE = np.array([0.525, 0.532])
_CHIP_SIDE = 1.087
_BATCH = 16  # crops through VGGFace at once
_PATTERN_SIZE = 96  # pixels, of the crop whose patterns are counted
_GRID = 8  # cells on a side
_PATTERNS = 59  # "nri_uniform" ones of 8 neighbours


@dataclass(frozen=True)
class Descriptor:
    """A way to describe faces, and how alike two faces of one person are by it.

    Attributes:
        name: "dlib", "VGGFace" or "local binary patterns".
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
def load_descriptor(name: str | None = None) -> Descriptor:
    """Loads what describes faces.

    Which one it is, is logged once. Nothing is downloaded.

    The thresholds of dlib and of the patterns are measured, on faces as in the head of
    this module. dlib's own rule, a Euclidean distance of 0.6, is a cosine similarity of
    0.915 to 0.925, as its vectors are 1.30 to 1.59 long; it took 0.8 % of pairs of two
    people for one, 0.93 takes 0.1 % and misses as many of one person. Below 0.915 lie
    0.01 % of pairs of one person, relit, turned and blurred by program, and 98.9 % of
    those of two. Such a face was at least 0.024 more like its own person than like any
    of eight others, in 99 % of cases 0.048. Two people are about 0.86 alike: read
    similarities against that, not against 0.

    Of the patterns at 0.55, 5 % of pairs of one person in one clip are missed (a hand
    before the face, a turned head) and 0.4 % of pairs of two people taken for one;
    relit, 60 % are missed. Below 0.35 lie 0.7 % of pairs of one person, relit, and 88 %
    of those of two. A relit face was at least 0.046 more like its own person than like
    any of eight others, in 99 % of cases 0.059.

    Those of VGGFace are not measured here: a cosine distance of 0.4 to 0.6, mostly 0.5,
    is what examples with keras-vggface take for the border between two people.

    Args:
        name: "dlib", "VGGFace" or "local binary patterns"; None takes the first of them
            that is at hand.

    Returns:
        The descriptor.

    Raises:
        FileNotFoundError: the one named is not at hand; the sentence says what to do.
        ValueError: its weight file is damaged, or there is none of that name.

    Source: King, dlib-models, `dlib_face_recognition_resnet_model_v1`, 99.38 % on LFW,
    public domain; Cao et al. 2018, "VGGFace2"; Ahonen, Hadid and Pietikäinen 2006,
    "Face description with local binary patterns: Application to face recognition", with
    square roots of the histograms and less their mean over the crop.
    """
    if name is None:
        if _dlib_weights():
            return load_descriptor("dlib")
        if find_weights(FILE):
            return load_descriptor("VGGFace")
        log.info(
            "faces are told apart by local binary patterns, good within one clip only: "
            "for better install 'fsgan[identity]', as %s is not in weights/",
            FILE,
        )
        return load_descriptor("local binary patterns")
    if name == "local binary patterns":
        return Descriptor(name, _patterns, 0.55, 0.35, 0.05)
    if name == "VGGFace":
        if not find_weights(FILE):
            raise FileNotFoundError(
                f"the descriptor VGGFace needs {FILE} in weights/: get it as "
                "weights/README.md says"
            )
        log.info("faces are told apart by VGGFace")
        network = load_vggface()
        return Descriptor(name, lambda crops: _features(network, crops), 0.5, 0.4, 0.05)
    if name == "dlib":
        path = _dlib_weights()
        if path is None:
            raise FileNotFoundError(
                "the descriptor dlib is not installed: pip install 'fsgan[identity]'"
            )
        check_weights(path, DLIB_SHA256)
        from dlib import face_recognition_model_v1

        log.info("faces are told apart by dlib")
        judge = face_recognition_model_v1(str(path))
        return Descriptor(
            name, lambda crops: _embeddings(judge, crops), 0.93, 0.915, 0.02
        )
    raise ValueError(
        f"name must be dlib, VGGFace, local binary patterns or None, got {name!r}"
    )


def describe(crops: np.ndarray, name: str | None = None) -> np.ndarray:
    """Describes faces by unit vectors; their dot product is the cosine similarity.

    Args:
        crops: RGB uint8 (n, size, size, 3), n >= 1, aligned as by
            `fsgan.extract_faces`.
        name: of the descriptor, as of `load_descriptor`.

    Returns:
        float32 (n, d), rows of length 1; d depends on the descriptor.

    Raises:
        FileNotFoundError: the descriptor named is not at hand.
        ValueError: there is no crop, they are not square RGB uint8, the weight file of
            the descriptor is damaged, or its name is unknown.
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
    vectors = load_descriptor(name).function(crops).astype(np.float32)
    # Features may all be 0: such a face is like nothing.
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, 1e-6)


def _dlib_weights() -> Path | None:
    """The weights for dlib; None where they or dlib are missing."""
    if find_spec("dlib") is None:
        return None
    # Imported, that package asks for pkg_resources, which is no more.
    package = find_spec("face_recognition_models")
    if package is None:
        return find_weights(DLIB_FILE)
    return Path(package.submodule_search_locations[0]) / "models" / DLIB_FILE


def _embeddings(judge, crops: np.ndarray) -> np.ndarray:
    """What dlib's network makes of each face, float64 (n, 128)."""
    # One by one: in batches they are no faster.
    return np.array([judge.compute_face_descriptor(_chip(crop)) for crop in crops])


def _chip(crop: np.ndarray) -> np.ndarray:
    """What dlib's network looks at, RGB uint8 (150, 150, 3), of an aligned crop."""
    size = len(crop)
    scale = _CHIP_SIZE / (_CHIP_SIDE * size)
    # A share s of the side lies at pixel s * size - 0.5.
    shift = (_CHIP_SIZE - 1) / 2 - scale * (_CHIP_CENTRE * size - 0.5)
    matrix = np.column_stack([scale * np.eye(2), shift])
    return warp(crop, matrix, (_CHIP_SIZE, _CHIP_SIZE))


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
