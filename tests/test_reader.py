from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import (
    BLUE,
    GREEN,
    NTSC,
    RED,
    WHITE,
    corner_card,
    gray_pictures,
    make_clip,
    moving_pictures,
    noise_pictures,
    packets_of,
    times_of,
)
from PIL import Image

from fsgan.media import reader
from fsgan.media.images import write_image
from fsgan.media.reader import VideoInfo, is_video, probe, read_frames


def corners(image):
    """Return the colours in the middle of the four quarters, fully on or off."""
    height, width = image.shape[:2]
    picked = image[height // 4 :: height // 2, width // 4 :: width // 2]
    return [tuple(c) for c in (picked[:2, :2].reshape(4, 3) > 127) * 255]


def assert_same(frames, expected):
    assert len(frames) == len(expected)
    for one, other in zip(frames, expected, strict=True):
        assert (one.index, one.time) == (other.index, other.time)
        assert one.damaged == other.damaged
        np.testing.assert_array_equal(one.image, other.image)


# --- videos ---


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])  # Matroska rounds to 1 ms
def test_frames_come_in_order_with_index_and_exact_time(tmp_path, suffix):
    path = make_clip(tmp_path / f"clip{suffix}", gray_pictures(40), fps=NTSC)
    info = probe(path)
    assert info == VideoInfo(path, 64, 48, NTSC, info.duration, 40, False)
    assert info.duration == pytest.approx(40 / NTSC, abs=1e-3)
    frames = list(read_frames(path))
    assert [frame.index for frame in frames] == list(range(40))
    assert [frame.time for frame in frames] == [k / NTSC for k in range(40)]
    brightness = [frame.image.mean() for frame in frames]
    np.testing.assert_allclose(brightness, 16 + 3 * np.arange(40), atol=2)
    assert frames[0].image.dtype == np.uint8 and frames[0].image.flags.writeable


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
    info, frame = probe(path), next(read_frames(path))
    size = (64, 48) if degrees % 180 == 0 else (48, 64)
    assert (info.width, info.height) == size
    assert frame.image.shape == (size[1], size[0], 3)
    assert frame.image.flags.c_contiguous
    assert corners(frame.image) == expected


def test_pixels_that_are_not_square_are_made_square(tmp_path):
    tags = {"sample_aspect_ratio": Fraction(3, 2)}
    path = make_clip(tmp_path / "clip.mp4", [corner_card()], tags=tags)
    assert (probe(path).width, probe(path).height) == (96, 48)
    assert next(read_frames(path)).image.shape == (48, 96, 3)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "size"),
    [
        ("clip.mp4", "libx264", "yuv444p", (47, 63)),
        ("clip.mp4", "libx264", "yuv420p10le", (48, 64)),
        ("clip.mpg", "mpeg1video", "yuv420p", (48, 64)),
        ("clip.mkv", "ffv1", "bgr0", (48, 64)),
        ("clip.mov", "mjpeg", "yuvj422p", (48, 64)),
    ],
)
def test_common_pixel_formats_and_odd_sizes_are_read(
    tmp_path, name, codec, pixels, size
):
    card = corner_card(*size)
    path = make_clip(tmp_path / name, [card] * 3, codec=codec, pixels=pixels)
    frames = list(read_frames(path))
    assert len(frames) == 3 and frames[-1].image.shape == (*size, 3)
    assert corners(frames[-1].image) == [RED, GREEN, BLUE, WHITE]


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


# Number, red and blue weights of the matrices, from ITU-R BT.601, BT.709 and BT.2020.
BT601, BT709, BT2020 = (6, 0.299, 0.114), (1, 0.2126, 0.0722), (9, 0.2627, 0.0593)
UNTAGGED_SMALL, UNTAGGED_LARGE = (2, *BT601[1:]), (2, *BT709[1:])
LOSSLESS = {
    "libx264": {"qp": "0"},
    "libx265": {"x265-params": "log-level=none:lossless=1:pools=1"},
    "libvpx-vp9": {"lossless": "1"},
}


