"""What each suffix of an output means: the codecs, the container, the colours."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags
from av.container import OutputContainer
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
)

# fmt: off
PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow",
    "slower", "veryslow",
)
# fmt: on
OUTPUT_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".gif")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# What phones, browsers and QuickTime play from an mp4; Opus is not for QuickTime.
_QUICKTIME_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "alac"})
# Without the last three, swscale loses 1.2 levels of brightness there and back.
_ACCURATE = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_FAST_START = {"movflags": "+faststart+use_metadata_tags"}


@dataclass(frozen=True)
class VideoFormat:
    """How frames are encoded, and which sound may lie beside them."""

    codec: str  # FFmpeg's encoder of the frames
    pixels: str  # FFmpeg's pixel format
    options: dict[str, str]  # of the encoder
    copied_sound: frozenset[str] | None = frozenset()  # codecs; None is all that fits
    sound_codec: str = "aac"  # FFmpeg's encoder for sound that is not copied
    container_options: dict[str, str] = field(default_factory=dict)
    # Where players take a colour shared by 2 x 2 pixels to lie: half a pixel decides.
    chroma: str = "left"

    @property
    def even(self) -> bool:
        """Whether both sides must be even: colours are stored for 2 x 2 pixels."""
        return self.pixels == "yuv420p"


def video_format(
    path: str | Path, crf: int = 18, preset: str = "veryfast", lossless: bool = False
) -> VideoFormat:
    """Choose how to encode by the suffix of the output.

    Args:
        path: file to write, ending in one of `OUTPUT_SUFFIXES`.
        crf: constant quality on x264's scale, 0 (best) to 51 (worst). VP9 counts to
            63: its own number is stretched to that. GIF has none.
        preset: speed, one of `PRESETS`; VP9's `cpu-used` is 8 for the first, 0 for
            the last.
        lossless: FFV1 in RGB, every pixel exact; .mkv only.

    Returns:
        The format. A GIF's frames are kept lossless until its palette is known.

    Raises:
        ValueError: the suffix is another one, or a setting is out of its range.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in OUTPUT_SUFFIXES:
        raise ValueError(
            f"path must end in {', '.join(OUTPUT_SUFFIXES)} or, for pictures, be a "
            f"folder or a pattern such as frames/%06d.png, got {path}"
        )
    if not 0 <= crf <= 51:
        raise ValueError(f"crf must lie in 0..51, got {crf}")
    if preset not in PRESETS:
        raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
    if lossless and suffix != ".mkv":
        raise ValueError(f"lossless needs a path that ends in .mkv, got {path}")
    if lossless or suffix == ".gif":
        options = {"level": "3", "g": "1", "slices": "4", "coder": "range_def"}
        return VideoFormat("ffv1", "bgr0", options, None, "libopus")
    if suffix == ".webm":
        speed = len(PRESETS) - 1 - PRESETS.index(preset)
        options = {
            "crf": str(round(crf * 63 / 51)),
            "b": "0",  # no target: constant quality
            "cpu-used": str(speed),
            "deadline": "realtime" if speed > 5 else "good",
            "row-mt": "1",
        }
        sound = frozenset({"opus", "vorbis"})
        return VideoFormat(
            "libvpx-vp9", "yuv420p", options, sound, "libopus", chroma="center"
        )
    # An mp4 notes only the steps in decoding order: with B-frames, it would give a
    # variable rate a wrong length.
    options = {"crf": str(crf), "preset": preset, "bf": "0"}
    if suffix == ".mkv":
        return VideoFormat("libx264", "yuv420p", options, None, "libopus")
    sound = _QUICKTIME_SOUND | ({"opus"} if suffix == ".mp4" else set())
    return VideoFormat("libx264", "yuv420p", options, sound, "aac", _FAST_START)


def time_base(fps: Fraction) -> Fraction:
    """Return the ticks in which frames are timed.

    Args:
        fps: frames a second.

    Returns:
        Seconds: whole ticks a frame, and at most 1/90000 for a variable rate.
    """
    numerator = fps.numerator
    return Fraction(1, numerator * -(-90_000 // numerator))


def add_video_stream(
    container: OutputContainer,
    video_format: VideoFormat,
    width: int,
    height: int,
    fps: Fraction,
) -> av.VideoStream:
    """Add the stream of the frames, with its encoder, to a new file.

    Args:
        container: the file.
        video_format: how to encode.
        width: pixels of the frames to come.
        height: pixels of the frames to come.
        fps: frames a second.

    Returns:
        The stream, tagged with its colours.
    """
    stream = container.add_stream(
        video_format.codec, rate=fps, options=video_format.options
    )
    stream.width = width + width % 2 * video_format.even
    stream.height = height + height % 2 * video_format.even
    stream.pix_fmt = video_format.pixels
    stream.time_base = stream.codec_context.time_base = time_base(fps)
    # A fixed number, as the bits depend on it. Unlike slices, whole frames side by
    # side leave the caller free meanwhile.
    stream.codec_context.thread_count, stream.codec_context.thread_type = 4, "AUTO"
    # Else the encoder guesses how long the last frame lasts.
    stream.codec_context.flags |= Flags.frame_duration
    stream.codec_context.color_primaries = ColorPrimaries.BT709
    stream.codec_context.color_trc = ColorTrc.BT709
    if video_format.pixels == "yuv420p":
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.colorspace = Colorspace.ITU709
    return stream


class FrameConverter:
    """Converts pictures into what an encoder takes."""

    def __init__(self, video_format: VideoFormat, width: int, height: int) -> None:
        """Starts before the first picture.

        Args:
            video_format: how to encode.
            width: pixels of the pictures to come.
            height: pixels of the pictures to come.
        """
        self._odd = ((0, 0), (0, 0), (0, 0))
        if video_format.even:
            self._odd = ((0, height % 2), (0, width % 2), (0, 0))
        how = f"flags={_ACCURATE}"
        if video_format.pixels == "yuv420p":
            how += ":out_color_matrix=bt709:out_range=tv"
            how += f":out_chroma_loc={video_format.chroma}"
        self._graph = av.filter.Graph()
        self._graph.link_nodes(
            self._graph.add_buffer(
                width=width + self._odd[1][1],
                height=height + self._odd[0][1],
                format=av.VideoFormat("rgb24"),
                time_base=Fraction(1),
            ),
            self._graph.add("scale", how),
            self._graph.add("format", video_format.pixels),
            self._graph.add("buffersink"),
        ).configure()

    def __call__(self, image: np.ndarray) -> av.VideoFrame:
        """Converts a picture.

        Args:
            image: RGB uint8 `(height, width, 3)`.

        Returns:
            The frame, in BT.709, limited range, where it is not RGB. Where both sides
            must be even, an odd one gets its last column or row once more.
        """
        if np.any(self._odd):
            image = np.pad(image, self._odd, "edge")
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts = 0
        self._graph.push(frame)
        return self._graph.pull()
