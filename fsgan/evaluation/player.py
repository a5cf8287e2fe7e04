"""Before and after under a slider, to look at in a notebook."""

import tempfile
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import cv2
import numpy as np

from fsgan.media.images import data_url, encode_jpeg, read_image
from fsgan.media.provenance import image_xmp, video_metadata
from fsgan.media.reader import (
    converted_from,
    is_video,
    probe,
    read_frames,
    time_limits,
)
from fsgan.media.writer import VideoWriter
from fsgan.validation import AboveZero, AtLeastZero, Count, checked

_QUALITIES = (23, 28, 33, 38)  # of H.264; the first that is small enough
_SAME_SHAPE = 0.02  # widths to heights may differ by that share, as rounding does
_TOLERANCE = 0.001  # seconds; files round times

Picture = np.ndarray | str | Path


@dataclass(frozen=True)
class Player:
    """A before/after player, shown by a notebook cell that ends in it.

    Attributes:
        html: a piece of a page that needs nothing else, neither network nor widgets.
    """

    html: str = field(repr=False)  # else it would be saved twice

    def _repr_html_(self) -> str:
        return self.html


@checked
def compare(
    source: Picture,
    swapped: Picture,
    *,
    start: AtLeastZero = 0.0,
    at: AtLeastZero = 0.0,
    seconds: AboveZero = 15.0,
    width: Count = 640,
    labels: tuple[str, str] = ("source", "result"),
    most_megabytes: AboveZero = 8.0,
) -> Player:
    """Lays source and result over each other under a slider.

    Left of the slider the source shows, right of it the result. Videos play in step,
    with the sound of the result. In a notebook that is not trusted the border stays in
    the middle.

    Args:
        source: a video, or a picture: a file or RGB uint8 (height, width, 3).
        swapped: what was made of it, of the same kind and shape.
        start: seconds in the source video where the conversion began.
        at: seconds in the swapped video where the player begins.
        seconds: how much of the video it shows, at most.
        width: pixels, at most; nothing is enlarged.
        labels: what the two are called.
        most_megabytes: size of the player, and so of what the saved notebook grows by,
            at most. Videos are encoded anew, more coarsely until they fit.

    Returns:
        The player; what it shows is marked as synthetic.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is a video and the other a picture, their shapes differ, a
            video has no frame there, nothing fits, a picture is of another kind, or a
            setting is out of its range.
    """
    both = (source, swapped)
    names = ["an array" if isinstance(it, np.ndarray) else str(it) for it in both]
    kinds = {_is_picture(it) for it in both}
    if len(kinds) == 2:
        raise ValueError(
            f"{names[0]} and {names[1]} must be two videos or two pictures"
        )
    if kinds == {True}:
        images = [_read_picture(it) for it in both]
        size = _size(names, [image.shape[1::-1] for image in images], width)
        small = (cv2.resize(it, size, interpolation=cv2.INTER_AREA) for it in images)
        pages = iter([_page([encode_jpeg(it, image_xmp()) for it in small], labels)])
    else:
        infos = [probe(it) for it in both]
        size = _size(names, [(info.width, info.height) for info in infos], width)
        part = (start, at, at + seconds)
        pages = (_page(_encode(both, size, part, q), labels, True) for q in _QUALITIES)
    for page in pages:
        if len(page) <= most_megabytes * 1e6:
            return Player(f'<div style="max-width: {size[0]}px">{page}</div>')
    raise ValueError(
        f"the player takes {len(page) / 1e6:.1f} MB, most_megabytes allows "
        f"{most_megabytes:g}: show fewer seconds or a smaller width"
    )


def _is_picture(what: Picture) -> bool:
    return isinstance(what, np.ndarray) or not (Path(what).is_dir() or is_video(what))


def _read_picture(what: Picture) -> np.ndarray:
    if not isinstance(what, np.ndarray):
        return read_image(what)
    if what.dtype == np.uint8 and what.ndim == 3 and what.shape[2] == 3:
        return what
    raise ValueError(
        f"a picture must be RGB uint8 (height, width, 3), got {what.dtype} {what.shape}"
    )


