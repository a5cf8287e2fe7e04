import errno
import resource
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
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

from fsgan.media import reader as video
from fsgan.media.images import read_image
from fsgan.media.provenance import image_xmp, read_marks
from fsgan.media.video_formats import video_format
from fsgan.media.writer import VideoWriter


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


@pytest.mark.parametrize("name", ["card.mp4", "card.mkv", "card.webm"])
def test_colours_do_not_move_sideways(tmp_path, name):
    card = np.zeros((32, 64, 3), np.uint8)
    card[:] = np.linspace((250, 20, 20), (20, 20, 250), 64)  # from red to blue
    with VideoWriter(tmp_path / name, 64, 32, 25, crf=0) as writer:
        writer.write(card)
    [frame] = video.read_frames(tmp_path / name)
    error = (frame.image.astype(float) - card)[4:-4, 4:-4]
    # Half a pixel aside would be 1.8 levels, of another sign in red and in blue.
    red, _, blue = error.mean(axis=(0, 1))
    assert abs(red - blue) < 0.6


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


# --- other formats ---


def patches():
    """Return flat fields of saturated, dark, light and gray colours, each 32 wide."""
    levels = [0, 64, 128, 192, 255]
    saturated = [(r, g, b) for r in (0, 255) for g in (0, 255) for b in (0, 255)]
    mixed = [(200, 30, 90), (30, 200, 90), (90, 30, 200), (224, 172, 140)]
    colours = np.array([*[(v, v, v) for v in levels], *saturated, *mixed], np.uint8)
    return np.kron(colours[:, None], np.ones((32, 32, 1), np.uint8))


@pytest.mark.parametrize("name", ["card.mp4", "card.mov", "card.mkv", "card.webm"])
def test_flat_colours_come_back_within_two_levels(tmp_path, name):
    card = patches()
    height, width = card.shape[:2]
    with VideoWriter(tmp_path / name, width, height, 25, crf=8) as writer:
        for _ in range(5):
            writer.write(card)
    for frame in video.read_frames(tmp_path / name):
        # Colours of neighbours mix at the edges, as each is stored for 2 x 2 pixels.
        middles = np.abs(frame.image.astype(int) - card)[16::32, 16]
        assert middles.max() <= 2
    with av.open(str(tmp_path / name)) as container:
        context = container.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p"
        assert (context.colorspace, context.color_range) == (1, 1)
        assert (context.color_primaries, context.color_trc) == (1, 1)


@pytest.mark.parametrize(("height", "width"), [(47, 63), (48, 64), (721, 33)])
def test_lossless_is_exact_at_any_size(tmp_path, height, width):
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, height, width, 3), np.uint8)
    path = tmp_path / "exact.mkv"
    with VideoWriter(path, width, height, NTSC, lossless=True) as writer:
        for picture in pictures:
            writer.write(picture)
    frames = list(video.read_frames(path))
    np.testing.assert_array_equal([frame.image for frame in frames], pictures)
    assert [frame.time for frame in frames] == [k / NTSC for k in range(4)]


@pytest.mark.parametrize(
    ("name", "codec", "tolerance"),
    [("clip.mkv", "h264", 0.0005), ("clip.webm", "vp9", 0.0005), ("a.mov", "h264", 0)],
)
@pytest.mark.parametrize("fps", [25, NTSC])
def test_the_other_films_keep_rate_length_and_uneven_times(
    tmp_path, name, codec, tolerance, fps
):
    path = tmp_path / name
    with VideoWriter(path, 64, 48, fps) as writer:
        for picture in gray_pictures(24):
            writer.write(picture)
    info = video.probe(path)
    assert (info.fps, info.frame_count) == (fps, 24)
    assert info.duration == pytest.approx(24 / fps, abs=2e-3)
    assert times_of(path) == [k / Fraction(fps) for k in range(24)]
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == codec
    uneven = [Fraction(k * k, 97) for k in range(12)]
    with VideoWriter(path, 64, 48, fps) as writer:
        for picture, time in zip(gray_pictures(12), uneven, strict=True):
            writer.write(picture, time)
    with av.open(str(path)) as container:
        found = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(found, np.array(uneven, float), atol=tolerance + 1e-5)


def gif_delays(path):
    """Return the milliseconds of each picture, and how often all are repeated."""
    with Image.open(path) as opened:
        delays = []
        for index in range(opened.n_frames):
            opened.seek(index)
            delays.append(opened.info["duration"])
        return delays, opened.info["loop"]


@pytest.mark.parametrize(
    ("fps", "delays"),
    [
        (25, [40] * 12),
        (12, [80, 90, 80] * 4),
        (30, [30, 40, 30] * 4),
        (100, [20] * 6),  # every second picture: none may be shorter
    ],
)
def test_a_gif_keeps_time_and_repeats_for_ever(tmp_path, fps, delays):
    path = tmp_path / "clip.gif"
    with VideoWriter(path, 63, 47, fps) as writer:
        for picture in gray_pictures(12, 47, 63):
            writer.write(picture)
    found, loop = gif_delays(path)
    assert loop == 0
    assert len(found) == len(delays)
    assert np.abs(np.cumsum(found) - np.cumsum(delays)).max() <= 10
    assert next(video.read_frames(path)).image.shape == (47, 63, 3)


