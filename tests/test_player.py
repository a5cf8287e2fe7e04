"""Players: what is in them, that it is all there, and that they keep to themselves."""

import re
from base64 import b64decode
from fractions import Fraction
from html.parser import HTMLParser
from io import BytesIO

import av
import numpy as np
import pytest
from PIL import Image

from fsgan.evaluation import player
from fsgan.evaluation.player import compare
from fsgan.media.images import write_image
from fsgan.media.provenance import read_marks, says_synthetic
from fsgan.media.reader import probe, read_frames
from fsgan.media.writer import VideoWriter

FPS = Fraction(25)
RED, BLUE = np.uint8([200, 40, 40]), np.uint8([40, 40, 200])


def plain(color, width=64, height=48) -> np.ndarray:
    return np.tile(color, (height, width, 1))


def write_clip(path, levels, fps=FPS, size=(64, 48), **settings):
    """A clip of plain gray frames."""
    with VideoWriter(path, *size, fps, **settings) as writer:
        for level in levels:
            writer.write(plain(np.uint8([level] * 3), *size))
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two seconds that grow lighter by 2 a frame; the result is 100 lighter."""
    folder = tmp_path_factory.mktemp("clips")
    levels = range(20, 120, 2)
    return (
        write_clip(folder / "source.mp4", levels),
        write_clip(folder / "swapped.mp4", [level + 100 for level in levels]),
    )


def embedded(page: str) -> tuple[str, bytes]:
    [(kind, content)] = re.findall(r'src="data:([a-z/0-9]+);base64,([^"]+)"', page)
    return kind, b64decode(content)


def levels_of(page: str, path) -> np.ndarray:
    """(n, 3): seconds, gray of the left and of the right half of each frame."""
    kind, content = embedded(page)
    assert kind == "video/mp4"
    path.write_bytes(content)
    rows = []
    for frame in read_frames(path):
        half = frame.image.shape[1] // 2
        left, right = frame.image[:, : half - 8], frame.image[:, half + 8 :]
        rows.append((float(frame.time), left.mean(), right.mean()))
    return np.array(rows)


class Page(HTMLParser):
    """Counts tags, notes addresses, and sees whether all is closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.addresses, self.text = [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href")]
        if tag not in ("img",):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


# Pictures


def test_two_pictures_lie_side_by_side_in_one(tmp_path):
    kind, content = embedded(compare(plain(RED), plain(BLUE))._repr_html_())
    assert kind == "image/jpeg"
    image = np.array(Image.open(BytesIO(content)).convert("RGB")).astype(int)
    assert image.shape == (48, 128, 3)
    np.testing.assert_allclose(image[:, :56], np.broadcast_to(RED, (48, 56, 3)), atol=4)
    np.testing.assert_allclose(
        image[:, 72:], np.broadcast_to(BLUE, (48, 56, 3)), atol=4
    )


def test_pictures_may_be_files(tmp_path):
    write_image(tmp_path / "a.png", plain(RED))
    write_image(tmp_path / "b.png", plain(BLUE))
    from_files = compare(tmp_path / "a.png", str(tmp_path / "b.png"))
    assert embedded(from_files.html) == embedded(compare(plain(RED), plain(BLUE)).html)
    mixed = compare(tmp_path / "a.png", plain(BLUE))
    assert embedded(mixed.html) == embedded(from_files.html)


@pytest.mark.parametrize(
    ("size", "width", "half"),
    [
        ((640, 360), 320, (320, 180)),
        ((64, 48), 640, (64, 48)),  # never enlarged
        ((641, 361), 641, (640, 360)),  # even
        ((1000, 10), 100, (100, 2)),
    ],
)
def test_pictures_are_scaled_down_to_the_width(size, width, half):
    page = compare(plain(RED, *size), plain(BLUE, *size), width=width).html
    image = Image.open(BytesIO(embedded(page)[1]))
    assert image.size == (2 * half[0], half[1])
    assert f"width: {half[0]}, height: {half[1]}" in page


def test_what_it_shows_is_marked_as_synthetic(clips, tmp_path):
    for page, name in (
        (compare(plain(RED), plain(BLUE)).html, "marked.jpg"),
        (compare(*clips).html, "marked.mp4"),
    ):
        (tmp_path / name).write_bytes(embedded(page)[1])
        assert says_synthetic(read_marks(tmp_path / name))


# Films


def test_two_films_lie_side_by_side_in_step(clips, tmp_path):
    rows = levels_of(compare(*clips).html, tmp_path / "shown.mp4")
    np.testing.assert_allclose(rows[:, 0], np.arange(50) / 25, atol=1e-3)
    np.testing.assert_allclose(rows[:, 1], 20 + 2 * np.arange(50), atol=2)
    np.testing.assert_allclose(rows[:, 2], 120 + 2 * np.arange(50), atol=2)


def test_the_film_is_h264_and_may_start_before_all_is_read(clips, tmp_path):
    content = embedded(compare(*clips).html)[1]
    with av.open(BytesIO(content)) as container:
        [stream] = container.streams
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
    assert content.index(b"moov") < content.index(b"mdat")


def test_a_conversion_that_began_later_is_shown_beside_its_moment(clips, tmp_path):
    source, _ = clips
    later = [220 + index for index in range(25)]
    swapped = write_clip(tmp_path / "part.mp4", later)
    rows = levels_of(compare(source, swapped, start=1.0).html, tmp_path / "shown.mp4")
    np.testing.assert_allclose(rows[:, 1], 20 + 2 * np.arange(25, 50), atol=2)
    np.testing.assert_allclose(rows[:, 2], later, atol=2)


def test_a_part_of_the_films_is_shown(clips, tmp_path):
    page = compare(*clips, at=0.4, seconds=0.2).html
    rows = levels_of(page, tmp_path / "shown.mp4")
    np.testing.assert_allclose(rows[:, 0], np.arange(5) / 25, atol=1e-3)
    np.testing.assert_allclose(rows[:, 1], 20 + 2 * np.arange(10, 15), atol=2)
    np.testing.assert_allclose(rows[:, 2], 120 + 2 * np.arange(10, 15), atol=2)


def test_a_result_of_fewer_frames_shows_the_source_of_the_same_moment(clips, tmp_path):
    swapped = write_clip(tmp_path / "slow.mp4", range(120, 220, 20), fps=Fraction(5, 2))
    rows = levels_of(compare(clips[0], swapped).html, tmp_path / "shown.mp4")
    np.testing.assert_allclose(rows[:, 1], 20 + 20 * np.arange(5), atol=2)


def test_a_variable_rate_is_kept(clips, tmp_path):
    swapped, times = tmp_path / "varies.mp4", [0, 2, 3, 20, 21]
    with VideoWriter(swapped, 64, 48, FPS) as writer:
        for time in times:
            level = np.uint8([120 + 2 * time] * 3)
            writer.write(plain(level), Fraction(time, 25))
    rows = levels_of(compare(clips[0], swapped).html, tmp_path / "shown.mp4")
    np.testing.assert_allclose(rows[:, 0], np.array(times) / 25, atol=1e-3)
    np.testing.assert_allclose(rows[:, 1], 20 + 2 * np.array(times), atol=2)


def test_the_sound_of_the_result_is_kept_from_where_it_is_shown(tmp_path, clips):
    _, swapped = clips
    sounding = tmp_path / "sounding.mp4"
    with av.open(str(tmp_path / "tone.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        for start in range(0, 96000, 1024):
            loud = start >= 48000
            wave = 0.5 * loud * np.sin(np.arange(start, start + 1024) * 0.06)
            frame = av.AudioFrame.from_ndarray(
                wave.astype(np.float32)[None], format="fltp", layout="mono"
            )
            frame.rate, frame.pts = 48000, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoWriter(sounding, 64, 48, FPS, audio_from=tmp_path / "tone.mp4") as writer:
        for frame in read_frames(swapped):
            writer.write(frame.image)
    page = compare(clips[0], sounding, at=0.5, seconds=1).html
    with av.open(BytesIO(embedded(page)[1])) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    sound = np.concatenate(parts, axis=1)[0]
    assert 0.9 < len(sound) / 48000 < 1.1
    assert np.abs(sound[:20000]).max() < 0.05  # silent for half a second
    assert np.abs(sound[28000:44000]).max() > 0.3


def test_a_gif_and_a_folder_of_pictures_are_films(clips, tmp_path):
    source, swapped = clips
    images = [frame.image for frame in read_frames(swapped)]
    for index, image in enumerate(images):
        write_image(tmp_path / "swapped" / f"{index}.png", image)
    first, *others = map(Image.fromarray, images)
    options = dict(save_all=True, append_images=others, duration=1000 / FPS)
    first.save(tmp_path / "swapped.gif", **options)
    for path in (tmp_path / "swapped.gif", tmp_path / "swapped"):
        rows = levels_of(compare(source, path).html, tmp_path / "shown.mp4")
        assert len(rows) >= 49
        np.testing.assert_allclose(rows[:, 2], rows[:, 1] + 100, atol=6)


# Size


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """Half a second that no encoder makes small."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(folder / name, 160, 120, FPS) as writer:
            for _ in range(12):
                writer.write(rng.integers(0, 255, (120, 160, 3), np.uint8))
    return folder / "a.mp4", folder / "b.mp4"


def test_a_film_is_encoded_more_coarsely_until_it_fits(noisy):
    large = len(compare(*noisy).html)
    bound = 0.7 * large / 1e6
    small = compare(*noisy, most_megabytes=bound)
    assert len(small.html) <= bound * 1e6
    assert probe_of(small.html) == probe_of(compare(*noisy).html)


def probe_of(page: str) -> tuple:
    with av.open(BytesIO(embedded(page)[1])) as container:
        stream = container.streams.video[0]
        return stream.width, stream.height, stream.frames


def test_what_does_not_fit_is_refused_with_the_way_out(noisy):
    with pytest.raises(ValueError, match=r"takes 0\.\d MB, most_megabytes allows 0.01"):
        compare(*noisy, most_megabytes=0.01)
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    with pytest.raises(ValueError, match="show fewer seconds or a smaller width"):
        compare(noise, noise, most_megabytes=0.01)


def test_the_notebook_saves_the_player_once():
    shown = compare(plain(RED), plain(BLUE))
    assert repr(shown) == "Player()"
    assert shown._repr_html_() == shown.html


# The page


@pytest.fixture(scope="module")
def pages(clips):
    return [compare(plain(RED), plain(BLUE)).html, compare(*clips).html]


@pytest.mark.parametrize("index", [0, 1])
def test_the_page_needs_nothing_else(pages, index):
    page = Page(pages[index])
    assert page.open == []
    assert [address[:5] for address in page.addresses] == ["data:"]
    assert ["img", "video"][index] in page.tags
    code = pages[index].split("<script>")[1]
    assert not re.search(r"https?:|//\w|import|require|fetch|url\(", code)
    assert "$" not in code.replace("${", "")


def test_without_scripts_it_is_seen_side_by_side(pages, clips):
    without = re.sub(r"<script>.*</script>", "", pages[1], flags=re.DOTALL)
    assert "controls" in without
    assert "opacity" not in without
    assert "hidden" not in without
    assert "none" not in without.split("base64")[0]
    assert Page(without).text.split() == ["◀", "source", "result", "▶"]


def test_labels_are_escaped():
    labels = ("<script>alert(1)</script>", "A & \"B\" ${x} $name 'c'")
    page = compare(plain(RED), plain(BLUE), labels=labels).html
    parsed = Page(page)
    assert parsed.tags.count("script") == 1
    assert labels[0] in parsed.text
    assert labels[1] in parsed.text


def test_two_players_in_one_page_keep_apart():
    first, second = (compare(plain(RED), plain(BLUE)).html for _ in range(2))
    [name], [other] = (
        set(re.findall(r"fsgan-player-\w+", page)) for page in (first, second)
    )
    assert name != other
    assert first.count(name) == 2  # where it is, and where the script looks for it
    # Variables of the script live within its loop, so that the next may have the same.
    code = first.split("<script>")[1].split("</script>")[0].strip()
    assert code.startswith("for (const player of ")
    assert code.endswith("\n}")
    assert not re.search(r"^(const|let|var|function) ", code, flags=re.MULTILINE)


# Faults


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 8}, "width must be at least 16 pixels, got 8"),
        ({"seconds": 0}, "seconds must be above 0, got 0"),
        ({"at": 99}, "no frame of .*swapped.mp4 lies in the chosen part"),
        ({"start": 99}, "no frame of .*source.mp4 lies in the chosen part"),
    ],
)
def test_settings_out_of_range_are_refused(clips, settings, message):
    with pytest.raises(ValueError, match=message):
        compare(*clips, **settings)


def test_a_film_and_a_picture_are_refused(clips):
    with pytest.raises(ValueError, match=r"source.mp4 and an array must be two videos"):
        compare(clips[0], plain(RED))


@pytest.mark.parametrize(
    "image", [plain(RED) / 255, plain(RED)[..., 0], plain(RED)[..., :2]]
)
def test_arrays_that_are_no_pictures_are_refused(image):
    with pytest.raises(
        ValueError, match=r"must be RGB uint8 \(height, width, 3\), got"
    ):
        compare(plain(RED), image)


def test_other_shapes_are_refused(clips, tmp_path):
    wide = write_clip(tmp_path / "wide.mp4", [100] * 3, size=(128, 48))
    with pytest.raises(ValueError, match=r"wide.mp4 \(128x48\) must have one shape: "):
        compare(clips[0], wide)
    with pytest.raises(ValueError, match=r"an array \(64x48\) and an array \(48x64\)"):
        compare(plain(RED), plain(BLUE, 48, 64))


def test_missing_files_are_refused(clips, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone.mp4 does not exist"):
        compare(clips[0], tmp_path / "gone.mp4")
    with pytest.raises(FileNotFoundError, match=r"gone.png does not exist"):
        compare(tmp_path / "gone.png", plain(RED))


def test_nothing_is_left_behind(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(player.tempfile, "tempdir", str(tmp_path))
    compare(*clips)
    with pytest.raises(ValueError, match="no frame"):
        compare(*clips, at=99)
    assert list(tmp_path.iterdir()) == []
    assert probe(clips[0]).frame_count == 50
