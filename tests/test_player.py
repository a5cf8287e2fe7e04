"""Players: what is in them, that it is all there, and that both halves agree."""

import re
from base64 import b64decode
from fractions import Fraction
from html.parser import HTMLParser
from io import BytesIO

import av
import numpy as np
import pytest
from PIL import Image

from fsgan import compare
from fsgan.evaluation import player
from fsgan.media.images import write_image
from fsgan.media.provenance import read_marks, says_synthetic
from fsgan.media.reader import read_frames
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


def embedded(page: str) -> dict[str, tuple[str, bytes]]:
    """Kind and content of the source and of the result, which comes first."""
    found = re.findall(r'src="data:([a-z/0-9]+);base64,([^"]+)"', page)
    contents = [(kind, b64decode(content)) for kind, content in found]
    return dict(zip(("result", "source"), contents, strict=True))


def levels_of(page: str, folder) -> np.ndarray:
    """(n, 3): seconds, gray of the source and of the result."""
    columns = []
    for name in ("source", "result"):
        kind, content = embedded(page)[name]
        assert kind == "video/mp4"
        (folder / f"shown_{name}.mp4").write_bytes(content)
        frames = list(read_frames(folder / f"shown_{name}.mp4"))
        columns.append([float(frame.time) for frame in frames])
        columns.append([frame.image.mean() for frame in frames])
    assert columns[0] == columns[2]
    return np.array([*columns[:2], columns[3]]).T


def test_pictures_may_be_arrays_or_files(tmp_path):
    write_image(tmp_path / "a.png", plain(RED))
    shown = compare(plain(RED), plain(BLUE))
    assert compare(str(tmp_path / "a.png"), plain(BLUE)).html == shown.html
    for name, color in (("source", RED), ("result", BLUE)):
        kind, content = embedded(shown._repr_html_())[name]
        assert kind == "image/jpeg"
        image = np.array(Image.open(BytesIO(content)).convert("RGB")).astype(int)
        assert np.abs(image - plain(color)).max() <= 4
    assert repr(shown) == "Player()"  # the notebook saves it once


@pytest.mark.parametrize(
    ("size", "width", "expected"),
    [
        ((640, 360), 320, (320, 180)),
        ((64, 48), 640, (64, 48)),  # never enlarged
        ((641, 361), 641, (640, 360)),  # even
        ((1000, 10), 100, (100, 2)),
    ],
)
def test_pictures_are_scaled_down_to_the_width(size, width, expected):
    page = compare(plain(RED, *size), plain(BLUE, *size), width=width).html
    for _, content in embedded(page).values():
        assert Image.open(BytesIO(content)).size == expected
    assert f"max-width: {expected[0]}px" in page


def test_what_it_shows_is_marked_as_synthetic(clips, tmp_path):
    for both, suffix in (((plain(RED), plain(BLUE)), ".jpg"), (clips, ".mp4")):
        path = tmp_path / f"marked{suffix}"
        path.write_bytes(embedded(compare(*both).html)["result"][1])
        assert says_synthetic(read_marks(path))


def test_two_videos_are_shown_in_step(clips, tmp_path):
    rows = levels_of(compare(*clips).html, tmp_path)
    np.testing.assert_allclose(rows[:, 0], np.arange(50) / 25, atol=1e-3)
    np.testing.assert_allclose(rows[:, 1], 20 + 2 * np.arange(50), atol=2)
    np.testing.assert_allclose(rows[:, 2], 120 + 2 * np.arange(50), atol=2)


def test_a_part_is_shown_and_a_conversion_that_began_later(clips, tmp_path):
    rows = levels_of(compare(*clips, at=0.4, seconds=0.2).html, tmp_path)
    np.testing.assert_allclose(rows[:, 1], 20 + 2 * np.arange(10, 15), atol=2)
    np.testing.assert_allclose(rows[:, 2], 120 + 2 * np.arange(10, 15), atol=2)
    later = [220 + index for index in range(25)]
    swapped = write_clip(tmp_path / "part.mp4", later)
    rows = levels_of(compare(clips[0], swapped, start=1.0).html, tmp_path)
    np.testing.assert_allclose(rows[:, 1], 20 + 2 * np.arange(25, 50), atol=2)
    np.testing.assert_allclose(rows[:, 2], later, atol=2)


