"""Before and after, to look at in a notebook: one picture or film, and a slider.

Source and result lie side by side in one picture or film. Without scripts that is what
is seen. A script lays one half over the other, so that they cannot come out of step.
"""

import tempfile
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from uuid import uuid4

import cv2
import numpy as np

from fsgan.media.images import read_image
from fsgan.media.provenance import video_metadata
from fsgan.media.reader import Frame, is_video, probe, read_frames
from fsgan.media.writer import VideoWriter
from fsgan.training.monitor import encode_jpeg

_QUALITIES = (23, 28, 33, 38)  # of H.264; the first that is small enough
_MEGABYTE = 1_000_000
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


def compare(
    source: Picture,
    swapped: Picture,
    *,
    start: float = 0.0,
    at: float = 0.0,
    seconds: float = 15.0,
    width: int = 640,
    labels: tuple[str, str] = ("source", "result"),
    most_megabytes: float = 8.0,
) -> Player:
    """Lays source and result over each other under a slider.

    Left of the slider the source shows, right of it the result. Films play in step,
    with the sound of the result. Where scripts are blocked, as in a notebook that is
    not trusted, both are seen side by side.

    Args:
        source: a video, or a picture: a file or RGB uint8 (height, width, 3).
        swapped: what was made of it, of the same kind and shape.
        start: seconds in the source video where the conversion began.
        at: seconds in the swapped video where the player begins.
        seconds: how much of the video it shows, at most.
        width: pixels of each of them in the player, at most; none is enlarged.
        labels: what the two are called.
        most_megabytes: size of the player, and so of what the saved notebook grows by,
            at most. Films are encoded anew, more coarsely until they fit.

    Returns:
        The player; what it shows is marked as synthetic.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is a video and the other a picture, their shapes differ, a
            video has no frame there, nothing fits, a picture is of another kind, or a
            setting is out of its range.
    """
    if width < 16:
        raise ValueError(f"width must be at least 16 pixels, got {width}")
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    kinds = {_is_picture(source), _is_picture(swapped)}
    if len(kinds) == 2:
        raise ValueError(
            f"{_name(source)} and {_name(swapped)} must be two videos or two pictures"
        )
    if kinds == {True}:
        images = [_picture(source), _picture(swapped)]
        size = _size(source, swapped, [x.shape[1::-1] for x in images], width)
        content = encode_jpeg(_side_by_side(*images, size))
        return Player(_fit(_page(_IMAGE, content, size, labels), most_megabytes))
    source, swapped = Path(source), Path(swapped)
    infos = [probe(path) for path in (source, swapped)]
    size = _size(source, swapped, [(info.width, info.height) for info in infos], width)
    for quality in _QUALITIES:
        content = _film(source, swapped, size, (start, at, at + seconds), quality)
        page = _page(_VIDEO, content, size, labels)
        if len(page) <= most_megabytes * _MEGABYTE:
            break
    return Player(_fit(page, most_megabytes))


def _is_picture(what: Picture) -> bool:
    if isinstance(what, np.ndarray):
        return True
    return not Path(what).is_dir() and not is_video(what)


def _picture(what: Picture) -> np.ndarray:
    if not isinstance(what, np.ndarray):
        return read_image(what)
    if what.dtype != np.uint8 or what.ndim != 3 or what.shape[2] != 3:
        raise ValueError(
            "a picture must be RGB uint8 (height, width, 3), got "
            f"{what.dtype} {what.shape}"
        )
    return what


def _name(what: Picture) -> str:
    return "an array" if isinstance(what, np.ndarray) else str(what)


def _size(
    source: Picture, swapped: Picture, sizes: list[tuple[int, int]], width: int
) -> tuple[int, int]:
    """Width and height of each half, even numbers."""
    (old_width, old_height), (new_width, new_height) = sizes
    if abs(old_width * new_height / (old_height * new_width) - 1) > _SAME_SHAPE:
        raise ValueError(
            f"{_name(source)} ({old_width}x{old_height}) and {_name(swapped)} "
            f"({new_width}x{new_height}) must have one shape: convert with layout=1"
        )
    scale = min(1, width / new_width)
    return tuple(max(2, 2 * round(side * scale / 2)) for side in sizes[1])


