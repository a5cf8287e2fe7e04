import av
import numpy as np
import pytest
from test_video import (
    NTSC,
    clicks,
    codec_of_sound,
    copy,
    flash_pictures,
    flashes,
    make_clip,
    times_of,
)

from fsgan.media import reader as video
from fsgan.media.writer import VideoWriter

SOURCES = {
    "aac.mp4": {"sound": "aac"},
    "mp3.mkv": {"sound": "libmp3lame"},
    "ac3.mkv": {"sound": "ac3", "rate": 48_000},
    "flac.mkv": {"sound": "flac"},
    "pcm.mov": {"sound": "pcm_s16le", "rate": 48_000},
    "opus.webm": {"sound": "libopus", "rate": 48_000, "codec": "libvpx-vp9"},
    "mp2.mpg": {"sound": "mp2", "codec": "mpeg1video"},
}


def make_source(folder, name):
    options = SOURCES[name]
    fps = 25 if "codec" in options else NTSC
    return make_clip(folder / name, flash_pictures(), fps=fps, **options)


def sound_packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.parametrize(("start", "end"), [(0, None), (0.5, 2)])
@pytest.mark.parametrize(
    ("source", "suffix", "kept"),
    [
        ("aac.mp4", ".mkv", "aac"),
        ("aac.mp4", ".webm", "opus"),
        ("mp3.mkv", ".mkv", "mp3float"),
        ("ac3.mkv", ".mov", "ac3"),
        ("ac3.mkv", ".webm", "opus"),
        ("flac.mkv", ".mkv", "flac"),
        ("flac.mkv", ".mp4", "aac"),
        ("pcm.mov", ".mkv", "pcm_s16le"),
        ("pcm.mov", ".webm", "opus"),
        ("opus.webm", ".webm", "opus"),
        ("opus.webm", ".mp4", "opus"),
        ("opus.webm", ".mov", "aac"),
        ("opus.webm", ".mkv", "opus"),
        ("mp2.mpg", ".mkv", "mp2"),
        ("mp2.mpg", ".mp4", "aac"),
        ("mp2.mpg", ".webm", "opus"),
    ],
)
def test_click_and_flash_stay_together(tmp_path, source, suffix, kept, start, end):
    path = tmp_path / f"copy{suffix}"
    copy(make_source(tmp_path, source), path, start, end)
    assert codec_of_sound(path) == kept
    assert len(flashes(path)) == len(clicks(path)) == 2
    gaps = np.array(flashes(path), float) - clicks(path)
    assert np.abs(gaps).max() < 0.005  # a frame is 0.033
    assert times_of(path)[0] == 0


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_a_variable_rate_stays_in_step(tmp_path, suffix):
    whole = make_source(tmp_path, "aac.mp4")
    path = tmp_path / f"copy{suffix}"
    with VideoWriter(path, 64, 48, NTSC, audio_from=whole) as writer:
        for frame in video.read_frames(whole):
            if frame.index % 3 != 1 and not 25 < frame.index < 40:
                writer.write(frame.image, frame.time)
    assert len(times_of(path)) < 35
    assert np.abs(np.array(flashes(path), float) - clicks(path)).max() < 0.005


@pytest.mark.parametrize(
    ("source", "suffix"),
    [
        ("aac.mp4", ".mp4"),
        ("flac.mkv", ".mkv"),
        ("opus.webm", ".webm"),
        ("opus.webm", ".mp4"),
    ],
)
def test_sound_that_fits_is_copied_byte_for_byte(tmp_path, source, suffix):
    made = make_source(tmp_path, source)
    packets = sound_packets(made)
    copied = sound_packets(copy(made, tmp_path / f"copy{suffix}"))
    assert len(packets) >= 20 and copied == packets


def test_the_best_of_several_tracks_is_taken_and_surround_becomes_stereo(tmp_path):
    made = tmp_path / "surround.mkv"
    with av.open(str(made), "w") as container:
        for layout in ("mono", "5.1"):
            track = container.add_stream("ac3", rate=48_000)
            track.layout = layout
        for track in container.streams.audio:
            silence = np.zeros((track.channels, 1536), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, "fltp", track.layout.name)
            frame.sample_rate, frame.pts = 48_000, 0
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    for suffix, channels in ((".mp4", 6), (".webm", 2)):
        path = tmp_path / f"copy{suffix}"
        with VideoWriter(path, 64, 48, 25, audio_from=made) as writer:
            writer.write(np.zeros((48, 64, 3), np.uint8))
        with av.open(str(path)) as container:
            assert [track.channels for track in container.streams.audio] == [channels]


@pytest.mark.parametrize("name", ["copy.gif", "copy"])
def test_a_gif_and_pictures_have_no_sound(tmp_path, name):
    made = make_source(tmp_path, "aac.mp4")
    path = copy(made, tmp_path / name, end=0.2)
    if path.is_file():
        assert not video.probe(path).has_audio
    else:
        assert len(list(path.iterdir())) == 6