def test_a_variable_rate_is_kept(clips, tmp_path):
    swapped, times = tmp_path / "varies.mp4", [0, 2, 3, 20, 21]
    with VideoWriter(swapped, 64, 48, FPS) as writer:
        for time in times:
            level = np.uint8([120 + 2 * time] * 3)
            writer.write(plain(level), Fraction(time, 25))
    rows = levels_of(compare(clips[0], swapped).html, tmp_path)
    np.testing.assert_allclose(rows[:, 0], np.array(times) / 25, atol=1e-3)
    np.testing.assert_allclose(rows[:, 1], 20 + 2 * np.array(times), atol=2)


def test_the_sound_of_the_result_is_kept_from_where_it_is_shown(tmp_path):
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
    write_clip(sounding, range(100, 150), audio_from=tmp_path / "tone.mp4")
    contents = embedded(compare(str(sounding), sounding, at=0.5, seconds=1).html)
    with av.open(BytesIO(contents["result"][1])) as container:
        parts = [frame.to_ndarray() for frame in container.decode(audio=0)]
    sound = np.concatenate(parts, axis=1)[0]
    assert 0.9 < len(sound) / 48000 < 1.1
    assert np.abs(sound[:20000]).max() < 0.05  # silent for half a second
    assert np.abs(sound[28000:44000]).max() > 0.3


def test_a_video_is_encoded_more_coarsely_until_it_fits(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name, 160, 120, FPS) as writer:
            for _ in range(8):
                writer.write(rng.integers(0, 255, (120, 160, 3), np.uint8))
    noisy = tmp_path / "a.mp4", tmp_path / "b.mp4"
    bound = 0.7 * len(compare(*noisy).html) / 1e6
    assert len(compare(*noisy, most_megabytes=bound).html) <= bound * 1e6 + 100
    with pytest.raises(ValueError, match=r"takes 0\.\d MB, most_megabytes allows 0.01"):
        compare(*noisy, most_megabytes=0.01)


class Page(HTMLParser):
    """Tags and text, and whether all is closed."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("kind", ["img", "video"])
def test_the_page_is_whole_and_needs_nothing_else(clips, kind):
    labels = ("<script>alert(1)</script>", "A & \"B\" {x} $name 'c'")
    both = (plain(RED), plain(BLUE)) if kind == "img" else clips
    page = compare(*both, labels=labels).html
    parsed = Page(page)
    assert parsed.open == []
    assert parsed.tags == ["div", "div", kind, kind, "input", "div", "span", "span"]
    assert all(label in parsed.text for label in labels)
    assert not re.search(r"https?:|<script|import|fetch|url\(", page)
    assert page.count("--cut") == 2  # what the slider sets is what cuts the source
    # Else browsers may show a film with sound only once it plays.
    assert page.count('preload="auto"') == (2 if kind == "video" else 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seconds": 0}, "seconds must be greater than 0, got 0"),
        ({"at": 99}, "no frame of .*swapped.mp4 lies in the chosen part"),
        ({"start": 99}, "no frame of .*source.mp4 lies in the chosen part"),
    ],
)
def test_nothing_to_show_is_an_error_and_leaves_nothing_behind(
    clips, tmp_path, monkeypatch, settings, message
):
    monkeypatch.setattr(player.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        compare(*clips, **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "swapped", "error", "message"),
    [
        ("source.mp4", plain(RED), ValueError, "source.mp4 and an array must be two"),
        ("source.mp4", "wide.mp4", ValueError, r"wide.mp4 \(128x48\) must have one sh"),
        (plain(RED), plain(RED, 48, 64), ValueError, r"\(64x48\) and an array \(48x64"),
        (plain(RED), plain(RED) / 255, ValueError, r"must be RGB uint8 \(height, w"),
        (plain(RED), plain(RED)[..., 0], ValueError, r"must be RGB uint8 \(height, w"),
        ("source.mp4", "gone.mp4", FileNotFoundError, "gone.mp4"),
        ("gone.png", plain(RED), FileNotFoundError, "gone.png"),
    ],
)
def test_what_cannot_be_compared_is_refused(clips, source, swapped, error, message):
    folder = clips[0].parent
    write_clip(folder / "wide.mp4", [100] * 3, size=(128, 48))
    both = [folder / it if isinstance(it, str) else it for it in (source, swapped)]
    with pytest.raises(error, match=message):
        compare(*both)
