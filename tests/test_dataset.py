import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import cv2
import numpy as np
import pytest
import skimage.data
from clips import face_entry

from fsgan.data import dataset
from fsgan.data.augmentation import AugmentationSettings
from fsgan.data.dataset import (
    FaceSet,
    batches,
    center_crop_batch,
    load_faces,
    make_batch,
    split_faces,
)
from fsgan.data.extract import write_faces_record
from fsgan.data.masks import make_masks
from fsgan.data.quality import ExamineSettings, examine_folder
from fsgan.faces.geometry import align, crop_matrix, recrop
from fsgan.media.images import read_image, write_image

SETTINGS = AugmentationSettings()
# The five points of the portrait.
FIVE = np.array([[144, 101], [186, 103], [165, 126], [143, 138], [185, 141]], float)


@pytest.fixture(scope="module")
def face():
    return cv2.resize(skimage.data.astronaut()[20:260, 110:350], (256, 256))


@pytest.fixture(scope="module")
def sides(face):
    def side(images):
        small = np.stack([cv2.resize(image, (100, 100)) for image in images])
        names = [f"face{index}.png" for index in range(len(images))]
        return FaceSet(small, np.zeros_like(small), names)

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


def arrays(batch):
    return [*itertools.chain.from_iterable(batch.sides), *batch[1:]]


def assert_equal(first, second):
    for one, other in zip(arrays(first), arrays(second), strict=True):
        np.testing.assert_array_equal(one, other)


def alive_threads(before):
    return [thread for thread in threading.enumerate() if thread not in before]


def plain_side(*values):
    """Faces of one colour each."""
    images = np.empty((len(values), 100, 100, 3), np.uint8)
    images[:] = np.reshape(values, (-1, 1, 1, 1))
    return FaceSet(images, images.copy(), [str(value) for value in values])


def broken(side):
    """A side that has lost its masks, but for the first."""
    return dataclasses.replace(side, masks=side.masks[:1])


def test_faces_come_in_natural_order_shrunk_to_what_the_network_needs(folders, face):
    faces = load_faces(*folders, resolution=64, coverage=0.8)
    names = ["frame1face0.jpg", "frame2face0.jpg", "frame10face0.jpg"]
    assert faces.names == names
    assert len(faces) == 3
    assert faces.images.shape == (3, 100, 100, 3)
    assert faces.images.dtype == faces.masks.dtype == np.uint8
    expected = cv2.resize(face, (100, 100), interpolation=cv2.INTER_AREA)
    assert (
        np.abs(faces.images[2].astype(int) - expected).mean() < 2
    )  # RGB, through JPEG
    assert faces.masks.shape == (3, 100, 100, 3)
    assert faces.masks[0, 43, 50].tolist() == [255, 0, 0]  # an old, gray one
    assert faces.masks[0, 60, 50].tolist() == [0, 0, 0]
    assert faces.extent == 1