@pytest.mark.parametrize(
    ("codec", "pixels", "matrix", "full", "height"),
    [
        ("libx264", "yuv420p", BT601, False, 160),
        ("libx264", "yuvj420p", BT709, True, 160),
        ("libx264", "yuv422p", BT709, False, 160),
        ("libx264", "yuv420p10le", BT2020, False, 160),
        ("libx265", "yuv420p10le", BT709, False, 160),
        ("libvpx-vp9", "yuv444p", BT601, True, 160),
        ("libx264", "yuv444p", UNTAGGED_SMALL, False, 160),
        ("libx264", "yuv444p", UNTAGGED_LARGE, False, 720),
    ],
)
def test_a_colour_card_comes_back_within_2_levels(
    tmp_path, codec, pixels, matrix, full, height
):
    # Colours that differ widely but nowhere faster than halved chroma can follow.
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    card = np.asarray(small.resize((224, height), Image.Resampling.BICUBIC))
    colorspace, red, blue = matrix
    frame = av.VideoFrame(224, height, pixels)
    for plane, values in zip(
        frame.planes, planes_of(card, red, blue, full, pixels), strict=True
    ):
        lines = np.frombuffer(plane, values.dtype).reshape(plane.height, -1)
        lines[:, : plane.width] = values
    tags = {"colorspace": colorspace, "color_range": 2 if full else 1}
    frame.colorspace, frame.color_range = tags.values()
    made = dict(codec=codec, pixels=pixels, options=LOSSLESS[codec], tags=tags)
    path = make_clip(tmp_path / "card.mkv", [frame], **made)
    image = next(read_frames(path)).image
    error = np.abs(image.astype(int) - card)
    # Rounding brightness and colour to 8 bits costs up to 2.1 levels of blue by itself.
    exact = "444" in pixels or "10" in pixels
    assert error.max() <= (2 if exact else 3)
    assert (error > 2).mean() < 1e-3


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("clip.mov", "png", "rgba"),
        ("clip.mov", "qtrle", "argb"),
        ("clip.mkv", "ffv1", "bgra"),
    ],
)
def test_what_is_transparent_is_laid_over_white(tmp_path, name, codec, pixels):
    card = np.full((48, 64, 4), 255, np.uint8)
    card[:, :32], card[:, 32:] = (*RED, 255), (*BLUE, 255)
    card[24:, :32, 3], card[24:, 32:, 3] = 0, 51
    frame = av.VideoFrame.from_ndarray(card, "rgba").reformat(format=pixels)
    path = make_clip(tmp_path / name, [frame], codec=codec, pixels=pixels)
    image = next(read_frames(path)).image
    picked = [tuple(image[y, x]) for y in (10, 40) for x in (10, 50)]
    assert picked == [RED, BLUE, WHITE, (204, 204, 255)]


@pytest.mark.parametrize(
    ("name", "first", "made", "expected"),
    [
        ("clip.mkv", 2, {"codec": "ffv1", "pixels": "bgr0"}, 0),
        ("clip.nut", -1, {"codec": "ffv1", "pixels": "bgr0"}, 0),
        ("clip.mov", Fraction(1, 2), {"sound": "pcm_s16le"}, Fraction(1, 2)),
    ],
)
def test_the_clock_starts_with_the_first_picture_or_sound(
    tmp_path, name, first, made, expected
):
    times = [first + Fraction(k, 25) for k in range(30)]
    path = make_clip(tmp_path / name, gray_pictures(30), times=times, **made)
    assert probe(path).has_audio == ("sound" in made)
    assert times_of(path) == [expected + Fraction(k, 25) for k in range(30)]


@pytest.mark.parametrize(
    ("transfer", "interlaced", "message"),
    [(16, False, "is HDR"), (18, False, "is HDR"), (1, True, "is interlaced")],
)
def test_what_will_not_look_right_is_said_once(
    tmp_path, caplog, transfer, interlaced, message
):
    path = make_clip(
        tmp_path / "clip.mp4",
        gray_pictures(3),
        setup=lambda stream: setattr(stream.codec_context, "color_trc", transfer),
        options={"x264-params": "fake-interlaced=0:tff=1"} if interlaced else {},
    )
    probe(path)
    assert len(caplog.records) == 1 and message in caplog.text
    list(read_frames(path))
    assert len(caplog.records) == 1


def test_a_stream_that_notes_no_length_is_measured(tmp_path):
    live = {"live": "1"}  # as saved from a broadcast: without duration and index
    info = probe(make_clip(tmp_path / "clip.mkv", gray_pictures(7), container=live))
    assert (info.frame_count, info.fps) == (7, 25)
    assert info.duration == pytest.approx(0.28, abs=0.002)


def resized(path):
    """Write ten frames of 64 x 48 pixels, then ten of 32 x 48, without times."""
    data = b""
    for width in (64, 32):
        encoder = av.CodecContext.create("libx264", "w")
        encoder.width, encoder.height, encoder.pix_fmt = width, 48, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
        frames = [
            av.VideoFrame.from_ndarray(picture, "rgb24")
            for picture in gray_pictures(10, width=width)
        ]
        for frame in [*frames, None]:
            data += b"".join(map(bytes, encoder.encode(frame)))
    path.write_bytes(data)
    return path


