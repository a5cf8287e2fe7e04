"""Video files taken apart: packets, frames, times and RGB pixels."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.plane import VideoPlane
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from fsgan.validation import check_file

# Without the last three, swscale loses 1.2 levels of brightness there and back.
_SCALING = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
_UNSPECIFIED_COLORSPACE = 2  # AVCOL_SPC_UNSPECIFIED
# Where a packet is a frame and key frames are noted, frames are counted without
# decoding them, so that a stretch is sought.
_SEEKABLE_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_SEEKABLE_CODECS = {"h264", "hevc", "vp9", "av1", "mjpeg", "prores", "ffv1", "dnxhd"}


@contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Open a file with pictures or sound for reading.

    Raises:
        FileNotFoundError: nothing is at `path`.
        IsADirectoryError: `path` is a folder.
        ValueError: it is no such file, or as of `check_file`.
    """
    check_file(path)
    try:  # "file:" keeps a colon in the name from being taken for a protocol
        container = av.open(f"file:{path}", metadata_errors="replace")
    except FFmpegError as error:
        raise ValueError(
            f"{path} is not a video that can be read ({error.strerror})"
        ) from error
    with container:
        yield container


@contextmanager
def open_video(path: Path) -> Iterator[av.VideoStream]:
    """Open a file as `open_media` does; yield its first video stream."""
    with open_media(path) as container:
        name = container.format.name
        if name == "image2" or name.endswith("_pipe"):
            raise ValueError(
                f"{path} is a picture, not a video; convert_image takes it"
            )
        if name == "tty":  # FFmpeg shows any text as a film of letters
            raise ValueError(f"{path} is a text, not a video")
        streams = films(container)
        if not streams:
            raise ValueError(f"{path} has no video stream; give a file with pictures")
        stream = streams[0]
        if stream.codec_context is None:
            raise ValueError(
                f"the video codec of {path} is unknown; convert it to H.264 first"
            )
        stream.thread_type = "AUTO"
        yield stream


def films(container: InputContainer) -> list[av.VideoStream]:
    """Return the video streams but for cover pictures, which are such streams, too."""
    return [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]


def clock_start(container: InputContainer) -> Fraction:
    """Return the second of the first picture or sound, whichever is earlier."""
    return _first_start([*films(container), *container.streams.audio])


def _first_start(streams: Iterable[av.VideoStream | av.AudioStream]) -> Fraction:
    starts = [s.start_time * s.time_base for s in streams if s.start_time is not None]
    return min(starts, default=Fraction(0))


def film_start(
    container: InputContainer, start: Fraction, first: Fraction, fps: Fraction
) -> Fraction:
    """Return the second of a source that becomes time 0 of a film cut out of it.

    That is where its first frame is shown, or earlier: no sound is lost that is heard
    from `start` on while there is no picture yet. A cut between two frames goes to the
    second one.

    Args:
        container: the source.
        start: second of it where the film is to begin.
        first: second of it at which the first frame of the film is shown.
        fps: frames a second.
    """
    origin, audio = clock_start(container), container.streams.audio
    between_frames = first - start < 1 / fps
    if not audio or (
        between_frames and start >= _first_start(films(container)) - origin
    ):
        return first
    return min(first, max(start, _first_start(audio) - origin))


def packets(stream: av.VideoStream | av.AudioStream) -> Iterator[av.Packet | None]:
    """Yield the packets of a stream in file order; None where the file breaks off."""
    try:
        yield from stream.container.demux(stream)
    except FFmpegError:
        yield None


def decode(
    packets: Iterable[av.Packet | None],
) -> Iterator[av.VideoFrame | av.AudioFrame | None]:
    """Yield the frames in packets, and None for each packet that does not decode."""
    for packet in packets:
        try:
            yield from [] if packet is None else packet.decode()
        except FFmpegError:
            yield None


