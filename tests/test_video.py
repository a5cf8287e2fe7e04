import logging
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from fsgan.media import reader as video
from fsgan.media.writer import VideoWriter

NTSC = Fraction(30000, 1001)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
FLASHES = (20, 45)  # frames that are white, and have a click


def make_clip(
    path,
    pictures,
    *,
    fps=25,
    times=None,
    codec="libx264",
    pixels="yuv420p",
    options=None,
    setup=None,
    tags=None,
    sound=None,
    rate=44_100,
):
    """Write a clip straight with PyAV, so that the reader is tested on its own."""
    pictures = list(pictures)
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        times = times or [Fraction(k) / fps for k in range(len(pictures))]
        time_base = Fraction(1, 90_000) if codec == "libx264" else 1 / Fraction(fps)
        stream.codec_context.time_base = time_base
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if setup:
            setup(stream)
        track = container.add_stream(sound, rate=rate) if sound else None
        if track:
            track.layout = "mono"
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if track:
            samples = np.zeros((1, round(len(pictures) / fps * rate)), np.float32)
            for index in (k for k in FLASHES if k < len(pictures)):
                begin = round(index / fps * rate)
                samples[0, begin : begin + 100] = 0.9 * np.sin(np.arange(100) * 0.5)
            for begin in range(0, samples.shape[1], 1024):
                piece = np.ascontiguousarray(samples[:, begin : begin + 1024])
                frame = av.AudioFrame.from_ndarray(piece, "fltp", "mono")
                frame.pts, frame.sample_rate = begin, rate
                frame.time_base = Fraction(1, rate)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def gray_pictures(count, height=48, width=64):
    """Pictures that tell their own number by their brightness."""
    return [np.full((height, width, 3), 16 + 3 * k, np.uint8) for k in range(count)]


def flash_pictures(count=60):
    pictures = [np.full((48, 64, 3), 20, np.uint8) for _ in range(count)]
    for index in FLASHES:
        pictures[index][:] = 255
    return pictures


def corner_card(height=48, width=64):
    card = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    card[:top, :left], card[:top, left:] = RED, GREEN
    card[top:, :left], card[top:, left:] = BLUE, WHITE
    return card


def corners(image):
    """Return the colours in the middle of the four quarters, fully on or off."""
    height, width = image.shape[:2]
    picked = image[height // 4 :: height // 2, width // 4 :: width // 2]
    return [tuple(c) for c in (picked[:2, :2].reshape(4, 3) > 127) * 255]


def colour_card():
    """Colour fields and a ramp, softened as by a lens."""
    rng = np.random.default_rng(0)
    card = np.kron(rng.integers(0, 256, (4, 6, 3)), np.ones((48, 48, 1)))
    card[-48:] = np.linspace(0, 255, 288)[None, :, None]
    picture = Image.fromarray(card.astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(2)))


def copy(source, path, start=0.0, end=None, **options):
    info = video.probe(source)
    with VideoWriter(
        path,
        info.width,
        info.height,
        info.fps,
        audio_from=source,
        start=start,
        end=end,
        **options,
    ) as writer:
        for frame in video.read_frames(source, start, end):
            writer.write(frame.image, frame.time)
    return path


def times_of(path):
    return [frame.time for frame in video.read_frames(path)]


def clicks(path):
    """Return when sound begins after silence, on the clock the pictures use."""
    times, levels = [], []
    with av.open(str(path)) as container:
        origin = min(s.start_time * s.time_base for s in container.streams)
        for frame in container.decode(audio=0):
            level = np.abs(frame.to_ndarray().astype(float))[0]
            begin = float(frame.pts * frame.time_base - origin)
            times.append(begin + np.arange(level.size) / frame.sample_rate)
            levels.append(level)
    times, levels = np.concatenate(times), np.concatenate(levels)
    loud = times[levels > levels.max() / 2]
    return loud[np.diff(loud, prepend=-1) > 0.2]


def flashes(path):
    return [f.time for f in video.read_frames(path) if f.image.mean() > 127]


def codec_of_sound(path):
    with av.open(str(path)) as container:
        return container.streams.audio[0].codec_context.name


# --- reading: exact numbers ---


