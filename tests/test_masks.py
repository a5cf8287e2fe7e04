"""Eye masks from 68 landmarks and from five points."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from fsgan.data import masks
from fsgan.data.extract import extract_faces, read_faces_record, write_faces_record
from fsgan.data.masks import (
    LEFT_EYE,
    RIGHT_EYE,
    eye_mask_from_5_landmarks,
    eye_mask_from_68_landmarks,
    make_eye_masks,
    overlay,
)
from fsgan.faces.geometry import MEAN_LANDMARKS, transform_points
from fsgan.media.images import read_image, write_image


def eyes_of(six: list, other_six: list, size: int) -> np.ndarray:
    """68 landmarks with the given eyes; all others where they would be noticed."""
    landmarks = np.full((68, 2), size / 2)
    landmarks[36:42], landmarks[42:48] = six, other_six
    return landmarks


def eye_at(x: float, y: float, width: float, height: float) -> list:
    """Corner, two upper, corner, two lower points, as of iBUG 300-W."""
    w, h = width / 2, height / 2
    return [
        (x - w, y),
        (x - w / 3, y - h),
        (x + w / 3, y - h),
        (x + w, y),
        (x + w / 3, y + h),
        (x - w / 3, y + h),
    ]


FACE = eyes_of(eye_at(83, 80, 40, 14), eye_at(185, 79, 40, 14), 256)


def test_at_18_pixels_kernels_are_single_pixels_and_the_mask_is_the_hull():
    # 13 * 18 / 256 and 7 * 18 / 256 are both nearest to 1.
    square = [(3, 5), (5, 3), (7, 3), (7, 7), (5, 7), (3, 7)]
    point = [(14, 9)] * 6
    mask = eye_mask_from_68_landmarks(eyes_of(square, point, 18), 18)[..., 0]
    expected = np.zeros((18, 18))
    expected[3:8, 3:8] = 1
    expected[3, 3:5] = expected[4, 3] = 0
    expected[9, 14] = 1
    np.testing.assert_array_equal(mask, expected)


def test_a_point_becomes_the_13_pixel_square_blurred_by_7():
    landmarks = eyes_of([(60, 70)] * 6, [(200, 90)] * 6, 256)
    expected = np.zeros((256, 256))
    expected[64:77, 54:67] = expected[84:97, 194:207] = 1
    binomial = np.array(
        [0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125]
    )
    blurred = cv2.sepFilter2D(expected, -1, binomial, binomial)
    mask = eye_mask_from_68_landmarks(landmarks)[..., 0]
    np.testing.assert_allclose(mask, blurred, atol=1.5 / 255)


def test_the_fine_mask_covers_both_eyes_and_little_else():
    mask = eye_mask_from_68_landmarks(FACE)[..., 0]
    for eye in (RIGHT_EYE, LEFT_EYE):
        for x, y in FACE[eye].round().astype(int):
            assert mask[y, x] > 0.95
    assert mask[128, 128] == 0
    # A hull of 40 x 14, cut at its corners, grown by 6 on all sides.
    assert mask.sum() == pytest.approx(2 * 52 * 26 * 0.85, rel=0.1)


def test_the_fine_mask_follows_the_size_of_the_crop():
    large = eye_mask_from_68_landmarks(FACE * 2 + 0.5, 512)
    small = eye_mask_from_68_landmarks(FACE, 256)
    halved = cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA)
    assert np.abs(halved - small[..., 0]).mean() < 0.003


def test_the_crude_mask_is_two_ellipses():
    landmarks = MEAN_LANDMARKS * 256 - 0.5
    landmarks[1, 1] = landmarks[0, 1]  # level eyes
    mask = eye_mask_from_5_landmarks(landmarks)[..., 0] > 0.5
    y, x = np.mgrid[:256, :256]
    ellipses = [  # 0.10 and 0.06 of 256, and half of the pixel drawn at the border
        ((x - eye[0]) / 26.1) ** 2 + ((y - eye[1] - 3.2) / 15.86) ** 2 <= 1
        for eye in landmarks[:2]
    ]
    expected = ellipses[0] | ellipses[1]
    assert (mask & expected).sum() / (mask | expected).sum() > 0.95


@pytest.mark.parametrize("angle", [-50, -20, 35])
def test_the_crude_ellipses_turn_with_the_face(angle):
    landmarks = MEAN_LANDMARKS * 256 - 0.5
    centre = (127.5, 127.5)
    turn = cv2.getRotationMatrix2D(centre, angle, 1)
    turned = landmarks @ turn[:, :2].T + turn[:, 2]
    upright = eye_mask_from_5_landmarks(landmarks)
    expected = cv2.warpAffine(upright, turn, (256, 256)) > 0.5
    mask = eye_mask_from_5_landmarks(turned)[..., 0] > 0.5
    assert (mask & expected).sum() / (mask | expected).sum() > 0.95


@pytest.mark.parametrize("size", [100, 256, 300])
def test_masks_are_float_pictures_of_one_channel_between_0_and_1(size):
    fine = eye_mask_from_68_landmarks(FACE * size / 256, size)
    crude = eye_mask_from_5_landmarks(MEAN_LANDMARKS * size, size)
    for mask in (fine, crude):
        assert mask.shape == (size, size, 1)
        assert mask.dtype == np.float32
        assert mask.min() == 0
        assert 0.99 <= mask.max() <= 1
        assert ((mask > 0.02) & (mask < 0.98)).any()  # soft


def test_eyes_beyond_the_crop_are_cut_off():
    half = eye_mask_from_68_landmarks(FACE - (83, 0))
    assert half[80, 0] > 0.9
    outside = eye_mask_from_68_landmarks(FACE + 1000)
    assert outside.max() == 0
    assert eye_mask_from_5_landmarks(MEAN_LANDMARKS * 256 - 1000).max() == 0


def test_the_overlay_tints_masked_pixels_red():
    image = np.full((1, 3, 3), 100, np.uint8)
    mask = np.array([[[0.0], [0.5], [1.0]]], np.float32)
    tinted = overlay(image, mask)
    assert tinted.dtype == np.uint8
    # 60 % of the way to (255, 0, 0) where the mask is 1, 30 % where it is 0.5
    np.testing.assert_array_equal(
        tinted[0], [[100, 100, 100], [146, 70, 70], [193, 40, 40]]
    )


# The stage


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def faces(tmp_path_factory, portrait) -> Path:
    """Crops of the portrait and of it mirrored, with their record."""
    folder = tmp_path_factory.mktemp("faces")
    photos = tmp_path_factory.mktemp("photos")
    write_image(photos / "a.png", portrait)
    write_image(photos / "b.png", np.ascontiguousarray(portrait[:, ::-1]))
    extract_faces(photos, folder, min_face=40)
    return folder


def test_crude_masks_lie_on_the_recorded_eyes(faces, tmp_path):
    made = make_eye_masks(faces, tmp_path, "five_points")
    assert made.method == "five_points"
    assert names(tmp_path) == ["a_png_face0.png", "b_png_face0.png"]
    assert len(made) == 2
    assert repr(made) == "2 eye masks by five_points, the likeliest wrong first"
    for path, entry in zip(made.files, read_faces_record(faces), strict=True):
        mask = read_image(path)
        assert mask.shape == (256, 256, 3)
        eyes = transform_points(np.array(entry["landmarks"]), np.array(entry["matrix"]))
        for x, y in eyes[:2].round().astype(int):
            assert mask[y, x].min() == 255
        for x, y in eyes[2:].round().astype(int):
            assert mask[y, x].max() == 0
        y, x = np.nonzero(mask[:, :128, 0] > 127)
        # 0.0125 of the crop below the point
        np.testing.assert_allclose([x.mean(), y.mean()], eyes[0] + (0, 3.2), atol=1.5)


def test_the_picture_shows_the_likeliest_wrong_mask_first(tmp_path):
    # Two faces of one colour each; the eyes of the second are far off.
    rows = []
    for name, gray, shift in (("a.png", 60, 2), ("b.png", 180, 50)):
        write_image(tmp_path / "faces" / name, np.full((256, 256, 3), gray, np.uint8))
        points = MEAN_LANDMARKS * 256 - 0.5 + (0, shift)
        rows.append(
            {
                "file": name,
                "source": "x",
                "landmarks": points.tolist(),
                "matrix": [[1, 0, 0], [0, 1, 0]],
            }
        )
    write_faces_record(tmp_path / "faces", rows)
    made = make_eye_masks(tmp_path / "faces", tmp_path / "masks", "five_points")
    assert [path.name for path in made.files] == ["a.png", "b.png"]
    assert made.contact_sheet.shape == (128, 2 * 128, 3)
    assert made.contact_sheet[0, [0, 128]].tolist() == [[180] * 3, [60] * 3]
    eye = made.contact_sheet[(80 + 50) // 2, 83 // 2].astype(int)
    np.testing.assert_allclose(eye, [225, 72, 72], atol=2)  # 60 % of the way to red


def test_the_picture_shows_at_most_32_masks(tmp_path):
    for index in range(33):
        path = tmp_path / "faces" / f"{index}.png"
        write_image(path, np.zeros((32, 32, 3), np.uint8))
    made = make_eye_masks(tmp_path / "faces", tmp_path / "masks", "five_points")
    assert len(made.files) == 33
    assert made.contact_sheet.shape == (4 * 128, 8 * 128, 3)


def test_crops_without_a_record_get_the_mean_shape(tmp_path):
    for name, size in (("a.png", 256), ("b.jpg", 128)):
        write_image(tmp_path / "faces" / name, np.zeros((size, size, 3), np.uint8))
    made = make_eye_masks(tmp_path / "faces", tmp_path / "masks", "five_points")
    assert [path.name for path in made.files] == ["a.png", "b.png"]
    assert made.contact_sheet.shape == (128, 2 * 128, 3)
    for path, size in zip(made.files, (256, 128), strict=True):
        mask = read_image(path)
        assert mask.shape == (size, size, 3)
        x, y = (MEAN_LANDMARKS[0] * size).astype(int)
        assert mask[y, x].min() == 255
        assert mask[size // 2 :].max() == 0


class StandIn:
    """68 points of an aligned face, where a network would find them."""

    def __init__(self, download=False):
        self.download = download

    def detect(self, crops):
        points = np.full((68, 2), 128.0)
        eye = np.array([(-18, 0), (-6, -6), (6, -6), (18, 0), (6, 6), (-6, 6)])
        points[36:42] = eye + np.array([83, 80])
        points[42:48] = eye + np.array([185, 79])
        return [points * len(crop) / 256 for crop in crops]


@pytest.mark.parametrize("method", ["auto", "face_alignment"])
def test_with_the_landmark_network_masks_are_fine(faces, tmp_path, monkeypatch, method):
    monkeypatch.setattr(masks, "LandmarkDetector", StandIn)
    made = make_eye_masks(faces, tmp_path / "fine", method)
    assert made.method == "face_alignment"
    crude = make_eye_masks(faces, tmp_path / "crude", "five_points")
    for fine_path, crude_path in zip(made.files, crude.files, strict=True):
        fine, rough = read_image(fine_path), read_image(crude_path)
        assert fine[80, 83].min() == fine[79, 185].min() == 255
        assert 0 < (fine > 127).sum() < (rough > 127).sum()


def test_auto_falls_back_to_five_points_and_says_why(
    faces, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    made = make_eye_masks(faces, tmp_path / "masks")
    assert made.method == "five_points"
    assert len(made.files) == 2
    assert "crude eye masks from five points, because the package face-alignment" in (
        caplog.text
    )


def test_face_alignment_does_not_fall_back(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="face-alignment is not installed"):
        make_eye_masks(faces, tmp_path / "masks", "face_alignment")
    assert not (tmp_path / "masks").exists()


def test_damaged_weights_are_not_passed_over(faces, tmp_path, monkeypatch):
    class Damaged:
        def __init__(self, download=False):
            raise ValueError("2DFAN4.pth.tar is damaged")

    monkeypatch.setattr(masks, "LandmarkDetector", Damaged)
    with pytest.raises(ValueError, match="is damaged"):
        make_eye_masks(faces, tmp_path / "masks", "auto")
    assert not (tmp_path / "masks").exists()


def test_an_unknown_method_is_refused(faces, tmp_path):
    with pytest.raises(ValueError, match=r"method must be one of .*, got 'dlib'"):
        make_eye_masks(faces, tmp_path / "masks", "dlib")


def test_masks_of_no_faces_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        make_eye_masks(tmp_path, tmp_path / "masks", "five_points")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        make_eye_masks(tmp_path / "missing", tmp_path / "masks", "five_points")
    assert names(tmp_path) == []


def test_masks_among_the_faces_are_refused(faces):
    before = names(faces)
    with pytest.raises(ValueError, match="faces and masks need two folders"):
        make_eye_masks(faces, faces, "five_points")
    assert names(faces) == before


def test_crops_that_are_not_square_are_refused(tmp_path):
    write_image(tmp_path / "faces" / "wide.png", np.zeros((100, 120, 3), np.uint8))
    with pytest.raises(ValueError, match=r"must be square crops.*wide.png is 120x100"):
        make_eye_masks(tmp_path / "faces", tmp_path / "masks", "five_points")


def test_masks_that_cannot_be_written_are_said(faces, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot be written"):
        make_eye_masks(faces, tmp_path / "file" / "masks", "five_points")