def frame_clock(stream: av.VideoStream, fps: Fraction) -> Callable[[int], Fraction]:
    """Return a function from the ticks of a stream to seconds since the file's start.

    Matroska rounds 1/30 s to 33 ms: times next to the grid of `fps` are put on it.
    """
    unit, origin = stream.time_base, clock_start(stream.container)
    tolerance = min(unit, Fraction(1, 1000))

    def time_of(ticks: int) -> Fraction:
        time = ticks * unit - origin
        on_grid = round(time * fps) / fps
        return on_grid if abs(on_grid - time) <= tolerance else time

    return time_of


class Entry(NamedTuple):
    """A key frame at which decoding can begin."""

    seek_to: int  # where the container finds it, ticks
    ticks: int  # when it is shown
    index: int  # frames shown before it


def find_entry(
    path: Path, time_of: Callable[[int], Fraction], first: Fraction
) -> Entry | None:
    """Return the last key frame at or before a time, or None to begin at the start.

    Frames are counted as packets, which are not decoded. Where frames and packets may
    not correspond, or the key frame does not decode by itself, there is none.
    """
    shown, key = [], None
    with open_video(path) as stream:
        seekable = (
            stream.container.format.name in _SEEKABLE_FORMATS
            and stream.codec_context.codec.canonical_name in _SEEKABLE_CODECS
        )
        if not seekable:
            return None
        for packet in packets(stream):
            if packet is not None and not packet.size:  # the end
                break
            if packet is None or packet.is_corrupt or packet.pts is None:
                return None
            if packet.is_discard:
                continue
            if packet.is_keyframe:
                if time_of(packet.pts) > first:  # what follows is shown later, too
                    break
                key = packet.pts, min(packet.pts, packet.dts or packet.pts)
            shown.append(packet.pts)
        if key is None:
            return None
        ticks, seek_to = key
        before = sorted(pts for pts in shown if pts <= ticks)
        if any(b <= a for a, b in pairwise(map(time_of, before))):
            return None  # such times are mended one after the other
        stream.container.seek(seek_to, stream=stream)
        for frame in decode(packets(stream)):
            if frame is None or frame.pts is None or frame.pts > ticks:
                return None
            if frame.pts == ticks:
                return Entry(seek_to, ticks, len(before) - 1)
    return None


def rgb_converter(
    first: av.VideoFrame, aspect: Fraction | int
) -> Callable[[av.VideoFrame], np.ndarray]:
    """Return a function that makes RGB pictures of one size of the frames of a stream.

    Args:
        first: the first frame.
        aspect: how much wider than high the pixels of the stream are.

    Returns:
        From a frame to RGB uint8 (height, width, 3), upright, with square pixels.
    """
    size = round(first.width * aspect), first.height
    reformatter = VideoReformatter()  # one for all frames: slow to create

    def to_rgb(frame: av.VideoFrame) -> np.ndarray:
        untagged = frame.colorspace == _UNSPECIFIED_COLORSPACE
        has_alpha = any(part.is_alpha for part in frame.format.components)
        planar = reformatter.reformat(
            frame,
            *size,
            # To the same values as for rgb24, in a quarter of its time.
            format="gbrap" if has_alpha else "gbrp",
            src_colorspace=(
                Colorspace.ITU709 if untagged and frame.height >= 720 else None
            ),
            interpolation=_SCALING,
        )
        green, blue, red, *alpha = map(_values, planar.planes)
        image = cv2.merge((red, green, blue))
        if alpha:
            share = alpha[0][..., None] / np.float32(255)
            image = np.round(255 - (255 - image) * share).astype(np.uint8)
        return _upright(image, frame)

    return to_rgb


def _values(plane: VideoPlane) -> np.ndarray:
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, : plane.width]


def _upright(image: np.ndarray, frame: av.VideoFrame) -> np.ndarray:
    tag = frame.side_data.get("DISPLAYMATRIX")
    if tag is None:
        return image
    # The matrix maps (x, y) to (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(tag, np.int32)[:5]
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[:: 1 if d >= 0 else -1, :: 1 if a >= 0 else -1])