def test_a_film_that_changes_its_size_is_scaled_to_its_first_frame(tmp_path, caplog):
    frames = list(read_frames(resized(tmp_path / "clip.h264")))
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert len(frames) == 20
    assert (
        caplog.text.count("clip.h264 changes its size: all is scaled to 64 x 48") == 1
    )


def test_a_bare_stream_without_times_is_measured_by_its_frames(tmp_path):
    info = probe(resized(tmp_path / "clip.h264"))
    assert info.frame_count == 20
    assert info.duration == pytest.approx(20 / info.fps)


def test_matroska_that_begins_late_is_as_long_as_its_frames(tmp_path):
    times = [9000 + Fraction(k, 25) for k in range(30)]
    path = make_clip(tmp_path / "late.mkv", gray_pictures(30), times=times)
    info = probe(path)
    assert info.duration == pytest.approx(1.2, abs=2e-3) and info.frame_count == 30


# --- a late stretch is sought, not decoded from the start ---

OPEN_GOP = {"g": "12", "bf": "3", "x264-params": "open-gop=1:scenecut=0"}
VARIABLE = [Fraction(k * k + 40 * k, 2400) for k in range(50)]


@pytest.mark.parametrize(
    ("name", "codec", "options", "times"),
    [
        ("clip.mp4", "libx264", {"g": "12", "bf": "3"}, None),
        ("clip.mp4", "libx264", OPEN_GOP, VARIABLE),
        ("clip.mkv", "libx264", OPEN_GOP, None),
        ("clip.webm", "libvpx-vp9", {"g": "12"}, None),
        ("clip.mov", "mjpeg", {}, None),
        ("clip.mpg", "mpeg1video", {"g": "12", "bf": "2"}, None),
    ],
)
def test_a_stretch_is_that_of_the_whole(tmp_path, name, codec, options, times):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path, made = tmp_path / name, dict(codec=codec, options=options, pixels=pixels)
    make_clip(path, moving_pictures(50), times=times, **made)
    whole = list(read_frames(path))
    assert len(whole) == 50
    for first in range(0, 50, 7):
        assert_same(list(read_frames(path, float(whole[first].time), 9)), whole[first:])
    assert_same(
        list(read_frames(path, *(float(whole[k].time) for k in (1, 5)))), whole[1:5]
    )


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_what_lies_before_the_key_frame_is_not_decoded(tmp_path, caplog, name):
    path = tmp_path / name
    make_clip(path, moving_pictures(60), options={"g": "20", "bf": "2"})
    whole = list(read_frames(path))
    break_packet(path, 5)
    part = list(read_frames(path, start=45 / 25))
    assert_same(part, whole[45:])
    assert not caplog.records
    assert any(frame.damaged for frame in read_frames(path))


# --- damaged videos ---


def break_packet(path, number, whole=False):
    """Overwrite the end of one packet, or all of it, with nonsense."""
    _, _, content = packets_of(path)[number]
    begin = 0 if whole else len(content) // 3
    nonsense = np.random.default_rng(0).bytes(len(content) - begin)
    data = path.read_bytes()
    assert data.count(content) == 1
    path.write_bytes(data.replace(content, content[:begin] + nonsense))


@pytest.mark.parametrize(
    ("codec", "broken"), [("libx264", 20), ("libx264", 25), ("mpeg4", 25)]
)
def test_a_frame_that_the_decoder_made_up_in_part_is_damaged(
    tmp_path, caplog, codec, broken
):
    options = {"g": "20", "bf": "0", "crf": "18"}
    path = tmp_path / "clip.mp4"
    make_clip(path, moving_pictures(), codec=codec, options=options)
    assert not any(frame.damaged for frame in read_frames(path))
    break_packet(path, broken)
    frames = list(read_frames(path))
    assert [frame.time for frame in frames] == [Fraction(k, 25) for k in range(40)]
    assert [frame.index for frame in frames if frame.damaged] == [broken]
    assert "40 frames of it were used, 1 damaged, 0 lost" in caplog.text
    assert not any(frame.damaged for frame in read_frames(path, end=broken / 25))


