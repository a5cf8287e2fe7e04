import errno
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.subtitles.subtitle import SubtitleSet
from clips import (
    NTSC,
    clicks,
    copy,
    flash_pictures,
    flashes,
    gray_pictures,
    make_clip,
    noise_pictures,
    packets_of,
    times_of,
)

from fsgan.media import encoding
from fsgan.media.decoding import clock_start
from fsgan.media.images import list_images, read_image
from fsgan.media.reader import probe, read_frames
from fsgan.media.writer import ResumableWriter, VideoWriter, remove_leftovers


def write(path, pictures, fps=25, times=None, **options):
    height, width = pictures[0].shape[:2]
    with VideoWriter(path, width, height, fps, **options) as writer:
        for picture, time in zip(
            pictures, times or [None] * len(pictures), strict=True
        ):
            writer.write(picture, time)
    return path


# --- colours ---


def patches():
    """Return flat fields of saturated, dark, light and gray colours, each 32 wide."""
    levels = [0, 64, 128, 192, 255]
    saturated = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    mixed = [(200, 30, 90), (30, 200, 90), (90, 30, 200), (224, 172, 140)]
    colours = np.array([*[(v, v, v) for v in levels], *saturated, *mixed], np.uint8)
    return np.kron(colours[:, None], np.ones((32, 32, 1), np.uint8))


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.webm"])
def test_flat_colours_come_back_within_two_levels(tmp_path, name):
    card = patches()
    path = write(tmp_path / name, [card] * 5, crf=8)
    for frame in read_frames(path):
        # Colours of neighbours mix at the edges, as each is stored for 2 x 2 pixels.
        middles = np.abs(frame.image.astype(int) - card)[16::32, 16]
        assert middles.max() <= 2
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        codec = "vp9" if name == "a.webm" else "h264"
        assert context.codec.canonical_name == codec
        assert context.pix_fmt == "yuv420p"
        assert (context.colorspace, context.color_range) == (1, 1)
        assert (context.color_primaries, context.color_trc) == (1, 1)


@pytest.mark.parametrize("name", ["card.mp4", "card.mkv", "card.webm"])
def test_colours_do_not_move_sideways(tmp_path, name):
    card = np.zeros((32, 64, 3), np.uint8)
    card[:] = np.linspace((250, 20, 20), (20, 20, 250), 64)  # from red to blue
    [frame] = read_frames(write(tmp_path / name, [card], crf=0))
    error = (frame.image.astype(float) - card)[4:-4, 4:-4]
    assert abs(error.mean()) < 0.5  # no drift of brightness
    # Half a pixel aside would be 1.8 levels, of another sign in red and in blue.
    red, _, blue = error.mean(axis=(0, 1))
    assert abs(red - blue) < 0.6


@pytest.mark.parametrize(("height", "width"), [(47, 63), (721, 33)])
def test_lossless_is_exact_at_any_size(tmp_path, height, width):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, height, width, 3), np.uint8)
    path = write(tmp_path / "exact.mkv", pictures, NTSC, lossless=True)
    frames = list(read_frames(path))
    np.testing.assert_array_equal([frame.image for frame in frames], pictures)
    assert [frame.time for frame in frames] == [k / NTSC for k in range(4)]


def test_an_odd_size_gets_its_last_row_and_column_once_more(tmp_path):
    ramp = np.zeros((47, 63, 3), np.uint8)
    ramp[:] = np.linspace(30, 220, 63)[None, :, None]
    ramp[-1] = 255
    image = next(read_frames(write(tmp_path / "odd.mp4", [ramp], crf=1))).image
    assert image.shape == (48, 64, 3)
    expected = np.pad(ramp, ((0, 1), (0, 1), (0, 0)), "edge").astype(int)
    assert np.abs(image - expected).max() <= 4


def test_webm_follows_the_scale_of_x264(tmp_path):
    paths = [tmp_path / f"{crf}.webm" for crf in (8, 18, 40, 51)]
    for path in paths:
        write(path, noise_pictures(5), crf=int(path.stem))
    sizes = [path.stat().st_size for path in paths]
    assert sizes[0] > sizes[1] > 1.5 * sizes[2] > 1.5 * sizes[3]


# --- times ---


@pytest.mark.parametrize(
    ("name", "fps"),
    [
        *[("a.mp4", fps) for fps in (25, NTSC, 23.976, Fraction(425, 26), 1000)],
        *[(name, NTSC) for name in ("a.mov", "a.mkv", "a.webm")],
    ],
)
def test_the_frame_rate_is_kept_exactly(tmp_path, name, fps):
    path = write(tmp_path / name, gray_pictures(24), fps)
    exact = Fraction(fps).limit_denominator(100_000)
    info = probe(path)
    assert (info.fps, info.frame_count) == (exact, 24)
    assert info.duration == pytest.approx(24 / fps, abs=2e-3)
    assert times_of(path) == [k / exact for k in range(24)]


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("a.mp4", 0), ("a.mov", 0), ("a.mkv", 0.0005), ("a.webm", 0.0005)],
)
def test_a_variable_rate_keeps_its_times_and_length(tmp_path, name, tolerance):
    times = [Fraction(k, 12_800) for k in (512, 1024, 2048, 2590, 9999, 10_511)]
    path = write(tmp_path / name, gray_pictures(6), 16.35, times)
    with av.open(str(path)) as container:
        found = [frame.time for frame in container.decode(video=0)]
    expected = [float(time - times[0]) for time in times]
    np.testing.assert_allclose(found, expected, atol=tolerance + 1e-5)
    length = expected[-1] + float(times[-1] - times[-2])
    assert probe(path).duration == pytest.approx(length, abs=1e-3)


