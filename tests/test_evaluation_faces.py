"""Single faces of an evaluation."""

import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.evaluation.face_metrics import expression_distance, reconstruction_scores
from fsgan.evaluation.faces import (
    describe_each,
    evenly,
    expression_68,
    read_crops,
    rebuild,
)
from fsgan.media.images import write_image
from fsgan.models.checkpoint import latest_checkpoint, save_checkpoint
from fsgan.models.networks import ModelConfig
from fsgan.training.gan import FaceSwapGAN

FACE = astronaut()[40:168, 160:288]


def test_items_are_chosen_evenly_with_both_ends():
    assert evenly(range(9), 3) == [0, 4, 8]
    assert evenly([5, 6], 64) == [5, 6]
    assert evenly([], 4) == []


def test_up_to_64_crops_are_read_in_natural_order(tmp_path):
    for index in range(70):
        write_image(tmp_path / f"{index}.png", np.full((8, 8, 3), index, np.uint8))
    levels = [crop[0, 0, 0] for crop in read_crops(tmp_path)]
    assert (len(levels), levels[0], levels[-1]) == (64, 0, 69)
    assert levels == sorted(levels)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_crops(tmp_path / "missing")


def test_crops_of_any_size_are_described():
    vectors = describe_each([FACE, FACE[::2, ::2].copy()])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1])
    with pytest.raises(ValueError, match=r"crops must be RGB uint8 \(n, size, size"):
        describe_each([FACE[:90]])


class FakeDetector:
    """Finds 68 points, those of the mouth further down in a brighter crop."""

    def detect(self, crops):
        points = np.random.default_rng(0).uniform(0, 100, (68, 2))
        mouth = (np.arange(68) >= 48)[:, None] * [0, 1]
        return [points + crop[0, 0, 0] * mouth for crop in crops]


def test_68_landmarks_of_up_to_16_faces(monkeypatch):
    monkeypatch.setattr("fsgan.evaluation.faces.LandmarkDetector", FakeDetector)
    crops = [np.full((8, 8, 3), level, np.uint8) for level in (0, 3)]
    spread, note = expression_68([(crops[0], crops[0])] * 20)
    assert spread.values == pytest.approx([0] * 16, abs=1e-9)
    assert note == "68 landmarks are measured on 16 faces."
    spread, _ = expression_68([(crops[0], crops[1])])
    mouth = (np.arange(68) >= 48)[:, None] * [0, 3]
    points = np.random.default_rng(0).uniform(0, 100, (68, 2))
    by_hand = expression_distance(points[None], (points + mouth)[None])
    assert spread.values == pytest.approx(by_hand)
    assert spread.mean > 0.01
    assert expression_68([])[0] is None


def test_without_the_detector_the_note_says_why(monkeypatch):
    def missing():
        raise FileNotFoundError("the package face-alignment is not installed")

    monkeypatch.setattr("fsgan.evaluation.faces.LandmarkDetector", missing)
    assert expression_68([(FACE, FACE)]) == (
        None,
        "Expression is measured by five landmarks only: the package face-alignment is "
        "not installed.",
    )


@pytest.mark.parametrize(("share", "held_out"), [(0.1, 2), (0, 0)])
def test_held_out_faces_are_rebuilt_by_their_own_decoders(tmp_path, share, held_out):
    """A's decoder paints black, B's white."""
    gan = FaceSwapGAN(ModelConfig(64, "lite", attention=False, coverage=0.5))
    for side, level in (("a", -20), ("b", 20)):
        weights = [np.zeros((5, 5, 32, 3)), np.full(3, level)]
        gan.networks[f"decoder_{side}"].get_layer("rgb").set_weights(weights)
    settings = {"model": gan.config, "iteration": 0}
    settings["training"] = {"validation": share}
    save_checkpoint(tmp_path, gan.networks, {}, settings)
    for index in range(20):
        write_image(tmp_path / "faces" / f"{index}.png", FACE)
    folders = dict.fromkeys("ab", tmp_path / "faces")
    scores, note = rebuild(latest_checkpoint(tmp_path), folders)
    assert f"{held_out} faces of A and {held_out} faces of B" in note
    assert list(scores) == ["a", "b"][:held_out]
    # At a coverage of a half the network sees the middle 64 pixels as they are.
    real = FACE[None, 32:96, 32:96]
    for side, level in list(zip("ab", (0, 255), strict=True))[:held_out]:
        by_hand = reconstruction_scores(real, np.full_like(real, level))
        assert scores[side].psnr.values == by_hand.psnr.values * held_out
        assert scores[side].ssim.values == by_hand.ssim.values * held_out
