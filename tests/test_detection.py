"""Real faces through the real detector; the landmark network by a stand-in."""

import hashlib
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from fsgan import detection, weights
from fsgan.detection import FAN_WEIGHTS, FaceDetector, LandmarkDetector
from fsgan.geometry import MEAN_LANDMARKS, crop_matrix, transform_points

# Seen with the eye in scikit-image's photograph, (x, y): eyes, nose, mouth corners.
POINTS = np.array([[204, 101], [246, 103], [225, 126], [203, 138], [245, 141]])
BOX = np.array([180, 60, 267, 174])


# Faces


@pytest.mark.parametrize("min_face", [20, 30, 40, 60, 80])
def test_the_face_is_found_whatever_the_smallest_face_asked_for(min_face):
    [face] = FaceDetector(min_face).detect(astronaut())
    assert np.abs(face.landmarks - POINTS).max() < 5
    assert np.abs(face.box - BOX).max() < 8
    assert 0.9 <= face.confidence <= 1


def test_a_face_smaller_than_asked_for_is_left_out():
    assert FaceDetector(min_face=120).detect(astronaut()) == []


def test_points_and_box_follow_the_picture(detector, portrait):
    [face] = detector.detect(portrait)
    wide = cv2.copyMakeBorder(portrait, 31, 9, 57, 3, cv2.BORDER_REFLECT_101)
    [moved] = detector.detect(wide)[:1]
    assert np.abs(moved.landmarks - face.landmarks - (57, 31)).max() < 4
    large = cv2.resize(portrait, None, fx=2.5, fy=2.5, interpolation=cv2.INTER_CUBIC)
    [grown] = detector.detect(large)[:1]
    assert np.abs((grown.landmarks + 0.5) / 2.5 - 0.5 - face.landmarks).max() < 4


def test_the_landmarks_of_an_aligned_crop_are_near_the_mean_shape(detector, portrait):
    [face] = detector.detect(portrait)
    points = transform_points(face.landmarks, crop_matrix(face.landmarks, 256))
    assert np.abs((points + 0.5) / 256 - MEAN_LANDMARKS).max() < 0.08


def test_faces_come_largest_first(detector, portrait):
    small = cv2.resize(portrait, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    small = np.pad(small, ((0, 300 - len(small)), (0, 0), (0, 0)), "edge")
    faces = detector.detect(np.hstack([small, portrait]))
    assert len(faces) == 2
    assert faces[0].size > 1.2 * faces[1].size
    assert faces[1].landmarks[0, 0] < small.shape[1] < faces[0].landmarks[0, 0]


def test_points_are_not_rounded_to_pixels(detector, portrait):
    [face] = detector.detect(portrait)
    assert np.abs(face.landmarks - face.landmarks.round()).max() > 0.05


def test_a_find_in_the_half_sized_picture_is_scaled_to_the_frame(monkeypatch):
    class Networks:
        def detect_faces(self, image, **options):
            assert image.shape == (100, 151, 3)
            points = [40, 60, 50, 42, 58, 30, 31, 40, 50, 51]  # five x, five y
            sure, unsure = [0, 20, 10, 80, 70, 0.95], [0, 20, 10, 80, 70, 0.85]
            small = [0, 20, 10, 43, 70, 0.95]
            return np.array([box + points for box in (small, unsure, sure)])

    detector = FaceDetector(min_face=48, min_confidence=0.9)
    monkeypatch.setattr(detector, "_networks", Networks)
    [face] = detector.detect(np.zeros((200, 302, 3), np.uint8))
    np.testing.assert_allclose(face.box, [40, 20, 160, 140])
    # The centre of pixel 40 of the half lies between pixels 80 and 81 of the whole.
    np.testing.assert_allclose(face.landmarks[:2], [[80.5, 60.5], [120.5, 62.5]])
    assert face.confidence == 0.95


def test_the_picture_is_left_as_it_is(detector, portrait):
    before = portrait.copy()
    detector.detect(portrait)
    np.testing.assert_array_equal(portrait, before)


@pytest.mark.parametrize("shape", [(240, 320), (97, 31), (31, 201), (24, 700)])
def test_pictures_without_a_face_give_none(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for image in (noise, np.zeros_like(noise), np.full_like(noise, 255)):
        assert FaceDetector(min_face=20).detect(image) == []


@pytest.mark.parametrize("shape", [(1, 1), (12, 12), (19, 400), (20, 20), (400, 21)])
def test_tiny_pictures_give_none(shape):
    image = np.full((*shape, 3), 128, np.uint8)
    assert FaceDetector(min_face=20).detect(image) == []
    assert FaceDetector(min_face=60).detect(image) == []


@pytest.mark.parametrize(
    "crop", [(0, 201, 0, 301), (60, 174, 180, 267), (0, 512, 150, 300)]
)
def test_odd_shapes_and_tight_crops_are_searched(detector, crop):
    top, bottom, left, right = crop
    [face] = detector.detect(astronaut()[top:bottom, left:right])
    assert np.abs(face.landmarks + np.array([left, top]) - POINTS).max() < 8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_face": 19.9}, "min_face must be at least 20 pixels, got 19.9"),
        ({"min_face": float("nan")}, "min_face must be at least 20 pixels, got nan"),
        ({"min_confidence": 0.69}, r"min_confidence must be in \[0.7, 1\], got 0.69"),
        ({"min_confidence": 1.01}, r"min_confidence must be in \[0.7, 1\], got 1.01"),
    ],
)
def test_thresholds_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FaceDetector(**settings)


