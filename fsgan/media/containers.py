"""Files with pictures or sound: opened, and taken apart into packets and frames."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition


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
def open_video(path: Path) -> Iterator[tuple[InputContainer, av.VideoStream]]:
    """Open a video for reading.

    Args:
        path: the file.

    Yields:
        The open container and its first video stream.

    Raises:
        FileNotFoundError: nothing is at `path`.
        IsADirectoryError: `path` is a folder.
        ValueError: it is no video, or of an unknown codec.
    """
    with open_media(path) as container:
        name = container.format.name
        if name == "image2" or name.endswith("_pipe"):
            raise ValueError(
                f"{path} is a picture, not a video (an animated WebP cannot be read; "
                "save it as GIF)"
                if name == "webp_pipe"
                else f"{path} is a picture, not a video"
            )
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
    """Yield the packets of a stream, and None where the file breaks off.

    Args:
        container: an open file.
        stream: one of its streams.

    Yields:
        Packets in the order of the file; `is_corrupt` tells of those that are not
        whole.
    """
    try:
        yield from container.demux(stream)
    except FFmpegError:
        yield None


def decoded_frames(
    container: InputContainer, stream: av.VideoStream | av.AudioStream
) -> Iterator[av.VideoFrame | av.AudioFrame | None]:
    """Yield the frames of a stream, and None for each packet that does not decode.

    Args:
        container: an open file.
        stream: one of its streams.

    Yields:
        Frames in the order of their time; `is_corrupt` tells of those that the decoder
        had to make up in part.
    """
    yield from decode(packets(container, stream))


def decode(
    packets: Iterable[av.Packet | None],
) -> Iterator[av.VideoFrame | av.AudioFrame | None]:
    """Yield the frames in packets, and None for each packet that does not decode.

    Args:
        packets: as of `packets`.

    Yields:
        As of `decoded_frames`.
    """
    for packet in packets:
        try:
            yield from [] if packet is None else packet.decode()
        except FFmpegError:
            yield None
