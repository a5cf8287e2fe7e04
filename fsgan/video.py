"""Video in: a stream of upright RGB frames.

All times are seconds since the start of the file, which is where its first picture
or its first sound begins, whichever is earlier: so pictures and sound share a clock.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import (
    Colorspace,
    Interpolation,
    VideoReformatter,
)

logger = logging.getLogger(__name__)

# Without the last three, swscale loses 1.2 levels of brightness there and back.
SCALING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
_UNSPECIFIED_COLORSPACE = 2  # AVCOL_SPC_UNSPECIFIED


@dataclass(frozen=True)
class VideoInfo:
    """What is known of a video before it is read."""

    path: Path
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


def probe(path: str | Path) -> VideoInfo:
    """Describe a video; its first frame is decoded to be sure that it can be read.

    Args:
        path: video file.

    Returns:
        The description; size as `read_frames` will deliver it.

    Raises:
        FileNotFoundError: nothing is at `path`.
        IsADirectoryError: `path` is a folder.
        ValueError: the file is no video, has no video stream or no frame of it
            can be decoded.
    """
    path = Path(path)
    with _open_video(path) as (container, stream):
        frame = next(filter(None, decoded_frames(container, stream)), None)
        if frame is None:
            raise ValueError(
                f"no frame of {path} can be decoded ({stream.codec_context.name}); "
                "the file is damaged, copy or download it again"
            )
        size = _square_size(frame, stream)
        height, width = _to_rgb(frame, size, VideoReformatter()).shape[:2]
        rate = stream.average_rate or stream.guessed_rate
        if stream.duration:
            duration = stream.duration * stream.time_base
        else:
            duration = Fraction(container.duration or 0, av.time_base)
        count = stream.frames or round(duration * (rate or 0))
        has_audio = bool(container.streams.audio)
    if not (duration and count):  # a stream saved live, a GIF: nobody noted its length
        count, duration = _measure(path)
    return VideoInfo(
        path, width, height, rate or count / duration, float(duration), count, has_audio
    )


def read_frames(
    path: str | Path, start: float = 0.0, end: float | None = None
) -> Iterator[Frame]:
    """Stream the frames of a video, upright, in RGB, in constant memory.

    Rotation and mirror tags are applied, non-square pixels made square, the colour
    matrix and range of the file honoured (untagged: BT.709 from 720 lines, BT.601
    below). Times come from the file, so a variable rate is kept. A damaged file
    yields what decodes, then one warning that says how much was used.

    Args:
        path: video file.
        start: seconds since the start of the file; earlier frames are left out.
        end: seconds; frames at or after it are left out; `None` for no limit.

    Returns:
        Iterator over frames with `start <= time < end`, times strictly growing.
        It decodes from the start of the file, so that `index` is always true.

    Raises:
        FileNotFoundError: nothing is at `path`.
        IsADirectoryError: `path` is a folder.
        ValueError: as in `probe`; `start` or `end` make no sense; or, when the file
            is through, no frame lay between them.
    """
    first, last = time_limits(start, end)
    return _read_frames(probe(path), first, last)


def _read_frames(
    info: VideoInfo, first: Fraction, last: Fraction | None
) -> Iterator[Frame]:
    index, time, size, used, damaged = -1, None, None, 0, False
    reformatter = VideoReformatter()  # one for all frames: it is dear to set up
    with _open_video(info.path) as (container, stream):
        origin = clock_start(container)
        for decoded in decoded_frames(container, stream):
            if decoded is None:
                damaged = True
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
            damaged |= decoded.is_corrupt
            if last is not None and time >= last:
                break
            if time >= first:
                size = size or _square_size(decoded, stream)
                used += 1
                yield Frame(index, time, _to_rgb(decoded, size, reformatter))
    if damaged:
        logger.warning("%s is damaged: %d frames of it were used", info.path, used)
    if not used:
        raise ValueError(
            f"no frame of {info.path} lies in the chosen part: it starts at "
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


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a file with pictures or sound for reading.

    Args:
        path: the file.

    Yields:
        The open container.

    Raises:
        FileNotFoundError: nothing is at `path`.
        IsADirectoryError: `path` is a folder.
        ValueError: it is no such file.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give a video file")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; check the name")
    try:  # "file:" keeps a colon in the name from being taken for a protocol
        container = av.open(f"file:{path}", metadata_errors="replace")
    except FFmpegError as error:
        raise ValueError(
            f"{path} is not a video that can be read ({error.strerror})"
        ) from error
    with container:
        yield container


@contextmanager
def _open_video(path: Path) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    with open_media(path) as container:
        name = container.format.name
        if name == "image2" or name.endswith("_pipe"):
            raise ValueError(f"{path} is a picture, not a video")
        if name == "tty":  # FFmpeg shows any text as a film of letters
            raise ValueError(f"{path} is a text, not a video")
        stream = next(  # the cover picture of a song is a video stream, too
            (
                stream
                for stream in container.streams.video
                if not stream.disposition & Disposition.attached_pic
            ),
            None,
        )
        if stream is None:
            raise ValueError(f"{path} has no video stream; give a file with pictures")
        if stream.codec_context is None:
            raise ValueError(
                f"the video codec of {path} is unknown; convert it to H.264 first"
            )
        stream.thread_type = "AUTO"
        yield container, stream


def clock_start(container: InputContainer) -> Fraction:
    """Return where the container's clock starts; exact, unlike its own start_time.

    Args:
        container: an open file.

    Returns:
        Seconds of its first picture or sound, whichever is earlier.
    """
    streams = [*container.streams.video, *container.streams.audio]
    starts = [s.start_time * s.time_base for s in streams if s.start_time is not None]
    return min(starts, default=Fraction(0))


def packets(
    container: InputContainer, stream: av.VideoStream | av.AudioStream
) -> Iterator[av.Packet | None]:
    """Yield the packets of a stream, and None where the file is damaged.

    Args:
        container: an open file.
        stream: one of its streams.

    Yields:
        Packets in the order of the file.
    """
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                yield None
            yield packet
    except FFmpegError:
        yield None


def decoded_frames(
    container: InputContainer, stream: av.VideoStream | av.AudioStream
) -> Iterator[av.VideoFrame | av.AudioFrame | None]:
    """Yield the frames of a stream, and None where something does not decode.

    Args:
        container: an open file.
        stream: one of its streams.

    Yields:
        Frames in the order of their time.
    """
    for packet in packets(container, stream):
        try:
            yield from [None] if packet is None else packet.decode()
        except FFmpegError:
            yield None


def _measure(path: Path) -> tuple[int, Fraction]:
    """Count the pictures and add up their time, without decoding them."""
    count, seconds = 0, Fraction(0)
    with _open_video(path) as (container, stream):
        origin = clock_start(container)
        for packet in packets(container, stream):
            if packet is not None and packet.size:
                count += 1
                ticks = packet.dts if packet.pts is None else packet.pts
                end = ((ticks or 0) + (packet.duration or 0)) * stream.time_base
                seconds = max(seconds, end - origin)
    return count, seconds or Fraction(count, 25)


def _square_size(frame: av.VideoFrame, stream: av.VideoStream) -> tuple[int, int]:
    """Return the stored (width, height) with its pixels made square."""
    return round(frame.width * (stream.sample_aspect_ratio or 1)), frame.height


def _to_rgb(
    frame: av.VideoFrame, size: tuple[int, int], reformatter: VideoReformatter
) -> np.ndarray:
    untagged = frame.colorspace == _UNSPECIFIED_COLORSPACE
    image = reformatter.reformat(
        frame,
        *size,
        format="rgb24",
        src_colorspace=Colorspace.ITU709 if untagged and frame.height >= 720 else None,
        interpolation=SCALING,
    ).to_ndarray()
    tag = frame.side_data.get("DISPLAYMATRIX")
    if tag is None:
        return image
    # The matrix maps (x, y) to (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(tag, np.int32)[:5]
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: 1 if d >= 0 else -1, :: 1 if a >= 0 else -1])
