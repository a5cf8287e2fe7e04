import logging
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from fsgan.media import reader as video
from fsgan.media.image_sequence import ImageSequence, is_sequence
from fsgan.media.images import write_image

NTSC = Fraction(30000, 1001)


def gray(level, height=20, width=30):
    return np.full((height, width, 3), level, np.uint8)


def noise(height=64, width=64):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def shot(tmp_path):
    """Twelve pictures whose level is ten times their index, numbered from 95."""
    for index in range(12):
        path = tmp_path / "shot" / f"frame_{95 + index}.png"
        write_image(path, gray(10 * index))
    return tmp_path / "shot"


def levels(frames):
    return [int(frame.image[0, 0, 0]) for frame in frames]


# --- exact numbers ---


def test_a_folder_is_read_as_a_video_of_25_frames_a_second(shot):
    assert video.probe(shot) == video.VideoInfo(
        path=shot,
        width=30,
        height=20,
        fps=Fraction(25),
        duration=0.48,
        frame_count=12,
        has_audio=False,
    )
    frames = list(video.read_frames(shot))
    assert levels(frames) == list(range(0, 120, 10))  # natural order: 99 before 100
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == [Fraction(k, 25) for k in range(12)]
    assert not any(frame.damaged for frame in frames)
    assert frames[0].image.dtype == np.uint8 and frames[0].image.flags.writeable


def test_a_pattern_takes_the_files_it_names_in_the_order_of_their_numbers(tmp_path):
    names = ["f_0002.png", "f_0010.png", "f_12345.png", "f_1.png", "f_00001.png"]
    for level, name in enumerate([*names, "f_0003.jpg", "g_0001.png", "f_0001x.png"]):
        write_image(tmp_path / name, gray(level))
    assert levels(video.read_frames(tmp_path / "f_%04d.png")) == [0, 1, 2]
    assert levels(video.read_frames(str(tmp_path / "f_%d.png"))) == [3, 2]
    assert video.probe(tmp_path / "f_%04d.png").frame_count == 3


@pytest.mark.parametrize("fps", [NTSC, Fraction(12), 12.5])
def test_the_rate_given_sets_the_times(shot, fps):
    info = video.probe(shot, fps)
    assert info.fps == Fraction(fps)
    assert info.duration == pytest.approx(12 / fps)
    frames = video.read_frames(shot, fps=fps)
    assert [frame.time for frame in frames] == [k / Fraction(fps) for k in range(12)]


def test_start_and_end_choose_by_time_and_keep_the_index(shot):
    frames = list(video.read_frames(shot, start=0.04, end=0.2))
    assert [frame.index for frame in frames] == [1, 2, 3, 4]
    assert levels(frames) == [10, 20, 30, 40]
    frames = list(video.read_frames(shot, start=0.41, end=9, fps=25))
    assert [frame.index for frame in frames] == [11]


def test_photos_that_lie_on_their_side_come_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(gray(9, 20, 30)).save(tmp_path / name, exif=exif)
    info = video.probe(tmp_path)
    assert (info.width, info.height) == (20, 30)
    assert next(video.read_frames(tmp_path)).image.shape == (30, 20, 3)


def test_a_folder_and_a_pattern_are_sequences_and_a_file_is_none(shot):
    assert is_sequence(shot) and is_sequence(str(shot / "frame_%05d.png"))
    assert not is_sequence(shot / "frame_95.png")
    assert not is_sequence(shot / "nowhere.mp4") and not is_sequence("50%.mp4")
    (shot / "frame_%d.png").write_bytes(b"")  # an odd name, but a name
    assert not is_sequence(shot / "frame_%d.png")


# --- damaged pictures ---


def test_a_picture_that_breaks_off_is_a_damaged_frame(tmp_path, caplog):
    for index in range(3):
        Image.fromarray(noise()).save(tmp_path / f"{index}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        frames = list(video.read_frames(tmp_path))
    assert [frame.damaged for frame in frames] == [False, True, False]
    np.testing.assert_array_equal(frames[1].image[:16], noise()[:16])
    assert (frames[1].image[-8:] != noise()[-8:]).any()
    assert len(caplog.records) == 1
    assert "3 frames of it were used, 1 damaged, 0 lost" in caplog.text


def test_a_picture_that_is_lost_shows_the_one_before_it(shot, caplog):
    (shot / "frame_97.png").write_bytes(b"no picture")
    (shot / "frame_98.png").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        frames = list(video.read_frames(shot))
    assert levels(frames) == [0, 10, 10, 10, 40, *range(50, 120, 10)]
    assert [frame.index for frame in frames if frame.damaged] == [2, 3]
    assert "12 frames of it were used, 0 damaged, 2 lost" in caplog.text
    frames[2].image[:] = 255  # each frame is its own
    assert levels(frames[1:4]) == [10, 255, 10]


def test_a_stretch_shows_the_same_as_the_whole_where_a_picture_is_lost(shot):
    for number in (97, 98):
        (shot / f"frame_{number}.png").write_bytes(b"no picture")
    whole = levels(video.read_frames(shot))
    for first in range(12):
        stretch = list(video.read_frames(shot, start=first / 25))
        assert levels(stretch) == whole[first:]


def test_with_nothing_before_it_a_lost_picture_shows_the_next(shot):
    for number in (95, 96):
        (shot / f"frame_{number}.png").write_bytes(b"no picture")
    frames = list(video.read_frames(shot))
    assert levels(frames)[:4] == [20, 20, 20, 30]
    assert [frame.damaged for frame in frames[:3]] == [True, True, False]
    assert video.probe(shot).frame_count == 12


def test_missing_numbers_are_closed_up_and_said(shot, caplog):
    (shot / "frame_97.png").unlink()
    with caplog.at_level(logging.WARNING):
        frames = list(video.read_frames(shot / "frame_%d.png"))
    assert levels(frames) == [0, 10, *range(30, 120, 10)]
    assert "1 numbers between 95 and 106 are missing" in caplog.text


# --- faults ---


@pytest.mark.parametrize("large", [gray(0, 21, 30), gray(0, 20, 31), gray(0, 30, 20)])
def test_a_picture_of_another_size_is_named(shot, large):
    write_image(shot / "frame_99.png", large)
    with pytest.raises(
        ValueError, match=r"one size.*frame_95\.png has 30 x 20"
    ) as told:
        video.read_frames(shot)
    height, width = large.shape[:2]
    assert f"frame_99.png {width} x {height}" in str(told.value)


def test_a_size_that_only_decoding_tells_is_named_then(shot):
    sequence = ImageSequence(shot)
    write_image(shot / "frame_99.png", gray(0, 40, 40))
    with pytest.raises(ValueError, match=r"one size.*frame_99\.png has 40 x 40"):
        list(sequence.read())


def test_no_pictures_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        video.probe(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file fits .*f_%04d\.png"):
        video.read_frames(tmp_path / "f_%04d.png")
    with pytest.raises(FileNotFoundError, match="no file fits"):
        video.read_frames(tmp_path / "nowhere" / "f_%04d.png")


def test_pictures_of_which_none_can_be_used_are_told(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"no picture of .* can be read"):
        video.probe(tmp_path)
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"no picture of .* can be decoded"):
        list(video.read_frames(tmp_path))


@pytest.mark.parametrize("fps", [0, -25, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused(shot, fps):
    with pytest.raises(ValueError, match=r"fps must be above 0.*, got"):
        video.probe(shot, fps)


def test_a_start_behind_the_last_picture_is_told(shot):
    with pytest.raises(ValueError, match=r"starts at 7 s, the last frame is at 0\.44"):
        list(video.read_frames(shot, start=7))