def _side_by_side(
    before: np.ndarray, after: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    return np.hstack(
        [cv2.resize(x, size, interpolation=cv2.INTER_AREA) for x in (before, after)]
    )


def _in_step(
    before: Iterator[Frame], after: Iterator[Frame]
) -> Iterator[tuple[Frame, Frame]]:
    """Yields each frame of the result with the one the source shows at that time."""
    shown = next(before)
    origin, coming = shown.time, next(before, None)
    for frame in after:
        while coming and coming.time - origin <= frame.time + _TOLERANCE:
            shown, coming = coming, next(before, None)
        yield shown, frame


def _film(
    source: Path,
    swapped: Path,
    size: tuple[int, int],
    part: tuple[float, float, float],
    quality: int,
) -> bytes:
    """Encodes both side by side."""
    start, at, end = part
    sound = swapped if probe(swapped).has_audio else None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "player.mp4"
        writer = VideoWriter(
            path,
            2 * size[0],
            size[1],
            probe(swapped).fps,
            audio_from=sound,
            end=end,
            crf=quality,
            metadata=video_metadata(),
        )
        with writer:
            pairs = _in_step(read_frames(source, start), read_frames(swapped, at, end))
            for before, after in pairs:
                both = _side_by_side(before.image, after.image, size)
                writer.write(both, after.time)
        return path.read_bytes()


def _fit(page: str, most_megabytes: float) -> str:
    if len(page) > most_megabytes * _MEGABYTE:
        raise ValueError(
            f"the player takes {len(page) / _MEGABYTE:.1f} MB, most_megabytes allows "
            f"{most_megabytes:g}: show fewer seconds or a smaller width"
        )
    return page


def _page(
    media: Template, content: bytes, size: tuple[int, int], labels: tuple[str, str]
) -> str:
    left, right = map(escape, labels)
    # A name of its own keeps players of one page apart.
    return _PLAYER.substitute(
        name=f"fsgan-player-{uuid4().hex}",
        media=media.substitute(
            content=b64encode(content).decode(), alt=f"{left} and {right}"
        ),
        left=left,
        right=right,
        width=size[0],
        height=size[1],
        both=2 * size[0],
    )


_IMAGE = Template("""\
<img src="data:image/jpeg;base64,$content" alt="$alt" width="100%">""")
_VIDEO = Template("""\
<video src="data:video/mp4;base64,$content" width="100%" controls loop playsinline
preload="auto"></video>""")
# Frontends may drop styles and scripts: what stays is a picture or film, side by side.
_PLAYER = Template("""\
<div class="$name" style="max-width: ${both}px; font: 13px sans-serif">
$media
<div style="display: flex; justify-content: space-between; margin-top: 4px">
<span>&#9664; $left</span> <span>$right &#9654;</span>
</div>
</div>
<script>
for (const player of document.querySelectorAll(".$name:not([data-ready])")) {
  player.dataset.ready = "yes";
  player.style.maxWidth = "${width}px";
  const media = player.querySelector("img, video");
  const make = (tag, settings, style) => {
    const element = Object.assign(document.createElement(tag), settings);
    element.style.cssText = style;
    return element;
  };
  const canvas = make("canvas", {width: $width, height: $height},
    "display: block; width: 100%");
  const slider = make("input", {type: "range", max: 1000, value: 500},
    "position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;" +
    "cursor: ew-resize");
  slider.setAttribute("aria-label", "border between before and after");
  const stage = make("div", {}, "position: relative");
  stage.append(canvas, slider);
  player.prepend(stage);
  // Hidden, but not by display: some browsers would stop to decode.
  media.style.cssText =
    "position: absolute; width: 1px; height: 1px; opacity: 0; pointer-events: none";
  const pen = canvas.getContext("2d");
  const draw = () => {
    const x = Math.round($width * slider.value / 1000);
    pen.drawImage(media, $width, 0, $width, $height, 0, 0, $width, $height);
    if (x) pen.drawImage(media, 0, 0, x, $height, 0, 0, x, $height);
    pen.fillStyle = "white";
    pen.fillRect(x - 1, 0, 2, $height);
    pen.beginPath();
    pen.arc(x, $height / 2, 9, 0, 7);
    pen.fill();
  };
  slider.oninput = draw;
  slider.onfocus = () => {
    if (slider.matches(":focus-visible")) canvas.style.outline = "2px solid #4a90d9";
  };
  slider.onblur = () => { canvas.style.outline = "none"; };
  if (media.tagName == "IMG") {
    media.decode().then(draw);
    continue;
  }
  media.controls = false;
  const button = make("button", {textContent: "Play"}, "width: 5em");
  const sound = make("button", {textContent: "Sound off"}, "width: 7em");
  const place = make("input", {type: "range", max: 1000, value: 0}, "flex: 1");
  place.setAttribute("aria-label", "time");
  const bar = make("div", {}, "display: flex; gap: 6px; margin-top: 4px");
  bar.append(button, place, sound);
  stage.after(bar);
  button.onclick = () => media.paused ? media.play() : media.pause();
  sound.onclick = () => { media.muted = !media.muted; };
  place.oninput = () => { media.currentTime = media.duration * place.value / 1000; };
  media.onvolumechange = () => {
    sound.textContent = media.muted ? "Sound on" : "Sound off";
  };
  const show = () => {
    draw();
    place.value = 1000 * media.currentTime / media.duration || 0;
    if (!media.paused) requestAnimationFrame(show);
  };
  media.onplay = () => { button.textContent = "Pause"; show(); };
  media.onpause = () => { button.textContent = "Play"; };
  media.onseeked = media.onloadeddata = show;
  media.onerror = () => { bar.textContent = "This program cannot play H.264 films."; };
  if (media.readyState > 1) show();
}
</script>
""")
