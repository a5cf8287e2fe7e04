"""Make the sample footage that ships, `fsgan/assets/sample/a.mp4` and `b.mp4`.

Two public-domain portraits travel inside packages: Grace Hopper (US Navy, with
matplotlib) and Eileen Collins (NASA, with scikit-image). Each is brought to life: the
camera drifts and zooms, the head leans on its neck while the shoulders stay, jaw, mouth
corners, brows and eyes move, the light changes.

One frame is one `cv2.remap`: for each output pixel the chain camera, neck, gestures
says where in the portrait it comes from. Lengths are in face widths, measured from
the middle between eyes and mouth, so that one table of gestures serves both faces.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from matplotlib.cbook import get_sample_data
from moviepy import AudioClip, VideoClip
from PIL import Image
from skimage import data

OUT = Path(__file__).parents[1] / "fsgan" / "assets" / "sample"
_FACE_WIDTH = 0.35  # Of the height of the frame.
_FACE_CENTRE = (0.5, 0.6)  # Of the width and the height of the frame.
_NECK = np.array((0.0, 0.8))
_HEAD_CENTRE = np.array((0.02, -0.32))
_HEAD_RADII = np.array((0.8, 1.0))
_HEAD_FALLOFF = 1.9  # Radii at which the portrait no longer follows the head.
_FIELD_STEP = 8  # Pixels: the warp is smooth, so a coarse field is enough.
_TONES = (220.0, 277.18, 329.63)  # Hz, an A major chord.
_AUDIO_RATE = 44100

# Where a gesture acts (x, y), how far it reaches (x, y), which way it pulls (x, y).
_GESTURES = {
    "jaw": (((0.0, 0.46), (0.30, 0.17), (0.0, 0.10)),),
    "smile": (
        ((-0.23, 0.24), (0.14, 0.11), (-0.055, -0.035)),
        ((0.23, 0.24), (0.14, 0.11), (0.055, -0.035)),
    ),
    "brows": (
        ((-0.25, -0.38), (0.18, 0.09), (0.0, -0.045)),
        ((0.25, -0.38), (0.18, 0.09), (0.0, -0.045)),
    ),
    "squint": (
        ((-0.25, -0.30), (0.16, 0.055), (0.0, 0.03)),
        ((0.25, -0.30), (0.16, 0.055), (0.0, 0.03)),
        ((-0.25, -0.19), (0.16, 0.055), (0.0, -0.03)),
        ((0.25, -0.19), (0.16, 0.055), (0.0, -0.03)),
    ),
    "turn": (((0.0, 0.0), (0.30, 0.45), (0.06, 0.0)),),
}


@dataclass(frozen=True)
class _Portrait:
    """A photograph and where the face is in it, in its own pixels."""

    image: np.ndarray
    face_centre: tuple[float, float]
    face_width: float


def _hopper() -> _Portrait:
    with get_sample_data("grace_hopper.jpg") as file:
        image = np.asarray(Image.open(file).convert("RGB"))
    return _Portrait(image, (264.0, 232.0), 173.0)


def _collins() -> _Portrait:
    return _Portrait(data.astronaut(), (224.0, 120.0), 83.0)


def make_clips(
    folder: Path,
    seconds: float = 8.0,
    fps: int = 25,
    size: tuple[int, int] = (640, 360),
    seed: int = 0,
) -> list[Path]:
    """Makes two clips of one moving face each, `a.mp4` with sound and `b.mp4`.

    Args:
        folder: Where the clips go; made if it does not exist.
        seconds: Length of each clip.
        fps: Frames a second.
        size: Width and height of the frames in pixels, both even. The face is about a
            third of the height wide.
        seed: Of the movements; the same seed gives the same frames.

    Returns:
        The paths of the two clips.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "a.mp4", folder / "b.mp4"]
    for index, portrait in enumerate((_hopper(), _collins())):
        frame_at = _animation(portrait, size, np.random.default_rng((seed, index)))
        frames = round(seconds * fps)
        _write(paths[index], frame_at, frames, fps, with_sound=index == 0)
    return paths