def test_a_gif_chooses_its_colours_from_all_pictures(tmp_path):
    ramp = np.linspace(0, 255, 256).astype(np.uint8)[None, :, None]
    pictures = [
        np.tile(ramp * np.eye(3, dtype=np.uint8)[k], (32, 1, 1)) for k in (0, 2)
    ]
    with VideoWriter(tmp_path / "clip.gif", 256, 32, 10) as writer:
        for picture in pictures:
            writer.write(picture)
    for frame, picture in zip(
        video.read_frames(tmp_path / "clip.gif"), pictures, strict=True
    ):
        error = frame.image.astype(float) - picture
        assert np.abs(error).mean() < 3
        assert np.abs(error.mean((0, 1))).max() < 1.5


@pytest.mark.parametrize(
    ("name", "files", "error"),
    [
        ("frames", ["000000.png", "000001.png", "000002.png"], 0),
        ("frames/shot_%03d.png", ["shot_000.png", "shot_001.png", "shot_002.png"], 0),
        ("frames/%d.jpg", ["0.jpg", "1.jpg", "2.jpg"], 2),
        ("frames/a%02d.webp", ["a00.webp", "a01.webp", "a02.webp"], 3),
    ],
)
def test_pictures_are_numbered_and_their_folder_appears_whole(
    tmp_path, name, files, error
):
    folder = tmp_path / "frames"
    for again in (False, True):  # then the folder is replaced
        with VideoWriter(tmp_path / name, 64, 48, 25, xmp=image_xmp()) as writer:
            for picture in gray_pictures(3):
                writer.write(picture)
                assert folder.exists() == again
        assert sorted(entry.name for entry in folder.iterdir()) == files
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]
    for file, picture in zip(files, gray_pictures(3), strict=True):
        assert np.abs(read_image(folder / file).astype(int) - picture).max() <= error
        assert read_marks(folder / file)["DigitalSourceType"]


def test_a_folder_of_pictures_survives_an_exception(tmp_path):
    with VideoWriter(tmp_path / "frames", 64, 48, 25) as writer:
        writer.write(gray_pictures(1)[0])
    with (
        pytest.raises(KeyboardInterrupt),
        VideoWriter(tmp_path / "frames", 64, 48, 25) as writer,
    ):
        for picture in gray_pictures(3):
            writer.write(picture)
        raise KeyboardInterrupt
    assert [entry.name for entry in tmp_path.iterdir()] == ["frames"]
    assert len(list((tmp_path / "frames").iterdir())) == 1


def test_a_folder_that_holds_other_things_is_not_replaced(tmp_path):
    (tmp_path / "holiday.png").write_text("dear to somebody")
    writer = VideoWriter(tmp_path, 64, 48, 25)
    with pytest.raises(ValueError, match=r"other things \(holiday.png\)"), writer:
        pass
    writer = VideoWriter(tmp_path / "holiday.png" / "%d.png", 64, 48, 25)
    with pytest.raises(NotADirectoryError, match=r"holiday.png is a file"), writer:
        pass


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    (tmp_path / "clip.mp4").mkdir()
    writer = VideoWriter(tmp_path / "clip.mp4", 64, 48, 25)
    with pytest.raises(IsADirectoryError, match="give the name of a file"), writer:
        pass


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm", "clip.gif", "frames"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, name):
    """The system's limit of a file's size stands in for the disk's."""
    path, noise = tmp_path / name, np.random.default_rng(0)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with (
            pytest.raises(OSError, match=f"{path} cannot .* the disk is full") as told,
            VideoWriter(path, 64, 48, 25, crf=1) as writer,
        ):
            for _ in range(30):
                writer.write(noise.integers(0, 256, (48, 64, 3), np.uint8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm", "clip.gif"])
@pytest.mark.parametrize("joining", [False, True])
def test_a_disk_without_room_is_told_with_its_number(tmp_path, name, joining):
    path = tmp_path / name
    with (
        pytest.raises(OSError, match=f"{path} cannot .* the disk is full") as told,
        VideoWriter(path, 64, 48, 25) as writer,
    ):
        (hidden,) = tmp_path.iterdir()
        full = f"whole{path.suffix}" if joining else "000000.nut"
        (hidden / full).symlink_to("/dev/full")  # gives ENOSPC at every byte
        for picture in gray_pictures(9):
            writer.write(picture)
    assert told.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "lossless", "message"),
    [
        ("clip.mp4", True, r"lossless needs a path that ends in \.mkv, got clip\.mp4"),
        ("frames", True, r"lossless needs a path that ends in \.mkv, got frames"),
        ("a/%d%d.png", False, "a pattern must hold one number such as %06d, got %d%d"),
        ("a/%5d.png", False, "a pattern must hold one number"),
        ("a/%05d.bmp", False, r"a pattern must end in \.png, .* got a/%05d.bmp"),
        ("%05d.png", False, r"needs a folder of its own, such as frames/%05d.png"),
    ],
)
def test_outputs_that_make_no_sense_are_refused(name, lossless, message):
    with pytest.raises(ValueError, match=message):
        VideoWriter(name, 64, 48, 25, lossless=lossless)


def test_webm_follows_the_scale_of_x264(tmp_path):
    assert video_format("clip.webm", crf=51).options["crf"] == "63"
    sizes = []
    for crf in (8, 18, 40):
        path = tmp_path / "clip.webm"
        with VideoWriter(path, 64, 48, 25, crf=crf) as writer:
            for picture in noise_pictures(5):
                writer.write(picture)
        sizes.append(path.stat().st_size)
    assert sizes[0] > sizes[1] > 1.5 * sizes[2]


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
        ({"path": "clip.avi"}, r"path must end in \.mp4, .*\.gif or.* got clip\.avi"),
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
