from fractions import Fraction

import av
import numpy as np
import pytest

from fsgan.data.sample import make_sample_clips


def read(path):
    with av.open(str(path)) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        return frames, container.streams.video[0].average_rate


def read_sound(path):
    with av.open(str(path)) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
        return np.concatenate(parts, axis=1), container.streams.audio[0].rate


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_sample_clips(tmp_path_factory.mktemp("sample"), seconds=2.0)


def test_the_clips_are_named_a_and_b_and_nothing_else_is_left(clips):
    assert [path.name for path in clips] == ["a.mp4", "b.mp4"]
    assert sorted(clips[0].parent.iterdir()) == sorted(clips)


def test_a_clip_has_the_length_rate_and_size_that_were_asked_for(tmp_path):
    for path in make_sample_clips(tmp_path, seconds=1.1, fps=30, size=(160, 90 + 2)):
        frames, rate = read(path)
        assert len(frames) == 33
        assert rate == Fraction(30)
        assert {frame.shape for frame in frames} == {(92, 160, 3)}


def test_the_default_clip_is_640_by_360_at_25_frames_a_second(clips):
    for path in clips:
        frames, rate = read(path)
        assert (len(frames), frames[0].shape, rate) == (50, (360, 640, 3), 25)


def test_only_a_has_sound(clips):
    with av.open(str(clips[0])) as a, av.open(str(clips[1])) as b:
        assert [len(clip.streams.audio) for clip in (a, b)] == [1, 0]


def test_the_sound_is_a_soft_chord_as_long_as_the_video(clips):
    sound, rate = read_sound(clips[0])
    assert sound.shape[1] / rate == pytest.approx(2.0, abs=0.06)
    assert 0.05 < np.abs(sound).max() < 0.2
    spectrum = np.abs(np.fft.rfft(sound[0, : 2 * rate]))
    loudest = np.argsort(spectrum)[-9:] / 2  # Hz: two seconds
    for tone in (220.0, 277.18, 329.63):
        assert np.abs(loudest - tone).min() < 1.0


def test_the_same_seed_gives_the_same_frames(clips, tmp_path):
    again = make_sample_clips(tmp_path, seconds=2.0)
    for path, other in zip(clips, again, strict=True):
        np.testing.assert_array_equal(read(path)[0], read(other)[0])


def test_another_seed_gives_other_frames(tmp_path):
    settings = {"seconds": 0.2, "size": (160, 92)}
    one = make_sample_clips(tmp_path / "one", seed=1, **settings)
    two = make_sample_clips(tmp_path / "two", seed=2, **settings)
    for path, other in zip(one, two, strict=True):
        assert not np.array_equal(read(path)[0][0], read(other)[0][0])


def test_the_picture_moves_from_frame_to_frame_without_jumps(clips):
    for path in clips:
        frames = np.asarray(read(path)[0], np.float32)
        steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
        assert steps.min() > 0.2
        assert steps.max() < 12


def test_the_detector_finds_one_face_of_a_third_of_the_height(clips, detector):
    for path in clips:
        for frame in read(path)[0][::20]:
            [face] = detector.detect(frame)
            assert 95 < face.box[2] - face.box[0] < 165


def test_clips_with_the_same_settings_are_kept_and_others_replaced(tmp_path):
    settings = {"seconds": 0.2, "size": (160, 92)}
    paths = make_sample_clips(tmp_path, **settings)
    before = [path.stat().st_ino for path in paths]
    make_sample_clips(tmp_path, **settings)
    assert [path.stat().st_ino for path in paths] == before
    make_sample_clips(tmp_path, **settings | {"seconds": 0.4})
    assert [len(read(path)[0]) for path in paths] == [10, 10]


def test_a_damaged_clip_is_made_again(tmp_path):
    settings = {"seconds": 0.2, "size": (160, 92)}
    (tmp_path / "b.mp4").write_bytes(b"not a video")
    _, b = make_sample_clips(tmp_path, **settings)
    assert len(read(b)[0]) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fps": 0}, "fps must be a whole number of at least 1, got 0"),
        ({"fps": 29.97}, "fps must be a whole number of at least 1, got 29.97"),
        ({"seconds": 0.0}, "seconds must last at least one frame, got 0.0"),
        ({"size": (641, 360)}, r"two even numbers of at least 64, got \(641, 360\)"),
        ({"size": (640, 32)}, r"two even numbers of at least 64, got \(640, 32\)"),
        ({"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        make_sample_clips(tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    file = tmp_path / "notes.txt"
    file.touch()
    with pytest.raises(NotADirectoryError, match=r"notes\.txt is a file"):
        make_sample_clips(file)
