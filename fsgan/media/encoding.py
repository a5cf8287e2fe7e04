"""Video files put together: codecs, colours, and parts that join without a seam.

A part is an encoded stretch of frames, in a NUT file, which keeps any codec and exact
times. All parts of a video count their times from its first frame.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from fsgan.media.decoding import open_media
from fsgan.media.sound import add_sound

OUTPUT_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
# What phones, browsers and QuickTime play from an mp4; Opus is not for QuickTime.
_QUICKTIME_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
# Without the last three, swscale loses 1.2 levels of brightness there and back.
_ACCURATE = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"


@dataclass(frozen=True)
class VideoFormat:
    """How frames are encoded, and which sound may lie beside them."""

    codec: str  # FFmpeg's encoder of the frames
    pixels: str  # FFmpeg's pixel format
    options: dict[str, str]  # of the encoder
    copied_sound: frozenset[str] | None = None  # codecs; None is all that fits
    sound_codec: str = "libopus"  # FFmpeg's encoder for sound that is not copied
    container_options: dict[str, str] = field(default_factory=dict)
    # Where players take a colour shared by 2 x 2 pixels to lie: half a pixel decides.
    chroma: str = "left"

    @property
    def even(self) -> bool:
        """Whether both sides must be even: colours are stored for 2 x 2 pixels."""
        return self.pixels == "yuv420p"


def video_format(
    path: str | Path, crf: int = 18, lossless: bool = False
) -> VideoFormat:
    """Choose how to encode by the suffix of the output.

    Args:
        path: file to write, ending in one of `OUTPUT_SUFFIXES`.
        crf: constant quality on x264's scale, 0 (best) to 51 (worst). VP9 counts to
            63: its own number is stretched to that.
        lossless: FFV1 in RGB, every pixel exact; .mkv only.

    Raises:
        ValueError: the suffix is another one, or a setting is out of its range.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in OUTPUT_SUFFIXES:
        raise ValueError(
            f"path must end in {', '.join(OUTPUT_SUFFIXES)} or, for numbered pictures, "
            f"be a folder, got {path}"
        )
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must lie in 0..51, got {crf}")
    if lossless and suffix != ".mkv":
        raise ValueError(f"lossless needs a path that ends in .mkv, got {path}")
    if lossless:
        options = {"level": "3", "g": "1", "slices": "4", "coder": "range_def"}
        return VideoFormat("ffv1", "bgr0", options)
    if suffix == ".webm":
        options = {
            "crf": str(round(crf * 63 / 51)),
            "b": "0",  # no target: constant quality
            "cpu-used": "6",
            "deadline": "realtime",
            "row-mt": "1",
        }
        sound = frozenset({"opus", "vorbis"})
        return VideoFormat("libvpx-vp9", "yuv420p", options, sound, chroma="center")
    # An mp4 notes only the steps in decoding order: with B-frames, it would give a
    # variable rate a wrong length.
    options = {"crf": str(crf), "preset": "veryfast", "bf": "0"}
    if suffix == ".mkv":
        return VideoFormat("libx264", "yuv420p", options)
    sound = _QUICKTIME_SOUND | ({"opus"} if suffix == ".mp4" else set())
    fast_start = {"movflags": "+faststart+use_metadata_tags"}
    return VideoFormat("libx264", "yuv420p", options, sound, "aac", fast_start)


def time_base(fps: Fraction) -> Fraction:
    """Return the ticks in which frames are timed.

    Args:
        fps: frames a second.

    Returns:
        Seconds: whole ticks a frame, and at most 1/90000 for a variable rate.
    """
    numerator = fps.numerator
    return Fraction(1, numerator * -(-90_000 // numerator))


class PartWriter:
    """Encodes successive frames into one part."""

    def __init__(
        self,
        path: Path,
        video_format: VideoFormat,
        size: tuple[int, int],
        fps: Fraction,
    ) -> None:
        """Create the file.

        Args:
            path: part to write.
            video_format: how to encode.
            size: width and height of the frames to come, pixels.
            fps: frames a second.
        """
        self.path = path
        self._container = av.open(f"file:{path}", "w", format="nut")
        self._stream = _add_video(self._container, video_format, size, fps)
        self._time_base = time_base(fps)
        self._converter = _FrameConverter(video_format, *size)

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
    """Join parts into a file that plays, with sound; no frame is encoded again.

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
        stream = _add_video(container, video_format, size, fps)
        audio = iter(())
        if sound is not None:
            source, *limits = sound
            source = stack.enter_context(open_media(source))
            copied, encoder = video_format.copied_sound, video_format.sound_codec
            audio = add_sound(container, source, copied, encoder, *limits)
        container.start_encoding()
        header = stream.codec_context.extradata
        pending = next(audio, None)
        for packet in _packets(parts, header, last_step * time_base(fps)):
            # Little by little, so that players find sound and picture side by side.
            now = packet.pts * packet.time_base
            packet.stream = stream
            container.mux(packet)
            while pending is not None and pending.pts * pending.time_base <= now:
                container.mux(pending)
                pending = next(audio, None)
        while pending is not None:
            container.mux(pending)
            pending = next(audio, None)


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


def _add_video(
    container: OutputContainer,
    video_format: VideoFormat,
    size: tuple[int, int],
    fps: Fraction,
) -> av.VideoStream:
    """Add the stream of the frames, tagged with its colours, to a new file."""
    stream = container.add_stream(
        video_format.codec, rate=fps, options=video_format.options
    )
    stream.width, stream.height = (n + n % 2 * video_format.even for n in size)
    stream.pix_fmt = video_format.pixels
    context = stream.codec_context
    stream.time_base = context.time_base = time_base(fps)
    # A fixed number, as the bits depend on it. Unlike slices, whole frames side by
    # side leave the caller free meanwhile.
    context.thread_count, context.thread_type = 4, "AUTO"
    # Else the encoder guesses how long the last frame lasts.
    context.flags |= Flags.frame_duration
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    if video_format.even:
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
    return stream


class _FrameConverter:
    """Converts RGB to what an encoder takes: BT.709, limited range, if not RGB.

    Where both sides must be even, an odd one gets its last column or row once more.
    """

    def __init__(self, video_format: VideoFormat, width: int, height: int) -> None:
        odd_row, odd_column = (n % 2 * video_format.even for n in (height, width))
        self._padding = ((0, odd_row), (0, odd_column), (0, 0))
        how = f"flags={_ACCURATE}"
        if video_format.even:
            how += ":out_color_matrix=bt709:out_range=tv"
            how += f":out_chroma_loc={video_format.chroma}"
        self._graph = av.filter.Graph()
        self._graph.link_nodes(
            self._graph.add_buffer(
                width=width + odd_column,
                height=height + odd_row,
                format=av.VideoFormat("rgb24"),
                time_base=Fraction(1),
            ),
            self._graph.add("scale", how),
            self._graph.add("format", video_format.pixels),
            self._graph.add("buffersink"),
        ).configure()

    def __call__(self, image: np.ndarray) -> av.VideoFrame:
        if np.any(self._padding):
            image = np.pad(image, self._padding, "edge")
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = 0
        self._graph.push(frame)
        return self._graph.pull()
