"""A camera as a stream of frames."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import cv2

from fsgan.media.reader import Frame

log = logging.getLogger(__name__)

_NANOSECONDS = 1_000_000_000


def camera_frames(index: int = 0, seconds: float | None = None) -> Iterator[Frame]:
    """Streams what a camera sees, as fast as it delivers and the caller takes.

    The camera is switched on with the first frame and off when the iterator ends or is
    closed. Frames that come while the caller is busy are lost, but for the few that
    the driver keeps.

    Args:
        index: the camera, counted from 0.
        seconds: frames at or after that are left out; None goes on until the caller
            stops.

    Yields:
        Frames, `time` by the clock of the machine since the first of them.

    Raises:
        ValueError: `index` is negative, or `seconds` not above 0.
        OSError: there is no such camera, or it delivers no picture.
    """
    if index < 0:
        raise ValueError(f"index must be at least 0, got {index}")
    if seconds is not None and not seconds > 0:
        raise ValueError(f"seconds must be above 0 or None, got {seconds}")
    with _opencv_silenced():
        camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise OSError(
                f"camera {index} cannot be opened: connect one and let this program "
                "use it, try another number, or give a video or photos instead (a "
                "notebook on a server, as on Colab, sees no camera of yours)"
            )
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # else a busy caller sees the past
        first, count = 0, 0
        while True:
            with _opencv_silenced():
                whole, image = camera.read()
            now = time.monotonic_ns()
            if not whole:
                break
            first = first or now
            passed = Fraction(now - first, _NANOSECONDS)
            if seconds is not None and passed >= seconds:
                return
            yield Frame(count, passed, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            count += 1
    finally:
        camera.release()
    if not count:
        raise OSError(
            f"camera {index} delivers no picture: close the program that uses it, or "
            "try another number"
        )
    log.warning("camera %d stopped after %d frames", index, count)


@contextmanager
def _opencv_silenced() -> Iterator[None]:
    """Keeps OpenCV from writing to the terminal what is said in one sentence here."""
    logging_of_opencv = cv2.utils.logging
    level = logging_of_opencv.setLogLevel(logging_of_opencv.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging_of_opencv.setLogLevel(level)
