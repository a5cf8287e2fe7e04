"""Shared by all tests: a quiet TensorFlow and one detector."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["FSGAN_OFFLINE"] = "1"  # no test waits for a download

import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.detection import FaceDetector


@pytest.fixture(scope="session")
def detector() -> FaceDetector:
    return FaceDetector(min_face=40)


@pytest.fixture(scope="session")
def portrait() -> np.ndarray:
    """The upper part of a photo with one face of about 85 x 110 pixels."""
    return astronaut()[:300, 60:400].copy()