@pytest.mark.parametrize(
    ("name", "codec", "damaged"),
    [("clip.webm", "libvpx-vp9", [6 / 25]), ("clip.mov", "mjpeg", [])],
)
def test_a_lost_frame_leaves_a_gap_and_damages_what_builds_on_it(
    tmp_path, caplog, name, codec, damaged
):
    path, pixels = tmp_path / name, "yuvj420p" if codec == "mjpeg" else "yuv420p"
    options = {"g": "20"}
    make_clip(path, moving_pictures(), codec=codec, options=options, pixels=pixels)
    break_packet(path, 5, whole=True)
    frames = list(read_frames(path))
    present = [k for k in range(40) if k != 5]
    assert [frame.time for frame in frames] == [Fraction(k, 25) for k in present]
    assert [frame.index for frame in frames] == list(range(39))
    assert [float(f.time) for f in frames if f.damaged] == damaged
    assert f"39 frames of it were used, {len(damaged)} damaged, 1 lost" in caplog.text


def test_a_file_that_breaks_off_tells_how_many_frames_are_lost(tmp_path, caplog):
    path, made = tmp_path / "clip.mp4", {"container": {"movflags": "+faststart"}}
    make_clip(path, moving_pictures(), options={"bf": "0"}, **made)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])
    frames = list(read_frames(path))
    assert 5 < len(frames) < 35
    assert caplog.text.count("is damaged") == 1
    assert f"{len(frames)} frames of it were used" in caplog.text
    assert f"{40 - len(frames)} lost" in caplog.text


# --- what is no video ---


def test_what_is_not_a_video_is_said_in_one_sentence(tmp_path):
    (tmp_path / "text.mp4").write_text("just words\n" * 100)
    (tmp_path / "words.txt").write_text("just words\n" * 100)
    (tmp_path / "empty.mp4").touch()
    for name in ("photo.jpg", "still.gif", "photo.avif"):
        Image.new("RGB", (20, 20)).save(tmp_path / name)
    jpeg = dict(codec="mjpeg", pixels="yuvj420p")
    song = tmp_path / "song.mkv"
    make_clip(song, gray_pictures(1), sound="libmp3lame", **jpeg)
    with (
        av.open(str(song)) as source,
        av.open(str(tmp_path / "sound.mp4"), "w") as container,
    ):
        streams = {
            s.type: container.add_stream_from_template(s, opaque=True)
            for s in source.streams
        }
        streams["video"].disposition = av.stream.Disposition.attached_pic
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.type]
                container.mux(packet)
    strange = make_clip(tmp_path / "strange.mp4", gray_pictures(3))
    strange.write_bytes(strange.read_bytes().replace(b"avc1\0\0", b"zz!z\0\0"))
    nothing = make_clip(tmp_path / "nothing.mp4", noise_pictures(4))
    data = nothing.read_bytes()
    begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    nothing.write_bytes(data[:begin] + bytes(end - begin) + data[end:])
    for name, message in {
        "text.mp4": "not a video",
        "words.txt": "a text, not a video",
        "empty.mp4": "not a video",
        "photo.jpg": "a picture, not a video",
        "photo.avif": "a picture, not a video",
        "still.gif": "a picture, not a video",
        "sound.mp4": "no video stream",  # but a cover picture
        "strange.mp4": "codec",
        "nothing.mp4": "no frame of .* can be decoded",
    }.items():
        for read in (probe, read_frames):
            with pytest.raises(ValueError, match=message) as raised:
                read(tmp_path / name)
            assert name in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4 does not exist"):
        probe(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"start": -1}, "start must be at least 0"),
        ({"start": float("nan")}, "start must be at least 0"),
        ({"start": 1, "end": 1}, "end must be after start"),
        ({"fps": 25}, r"fps is for pictures only.*clip\.mp4"),
        ({"start": 7}, r"no frame of .*clip\.mp4 lies in .* which starts at 7 s"),
    ],
)
def test_impossible_limits_are_refused(tmp_path, limits, message):
    path = make_clip(tmp_path / "clip.mp4", gray_pictures(3))
    with pytest.raises(ValueError, match=message):
        list(read_frames(path, **limits))


# --- animated pictures ---


