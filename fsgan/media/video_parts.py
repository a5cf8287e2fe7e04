"""Parts of a video: encoded stretches of frames that join without encoding again.

A part is a NUT file, which keeps any codec and exact times. All parts of a video
count their times from its first frame.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from fsgan.media.reader import open_media
from fsgan.media.sound import add_sound
from fsgan.media.video_formats import (
    FrameConverter,
    VideoFormat,
    add_video_stream,
    time_base,
)


class PartWriter:
    """Encode successive frames into one part."""

    def __init__(
        self,
        path: Path,
        video_format: VideoFormat,
        width: int,
        height: int,
        fps: Fraction,
    ) -> None:
        """Create the file.

        Args:
            path: part to write.
            video_format: how to encode.
            width: pixels of the frames to come.
            height: pixels of the frames to come.
            fps: frames a second.
        """
        self.path = path
        self._container = av.open(f"file:{path}", "w", format="nut")
        self._stream = add_video_stream(
            self._container, video_format, width, height, fps
        )
        self._time_base = time_base(fps)
        self._converter = FrameConverter(video_format, width, height)

    def write(self, image: np.ndarray, ticks: int, step: int) -> None:
        """Append a frame.

        Args:
            image: RGB uint8 `(height, width, 3)`.
            ticks: when it is shown, in `time_base(fps)` since the first frame.
            step: how long, should no other follow.
        """
        frame = self._converter(image)
        frame.pts, frame.time_base, frame.duration = ticks, self._time_base, step
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def discard(self) -> None:
        """Give the file up and remove it."""
        with suppress(FFmpegError):  # its end may not fit on the disk
            self._container.close()
        self.path.unlink(missing_ok=True)


def join_parts(
    parts: Sequence[Path],
    path: Path,
    video_format: VideoFormat,
    size: tuple[int, int],
    fps: Fraction,
    last_step: int,
    *,
    metadata: dict[str, str],
    sound: tuple[Path, Fraction, Fraction | None] | None,
) -> None:
    """Join parts into a file that plays, sound beside the pictures; nothing is encoded.

    Args:
        parts: files of a `PartWriter` each, in order.
        path: file to write.
        video_format: how the parts were encoded.
        size: width and height of the frames given, pixels.
        fps: frames a second.
        last_step: how long the last frame is shown, in `time_base(fps)`.
        metadata: tags of the file.
        sound: file to take it from, the second in it that becomes time 0 and the one
            where the sound ends (`None`: all of it); `None` for no sound.

    Raises:
        ValueError: the parts were encoded differently.
    """
    with ExitStack() as stack:
        container = stack.enter_context(
            av.open(f"file:{path}", "w", options=video_format.container_options)
        )
        container.metadata.update(metadata)
        # An encoder set up alike, and given no frame, writes the same headers.
        stream = add_video_stream(container, video_format, *size, fps)
        heard = iter(())
        if sound is not None:
            source = stack.enter_context(open_media(sound[0]))
            heard = add_sound(container, source, video_format, *sound[1:])
        container.start_encoding()
        header = stream.codec_context.extradata
        pending = next(heard, None)
        for packet in _packets(parts, header, last_step * time_base(fps)):
            # Little by little, so that players find sound and picture side by side.
            now = packet.pts * packet.time_base
            packet.stream = stream
            container.mux(packet)
            while pending is not None and pending.pts * pending.time_base <= now:
                container.mux(pending)
                pending = next(heard, None)
        while pending is not None:
            container.mux(pending)
            pending = next(heard, None)


def part_frames(parts: Sequence[Path]) -> Iterator[av.VideoFrame]:
    """Decode parts one after the other.

    Args:
        parts: files of a `PartWriter` each, in order.

    Yields:
        Their frames, with times since the first frame.
    """
    for part in parts:
        with av.open(f"file:{part}") as container:
            container.streams.video[0].thread_type = "AUTO"
            yield from container.decode(video=0)


def _packets(
    parts: Sequence[Path], header: bytes | None, last: Fraction
) -> Iterator[av.Packet]:
    """Yield all packets; each lasts until the next, the last one `last` seconds."""
    for packet, following in pairwise(chain(_raw_packets(parts, header), [None])):
        # The order of decoding is that of showing: no format has B-frames.
        packet.dts = packet.pts
        if following is None:
            packet.duration = round(last / packet.time_base)
        else:
            packet.duration = following.pts - packet.pts
        yield packet


def _raw_packets(parts: Sequence[Path], header: bytes | None) -> Iterator[av.Packet]:
    for part in parts:
        with av.open(f"file:{part}") as container:
            if container.streams.video[0].codec_context.extradata != header:
                raise ValueError(
                    f"the parts in {part.parent} were not all encoded on this machine "
                    "with these settings; delete that folder and begin again"
                )
            for packet in container.demux(video=0):
                if packet.size:
                    yield packet
