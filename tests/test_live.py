"""Frames swapped as they come: none is late, the faces are where they are offline."""

import signal
import sys
import threading
import time
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from fsgan import ConvertSettings, FaceSwapper, convert_video, live
from fsgan.__main__ import main
from fsgan.media.provenance import draw_label
from fsgan.media.reader import read_frames
from fsgan.media.writer import VideoWriter

pytestmark = pytest.mark.usefixtures("shared_generators")
stage = sys.modules["fsgan.swap.live"]  # not the function of that name
UNMARKED = ConvertSettings(mark=False)
FRAMES = 8


@pytest.fixture(scope="module")
def clip(tmp_path_factory, portrait):
    """A face that stands still."""
    path = tmp_path_factory.mktemp("clip") / "still.mkv"
    with VideoWriter(path, 340, 300, Fraction(25), lossless=True) as writer:
        for _ in range(FRAMES):
            writer.write(portrait)
    return path


@pytest.fixture(scope="module")
def swapper(gray_model, shared_generators):
    return FaceSwapper(gray_model)


def numbered(count):
    """Small frames without a face, each of its number's gray."""
    for number in range(count):
        yield np.full((40, 48, 3), number, np.uint8)


def test_a_file_in_place_of_a_camera_is_swapped_as_offline(gray_model, clip, tmp_path):
    out = tmp_path / "swap.mkv"
    # The plain gray stays visible with the histograms of v2.2.
    settings = ConvertSettings(color="hist_match", mark=False, lossless=True)
    convert_video(clip, out, gray_model, settings)
    pictures, unmarked = [], replace(UNMARKED, color="hist_match")
    done = live(gray_model, clip, pictures.append, unmarked)
    assert (done.frames, done.frames_with_face, done.dropped) == (FRAMES, FRAMES, 0)
    assert done.frames_per_second > 0 < done.latency
    assert str(done).startswith("face in 8 of 8 frames, 0 dropped, ")
    for frame, picture in zip(read_frames(out), pictures, strict=True):
        difference = cv2.absdiff(frame.image, picture)
        assert difference.max() <= 3  # of 255
    assert cv2.absdiff(picture, next(read_frames(clip)).image).mean() > 2


def test_a_swapped_picture_says_so_unless_told_not_to(
    gray_model, swapper, portrait, caplog
):
    wall, marked, plain = np.zeros_like(portrait), [], []
    live(swapper, [portrait, wall], marked.append)
    assert not caplog.records
    live(gray_model, [portrait], plain.append, UNMARKED)
    assert "marks are off: say yourself" in caplog.text
    np.testing.assert_array_equal(marked[0], draw_label(plain[0]))
    np.testing.assert_array_equal(marked[1], wall)  # nothing is swapped in it


def test_the_label_is_on_the_result_where_the_source_is_beside_it(gray_model, portrait):
    pictures = []
    for settings in (ConvertSettings(layout=2), replace(UNMARKED, layout=2)):
        live(gray_model, [portrait], pictures.append, settings)
    marked, plain = (np.split(picture, 2, axis=1) for picture in pictures)
    np.testing.assert_array_equal(marked[0], portrait)
    np.testing.assert_array_equal(marked[1], draw_label(plain[1]))


def test_a_swapper_starts_anew_and_keeps_its_settings(swapper, portrait):
    first, again = [], []
    live(swapper, [portrait], first.append)
    live(swapper, [np.roll(portrait, 9, axis=1), portrait][1:], again.append)
    np.testing.assert_array_equal(first, again)
    assert not swapper.settings.label
    with pytest.raises(ValueError, match="settings are the swapper's own"):
        live(swapper, [portrait], None, UNMARKED)


def test_at_most_two_frames_are_under_way(swapper):
    taken, under_way = [], []

    def frames():
        for frame in numbered(9):
            taken.append(frame)
            yield frame

    def show(picture):
        under_way.append(len(taken) - len(under_way))

    assert live(swapper, frames(), show).frames == len(under_way) == 9
    assert max(under_way) <= 2


def test_a_slow_consumer_gets_the_newest_frame_and_the_others_are_dropped(swapper):
    """Five frames come while one is shown."""
    asked, room, shown = threading.Semaphore(0), threading.Semaphore(1), []

    def camera():
        for frame in numbered(11):
            asked.release()  # the frame before has been handed over
            room.acquire()
            yield frame
        asked.release()

    def show(picture):
        shown.append(picture[0, 0, 0])
        if shown[-1] < 10:
            room.release(5)
            for _ in range(5 if shown[-1] else 7):
                asked.acquire()

    done = live(swapper, camera(), show, drop=True)
    assert shown == [0, 5, 10]
    assert (done.frames, done.dropped) == (3, 8)


