"""Make the sample footage that ships, `fsgan/assets/sample/a.mp4` and `b.mp4`.

The package openpeople (MIT) has ten people whom a generator of pictures invented, each
on a sheet of sixteen expressions. Two sheets become a clip each: the face goes from one
expression to the next, while the camera drifts and zooms and the light changes.

On the way from one expression to the next each picture is warped towards the other,
point by point of the face mesh, and one fades into the other.

    pip install openpeople==0.1.2
    python tools/make_sample.py
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from scipy.interpolate import LinearNDInterpolator

from fsgan.faces.detector import FaceDetector
from fsgan.faces.mesh import OVAL, FaceMesh
from fsgan.media.images import read_image
from fsgan.media.writer import VideoWriter

OUT = Path(__file__).parents[1] / "fsgan" / "assets" / "sample"
_SIZE, _FPS, _SECONDS = (640, 360), 25, 8
_FRAME = 9  # of the white frame and its shine around a picture of the sheet, pixels
_ROWS = """
neutral happy sad angry
surprised disgusted scared confused
smug flirty thoughtful pensive
exhausted shocked playful determined
"""
# Who, and in which order; hands hide the faces of the others.
_A = """
neutral happy pensive surprised sad flirty angry playful scared smug exhausted shocked
confused disgusted determined neutral
"""
_B = """
neutral smug surprised angry happy exhausted scared playful pensive disgusted confused
sad flirty determined happy neutral
"""
_CLIPS = {"a": ("P008", _A.split()), "b": ("P010", _B.split())}


def make_clips(folder: Path) -> None:
    """Makes `a.mp4`, with sound, and `b.mp4`: 640x360, 25 frames a second."""
    folder.mkdir(parents=True, exist_ok=True)
    tones = folder / "tones.wav"
    _write_tones(tones)
    for seed, (name, (person, order)) in enumerate(_CLIPS.items()):
        audio = tones if name == "a" else None
        writer = VideoWriter(
            folder / f"{name}.mp4", *_SIZE, Fraction(_FPS), audio_from=audio, crf=18
        )
        with writer:
            for picture in _frames(person, order, np.random.default_rng(seed)):
                writer.write(picture)
    tones.unlink()


def _frames(
    person: str, order: list[str], rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """The frames, RGB uint8 (height, width, 3)."""
    pictures, points = _expressions(person)
    zoom, pan, tilt, roll, gain, warmth = (_wave(rng) for _ in range(6))
    count = _SECONDS * _FPS
    for frame in range(count):
        seconds = frame / _FPS
        place = frame / count * (len(order) - 1)
        before, after = list(pairwise(order))[int(place)]
        share = _smooth_step((place % 1 - 0.3) / 0.7)  # it rests for a moment
        face = _between(pictures, points, before, after, share)
        scale = 1.16 + 0.08 * zoom(seconds)
        shift = 40 * pan(seconds), 8 * tilt(seconds)
        picture = _on_the_wall(face, scale, 3 * roll(seconds), shift)
        light = 1 + 0.08 * gain(seconds)
        light = light + 0.05 * warmth(seconds) * np.array((1, 0, -1))
        yield np.clip(np.round(picture * light), 0, 255).astype(np.uint8)


def _expressions(person: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The pictures of a sheet, all of one size, and the points that hold them, by name.

    Points are those of the mesh, those of its outline moved outwards, so that the hair
    follows, and some along the border, which stays.
    """
    import openpeople

    sheet = read_image(
        Path(openpeople.__file__).parent
        / f"data/curated/{person}/assets/emotions_sheet.jpg"
    )
    white = (sheet.min(axis=2) > 225).astype(np.uint8)
    _, _, boxes, _ = cv2.connectedComponentsWithStats(white)
    boxes = [box[:4] for box in boxes if 400 < box[2] < 700 and 280 < box[3] < 450]
    boxes.sort(key=lambda box: (round(box[1] / 200), box[0]))
    side = np.min(boxes, axis=0)[2:] - 2 * _FRAME - 6
    mesh, detector = FaceMesh(), FaceDetector()
    pictures, points = {}, {}
    for name, (left, top, *_) in zip(_ROWS.split(), boxes, strict=True):
        left, top = left + _FRAME + 3, top + _FRAME + 3
        picture = sheet[top : top + side[1], left : left + side[0]]
        face = detector.detect(picture)[0]
        inner = mesh(picture, face.landmarks)
        # The wall is the same all over: the face comes to the middle.
        shift = np.array((side[0] / 2 - inner[OVAL, 0].mean(), 0))
        picture = cv2.warpAffine(
            picture, np.c_[np.eye(2), shift], side, borderMode=cv2.BORDER_REPLICATE
        )
        inner += shift
        centre = inner[OVAL].mean(axis=0)
        outer = centre + 1.45 * (inner[OVAL] - centre)
        along = np.linspace(0, 1, 9)[:, None] * (side - 1)
        flat, far = np.zeros(9), side - 1
        border = [
            *np.stack([along[:, 0], flat], 1),
            *np.stack([along[:, 0], flat + far[1]], 1),
            *np.stack([flat, along[:, 1]], 1)[1:-1],
            *np.stack([flat + far[0], along[:, 1]], 1)[1:-1],
        ]
        pictures[name] = picture
        points[name] = np.concatenate([inner, np.clip(outer, 2, far - 2), border])
    return pictures, points