# --- sound ---

SOURCES = {
    "aac.mp4": {"sound": "aac"},
    "mp3.mkv": {"sound": "libmp3lame"},
    "ac3.mkv": {"sound": "ac3", "rate": 48_000},
    "flac.mkv": {"sound": "flac"},
    "pcm.mov": {"sound": "pcm_s16le", "rate": 48_000},
    "opus.webm": {"sound": "libopus", "rate": 48_000, "codec": "libvpx-vp9"},
    "mp2.mpg": {"sound": "mp2", "codec": "mpeg1video"},
    "aac.ts": {"sound": "aac"},
}


@pytest.fixture(scope="module")
def source_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")

    def made(name):
        options = SOURCES[name]
        fps = 25 if "codec" in options else NTSC
        if not (folder / name).exists():
            make_clip(folder / name, flash_pictures(), fps=fps, **options)
        return folder / name

    return made


def assert_in_step(path, found=2):
    """A click is heard when a flash is seen."""
    assert len(flashes(path)) == len(clicks(path)) == found
    gaps = np.array(flashes(path), float) - clicks(path)
    assert np.abs(gaps).max() < 0.005  # a frame is 0.033


@pytest.mark.parametrize(("start", "end"), [(0, None), (0.5, 2)])
@pytest.mark.parametrize(
    ("source", "suffix", "kept"),
    [
        ("aac.mp4", ".mp4", "aac"),
        ("aac.mp4", ".webm", "opus"),
        ("mp3.mkv", ".mp4", "mp3float"),
        ("ac3.mkv", ".mov", "ac3"),
        ("flac.mkv", ".mkv", "flac"),
        ("flac.mkv", ".mp4", "aac"),
        ("pcm.mov", ".webm", "opus"),
        ("opus.webm", ".webm", "opus"),
        ("opus.webm", ".mp4", "opus"),
        ("opus.webm", ".mov", "aac"),
        ("opus.webm", ".mkv", "opus"),
        ("mp2.mpg", ".mkv", "mp2"),
        ("aac.ts", ".mp4", "aac"),
    ],
)
def test_click_and_flash_stay_together(
    tmp_path, source_of, source, suffix, kept, start, end
):
    path = copy(source_of(source), tmp_path / f"copy{suffix}", start, end)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == kept
    assert_in_step(path)


@pytest.mark.parametrize("name", ["copy.mp4", "copy.mkv", "copy.webm"])
def test_a_variable_rate_stays_in_step(tmp_path, source_of, name):
    whole, path = source_of("aac.mp4"), tmp_path / name
    with VideoWriter(path, 64, 48, NTSC, audio_from=whole) as writer:
        for frame in read_frames(whole):
            if frame.index % 3 != 1 and not 25 < frame.index < 40:
                writer.write(frame.image, frame.time)
    assert_in_step(path)


@pytest.mark.parametrize(
    ("source", "suffix"),
    [("aac.mp4", ".mp4"), ("flac.mkv", ".mkv"), ("opus.webm", ".mp4")],
)
def test_sound_that_fits_is_copied_byte_for_byte(tmp_path, source_of, source, suffix):
    made = source_of(source)
    copied = packets_of(copy(made, tmp_path / f"copy{suffix}"), "audio")
    packets = packets_of(made, "audio")
    assert len(packets) >= 20
    assert [packet[2] for packet in copied] == [packet[2] for packet in packets]


def test_sound_is_cut_with_the_pictures(tmp_path, source_of):
    path = copy(source_of("aac.mp4"), tmp_path / "copy.mp4", start=1, end=1.4)
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        assert float(track.duration * track.time_base) == pytest.approx(0.4, abs=0.03)
    assert len(times_of(path)) == 12


def seconds_of_sound(path, number=0):
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=number))
        return sum(frame.samples for frame in frames) / frames[0].rate