def test_a_file_that_is_dropped_from_is_played_at_its_own_speed(
    swapper, clip, monkeypatch
):
    clock = SimpleNamespace(now=0.0, slept=[])

    def sleep(seconds):
        clock.slept.append(seconds)
        clock.now += seconds

    fake = SimpleNamespace(perf_counter=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(stage, "time", fake)
    done = live(swapper, clip, None, drop=True)
    assert clock.slept == pytest.approx([0] + [0.04] * (FRAMES - 1))
    assert done.frames + done.dropped == FRAMES


def test_what_is_called_with_the_pictures_can_end_it(swapper):
    closed = []

    def frames():
        try:
            yield from numbered(9)
        finally:
            closed.append(True)

    done = live(swapper, frames(), lambda picture: bool(picture[0, 0, 0] < 2))
    assert done.frames == 3
    assert closed == [True]


# --- Ctrl-C ---


class FakeCamera:
    """Never ends."""

    on = False

    def __call__(self, index):
        self.on = True
        return self

    isOpened = set = lambda *arguments: True  # noqa: N815
    read = lambda self: (True, np.zeros((40, 48, 3), np.uint8))  # noqa: E731

    def release(self):
        self.on = False


def test_an_interrupt_ends_it_well_and_switches_the_camera_off(swapper, monkeypatch):
    camera, shown = FakeCamera(), []
    monkeypatch.setattr(cv2, "VideoCapture", camera)

    def show(picture):
        assert camera.on
        shown.append(picture)
        if len(shown) == 3:
            raise KeyboardInterrupt

    assert live(swapper, 0, show).frames == 2
    assert not camera.on
    with pytest.raises(ZeroDivisionError):  # a fault of the caller's
        live(swapper, 0, lambda picture: 1 / 0)
    assert not camera.on


def test_an_interrupt_while_it_waits_for_a_frame_ends_it(swapper):
    shown, over = threading.Event(), []

    def frames():
        try:
            yield from numbered(1)
            shown.wait()
            time.sleep(0.1)  # now it waits
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            yield from numbered(3)
        finally:
            over.append(True)

    assert live(swapper, frames(), lambda picture: shown.set()).frames >= 1
    assert over == [True]


# --- where it is shown ---


@pytest.fixture
def window(monkeypatch):
    """What OpenCV was told; a key is pressed at the third picture."""
    window = SimpleNamespace(shown=[], key=-1, visible=1.0, gone=[])
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda title: None)
    monkeypatch.setattr(cv2, "imshow", lambda title, image: window.shown.append(image))
    monkeypatch.setattr(
        cv2, "waitKey", lambda wait: window.key if len(window.shown) == 3 else -1
    )
    monkeypatch.setattr(
        cv2,
        "getWindowProperty",
        lambda title, what: window.visible if len(window.shown) == 3 else 1.0,
    )
    monkeypatch.setattr(cv2, "destroyWindow", window.gone.append)
    return window


@pytest.mark.parametrize(
    ("key", "visible", "frames"),
    [(-1, 1.0, 5), (27, 1.0, 3), (ord("q"), 1.0, 3), (ord("x"), 1.0, 5), (-1, -1.0, 3)],
)
def test_a_window_shows_bgr_until_it_is_closed(swapper, window, key, visible, frames):
    window.key, window.visible = key, visible
    red = np.full((40, 48, 3), (200, 10, 0), np.uint8)
    assert live(swapper, [red] * 5).frames == len(window.shown) == frames
    assert tuple(window.shown[0][0, 0]) == (0, 10, 200)
    assert window.gone == ["fsgan"]


def test_without_a_display_or_with_a_headless_opencv_one_sentence(
    swapper, window, monkeypatch
):
    def headless(title):
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", headless)
    with pytest.raises(OSError, match="no window can be opened: run this where"):
        live(swapper, numbered(1))
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cv2, "namedWindow", lambda title: pytest.fail("Qt would exit"))
    with pytest.raises(OSError, match="where there is a display"):
        live(swapper, numbered(1))


def test_a_virtual_camera_gets_marked_pictures(swapper, portrait, monkeypatch):
    sent = []

    class Camera:
        def __init__(self, width, height, fps):
            assert (width, height, fps) == (340, 300, 30)

        def __enter__(self):
            return self

        def send(self, picture):
            sent.append(picture)

        def __exit__(self, *fault):
            sent.append("closed")

    module = SimpleNamespace(Camera=Camera)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", module)
    live(swapper, [portrait] * 2, "camera")
    *pictures, end = sent
    assert len(pictures) == 2 and end == "closed"
    for picture in pictures:
        np.testing.assert_array_equal(picture, draw_label(picture))
    assert (draw_label(portrait) != portrait).any()

    def fails(*arguments):
        raise RuntimeError("'v4l2loopback' backend: none\nfound")

    module.Camera = fails
    with pytest.raises(OSError, match=r"no virtual camera \('v4l2loopback' backend: n"):
        live(swapper, numbered(1), "camera")
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(ImportError, match="pip install pyvirtualcam for a"):
        live(swapper, numbered(1), "camera")


# --- what cannot be ---


def test_a_wrong_argument_is_one_sentence(swapper, tmp_path):
    with pytest.raises(OSError, match="camera 97 cannot be opened: connect one"):
        live(swapper, 97, None)
    with pytest.raises(FileNotFoundError, match=r"gone.mp4 does not exist"):
        live(swapper, tmp_path / "gone.mp4", None)
    with pytest.raises(FileNotFoundError, match="no trained model in"):
        live(tmp_path, numbered(1), None)
    for frame in (np.zeros((40, 48)), np.zeros((40, 48, 3)), None):
        with pytest.raises(ValueError, match="frames must be uint8"):
            live(swapper, [frame], None)
    with pytest.raises(ValueError, match="show must be 'window' or 'camera'"):
        live(swapper, numbered(1), "screen")
    assert live(swapper, [], None).frames == 0


def test_the_command_takes_a_file_and_says_what_it_did(gray_model, clip, capsys):
    line = ["-q", "live", str(gray_model), "--source", str(clip), "--show", "null"]
    assert main(line) == 0
    assert capsys.readouterr().out.startswith("face in 8 of 8 frames, 0 dropped, ")