def _write(
    path: Path,
    frame_at: Callable[[float], np.ndarray],
    frames: int,
    fps: int,
    with_sound: bool,
) -> None:
    # moviepy writes int(duration * fps) frames: half a frame more survives rounding.
    clip = VideoClip(frame_function=frame_at, duration=(frames + 0.5) / fps)
    if with_sound:
        clip = clip.with_audio(
            AudioClip(_sound_at, duration=frames / fps, fps=_AUDIO_RATE)
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        unfinished = Path(scratch, path.name)
        clip.write_videofile(
            unfinished,
            fps=fps,
            codec="libx264",
            preset="veryfast",
            audio_codec="aac",
            audio_fps=_AUDIO_RATE,
            temp_audiofile_path=scratch,
            threads=2,
            logger=None,
            ffmpeg_params=[
                *("-crf", "18"),
                *("-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p"),
                *("-colorspace", "bt709", "-color_primaries", "bt709"),
                *("-color_trc", "bt709", "-color_range", "tv"),
            ],
        )
        unfinished.replace(path)


def _sound_at(seconds: float | np.ndarray) -> np.ndarray:
    """A quiet chord that swells every two seconds, stereo."""
    seconds = np.asarray(seconds)
    swell = 0.5 - 0.5 * np.cos(np.pi * seconds)
    chord = sum(np.sin(2 * np.pi * tone * seconds) for tone in _TONES)
    return np.stack([0.05 * swell * chord] * 2, axis=-1)


def _wave(rng: np.random.Generator) -> Callable[[float], float]:
    """A smooth function of the seconds that wanders over [-1, 1]."""
    periods = rng.uniform((3.0, 1.7), (5.0, 2.6))
    phases = rng.uniform(0, 2 * np.pi, 2)

    def value(seconds: float) -> float:
        return float((0.65, 0.35) @ np.sin(2 * np.pi * seconds / periods + phases))

    return value


def _smooth_step(values: np.ndarray) -> np.ndarray:
    values = np.clip(values, 0, 1)
    return values * values * (3 - 2 * values)


def _stage(
    portrait: _Portrait, size: tuple[int, int]
) -> tuple[np.ndarray, tuple[float, float], float]:
    """The portrait in the frame's scale, its surroundings fading into a soft backdrop.

    Returns:
        The picture, and the centre and the width of the face in its pixels.
    """
    width = _FACE_WIDTH * size[1]
    scale = width / portrait.face_width
    resample = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(portrait.image, None, fx=scale, fy=scale, interpolation=resample)
    margin = max(size)
    inside = np.pad(np.ones(image.shape[:2], np.uint8), margin)
    image = cv2.copyMakeBorder(image, *[margin] * 4, cv2.BORDER_REPLICATE)
    backdrop = cv2.GaussianBlur(image, (0, 0), 0.25 * width)
    fade = cv2.distanceTransform(inside, cv2.DIST_L2, 5) / (0.15 * width)
    alpha = _smooth_step(fade)[..., None]
    image = np.round(alpha * image + (1 - alpha) * backdrop).astype(np.uint8)
    centre = tuple(scale * side + margin for side in portrait.face_centre)
    return image, centre, width


def _animation(
    portrait: _Portrait, size: tuple[int, int], rng: np.random.Generator
) -> Callable[[float], np.ndarray]:
    """The function from seconds to a frame, uint8 (height, width, 3), RGB."""
    picture, centre, width = _stage(portrait, size)
    zoom, pan_x, pan_y, lean, sway_x, sway_y, gain, warmth = (
        _wave(rng) for _ in range(8)
    )
    gestures = [(_wave(rng), parts) for parts in _GESTURES.values()]
    # One cell more on every side: resizing the field is not smooth along its edge.
    columns, rows = (np.arange(-1, -(-side // _FIELD_STEP) + 1) for side in size)
    grid = np.stack(np.meshgrid(columns, rows), axis=-1)
    pixels = (grid + 0.5) * _FIELD_STEP - 0.5
    origin = np.array(_FACE_CENTRE) * size

    def frame_at(seconds: float) -> np.ndarray:
        # The camera: from pixels of the frame to face widths around the face.
        points = (pixels - origin) / (width * (1 + 0.13 * zoom(seconds)))
        points += np.array((0.25 * pan_x(seconds), 0.10 * pan_y(seconds)))
        # The neck: a turn about it, fading out around the head.
        angle = np.deg2rad(12) * lean(seconds)
        turn = np.array(
            ((np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle)))
        )
        shift = (0.06 * sway_x(seconds), 0.04 * sway_y(seconds))
        leant = (points - _NECK - shift) @ turn + _NECK
        distance = np.linalg.norm((leant - _HEAD_CENTRE) / _HEAD_RADII, axis=-1)
        follow = _smooth_step((_HEAD_FALLOFF - distance) / (_HEAD_FALLOFF - 1))
        points = points + follow[..., None] * (leant - points)
        # The gestures: each pulls its surroundings, so look up against the pull.
        pull = np.zeros_like(points)
        for wave, parts in gestures:
            for place, reach, way in parts:
                near = np.exp(-((((points - place) / reach) ** 2).sum(axis=-1)))
                pull += (wave(seconds) * near)[..., None] * way
        field = ((points - pull) * width + centre).astype(np.float32)
        field = cv2.resize(field, None, fx=_FIELD_STEP, fy=_FIELD_STEP)
        field = field[_FIELD_STEP:][: size[1], _FIELD_STEP:][:, : size[0]]
        frame = cv2.remap(
            picture, field, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        colour = (
            1 + 0.10 * gain(seconds) + 0.06 * warmth(seconds) * np.array((1, 0, -1))
        )
        return cv2.LUT(frame, _light(colour))

    return frame_at


def _light(factors: np.ndarray) -> np.ndarray:
    """The table that multiplies each channel, uint8 (1, 256, 3)."""
    table = np.arange(256)[None, :, None] * factors
    return np.clip(np.round(table), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    make_clips(OUT)