def _between(
    pictures: dict[str, np.ndarray],
    points: dict[str, np.ndarray],
    before: str,
    after: str,
    share: float,
) -> np.ndarray:
    """The picture `share` of the way from one expression to the next, float."""
    target = (1 - share) * points[before] + share * points[after]
    height, width = pictures[before].shape[:2]
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    both = np.concatenate([points[before], points[after]], axis=1)
    where = LinearNDInterpolator(target, both)(grid).astype(np.float32)
    shown = [
        cv2.remap(pictures[name], where[..., place], None, cv2.INTER_CUBIC,
                  borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        for name, place in ((before, slice(0, 2)), (after, slice(2, 4)))
    ]  # fmt: skip
    fade = _smooth_step(2 * share - 0.5)  # in less time: what is not warped shows twice
    return (1 - fade) * shown[0] + fade * shown[1]


def _on_the_wall(
    picture: np.ndarray, scale: float, angle: float, shift: tuple[float, float]
) -> np.ndarray:
    """The picture on the frame's middle and filling its height, the wall made wider.

    At a scale of 1 it is as high as the frame.
    """
    height, width = picture.shape[:2]
    for side in np.s_[:9], np.s_[-9:]:
        picture[:, side] = picture[:, side].mean(axis=1, keepdims=True)
    scale *= _SIZE[1] / height
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    matrix[:, 2] += (np.array(_SIZE) - (width, height)) / 2 + shift
    return cv2.warpAffine(picture, matrix, _SIZE, borderMode=cv2.BORDER_REPLICATE)


def _wave(rng: np.random.Generator) -> Callable[[float], float]:
    """A smooth function of the seconds that wanders over [-1, 1]."""
    periods = rng.uniform((3.0, 1.7), (5.0, 2.6))
    phases = rng.uniform(0, 2 * np.pi, 2)
    return lambda seconds: float(
        (0.65, 0.35) @ np.sin(2 * np.pi * seconds / periods + phases)
    )


def _smooth_step(values: np.ndarray | float) -> np.ndarray:
    values = np.clip(values, 0, 1)
    return values * values * (3 - 2 * values)


def _write_tones(path: Path) -> None:
    """A quiet chord in A major that swells every two seconds."""
    from scipy.io import wavfile

    seconds = np.arange(_SECONDS * 44100) / 44100
    chord = sum(np.sin(2 * np.pi * tone * seconds) for tone in (220, 277.18, 329.63))
    sound = 0.05 * (0.5 - 0.5 * np.cos(np.pi * seconds)) * chord
    wavfile.write(path, 44100, (sound * 32767).astype(np.int16))


if __name__ == "__main__":
    make_clips(OUT)
