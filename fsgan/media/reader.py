"""Video in: a stream of upright RGB frames, whatever they come from.

A video file, an animated picture, a folder of pictures or a camera. All times are
seconds since the start of the source. In a file that is where its first picture or its
first sound begins, whichever is earlier: so pictures and sound share a clock.
"""

import logging
import math
import time as clock
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorTrc
from PIL import Image

from fsgan.media.decoding import (
    FrameTimes,
    RgbConverter,
    clock_start,
    decode,
    find_entry,
    open_video,
    packets,
)
from fsgan.media.images import (
    DECODING_ERRORS,
    IMAGE_SUFFIXES,
    image_size,
    is_animated,
    list_images,
    read_damaged_image,
    upright_rgb,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is read."""

    path: Path  # the file, or the folder of pictures
    width: int  # pixels, upright and square, as players show it
    height: int  # pixels, likewise
    fps: Fraction  # frames a second, the average if the rate varies
    duration: float  # seconds
    frame_count: int  # an estimate, at least 1
    has_audio: bool


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a video."""

    index: int  # counted from 0 from the start of the source
    time: Fraction  # seconds since the start of the source
    image: np.ndarray  # RGB uint8 (height, width, 3), upright
    damaged: bool = False  # the decoder had to guess at least a part of it


def is_video(path: str | Path) -> bool:
    """Tell a video or an animation from a photo, by what the file holds.

    Args:
        path: file.

    Returns:
        True for a video and for a GIF, PNG, WebP or AVIF of several pictures, False for
        any other picture. Of a file that is neither, the suffix decides.

    Raises:
        FileNotFoundError: nothing is at `path`.
        IsADirectoryError: `path` is a folder.
    """
    path = Path(path)
    animated = is_animated(path)
    if animated is not None:
        return animated
    try:
        with open_video(path):
            return True
    except ValueError:
        return path.suffix.lower() not in IMAGE_SUFFIXES


def probe(path: str | Path, fps: Fraction | float | None = None) -> VideoInfo:
    """Describe a video; its first frame is decoded to be sure that it can be read.

    What will not look right is logged: HDR, which is not tone-mapped, and interlaced
    frames, which are not taken apart.

    Args:
        path: video file, animated GIF, PNG, WebP or AVIF; or a folder of pictures,
            taken in natural order.
        fps: pictures a second of a folder; `None` for 25.

    Returns:
        The description; size as `read_frames` will deliver it.

    Raises:
        FileNotFoundError: nothing is at `path`, or no pictures.
        ValueError: the file is no video, has no video stream or no frame of it can be
            decoded; the sizes of the pictures differ; or `fps` is given for a video.
    """
    path = Path(path)
    if path.is_dir():
        return _PictureFolder(path, fps).info
    if _check_film(path, fps):
        return _probe_animation(path)
    info, frame, _ = _probe_video(path)
    if frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67):
        logger.warning(
            "%s is HDR: it is read without tone mapping, so it looks dull; convert it "
            "to SDR first",
            path,
        )
    if frame.interlaced_frame:
        logger.warning(
            "%s is interlaced: two moments share each frame, line by line, which blurs "
            "moving faces; deinterlace it first",
            path,
        )
    return info