def test_probe_tells_size_rate_length_and_sound(tmp_path):
    silent = make_clip(tmp_path / "silent.mp4", gray_pictures(30), fps=NTSC)
    info = video.probe(silent)
    assert info == video.VideoInfo(
        path=silent,
        width=64,
        height=48,
        fps=NTSC,
        duration=info.duration,
        frame_count=30,
        has_audio=False,
    )
    assert info.duration == pytest.approx(30 * 1001 / 30000, abs=1e-3)
    loud = make_clip(tmp_path / "loud.mp4", gray_pictures(5), sound="aac")
    assert video.probe(str(loud)).has_audio


def test_frames_come_in_order_with_index_and_exact_time(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", gray_pictures(40), fps=NTSC)
    frames = list(video.read_frames(path))
    assert [frame.index for frame in frames] == list(range(40))
    assert [frame.time for frame in frames] == [k / NTSC for k in range(40)]
    brightness = [frame.image.mean() for frame in frames]
    np.testing.assert_allclose(brightness, 16 + 3 * np.arange(40), atol=2)
    assert frames[0].image.dtype == np.uint8 and frames[0].image.flags.writeable


def test_start_and_end_choose_by_time_and_keep_the_index(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", gray_pictures(50))
    frames = list(video.read_frames(path, start=0.04, end=0.2))
    assert [frame.index for frame in frames] == [1, 2, 3, 4]
    assert [frame.time for frame in frames] == [Fraction(k, 25) for k in range(1, 5)]
    assert frames[0].image.mean() == pytest.approx(19, abs=2)


def test_matroska_times_are_put_back_on_the_exact_rate(tmp_path):
    path = make_clip(tmp_path / "clip.mkv", gray_pictures(20), fps=NTSC)
    assert times_of(path) == [k / NTSC for k in range(20)]


def test_a_variable_rate_keeps_its_times(tmp_path):
    times = [Fraction(k, 1000) for k in (0, 40, 73, 400, 441, 1000, 1013)]
    path = make_clip(tmp_path / "clip.mp4", gray_pictures(7), times=times)
    assert times_of(path) == times


@pytest.mark.parametrize(
    ("degrees", "mirrored", "expected"),
    [
        (0, False, [RED, GREEN, BLUE, WHITE]),
        (90, False, [GREEN, WHITE, RED, BLUE]),  # turned counter-clockwise
        (180, False, [WHITE, BLUE, GREEN, RED]),
        (270, False, [BLUE, RED, WHITE, GREEN]),
        (0, True, [GREEN, RED, WHITE, BLUE]),
        (90, True, [WHITE, GREEN, BLUE, RED]),
    ],
)
def test_rotated_video_comes_upright(tmp_path, degrees, mirrored, expected):
    path = make_clip(
        tmp_path / "clip.mp4",
        [corner_card()] * 2,
        setup=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )
    info, frame = video.probe(path), next(video.read_frames(path))
    size = (64, 48) if degrees % 180 == 0 else (48, 64)
    assert (info.width, info.height) == size
    assert frame.image.shape == (size[1], size[0], 3)
    assert frame.image.flags.c_contiguous
    assert corners(frame.image) == expected


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    path = make_clip(
        tmp_path / "clip.mp4",
        [corner_card()],
        tags={"sample_aspect_ratio": Fraction(3, 2)},
    )
    assert (video.probe(path).width, video.probe(path).height) == (96, 48)
    assert next(video.read_frames(path)).image.shape == (48, 96, 3)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("clip.mp4", "libx264", "yuv444p"),
        ("clip.mp4", "libx264", "yuv420p10le"),
        ("clip.mp4", "libx264", "yuvj420p"),
        ("clip.mpg", "mpeg1video", "yuv420p"),
        ("clip.mkv", "ffv1", "bgr0"),
        ("clip.mov", "mjpeg", "yuvj422p"),
    ],
)
def test_every_common_pixel_format_is_read(tmp_path, name, codec, pixels):
    path = make_clip(tmp_path / name, [corner_card()] * 3, codec=codec, pixels=pixels)
    frames = list(video.read_frames(path))
    assert len(frames) == 3
    assert corners(frames[-1].image) == [RED, GREEN, BLUE, WHITE]


def test_odd_sizes_are_read_as_they_are(tmp_path):
    path = make_clip(tmp_path / "odd.mp4", [corner_card(47, 63)], pixels="yuv444p")
    assert (video.probe(path).width, video.probe(path).height) == (63, 47)
    assert next(video.read_frames(path)).image.shape == (47, 63, 3)


