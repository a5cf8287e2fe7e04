"""Masks of eyes, face and mouth: drawn by hand, of real faces, and the stage."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import face_entry

from fsgan.data import masks
from fsgan.data.extract import extract_faces, write_faces_record
from fsgan.data.masks import crop_landmarks, draw_masks, make_masks, overlay
from fsgan.faces.geometry import (
    MEAN_LANDMARKS,
    align,
    crop_matrix,
    read_faces_record,
    recrop,
    transform_points,
)
from fsgan.faces.mesh import LEFT_EYE, LIPS, OVAL, POINTS, RIGHT_EYE
from fsgan.media.images import read_image, write_image

FIVE = np.array([[144, 101], [186, 103], [165, 126], [143, 138], [185, 141]], float)


@pytest.fixture
def mesh(monkeypatch):
    """Points of a standard crop of 256, all in one place until a test moves them."""
    points = np.full((POINTS, 2), 128.0)
    monkeypatch.setattr(masks, "_mesh", lambda crop, landmarks: points)
    return points


def overlap(one, other):
    one, other = one > 127, other > 127
    return (one & other).sum() / (one | other).sum()


def test_points_become_the_square_that_each_mask_is_grown_by_blurred_by_7(mesh):
    mesh[LEFT_EYE], mesh[RIGHT_EYE], mesh[LIPS] = (60, 70), (200, 90), (128, 200)
    drawn = draw_masks(np.zeros((256, 256, 3), np.uint8))
    expected = np.zeros((256, 256, 3))
    expected[64:77, 54:67, 0] = expected[84:97, 194:207, 0] = 255  # 13 x 13
    expected[196:205, 124:133, 2] = 255  # 9 x 9
    binomial = np.array(
        [0.03125, 0.109375, 0.21875, 0.28125, 0.21875, 0.109375, 0.03125]
    )
    blurred = cv2.sepFilter2D(expected, -1, binomial, binomial)
    np.testing.assert_allclose(drawn[..., [0, 2]], blurred[..., [0, 2]], atol=1.5)


def test_the_face_is_the_convex_hull_of_its_outline(mesh):
    mesh[OVAL] = 128
    mesh[OVAL[[0, 10, 20]]] = (50, 60), (200, 60), (120, 230)
    face = draw_masks(np.zeros((256, 256, 3), np.uint8))[..., 1]
    expected = np.zeros((256, 256), np.uint8)
    triangle = np.array([(50, 60), (200, 60), (120, 230)])
    cv2.fillConvexPoly(expected, triangle, 255)
    assert overlap(face, expected) > 0.98
    assert ((face > 10) & (face < 245)).any()  # soft


@pytest.mark.parametrize(("size", "extent"), [(512, 1.0), (128, 1.0), (410, 1.6)])
def test_masks_follow_size_and_extent_of_the_crop(portrait, size, extent):
    def drawn(size, extent):
        matrix = crop_matrix(FIVE, size, extent)
        crop = align(portrait, matrix, size)
        return draw_masks(crop, transform_points(FIVE, matrix), extent)

    part = recrop(drawn(size, extent), extent)
    resized = cv2.resize(part, (256, 256), interpolation=cv2.INTER_AREA)
    expected = drawn(256, 1.0)
    for channel in range(3):
        assert overlap(resized[..., channel], expected[..., channel]) > 0.85


def test_the_masks_of_a_real_face_lie_where_they_belong(portrait):
    matrix = crop_matrix(FIVE, 256, 1.6)
    crop, points = align(portrait, matrix, 256), transform_points(FIVE, matrix)
    drawn = draw_masks(crop, points, 1.6)
    assert (drawn.shape, drawn.dtype) == ((256, 256, 3), np.uint8)
    eyes, face, mouth = np.moveaxis(drawn, -1, 0)
    for x, y in points.round().astype(int):
        assert face[y, x] == 255
    for x, y in points[:2].round().astype(int):
        assert (eyes[y, x], mouth[y, x]) == (255, 0)
    x, y = points[3:].mean(axis=0).round().astype(int)
    assert (eyes[y, x], mouth[y, x]) == (0, 255)
    assert not eyes[np.hypot(*points[1:3].T).astype(int).max() :].any()
    assert not face[[0, -1]].any()
    assert not face[:, [0, -1]].any()
    assert 0.2 < (face > 127).mean() < 0.4


def test_without_points_the_mean_shape_is_taken(portrait):
    for size, extent in ((256, 1.0), (320, 1.6)):
        crop = align(portrait, crop_matrix(FIVE, size, extent), size)
        mean = ((MEAN_LANDMARKS - 0.5) / extent + 0.5) * size - 0.5
        np.testing.assert_array_equal(
            draw_masks(crop, extent=extent), draw_masks(crop, mean, extent)
        )


def test_masks_beyond_the_crop_are_cut_off(mesh):
    mesh[LEFT_EYE] = mesh[RIGHT_EYE] = (0, 80)
    mesh[OVAL] += 1000
    drawn = draw_masks(np.zeros((256, 256, 3), np.uint8))
    assert drawn[80, 0, 0] > 230
    assert not drawn[..., 1].any()


def test_points_that_coincide_are_refused(portrait):
    with pytest.raises(ValueError, match="coincide"):
        draw_masks(portrait[:200, :200], np.ones((5, 2)))


def test_recorded_points_are_found_in_crops_of_any_size():
    entry = {"landmarks": (MEAN_LANDMARKS * 90 + 30).tolist()}
    np.testing.assert_allclose(crop_landmarks(entry, 64), MEAN_LANDMARKS * 64 - 0.5)
    entry["extent"] = 2
    inside = (MEAN_LANDMARKS / 2 + 0.25) * 64 - 0.5
    np.testing.assert_allclose(crop_landmarks(entry, 64), inside)
    assert crop_landmarks({}, 64) is None


def test_the_overlay_tints_eyes_red_the_face_green_and_the_mouth_blue():
    image = np.full((1, 4, 3), 100, np.uint8)
    tinted = overlay(image, 255 * np.eye(4, 3, dtype=np.uint8)[None])
    assert tinted.dtype == np.uint8
    expected = [[193, 40, 40], [75, 139, 75], [40, 40, 193], [100, 100, 100]]
    np.testing.assert_array_equal(tinted[0], expected)
    halved = overlay(image, np.full((1, 4, 3), (128, 0, 0), np.uint8))
    np.testing.assert_allclose(halved[0, 0], [147, 70, 70], atol=1)


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


def test_masks_are_written_for_each_crop(faces, tmp_path):
    made = make_masks(faces, tmp_path)
    assert made.method == "mesh"
    assert names(tmp_path) == ["a_png_face0.png", "b_png_face0.png", "masks.json"]
    assert len(made) == 2
    assert repr(made) == "2 masks by mesh, the likeliest wrong first"
    assert made.contact_sheet.shape == (128, 2 * 128, 3)
    for path, entry in zip(made.files, read_faces_record(faces), strict=True):
        crop = read_image(faces / entry["file"])
        points = transform_points(
            np.array(entry["landmarks"]), np.array(entry["matrix"])
        )
        expected = draw_masks(crop, points, entry["extent"])
        # The record rounds the points.
        assert overlap(read_image(path), expected) > 0.99


def test_the_picture_shows_the_likeliest_wrong_mask_first(tmp_path, monkeypatch):
    # Two faces of one colour each; the eyes of the second are far off.
    def stand_in(crop, landmarks):
        points = np.full((POINTS, 2), 128.0)
        across = np.linspace(-20, 20, 16)
        below = 50 if crop[0, 0, 0] == 180 else 2
        for eye, x, y in ((LEFT_EYE, 83, 80), (RIGHT_EYE, 185, 79)):
            points[eye, 0], points[eye, 1] = x + across, y + below
        return points

    monkeypatch.setattr(masks, "_mesh", stand_in)
    for name, gray in (("a.png", 60), ("b.png", 180)):
        write_image(tmp_path / "faces" / name, np.full((256, 256, 3), gray, np.uint8))
    made = make_masks(tmp_path / "faces", tmp_path / "masks")
    assert [path.name for path in made.files] == ["a.png", "b.png"]
    assert made.contact_sheet[0, [0, 128]].tolist() == [[180] * 3, [60] * 3]
    eye = made.contact_sheet[(80 + 50) // 2, 83 // 2].astype(int)
    np.testing.assert_allclose(eye, [225, 72, 72], atol=2)  # 60 % of the way to red


def test_the_picture_shows_at_most_32_masks(tmp_path, monkeypatch):
    monkeypatch.setattr(masks, "_mesh", lambda *_: np.full((POINTS, 2), 16.0))
    for index in range(33):
        path = tmp_path / "faces" / f"{index}.png"
        write_image(path, np.zeros((32, 32, 3), np.uint8))
    made = make_masks(tmp_path / "faces", tmp_path / "masks")
    assert len(made.files) == 33
    assert made.contact_sheet.shape == (4 * 128, 8 * 128, 3)


def test_crops_without_a_record_are_standard_crops(portrait, tmp_path):
    for name, size in (("a.png", 256), ("b.png", 128)):
        crop = align(portrait, crop_matrix(FIVE, size), size)
        write_image(tmp_path / "faces" / name, crop)
    made = make_masks(tmp_path / "faces", tmp_path / "masks")
    for path, size in zip(made.files, (256, 128), strict=True):
        drawn = read_image(path)
        assert drawn.shape == (size, size, 3)
        x, y = (MEAN_LANDMARKS[0] * size).astype(int)
        assert drawn[y, x].tolist() == [255, 255, 0]
        assert not drawn[size // 2 :, :, 0].any()


class StandIn:
    """68 points of an aligned face, where a network would find them."""

    def __init__(self, download=False):
        assert download

    def detect(self, crops):
        points = np.full((68, 2), 128.0)
        eye = np.array([(-18, 0), (-6, -6), (6, -6), (18, 0), (6, 6), (-6, 6)])
        points[36:42] = eye + np.array([83, 80])
        points[42:48] = eye + np.array([185, 79])
        return [points * len(crop) / 256 for crop in crops]


@pytest.mark.parametrize("extent", [1.0, 1.6])
def test_with_face_alignment_the_eyes_are_those_of_its_68_points(
    portrait, tmp_path, monkeypatch, extent
):
    monkeypatch.setattr(masks, "LandmarkDetector", StandIn)
    crop = align(portrait, crop_matrix(FIVE, 320, extent), 320)
    write_image(tmp_path / "faces" / "a.png", crop)
    entry = face_entry("a.png", landmarks=FIVE.tolist(), extent=extent)
    write_faces_record(tmp_path / "faces", [entry])
    made = make_masks(tmp_path / "faces", tmp_path / "fine", "face_alignment")
    assert made.method == "face_alignment"
    fine = recrop(read_image(made.files[0]), extent)
    fine = cv2.resize(fine, (256, 256), interpolation=cv2.INTER_AREA)
    expected = np.zeros((256, 256), np.uint8)
    [points] = StandIn(download=True).detect([expected])
    for eye in (points[36:42], points[42:48]):
        cv2.fillConvexPoly(expected, eye.astype(int), 255)
    expected = cv2.dilate(expected, np.ones((13, 13), np.uint8))
    assert overlap(fine[..., 0], expected) > 0.93
    by_mesh = make_masks(tmp_path / "faces", tmp_path / "mesh").files[0]
    both = read_image(made.files[0]), read_image(by_mesh)
    np.testing.assert_array_equal(*(picture[..., 1:] for picture in both))


def test_without_face_alignment_the_work_does_not_start(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="face-alignment is not installed"):
        make_masks(faces, tmp_path / "masks", "face_alignment")
    assert not (tmp_path / "masks").exists()


@pytest.mark.parametrize("method", ["dlib", "auto", "five_points"])
def test_an_unknown_method_is_refused(faces, tmp_path, method):
    with pytest.raises(
        ValueError, match=rf"method must be 'mesh' or .*, got '{method}'"
    ):
        make_masks(faces, tmp_path / "masks", method)


def test_masks_of_no_faces_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        make_masks(tmp_path, tmp_path / "masks")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        make_masks(tmp_path / "missing", tmp_path / "masks")
    assert names(tmp_path) == []


def test_masks_among_the_faces_are_refused(faces):
    before = names(faces)
    with pytest.raises(ValueError, match="faces and masks need two folders"):
        make_masks(faces, faces)
    assert names(faces) == before


def test_crops_that_are_not_square_are_refused(tmp_path):
    write_image(tmp_path / "faces" / "wide.png", np.zeros((100, 120, 3), np.uint8))
    with pytest.raises(ValueError, match=r"must be square crops.*wide.png is 120x100"):
        make_masks(tmp_path / "faces", tmp_path / "masks")


def test_masks_that_cannot_be_written_are_said(faces, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot be written"):
        make_masks(faces, tmp_path / "file" / "masks")