def test_reading_needs_little_more_memory_than_the_faces(tmp_path, face):
    for index in range(40):
        write_image(tmp_path / "faces" / f"{index}.png", face)
        write_image(tmp_path / "masks" / f"{index}.png", face)
    tracemalloc.start()
    faces = load_faces(tmp_path / "faces", tmp_path / "masks", 256, 0.8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.2 * (faces.images.nbytes + faces.masks.nbytes)


@pytest.mark.parametrize(
    ("resolution", "coverage", "size"),
    [(64, 1, 100), (96, 0.8, 150), (128, 0.8, 200), (256, 0.8, 256)],
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
    assert faces.masks.shape == (3, 100, 100, 3)
    assert not faces.masks.any()


def test_face_without_mask_is_named_with_the_way_out(folders):
    (folders[1] / "frame2face0.png").unlink()
    with pytest.raises(ValueError, match=r"frame2face0\.jpg has no .*make_masks"):
        load_faces(*folders, 64, 0.8)


def test_mask_of_another_size_is_named_with_the_way_out(folders):
    write_image(folders[1] / "frame2face0.png", np.zeros((64, 32, 3), np.uint8))
    with pytest.raises(
        ValueError, match=r"frame2face0\.png is 32x64 .* 256x256: run make_masks"
    ):
        load_faces(*folders, 64, 0.8)


def test_masks_of_another_person_are_refused(tmp_path, face):
    for person, image in (("a", face), ("b", face[:, ::-1])):
        write_image(tmp_path / person / "0.png", image)
        make_masks(tmp_path / person, tmp_path / "masks" / person)
    masks = tmp_path / "masks"
    assert load_faces(tmp_path / "a", masks / "a", 64, 0.8).masks.any()
    with pytest.raises(ValueError, match=r"0\.png in .* was drawn for another face"):
        load_faces(tmp_path / "a", masks / "b", 64, 0.8)
    (masks / "b" / "masks.json").write_text("[]")
    with pytest.raises(ValueError, match=r"masks\.json is damaged .* run make_masks"):
        load_faces(tmp_path / "b", masks / "b", 64, 0.8)
    (masks / "b" / "masks.json").unlink()  # as older versions left them
    assert load_faces(tmp_path / "a", masks / "b", 64, 0.8).masks.any()


def test_faces_are_not_their_own_masks(folders):
    with pytest.raises(ValueError, match="faces and masks need two folders"):
        load_faces(folders[0], folders[0] / ".." / "faces", 64, 0.8)


@pytest.mark.parametrize(
    ("height", "width"), [(40, 60), (1, 1), (8, 8), (20_000, 1), (1, 20_000)]
)
def test_what_is_no_crop_is_named(folders, height, width):
    write_image(folders[0] / "odd.png", np.zeros((height, width, 3), np.uint8))
    message = rf"square crops of 32 pixels or more.*odd\.png is {width}x{height} pixels"
    for use in (
        lambda: load_faces(folders[0], None, 64, 0.8),
        lambda: make_masks(folders[0], folders[1]),
        lambda: examine_folder(folders[0], ExamineSettings()),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_folder_without_faces_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_faces(tmp_path, None, 64, 0.8)


def test_resolution_that_no_network_has_is_refused(folders):
    with pytest.raises(ValueError, match=r"resolution must be 64, 96, .* 256, got 100"):
        load_faces(*folders, 100, 0.8)


# Crops of an extent


@pytest.fixture
def wide(tmp_path, portrait):
    """Folders of one wide crop and of its middle, with their records."""
    matrix = crop_matrix(FIVE, 320, 1.6)
    crop = align(portrait, matrix, 320)
    for folder, extent in (("wide", 1.6), ("standard", 1.0)):
        write_image(tmp_path / folder / "face.png", recrop(crop, 1.6, extent))
        entry = face_entry("face.png", landmarks=FIVE.tolist(), extent=extent)
        write_faces_record(tmp_path / folder, [entry])
    return tmp_path


@pytest.mark.parametrize("coverage", [0.5, 0.8])
def test_of_wide_crops_the_standard_part_is_kept(wide, coverage):
    faces = load_faces(wide / "wide", None, 64, coverage)
    expected = load_faces(wide / "standard", None, 64, coverage)
    np.testing.assert_array_equal(faces.images, expected.images)
    assert faces.extent == 1


@pytest.mark.parametrize(("coverage", "side"), [(1.1, 100), (1.28, 100)])
def test_a_quarter_more_than_the_network_sees_is_kept(wide, caplog, coverage, side):
    faces = load_faces(wide / "wide", None, 64, coverage)
    assert faces.extent == 1.25 * coverage
    assert faces.images.shape == (1, side, side, 3)
    assert not caplog.records
    whole = read_image(wide / "wide" / "face.png")
    expected = center_crop_batch(whole[None], 64, coverage, 1.6)
    seen = center_crop_batch(faces.images, 64, coverage, faces.extent)
    assert np.abs(seen - expected).mean() < 0.03


def test_narrow_crops_repeat_their_border_and_it_is_said_once(wide, caplog):
    faces = load_faces(wide / "standard", None, 64, 1.2)
    assert faces.extent == 1.5
    assert "the model sees 1.2 times the standard crop, but" in caplog.text
    assert len(caplog.records) == 1
    assert (faces.images[0, 50, :16] == faces.images[0, 50, 0]).all()
    expected = load_faces(wide / "wide", None, 64, 1.2).images
    middle = slice(20, 80)
    difference = (
        faces.images[:, middle, middle].astype(int) - expected[:, middle, middle]
    )
    assert np.abs(difference).mean() < 4


def test_missing_masks_are_drawn_when_asked(wide):
    faces = load_faces(wide / "wide", None, 64, 1.1, draw_missing=True)
    make_masks(wide / "wide", wide / "masks")
    expected = load_faces(wide / "wide", wide / "masks", 64, 1.1)
    np.testing.assert_array_equal(faces.masks, expected.masks)
    eyes, face, mouth = (faces.masks[0, ..., i] > 127 for i in range(3))
    assert 0 < eyes.sum() < mouth.sum() * 2 < face.sum()
    assert not load_faces(wide / "wide", None, 64, 1.1).masks.any()


def test_gray_masks_are_eyes_and_the_rest_is_drawn_when_asked(wide):
    gray = np.zeros((200, 200, 3), np.uint8)
    gray[50:70, 30:170] = 255
    write_image(wide / "masks" / "face.png", gray)
    faces = load_faces(wide / "standard", wide / "masks", 64, 0.8, draw_missing=True)
    drawn = load_faces(wide / "standard", None, 64, 0.8, draw_missing=True)
    expected = cv2.resize(gray[..., 0], (100, 100), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(faces.masks[0, ..., 0], expected)
    np.testing.assert_array_equal(faces.masks[..., 1:], drawn.masks[..., 1:])


def test_old_masks_of_faces_that_were_extracted_again_are_refused(wide):
    gray = np.zeros((320, 320, 3), np.uint8)
    write_image(wide / "masks" / "face.png", gray)
    with pytest.raises(ValueError, match=r"of an older version .*: run make_masks"):
        load_faces(wide / "wide", wide / "masks", 64, 0.8)


def test_batches_of_an_extent_frame_as_the_center_crop(wide):
    still = AugmentationSettings(rotation=0, zoom=0, shift=0, flip=0, color_match=0)
    faces = load_faces(wide / "wide", None, 64, 1.2)
    targets = make_batch([faces], 0, 60, 64, 1.2, still, seed=0).sides[0].target
    errors = {
        coverage: np.abs(
            center_crop_batch(faces.images, 64, coverage, faces.extent)[0]
            - targets.mean(axis=0)
        ).mean()
        for coverage in (1.1, 1.2, 1.3)
    }
    assert min(errors, key=errors.get) == 1.2


def numbered(count):
    return plain_side(*range(count))


@pytest.mark.parametrize(
    ("count", "share", "held_out"),
    [
        (19, 0.5, 0),
        (20, 0, 0),
        (20, 0.01, 1),
        (20, 0.5, 10),
        (20, 0.99, 19),
        (39, 0.1, 3),
        (200, 0.05, 10),
        (255, 0.9, 64),
    ],
)
def test_held_out_faces_are_as_many_as_stated(count, share, held_out):
    trained, held = split_faces(numbered(count), share)
    assert len(held) == held_out
    assert len(trained) == count - held_out


@pytest.mark.parametrize("count", [20, 21, 22, 23, 50, 131])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.97])
def test_every_face_is_either_trained_on_or_held_out(count, share):
    trained, held = split_faces(numbered(count), share)
    for part in (trained, held):
        numbers = part.images[:, 0, 0, 0]
        assert (np.diff(numbers) > 0).all()
        assert part.names == [str(number) for number in numbers]
        np.testing.assert_array_equal(part.masks[:, 0, 0, 0], numbers)
    assert sorted(trained.names + held.names, key=int) == numbered(count).names


def test_held_out_faces_are_the_middles_of_the_quarters():
    _, held = split_faces(numbered(80), 0.1)
    expected = [9, 10, 29, 30, 49, 50, 69, 70]
    assert held.images[:, 0, 0, 0].tolist() == expected


def test_held_out_faces_stay_together():
    _, held = split_faces(numbered(250), 0.2)
    steps = np.diff(held.images[:, 0, 0, 0].astype(int))
    assert (steps > 1).sum() == 3


def test_share_that_leaves_nothing_to_train_on_is_refused():
    for share in (1, -0.1, float("nan")):
        with pytest.raises(ValueError, match=f"share .* 0 to below 1, got {share}"):
            split_faces(numbered(30), share)


def test_batch_has_the_stated_shapes_types_and_ranges(sides):
    batch = make_batch(sides, 3, 5, 64, 0.8, SETTINGS, seed=0)
    assert len(batch.sides) == 2
    for side in batch.sides:
        for images in (side.warped, side.target):
            assert images.shape == (5, 64, 64, 3)
            assert images.dtype == np.float32
            assert -1 <= images.min() < 0 < images.max() <= 1
        assert side.masks.shape == (5, 64, 64, 3)
        assert side.masks.dtype == np.float32
    for mix in (batch.mix, batch.mix_perceptual):
        assert mix.shape == ()
        assert mix.dtype == np.float32
        assert 0 <= mix <= 1


def test_batch_of_one_person_has_one_side_and_its_own_colors():
    matched = AugmentationSettings(color_match=1)
    batch = make_batch([plain_side(100, 200)], 0, 40, 64, 0.8, matched, seed=0)
    (side,) = batch.sides
    assert side.warped.shape == (40, 64, 64, 3)
    levels = (side.target[:, 32, 32, 0] + 1) * 127.5
    assert levels.min() > 99
    assert levels.max() < 201
    between = (levels > 105) & (levels < 195)
    assert 0.25 < between.mean() < 0.75


def test_same_seed_and_iteration_give_the_same_batch(sides):
    first = make_batch(sides, 7, 2, 64, 0.8, SETTINGS, seed=1)
    assert_equal(first, make_batch(sides, 7, 2, 64, 0.8, SETTINGS, seed=1))
    for iteration, seed in ((8, 1), (7, 2), (1, 7)):
        other = make_batch(sides, iteration, 2, 64, 0.8, SETTINGS, seed)
        assert np.abs(first.sides[0].warped - other.sides[0].warped).mean() > 0.05
        assert first.mix != other.mix


def test_mixes_are_beta_draws(sides):
    still = AugmentationSettings(color_match=0)
    drawn = [make_batch(sides, i, 1, 64, 0.8, still, seed=0)[-2:] for i in range(400)]
    for mixes in np.transpose(drawn):
        assert mixes.mean() == pytest.approx(0.5, abs=0.06)
        assert mixes.var() == pytest.approx(0.25 / 1.4, abs=0.02)  # ab/((a+b)²(a+b+1))
    assert abs(np.corrcoef(np.transpose(drawn))[0, 1]) < 0.15


def test_sides_do_not_mix_up_and_all_their_faces_are_drawn():
    still = AugmentationSettings(color_match=0)
    both = plain_side(0, 51), plain_side(255)
    a, b = make_batch(both, 0, 30, 64, 0.8, still, seed=0).sides
    assert set(np.unique(a.target.round(4))) == {-1, np.float32(-0.6)}
    assert set(np.unique(b.target)) == {1}
    np.testing.assert_allclose(a.masks, (a.target + 1) / 2, atol=1e-6)


def test_colors_come_from_every_face_of_both_sides(monkeypatch):
    lent = []

    def watch(face, mask, partner, *rest):
        lent.append(int(partner[0, 0, 0]))
        return np.zeros(3)

    monkeypatch.setattr(dataset, "sample", watch)
    both = plain_side(10, 20), plain_side(30, 40)
    make_batch(both, 0, 300, 64, 0.8, SETTINGS, seed=0)
    values, times = np.unique(lent, return_counts=True)
    assert values.tolist() == [10, 20, 30, 40]
    np.testing.assert_allclose(times / 600, 1 / 4, atol=0.06)


def test_colors_reach_the_other_side():
    matched = AugmentationSettings(color_match=1)
    both = plain_side(100), plain_side(200)
    batch = make_batch(both, 0, 40, 64, 0.8, matched, seed=0)
    levels = (batch.sides[0].target[:, 32, 32, 0] + 1) * 127.5
    kept = np.isclose(levels, 100, atol=0.5).mean()
    assert 0.25 < kept < 0.75
    assert levels.max() > 150


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_number_of_threads_changes_nothing(sides, monkeypatch, threads):
    monkeypatch.setattr(dataset, "THREADS", threads)
    with batches(sides, 2, 64, 0.8, SETTINGS, seed=3) as stream:
        for iteration in range(9):
            expected = make_batch(sides, iteration, 2, 64, 0.8, SETTINGS, seed=3)
            assert_equal(next(stream), expected)


def test_stream_goes_on_with_the_batches_it_would_have_made(sides):
    with batches(sides, 2, 64, 0.8, SETTINGS, seed=3) as stream:
        whole = [next(stream) for _ in range(6)]
    with batches(sides, 2, 64, 0.8, SETTINGS, seed=3, first_iteration=3) as stream:
        for batch in whole[3:]:
            assert_equal(batch, next(stream))


def test_order_is_kept_when_a_thread_is_slow(sides, monkeypatch):
    def dawdle(faces, iteration, *rest):
        time.sleep(0.02 * (iteration % 2))
        return iteration

    monkeypatch.setattr(dataset, "make_batch", dawdle)
    with batches(sides, 1, 64, 0.8, SETTINGS, seed=0) as stream:
        assert list(itertools.islice(stream, 8)) == list(range(8))


def test_batches_are_made_at_the_same_time(sides, monkeypatch):
    together = threading.Barrier(2, timeout=10)

    def meet(faces, iteration, *rest):
        together.wait()  # for ever alone
        return iteration

    monkeypatch.setattr(dataset, "make_batch", meet)
    monkeypatch.setattr(dataset, "THREADS", 2)
    with batches(sides, 1, 64, 0.8, SETTINGS, seed=0, ahead=2) as stream:
        assert [next(stream), next(stream)] == [0, 1]
        together.abort()


@pytest.mark.parametrize(("ahead", "waiting"), [(1, 6), (4, 9), (10, 15)])
def test_only_a_few_batches_wait(sides, monkeypatch, ahead, waiting):
    made = []

    def count(faces, iteration, *rest):
        made.append(iteration)
        return iteration

    monkeypatch.setattr(dataset, "make_batch", count)
    monkeypatch.setattr(dataset, "THREADS", 3)
    with batches(sides, 1, 64, 0.8, SETTINGS, seed=0, ahead=ahead):
        time.sleep(0.2)
        # Beside what waits, each thread holds one in its hand.
        assert sorted(made) == list(range(waiting))


@pytest.mark.parametrize("used", [0, 1, 7])
def test_leaving_early_leaves_no_thread(sides, used):
    before = threading.enumerate()
    with batches(sides, 1, 64, 0.8, SETTINGS, seed=0) as stream:
        assert len(alive_threads(before)) == dataset.THREADS
        for _ in range(used):
            next(stream)
    assert alive_threads(before) == []


def test_error_in_the_loop_leaves_no_thread(sides):
    before = threading.enumerate()
    with (
        pytest.raises(KeyboardInterrupt),
        batches(sides, 1, 64, 0.8, SETTINGS, seed=0) as stream,
    ):
        next(stream)
        raise KeyboardInterrupt
    assert alive_threads(before) == []


@pytest.fixture
def interruptible():
    """A process that was started in the background ignores interrupts."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


def test_interrupt_while_waiting_for_a_batch_leaves_no_thread(
    sides, monkeypatch, interruptible
):
    interrupted = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    slow = threading.Event()
    monkeypatch.setattr(dataset, "make_batch", lambda *all: slow.wait(0.5))
    before = threading.enumerate()
    with (
        pytest.raises(KeyboardInterrupt),
        batches(sides, 1, 64, 0.8, SETTINGS, seed=0) as stream,
    ):
        interrupted.start()
        next(stream)
        next(stream)
    assert alive_threads(before) == []


def test_interpreter_ends_though_batches_are_being_made():
    code = """
import numpy as np
from fsgan.data.augmentation import AugmentationSettings
from fsgan.data.dataset import FaceSet, batches

images = np.zeros((1, 320, 320, 3), "u1")
faces = FaceSet(images, images, ["x"])
with batches([faces], 64, 256, 0.8, AugmentationSettings(), seed=0) as stream:
    next(stream)
    raise SystemExit(7)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (7, b"")


def test_error_in_a_thread_reaches_the_loop_as_itself_and_once(sides):
    before = threading.enumerate()
    with batches([broken(sides[0])], 8, 64, 0.8, SETTINGS, seed=0) as stream:
        with pytest.raises(IndexError, match="out of bounds"):
            next(stream)
        assert list(stream) == []
    assert alive_threads(before) == []


def break_at_two(faces, iteration, *rest):
    if iteration == 2:
        raise RuntimeError("damaged face")
    return iteration


def test_error_comes_in_place_of_its_batch(sides, monkeypatch):
    monkeypatch.setattr(dataset, "make_batch", break_at_two)
    before = threading.enumerate()
    with batches(sides, 1, 64, 0.8, SETTINGS, seed=0) as stream:
        assert [next(stream), next(stream)] == [0, 1]
        with pytest.raises(RuntimeError, match="damaged face"):
            next(stream)
    assert alive_threads(before) == []


def test_error_behind_the_last_used_batch_is_not_raised(sides, monkeypatch):
    monkeypatch.setattr(dataset, "make_batch", break_at_two)
    before = threading.enumerate()
    with batches(sides, 1, 64, 0.8, SETTINGS, seed=0) as stream:
        assert next(stream) == 0
    assert alive_threads(before) == []


def test_empty_batch_is_refused(sides):
    with (
        pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"),
        batches(sides, 0, 64, 0.8, SETTINGS, seed=0),
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
        make_batch([side], iteration, 8, 64, 0.8, still, seed=0).sides[0].target
        for iteration in range(20)
    ]
    mean = np.mean(np.concatenate(targets), axis=0)
    errors = {
        coverage: np.abs(center_crop_batch(side.images, 64, coverage)[0] - mean).mean()
        for coverage in (0.7, 0.8, 0.9)
    }
    assert min(errors, key=errors.get) == 0.8