# Red and blue weights of the matrices, from ITU-R BT.601 and BT.709.
@pytest.mark.parametrize(
    ("size", "colorspace", "full", "red", "blue"),
    [
        ((48, 64), 5, False, 0.299, 0.114),
        ((48, 64), 6, True, 0.299, 0.114),
        ((48, 64), 1, False, 0.2126, 0.0722),
        ((48, 64), 1, True, 0.2126, 0.0722),
        ((48, 64), 2, False, 0.299, 0.114),  # untagged and small
        ((720, 64), 2, False, 0.2126, 0.0722),  # untagged and large
    ],
)
def test_the_colour_matrix_and_range_of_the_file_are_used(
    tmp_path, size, colorspace, full, red, blue
):
    luma, blueness, redness = 120, 90, 170
    plane = np.empty((3, *size), np.uint8)
    plane[0], plane[1], plane[2] = luma, blueness, redness
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p"
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = 2 if full else 1
        container.mux(stream.encode(av.VideoFrame.from_ndarray(plane, "yuv444p")))
        container.mux(stream.encode(None))
    y = luma / 255 if full else (luma - 16) / 219
    pb, pr = ((c - 128) / (255 if full else 224) for c in (blueness, redness))
    r, b = y + 2 * (1 - red) * pr, y + 2 * (1 - blue) * pb
    g = (y - red * r - blue * b) / (1 - red - blue)
    image = next(video.read_frames(tmp_path / "clip.mp4")).image
    np.testing.assert_allclose(image[20, 20], np.array([r, g, b]) * 255, atol=1.5)