def _size(
    names: list[str], sizes: list[tuple[int, int]], width: int
) -> tuple[int, int]:
    """Width and height in the player, even numbers."""
    (old_width, old_height), (new_width, new_height) = sizes
    if abs(old_width * new_height / (old_height * new_width) - 1) > _SAME_SHAPE:
        raise ValueError(
            f"{names[0]} ({old_width}x{old_height}) and {names[1]} "
            f"({new_width}x{new_height}) must have one shape: convert with layout=1"
        )
    scale = min(1, width / new_width)
    return tuple(max(2, 2 * round(side * scale / 2)) for side in sizes[1])


def _encode(
    both: tuple[Picture, Picture],
    size: tuple[int, int],
    part: tuple[float, float, float],
    quality: int,
) -> list[bytes]:
    """Encodes both videos with frames at the same times."""
    (source, swapped), (start, at, end) = both, part
    info, settings = probe(swapped), {"end": end, "crf": quality}
    settings["metadata"] = video_metadata()
    with tempfile.TemporaryDirectory() as folder:
        old, new = (Path(folder, name) for name in ("source.mp4", "swapped.mp4"))
        with (
            VideoWriter(old, *size, info.fps, **settings) as before,
            VideoWriter(
                new,
                *size,
                info.fps,
                audio_from=swapped if info.has_audio else None,
                start=at,
                **settings,
            ) as after,
        ):
            frames = read_frames(source, start)
            shown = next(frames)
            origin, coming = converted_from(source, start, None), next(frames, None)
            begin, _ = time_limits(at, end)
            for count, frame in enumerate(read_frames(swapped, at, end)):
                # The first is there at once, even if the sound begins before it.
                time = frame.time if count else begin
                while coming and coming.time - origin <= frame.time + _TOLERANCE:
                    shown, coming = coming, next(frames, None)
                for writer, image in ((before, shown.image), (after, frame.image)):
                    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
                    writer.write(image, time)
        return [old.read_bytes(), new.read_bytes()]


def _page(contents: list[bytes], labels: tuple[str, str], video: bool = False) -> str:
    """The result, the source over it and cut off at the slider, and the slider."""
    left, right = map(escape, labels)
    bottom = "4.5em" if video else "0"  # where the result's player has its buttons
    cut = "position: absolute; inset: 0; pointer-events: none; "
    cut += f"clip-path: inset(0 var(--cut, 50%) {bottom} 0)"
    mime = "video/mp4" if video else "image/jpeg"
    before, after = (data_url(it, mime) for it in contents)
    media = _VIDEOS if video else _IMAGES
    return _SLIDER.format(
        media=media.format(before=before, after=after, left=left, right=right, cut=cut),
        left=left,
        right=right,
    )


_IMAGES = """<img src="{after}" alt="{right}" width="100%">
<img src="{before}" alt="{left}" width="100%" style="{cut}">"""
# Whatever the player of the result does, that of the source above it does, too.
_VIDEOS = """<video src="{after}" width="100%" controls loop playsinline preload="auto"
 onplay="this.nextElementSibling.play()" onpause="this.nextElementSibling.pause()"
 ontimeupdate="const before = this.nextElementSibling;
 if (Math.abs(before.currentTime - this.currentTime) > 0.03)
 before.currentTime = this.currentTime"></video>
<video src="{before}" width="100%" style="{cut}" muted loop playsinline
 preload="auto"></video>"""
_SLIDER = """<div style="position: relative">{media}</div>
<input type="range" value="50" style="width: 100%; margin: 0" aria-label="border"
 oninput="this.previousElementSibling.style.setProperty(
 '--cut', 100 - this.value + '%')">
<div style="display: flex; justify-content: space-between">
<span>&#9664; {left}</span> <span>{right} &#9654;</span></div>"""
