"""Video files put together: codecs, colours, and parts that join without a seam.

A part is an encoded stretch of frames, in a NUT file, which keeps any codec and exact
times. All parts of a video count their times from its first frame.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from heapq import merge
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from av.codec.context import Flags
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from fsgan.media.decoding import film_start, films, open_media, open_video, packets
from fsgan.media.sound import Codecs, carry_over
from fsgan.validation import check

OUTPUT_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
Encoder = Literal["software", "nvenc"]  # the processor, or an NVIDIA card
_NVENC = "h264_nvenc"
# What phones, browsers and QuickTime play from an mp4; Opus is not for QuickTime.
_QUICKTIME_SOUND = ("aac", "mp3", "ac3", "eac3", "alac")

# Of an mp4; in milliseconds, as is usual, delays of a stream are not exact.
_FAST_START = {
    "movflags": "+faststart+use_metadata_tags",
    "movie_timescale": "90000",
}


@dataclass(frozen=True)
class VideoFormat:
    """How frames are encoded, and what may lie beside them."""

    width: int  # of the frames to come, pixels
    height: int
    fps: Fraction
    codec: str  # FFmpeg's encoder of the frames
    pixels: str  # FFmpeg's pixel format
    options: dict[str, str]  # of the encoder
    codecs: Codecs  # of what lies beside them
    container_options: dict[str, str] = field(default_factory=dict)
    # Where players take a colour shared by 2 x 2 pixels to lie: half a pixel decides.
    chroma: str = "left"

    @property
    def is_yuv(self) -> bool:
        """Whether colours are stored for 2 x 2 pixels, so that both sides are even."""
        return self.pixels == "yuv420p"

    @property
    def time_base(self) -> Fraction:
        """A tick in seconds: a frame has whole ones, of at most 1/90000 s."""
        return Fraction(1, self.fps.numerator * -(-90_000 // self.fps.numerator))


def choose_format(
    path: Path,
    width: int,
    height: int,
    fps: Fraction,
    crf: int,
    lossless: bool,
    encoder: Encoder = "software",
) -> VideoFormat:
    """Choose how to encode by the suffix of the output and `VideoWriter`'s settings.

    Raises:
        ValueError: the suffix is another one, or a setting is out of its range.
    """
    suffix = path.suffix.lower()
    if suffix not in OUTPUT_SUFFIXES:
        raise ValueError(
            f"path must end in {', '.join(OUTPUT_SUFFIXES)} or, for numbered pictures, "
            f"be a folder, got {path}"
        )
    if min(width, height) < 1:
        raise ValueError(f"width and height must be at least 1, got {width}, {height}")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must lie in 0..51, got {crf}")
    if lossless and suffix != ".mkv":
        raise ValueError(f"lossless needs a path that ends in .mkv, got {path}")
    check("encoder", encoder, Encoder)
    if encoder == "nvenc" and (lossless or suffix == ".webm"):
        raise ValueError(
            "encoder='nvenc' makes H.264: give a path that ends in .mp4, .mov or .mkv, "
            f"and leave out lossless, got {path}"
        )
    frames = width, height, fps
    all_copied = Codecs(None, "libopus", "subrip")
    if lossless:
        options = {"level": "3", "g": "1", "slices": "4", "coder": "range_def"}
        return VideoFormat(*frames, "ffv1", "bgr0", options, all_copied)
    if suffix == ".webm":
        speed = {"cpu-used": "6", "deadline": "realtime", "row-mt": "1"}
        # VP9 counts to 63; without a target rate ("b") it keeps the quality.
        options = {"crf": str(round(crf * 63 / 51)), "b": "0", **speed}
        codecs = Codecs(("opus", "vorbis"), "libopus", "webvtt")
        return VideoFormat(
            *frames, "libvpx-vp9", "yuv420p", options, codecs, chroma="center"
        )
    # An mp4 notes only the steps in decoding order: with B-frames, it would give a
    # variable rate a wrong length.
    options = {"crf": str(crf), "preset": "veryfast", "bf": "0"}
    h264 = *frames, "libx264", "yuv420p", options
    if encoder == "nvenc":  # to its "cq", 0 is a quality of its own choice
        quality = {"rc": "vbr", "cq": str(max(crf, 1)), "b": "0"}
        h264 = *frames, _NVENC, "yuv420p", quality | {"preset": "p4", "bf": "0"}
    if suffix == ".mkv":
        return VideoFormat(*h264, all_copied)
    sound = (*_QUICKTIME_SOUND, "opus") if suffix == ".mp4" else _QUICKTIME_SOUND
    return VideoFormat(*h264, Codecs(sound, "aac", "mov_text"), _FAST_START)


class Cut(NamedTuple):
    """The stretch of a source that a film is made of, in seconds of the source."""

    source: Path
    first: Fraction  # its first frame is shown
    start: Fraction  # it begins
    end: Fraction | None  # it ends; None: with the source


def check_encoder(video_format: VideoFormat) -> None:
    """Raise where an encoder does not take the frames, before there is any.

    Raises:
        ValueError: they are too large, or too small, for it, or it is not there.
    """
    try:
        with av.open(os.devnull, "w", format="null") as container:
            _add_video(container, video_format)
            container.start_encoding()
    except (FFmpegError, UnknownCodecError) as error:
        remedy = "write another kind of video, or pictures"
        if video_format.codec == _NVENC:
            remedy = "it needs an NVIDIA card, its driver and an FFmpeg with NVENC; "
            remedy += "else leave encoder='software'"
        raise ValueError(
            f"{video_format.codec} cannot encode {video_format.width}x"
            f"{video_format.height} pixels: {remedy}"
        ) from error


class PartWriter:
    """Encodes successive frames into one part.

    RGB becomes BT.709 in limited range, but for lossless formats. Where both sides must
    be even, an odd one gets its last column or row once more.
    """

    def __init__(self, path: Path, video_format: VideoFormat) -> None:
        """Create the file."""
        self.path = path
        self._container = av.open(f"file:{path}", "w", format="nut")
        self._stream = _add_video(self._container, video_format)
        self._time_base = video_format.time_base
        width, height = self._stream.width, self._stream.height
        more_rows, more_columns = (
            height - video_format.height,
            width - video_format.width,
        )
        self._padding = (0, more_rows), (0, more_columns), (0, 0)
        # Without the last three, swscale loses 1.2 levels of brightness.
        scaling = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
        if video_format.is_yuv:
            scaling += ":out_color_matrix=bt709:out_range=tv"
            scaling += f":out_chroma_loc={video_format.chroma}"
        self._graph = av.filter.Graph()
        self._graph.link_nodes(
            self._graph.add_buffer(
                width=width,
                height=height,
                format=av.VideoFormat("rgb24"),
                time_base=self._time_base,
            ),
            self._graph.add("scale", scaling),
            self._graph.add("format", video_format.pixels),
            self._graph.add("buffersink"),
        ).configure()

    def write(self, image: np.ndarray, ticks: int, step: int) -> None:
        """Append an RGB frame, shown from `ticks` on for `step` if it is the last."""
        if np.any(self._padding):
            image = np.pad(image, self._padding, "edge")
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = ticks, self._time_base
        self._graph.push(frame)
        frame = self._graph.pull()
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
    last_step: int,
    *,
    metadata: dict[str, str],
    cut: Cut | None,
) -> None:
    """Join parts into a file that plays, with sound, subtitles and chapters.

    No frame is encoded again.

    Args:
        parts: files of a `PartWriter` each, in order.
        path: file to write.
        video_format: how the parts were encoded.
        last_step: how long the last frame is shown, in ticks.
        metadata: tags of the file.
        cut: what to take sound and subtitles from; `None` for none.

    Raises:
        ValueError: the parts were encoded differently.
    """
    with ExitStack() as stack:
        container = stack.enter_context(
            av.open(f"file:{path}", "w", options=video_format.container_options)
        )
        container.metadata.update(metadata)
        # An encoder set up alike, and given no frame, writes the same headers.
        stream = _add_video(container, video_format)
        others, late = [], Fraction(0)
        if cut is not None:

            def open_source() -> InputContainer:
                return stack.enter_context(open_media(cut.source))

            zero = film_start(open_source(), cut.start, cut.first, video_format.fps)
            late = cut.first - zero
            exact = bool(late and cut.start)
            others = carry_over(
                container, open_source, video_format.codecs, zero, cut.end, exact
            )
        container.start_encoding()
        video = _packets(parts, stream, last_step * video_format.time_base, late)
        # Little by little, so that players find sound and picture side by side.
        for packet in merge(video, *others, key=lambda x: x.pts * x.time_base):
            container.mux(packet)


def replace_frames(
    film: Path, pieces: dict[int, Path], path: Path, metadata: dict[str, str]
) -> None:
    """Write a film anew with other frames in some places; all else is copied.

    Args:
        film: as `VideoWriter` writes it: packets in the order in which they are shown.
        pieces: by the number of a first frame, films of the same format with the frames
            to show instead; a key frame or the end must follow each.
        path: file to write, of the same kind.
        metadata: tags of the file.

    Raises:
        ValueError: a piece was encoded otherwise than the film.
    """

    def frames(piece: Path) -> Iterator[av.Packet]:
        with open_video(piece) as stream:
            if stream.codec_context.extradata != shown.codec_context.extradata:
                raise ValueError(
                    f"{film} was not encoded here with these settings, so its frames "
                    "cannot be replaced: convert the whole video again"
                )
            yield from (it for it in packets(stream) if it is not None and it.size)

    in_matroska = path.suffix.lower() in (".mkv", ".webm")
    options = {} if in_matroska else _FAST_START
    with (
        open_media(film) as old,
        av.open(f"file:{path}", "w", options=options) as new,
    ):
        new.metadata.update(metadata)
        new.set_chapters(old.chapters())
        known = [
            it for it in old.streams if it.codec_context or it.type == "attachment"
        ]
        streams = {it.index: new.add_stream_from_template(it) for it in known}
        [shown, *_] = films(old)
        streams[shown.index].codec_context.framerate = shown.average_rate
        others, number = iter(()), 0
        for packet in old.demux([it for it in known if it.type != "attachment"]):
            if not packet.size or packet.dts is None:
                continue
            stream = streams[packet.stream.index]
            if packet.stream is shown:
                if number in pieces:
                    others = frames(pieces[number])
                if (other := next(others, None)) is not None:
                    for name in ("pts", "dts", "duration", "time_base"):
                        setattr(other, name, getattr(packet, name))
                    packet = other
                number += 1
            packet.stream = stream
            new.mux(packet)


def key_frames(film: Path) -> list[int]:
    """Return the numbers of the frames at which decoding can begin, and their count."""
    with open_video(film) as stream:
        keys = [it.is_keyframe for it in packets(stream) if it is not None and it.size]
    return [*(number for number, is_key in enumerate(keys) if is_key), len(keys)]


def _packets(
    parts: Sequence[Path], stream: av.VideoStream, last: Fraction, late: Fraction
) -> Iterator[av.Packet]:
    """Yield the packets of all parts; the first is shown at `late` seconds.

    The last one is shown for `last` seconds.
    """
    found = _raw_packets(parts, stream.codec_context.extradata)
    for packet, following in pairwise(chain(found, [None])):
        end = packet.pts + round(last / packet.time_base)
        packet.duration = (following.pts if following else end) - packet.pts
        # The order of decoding is that of showing: no format has B-frames.
        packet.pts += round(late / packet.time_base)
        packet.dts, packet.stream = packet.pts, stream
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


def _add_video(container: OutputContainer, video_format: VideoFormat) -> av.VideoStream:
    """Add the stream of the frames, tagged with its colours, to a new file."""
    stream = container.add_stream(
        video_format.codec, rate=video_format.fps, options=video_format.options
    )
    stream.width = video_format.width + video_format.width % 2 * video_format.is_yuv
    stream.height = video_format.height + video_format.height % 2 * video_format.is_yuv
    stream.pix_fmt = video_format.pixels
    context = stream.codec_context
    stream.time_base = context.time_base = video_format.time_base
    # A fixed number, as the bits depend on it. Unlike slices, whole frames side by
    # side leave the caller free meanwhile.
    context.thread_count, context.thread_type = 4, "AUTO"
    # Else the encoder guesses how long the last frame lasts.
    context.flags |= Flags.frame_duration
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    if video_format.is_yuv:
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
    return stream