def planes_of(card, red, blue, full, pixels):
    """State of the standards: RGB to Y'CbCr, chroma sited left where it is halved."""
    bits = 10 if "10" in pixels else 8
    r, g, b = np.moveaxis(card / 255, -1, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    cb, cr = (b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)
    unit, top = 2 ** (bits - 8), 2**bits - 1
    middle = 128 * unit
    if full:
        planes = [y * top, cb * top + middle, cr * top + middle]
    else:
        planes = [(16 + 219 * y) * unit, *(224 * c * unit + middle for c in (cb, cr))]
    if "444" not in pixels:
        edged = [np.pad(c, ((0, 0), (1, 1)), "edge") for c in planes[1:]]
        planes[1:] = [(c[:, :-2:2] + 2 * c[:, 1:-1:2] + c[:, 2::2]) / 4 for c in edged]
    if "420" in pixels:
        planes[1:] = [(c[::2] + c[1::2]) / 2 for c in planes[1:]]
    return [np.rint(c).astype(np.uint16 if bits > 8 else np.uint8) for c in planes]


def soft_card():
    """Colours that differ widely but nowhere faster than halved chroma can follow."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    card = Image.fromarray(small).resize((224, 160), Image.Resampling.BICUBIC)
    return np.asarray(card)


BT601, BT709, BT2020 = (6, 0.299, 0.114), (1, 0.2126, 0.0722), (9, 0.2627, 0.0593)


@pytest.mark.parametrize(
    ("codec", "pixels", "matrix", "full"),
    [
        ("libx264", "yuv420p", BT601, False),
        ("libx264", "yuv420p", BT709, True),
        ("libx264", "yuvj420p", BT601, True),
        ("libx264", "yuv422p", BT709, False),
        ("libx264", "yuv444p", BT2020, False),
        ("libx264", "yuv420p10le", BT2020, False),
        ("libx264", "yuv422p10le", BT709, True),
        ("libx265", "yuv420p10le", BT709, False),
        ("libvpx-vp9", "yuv444p", BT601, True),
    ],
)
def test_a_colour_card_comes_back_within_2_levels(
    tmp_path, codec, pixels, matrix, full
):
    card, path = soft_card(), tmp_path / "card.mkv"
    colorspace, red, blue = matrix
    options = {
        "libx264": {"qp": "0"},
        "libx265": {"x265-params": "log-level=none:lossless=1:pools=1"},
        "libvpx-vp9": {"lossless": "1"},
    }[codec]
    frame = av.VideoFrame(224, 160, pixels)
    for plane, values in zip(
        frame.planes, planes_of(card, red, blue, full, pixels), strict=True
    ):
        lines = np.frombuffer(plane, values.dtype).reshape(plane.height, -1)
        lines[:, : plane.width] = values
    frame.colorspace, frame.color_range = colorspace, 2 if full else 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 224, 160, pixels
        stream.codec_context.colorspace = colorspace
        stream.codec_context.color_range = 2 if full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    image = next(video.read_frames(path)).image
    error = np.abs(image.astype(int) - card)
    # Rounding brightness and colour to 8 bits costs up to 2.1 levels of blue by itself.
    exact = "444" in pixels or "10" in pixels
    assert error.max() <= (2 if exact else 3)
    assert (error > 2).mean() < 1e-3


def clear_card():
    """Red on the left and blue on the right, the lower half transparent or nearly."""
    card = np.full((48, 64, 4), 255, np.uint8)
    card[:, :32], card[:, 32:] = (*RED, 255), (*BLUE, 255)
    card[24:, :32, 3], card[24:, 32:, 3] = 0, 51
    return card


@pytest.mark.parametrize("codec", ["png", "qtrle", "ffv1"])
def test_what_is_transparent_is_laid_over_white(tmp_path, codec):
    pixels = {"png": "rgba", "qtrle": "argb", "ffv1": "bgra"}[codec]
    path = tmp_path / ("clip.mkv" if codec == "ffv1" else "clip.mov")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        frame = av.VideoFrame.from_ndarray(clear_card(), format="rgba")
        container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))
    image = next(video.read_frames(path)).image
    picked = [tuple(image[y, x]) for y in (10, 40) for x in (10, 50)]
    assert picked == [RED, BLUE, WHITE, (204, 204, 255)]


@pytest.mark.parametrize("suffix", [".gif", ".png"])
def test_an_animation_keeps_its_times_and_is_laid_over_white(tmp_path, suffix):
    pictures = []
    for index in range(4):
        picture = np.zeros((40, 60, 4), np.uint8)
        picture[10:30, 5 + 10 * index : 15 + 10 * index] = (200, 0, 0, 255)
        pictures.append(Image.fromarray(picture))
    path = tmp_path / f"clip{suffix}"
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=[100, 300, 50, 200],
        disposal=2 if suffix == ".gif" else 1,
    )
    frames = list(video.read_frames(path))
    times = [0, Fraction(1, 10), Fraction(4, 10), Fraction(45, 100)]
    assert [frame.time for frame in frames] == times
    for index, frame in enumerate(frames):
        reddish = frame.image[20, ::10] == (200, 0, 0)
        assert (frame.image[20, 10 + 10 * index] == (200, 0, 0)).all()
        assert reddish.all(-1).sum() <= 1 and (frame.image[0] == 255).all()


def test_gray_video_is_gray(tmp_path):
    pictures = gray_pictures(3)
    path = make_clip(tmp_path / "clip.mkv", pictures, codec="ffv1", pixels="gray")
    for frame, picture in zip(video.read_frames(path), pictures, strict=True):
        np.testing.assert_array_equal(frame.image, picture)


@pytest.mark.parametrize("first", [Fraction(2), Fraction(-1)])
def test_a_clock_that_does_not_start_at_0_is_set_to_it(tmp_path, first):
    times = [first + Fraction(k, 25) for k in range(5)]
    path = make_clip(
        tmp_path / "clip.mkv" if first > 0 else tmp_path / "clip.nut",
        gray_pictures(5),
        codec="ffv1",
        pixels="bgr0",
        times=times,
    )
    assert times_of(path) == [Fraction(k, 25) for k in range(5)]


def test_the_sound_may_start_before_the_picture(tmp_path):
    times = [Fraction(1, 2) + Fraction(k, 25) for k in range(30)]
    path = make_clip(
        tmp_path / "clip.mov", gray_pictures(30), times=times, sound="pcm_s16le"
    )
    assert times_of(path) == times


@pytest.mark.parametrize(
    ("transfer", "interlaced", "message"),
    [(16, False, "is HDR"), (18, False, "is HDR"), (1, True, "is interlaced")],
)
def test_what_will_not_look_right_is_said_once(
    tmp_path, caplog, transfer, interlaced, message
):
    def setup(stream):
        stream.codec_context.color_trc = transfer

    path = make_clip(
        tmp_path / "clip.mp4",
        gray_pictures(3),
        setup=setup,
        options={"x264-params": "fake-interlaced=0:tff=1"} if interlaced else {},
    )
    video.probe(path)
    assert len(caplog.records) == 1 and message in caplog.text
    list(video.read_frames(path))
    assert len(caplog.records) == 1


def test_a_rate_for_a_video_is_refused(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", gray_pictures(1))
    for read in (video.probe, video.read_frames):
        with pytest.raises(ValueError, match=r"fps is for pictures only.*clip\.mp4"):
            read(path, fps=25)
    assert len(times_of(path)) == video.probe(path).frame_count == 1


def test_a_stream_that_notes_no_length_is_measured(tmp_path):
    pictures = [Image.fromarray(picture) for picture in gray_pictures(7)]
    pictures[0].save(
        tmp_path / "clip.gif", save_all=True, append_images=pictures[1:], duration=100
    )
    info = video.probe(tmp_path / "clip.gif")
    assert info.frame_count == 7
    assert info.duration == pytest.approx(0.7)
    assert len(times_of(tmp_path / "clip.gif")) == 7


# --- reading: faults ---


def break_file(path, at):
    """Overwrite a tenth of a file with nonsense."""
    data = bytearray(path.read_bytes())
    begin, length = int(len(data) * at), len(data) // 10
    data[begin : begin + length] = np.random.default_rng(0).bytes(length)
    path.write_bytes(data)


def noise_pictures(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


def test_a_damaged_stream_yields_what_decodes_and_one_warning(tmp_path, caplog):
    path = make_clip(
        tmp_path / "clip.mp4", noise_pictures(60), options={"g": "10"}, sound="aac"
    )
    assert len(times_of(path)) == 60
    assert not caplog.records
    break_file(path, at=0.5)
    with caplog.at_level(logging.WARNING):
        times = times_of(path)
    assert 30 <= len(times) <= 60
    assert len(caplog.records) == 1
    assert f"clip.mp4 is damaged: {len(times)} frames" in caplog.text
    assert all(np.diff(np.array(times, float)) > 0)


def moving_pictures(count=40):
    """A texture that wanders, so that each frame builds on the one before it."""
    rng = np.random.default_rng(0)
    large = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    large = np.asarray(large.resize((300, 200), Image.Resampling.BICUBIC))
    return [large[k : k + 96, 2 * k : 2 * k + 128].copy() for k in range(count)]


def break_packet(path, number, whole=False):
    """Overwrite the end of one packet, or all of it, with nonsense."""
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(video=0) if packet.size]
        content = bytes(found[number])
    begin = 0 if whole else len(content) // 3
    nonsense = np.random.default_rng(0).bytes(len(content) - begin)
    data = path.read_bytes()
    assert data.count(content) == 1
    path.write_bytes(data.replace(content, content[:begin] + nonsense))


@pytest.mark.parametrize(
    ("name", "codec", "broken", "damaged"),
    [
        ("clip.mp4", "libx264", 20, [20]),  # said by the decoder
        ("clip.mp4", "libx264", 25, [25]),
        ("clip.mp4", "mpeg4", 25, [25]),
    ],
)
def test_a_frame_that_the_decoder_made_up_in_part_is_damaged(
    tmp_path, caplog, name, codec, broken, damaged
):
    options = {"g": "20", "bf": "0", "crf": "18"}
    path = make_clip(tmp_path / name, moving_pictures(), codec=codec, options=options)
    assert not any(frame.damaged for frame in video.read_frames(path))
    break_packet(path, broken)
    frames = list(video.read_frames(path))
    assert [frame.time for frame in frames] == [Fraction(k, 25) for k in range(40)]
    assert [frame.index for frame in frames if frame.damaged] == damaged
    assert f"40 frames of it were used, {len(damaged)} damaged, 0 lost" in caplog.text
    assert not any(frame.damaged for frame in video.read_frames(path, end=broken / 25))


def test_a_lost_frame_leaves_a_gap_and_damages_what_builds_on_it(tmp_path, caplog):
    path, options = tmp_path / "clip.webm", {"g": "20"}
    make_clip(path, moving_pictures(), codec="libvpx-vp9", options=options)
    break_packet(path, 5, whole=True)
    frames = list(video.read_frames(path))
    present = [k for k in range(40) if k != 5]
    assert [frame.time for frame in frames] == [Fraction(k, 25) for k in present]
    assert [frame.index for frame in frames] == list(range(39))
    assert [float(f.time) for f in frames if f.damaged] == [6 / 25]
    assert "39 frames of it were used, 1 damaged, 1 lost" in caplog.text


def test_a_key_frame_behind_a_lost_frame_is_whole(tmp_path, caplog):
    path = make_clip(
        tmp_path / "clip.mov", moving_pictures(10), codec="mjpeg", pixels="yuvj420p"
    )
    break_packet(path, 5, whole=True)
    frames = list(video.read_frames(path))
    assert len(frames) == 9 and not any(frame.damaged for frame in frames)
    assert "9 frames of it were used, 0 damaged, 1 lost" in caplog.text


def test_a_file_that_breaks_off_tells_how_many_frames_are_lost(tmp_path, caplog):
    path = tmp_path / "clip.mp4"
    options = {"movflags": "+faststart"}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=25, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for picture in moving_pictures():
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    frames = list(video.read_frames(path))
    assert 5 < len(frames) < 35
    assert caplog.text.count("is damaged") == 1
    assert f"{len(frames)} frames of it were used" in caplog.text
    assert f"{40 - len(frames)} lost" in caplog.text


def test_a_file_that_breaks_off_yields_its_beginning(tmp_path, caplog):
    path = make_clip(
        tmp_path / "clip.mpg", noise_pictures(50), codec="mpeg1video", sound="mp2"
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with caplog.at_level(logging.WARNING):
        times = times_of(path)
    assert 10 < len(times) < 45
    assert times == [Fraction(k, 25) + times[0] for k in range(len(times))]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    copied = copy(path, tmp_path / "copy.mp4")
    assert len(times_of(copied)) == len(times)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4 does not exist"):
        video.probe(tmp_path / "nowhere.mp4")
    with (
        pytest.raises(IsADirectoryError, match="is a folder"),
        video.open_media(tmp_path),
    ):
        pass


def test_what_is_not_a_video_is_told_in_one_sentence(tmp_path):
    (tmp_path / "text.mp4").write_text("just words\n" * 100)
    (tmp_path / "words.txt").write_text("just words\n" * 100)
    (tmp_path / "empty.mp4").touch()
    Image.new("RGB", (20, 20)).save(tmp_path / "photo.jpg")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        track = container.add_stream("aac", rate=44_100)
        track.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), "f4"), "fltp", "mono")
        frame.sample_rate = 44_100
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    strange = make_clip(tmp_path / "strange.mp4", gray_pictures(3))
    strange.write_bytes(strange.read_bytes().replace(b"avc1\0\0", b"zz!z\0\0"))
    for name, message in {
        "text.mp4": "not a video",
        "words.txt": "a text, not a video",
        "empty.mp4": "not a video",
        "photo.jpg": "a picture, not a video",
        "sound.mp4": "no video stream",
        "strange.mp4": "codec",
    }.items():
        with pytest.raises(ValueError, match=message) as raised:
            video.probe(tmp_path / name)
        assert name in str(raised.value) and "\n" not in str(raised.value)


def test_a_video_of_which_no_frame_decodes_is_told(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", noise_pictures(4), options={"qp": "10"})
    data = path.read_bytes()
    begin = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4
    path.write_bytes(data[:begin] + bytes(end - begin) + data[end:])
    with pytest.raises(ValueError, match=r"no frame of .*clip\.mp4 can be decoded"):
        video.read_frames(path)


def test_a_song_with_a_cover_picture_is_no_video(tmp_path):
    path = make_clip(
        tmp_path / "clip.mkv",
        gray_pictures(1),
        codec="mjpeg",
        pixels="yuvj420p",
        sound="libmp3lame",
    )
    cover = tmp_path / "song.mp4"
    with av.open(str(path)) as source, av.open(str(cover), "w") as container:
        streams = {
            s.type: container.add_stream_from_template(s, opaque=True)
            for s in source.streams
        }
        streams["video"].disposition = av.stream.Disposition.attached_pic
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.type]
                container.mux(packet)
    with pytest.raises(ValueError, match="no video stream"):
        video.probe(cover)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [(-1, None, "start must be at least 0"), (1, 1, "end must be after start")],
)
def test_impossible_limits_are_refused_at_once(tmp_path, start, end, message):
    path = make_clip(tmp_path / "clip.mp4", gray_pictures(3))
    with pytest.raises(ValueError, match=message):
        video.read_frames(path, start, end)


def test_a_start_behind_the_last_frame_is_told(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", gray_pictures(3))
    with pytest.raises(ValueError, match=r"starts at 7 s, the last frame is at 0\.08"):
        list(video.read_frames(path, start=7))
