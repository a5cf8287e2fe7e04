"""68 landmarks of crops: what is asked of the package, and the package itself."""

import hashlib
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest

from fsgan import assets
from fsgan.faces import landmarks
from fsgan.faces.landmarks import FAN_WEIGHTS, LandmarkDetector


class StandIn:
    """What `face_alignment.FaceAlignment` is to us; says what it is asked."""

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
        found = []
        for left, top, right, bottom in detected_faces:
            # The real one fills a tensor with these: NumPy's numbers are refused there.
            assert type(left) is type(bottom) is int
            x = np.linspace(left, right - 1, 68, dtype=np.float32)
            y = np.full(68, image[top:bottom, left:right].mean() + top, np.float32)
            assert image[:, :left][:, -(right - left) :].max() == 0
            found.append(np.stack([x, y], -1))
        return found


@pytest.fixture
def standin(tmp_path, monkeypatch) -> Path:
    """A working folder with face-alignment and torch "installed"; torch's cache."""
    hub_dir = [str(tmp_path / "cache" / "hub")]
    hub = SimpleNamespace(
        get_dir=lambda: hub_dir[0],
        set_dir=lambda path: hub_dir.__setitem__(0, str(path)),
    )
    cuda = SimpleNamespace(is_available=lambda: False)
    package = SimpleNamespace(
        __spec__=ModuleSpec("face_alignment", None),
        FaceAlignment=StandIn,
        LandmarksType=SimpleNamespace(TWO_D="2D"),
    )
    torch = SimpleNamespace(hub=hub, cuda=cuda)
    modules = {"torch": torch, "torch.hub": hub, "face_alignment": package}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path / "weights",))
    monkeypatch.delenv("FSGAN_OFFLINE", raising=False)
    digest = hashlib.sha256(b"weights").hexdigest()[:10]
    monkeypatch.setattr(landmarks, "FAN_SHA256", digest)
    monkeypatch.setattr(StandIn, "loaded_from", None)
    yield tmp_path
    assert hub.get_dir() == str(tmp_path / "cache" / "hub")  # as it was


def put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_a_missing_package_is_said_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"not installed: pip install 'fsgan\["):
        LandmarkDetector()


def test_missing_weights_are_said_with_their_place(standin, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"missing: put 2DFAN4-.* into weights"):
        LandmarkDetector()
    monkeypatch.setattr(StandIn, "fault", URLError("no route"))
    with pytest.raises(FileNotFoundError, match=r"be downloaded \(no route\): put 2DF"):
        LandmarkDetector(download=True)


def test_nothing_is_downloaded_offline(standin, monkeypatch):
    monkeypatch.setenv("FSGAN_OFFLINE", "1")
    with pytest.raises(
        FileNotFoundError, match="weights of face-alignment are missing"
    ):
        LandmarkDetector(download=True)
    assert StandIn.loaded_from is None


@pytest.mark.parametrize("folder", ["weights", "cache"])
def test_weights_are_taken_from_the_weights_folder_or_torch_s_cache(standin, folder):
    put(standin / folder / FAN_WEIGHTS, b"weights")
    LandmarkDetector()
    assert StandIn.loaded_from == standin / folder / "hub"


@pytest.mark.parametrize(("folder", "download"), [("weights", False), ("cache", True)])
def test_damaged_weights_are_refused(standin, folder, download):
    put(standin / folder / FAN_WEIGHTS, b"weight")
    with pytest.raises(ValueError, match=r"2DFAN4-11f355bf06.pth.tar is damaged"):
        LandmarkDetector(download)
    assert StandIn.loaded_from is None


def test_every_crop_is_a_face_of_its_own_on_black(standin):
    crops = [
        np.full((side, side, 3), value, np.uint8)
        for side, value in ((200, 100), (256, 50), (64, 30))
    ]
    detector = LandmarkDetector(download=True)
    assert StandIn.loaded_from == standin / "cache" / "hub"
    for points, crop in zip(detector.detect(crops), crops, strict=True):
        assert points.shape == (68, 2)
        assert points[[0, -1], 0].tolist() == [0, len(crop) - 1]
        assert points[0, 1] == crop[0, 0, 0]
    assert detector.detect([]) == []


@pytest.mark.slow
def test_the_real_package_finds_the_peaks_of_its_network(tmp_path, monkeypatch):
    pytest.importorskip("face_alignment")
    import torch
    from face_alignment.models import FAN

    # Weights of the real format, all 0, that answer what can be known: every point of
    # the heat maps is the same, so the peak is the first.
    with torch.device("meta"):
        state = FAN(4).state_dict()
    for name, weights in state.items():
        state[name] = torch.zeros((), dtype=weights.dtype).expand(weights.shape)
    path = tmp_path / "weights" / FAN_WEIGHTS
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path / "weights",))
    monkeypatch.delenv("FSGAN_OFFLINE", raising=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(landmarks, "FAN_SHA256", digest)
    found = LandmarkDetector().detect([np.zeros((256, 256, 3), np.uint8)] * 2)
    # The package looks at 400 / 195 of the box, its centre 0.12 of it higher, on a grid
    # of 64 cells; the peak is in the first.
    side = 256 * 400 / 195
    corner = np.array([128 - side / 2, 128 - 0.12 * 256 - side / 2])
    for points in found:
        np.testing.assert_allclose(points, np.tile(corner, (68, 1)), atol=side / 64)