@pytest.mark.parametrize("start", [0, 0.5, 0.83, 1.0])
@pytest.mark.parametrize(
    ("source", "suffix"),
    [
        ("aac.mp4", ".mp4"),
        ("aac.mp4", ".mkv"),
        ("flac.mkv", ".mov"),
        ("flac.mkv", ".mkv"),
        ("mp3.mkv", ".mkv"),
        ("ac3.mkv", ".webm"),
    ],
)
def test_sound_before_the_first_picture_is_kept(tmp_path, source, suffix, start):
    late = Fraction(844, 1000)
    times = [late + Fraction(k, 25) for k in range(60)]
    made = make_clip(
        tmp_path / source, flash_pictures(), times=times, **SOURCES[source]
    )
    path = copy(made, tmp_path / f"copy{suffix}", start)
    shown = [time for time in times if time >= start]
    expected = shown[0] - Fraction(start) if start < late else 0
    assert len(times_of(path)) == len(shown)
    assert float(times_of(path)[0]) == pytest.approx(float(expected), abs=1e-3)
    assert_in_step(path)
    kept = float(times[-1] + Fraction(1, 25)) - start
    if start < late:
        assert seconds_of_sound(path) > kept - 0.001
    assert clock_start_of(path) == pytest.approx(0, abs=1e-3)


def clock_start_of(path):
    with av.open(str(path)) as container:
        return float(clock_start(container))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
@pytest.mark.parametrize("start", [0, 0.3, 0.7])
def test_pictures_before_the_first_sound_stay_first(tmp_path, suffix, start):
    made = make_clip(
        tmp_path / "clip.mkv", flash_pictures(), sound="aac", heard_from=0.5
    )
    path = copy(made, tmp_path / f"copy{suffix}", start)
    assert times_of(path)[0] == 0
    assert len(times_of(path)) == sum(time >= start for time in times_of(made))
    assert_in_step(path)


# --- other streams ---