def read_frames(
    source: int | str | Path,
    start: float = 0.0,
    end: float | None = None,
    fps: Fraction | float | None = None,
) -> Iterator[Frame]:
    """Stream the frames of a video, upright, in RGB, in constant memory.

    Rotation and mirror tags are applied, non-square pixels made square, the colour
    matrix and range of the file honoured (untagged: BT.709 from 720 lines, BT.601
    below), transparent parts laid over white. Times come from the file, so a variable
    rate is kept. A late stretch of MP4, MOV, Matroska or WebM is decoded from the key
    frame before it, with the index and times that it has when all is read; only a frame
    that cannot be decoded and lies before that key frame is counted then.

    A damaged video yields what decodes, then one warning that counts what is damaged
    and lost. A frame is damaged if the decoder says so, or if the one before it is lost
    and it builds on that; the traces that may stay until the next key frame are known
    to no decoder. A lost frame leaves a gap in time. In a folder of pictures, one that
    breaks off is damaged, and a lost one shows what the one before it shows, so that
    none is missing.

    A camera is switched on with the first frame and off when the iterator ends or is
    closed. Its frames are timed by the clock of the machine; those that come while the
    caller is busy are lost, but for the few that the driver keeps.

    Args:
        source: as `path` of `probe`, or the number of a camera, counted from 0.
        start: seconds since the start of the source; earlier frames are left out.
        end: seconds; frames at or after it are left out; `None` for no limit.
        fps: as for `probe`.

    Returns:
        Iterator over frames with `start <= time < end`, times strictly growing.

    Raises:
        FileNotFoundError: nothing is at `source`, or no pictures.
        ValueError: as in `probe`; `start` or `end` make no sense; or, when the file
            is through, no frame lay between them.
        OSError: there is no such camera, or it delivers no picture.
    """
    first, last = time_limits(start, end)
    if isinstance(source, int):
        return _read_camera(source, first, last)
    path = Path(source)
    if path.is_dir():
        return _PictureFolder(path, fps).read(first, last)
    if _check_film(path, fps):
        return _read_animation(path, first, last)
    info, _, to_rgb = _probe_video(path)
    return _read_video(info, to_rgb, first, last)


def time_limits(start: float, end: float | None) -> tuple[Fraction, Fraction | None]:
    """Check a stretch of time and make it exact.

    Args:
        start: seconds.
        end: seconds; `None` for no limit.

    Returns:
        Both to the millionth, so that 0.04 is the time of a frame at 1/25.

    Raises:
        ValueError: `start` is negative or `end` not after it.
    """
    if not 0 <= start < math.inf:
        raise ValueError(f"start must be at least 0 seconds, got {start}")
    if end is not None and not start < end < math.inf:
        raise ValueError(f"end must be after start ({start} seconds), got {end}")
    first = Fraction(start).limit_denominator(1_000_000)
    return first, None if end is None else Fraction(end).limit_denominator(1_000_000)


def _check_film(path: Path, fps: Fraction | float | None) -> bool:
    """Refuse a photo and a rate; return whether a film is an animated picture."""
    if fps is not None:
        raise ValueError(
            f"fps is for pictures only: {path} is a video, which has its own rate"
        )
    animated = is_animated(path)
    if animated is False:
        raise ValueError(f"{path} is a picture, not a video")
    return bool(animated)


def _summarize_damage(path: Path, used: int, damaged: int, lost: int) -> None:
    logger.warning(
        "%s is damaged: %d frames of it were used, %d damaged, %d lost",
        path,
        used,
        damaged,
        lost,
    )


def _empty_stretch(path: Path, first: Fraction, time: Fraction) -> ValueError:
    return ValueError(
        f"no frame of {path} lies in the chosen part: it starts at "
        f"{float(first):g} s, the last frame is at {float(time):g} s"
    )


# --- video files ---


def _probe_video(path: Path) -> tuple[VideoInfo, av.VideoFrame, RgbConverter]:
    """Describe a video file; return its first frame and what makes RGB of them all."""
    with open_video(path) as (container, stream):
        frame = next(filter(None, decode(packets(container, stream))), None)
        if frame is None:
            raise ValueError(
                f"no frame of {path} can be decoded ({stream.codec_context.name}); "
                "the file is damaged, copy or download it again"
            )
        to_rgb = RgbConverter(frame, stream.sample_aspect_ratio or 1)
        height, width = to_rgb(frame).shape[:2]
        rate = stream.average_rate or stream.guessed_rate
        if stream.duration:
            duration = stream.duration * stream.time_base
        else:
            duration = Fraction(container.duration or 0, av.time_base)
        frames = stream.frames or round(duration * (rate or 0))
        has_audio = bool(container.streams.audio)
    if not (duration and frames):  # a stream saved live: nobody noted its length
        frames, duration = _measure(path)
    fps = rate or frames / duration
    info = VideoInfo(path, width, height, fps, float(duration), frames, has_audio)
    return info, frame, to_rgb