# Landmarks: the package is an extra, so its place is taken by modules that say what
# they are asked.


class StandIn:
    """What `face_alignment.FaceAlignment` is to us."""

    loaded_from = None
    fault = None

    def __init__(self, kind, **settings):
        if StandIn.fault is not None:
            raise StandIn.fault
        StandIn.loaded_from = Path(sys.modules["torch.hub"].get_dir())
        assert kind == "2D"
        assert settings["face_detector"] == "folder"
        assert settings["device"] == "cpu"

    def get_landmarks_from_image(self, image, detected_faces):
        [[left, top, right, bottom]] = detected_faces
        # The real one fills a tensor with these: NumPy's numbers are refused there.
        assert type(left) is type(bottom) is int
        x = np.linspace(left, right - 1, 68, dtype=np.float32)
        return [np.stack([x, np.full(68, (bottom - top) / 2, np.float32)], -1)]


@pytest.fixture
def standin(tmp_path, monkeypatch) -> Path:
    """A working folder with face-alignment and torch "installed"; torch's cache."""
    hub_dir = [str(tmp_path / "cache" / "hub")]
    torch, hub = ModuleType("torch"), ModuleType("torch.hub")
    hub.get_dir = lambda: hub_dir[0]
    hub.set_dir = lambda path: hub_dir.__setitem__(0, str(path))
    torch.hub, torch.cuda = hub, ModuleType("torch.cuda")
    torch.cuda.is_available = lambda: False
    package = ModuleType("face_alignment")
    package.__spec__ = ModuleSpec("face_alignment", None)
    package.FaceAlignment = StandIn
    package.LandmarksType = type("LandmarksType", (), {"TWO_D": "2D"})
    for module in (torch, hub, torch.cuda, package):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(weights, "FOLDERS", (tmp_path / "weights",))
    monkeypatch.setattr(
        detection, "FAN_SHA256", hashlib.sha256(b"weights").hexdigest()[:10]
    )
    monkeypatch.setattr(StandIn, "loaded_from", None)
    monkeypatch.setattr(StandIn, "fault", None)
    yield tmp_path
    assert hub.get_dir() == str(tmp_path / "cache" / "hub")  # as it was


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_a_missing_package_is_said_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        FileNotFoundError, match=r"face-alignment is not installed: pip"
    ):
        LandmarkDetector()


def test_missing_weights_are_said_with_their_place(standin):
    with pytest.raises(
        FileNotFoundError, match="weights of face-alignment are missing"
    ):
        LandmarkDetector()


def test_weights_of_the_weights_folder_are_used(standin):
    put(standin / "weights" / FAN_WEIGHTS, b"weights")
    LandmarkDetector()
    assert StandIn.loaded_from == standin / "weights" / "hub"


def test_weights_of_torch_s_cache_are_used(standin):
    put(standin / "cache" / FAN_WEIGHTS, b"weights")
    LandmarkDetector()
    assert StandIn.loaded_from == standin / "cache" / "hub"


@pytest.mark.parametrize("folder", ["weights", "cache"])
@pytest.mark.parametrize("download", [False, True])
def test_damaged_weights_are_refused(standin, folder, download):
    put(standin / folder / FAN_WEIGHTS, b"weight")
    with pytest.raises(ValueError, match=r"2DFAN4-11f355bf06.pth.tar is damaged"):
        LandmarkDetector(download)
    assert StandIn.loaded_from is None


def test_a_failed_download_is_one_sentence(standin, monkeypatch):
    monkeypatch.setattr(StandIn, "fault", URLError("no route"))
    with pytest.raises(
        FileNotFoundError, match=r"could not be downloaded \(no route\)"
    ):
        LandmarkDetector(download=True)


def test_an_allowed_download_is_left_to_the_package(standin):
    LandmarkDetector(download=True)
    assert StandIn.loaded_from == standin / "cache" / "hub"


def test_the_whole_crop_is_the_face(standin):
    points = LandmarkDetector(download=True).detect(np.zeros((200, 200, 3), np.uint8))
    assert points.shape == (68, 2)
    assert points[0, 0] == 0
    assert points[-1, 0] == 199
    assert points[0, 1] == 100
