"""Sound, subtitles and chapters of a source, carried over and kept in step."""

import logging
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil
from typing import NamedTuple

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import Discard, Stream
from av.subtitles.codeccontext import SubtitleCodecContext
from av.subtitles.stream import SubtitleStream

from fsgan.media.decoding import clock_start, decode, films, packets

logger = logging.getLogger(__name__)

_TEXT = {"mov_text", "subrip", "srt", "text", "ass", "ssa", "webvtt"}
_MATROSKA = ("matroska", "webm")


class Codecs(NamedTuple):
    """What sound and subtitles of a new file are encoded with."""

    copied_sound: tuple[str, ...] | None  # codecs; None is all that fits
    sound: str  # FFmpeg's encoder of all others
    subtitles: str  # FFmpeg's encoder of text that is not copied


def carry_over(
    container: OutputContainer,
    open_source: Callable[[], InputContainer],
    codecs: Codecs,
    start: Fraction,
    end: Fraction | None,
    exact: bool = False,
) -> list[Iterator[av.Packet]]:
    """Add sound, subtitles and chapters of a source to a new file.

    Packets are copied where the new file may hold the codec, else sound is encoded
    anew, in stereo at most, and so are subtitles, if they are text. The log says what
    is left out.

    Args:
        container: the new file.
        open_source: opens the file that they are taken from, once for each stream.
        codecs: to copy and to encode with.
        start: seconds in the source that become time 0.
        end: seconds in the source where all ends; `None` for all of it.
        exact: sound begins at `start`, to the sample, or later: in Matroska it is then
            encoded, as packets cannot be cut.

    Returns:
        For each stream the packets to mux, in order.
    """
    source = open_source()
    origin = clock_start(source)
    limits = start + origin, None if end is None else end + origin
    container.set_chapters(list(_cut(source.chapters(), *limits)))
    found, left_out = [], []
    for original in source.streams:
        added = None
        known = original.codec_context and getattr(original, "rate", True)
        if known and original.type in ("audio", "subtitle"):
            track = open_source().streams[original.index]
            for other in track.container.streams:
                other.discard = Discard.none if other is track else Discard.all
            if track.type == "audio":
                added = _add_sound(container, track, codecs, limits, exact)
            else:
                added = _add_subtitles(container, track, codecs, limits)
        elif original in films(source)[:1]:
            continue
        elif original.type == "attachment" and container.format.name == "matroska":
            container.add_stream_from_template(original)  # a font of the subtitles
            continue
        elif original.name == "bin_data" and source.chapters():
            continue  # their titles, in mp4
        if added is None:
            left_out.append(_description(original))
            continue
        stream, of_stream = added
        stream.disposition = track.disposition
        stream.metadata.update(_labels(track))
        found.append(of_stream)
    if left_out:
        names, path = ", ".join(dict.fromkeys(left_out)), source.name[len("file:") :]
        logger.warning("%s: not carried over: %s", path, names)
    return found


def _description(stream: Stream) -> str:
    codec = stream.codec_context and stream.codec_context.codec.canonical_name
    kind = {"video": "pictures", "subtitle": "subtitles", "audio": "sound"}
    labels = [codec or "of unknown codec", *_labels(stream).values()]
    return f"{kind.get(stream.type, stream.type)} ({', '.join(labels)})"


def _labels(stream: Stream) -> dict[str, str]:
    tags = stream.metadata
    labels = {"language": tags.get("language"), "title": tags.get("title")}
    labels["title"] = labels["title"] or tags.get("name")  # mp4
    return {name: label for name, label in labels.items() if label}


def _cut(chapters: list[dict], start: Fraction, end: Fraction | None) -> Iterator[dict]:
    """Yield what of the chapters lies between two times."""
    for chapter in chapters:
        first, last = (
            chapter[name] * chapter["time_base"] for name in ("start", "end")
        )
        last = last if end is None else min(last, end)
        if max(first, start) < last:
            times = (max(first, start) - start) * 1000, (last - start) * 1000
            cut = dict(zip(("start", "end"), map(round, times), strict=True))
            yield {**chapter, **cut, "time_base": Fraction(1, 1000)}


_Limits = tuple[Fraction, Fraction | None]
_Added = tuple[Stream, Iterator[av.Packet]]