def _measure(path: Path) -> tuple[int, Fraction]:
    """Count the frames and add up their time, without decoding them."""
    frames, seconds = 0, Fraction(0)
    with open_video(path) as (container, stream):
        origin = clock_start(container)
        for packet in packets(container, stream):
            if packet is not None and packet.size:
                frames += 1
                ticks = packet.dts if packet.pts is None else packet.pts
                end = ((ticks or 0) + (packet.duration or 0)) * stream.time_base
                seconds = max(seconds, end - origin)
    return frames, seconds or Fraction(frames, 25)


def _read_video(
    info: VideoInfo, to_rgb: RgbConverter, first: Fraction, last: Fraction | None
) -> Iterator[Frame]:
    index, time, entry = -1, None, None
    used = damaged = lost = 0
    after_gap = broken = False

    def noted() -> Iterator[av.Packet | None]:
        nonlocal broken
        for packet in packets(container, stream):
            broken |= packet is None or packet.is_corrupt
            yield packet

    with open_video(info.path) as (container, stream):
        time_of = FrameTimes(stream.time_base, clock_start(container), info.fps)
        if first:
            entry = find_entry(info.path, time_of, first)
        if entry is not None:
            container.seek(entry.seek_to, stream=stream)
            index = entry.index - 1
        for decoded in decode(noted()):
            if decoded is None:
                lost, after_gap = lost + 1, True
                continue
            ticks = decoded.dts if decoded.pts is None else decoded.pts
            if entry is not None and ticks < entry.ticks:
                continue
            index += 1
            noted_time = time_of(ticks)
            if time is None:
                time = noted_time or Fraction(0)
            elif noted_time is not None and noted_time > time:
                time = noted_time
            else:  # missing or running backward
                time += 1 / info.fps
            guessed = decoded.is_corrupt or (after_gap and not decoded.key_frame)
            after_gap = False
            if last is not None and time >= last:
                break
            if time >= first:
                used, damaged = used + 1, damaged + guessed
                yield Frame(index, time, to_rgb(decoded), guessed)
        else:
            if broken:  # a file that breaks off: its head may tell what it once held
                lost = max(lost, stream.frames - index - 1)
    if damaged or lost or broken:
        _summarize_damage(info.path, used, damaged, lost)
    if not used:
        raise _empty_stretch(info.path, first, time)


# --- animated pictures ---


def _animation(path: Path) -> Iterator[tuple[Fraction, Fraction, Image.Image]]:
    """Yield (time, seconds shown, picture) for each picture of an animation."""
    time = Fraction(0)
    with Image.open(path) as image:
        for index in count(int(image.info.get("default_image", False))):
            try:
                image.seek(index)
            except EOFError:
                return
            image.load()  # only now some formats know the duration
            milliseconds = Fraction(image.info.get("duration", 0))
            # As browsers do: a film faster than 50 frames a second is not meant.
            shown = max(milliseconds.limit_denominator(1000), 0) / 1000
            shown = shown if shown > Fraction(1, 100) else Fraction(1, 10)
            yield time, shown, image
            time += shown


def _probe_animation(path: Path) -> VideoInfo:
    frames, duration = 0, Fraction(0)
    try:
        for time, shown, image in _animation(path):
            if not frames:
                height, width = upright_rgb(image).shape[:2]
            frames, duration = frames + 1, time + shown
    except DECODING_ERRORS as error:
        if not frames:
            raise ValueError(f"no frame of {path} can be decoded: {error}") from error
    fps = frames / duration
    return VideoInfo(path, width, height, fps, float(duration), frames, False)


def _read_animation(
    path: Path, first: Fraction, last: Fraction | None
) -> Iterator[Frame]:
    used, broken, time = 0, False, Fraction(0)
    try:
        for index, (time, _, image) in enumerate(_animation(path)):
            if last is not None and time >= last:
                break
            if time >= first:
                picture = upright_rgb(image)
                used += 1
                yield Frame(index, time, picture)
    except DECODING_ERRORS:
        broken = True
    if broken:
        _summarize_damage(path, used, 0, 1)
    if not used:
        raise _empty_stretch(path, first, time)


# --- folders of pictures ---


