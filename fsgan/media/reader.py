"""Video in: a stream of upright RGB frames, from a video or a sequence of pictures.

All times are seconds since the start of the file, which is where its first picture
or its first sound begins, whichever is earlier: so pictures and sound share a clock.
"""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorTrc

from fsgan.media.containers import (
    clock_start,
    decode,
    decoded_frames,
    open_media,
    open_video,
    packets,
)
from fsgan.media.image_sequence import ImageSequence, is_sequence
from fsgan.media.pixels import SCALING, FrameToRgb

__all__ = [
    "SCALING",
    "Frame",
    "VideoInfo",
    "clock_start",
    "decoded_frames",
    "open_media",
    "packets",
    "probe",
    "read_frames",
    "time_limits",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is read."""

    path: Path  # the file, the folder of pictures or their pattern
    width: int  # pixels, upright and square, as players show it
    height: int  # pixels, likewise
    fps: Fraction  # frames a second, the average if the rate varies
    duration: float  # seconds
    frame_count: int  # an estimate, at least 1
    has_audio: bool


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    index: int  # counted from 0 from the start of the file
    time: Fraction  # seconds since the start of the file
    image: np.ndarray  # RGB uint8 (height, width, 3), upright
    damaged: bool = False  # the decoder had to guess at least a part of it


def probe(path: str | Path, fps: Fraction | float | None = None) -> VideoInfo:
    """Describe a video; its first frame is decoded to be sure that it can be read.

    What will not look right is logged: HDR, which is not tone-mapped, and interlaced
    frames, which are not taken apart.

    Args:
        path: video file, animated GIF or PNG; or a folder of pictures, or a pattern
            such as `shot/frame_%05d.png`.
        fps: pictures a second of a folder or pattern; `None` for 25.

    Returns:
        The description; size as `read_frames` will deliver it.

    Raises:
        FileNotFoundError: nothing is at `path`, or no pictures.
        ValueError: the file is no video, has no video stream or no frame of it can be
            decoded; the sizes of the pictures differ; or `fps` is given for a video.
    """
    path = Path(path)
    if is_sequence(path):
        return _describe(ImageSequence(path, fps))
    if fps is not None:
        raise ValueError(
            f"fps is for pictures only: {path} is a video, which has its own rate"
        )
    info, frame = _probe_video(path)
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
    path: str | Path,
    start: float = 0.0,
    end: float | None = None,
    fps: Fraction | float | None = None,
) -> Iterator[Frame]:
    """Stream the frames of a video, upright, in RGB, in constant memory.

    Rotation and mirror tags are applied, non-square pixels made square, the colour
    matrix and range of the file honoured (untagged: BT.709 from 720 lines, BT.601
    below), transparent parts laid over white. Times come from the file, so a variable
    rate is kept.

    A damaged video yields what decodes, then one warning that counts what is damaged
    and lost. A frame is damaged if the decoder says so, or if the one before it is lost
    and it builds on that; the traces that may stay until the next key frame are known
    to no decoder. A lost frame leaves a gap in time. In a sequence of pictures, one
    that breaks off is damaged, and a lost one shows what the one before it shows, so
    that none is missing.

    Args:
        path: as for `probe`.
        start: seconds since the start of the file; earlier frames are left out.
        end: seconds; frames at or after it are left out; `None` for no limit.
        fps: as for `probe`.

    Returns:
        Iterator over frames with `start <= time < end`, times strictly growing.
        A video is decoded from its start, so that `index` is always true.

    Raises:
        FileNotFoundError: nothing is at `path`, or no pictures.
        ValueError: as in `probe`; `start` or `end` make no sense; or, when the file
            is through, no frame lay between them.
    """
    first, last = time_limits(start, end)
    path = Path(path)
    if is_sequence(path):
        return _read_pictures(ImageSequence(path, fps), first, last)
    if fps is not None:
        raise ValueError(
            f"fps is for pictures only: {path} is a video, which has its own rate"
        )
    return _read_video(_probe_video(path)[0], first, last)


def _describe(sequence: ImageSequence) -> VideoInfo:
    count = len(sequence.files)
    return VideoInfo(
        sequence.path,
        sequence.width,
        sequence.height,
        sequence.fps,
        float(count / sequence.fps),
        count,
        has_audio=False,
    )


def _read_pictures(
    sequence: ImageSequence, first: Fraction, last: Fraction | None
) -> Iterator[Frame]:
    begin = math.ceil(first * sequence.fps)
    end = None if last is None else math.ceil(last * sequence.fps)
    used = damaged = lost = 0
    for picture in sequence.read(begin, end):
        used, lost = used + 1, lost + picture.lost
        damaged += picture.damaged and not picture.lost
        time = picture.index / sequence.fps
        yield Frame(picture.index, time, picture.image, picture.damaged)
    if damaged or lost:
        _sum_up(sequence.path, used, damaged, lost)
    if not used:
        _refuse_part(sequence.path, first, (len(sequence.files) - 1) / sequence.fps)


def _probe_video(path: Path) -> tuple[VideoInfo, av.VideoFrame]:
    """Describe a video file, and return its first frame."""
    with open_video(path) as (container, stream):
        frame = next(filter(None, decoded_frames(container, stream)), None)
        if frame is None:
            raise ValueError(
                f"no frame of {path} can be decoded ({stream.codec_context.name}); "
                "the file is damaged, copy or download it again"
            )
        height, width = FrameToRgb(stream)(frame).shape[:2]
        rate = stream.average_rate or stream.guessed_rate
        if stream.duration:
            duration = stream.duration * stream.time_base
        else:
            duration = Fraction(container.duration or 0, av.time_base)
        count = stream.frames or round(duration * (rate or 0))
        has_audio = bool(container.streams.audio)
    if not (duration and count):  # a stream saved live, a GIF: nobody noted its length
        count, duration = _measure(path)
    fps = rate or count / duration
    info = VideoInfo(path, width, height, fps, float(duration), count, has_audio)
    return info, frame


def _read_video(
    info: VideoInfo, first: Fraction, last: Fraction | None
) -> Iterator[Frame]:
    index, time = -1, None
    used = damaged = lost = 0
    behind_gap = broken = False

    def noted() -> Iterator[av.Packet | None]:
        nonlocal broken
        for packet in packets(container, stream):
            broken |= packet is None or packet.is_corrupt
            yield packet

    with open_video(info.path) as (container, stream):
        origin, to_rgb = clock_start(container), FrameToRgb(stream)
        for decoded in decode(noted()):
            if decoded is None:
                lost, behind_gap = lost + 1, True
                continue
            index += 1
            ticks = decoded.dts if decoded.pts is None else decoded.pts
            told = _time(ticks, stream.time_base, origin, info.fps)
            if time is None:
                time = told or Fraction(0)
            elif told is not None and told > time:
                time = told
            else:  # missing or running backward
                time += 1 / info.fps
            guessed = decoded.is_corrupt or (behind_gap and not decoded.key_frame)
            behind_gap = False
            if last is not None and time >= last:
                break
            if time >= first:
                used, damaged = used + 1, damaged + guessed
                yield Frame(index, time, to_rgb(decoded), guessed)
        else:
            if broken:  # a file that breaks off: its head may tell what it once held
                lost = max(lost, stream.frames - index - 1)
    if damaged or lost or broken:
        _sum_up(info.path, used, damaged, lost)
    if not used:
        _refuse_part(info.path, first, time)


def _sum_up(path: Path, used: int, damaged: int, lost: int) -> None:
    logger.warning(
        "%s is damaged: %d frames of it were used, %d damaged, %d lost",
        path,
        used,
        damaged,
        lost,
    )


def _refuse_part(path: Path, first: Fraction, time: Fraction) -> None:
    raise ValueError(
        f"no frame of {path} lies in the chosen part: it starts at "
        f"{float(first):g} s, the last frame is at {float(time):g} s"
    )


def _time(
    ticks: int | None, time_base: Fraction, origin: Fraction, fps: Fraction
) -> Fraction | None:
    """Return a frame's time, put back on the grid of a rate that a file rounded."""
    if ticks is None:
        return None
    time = ticks * time_base - origin
    on_grid = round(time * fps) / fps  # Matroska rounds 1/30 s to 33 ms
    tolerance = min(time_base, Fraction(1, 1000))
    return on_grid if abs(on_grid - time) <= tolerance else time


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
    first = Fraction(start).limit_denominator(1_000_000)
    last = None if end is None else Fraction(end).limit_denominator(1_000_000)
    if first < 0:
        raise ValueError(f"start must be at least 0 seconds, got {start}")
    if last is not None and last <= first:
        raise ValueError(f"end must be after start ({start} seconds), got {end}")
    return first, last


def _measure(path: Path) -> tuple[int, Fraction]:
    """Count the pictures and add up their time, without decoding them."""
    count, seconds = 0, Fraction(0)
    with open_video(path) as (container, stream):
        origin = clock_start(container)
        for packet in packets(container, stream):
            if packet is not None and packet.size:
                count += 1
                ticks = packet.dts if packet.pts is None else packet.pts
                end = ((ticks or 0) + (packet.duration or 0)) * stream.time_base
                seconds = max(seconds, end - origin)
    return count, seconds or Fraction(count, 25)