def _add_sound(
    container: OutputContainer,
    track: av.AudioStream,
    codecs: Codecs,
    limits: _Limits,
    exact: bool,
) -> _Added:
    codec, copied = track.codec_context.codec.canonical_name, codecs.copied_sound
    fits = codec in (container.supported_codecs if copied is None else copied)
    if fits and not (exact and container.format.name in _MATROSKA):
        stream = container.add_stream_from_template(track)
        return stream, _copied(track, stream, *limits)
    rates = av.Codec(codecs.sound, "w").audio_rates
    rate = track.rate if track.rate in rates else 48_000
    stream = container.add_stream(codecs.sound, rate=rate, bit_rate=192_000)
    stream.layout = "mono" if track.channels == 1 else "stereo"
    return stream, _encoded(track, stream, *limits)


def _add_subtitles(
    container: OutputContainer,
    track: SubtitleStream,
    codecs: Codecs,
    limits: _Limits,
) -> _Added | None:
    codec = track.codec_context.codec
    if codec.name in container.supported_codecs:
        stream = container.add_stream_from_template(track)
        return stream, _subtitles(track, stream, *limits)
    if codec.name not in _TEXT:
        return None
    track.codec_context.open()  # makes the header
    stream = container.add_stream(codecs.subtitles)
    stream.codec_context.subtitle_header = track.codec_context.subtitle_header
    stream.codec_context.time_base = Fraction(1, 1000)
    return stream, _subtitles(track, stream, *limits, stream.codec_context)


def _subtitles(
    track: SubtitleStream,
    stream: SubtitleStream,
    start: Fraction,
    end: Fraction | None,
    encoder: SubtitleCodecContext | None = None,
) -> Iterator[av.Packet]:
    """Yield the packets, encoded anew where there is an encoder."""
    for packet in packets(track):
        if packet is None or packet.pts is None or not packet.size:
            continue
        unit = packet.time_base
        first, last = packet.pts * unit, (packet.pts + (packet.duration or 0)) * unit
        if end is not None:
            if first >= end:
                return
            last = min(last, end)
        if first < start >= last:
            continue
        first = max(first, start)
        if encoder is not None:
            try:
                text = track.codec_context.decode2(packet)
            except FFmpegError:
                continue
            if not text:  # the pause between two in mp4
                continue
            packet, unit = encoder.encode_subtitle(text), Fraction(1, 1000)
            packet.time_base = unit
        packet.pts = packet.dts = round((first - start) / unit)
        packet.duration, packet.stream = round((last - first) / unit), stream
        yield packet


def _copied(
    track: av.AudioStream, stream: av.AudioStream, start: Fraction, end: Fraction | None
) -> Iterator[av.Packet]:
    # A decoder needs one packet of run-up before the one heard first. Only mp4 can
    # say that it is not to be heard; Matroska would delay the pictures instead,
    # but for the samples that are dropped after the head of the track says so.
    in_matroska = stream.container.format.name in _MATROSKA
    dropped = Fraction(track.codec_context.delay, track.rate)
    first = start - Fraction(ceil(dropped * 1000), 1000)  # Matroska's ticks
    last = None
    for packet in packets(track):
        if packet is None or packet.pts is None or packet.is_corrupt:
            continue
        if last is not None and packet.pts <= last:  # no file may go back in time
            continue
        last = packet.pts
        time = packet.pts * packet.time_base
        if end is not None and time >= end:
            return
        run_up = 0 if in_matroska else 2 * (packet.duration or 0)
        if time >= first if in_matroska else time + run_up * packet.time_base > start:
            packet.pts = packet.dts = round((time - start) / packet.time_base)
            packet.stream = stream
            yield packet


def _encoded(
    track: av.AudioStream, stream: av.AudioStream, start: Fraction, end: Fraction | None
) -> Iterator[av.Packet]:
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add_abuffer(template=track),
        graph.add("asetpts", f"PTS-{float(start):.6f}/TB"),
        # Cuts what lies before 0 and fills gaps with silence, as the encoder
        # counts samples, not times.
        graph.add("aresample", "async=1:first_pts=0"),
        graph.add("abuffersink"),
    ).configure()

    def heard() -> Iterator[av.AudioFrame | None]:
        for frame in decode(packets(track)):
            if frame is None or frame.pts is None:
                continue
            if end is not None and frame.pts * frame.time_base >= end:
                break
            yield frame
        yield None  # flushes the filters

    for frame in heard():
        graph.push(frame)
        while True:
            try:
                filtered = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                break  # they want more input, or have given all
            yield from stream.encode(filtered)
    yield from stream.encode(None)