def animate(path, count=4):
    """Save a red square that jumps, on nothing, at uneven times."""
    pictures = []
    for index in range(count):
        picture = np.zeros((40, 60, 4), np.uint8)
        picture[10:30, 5 + 10 * index : 15 + 10 * index] = (200, 0, 0, 255)
        pictures.append(Image.fromarray(picture))
    more = dict(save_all=True, append_images=pictures[1:])
    more |= {".gif": {"disposal": 2}, ".webp": {"lossless": True}}.get(path.suffix, {})
    pictures[0].save(path, duration=[100, 300, 50, 0][:count], **more)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_an_animation_is_a_video_wherever_it_is_read(tmp_path, suffix):
    path = animate(tmp_path / f"clip{suffix}")
    assert is_video(path)
    info = probe(path)
    assert (info.width, info.height, info.frame_count) == (60, 40, 4)
    assert info.duration == pytest.approx(0.55)
    assert not info.has_audio
    frames = list(read_frames(path))
    times = [0, Fraction(1, 10), Fraction(4, 10), Fraction(45, 100)]
    assert [frame.time for frame in frames] == times
    for index, frame in enumerate(frames):
        reddish = frame.image[20, ::10] == (200, 0, 0)
        assert (frame.image[20, 10 + 10 * index] == (200, 0, 0)).all()
        assert reddish.all(-1).sum() == 1 and (frame.image[0] == 255).all()
    assert_same(list(read_frames(path, start=0.1, end=0.45)), frames[1:3])


def test_a_broken_animation_yields_its_beginning(tmp_path, caplog):
    path = animate(tmp_path / "clip.png")
    path.write_bytes(path.read_bytes()[:-60])
    assert 1 <= len(list(read_frames(path))) < 4
    assert "clip.png is damaged" in caplog.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clip.mp4", True),
        ("clip.jpg", True),  # a video all the same
        ("still.gif", False),
        ("still.avif", False),
        ("pages.tif", False),
        ("broken.jpg", False),
        ("broken.mov", True),
    ],
)
def test_video_and_photo_are_told_apart_by_what_they_hold(tmp_path, name, expected):
    path, still = tmp_path / name, Image.new("RGB", (16, 16))
    if path.stem == "clip":
        make_clip(tmp_path / "made.mp4", gray_pictures(2)).rename(path)
    elif path.stem == "pages":
        still.save(path, save_all=True, append_images=[still])
    elif path.stem == "still":
        still.save(path)
    else:
        path.write_bytes(b"nothing of the kind")
    assert is_video(path) is expected


# --- folders of pictures ---


def gray(level, height=20, width=30):
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def shot(tmp_path):
    """Twelve pictures whose level is ten times their index, numbered from 95."""
    for index in range(12):
        write_image(tmp_path / "shot" / f"frame_{95 + index}.png", gray(10 * index))
    return tmp_path / "shot"


def levels(frames):
    return [int(frame.image[0, 0, 0]) for frame in frames]


def test_a_folder_is_read_as_a_video_of_25_frames_a_second(shot):
    assert probe(shot) == VideoInfo(shot, 30, 20, Fraction(25), 0.48, 12, False)
    frames = list(read_frames(shot))
    assert levels(frames) == list(range(0, 120, 10))  # natural order: 99 before 100
    assert [frame.index for frame in frames] == list(range(12))
    assert [frame.time for frame in frames] == [Fraction(k, 25) for k in range(12)]
    assert not any(frame.damaged for frame in frames)
    assert_same(list(read_frames(shot, start=0.04, end=0.2)), frames[1:5])


@pytest.mark.parametrize("fps", [NTSC, 12.5])
def test_the_rate_given_sets_the_times(shot, fps):
    assert probe(shot, fps).fps == Fraction(fps)
    frames = read_frames(shot, fps=fps)
    assert [frame.time for frame in frames] == [k / Fraction(fps) for k in range(12)]


