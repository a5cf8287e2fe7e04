"""Video in: a stream of upright RGB frames, whatever they come from.

A video file, an animated picture, a folder of pictures or a camera. All times are
seconds since the start of the source. In a file that is where its first picture or its
first sound begins, whichever is earlier: so pictures and sound share a clock.
"""

import logging
import math
import time as clock
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, count, repeat
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorTrc

from fsgan.media.decoding import (
    clock_start,
    decode,
    film_start,
    find_entry,
    frame_clock,
    open_media,
    open_video,
    packets,
    rgb_converter,
)
from fsgan.media.images import (
    DECODING_ERRORS,
    IMAGE_SUFFIXES,
    image_size,
    is_animated,
    list_images,
    open_image,
    read_damaged_image,
    upright_rgb,
)

logger = logging.getLogger(__name__)

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".gif",
    ".webp",
})
# fmt: on


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
    has_more: bool = False  # than the frames: sound, subtitles, chapters

    def frames_between(self, start: float, end: float | None) -> int:
        """Estimate the frames from one second to another, at least 1."""
        seconds = min(self.duration if end is None else end, self.duration) - start
        return max(1, round(self.frame_count * seconds / self.duration))


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
        path: file; the suffix decides where it holds neither.

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


def list_videos(sources: str | Path | Sequence[str | Path]) -> list[Path]:
    """List the videos of a folder; photos are left out.

    Args:
        sources: the folder; or paths, which are taken as they are.

    Raises:
        FileNotFoundError: there is no such folder, or no video in it.
    """
    if not isinstance(sources, str | Path):
        return [*map(Path, sources)]
    folder = Path(sources)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder of videos; check the name")
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and is_video(path)
    ]
    if not found:
        kinds = " ".join(sorted(VIDEO_SUFFIXES))
        raise FileNotFoundError(f"{folder} holds no videos ({kinds})")
    return found


def probe(path: str | Path, fps: Fraction | float | None = None) -> VideoInfo:
    """Describe a video; its first frame is decoded to be sure that it can be read.

    HDR, which is not tone-mapped, and interlaced frames are logged.

    Args:
        path: video file, animated picture, or folder of pictures in natural order.
        fps: pictures a second of a folder; `None` for 25.

    Returns:
        The description; size as `read_frames` will deliver it.

    Raises:
        FileNotFoundError: nothing is at `path`, or no pictures.
        ValueError: no frame of it can be decoded, the pictures differ in size, or `fps`
            is given for a video.
    """
    path = Path(path)
    if path.is_dir():
        return _probe_folder(path, fps)[0]
    if _check_film(path, fps):
        return _probe_animation(path)
    info, frame = _probe_video(path)[:2]
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

    Rotation tags are applied, pixels made square, the colour matrix and range of the
    file honoured (untagged: BT.709 from 720 lines, BT.601 below), transparent parts
    laid over white. A late stretch of MP4, MOV, Matroska or WebM is decoded from the
    key frame before it, with the index and times that it has when all is read.

    A damaged video yields what decodes, then one warning. A lost frame leaves a gap in
    time, but a lost picture of a folder shows its neighbour and is damaged.

    A camera is on from the first frame until the iterator ends or is closed. Frames
    that come while the caller is busy are lost.

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
        frames = _read_folder(*_probe_folder(path, fps), first)
    elif _check_film(path, fps):
        frames = (entry and entry[0] for entry in _animation(path))
    else:
        info, _, to_rgb = _probe_video(path)
        frames = _read_video(info, to_rgb, first)
    return _choose(path, frames, first, last)


