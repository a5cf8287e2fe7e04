import numpy as np
import pytest

from fsgan.data.sample import make_sample_clips
from fsgan.media.reader import probe, read_frames


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_sample_clips(tmp_path_factory.mktemp("sample"), seconds=1.0)


def test_the_whole_clips_are_those_that_ship(tmp_path):
    a, b = make_sample_clips(tmp_path / "sample")
    assert sorted((tmp_path / "sample").iterdir()) == [a, b]
    for clip in (a, b):
        info = probe(clip)
        assert (info.width, info.height, info.fps, info.frame_count) == (
            640,
            360,
            25,
            200,
        )
    assert [probe(clip).has_audio for clip in (a, b)] == [True, False]


def test_a_shorter_clip_has_the_first_frames_and_their_sound(clips):
    assert [len(list(read_frames(clip))) for clip in clips] == [25, 25]
    assert [probe(clip).has_audio for clip in clips] == [True, False]


def test_the_detector_finds_one_face_of_more_than_half_the_height(clips, detector):
    for clip in clips:
        for frame in list(read_frames(clip))[::12]:
            [face] = detector.detect(frame.image)
            assert 165 < face.box[2] - face.box[0] < 285


def test_the_picture_moves_from_frame_to_frame_without_jumps(clips):
    for clip in clips:
        frames = np.stack([frame.image for frame in read_frames(clip)]).astype("f4")
        steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        assert steps.min() > 0.2
        assert steps.max() < 12


@pytest.mark.parametrize("seconds", [0, -1, 9, float("nan")])
def test_a_length_out_of_range_is_refused(tmp_path, seconds):
    with pytest.raises(
        ValueError,
        match=r"seconds must be .*, got ",
    ):
        make_sample_clips(tmp_path, seconds=seconds)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    file = tmp_path / "notes.txt"
    file.touch()
    with pytest.raises(NotADirectoryError, match=r"notes\.txt is a file"):
        make_sample_clips(file)
