"""Shared by all tests: a quiet TensorFlow and one detector."""

import os
from functools import cache
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests run side by side: a thread each, and the same sums on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ["NUMBA_DISABLE_JIT"] = "1"  # compiling takes longer than the tests
os.environ["FSGAN_OFFLINE"] = "1"  # no test waits for a download
import cv2
import numpy as np
import pytest
from matplotlib.cbook import get_sample_data
from scipy.spatial import Delaunay
from skimage.data import astronaut

from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import align, crop_matrix
from fsgan.faces.mesh import FaceMesh
from fsgan.media.images import read_image, write_image


@pytest.fixture(scope="session")
def detector() -> FaceDetector:
    return FaceDetector(min_face=40)


@pytest.fixture(scope="session")
def coarse() -> bool:
    """Whether warps sample at 32nds of a pixel, as OpenCV's do before 5."""
    return int(cv2.__version__.split(".")[0]) < 5


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """The upper part of a photo with one face of about 85 x 110 pixels."""
    return astronaut()[:300, 60:400].copy()


@pytest.fixture(scope="session")
def hopper_photo() -> np.ndarray:
    return read_image(get_sample_data("grace_hopper.jpg", asfileobj=False))


@pytest.fixture(scope="session")
def two_people(tmp_path_factory) -> Path:
    """Folder of `a` and `b`, three crops of A and of B."""
    folder = tmp_path_factory.mktemp("people")
    face = astronaut()[:256, 96:352]
    for number in range(3):
        write_image(folder / "a" / f"{number}.png", np.roll(face, 4 * number, axis=1))
        write_image(folder / "b" / f"{number}.png", np.roll(255 - face, number, axis=0))
    return folder


def turn_face(image, landmarks, degrees):
    """The face alone, turned to the right: its mesh, painted from back to front."""
    points, depth = FaceMesh().with_depth(image, landmarks)
    corners, angle = points[: len(depth)], np.radians(degrees)
    middle = corners[:, 0].mean()
    across, turned = corners[:, 0] - middle, corners.copy()
    turned[:, 0] = middle + across * np.cos(angle) - depth * np.sin(angle)
    away = across * np.sin(angle) + depth * np.cos(angle)
    canvas, triangles = np.full_like(image, 110), Delaunay(corners).simplices
    for triangle in triangles[np.argsort(-away[triangles].mean(axis=1))]:
        matrix = cv2.getAffineTransform(corners[triangle], turned[triangle])
        mask = np.zeros(image.shape[:2], np.uint8)
        cv2.fillConvexPoly(mask, turned[triangle].round().astype(int), 1)
        left, top, width, height = cv2.boundingRect(mask)
        matrix[:, 2] -= left, top
        patch = cv2.warpAffine(image, matrix, (width, height))
        place = slice(top, top + height), slice(left, left + width)
        canvas[place] = np.where(mask[place][..., None], patch, canvas[place])
    return canvas


@pytest.fixture(scope="session")
def turning(portrait, detector) -> dict[int, np.ndarray]:
    """The portrait's face by the degrees to which it is turned."""
    [face] = detector.detect(portrait)
    return {it: turn_face(portrait, face.landmarks, it) for it in range(0, 81, 10)}


def _views(image, detector, count=8) -> np.ndarray:
    """Crops of the face as other frames of a clip would show it."""
    [face] = detector.detect(image)
    rng = np.random.default_rng(0)
    crops = []
    for _ in range(count):
        landmarks = face.landmarks + rng.normal(0, 0.01 * face.size, (5, 2))
        crop = align(image, crop_matrix(landmarks), 256).astype(float)
        crops.append(np.clip(crop * rng.uniform(0.85, 1.1, 3), 0, 255).astype(np.uint8))
    return np.stack(crops)


@pytest.fixture(scope="module")
def collins(portrait, detector) -> np.ndarray:
    return _views(portrait, detector)


@pytest.fixture(scope="module")
def hopper(hopper_photo, detector) -> np.ndarray:
    return _views(hopper_photo, detector)


@pytest.fixture(scope="session")
def gray_model(tmp_path_factory):
    """Folder of an untrained model whose B is plain gray, fully opaque."""
    from fsgan.models.checkpoint import save_checkpoint
    from fsgan.models.networks import ModelConfig, build_networks

    model = ModelConfig(64, "lite", attention=False, discriminators=False)
    networks = build_networks(model)
    for layer, channels, bias in (("rgb", 3, 0), ("alpha", 1, 20)):
        weights = [np.zeros((5, 5, 32, channels)), np.full(channels, bias)]
        networks["decoder_b"].get_layer(layer).set_weights(weights)
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, networks, {}, {"model": model, "iteration": 0})
    return folder


@pytest.fixture(scope="module")
def shared_generators():
    """Each generator is loaded once, as that takes seconds, and in float32."""
    from fsgan.swap import generator

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generator, "fastest_precision", lambda: "float32")
        patch.setattr(generator, "FaceGenerator", cache(generator.FaceGenerator))
        yield
