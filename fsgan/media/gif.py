"""Frames into an animated GIF: one good palette for all, then a second pass."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.filter.context import FilterContext

from fsgan.media.video_parts import part_frames

_TICK = Fraction(1, 100)  # seconds; the only unit that GIF knows
_SHORTEST = 2  # ticks; players slow anything faster down to a tenth of a second
_PALETTE_FRAMES = 200  # that many, spread evenly, tell the colours of any film


def write_gif(
    parts: Sequence[Path],
    path: Path,
    size: tuple[int, int],
    frame_count: int,
    last_seconds: Fraction,
) -> None:
    """Write frames as a GIF that repeats for ever.

    One palette of 255 colours serves all frames, dithered. Times are rounded to
    1/100 s; the errors do not add up. Of frames closer than 1/50 s some are left out.

    Args:
        parts: files of a `video_parts.PartWriter` each, in order.
        path: file to write.
        size: width and height, pixels.
        frame_count: frames in all parts.
        last_seconds: how long the last frame is shown.
    """
    stride = -(-frame_count // _PALETTE_FRAMES)
    palette = _palette(islice(part_frames(parts), 0, None, stride))
    last_ticks = max(_SHORTEST, round(last_seconds / _TICK))
    options = {"loop": "0", "final_delay": str(last_ticks)}
    with av.open(f"file:{path}", "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=25)
        stream.pix_fmt = "pal8"
        stream.codec_context.time_base = _TICK
        stream.width, stream.height = size
        for frame in _mapped(part_frames(parts), palette):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _source(graph: av.filter.Graph, frame: av.VideoFrame) -> FilterContext:
    return graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=_TICK
    )


def _palette(frames: Iterator[av.VideoFrame]) -> av.VideoFrame:
    """Choose the colours that serve all frames best."""
    graph = av.filter.Graph()
    for index, frame in enumerate(frames):
        if not index:
            source = _source(graph, frame)
            nodes = graph.add("palettegen"), graph.add("buffersink")
            graph.link_nodes(source, *nodes).configure()
        frame.pts, frame.time_base = index, _TICK
        source.push(frame)
    source.push(None)
    return nodes[-1].pull()


def _mapped(
    frames: Iterator[av.VideoFrame], palette: av.VideoFrame
) -> Iterator[av.VideoFrame]:
    """Yield the frames in the colours of the palette, timed in ticks."""
    graph, last = av.filter.Graph(), -_SHORTEST
    for frame in frames:
        if last < 0:
            pictures, colours = _source(graph, frame), _source(graph, palette)
            mapper = graph.add("paletteuse", "dither=sierra2_4a")
            sink = graph.add("buffersink")
            pictures.link_to(mapper, 0, 0)
            colours.link_to(mapper, 0, 1)
            mapper.link_to(sink)
            graph.configure()
            palette.pts, palette.time_base = 0, _TICK
            colours.push(palette)
            colours.push(None)
        ticks = round(frame.pts * frame.time_base / _TICK)
        if ticks < last + _SHORTEST:
            continue
        frame.pts, frame.time_base, last = ticks, _TICK, ticks
        pictures.push(frame)
        yield from _pulled(sink)
    pictures.push(None)
    yield from _pulled(sink)


def _pulled(sink: FilterContext) -> Iterator[av.VideoFrame]:
    while True:
        try:
            frame = sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        frame.time_base = _TICK
        yield frame