def time_limits(start: float, end: float | None) -> tuple[Fraction, Fraction | None]:
    """Check a stretch of time, in seconds, and make it exact.

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


def converted_from(source: str | Path, start: float, end: float | None) -> Fraction:
    """Return the second of a source that is time 0 of a film converted from it.

    Args:
        source: as `path` of `probe`.
        start: as of `read_frames`; the conversion's.
        end: likewise.

    Raises:
        FileNotFoundError, ValueError: as of `read_frames`.
    """
    info, frames = probe(source), read_frames(source, start, end)
    with closing(frames):
        first = next(frames).time
    if not info.has_audio:
        return first
    with open_media(info.path) as container:
        return film_start(container, time_limits(start, end)[0], first, info.fps)


def _check_film(path: Path, fps: Fraction | float | None) -> bool:
    """Refuse a photo and a rate; return whether a film is an animated picture."""
    if fps is not None:
        raise ValueError(
            f"fps is for pictures only: {path} is a video, which has its own rate"
        )
    animated = is_animated(path)
    if animated is False:
        raise ValueError(f"{path} is a picture, not a video; convert_image takes it")
    return bool(animated)


def _choose(
    path: Path,
    frames: Generator[Frame | None, None, None],
    first: Fraction,
    last: Fraction | None,
) -> Iterator[Frame]:
    """Yield the frames of a stretch; log how many are damaged and lost (None)."""
    used = damaged = lost = 0
    with closing(frames):
        for frame in frames:
            if frame is None:
                lost += 1
            elif last is not None and frame.time >= last:
                break
            elif frame.time >= first:
                used, damaged = used + 1, damaged + frame.damaged
                yield frame
    if damaged or lost:
        logger.warning(
            "%s is damaged: %d frames of it were used, %d damaged, %d lost",
            path,
            used,
            damaged,
            lost,
        )
    if not used:
        raise ValueError(
            f"no frame of {path} lies in the chosen part, which starts at "
            f"{float(first):g} s; choose an earlier start"
        )


# --- video files ---


_ToRgb = Callable[[av.VideoFrame], np.ndarray]


def _probe_video(path: Path) -> tuple[VideoInfo, av.VideoFrame, _ToRgb]:
    """Describe a video file; return its first frame and what makes RGB of them all."""
    with open_video(path) as stream:
        frame = next(filter(None, decode(packets(stream))), None)
        if frame is None:
            raise ValueError(
                f"no frame of {path} can be decoded ({stream.codec_context.name}); "
                "the file is damaged, copy or download it again"
            )
        to_rgb = rgb_converter(frame, stream.sample_aspect_ratio or 1)
        height, width = to_rgb(frame).shape[:2]
        rate = stream.average_rate or stream.guessed_rate
        if stream.duration:
            duration = stream.duration * stream.time_base
        else:
            duration = Fraction(stream.container.duration or 0, av.time_base)
            if stream.container.format.name == "matroska,webm":  # from 0 on
                duration = max(duration - clock_start(stream.container), Fraction(0))
        frames = stream.frames or round(duration * (rate or 0))
        has_audio = bool(stream.container.streams.audio)
        has_more = len(stream.container.streams) > 1 or stream.container.chapters()
    if not (duration and frames):  # a stream saved live: nobody noted its length
        frames, duration = _measure(path)
    fps = rate or frames / duration
    size, has = (width, height), (has_audio, bool(has_more))
    info = VideoInfo(path, *size, fps, float(duration), frames, *has)
    return info, frame, to_rgb


def _measure(path: Path) -> tuple[int, Fraction]:
    """Count the frames and add up their time, without decoding them."""
    frames, seconds = 0, Fraction(0)
    with open_video(path) as stream:
        origin = clock_start(stream.container)
        rate = stream.average_rate or stream.guessed_rate or 25
        for packet in packets(stream):
            if packet is not None and packet.size:
                frames += 1
                ticks = packet.dts if packet.pts is None else packet.pts
                if ticks is not None:
                    end = (ticks + (packet.duration or 0)) * stream.time_base
                    seconds = max(seconds, end - origin)
    return frames, seconds or frames / Fraction(rate)


def _read_video(
    info: VideoInfo, to_rgb: _ToRgb, first: Fraction
) -> Iterator[Frame | None]:
    """Yield the frames from `first` on, and None for each that is lost."""
    index, time, entry, lost, sizes = -1, None, None, 0, set()
    after_gap = broken = False

    def noted() -> Iterator[av.Packet | None]:
        nonlocal broken
        for packet in packets(stream):
            broken |= packet is None or packet.is_corrupt
            yield packet

    with open_video(info.path) as stream:
        time_of = frame_clock(stream, info.fps)
        if first:
            entry = find_entry(info.path, time_of, first)
        if entry is not None:
            stream.container.seek(entry.seek_to, stream=stream)
            index = entry.index - 1
        for decoded in decode(noted()):
            if decoded is None:
                yield None
                lost, after_gap = lost + 1, True
                continue
            ticks = decoded.dts if decoded.pts is None else decoded.pts
            if entry is not None and ticks < entry.ticks:
                continue
            index += 1
            size = decoded.width, decoded.height
            if len(sizes) == 1 and size not in sizes:
                logger.warning(
                    "%s changes its size: all is scaled to %d x %d",
                    info.path,
                    info.width,
                    info.height,
                )
            sizes.add(size)
            noted_time = None if ticks is None else time_of(ticks)
            if time is None:
                time = noted_time or Fraction(0)
            elif noted_time is not None and noted_time > time:
                time = noted_time
            else:  # missing or running backward
                time += 1 / info.fps
            guessed = decoded.is_corrupt or (after_gap and not decoded.key_frame)
            after_gap = False
            if time >= first:
                yield Frame(index, time, to_rgb(decoded), guessed)
        if broken:  # a file that breaks off: its head may tell what it once held
            missing = stream.frames - (index + 1) - lost
            yield from repeat(None, max(missing, not lost))


# --- animated pictures ---


def _animation(path: Path) -> Iterator[tuple[Frame, Fraction] | None]:
    """Yield frames and the seconds each is shown; None where the file breaks off."""
    time = Fraction(0)
    try:
        with open_image(path) as image:
            # Some PNG have a picture of their own for viewers that show no animation.
            hidden = int(image.info.get("default_image", False))
            for index in range(image.n_frames - hidden):
                image.seek(index + hidden)
                frame = Frame(index, time, upright_rgb(image))
                # Only now some formats know the duration.
                milliseconds = Fraction(image.info.get("duration", 0))
                # As browsers do: a film faster than 50 frames a second is not meant.
                shown = max(milliseconds.limit_denominator(1000), 0) / 1000
                shown = shown if shown > Fraction(1, 100) else Fraction(1, 10)
                yield frame, shown
                time += shown
    except DECODING_ERRORS:
        yield None


def _probe_animation(path: Path) -> VideoInfo:
    frames, end = 0, Fraction(0)
    for frame, shown in filter(None, _animation(path)):
        frames, end = frames + 1, frame.time + shown
        height, width = frame.image.shape[:2]
    if not frames:
        raise ValueError(f"no frame of {path} can be decoded; download it again")
    return VideoInfo(path, width, height, frames / end, float(end), frames, False)


# --- folders of pictures ---


def _probe_folder(
    path: Path, fps: Fraction | float | None
) -> tuple[VideoInfo, list[Path]]:
    """List the pictures and compare their sizes; none is decoded."""
    if fps is not None and not 0 < fps < math.inf:
        raise ValueError(f"fps must be above 0, or None for 25, got {fps}")
    files = list_images(path)
    rate = Fraction(25 if fps is None else fps).limit_denominator(100_000)
    sizes = {}
    for file in files:
        with suppress(ValueError):  # shown as its neighbour
            sizes[file] = image_size(file)
    if not sizes:
        raise ValueError(
            f"no picture of {path} can be read; copy or download them again"
        )
    width, height = next(iter(sizes.values()))
    info = VideoInfo(
        path, width, height, rate, float(len(files) / rate), len(files), False
    )
    for file, size in sizes.items():
        _check_size(info, file, size)
    return info, files


def _check_size(info: VideoInfo, file: Path, size: tuple[int, int]) -> None:
    if size != (info.width, info.height):
        raise ValueError(
            f"the pictures of a sequence must have one size, but {file} has "
            f"{size[0]} x {size[1]}, not {info.width} x {info.height}"
        )


def _read_folder(
    info: VideoInfo, files: list[Path], first: Fraction
) -> Iterator[Frame]:
    for index in range(math.ceil(first * info.fps), len(files)):
        neighbours = chain(range(index - 1, -1, -1), range(index + 1, len(files)))
        for shown in chain([index], neighbours):
            with suppress(FileNotFoundError, ValueError):
                image, damage = read_damaged_image(files[shown])
                break
        else:
            raise ValueError(
                f"no picture of {info.path} can be decoded; copy or download them again"
            )
        # Rarely, only decoding tells that a picture lies on its side.
        _check_size(info, files[shown], image.shape[1::-1])
        damaged = damage is not None or shown != index
        yield Frame(index, index / info.fps, image, damaged)


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
        began = None
        for index in count():
            with _opencv_silenced():
                whole, image = camera.read()
            if not whole:
                break
            now = clock.monotonic_ns()
            began = now if began is None else began
            time = Fraction(now - began, 1_000_000_000)
            if last is not None and time >= last:
                return
            if time >= first:
                yield Frame(index, time, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
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
    opencv = getattr(cv2.utils, "logging", cv2)  # where OpenCV 5 and 4 have it
    level = opencv.setLogLevel(0)
    try:
        yield
    finally:
        opencv.setLogLevel(level)