def test_photos_that_lie_on_their_side_come_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(gray(9, 20, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert (probe(tmp_path).width, probe(tmp_path).height) == (20, 30)
    assert next(read_frames(tmp_path)).image.shape == (30, 20, 3)


def test_a_picture_that_breaks_off_is_a_damaged_frame(tmp_path, caplog):
    [noise] = noise_pictures(1)
    for index in range(3):
        Image.fromarray(noise).save(tmp_path / f"{index}.png")
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    frames = list(read_frames(tmp_path))
    assert [frame.damaged for frame in frames] == [False, True, False]
    np.testing.assert_array_equal(frames[1].image[:12], noise[:12])
    assert len(caplog.records) == 1
    assert "3 frames of it were used, 1 damaged, 0 lost" in caplog.text


@pytest.mark.parametrize(
    ("lost", "expected"), [((97, 98), [0, 10, 10, 10, 40]), ((95,), [10, 10, 20])]
)
def test_a_lost_picture_shows_its_neighbour(shot, caplog, lost, expected):
    for number in lost:
        (shot / f"frame_{number}.png").write_bytes(b"no picture" * (number % 2))
    frames = list(read_frames(shot))
    whole = [*expected, *range(10 * len(expected), 120, 10)]
    assert levels(frames) == whole
    assert [f.index for f in frames if f.damaged] == [number - 95 for number in lost]
    assert f"12 frames of it were used, {len(lost)} damaged, 0 lost" in caplog.text
    for first in range(12):  # a stretch shows the same
        assert levels(read_frames(shot, start=first / 25)) == whole[first:]
    frames[1].image[:] = 255  # each frame is its own
    assert levels(frames)[2] == whole[2]


def test_folders_that_are_no_video_are_refused(shot, tmp_path):
    with pytest.raises(ValueError, match=r"fps must be above 0.*, got nan"):
        probe(shot, float("nan"))
    with pytest.raises(ValueError, match="lies in the chosen part"):
        list(read_frames(shot, start=7))
    write_image(shot / "frame_99.png", gray(0, 21, 31))
    with pytest.raises(ValueError, match=r"frame_99\.png has 31 x 21, not 30 x 20"):
        read_frames(shot)
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        probe(tmp_path / "other")
    (tmp_path / "other" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"no picture of .* can be read"):
        probe(tmp_path / "other")
    floating = Image.fromarray(np.ones((2, 2), np.float32))
    floating.save(tmp_path / "other" / "float.tif")
    with pytest.raises(ValueError, match=r"no picture of .* can be decoded"):
        list(read_frames(tmp_path / "other"))


# --- cameras ---


class FakeCamera:
    """Delivers BGR pictures, numbered in their blue channel, every 0.1 s."""

    def __init__(self, count=None, opens=True):
        self.count, self.taken, self.released = count, 0, False
        self.isOpened = lambda: opens
        self.monotonic_ns = lambda: 7_000_000_000 + 100_000_000 * self.taken
        self.set = lambda name, value: True

    def __call__(self, index):
        self.index = index
        return self

    def read(self):
        if self.taken == self.count:
            return False, None
        image = np.full((4, 6, 3), (self.taken, 0, 0), np.uint8)
        self.taken += 1
        return True, image

    def release(self):
        self.released = True


@pytest.fixture
def plug_in(monkeypatch):
    def plugged(**settings):
        fake = FakeCamera(**settings)
        monkeypatch.setattr(reader, "clock", fake)
        monkeypatch.setattr(cv2, "VideoCapture", fake)
        return fake

    return plugged


def test_a_camera_is_rgb_timed_from_its_first_frame_and_switched_off(plug_in, caplog):
    fake = plug_in(count=3)
    frames = list(read_frames(2))
    assert (fake.index, fake.released) == (2, True)
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.time for frame in frames] == [0, Fraction(1, 10), Fraction(1, 5)]
    assert [tuple(frame.image[1, 2]) for frame in frames] == [
        (0, 0, k) for k in (0, 1, 2)
    ]
    assert "camera 2 stopped after 3 frames" in caplog.text  # it was pulled out
    fake = plug_in()
    assert [frame.index for frame in read_frames(0, end=0.25)] == [0, 1, 2]
    assert fake.released
    fake = plug_in()
    frames = read_frames(0)
    next(frames)
    assert not fake.released
    frames.close()
    assert fake.released


def test_a_camera_that_fails_is_one_sentence_and_opencv_is_silent(plug_in, capfd):
    opencv, level = getattr(cv2.utils, "logging", cv2), 3  # warnings
    opencv.setLogLevel(level)
    with pytest.raises(OSError, match="camera 97 cannot be opened: connect one"):
        list(read_frames(97))
    assert capfd.readouterr() == ("", "")
    assert opencv.getLogLevel() == level
    for settings, message in (
        ({"count": 0}, "camera 0 delivers no picture: close the"),
        ({"opens": False}, "camera 0 cannot be opened: connect one"),
    ):
        fake = plug_in(**settings)
        with pytest.raises(OSError, match=message):
            list(read_frames(0))
        assert fake.released
    with pytest.raises(ValueError, match="must be at least 0, got -1"):
        list(read_frames(-1))


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [(0, None, 250), (2, 4, 50), (2, None, 200), (0, 99, 250), (9.999, None, 1)],
)
def test_the_frames_of_a_stretch_are_estimated(start, end, frames):
    info = VideoInfo(Path("a.mp4"), 64, 48, Fraction(25), 10.0, 250, False)
    assert info.frames_between(start, end) == frames
