import threading

import cv2
import numpy as np
import pytest
import skimage.data

from fsgan import dataset
from fsgan.augmentation import AugmentationSettings
from fsgan.dataset import FaceSet, batches, center_crop_batch, load_faces, make_batch
from fsgan.images import write_image

SETTINGS = AugmentationSettings()


@pytest.fixture(scope="module")
def face():
    return cv2.resize(skimage.data.astronaut()[20:260, 110:350], (256, 256))


@pytest.fixture(scope="module")
def sides(face):
    def side(images):
        small = np.stack([cv2.resize(image, (100, 100)) for image in images])
        names = [f"face{index}.png" for index in range(len(images))]
        return FaceSet(small, np.zeros(small.shape[:3], np.uint8), names)

    return side([face, face[:, ::-1]]), side([255 - face])


@pytest.fixture
def folders(tmp_path, face):
    faces, masks = tmp_path / "faces", tmp_path / "masks"
    mask = np.zeros((256, 256, 3), np.uint8)
    mask[100:120, 80:180] = 255
    for name in ("frame1face0", "frame2face0", "frame10face0"):
        write_image(faces / f"{name}.jpg", face)
        write_image(masks / f"{name}.png", mask)
    return faces, masks


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def alive_threads(before):
    return [thread for thread in threading.enumerate() if thread not in before]


def test_faces_come_in_natural_order_shrunk_to_what_the_network_needs(folders, face):
    faces = load_faces(*folders, resolution=64, coverage=0.8)
    names = ["frame1face0.jpg", "frame2face0.jpg", "frame10face0.jpg"]
    assert faces.names == names
    assert len(faces) == 3
    assert faces.images.shape == (3, 100, 100, 3)
    assert faces.images.dtype == faces.eyes.dtype == np.uint8
    expected = cv2.resize(face, (100, 100), interpolation=cv2.INTER_AREA)
    assert (
        np.abs(faces.images[2].astype(int) - expected).mean() < 2
    )  # RGB, through JPEG
    assert faces.eyes.shape == (3, 100, 100)
    assert faces.eyes[0, 43, 50] == 255
    assert faces.eyes[0, 60, 50] == 0


@pytest.mark.parametrize(
    ("resolution", "coverage", "size"), [(64, 1, 80), (128, 0.8, 200), (256, 0.8, 256)]
)
def test_faces_are_never_enlarged(folders, resolution, coverage, size):
    faces = load_faces(*folders, resolution, coverage)
    assert faces.images.shape == (3, size, size, 3)


def test_faces_of_different_sizes_get_one_size(folders, face):
    write_image(folders[0] / "tiny.png", cv2.resize(face, (40, 40)))
    faces = load_faces(folders[0], None, 64, 0.8)
    assert faces.images.shape == (4, 100, 100, 3)


def test_without_masks_nothing_is_an_eye(folders):
    faces = load_faces(folders[0], None, 64, 0.8)
    assert faces.eyes.shape == (3, 100, 100)
    assert not faces.eyes.any()


def test_face_without_mask_is_named_with_the_way_out(folders):
    (folders[1] / "frame2face0.png").unlink()
    with pytest.raises(ValueError, match=r"frame2face0\.jpg has no .*make_eye_masks"):
        load_faces(*folders, 64, 0.8)


