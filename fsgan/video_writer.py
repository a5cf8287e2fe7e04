"""Video out: frames as H.264 that plays everywhere, with the sound of the source."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Self

import av
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.video.reformatter import (
    ColorPrimaries,
    ColorRange,
    Colorspace,
    ColorTrc,
    VideoReformatter,
)

from fsgan.images import write_beside
from fsgan.video import (
    SCALING,
    clock_start,
    decoded_frames,
    open_media,
    packets,
    time_limits,
)

logger = logging.getLogger(__name__)

# fmt: off
PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow",
    "slower", "veryslow",
)
# fmt: on
OUTPUT_SUFFIXES = (".mp4", ".m4v", ".mov")
# What phones, browsers and QuickTime play from an mp4.
_COPIED_AUDIO = {"aac", "mp3", "mp3float", "ac3", "eac3", "alac"}


class VideoWriter:
    """Write frames as H.264 that plays everywhere, with the sound of the source.

    A context manager. The file appears under its name, whole, on a clean exit;
    after any exception nothing is left of it. The picture is yuv420p, BT.709,
    limited range, tagged so. That format needs even sides: an odd one gets its last
    column or row repeated once, nothing is rescaled.

    The first frame written is time 0 of the new file, and the sound is cut to it.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: Fraction | float,
        *,
        audio_from: str | Path | None = None,
        start: float = 0.0,
        end: float | None = None,
        crf: int = 18,
        preset: str = "veryfast",
        metadata: dict[str, str] | None = None,
    ) -> None:
        """Check the settings; nothing is written before the `with` block begins.

        Args:
            path: file to write, .mp4, .m4v or .mov; its folder is created.
            width: pixels of the frames to come.
            height: pixels of the frames to come.
            fps: frames a second, for frames written without a time.
            audio_from: file to take the sound from, copied if an mp4 may hold its
                codec, else encoded as AAC; a silent file is fine; `None` for none.
            start: seconds in `audio_from` where the frames begin.
            end: seconds in `audio_from` where the sound ends; `None` for all of it.
            crf: x264's constant quality, 0 (lossless) to 51 (worst).
            preset: x264's speed, one of `PRESETS`.
            metadata: tags of the file, such as `provenance.video_metadata()`.

        Raises:
            ValueError: a setting is out of its range.
        """
        self.path = Path(path)
        if self.path.suffix.lower() not in OUTPUT_SUFFIXES:
            raise ValueError(
                f"path must end in {', '.join(OUTPUT_SUFFIXES)}, got {path}"
            )
        if width < 1 or height < 1:
            raise ValueError(
                f"width and height must be at least 1, got {width}, {height}"
            )
        if not fps > 0:
            raise ValueError(f"fps must be above 0, got {fps}")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf must lie in 0..51, got {crf}")
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {PRESETS}, got {preset!r}")
        self.width, self.height = width, height
        self.fps = Fraction(fps).limit_denominator(100_000)
        self._start, self._end = time_limits(start, end)
        self._audio_from = None if audio_from is None else Path(audio_from)
        # An mp4 notes only the steps in decoding order: with B-frames, it would
        # give a variable rate a wrong length.
        self._options = {"crf": str(crf), "preset": preset, "bf": "0"}
        self._metadata = metadata or {}
        # Whole ticks a frame, and fine enough (<= 1/90000 s) for a variable rate.
        numerator = self.fps.numerator
        self._time_base = Fraction(1, numerator * -(-90_000 // numerator))
        self._reformatter = VideoReformatter()
        self._origin: Fraction | None = None  # source time of the first frame
        self._time: Fraction | None = None  # source time of the last frame
        self._step = round(1 / self.fps / self._time_base)  # ticks a frame
        self._ticks = -self._step  # of the last frame
        self._cut_sound: Callable[..., Iterator[av.Packet]] | None = None
        self._sound: Iterator[av.Packet] = iter(())
        self._pending: av.Packet | None = None  # next packet of sound

    def __enter__(self) -> Self:
        """Open the hidden file and the source of the sound.

        Raises:
            FileNotFoundError: `audio_from` does not exist.
            ValueError: `audio_from` cannot be read.
            OSError: the folder cannot be written to.
        """
        with ExitStack() as stack:
            source = None
            if self._audio_from is not None:
                source = stack.enter_context(open_media(self._audio_from))
            temporary = stack.enter_context(write_beside(self.path))
            self._container = stack.enter_context(
                av.open(
                    f"file:{temporary}",
                    "w",
                    options={"movflags": "+faststart+use_metadata_tags"},
                )
            )
            self._container.metadata.update(self._metadata)
            self._video = self._add_video()
            if source is not None and source.streams.audio:
                self._add_sound(source, source.streams.best("audio"))
            stack.push(self._finish)
            self._close = stack.pop_all().__exit__
        return self

    def __exit__(self, *error: object) -> None:
        """Finish the file and give it its name, or remove it after an exception.

        Raises:
            ValueError: no frame was written.
        """
        self._close(*error)

    def write(self, image: np.ndarray, time: Fraction | float | None = None) -> None:
        """Append a frame.

        Args:
            image: RGB uint8 `(height, width, 3)`.
            time: seconds of the frame in the source (`Frame.time`), strictly
                growing; `None` for 1 / fps after the last one.

        Raises:
            ValueError: wrong shape or type, or a time that does not grow or, with
                sound, does not lie between `start` and `end`.
        """
        shape = (self.height, self.width, 3)
        if image.shape != shape or image.dtype != np.uint8:
            raise ValueError(
                f"image must be uint8 {shape}, got {image.dtype} {image.shape}"
            )
        if time is not None:
            time = Fraction(time)
        else:
            time = self._start if self._time is None else self._time + 1 / self.fps
        if self._origin is None:
            self._check_first(time)
            self._origin = time
            if self._cut_sound is not None:
                self._sound = self._cut_sound(time, self._end)
                self._pending = next(self._sound, None)
        ticks = round((time - self._origin) / self._time_base)
        step = min(ticks - self._ticks, self._step)
        if step <= 0:
            raise ValueError(
                f"time must grow from frame to frame, got {float(time):g} s "
                f"after {float(self._time):g} s"
            )
        self._time, self._ticks = time, ticks
        odd = ((0, self.height % 2), (0, self.width % 2), (0, 0))
        frame = av.VideoFrame.from_ndarray(np.pad(image, odd, "edge"), format="rgb24")
        frame = self._reformatter.reformat(
            frame,
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=SCALING,
        )
        frame.pts, frame.time_base = ticks, self._time_base
        frame.duration = step  # of the last frame only; the next one ends all others
        self._container.mux(self._video.encode(frame))
        self._mux_sound(until=time - self._origin)

    def _check_first(self, time: Fraction) -> None:
        late = self._end is not None and time >= self._end
        if self._audio_from is not None and (time < self._start or late):
            raise ValueError(
                "time must count from the start of audio_from and lie between start "
                f"({float(self._start):g} s) and end, got {float(time):g} s"
            )

    def _add_video(self) -> av.VideoStream:
        stream = self._container.add_stream(
            "libx264", rate=self.fps, options=self._options
        )
        stream.width = self.width + self.width % 2
        stream.height = self.height + self.height % 2
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._time_base
        # Else the encoder guesses how long the last frame lasts.
        stream.codec_context.flags |= Flags.frame_duration
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
        return stream

    def _add_sound(self, source: InputContainer, track: av.AudioStream) -> None:
        if track.codec_context is None:
            logger.warning("%s: unknown audio codec, no sound kept", self._audio_from)
        elif track.codec_context.name in _COPIED_AUDIO:
            stream = self._container.add_stream_from_template(track)
            self._cut_sound = partial(_copied_sound, source, track, stream)
        else:
            rates = av.Codec("aac", "w").audio_rates
            rate = track.rate if track.rate in rates else 48_000
            stream = self._container.add_stream("aac", rate=rate, bit_rate=192_000)
            stream.layout = "mono" if track.channels == 1 else "stereo"
            self._cut_sound = partial(_encoded_sound, source, track, stream)

    def _mux_sound(self, until: Fraction | None = None) -> None:
        # Little by little, so that players find sound and picture side by side.
        while self._pending is not None and (
            until is None or self._pending.pts * self._pending.time_base <= until
        ):
            self._container.mux(self._pending)
            self._pending = next(self._sound, None)

    def _finish(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if self._origin is None:
                raise ValueError(f"no frame was written, so {self.path} was not made")
            self._container.mux(self._video.encode(None))
            self._mux_sound()


def _copied_sound(
    source: InputContainer,
    track: av.AudioStream,
    stream: av.AudioStream,
    start: Fraction,
    end: Fraction | None,
) -> Iterator[av.Packet]:
    """Yield the packets of a track from `start` to `end`, moved to time 0."""
    origin = clock_start(source)
    for packet in packets(source, track):
        if packet is None or packet.pts is None or packet.is_corrupt:
            continue
        time = packet.pts * packet.time_base - origin
        if end is not None and time >= end:
            return
        # A decoder needs one packet of run-up before the one heard first.
        if time + 2 * (packet.duration or 0) * packet.time_base > start:
            packet.pts = packet.dts = round((time - start) / packet.time_base)
            packet.stream = stream
            yield packet


def _encoded_sound(
    source: InputContainer,
    track: av.AudioStream,
    stream: av.AudioStream,
    start: Fraction,
    end: Fraction | None,
) -> Iterator[av.Packet]:
    """Yield new packets of a track's sound from `start` to `end`, moved to time 0."""
    origin = clock_start(source)
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_abuffer(template=track),
        graph.add("asetpts", f"PTS-{float(start + origin):.6f}/TB"),
        # Cuts what lies before 0 and fills gaps with silence, as the encoder
        # counts samples, not times.
        graph.add("aresample", "async=1:first_pts=0"),
        graph.add("abuffersink"),
    ).configure()
    for frame in decoded_frames(source, track):
        if frame is None or frame.pts is None:
            continue
        if end is not None and frame.pts * frame.time_base - origin >= end:
            break
        yield from _encode_sound(graph, frame, stream)
    yield from _encode_sound(graph, None, stream)
    yield from stream.encode(None)


def _encode_sound(
    graph: av.filter.Graph, frame: av.AudioFrame | None, stream: av.AudioStream
) -> Iterator[av.Packet]:
    graph.push(frame)
    while True:
        try:
            filtered = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return  # it wants more input, or has given all
        yield from stream.encode(filtered)
