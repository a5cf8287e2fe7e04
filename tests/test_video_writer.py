from fractions import Fraction

import av
import numpy as np
import pytest
from test_video import (
    NTSC,
    clicks,
    codec_of_sound,
    colour_card,
    copy,
    flash_pictures,
    flashes,
    gray_pictures,
    make_clip,
    noise_pictures,
    times_of,
)

from fsgan import video
from fsgan.video_writer import VideoWriter


def test_a_test_card_comes_back_within_two_levels(tmp_path):
    card = colour_card()
    height, width = card.shape[:2]
    with VideoWriter(tmp_path / "card.mp4", width, height, 25) as writer:
        for _ in range(5):
            writer.write(card)
    for frame in video.read_frames(tmp_path / "card.mp4"):
        error = frame.image.astype(float) - card
        assert np.abs(error).mean() < 2
        assert abs(error.mean()) < 0.25  # no drift of brightness
    with av.open(str(tmp_path / "card.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_range) == (1, 1)
        assert (context.color_primaries, context.color_trc) == (1, 1)


@pytest.mark.parametrize(
    "fps", [25, NTSC, Fraction(24000, 1001), 23.976, 12, Fraction(425, 26), 1000]
)
def test_the_frame_rate_is_kept_exactly(tmp_path, fps):
    with VideoWriter(tmp_path / "clip.mp4", 64, 48, fps) as writer:
        for picture in gray_pictures(24):
            writer.write(picture)
    exact = Fraction(fps).limit_denominator(100_000)
    info = video.probe(tmp_path / "clip.mp4")
    assert (info.fps, info.frame_count) == (exact, 24)
    assert info.duration == pytest.approx(24 / fps, abs=1e-3)
    assert times_of(tmp_path / "clip.mp4") == [k / exact for k in range(24)]


def test_a_variable_rate_is_written_to_a_microsecond(tmp_path):
    times = [Fraction(k, 12_800) for k in (512, 1024, 2048, 2590, 9999, 10_511)]
    with VideoWriter(tmp_path / "clip.mp4", 64, 48, 16.35) as writer:
        for picture, time in zip(gray_pictures(6), times, strict=True):
            writer.write(picture, time)
    found = times_of(tmp_path / "clip.mp4")
    expected = [time - times[0] for time in times]
    last_step = times[-1] - times[-2]
    length = float(expected[-1] + last_step)
    assert video.probe(tmp_path / "clip.mp4").duration == pytest.approx(
        length, abs=1e-4
    )
    np.testing.assert_allclose(
        np.array(found, float), np.array(expected, float), atol=1e-5
    )


def test_an_odd_size_gets_its_last_row_and_column_once_more(tmp_path):
    ramp = np.zeros((47, 63, 3), np.uint8)
    ramp[:] = np.linspace(30, 220, 63)[None, :, None]
    ramp[-1] = 255
    with VideoWriter(tmp_path / "odd.mp4", 63, 47, 25, crf=1) as writer:
        writer.write(ramp)
    read = next(video.read_frames(tmp_path / "odd.mp4")).image
    assert read.shape == (48, 64, 3)
    expected = np.pad(ramp, ((0, 1), (0, 1), (0, 0)), "edge").astype(int)
    assert np.abs(read - expected).max() <= 4


@pytest.mark.parametrize(
    ("name", "codec", "sound", "rate", "kept"),
    [
        ("clip.mp4", "libx264", "aac", 44_100, "aac"),
        ("clip.mkv", "libx264", "libmp3lame", 44_100, "mp3float"),
        ("clip.mkv", "libx264", "ac3", 48_000, "ac3"),
        ("clip.ts", "libx264", "aac", 44_100, "aac"),
        ("clip.mpg", "mpeg1video", "mp2", 44_100, "aac"),
        ("clip.mov", "libx264", "pcm_s16le", 48_000, "aac"),
    ],
)
@pytest.mark.parametrize(("start", "end"), [(0, None), (0.5, 2)])
def test_click_and_flash_stay_together(
    tmp_path, name, codec, sound, rate, kept, start, end
):
    source = make_clip(
        tmp_path / name,
        flash_pictures(),
        fps=25 if codec == "mpeg1video" else NTSC,
        codec=codec,
        sound=sound,
        rate=rate,
    )
    path = copy(source, tmp_path / "copy.mp4", start, end)
    assert codec_of_sound(path) == kept
    assert len(flashes(path)) == len(clicks(path)) == 2
    gaps = np.array(flashes(path), float) - clicks(path)
    assert np.abs(gaps).max() < 0.005  # a frame is 0.033
    assert times_of(path)[0] == 0


def sound_packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def test_sound_that_fits_is_copied_byte_for_byte(tmp_path):
    source = make_clip(tmp_path / "clip.mp4", flash_pictures(), sound="aac")
    packets = sound_packets(source)
    assert len(packets) > 50
    assert sound_packets(copy(source, tmp_path / "copy.mp4")) == packets


def test_sound_is_cut_with_the_pictures(tmp_path):
    source = make_clip(tmp_path / "clip.mp4", flash_pictures(), sound="aac")
    path = copy(source, tmp_path / "copy.mp4", start=1, end=1.4)
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        assert float(track.duration * track.time_base) == pytest.approx(0.4, abs=0.03)
    assert len(times_of(path)) == 10


def test_sound_and_pictures_lie_side_by_side_in_the_file(tmp_path):
    source = make_clip(tmp_path / "clip.mp4", noise_pictures(100), fps=4, sound="aac")
    path = copy(source, tmp_path / "copy.mp4")
    with av.open(str(path)) as container:
        packets = [
            (packet.pos, packet.stream.type, float(packet.dts * packet.time_base))
            for packet in container.demux()
            if packet.size
        ]
    latest = {"video": 0.0, "audio": 0.0}
    for _, kind, time in sorted(packets):
        latest[kind] = time
        assert abs(latest["video"] - latest["audio"]) < 2  # the clip is 25 s long


def test_a_silent_source_gives_a_silent_file(tmp_path):
    source = make_clip(tmp_path / "clip.mp4", gray_pictures(5))
    path = copy(source, tmp_path / "copy.mp4")
    assert not video.probe(path).has_audio


def test_metadata_goes_into_the_file_and_the_index_comes_first(tmp_path):
    path = tmp_path / "clip.mp4"
    marks = {"title": "a title", "comment": "ünïcode", "AnyKey": "any value"}
    with VideoWriter(path, 64, 48, 25, metadata=marks) as writer:
        writer.write(gray_pictures(1)[0])
    with av.open(str(path)) as container:
        assert marks.items() <= container.metadata.items()
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_file_may_replace_its_own_source(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", flash_pictures(), sound="aac")
    copy(path, path)
    assert len(times_of(path)) == 60 and len(clicks(path)) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


# --- writing: faults ---


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("written", [0, 3])
def test_nothing_is_left_after_an_exception(tmp_path, error, written):
    with (
        pytest.raises(error),
        VideoWriter(tmp_path / "new" / "clip.mp4", 64, 48, 25) as writer,
    ):
        for picture in gray_pictures(written):
            writer.write(picture)
        raise error
    assert list((tmp_path / "new").iterdir()) == []


def test_what_was_there_before_survives_an_exception(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", gray_pictures(5))
    before = path.read_bytes()
    with (
        pytest.raises(ValueError, match="got uint8"),
        VideoWriter(path, 64, 48, 25) as writer,
    ):
        writer.write(gray_pictures(1)[0])
        writer.write(np.zeros((2, 2, 3), np.uint8))
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_the_name_appears_only_when_the_file_is_whole(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, 64, 48, 25) as writer:
        writer.write(gray_pictures(1)[0])
        assert not path.exists()
        assert all(entry.name.startswith(".") for entry in tmp_path.iterdir())
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_no_frame_makes_no_file(tmp_path):
    with (
        pytest.raises(ValueError, match="no frame was written"),
        VideoWriter(tmp_path / "clip.mp4", 64, 48, 25),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_missing_source_of_sound_is_told_and_leaves_nothing(tmp_path):
    writer = VideoWriter(
        tmp_path / "clip.mp4", 64, 48, 25, audio_from=tmp_path / "nowhere.mp4"
    )
    with pytest.raises(FileNotFoundError, match="nowhere"), writer:
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    writer = VideoWriter(tmp_path / "file" / "clip.mp4", 64, 48, 25)
    with pytest.raises(OSError, match="choose another output folder"), writer:
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "clip.avi"}, r"path must end in \.mp4, \.m4v, \.mov, got clip\.avi"),
        ({"width": 0}, "width and height must be at least 1, got 0, 48"),
        ({"fps": 0}, "fps must be above 0, got 0"),
        ({"crf": 52}, r"crf must lie in 0\.\.51, got 52"),
        ({"preset": "warp"}, "preset must be one of .* got 'warp'"),
        ({"start": -1}, "start must be at least 0 seconds, got -1"),
        ({"start": 2, "end": 1}, "end must be after start"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    settings = {"path": "clip.mp4", "width": 64, "height": 48, "fps": 25, **options}
    with pytest.raises(ValueError, match=message):
        VideoWriter(**settings)


@pytest.mark.parametrize(
    ("image", "time", "message"),
    [
        (np.zeros((48, 60, 3), np.uint8), None, r"got uint8 \(48, 60, 3\)"),
        (np.zeros((48, 64, 3), np.float32), None, "got float32"),
        (np.zeros((48, 64, 3), np.uint8), 1.0, r"time must grow.*1 s after 1 s"),
    ],
)
def test_frames_that_do_not_fit_are_refused(tmp_path, image, time, message):
    with (
        pytest.raises(ValueError, match=message),
        VideoWriter(tmp_path / "clip.mp4", 64, 48, 25) as writer,
    ):
        writer.write(gray_pictures(1)[0], 1.0)
        writer.write(image, time)


def test_times_that_do_not_count_from_the_source_are_refused(tmp_path):
    source = make_clip(tmp_path / "clip.mp4", flash_pictures(), sound="aac")
    with (
        pytest.raises(ValueError, match="time must count from the start of audio_from"),
        VideoWriter(
            tmp_path / "copy.mp4", 64, 48, 25, audio_from=source, start=1.0
        ) as writer,
    ):
        writer.write(gray_pictures(1)[0], 0.0)
