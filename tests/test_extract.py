"""From clips and photos to crops, their record and their eye masks."""

import json
import math
import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clips import face_entry
from PIL import Image

from fsgan.data import extract
from fsgan.data.extract import extract_faces, write_faces_record
from fsgan.faces.geometry import (
    MEAN_LANDMARKS,
    Face,
    align,
    crop_matrix,
    read_faces_record,
    recrop,
    transform_points,
)
from fsgan.media.images import read_image, write_image
from fsgan.media.writer import VideoWriter

FRAMES = 13
MEAN_IN_CROP = (MEAN_LANDMARKS - 0.5) / 1.6 + 0.5  # shares of a stored crop's side


@pytest.fixture(autouse=True, scope="module")
def one_set_of_networks(detector):
    """Loading them takes longer than searching a picture."""
    networks = detector._networks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract.FaceDetector, "_networks", networks)
        yield


@pytest.fixture(scope="module")
def clip(tmp_path_factory, portrait) -> Path:
    """A face that moves by two pixels a frame, 13 frames at 25 a second."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with VideoWriter(path, 240, 240, Fraction(25)) as writer:
        for index in range(FRAMES):
            left = 2 * index + 20
            writer.write(portrait[:240, left : left + 240].copy())
    return path


@pytest.fixture
def photo(tmp_path, portrait) -> Path:
    path = tmp_path / "photos" / "portrait.png"
    write_image(path, portrait)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def entries(folder: Path) -> list[dict]:
    return json.loads((folder / "faces.json").read_text(encoding="utf-8"))["faces"]


# A clip


def test_a_clip_becomes_crops_named_after_it_and_its_frames(clip, tmp_path):
    found = extract_faces(clip, tmp_path / "faces", every=6, min_face=40)
    expected = [f"clip_frame{index:06d}_face0.jpg" for index in (0, 6, 12)]
    assert names(tmp_path / "faces") == [*expected, "faces.json"]
    assert [path.name for path in found.files] == expected
    assert (found.frames, found.frames_with_face) == (3, 3)
    assert found.contact_sheet.shape == (96, 3 * 96, 3)
    assert found.contact_sheet.dtype == np.uint8
    for path in found.files:
        assert read_image(path).shape == (256, 256, 3)


def test_a_notebook_shows_a_sentence_and_the_contact_sheet(clip, tmp_path):
    found = extract_faces(clip, tmp_path, every=6, min_face=40)
    assert len(found) == 3
    assert repr(found) == "3 faces in 3 of 3 frames"
    assert found._repr_html_().startswith("<p>3 faces in 3 of 3 frames</p><img ")


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
@pytest.mark.parametrize("in_folder", [False, True])
def test_an_animation_is_a_film_of_which_every_frame_is_searched(
    portrait, tmp_path, suffix, in_folder
):
    path = tmp_path / f"moving{suffix}"
    first, *others = (Image.fromarray(portrait[:, i:]) for i in (0, 0, 0))
    for index, frame in enumerate(others):
        frame.putpixel((index, 0), (255, 0, 0))
    first.save(path, save_all=True, append_images=others, duration=40)
    if in_folder:
        write_image(tmp_path / "photo.png", portrait)
    source = tmp_path if in_folder else path
    found = extract_faces(source, tmp_path / "faces", every=6, min_face=40)
    name = path.name.replace(".", "_") if in_folder else path.stem
    expected = [f"{name}_frame{index:06d}_face0.jpg" for index in range(3)]
    assert [path.name for path in found.files] == expected + (
        ["photo_png_face0.jpg"] if in_folder else []
    )
    assert found.frames == 3 + in_folder
    record = read_faces_record(tmp_path / "faces")
    assert [entry["time"] for entry in record][:3] == pytest.approx([0, 0.04, 0.08])


def test_of_several_pages_the_first_is_read_and_the_log_says_so(
    portrait, tmp_path, caplog
):
    pages = [Image.fromarray(picture) for picture in (portrait, 255 - portrait)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    [path] = extract_faces(tmp_path / "pages.tif", tmp_path, min_face=40).files
    assert path.name == "pages_tif_face0.jpg"
    assert "pages.tif holds several pictures: the first is read" in caplog.text


def test_a_gif_of_one_picture_is_a_photo(portrait, tmp_path):
    Image.fromarray(portrait).save(tmp_path / "still.gif")
    [path] = extract_faces(tmp_path / "still.gif", tmp_path, min_face=40).files
    assert path.name == "still_gif_face0.jpg"


def test_the_record_says_where_every_crop_is_from(clip, tmp_path):
    extract_faces(clip, tmp_path, every=6, min_face=40)
    record = entries(tmp_path)
    assert record == read_faces_record(tmp_path)
    keys = {"file", "source", "frame", "time", "box", "landmarks", "confidence"}
    for entry, index in zip(record, (0, 6, 12), strict=True):
        assert set(entry) == keys | {"matrix", "extent"}
        assert entry["extent"] == 1.6
        assert entry["file"] == f"clip_frame{index:06d}_face0.jpg"
        assert entry["source"] == str(clip)
        assert entry["frame"] == index
        assert entry["time"] == pytest.approx(index / 25)
        assert 0.95 <= entry["confidence"] <= 1
        # The left eye of the portrait is at (144, 101); the clip starts at column 20.
        left_eye = (144 - 20 - 2 * index, 101)
        np.testing.assert_allclose(entry["landmarks"][0], left_eye, atol=5)
        left, top, right, bottom = entry["box"]
        assert left < left_eye[0] < right
        assert top < left_eye[1] < bottom


def test_the_recorded_matrix_takes_the_points_to_the_mean_shape(clip, tmp_path):
    extract_faces(clip, tmp_path, every=12, min_face=40)
    for entry in entries(tmp_path):
        landmarks, matrix = np.array(entry["landmarks"]), np.array(entry["matrix"])
        points = transform_points(landmarks, matrix)
        assert np.abs((points + 0.5) / 256 - MEAN_IN_CROP).max() < 0.05


@pytest.mark.parametrize(
    ("width", "side"), [(30, 256), (160, 256), (200, 320), (201, 322), (400, 512)]
)
def test_a_crop_has_the_pixels_of_the_footage_within_limits(
    tmp_path, monkeypatch, width, side
):
    # In widths of the standard crop the stored one is 1.6 wide.
    y, x = np.mgrid[:700, :700]
    image = np.dstack([x // 3, y // 3, (x + y) // 6]).astype(np.uint8)
    write_image(tmp_path / "photo.png", image)
    landmarks = MEAN_LANDMARKS * width - 0.5 + 350 - width / 2
    monkeypatch.setattr(extract, "FaceDetector", Finds(face_with(landmarks)))
    [path] = extract_faces(tmp_path / "photo.png", tmp_path / "faces").files
    crop = read_image(path)
    assert crop.shape == (side, side, 3)
    [entry] = entries(tmp_path / "faces")
    scale = np.array(entry["matrix"])[0, 0]
    assert scale == pytest.approx(side / (1.6 * width), rel=1e-3)
    middle = recrop(crop, entry["extent"])
    standard = align(image, crop_matrix(landmarks, len(middle)), len(middle))
    assert np.abs(middle.astype(int) - standard).mean() < 2


def test_the_crop_shows_what_the_matrix_says(photo, tmp_path, portrait):
    [path] = extract_faces(photo, tmp_path / "faces", min_face=40).files
    crop = read_image(path)
    [entry] = entries(tmp_path / "faces")
    pixels = np.random.default_rng(0).integers(90, 200, (50, 2))
    inside = transform_points(pixels, np.array(entry["matrix"])).round().astype(int)
    kept = ((inside >= 0) & (inside < 256)).all(-1)
    seen = crop[inside[kept, 1], inside[kept, 0]].astype(int)
    expected = portrait[pixels[kept, 1], pixels[kept, 0]]
    assert kept.sum() > 20
    assert np.median(np.abs(seen - expected)) < 5


@pytest.mark.parametrize(("every", "frames"), [(1, 13), (5, 3), (100, 1)])
def test_every_nth_frame_is_searched(clip, tmp_path, every, frames):
    found = extract_faces(clip, tmp_path, every=every, min_face=60)
    assert found.frames == frames
    assert [entry["frame"] for entry in entries(tmp_path)] == list(range(0, 13, every))


def test_extracting_again_replaces_the_source_s_own_crops(clip, photo, tmp_path):
    faces = tmp_path / "faces"
    extract_faces(photo, faces, min_face=40)
    extract_faces(clip, faces, every=6, min_face=40)
    extract_faces(clip, faces, every=4, min_face=40)
    expected = [f"clip_frame{index:06d}_face0.jpg" for index in (0, 4, 8, 12)]
    assert names(faces) == [*expected, "faces.json", "portrait_png_face0.jpg"]
    assert sorted(entry["file"] for entry in entries(faces)) == sorted(
        [*expected, "portrait_png_face0.jpg"]
    )


def test_another_source_of_the_same_name_is_refused_and_nothing_changes(clip, tmp_path):
    faces = tmp_path / "faces"
    extract_faces(clip, faces, every=6, min_face=40)
    before = {path.name: path.read_bytes() for path in faces.iterdir()}
    namesake = tmp_path / "clip.mp4"
    shutil.copy(clip, namesake)
    # Every fourth frame: the first to collide is not the first to be found.
    (faces / "clip_frame000000_face0.jpg").unlink()
    del before["clip_frame000000_face0.jpg"]
    record = {"faces": entries(faces)[1:]}
    (faces / "faces.json").write_text(json.dumps(record), encoding="utf-8")
    before["faces.json"] = (faces / "faces.json").read_bytes()
    with pytest.raises(
        ValueError, match=r"already holds clip_frame000012_face0.jpg of"
    ):
        extract_faces(namesake, faces, every=4, min_face=40)
    assert {path.name: path.read_bytes() for path in faces.iterdir()} == before


def stop_at(monkeypatch, stop: int, fault: type[BaseException]) -> None:
    """Lets the reading of a clip fail at a frame."""

    def failing(path, **part):
        for frame in real(path, **part):
            if frame.index == stop:
                raise fault("stopped")
            yield frame

    real = extract.read_frames
    monkeypatch.setattr(extract, "read_frames", failing)


def test_after_a_fault_the_folder_is_as_before(clip, tmp_path, monkeypatch):
    faces = tmp_path / "faces"
    extract_faces(clip, faces, every=6, min_face=40)
    before = {path.name: path.read_bytes() for path in faces.iterdir()}
    stop_at(monkeypatch, 8, OSError)
    with pytest.raises(OSError, match="stopped"):
        extract_faces(clip, faces, every=1, min_face=60)
    assert {path.name: path.read_bytes() for path in faces.iterdir()} == before


def test_an_interrupt_keeps_the_crops_found_so_far_and_the_old_ones(
    clip, tmp_path, monkeypatch, caplog
):
    faces = tmp_path / "faces"
    extract_faces(clip, faces, every=6, min_face=40)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_at(patch, 8, KeyboardInterrupt)
        extract_faces(clip, faces, every=4, min_face=40)
    expected = [f"clip_frame{index:06d}_face0.jpg" for index in (0, 4, 6, 12)]
    assert names(faces) == [*expected, "faces.json"]
    assert sorted(entry["file"] for entry in entries(faces)) == expected
    assert "keeps the 2 faces found in 2 frames" in caplog.text
    extract_faces(clip, faces, every=6, min_face=40)
    again = [f"clip_frame{index:06d}_face0.jpg" for index in (0, 6, 12)]
    assert names(faces) == [*again, "faces.json"]


def test_an_interrupt_before_the_first_face_leaves_nothing(clip, tmp_path, monkeypatch):
    stop_at(monkeypatch, 0, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        extract_faces(clip, tmp_path / "faces")
    assert not (tmp_path / "faces").exists()


# Only so much


def test_the_search_stops_after_the_seconds_asked_for(clip, tmp_path):
    found = extract_faces(clip, tmp_path, every=2, min_face=60, seconds=0.2)
    assert found.frames == 3
    assert [entry["frame"] for entry in entries(tmp_path)] == [0, 2, 4]


@pytest.mark.parametrize(("most", "frames"), [(1, [0]), (2, [0, 6]), (9, [0, 6, 12])])
def test_the_search_stops_after_the_faces_asked_for(clip, tmp_path, most, frames):
    extract_faces(clip, tmp_path, every=6, min_face=60, most=most)
    assert [entry["frame"] for entry in entries(tmp_path)] == frames


# A camera


class FakeCamera:
    """Shows the same picture, in BGR, until it is pulled out or interrupts."""

    def __init__(self, image, count, interrupts=False):
        self.image, self.left, self.interrupts = image[..., ::-1], count, interrupts
        self.on = False

    def __call__(self, index):
        self.index, self.on = index, True
        return self

    def isOpened(self):  # noqa: N802
        return True

    def set(self, name, value):
        return True

    def read(self):
        self.left -= 1
        if self.left < 0 and self.interrupts:
            raise KeyboardInterrupt
        return self.left >= 0, self.image.copy()

    def release(self):
        self.on = False


def test_a_camera_s_faces_become_crops_of_their_own_source(
    portrait, tmp_path, monkeypatch
):
    camera = FakeCamera(portrait, 100)
    monkeypatch.setattr("cv2.VideoCapture", camera)
    found = extract_faces(1, tmp_path, every=3, min_face=60, most=2)
    assert (camera.index, camera.on, camera.left) == (1, False, 100 - 4)
    assert (found.frames, found.frames_with_face) == (2, 2)
    first, second = entries(tmp_path)
    assert first["source"] == second["source"]
    assert re.fullmatch(r"camera1_[-_0-9]{19}", first["source"])
    assert first["file"] == f"{first['source']}_frame000000_face0.jpg"
    assert (first["frame"], second["frame"]) == (0, 3)
    assert first["time"] == 0 < second["time"]
    left_eye = (144, 101)
    np.testing.assert_allclose(first["landmarks"][0], left_eye, atol=5)
    crop = read_image(found.files[0]).astype(int)
    assert crop[..., 0].mean() > crop[..., 2].mean()  # skin: more red than blue


def test_an_interrupt_ends_a_camera_well_and_adds_to_the_folder(
    photo, portrait, tmp_path, monkeypatch, caplog
):
    faces = tmp_path / "faces"
    extract_faces(photo, faces, min_face=60)
    camera = FakeCamera(portrait, 3, interrupts=True)
    monkeypatch.setattr("cv2.VideoCapture", camera)
    found = extract_faces(0, faces, every=1, min_face=60)
    assert len(found.files) == 3
    assert found.contact_sheet.shape == (96, 3 * 96, 3)
    assert not camera.on
    assert len(entries(faces)) == 4
    assert "keeps the 3 faces found in 3 frames of camera0_" in caplog.text


def test_an_interrupt_before_a_camera_shows_a_face_is_passed_on(tmp_path, monkeypatch):
    wall = np.full((200, 200, 3), 90, np.uint8)
    camera = FakeCamera(wall, 2, interrupts=True)
    monkeypatch.setattr("cv2.VideoCapture", camera)
    with pytest.raises(KeyboardInterrupt):
        extract_faces(0, tmp_path / "faces")
    assert not camera.on
    assert not (tmp_path / "faces").exists()


def test_a_fault_switches_the_camera_off(portrait, tmp_path, monkeypatch):
    class Fails:
        def __init__(self, *settings):
            pass

        def detect(self, image):
            raise OSError("broken")

    camera = FakeCamera(portrait, 100)
    monkeypatch.setattr("cv2.VideoCapture", camera)
    monkeypatch.setattr(extract, "FaceDetector", Fails)
    # Noted, the fault keeps all that was under way, as a notebook does.
    with pytest.raises(OSError, match="broken") as fault:
        extract_faces(0, tmp_path)
    assert fault.tb
    assert not camera.on


def test_the_progress_bar_counts_the_faces(portrait, tmp_path, monkeypatch):
    shown = []

    class Bar(extract.tqdm):
        def set_postfix(self, **values):
            shown.append(values.pop("faces"))

    monkeypatch.setattr(extract, "tqdm", Bar)
    monkeypatch.setattr("cv2.VideoCapture", FakeCamera(portrait, 3))
    extract_faces(0, tmp_path, every=1, min_face=60)
    assert shown == [1, 2, 3]


def test_without_a_camera_one_sentence_and_nothing_left_behind(tmp_path):
    with pytest.raises(OSError, match="camera 97 cannot be opened: connect one"):
        extract_faces(97, tmp_path / "faces")
    assert names(tmp_path) == []


# Odd faces


class Finds:
    """A detector that finds the given faces in every frame."""

    def __init__(self, *faces: Face):
        self.faces = list(faces)

    def __call__(self, min_face, min_confidence):
        return self

    def detect(self, image):
        return self.faces


def face_with(landmarks, box=(60, 40, 160, 160), confidence=0.99) -> Face:
    return Face(np.array(box, float), np.array(landmarks, float), confidence)


def test_faces_that_are_not_finite_are_left_out_counted_and_said(
    clip, tmp_path, monkeypatch, caplog
):
    good = MEAN_LANDMARKS * 100 + 60
    nan = good.copy()
    nan[2, 1] = np.nan
    finds = Finds(
        face_with(nan),
        face_with(good),
        face_with(good, (0, 0, np.inf, 9)),
        face_with(good, confidence=np.nan),
        face_with(np.full((5, 2), 80)),
    )
    monkeypatch.setattr(extract, "FaceDetector", finds)
    found = extract_faces(clip, tmp_path, every=6)
    assert [path.name for path in found.files] == [
        f"clip_frame{index:06d}_face0.jpg" for index in (0, 6, 12)
    ]
    assert "left out 12 faces of" in caplog.text
    assert found.frames_with_face == 3


def test_a_face_over_the_border_is_filled_by_repeating_it(tmp_path, monkeypatch):
    image = np.arange(100, dtype=np.uint8)[None, :, None].repeat(100, 0).repeat(3, 2)
    write_image(tmp_path / "ramp.png", image)
    # Its crop is the square of columns -50 to 50 and rows 10 to 110.
    landmarks = MEAN_IN_CROP * 100 - 0.5 + (-50, 10)
    monkeypatch.setattr(extract, "FaceDetector", Finds(face_with(landmarks)))
    [path] = extract_faces(tmp_path / "ramp.png", tmp_path / "faces").files
    crop = read_image(path).astype(int)
    expected = np.clip((np.arange(256) + 0.5) * 100 / 256 - 50.5, 0, None)
    np.testing.assert_allclose(crop[..., 0], np.tile(expected, (256, 1)), atol=2)


def test_a_face_larger_than_the_frame_becomes_a_crop(tmp_path, portrait, detector):
    [face] = detector.detect(portrait)
    left, top, right, bottom = face.box.astype(int)
    tight = portrait[top + 8 : bottom - 8, left + 4 : right - 4]
    write_image(tmp_path / "tight.png", tight)
    [path] = extract_faces(
        tmp_path / "tight.png", tmp_path / "faces", min_confidence=0.7
    ).files
    assert read_image(path).shape == (256, 256, 3)
    [entry] = entries(tmp_path / "faces")
    points = np.array(entry["landmarks"]) + np.array([left + 4, top + 8])
    assert np.abs(points - face.landmarks).max() < 8


def test_photos_of_many_sizes_in_one_folder_give_crops_of_one_size(tmp_path, portrait):
    half = np.ascontiguousarray(portrait[40:260, 60:280])
    for index, image in enumerate((portrait, half, np.rot90(portrait * 0).copy())):
        write_image(tmp_path / "photos" / f"{index}.png", image)
    found = extract_faces(tmp_path / "photos", tmp_path / "faces", min_face=40)
    assert (found.frames, found.frames_with_face) == (3, 2)
    first, second = (read_image(path).astype(int) for path in found.files)
    assert np.abs(first - second)[88:168, 88:168].mean() < 10


# Photos


def test_a_rotated_photo_is_extracted_upright(tmp_path, portrait, photo):
    upright = extract_faces(photo, tmp_path / "upright", min_face=40)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    turned = tmp_path / "turned.png"
    Image.fromarray(np.rot90(portrait).copy()).save(turned, exif=exif)
    found = extract_faces(turned, tmp_path / "faces", min_face=40)
    one, other = (read_image(f.files[0]).astype(int) for f in (upright, found))
    assert np.abs(one - other).mean() < 1


def test_every_face_of_a_photo_gets_its_own_crop(tmp_path, portrait):
    write_image(tmp_path / "two.png", np.hstack([portrait, portrait[:, ::-1]]))
    found = extract_faces(tmp_path / "two.png", tmp_path / "faces", min_face=40)
    assert [path.name for path in found.files] == [
        "two_png_face0.jpg",
        "two_png_face1.jpg",
    ]
    assert (found.frames, found.frames_with_face) == (1, 1)
    for entry in entries(tmp_path / "faces"):
        points = transform_points(
            np.array(entry["landmarks"]), np.array(entry["matrix"])
        )
        assert np.abs((points + 0.5) / 256 - MEAN_IN_CROP).max() < 0.05


def test_a_broken_photo_of_a_folder_is_said_and_left_out(photo, tmp_path, caplog):
    (photo.parent / "broken.jpg").write_bytes(b"no picture")
    shutil.copy(photo, photo.parent / "copy.PNG")
    found = extract_faces(photo.parent, tmp_path / "faces", min_face=40)
    assert [path.name for path in found.files] == [
        "copy_PNG_face0.jpg",
        "portrait_png_face0.jpg",
    ]
    assert found.frames == 2
    [message] = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert message.startswith("left out: ")
    assert "broken.jpg" in message


def test_two_photos_whose_crops_would_share_a_name_are_refused(photo, tmp_path):
    shutil.copy(photo, photo.with_name("a.b.png"))
    shutil.copy(photo, photo.with_name("a_b.png"))
    with pytest.raises(ValueError, match=r"already holds a_b_png_face0.jpg"):
        extract_faces(photo.parent, tmp_path / "faces", min_face=40)
    assert not (tmp_path / "faces").exists()


def test_the_contact_sheet_shows_at_most_64_faces(clip, tmp_path, monkeypatch):
    asked = []

    def count(items, most):
        asked.append((len(items), most))
        return items[:2]

    monkeypatch.setattr(extract, "evenly", count)
    sheet = extract_faces(clip, tmp_path, every=1, min_face=60).contact_sheet
    assert asked == [(FRAMES, 64)]
    assert sheet.shape == (96, 2 * 96, 3)


# Faults


def test_without_a_face_one_sentence_and_nothing_left_behind(tmp_path):
    write_image(tmp_path / "wall.png", np.full((200, 200, 3), 90, np.uint8))
    with pytest.raises(ValueError, match=r"no face found in .*wall.png \(1 frames"):
        extract_faces(tmp_path / "wall.png", tmp_path / "new" / "faces")
    assert names(tmp_path) == ["wall.png"]


@pytest.mark.parametrize("name", ["missing.mp4", "missing.jpg", "missing"])
def test_a_missing_source_is_refused(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
        extract_faces(tmp_path / name, tmp_path / "faces")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["text.mp4", "text.jpg", "text"])
def test_a_file_that_is_neither_video_nor_photo_is_refused(tmp_path, name):
    (tmp_path / name).write_text("This is no footage.\n" * 50)
    with pytest.raises(ValueError, match=f"{name} is not a"):
        extract_faces(tmp_path / name, tmp_path / "faces")
    assert names(tmp_path) == [name]


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no pictures")
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        extract_faces(tmp_path, tmp_path / "faces")


def test_crops_among_the_photos_are_refused(photo):
    with pytest.raises(ValueError, match="crops and photos need two folders"):
        extract_faces(photo.parent, photo.parent / ".." / "photos")
    assert names(photo.parent) == ["portrait.png"]


def test_an_output_that_cannot_be_written_is_said(photo, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match="cannot be written"):
        extract_faces(photo, tmp_path / "file" / "faces", min_face=40)
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be greater than or equal to 1, got 0"),
        ({"every": 2.5}, "every must be a valid integer, got 2.5"),
        ({"seconds": -1}, "seconds must be greater than 0, got -1"),
        ({"seconds": math.nan}, "seconds must be a finite number, got nan"),
        ({"most": 0}, "most must be greater than or equal to 1, got 0"),
        ({"min_face": 5}, "min_face must be greater than or equal to 20"),
        ({"min_confidence": 2}, "min_confidence must be less than or equal to 1"),
    ],
)
def test_settings_out_of_range_are_refused(photo, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        extract_faces(photo, tmp_path / "faces", **settings)
    assert not (tmp_path / "faces").exists()


def test_a_record_cannot_delete_files_elsewhere(photo, tmp_path):
    mine = tmp_path / "mine.jpg"
    mine.write_text("stays")
    entry = face_entry("../mine.jpg", source=str(photo))
    write_faces_record(tmp_path / "faces", [entry])
    with pytest.raises(ValueError, match=r"faces.json is damaged .*: delete it"):
        extract_faces(photo, tmp_path / "faces")
    assert mine.read_text() == "stays"


def test_a_folder_without_a_record_has_no_entries(tmp_path):
    assert read_faces_record(tmp_path) == []
    assert read_faces_record(tmp_path / "missing") == []