class _PictureFolder:
    """Pictures of one size that follow each other at a constant rate."""

    def __init__(self, path: Path, fps: Fraction | float | None) -> None:
        """List the pictures and compare their sizes; none is decoded."""
        if fps is not None and not 0 < fps < math.inf:
            raise ValueError(f"fps must be above 0, or None for 25, got {fps}")
        self.path, self.files = path, list_images(path)
        rate = Fraction(25 if fps is None else fps).limit_denominator(100_000)
        sizes = {file: size for file in self.files if (size := _size(file))}
        if not sizes:
            raise ValueError(
                f"no picture of {path} can be read; copy or download them again"
            )
        (first, (width, height)), *_ = sizes.items()
        for file, size in sizes.items():
            if size != (width, height):
                raise ValueError(
                    f"the pictures of a sequence must have one size, but {first.name} "
                    f"has {width} x {height} and {file} {size[0]} x {size[1]}"
                )
        seconds = float(len(self.files) / rate)
        self.info = VideoInfo(
            path, width, height, rate, seconds, len(self.files), False
        )

    def read(self, first: Fraction, last: Fraction | None) -> Iterator[Frame]:
        """Decode the pictures; a lost one shows its neighbour."""
        fps, image = self.info.fps, None
        begin = math.ceil(first * fps)
        end = None if last is None else math.ceil(last * fps)
        used = damaged = lost = 0
        for index, file in enumerate(self.files[begin:end], begin):
            decoded = self._decode(file)
            if decoded is not None:
                image, is_damaged = decoded
                damaged += is_damaged
            else:
                image = (self._nearest(index) if image is None else image).copy()
                is_damaged, lost = True, lost + 1
            used += 1
            yield Frame(index, index / fps, image, is_damaged)
        if damaged or lost:
            _summarize_damage(self.path, used, damaged, lost)
        if not used:
            raise _empty_stretch(self.path, first, (len(self.files) - 1) / fps)

    def _nearest(self, index: int) -> np.ndarray:
        """The picture nearest to one that is lost, one before it if there is any."""
        for file in (*reversed(self.files[:index]), *self.files[index + 1 :]):
            decoded = self._decode(file)
            if decoded is not None:
                return decoded[0]
        raise ValueError(
            f"no picture of {self.path} can be decoded; copy or download them again"
        )

    def _decode(self, file: Path) -> tuple[np.ndarray, bool] | None:
        """The picture, and whether it is damaged; None where nothing decodes."""
        try:
            image, damage = read_damaged_image(file)
        except (FileNotFoundError, ValueError):
            return None
        # Rarely, only decoding tells that a picture lies on its side.
        width, height = self.info.width, self.info.height
        if image.shape[:2] != (height, width):
            raise ValueError(
                f"the pictures of a sequence must have one size, but {file} has "
                f"{image.shape[1]} x {image.shape[0]}, not {width} x {height}"
            )
        return image, damage is not None


def _size(file: Path) -> tuple[int, int] | None:
    try:
        return image_size(file)
    except ValueError:
        return None


# --- cameras ---


def _read_camera(
    number: int, first: Fraction, last: Fraction | None
) -> Iterator[Frame]:
    if number < 0:
        raise ValueError(f"a camera's number must be at least 0, got {number}")
    with _opencv_silenced():
        camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise OSError(
                f"camera {number} cannot be opened: connect one and let this program "
                "use it, try another number, or give a video or photos instead (a "
                "notebook on a server, as on Colab, sees no camera of yours)"
            )
        camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # else a busy caller sees the past
        began, index = 0, 0
        while True:
            with _opencv_silenced():
                whole, image = camera.read()
            now = clock.monotonic_ns()
            if not whole:
                break
            began = began or now
            time = Fraction(now - began, 1_000_000_000)
            if last is not None and time >= last:
                return
            if time >= first:
                yield Frame(index, time, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            index += 1
    finally:
        camera.release()
    if not index:
        raise OSError(
            f"camera {number} delivers no picture: close the program that uses it, or "
            "try another number"
        )
    logger.warning("camera %d stopped after %d frames", number, index)


@contextmanager
def _opencv_silenced() -> Iterator[None]:
    """Keep OpenCV from writing to the terminal what is said in one sentence here."""
    logging_of_opencv = cv2.utils.logging
    level = logging_of_opencv.setLogLevel(logging_of_opencv.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging_of_opencv.setLogLevel(level)