# What the encoders of subtitles start from.
ASS = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize
Style: Default,Arial,16

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def make_disc(path, subtitles, tracks=2):
    """Three seconds with tracks of sound, subtitles and chapters."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25)
        video.width, video.height = 64, 48
        tracks = [container.add_stream("aac", rate=48_000) for _ in range(tracks)]
        texts = [container.add_stream(name) for name in subtitles]
        labels = [("eng", "Film"), ("fra", "Commentary"), *[("eng", "All")] * 3]
        for stream, label in zip([*tracks, *texts], labels, strict=False):
            stream.metadata.update(zip(("language", "title"), label, strict=True))
        for track in tracks[1:]:
            track.disposition = Disposition.default
        chapters = [
            {"id": k + 1, "start": k, "end": k + 1, "time_base": Fraction(1)}
            | {"metadata": {"title": f"Chapter {k}"}}
            for k in range(3)
        ]
        container.set_chapters(chapters)
        made = []
        for index, picture in enumerate(gray_pictures(75)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            made += video.encode(frame)
        for track in tracks:
            silence = np.zeros((2, 144_000), np.float32)
            frame = av.AudioFrame.from_ndarray(silence, "fltp", "stereo")
            frame.sample_rate, frame.pts = 48_000, 0
            made += track.encode(frame)
        for text in texts:
            text.codec_context.subtitle_header = ASS
            text.codec_context.time_base = Fraction(1, 1000)
            for k in range(3):
                line = f"{k},0,Default,,0,0,0,,Line {k}".encode()
                packet = text.codec_context.encode_subtitle(
                    SubtitleSet.create(line, 0, 500)
                )
                packet.stream, packet.time_base = text, Fraction(1, 1000)
                packet.pts = packet.dts = 1000 * k + 100
                packet.duration = 500
                made.append(packet)
        for stream in (video, *tracks):
            made += stream.encode(None)
        container.mux(sorted(made, key=lambda x: x.dts * x.time_base))
    return path


def subtitles_of(path):
    """Return (start, end, text) of the lines of each track of subtitles."""
    found = []
    with av.open(str(path)) as container:
        indices = [stream.index for stream in container.streams.subtitles]
    for index in indices:
        with av.open(str(path)) as container:
            track, lines = container.streams[index], []
            for packet in container.demux(track):
                for text in track.decode(packet) if packet.size else ():
                    times = packet.pts, packet.pts + packet.duration
                    begin, end = (float(time * packet.time_base) for time in times)
                    line = re.sub("{.*?}", "", text.ass.decode())  # without styles
                    lines.append((begin, end, line.split(",,")[-1]))
            found.append(lines)
    return found


@pytest.mark.parametrize(
    ("source", "made", "suffix", "kept"),
    [
        ("disc.mp4", {"subtitles": ["mov_text"]}, ".mp4", ["mov_text"]),
        ("disc.mp4", {"subtitles": ["mov_text"]}, ".mkv", ["subrip"]),
        ("disc.mkv", {"subtitles": ["subrip", "ass"]}, ".mkv", ["subrip", "ass"]),
        ("disc.mkv", {"subtitles": ["subrip", "ass"]}, ".mov", ["mov_text"] * 2),
        ("disc.mkv", {"subtitles": ["subrip", "ass"]}, ".webm", ["webvtt"] * 2),
    ],
)
@pytest.mark.parametrize(("start", "end"), [(0, None), (1.2, 2.4)])
def test_all_sound_subtitles_and_chapters_are_kept(
    tmp_path, caplog, source, made, suffix, kept, start, end
):
    path = copy(
        make_disc(tmp_path / source, **made), tmp_path / f"copy{suffix}", start, end
    )
    with av.open(str(path)) as container:
        streams = [*container.streams.audio, *container.streams.subtitles]
        names = [s.codec_context.codec.canonical_name for s in streams[2:]]
        default = [bool(s.disposition & Disposition.default) for s in streams[:2]]
        chapters = [c["metadata"]["title"] for c in container.chapters()]
        begins = [float(c["start"] * c["time_base"]) for c in container.chapters()]
    assert names == kept
    assert [s.language for s in streams] == ["eng", "fra"] + ["eng"] * len(kept)
    titles = [s.metadata.get("title", s.metadata.get("name")) for s in streams]
    assert titles == ["Film", "Commentary"] + ["All"] * len(kept)
    assert default == [False, True]
    lines = [(k + 0.1, k + 0.6, f"Line {k}") for k in range(3)]
    if start:
        lines = [(0, 0.4, "Line 1"), (0.9, 1.2, "Line 2")]
    for found in subtitles_of(path):
        assert [line[2] for line in found] == [line[2] for line in lines]
        times = [line[:2] for line in found], [line[:2] for line in lines]
        np.testing.assert_allclose(*times, atol=2e-3)
    assert chapters == [f"Chapter {k}" for k in range(1 if start else 0, 3)]
    assert begins == pytest.approx([0, 0.8] if start else [0, 1, 2], abs=2e-3)
    assert seconds_of_sound(path, 1) == pytest.approx((end or 3) - start, abs=0.05)
    assert not caplog.records


def test_subtitles_of_a_silent_film_are_kept(tmp_path):
    made = make_disc(tmp_path / "silent.mkv", ["subrip"], tracks=0)
    info = probe(made)
    assert info.has_more and not info.has_audio
    path = copy(made, tmp_path / "copy.mp4", 1.2)
    assert [line[2] for line in subtitles_of(path)[0]] == ["Line 1", "Line 2"]
    assert times_of(path)[0] == 0


def test_what_the_new_file_cannot_hold_is_said_once(tmp_path, caplog):
    made = tmp_path / "clip.mkv"
    with av.open(str(made), "w") as container:
        container.add_attachment("font.ttf", "font/ttf", b"font")
        for _ in range(2):
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height = 64, 48
            stream.metadata["language"] = "fra"
        for stream in container.streams.video:
            frame = av.VideoFrame.from_ndarray(gray_pictures(1)[0], "rgb24")
            frame.pts = 0
            container.mux([*stream.encode(frame), *stream.encode(None)])
    copy(made, tmp_path / "copy.mkv")
    copy(made, tmp_path / "copy.mp4")
    sentences = [record.getMessage() for record in caplog.records]
    assert len(sentences) == 2
    assert sentences[0] == f"{made}: not carried over: pictures (h264, fra)"
    assert sentences[1] == f"{sentences[0]}, attachment (of unknown codec)"
    with av.open(str(tmp_path / "copy.mkv")) as container:
        assert [stream.type for stream in container.streams] == ["video", "attachment"]


def test_sound_that_never_begins_is_left_out_and_said(tmp_path, caplog):
    """A recording that breaks off before the first packet of its sound."""
    made = make_clip(tmp_path / "clip.ts", noise_pictures(20), sound="aac")
    data = made.read_bytes()
    packets = (data[k : k + 188] for k in range(0, len(data), 188))
    sound = next(k for k, packet in enumerate(packets) if packet[1:3] == b"A\x01")
    made.write_bytes(data[: 188 * sound])  # its PID is 0x101, 0x40 begins a packet
    with av.open(str(made)) as container:
        assert container.streams.audio[0].rate == 0
    path = copy(made, tmp_path / "copy.mp4")
    assert len(times_of(path)) >= 1
    assert "clip.ts: not carried over: sound (aac)" in caplog.text


def test_sound_whose_times_run_backward_is_kept_where_they_grow(tmp_path):
    fragments = {"movflags": "frag_every_frame+empty_moov"}
    made = make_clip(
        tmp_path / "clip.mp4", noise_pictures(30), container=fragments, sound="aac"
    )
    times = [pts for pts, *_ in packets_of(made, "audio")]
    assert times != sorted(set(times))
    path = copy(made, tmp_path / "copy.mp4")
    assert seconds_of_sound(path) == pytest.approx(1.2, abs=0.1)


def test_surround_becomes_stereo_where_it_is_encoded(tmp_path):
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
    for suffix, channels in ((".mp4", [1, 6]), (".webm", [1, 2])):
        path = write(tmp_path / f"copy{suffix}", gray_pictures(1), audio_from=made)
        with av.open(str(path)) as container:
            assert [track.channels for track in container.streams.audio] == channels


def test_sound_and_pictures_lie_side_by_side_in_the_file(tmp_path):
    source = make_clip(tmp_path / "clip.mp4", noise_pictures(100), fps=4, sound="aac")
    with av.open(str(copy(source, tmp_path / "copy.mp4"))) as container:
        packets = [
            (packet.pos, packet.stream.type, float(packet.dts * packet.time_base))
            for packet in container.demux()
            if packet.size
        ]
    latest = {"video": 0.0, "audio": 0.0}
    for _, kind, time in sorted(packets):
        latest[kind] = time
        assert abs(latest["video"] - latest["audio"]) < 2  # the clip is 25 s long


# --- the file ---


def test_metadata_goes_into_the_file_and_the_index_comes_first(tmp_path):
    marks = {"title": "a title", "comment": "ünïcode", "AnyKey": "any value"}
    path = write(tmp_path / "clip.mp4", gray_pictures(1), metadata=marks)
    with av.open(str(path)) as container:
        assert marks.items() <= container.metadata.items()
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_file_may_replace_its_own_source(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", flash_pictures(), sound="aac")
    copy(path, path)
    assert len(times_of(path)) == 60 and len(clicks(path)) == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]


def test_pictures_are_numbered_and_their_folder_appears_whole(tmp_path):
    folder = tmp_path / "frames"
    for again in (False, True):  # then the folder is replaced
        with VideoWriter(folder, 64, 48, 25, xmp=b"<x/>") as writer:
            for picture in gray_pictures(3):
                writer.write(picture)
                assert folder.exists() == again
        files = list_images(folder)
        assert [file.name for file in files] == [f"00000{k}.png" for k in range(3)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]
    for file, picture in zip(files, gray_pictures(3), strict=True):
        np.testing.assert_array_equal(read_image(file), picture)
        assert b"<x/>" in file.read_bytes()


# --- writing: faults ---


@pytest.mark.parametrize(
    ("name", "written", "error"),
    [
        ("new/clip.mp4", 3, KeyboardInterrupt),
        ("new/clip.mp4", 0, RuntimeError),
        ("new/frames", 3, RuntimeError),
    ],
)
@pytest.mark.parametrize("resumable", [False, True])
def test_nothing_is_left_after_an_exception(tmp_path, name, written, error, resumable):
    writer = VideoWriter(tmp_path / name, 64, 48, 25)
    if resumable:
        writer = ResumableWriter(tmp_path / name, 64, 48, 25, settings={})
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "clip.mp4").write_text("was here before")
    with pytest.raises(error), writer:
        for picture in gray_pictures(written):
            writer.write(picture)
        raise error
    assert [e.name for e in (tmp_path / "new").iterdir()] == ["clip.mp4"]
    assert (tmp_path / "new" / "clip.mp4").read_text() == "was here before"


needs_full_device = pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs a full device"
)


@needs_full_device
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm"])
@pytest.mark.parametrize("joining", [False, True])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, name, joining):
    path = tmp_path / name
    with (
        pytest.raises(OSError, match=f"{path} cannot .* the disk is full") as raised,
        VideoWriter(path, 64, 48, 25) as writer,
    ):
        (hidden,) = tmp_path.glob(".unfinished/*")
        full = f"whole{path.suffix}" if joining else "000000.nut"
        (hidden / full).symlink_to("/dev/full")  # gives ENOSPC at every byte
        for picture in gray_pictures(9):
            writer.write(picture)
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_made_are_said(tmp_path):
    (tmp_path / "file.txt").write_text("in the way")
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "clip.mp4").mkdir()
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "me.png").write_text("not ours")
    missing = {"audio_from": tmp_path / "nowhere.mp4"}
    for name, options, error, message in (
        ("clip.mp4", {}, IsADirectoryError, "give the name of a file"),
        ("holiday", {}, ValueError, r"other things \(me\.png\) than numbered"),
        ("file", {}, NotADirectoryError, "is a file; give the name of a folder"),
        ("file/clip.mp4", {}, OSError, "choose another output folder"),
        ("a.mp4", missing, FileNotFoundError, "nowhere"),
        ("a.mp4", {}, ValueError, "no frame was written"),
    ):
        with (
            pytest.raises(error, match=message),
            VideoWriter(tmp_path / name, 64, 48, 25, **options),
        ):
            pass
    names = {"file", "file.txt", "clip.mp4", "holiday"}
    assert {entry.name for entry in tmp_path.iterdir()} == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "clip.avi"}, r"path must end in \.mp4, .* be a folder, got clip\.a"),
        ({"path": "shot/%05d.png"}, r"path must end in .* be a folder, got shot"),
        ({"path": "clip.gif"}, r"path must end in .* got clip\.gif"),
        ({"width": 16386}, "libx264 cannot encode 16386x48 pixels: write another"),
        ({"path": "a.webm", "height": 90_000}, "libvpx-vp9 cannot encode 64x90000"),
        ({"path": "a.mkv", "lossless": True, "width": 1}, "ffv1 cannot encode 1x48"),
        ({"path": f"{'n' * 252}.mp4"}, "too long a name by 1 bytes"),
        ({"width": 0}, r"width and height must be at least 1, got 0, 48"),
        ({"fps": 0}, "fps must be above 0, got 0"),
        ({"crf": 52}, r"crf must lie in 0\.\.51, got 52"),
        ({"start": -1}, "start must be at least 0 seconds, got -1"),
        ({"start": 2, "end": 1}, "end must be after start"),
        ({"encoder": "gpu"}, "encoder must be 'software' or 'nvenc', got 'gpu'"),
        ({"path": "a.webm", "encoder": "nvenc"}, "'nvenc' makes H.264: .* a.webm"),
        ({"path": "a.mkv", "encoder": "nvenc", "lossless": True}, "leave out lossless"),
        ({"lossless": True}, r"lossless needs a path that ends in \.mkv, got clip"),
        ({"path": "a", "lossless": True}, r"lossless needs .* \.mkv, got a"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    settings = {"path": "clip.mp4", "width": 64, "height": 48, "fps": 25, **options}
    with pytest.raises(ValueError, match=message):
        VideoWriter(**settings)


NO_NVENC = "h264_nvenc.* cannot encode 256x192 pixels: it needs an NVIDIA card, its"


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="has a card")
def test_without_a_card_its_encoder_is_refused_before_the_work():
    with pytest.raises(ValueError, match=NO_NVENC) as raised:
        VideoWriter("clip.mp4", 256, 192, 25, encoder="nvenc", crf=20)
    if "h264_nvenc" in av.codecs_available:
        asked = raised.value.__cause__.filename  # what FFmpeg was called with
        assert "'cq': '20'" in asked and "'b': '0'" in asked and "'bf': '0'" in asked


def test_an_encoder_that_ffmpeg_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(encoding, "_NVENC", "h264_nvenc_of_another_build")
    with pytest.raises(ValueError, match=NO_NVENC):
        VideoWriter("clip.mp4", 256, 192, 25, encoder="nvenc")


def test_on_a_card_every_part_and_the_whole_are_set_up_alike(tmp_path, monkeypatch):
    add_video, asked = encoding._add_video, []

    def in_software(container, video_format):  # in the place of the card
        asked.append((video_format.codec, video_format.options))
        options = {"bf": "0"}
        stand_in = replace(video_format, codec="libx264", options=options)
        return add_video(container, stand_in)

    monkeypatch.setattr(encoding, "_add_video", in_software)
    path = write(tmp_path / "clip.mkv", gray_pictures(3), encoder="nvenc", crf=0)
    assert probe(path).frame_count == 3
    quality = {"rc": "vbr", "cq": "1", "b": "0", "preset": "p4", "bf": "0"}
    # To see whether it opens, for the part, and for the headers of the whole.
    assert asked == [("h264_nvenc", quality)] * 3


@pytest.mark.parametrize(
    ("image", "time", "message"),
    [
        (np.zeros((48, 60, 3), np.uint8), None, r"got uint8 \(48, 60, 3\)"),
        (np.zeros((48, 64, 3), np.float32), None, "got float32"),
        (np.zeros((48, 64, 3), np.uint8), 1.0, r"time must grow.*1 s after 1 s"),
    ],
)
def test_frames_that_do_not_fit_are_refused(tmp_path, source_of, image, time, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path / "a.mp4", [gray_pictures(1)[0], image], times=[1.0, time])
    sound = dict(audio_from=source_of("aac.mp4"), start=1.0)
    with pytest.raises(ValueError, match="time must count from the start of audio_fr"):
        write(tmp_path / "a.mp4", gray_pictures(1), times=[0.0], **sound)


# --- in parts, which survive a kill ---

COUNT, PART = 40, 9  # frames in all, and in a part
STEADY = [Fraction(k, 25) for k in range(COUNT)]
VARIABLE = [Fraction(k * k + 40 * k, 2400) for k in range(COUNT)]
OUTPUTS = {"variable.mp4": VARIABLE, "film.webm": STEADY, "pictures": STEADY}


def picture(index):
    rng = np.random.default_rng(index)
    image = np.kron(rng.integers(0, 256, (6, 8, 3)), np.ones((8, 8, 1)))
    return image.astype(np.uint8)


def write_parts(path, times, count=COUNT, settings=None, **options):
    """Convert as a stage does: frames in parts, from where it stopped."""
    writer = ResumableWriter(path, 64, 48, 25, settings=settings or {}, **options)
    with writer:
        total = writer.state.get("total", np.zeros(1))
        for index in range(writer.frames_done, count):
            sys.audit("frame")
            writer.write(picture(index), times[index])
            total = total + index
            if (index + 1) % PART == 0:
                writer.end_part({"total": total})
        return float(total[0])


def write_and_die(path, audio_from, deadline):
    """Die by SIGKILL at the so-manieth frame or change of a file."""
    left = deadline
    counted = {"frame", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}

    def count(event, arguments):
        nonlocal left
        opened = event == "open" and str(path.parent) in str(arguments[0])
        if opened or event in counted:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    write_parts(path, OUTPUTS[path.name], audio_from=audio_from)


def killed(path, audio_from, deadline):
    """Run `write_and_die` in a process of its own; return whether it was killed."""
    code = (
        "import sys; from pathlib import Path; import test_writer as test; "
        "test.write_and_die(Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3]))"
    )
    here = Path(__file__).parent
    command = [sys.executable, "-c", code, path, str(audio_from or ""), str(deadline)]
    return subprocess.run(command, cwd=here).returncode == -signal.SIGKILL


def contents(path):
    """Return all that can be told of an output: pictures, or length and packets."""
    if path.is_dir():
        return [(file.name, file.read_bytes()) for file in list_images(path)]
    with av.open(str(path)) as container:
        packets = [
            (p.stream.type, p.pts, p.dts, p.duration, p.is_keyframe, bytes(p))
            for p in container.demux()
        ]
        return [container.duration, *packets]


def parts_of(path):
    return path.with_name(f".{path.name}.parts")


def stop_after(path, frames, **options):
    """Leave the finished parts of a conversion that fails."""
    with pytest.raises(ValueError, match="no time"):
        write_parts(path, [*STEADY[:frames], "no time"], **options)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_conversion_killed_anywhere_ends_as_if_it_was_not(tmp_path, source_of, name):
    times, path, straight = OUTPUTS[name], tmp_path / name, tmp_path / "straight" / name
    sounds = {"variable.mp4": "aac.mp4", "film.webm": "opus.webm"}
    sound = source_of(sounds[name]) if name in sounds else None
    write_parts(straight, times, audio_from=sound)
    changes = 2 if name == "pictures" else 1  # of files, for each frame
    for deadline in (14, 21, 18):
        assert killed(path, sound, deadline * changes)
    assert not path.exists() and list(parts_of(path).glob("*.npz"))
    assert write_parts(path, times, audio_from=sound) == sum(range(COUNT))
    assert not parts_of(path).exists()
    assert contents(path) == contents(straight)


def test_parts_join_without_a_seam(tmp_path):
    path = tmp_path / "film.mp4"
    write_parts(path, STEADY)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        starts = [k for k, packet in enumerate(packets) if packet.is_keyframe]
        assert set(starts) >= set(range(0, COUNT, PART))
        durations = {packet.duration * packet.time_base for packet in packets}
    assert durations == {Fraction(1, 25)}
    assert probe(path).duration == COUNT / 25
    for index, frame in enumerate(read_frames(path)):
        assert np.abs(frame.image.astype(int) - picture(index)).mean() < 15


def test_what_is_done_and_its_state_come_back_after_an_exception(tmp_path):
    path = tmp_path / "new" / "film.mp4"
    stop_after(path, 23)
    assert [entry.name for entry in path.parent.iterdir()] == [".film.mp4.parts"]
    with (
        pytest.raises(KeyboardInterrupt),
        ResumableWriter(path, 64, 48, 25, settings={}) as writer,
    ):
        assert writer.frames_done == 18
        assert writer.state == {"total": sum(range(18))}
        writer.end_part({"total": 0})  # no frame came: nothing happens
        writer.write(picture(18), STEADY[18])
        raise KeyboardInterrupt
    left = {entry.name for entry in parts_of(path).iterdir()}
    assert left - {"lock"} == {"done.npz", "000000.nut", "000001.nut"}
    with np.load(parts_of(path) / "done.npz") as done:
        assert done["state_total"] == sum(range(18))


def test_what_a_killed_process_left_unfinished_does_not_get_into_the_output(tmp_path):
    path = tmp_path / "pictures"
    stop_after(path, 23)
    names = [file.name for file in list_images(parts_of(path) / "pictures")]
    assert names == [f"{index:06d}.png" for index in range(18)]
    for left in ("pictures/000099.png", "pictures/.000018-1.png", "unfinished.npz"):
        (parts_of(path) / left).write_bytes(b"half of it")
    write_parts(path, STEADY)
    assert len(list(path.iterdir())) == COUNT
    assert [entry.name for entry in tmp_path.iterdir()] == ["pictures"]


def without(name):
    def damage(path):
        with np.load(path) as done:
            np.savez(path, **{key: done[key] for key in done.files if key != name})

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:300]),
        lambda path: path.write_bytes(b"text"),
        lambda path: np.savez(path, settings=np.array([print])),  # to be unpickled
        without("settings"),
        without("position"),
    ],
)
def test_damaged_parts_are_thrown_away(tmp_path, caplog, damage):
    path = tmp_path / "film.mp4"
    stop_after(path, 23)
    damage(parts_of(path) / "done.npz")
    with ResumableWriter(path, 64, 48, 25, settings={}) as writer:
        assert (writer.frames_done, writer.state) == (0, {})
        writer.write(picture(0), STEADY[0])
    assert "film.mp4: the parts found are damaged" in caplog.text
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [("000000.nut", 0.5), ("000001.nut", None), ("pictures/000003.png", None)],
)
def test_cut_and_missing_parts_are_thrown_away(tmp_path, caplog, name, kept):
    path = tmp_path / ("film" if "pictures" in name else "film.mp4")
    stop_after(path, 23)
    part = parts_of(path) / name
    if kept is None:
        part.unlink()
    else:
        os.truncate(part, int(kept * part.stat().st_size))
    write_parts(path, STEADY)
    assert "are damaged" in caplog.text
    assert len(list(read_frames(path))) == COUNT
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "change", [{"settings": {"model": 2}}, {"crf": 30}, {"end": 3.0}]
)
def test_parts_of_another_conversion_are_thrown_away(tmp_path, caplog, change):
    path = tmp_path / "film.mp4"
    stop_after(path, 23, settings={"model": 1})
    changed = {"settings": {"model": 1}, **change}
    with (
        pytest.raises(KeyboardInterrupt),
        ResumableWriter(path, 64, 48, 25, **changed) as writer,
    ):
        assert (writer.frames_done, writer.state) == (0, {})
        raise KeyboardInterrupt
    assert "of another conversion" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_finished_file_passes_by_before_it_takes_its_name(tmp_path):
    path, whole, seen = tmp_path / "film.webm", 2 * PART, []

    def fail(file):
        assert not path.exists()
        seen.append((file.suffix, probe(file).frame_count))
        raise RuntimeError("no signature")

    with pytest.raises(RuntimeError, match="no signature"):
        write_parts(path, STEADY, count=whole, finish=fail)
    assert seen == [(".webm", whole)] and not path.exists()
    write_parts(path, STEADY, count=whole)  # nothing is left to do but to join
    assert probe(path).frame_count == whole


def test_two_writers_of_one_output_are_refused(tmp_path):
    path = tmp_path / "film.mp4"
    with ResumableWriter(path, 64, 48, 25, settings={}) as first:
        second = ResumableWriter(path, 64, 48, 25, settings={})
        with pytest.raises(BlockingIOError, match="being written by another"), second:
            pass
        first.write(picture(0))
    assert probe(path).frame_count == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]


def test_where_files_cannot_be_locked_a_sentence_says_so(tmp_path, monkeypatch, caplog):
    def unsupported(*arguments):  # as on a mount of Google Drive
        raise OSError(errno.ENOSYS, "Function not implemented")

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", unsupported)
    path = tmp_path / "film.mp4"
    stop_after(path, 23)
    assert "film.mp4 lies where files cannot be locked (" in caplog.text
    assert write_parts(path, STEADY) == sum(range(COUNT))
    assert [entry.name for entry in tmp_path.iterdir()] == ["film.mp4"]


@needs_full_device
def test_a_full_disk_keeps_the_finished_parts(tmp_path):
    path = tmp_path / "film.mp4"
    with (
        pytest.raises(OSError, match=f"{path} cannot be written: the disk is full"),
        ResumableWriter(path, 64, 48, 25, settings={}) as writer,
    ):
        for index in range(PART):
            writer.write(picture(index))
        writer.end_part({})
        (parts_of(path) / "000001.nut").symlink_to("/dev/full")
        for index in range(COUNT):
            writer.write(picture(index))
        writer.end_part({})
    assert not path.exists()
    left = {entry.name for entry in parts_of(path).iterdir()}
    assert left - {"lock"} == {"done.npz", "000000.nut"}


@pytest.mark.parametrize(
    ("left", "remains"),
    [
        ({"joined", "done.npz", "000000.nut"}, False),  # the output has its name
        ({"000000.nut"}, False),  # and no part was finished
        (set(), False),
        ({"done.npz", "000000.nut"}, True),
        ({"joined", "done.npz", "000000.nut", "whole.mp4"}, True),
    ],
)
def test_parts_that_nobody_can_go_on_with_are_removed(tmp_path, left, remains):
    path = tmp_path / "film.mp4"
    parts_of(path).mkdir()
    for name in left:
        (parts_of(path) / name).touch()
    remove_leftovers(path)
    assert parts_of(path).exists() is remains


def test_parts_encoded_in_another_way_are_refused(tmp_path):
    path = tmp_path / "film.mp4"
    with (
        pytest.raises(ValueError, match=r"not all encoded .* delete that folder"),
        ResumableWriter(path, 64, 48, 25, settings={}) as writer,
    ):
        writer.write(picture(0))
        writer.end_part({})
        other = make_clip(tmp_path / "other.nut", [picture(0)])
        os.replace(other, parts_of(path) / "000000.nut")


def test_settings_that_json_does_not_know_are_refused(tmp_path):
    with pytest.raises(TypeError, match="not JSON serializable"):
        ResumableWriter(tmp_path / "film.mp4", 64, 48, 25, settings={"a": object()})