def test_mask_of_another_size_is_named_with_the_way_out(folders):
    write_image(folders[1] / "frame2face0.png", np.zeros((64, 32, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"frame2face0\.png is 32x64 .* 256x256: run make_eye_masks"
    ):
        load_faces(*folders, 64, 0.8)


def test_crop_that_is_not_square_is_named(folders):
    write_image(folders[0] / "wide.png", np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(ValueError, match=r"square .*wide\.png is 60x40 pixels"):
        load_faces(folders[0], None, 64, 0.8)


def test_folder_without_faces_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_faces(tmp_path, None, 64, 0.8)


def test_resolution_that_no_network_has_is_refused(folders):
    with pytest.raises(ValueError, match="resolution must be 64, 128 or 256, got 100"):
        load_faces(*folders, 100, 0.8)


def test_batch_has_the_stated_shapes_types_and_ranges(sides):
    batch = make_batch(*sides, 3, 5, 64, SETTINGS, seed=0)
    for name in ("warped_a", "target_a", "warped_b", "target_b"):
        images = getattr(batch, name)
        assert images.shape == (5, 64, 64, 3)
        assert images.dtype == np.float32
        assert -1 <= images.min() < 0 < images.max() <= 1
    for eyes in (batch.eyes_a, batch.eyes_b):
        assert eyes.shape == (5, 64, 64, 1)
        assert eyes.dtype == np.float32
    for mix in (batch.mix, batch.mix_perceptual):
        assert mix.shape == ()
        assert mix.dtype == np.float32
        assert 0 <= mix <= 1


def test_same_seed_and_iteration_give_the_same_batch(sides):
    first = make_batch(*sides, 7, 2, 64, SETTINGS, seed=1)
    assert_equal(first, make_batch(*sides, 7, 2, 64, SETTINGS, seed=1))
    for iteration, seed in ((8, 1), (7, 2), (1, 7)):
        other = make_batch(*sides, iteration, 2, 64, SETTINGS, seed)
        assert np.abs(first.warped_a - other.warped_a).mean() > 0.05
        assert first.mix != other.mix


def test_mixes_are_beta_draws(sides):
    still = AugmentationSettings(color_match=0)
    drawn = [make_batch(*sides, i, 1, 64, still, seed=0)[-2:] for i in range(400)]
    for mixes in np.transpose(drawn):
        assert mixes.mean() == pytest.approx(0.5, abs=0.06)
        assert mixes.var() == pytest.approx(0.25 / 1.4, abs=0.02)  # ab/((a+b)²(a+b+1))
    assert abs(np.corrcoef(np.transpose(drawn))[0, 1]) < 0.15


def test_sides_do_not_mix_up_and_all_their_faces_are_drawn():
    def side(values):
        images = np.empty((len(values), 100, 100, 3), np.uint8)
        images[:] = np.reshape(values, (-1, 1, 1, 1))
        return FaceSet(images, images[..., 0], [str(value) for value in values])

    still = AugmentationSettings(color_match=0)
    batch = make_batch(side([0, 51]), side([255]), 0, 30, 64, still, seed=0)
    assert set(np.unique(batch.target_a.round(4))) == {-1, np.float32(-0.6)}
    assert set(np.unique(batch.target_b)) == {1}
    levels = (batch.target_a[..., :1] + 1) / 2
    np.testing.assert_allclose(batch.eyes_a, levels, atol=1e-6)


def test_colors_come_from_both_sides():
    def side(value):
        images = np.full((1, 100, 100, 3), value, np.uint8)
        return FaceSet(images, images[..., 0], ["face.png"])

    matched = AugmentationSettings(color_match=1)
    batch = make_batch(side(100), side(200), 0, 40, 64, matched, seed=0)
    levels = (batch.target_a[:, 32, 32, 0] + 1) * 127.5
    kept = np.isclose(levels, 100, atol=0.5).mean()
    assert 0.25 < kept < 0.75
    assert levels.max() > 150


def test_stream_goes_on_with_the_batches_it_would_have_made(sides):
    with batches(*sides, 2, 64, SETTINGS, seed=3) as stream:
        whole = [next(stream) for _ in range(5)]
    with batches(*sides, 2, 64, SETTINGS, seed=3, first_iteration=3) as stream:
        assert_equal(whole[3], next(stream))
        assert_equal(whole[4], next(stream))
    assert_equal(whole[2], make_batch(*sides, 2, 2, 64, SETTINGS, seed=3))


@pytest.mark.parametrize("used", [0, 1, 7])
def test_leaving_early_leaves_no_thread(sides, used):
    before = threading.enumerate()
    with batches(*sides, 1, 64, SETTINGS, seed=0) as stream:
        assert len(alive_threads(before)) == 1
        for _ in range(used):
            next(stream)
    assert alive_threads(before) == []


def test_error_in_the_loop_leaves_no_thread(sides):
    before = threading.enumerate()
    with (
        pytest.raises(KeyboardInterrupt),
        batches(*sides, 1, 64, SETTINGS, seed=0) as stream,
    ):
        next(stream)
        raise KeyboardInterrupt
    assert alive_threads(before) == []


def test_error_in_the_thread_reaches_the_loop_once(sides, monkeypatch):
    def break_at_two(a, b, iteration, *rest):
        if iteration == 2:
            raise RuntimeError("damaged face")
        return iteration

    monkeypatch.setattr(dataset, "make_batch", break_at_two)
    before = threading.enumerate()
    with batches(*sides, 1, 64, SETTINGS, seed=0) as stream:
        assert [next(stream), next(stream)] == [0, 1]
        with pytest.raises(RuntimeError, match="damaged face"):
            next(stream)
        assert list(stream) == []
    assert alive_threads(before) == []


def test_error_behind_the_last_used_batch_is_not_raised(sides, monkeypatch):
    def break_at_two(a, b, iteration, *rest):
        if iteration == 2:
            raise RuntimeError("damaged face")
        return iteration

    monkeypatch.setattr(dataset, "make_batch", break_at_two)
    before = threading.enumerate()
    with batches(*sides, 1, 64, SETTINGS, seed=0) as stream:
        assert next(stream) == 0
    assert alive_threads(before) == []


def test_empty_batch_is_refused(sides):
    with (
        pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"),
        batches(*sides, 0, 64, SETTINGS, seed=0),
    ):
        pass


def test_center_crop_keeps_the_middle_share():
    faces = np.zeros((2, 80, 80, 3), np.uint8)
    faces[:, 8:72, 8:72] = 255
    faces[1, 8:10, 8:10] = 0
    crops = center_crop_batch(faces, 64, 0.8)
    assert crops.dtype == np.float32
    assert crops.shape == (2, 64, 64, 3)
    assert (crops[0] == 1).all()
    assert (crops[1, :2, :2] == -1).all()
    assert (crops[1, 2:, 2:] == 1).all()
    assert center_crop_batch(faces, 64, 1)[0, 0, 0, 0] == -1


def test_center_crop_frames_as_training_does(sides, face):
    still = AugmentationSettings(rotation=0, zoom=0, shift=0, flip=0, color_match=0)
    side = sides[1]
    targets = [
        make_batch(side, side, iteration, 8, 64, still, seed=0).target_a
        for iteration in range(20)
    ]
    mean = np.mean(np.concatenate(targets), axis=0)
    errors = {
        coverage: np.abs(center_crop_batch(side.images, 64, coverage)[0] - mean).mean()
        for coverage in (0.7, 0.8, 0.9)
    }
    assert min(errors, key=errors.get) == 0.8
