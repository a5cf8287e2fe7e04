"""The sound of a source, carried over into a new file and kept in step."""

import logging
from collections.abc import Collection, Iterator
from fractions import Fraction

import av
from av.container import InputContainer, OutputContainer

from fsgan.media.decoding import clock_start, decode, packets

logger = logging.getLogger(__name__)


def add_sound(
    container: OutputContainer,
    source: InputContainer,
    copied: Collection[str] | None,
    encoder: str,
    start: Fraction,
    end: Fraction | None,
) -> Iterator[av.Packet]:
    """Add the stream of the sound to a new file.

    Of several tracks the best is taken. Its packets are copied where the new file may
    hold the codec, else the sound is encoded anew, in stereo at most.

    Args:
        container: the new file.
        source: file with the sound.
        copied: codecs to copy; `None` for all that the container supports.
        encoder: FFmpeg's name of the one for all others.
        start: seconds in `source` that become time 0.
        end: seconds in `source` where the sound ends; `None` for all of it.

    Returns:
        The packets to mux, in order; none where `source` is silent.
    """
    if not source.streams.audio:
        return iter(())
    track = source.streams.best("audio")
    if track.codec_context is None:
        logger.warning("%s: unknown audio codec, no sound kept", source.name)
        return iter(())
    origin = clock_start(source)
    limits = start + origin, None if end is None else end + origin
    codec = track.codec_context.codec.canonical_name
    if codec in (container.supported_codecs if copied is None else copied):
        stream = container.add_stream_from_template(track)
        return _copied(track, stream, *limits)
    rates = av.Codec(encoder, "w").audio_rates
    rate = track.rate if track.rate in rates else 48_000
    stream = container.add_stream(encoder, rate=rate, bit_rate=192_000)
    stream.layout = "mono" if track.channels == 1 else "stereo"
    return _encoded(track, stream, *limits)


def _copied(
    track: av.AudioStream, stream: av.AudioStream, start: Fraction, end: Fraction | None
) -> Iterator[av.Packet]:
    # A decoder needs one packet of run-up before the one heard first. Only mp4 can
    # say that it is not to be heard; Matroska would delay the pictures instead,
    # but for the samples that every Opus decoder drops.
    in_matroska = stream.container.format.name in ("matroska", "webm")
    head = track.codec_context.extradata or b""
    first = start
    if in_matroska and head.startswith(b"OpusHead"):
        samples = int.from_bytes(head[10:12], "little")
        first -= Fraction(-(-samples // 48), 1000)  # Matroska's ticks
    for packet in packets(track):
        if packet is None or packet.pts is None or packet.is_corrupt:
            continue
        time = packet.pts * packet.time_base
        if end is not None and time >= end:
            return
        run_up = 0 if in_matroska else 2 * (packet.duration or 0)
        if time >= first or time + run_up * packet.time_base > start:
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
