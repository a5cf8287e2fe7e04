"""A camera that is not there, and one that delivers what it is told."""

from fractions import Fraction

import cv2
import numpy as np
import pytest

from fsgan.media import camera
from fsgan.media.camera import camera_frames


class FakeCamera:
    """Delivers BGR pictures, numbered in their blue channel, every 0.1 s."""

    def __init__(self, clock, count=None, opens=True):
        self.clock, self.count, self.opens = clock, count, opens
        self.taken, self.released = 0, False

    def __call__(self, index):
        self.index = index
        return self

    def isOpened(self):  # noqa: N802
        return self.opens

    def set(self, name, value):
        return True

    def read(self):
        if self.taken == self.count:
            return False, None
        self.clock.now += 100_000_000
        image = np.zeros((4, 6, 3), np.uint8)
        image[..., 0] = self.taken
        self.taken += 1
        return True, image

    def release(self):
        self.released = True


class Clock:
    now = 7_000_000_000

    def monotonic_ns(self):
        return self.now


@pytest.fixture
def plug_in(monkeypatch):
    def plugged(**settings):
        clock = Clock()
        fake = FakeCamera(clock, **settings)
        monkeypatch.setattr(camera, "time", clock)
        monkeypatch.setattr(cv2, "VideoCapture", fake)
        return fake

    return plugged


def test_frames_are_numbered_rgb_and_timed_from_the_first(plug_in):
    fake = plug_in(count=3)
    frames = list(camera_frames(2))
    assert fake.index == 2
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.time for frame in frames] == [0, Fraction(1, 10), Fraction(1, 5)]
    assert [frame.image[1, 2].tolist() for frame in frames] == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 2],
    ]
    assert not any(frame.damaged for frame in frames)
    assert fake.released


def test_it_stops_after_the_seconds_asked_for(plug_in):
    fake = plug_in()
    assert [frame.index for frame in camera_frames(0, seconds=0.25)] == [0, 1, 2]
    assert fake.released


def test_a_caller_that_stops_early_switches_the_camera_off(plug_in):
    fake = plug_in()
    frames = camera_frames()
    next(frames)
    assert not fake.released
    frames.close()
    assert fake.released


def test_a_camera_that_is_pulled_out_ends_the_stream_and_is_said(plug_in, caplog):
    plug_in(count=2)
    assert len(list(camera_frames(1))) == 2
    assert "camera 1 stopped after 2 frames" in caplog.text


def test_a_camera_that_delivers_nothing_is_said(plug_in):
    fake = plug_in(count=0)
    with pytest.raises(OSError, match="camera 0 delivers no picture: close the"):
        list(camera_frames())
    assert fake.released


def test_a_camera_that_does_not_open_is_said(plug_in):
    fake = plug_in(opens=False)
    with pytest.raises(OSError, match="camera 3 cannot be opened: connect one"):
        list(camera_frames(3))
    assert fake.released


def test_a_missing_camera_is_one_sentence_and_opencv_is_silent(capfd):
    level = cv2.utils.logging.LOG_LEVEL_WARNING
    cv2.utils.logging.setLogLevel(level)
    with pytest.raises(OSError, match="camera 97 cannot be opened"):
        list(camera_frames(97))
    assert capfd.readouterr() == ("", "")
    assert cv2.utils.logging.getLogLevel() == level


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"index": -1}, "index must be at least 0, got -1"),
        ({"seconds": 0}, "seconds must be above 0 or None, got 0"),
        ({"seconds": float("nan")}, "seconds must be above 0 or None, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(plug_in, settings, message):
    fake = plug_in()
    with pytest.raises(ValueError, match=message):
        list(camera_frames(**settings))
    assert not fake.taken
