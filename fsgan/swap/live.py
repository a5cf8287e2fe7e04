"""Stage: the frames of a camera, swapped and shown as they come."""

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from queue import Empty, Queue
from threading import Event
from typing import Literal

import cv2
import numpy as np
from tqdm.auto import tqdm

from fsgan.media.reader import read_frames
from fsgan.swap.convert import load_swapper
from fsgan.swap.swapper import ConvertSettings, FaceSwapper
from fsgan.validation import checked

log = logging.getLogger(__name__)

_DISPLAYS = {"DISPLAY", "WAYLAND_DISPLAY"}


@dataclass(frozen=True)
class LiveSwap:
    """What `live` did.

    Attributes:
        frames: frames shown.
        frames_with_face: those of them in which a face was swapped.
        dropped: frames that a newer one overtook while those before were swapped.
        frames_per_second: shown, from the first on.
        latency: seconds from when a frame came until it was shown, on average.
    """

    frames: int
    frames_with_face: int
    dropped: int
    frames_per_second: float
    latency: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"face in {self.frames_with_face} of {self.frames} frames, {self.dropped} "
            f"dropped, {self.frames_per_second:.1f} frames/s, {self.latency:.3f} s late"
        )


@checked
def live(
    model: str | Path | FaceSwapper,
    source: int | str | Path | Iterable[np.ndarray] = 0,  # "0" typed is a camera
    show: Literal["window", "camera"] | Callable | None = "window",
    settings: ConvertSettings | None = None,
    *,
    drop: bool | None = None,
) -> LiveSwap:
    """Swaps the faces in the frames of a camera while they come, and shows them.

    Faces are tracked and smoothed looking back only. A picture with a swapped face says
    so in its corner, unless `settings.mark` is off. It ends with the source, with
    Ctrl-C, or when its window is closed (Escape and q do so, too).

    Args:
        model: folder given to `fsgan.train`, or a swapper, which is loaded already.
        source: number of a camera, counted from 0; a video, or a folder of pictures; or
            frames from anywhere, RGB uint8 (height, width, 3).
        show: "window" opens one; "camera" feeds a virtual camera, which other programs
            take for a real one (needs pyvirtualcam); a function is called with each
            picture, RGB uint8, and ends it by returning False; None shows nothing.
        settings: how to convert; None takes the defaults, or the swapper's. Those of
            files (`crf`, `layers` and so on) do not count.
        drop: whether frames that come while others are swapped are dropped, so that
            what is shown is at most two frames late; a video is then played at its own
            speed. None: of a camera only.

    Returns:
        Counts, speed and latency.

    Raises:
        FileNotFoundError: the model or `source` is missing.
        ImportError: pyvirtualcam is not installed.
        ValueError: a frame or a setting is wrong, or the model knows one person.
        OSError: there is no such camera, no display or no virtual camera.
    """
    drop = isinstance(source, int) if drop is None else drop
    screens = {"window": _window, "camera": _virtual_camera}
    screen = screens[show]() if isinstance(show, str) else nullcontext(show)
    counts, delays, began, now = Counter(), [], None, 0.0
    arriving = _as_they_come(_frames(source, drop), drop, counts)
    with screen as show:
        swapper = copy(load_swapper(model, settings))  # the caller's stays as it is
        settings = swapper.settings
        swapper.settings = replace(settings, label=settings.label or settings.mark)
        swapper.reset()
        if not settings.mark:
            log.warning("marks are off: say yourself that what you show was swapped")
        with closing(arriving), suppress(KeyboardInterrupt):
            for came, frame in tqdm(arriving, "live", unit="frame"):
                [(picture, layers)] = swapper.swap([frame])
                stopped = show is not None and show(picture) is False
                began, now = came if began is None else began, time.perf_counter()
                delays.append(now - came)
                counts["with face"] += bool(layers)
                if stopped:
                    break
    total = len(delays)
    rate, latency = (total / (now - began), np.mean(delays)) if total else (0.0, 0.0)
    return LiveSwap(total, counts["with face"], counts["dropped"], rate, float(latency))


def _frames(source: int | str | Path | Iterable, paced: bool) -> Iterator[np.ndarray]:
    """The frames of any source; whatever delivers them is closed at the end."""
    if not isinstance(source, int | str | Path):
        yield from source
        return
    began = time.perf_counter()
    with closing(read_frames(source)) as frames:
        for frame in frames:
            if paced:  # a camera's frame is never early
                time.sleep(max(0, began + float(frame.time) - time.perf_counter()))
            yield frame.image


def _as_they_come(
    frames: Iterator[np.ndarray], drop: bool, counts: Counter
) -> Iterator[tuple[float, np.ndarray]]:
    """Yields when each frame came and the frame; one is read while one is in work."""
    slot, over = Queue(1), Event()

    def read() -> None:
        try:
            with closing(frames):
                for frame in frames:
                    if np.ndim(frame) != 3 or frame.dtype != np.uint8:
                        raise ValueError("frames must be uint8 (height, width, 3)")
                    with suppress(Empty):
                        if drop:
                            slot.get_nowait()
                            counts["dropped"] += 1
                    slot.put((time.perf_counter(), frame))
                    if not drop:
                        slot.join()  # until it is taken
                    if over.is_set():
                        break
        finally:
            slot.put(None)

    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(read)
        try:
            while (arrived := slot.get()) is not None:
                slot.task_done()
                yield arrived
            reading.result()  # raises what stopped it
        finally:
            over.set()
            while not reading.done():  # it may wait for the slot
                with suppress(Empty):
                    slot.get(timeout=0.05)
                    slot.task_done()


@contextmanager
def _window() -> Iterator[Callable[[np.ndarray], bool]]:
    """A window that says False when it is closed."""
    try:
        if sys.platform == "linux" and not {*os.environ} & _DISPLAYS:
            raise cv2.error("no display")  # Qt, within OpenCV, would end the program
        cv2.namedWindow("fsgan")
    except cv2.error as error:
        raise OSError(
            "no window can be opened: run this where there is a display, with an "
            "OpenCV that is not headless, or give another show"
        ) from error

    def show(picture: np.ndarray) -> bool:
        cv2.imshow("fsgan", picture[..., ::-1])
        closed = cv2.waitKey(1) & 0xFF in (27, ord("q"))
        return not closed and cv2.getWindowProperty("fsgan", cv2.WND_PROP_VISIBLE) >= 1

    try:
        yield show
    finally:
        with suppress(cv2.error):  # it is closed already
            cv2.destroyWindow("fsgan")


@contextmanager
def _virtual_camera() -> Iterator[Callable[[np.ndarray], None]]:
    """A camera for other programs, of the size of the first picture."""
    try:
        import pyvirtualcam
    except ImportError as error:
        raise ImportError("pip install pyvirtualcam for a virtual camera") from error
    with ExitStack() as stack:

        @cache
        def camera(height: int, width: int) -> pyvirtualcam.Camera:
            try:
                return stack.enter_context(pyvirtualcam.Camera(width, height, 30))
            except RuntimeError as error:
                raise OSError(
                    f"no virtual camera ({' '.join(str(error).split())}): install OBS, "
                    "or v4l2loopback on Linux; see docs/live.md"
                ) from error

        yield lambda picture: camera(*picture.shape[:2]).send(picture)
