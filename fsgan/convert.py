"""Stage: from footage and a trained model to swapped footage."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fsgan.checkpoint import latest_checkpoint, load_generator, read_settings
from fsgan.compositing import (
    COLOR_METHODS,
    LAYOUTS,
    Layer,
    blend,
    feather,
    lay_out,
    match_colors,
    place,
)
from fsgan.detection import FaceDetector
from fsgan.geometry import align, crop_matrix
from fsgan.images import read_image, write_image
from fsgan.provenance import image_xmp, video_metadata
from fsgan.tracking import FaceTracker
from fsgan.video import probe, read_frames
from fsgan.video_writer import VideoWriter

log = logging.getLogger(__name__)

DIRECTIONS = {"AtoB": "b", "BtoA": "a"}
_CHUNK = 8  # frames whose faces go through the generator together


@dataclass(frozen=True)
class ConvertSettings:
    """How faces are found, generated and put back."""

    direction: str = "AtoB"  # "AtoB": B's face on footage of A; "BtoA"
    color: str = "hist_match"  # none, adain, adain_xyz, hist_match
    layout: int = 1  # 1 result; 2 source, result; 3 source, result, mask
    smoothing: float | None = 0.03  # Kalman process noise, less is smoother; None: off
    min_face: float = 35  # pixels, smaller faces are left alone
    min_confidence: float = 0.8  # of the detector, [0.7, 1]
    min_alpha: float = 0.0  # [0, 1], shows more of the face than the mask asks for
    feather: float = 0.15  # width of the faded border, share of the generated square
    crf: int = 18  # H.264 quality of a video, 0 lossless to 51

    def __post_init__(self) -> None:
        """Checks names and ranges."""
        for name, accepted in (
            ("direction", tuple(DIRECTIONS)),
            ("color", COLOR_METHODS),
            ("layout", tuple(LAYOUTS)),
        ):
            value = getattr(self, name)
            if value not in accepted:
                raise ValueError(f"{name} must be one of {accepted}, got {value!r}")
        if not 0 <= self.min_alpha <= 1:
            raise ValueError(f"min_alpha must be in [0, 1], got {self.min_alpha}")
        if not 0 < self.feather <= 0.5:
            raise ValueError(f"feather must be in (0, 0.5], got {self.feather}")
        if self.crf not in range(52):
            raise ValueError(f"crf must be in 0..51, got {self.crf!r}")
        if self.smoothing is not None and not self.smoothing > 0:
            raise ValueError(
                f"smoothing must be above 0, or None, got {self.smoothing}"
            )
        FaceDetector(self.min_face, self.min_confidence)


@dataclass(frozen=True)
class ConvertedVideo:
    """What `convert_video` did.

    Attributes:
        path: the swapped video.
        frames: frames written.
        frames_with_face: those of them in which a face was swapped.
        frames_per_second: speed of the conversion.
    """

    path: Path
    frames: int
    frames_with_face: int
    frames_per_second: float


class FaceSwapper:
    """Swaps the faces in successive frames of one video or camera."""

    def __init__(
        self, model_dir: str | Path, settings: ConvertSettings | None = None
    ) -> None:
        """Loads the newest checkpoint of a model.

        Args:
            model_dir: folder given to `fsgan.train`.
            settings: how to convert; None takes the defaults.

        Raises:
            FileNotFoundError: the folder holds no checkpoint.
            ValueError: the checkpoint is damaged.
        """
        self.settings = settings or ConvertSettings()
        checkpoint = latest_checkpoint(model_dir)
        if checkpoint is None:
            raise FileNotFoundError(
                f"no trained model in {model_dir}: give the folder that train wrote to"
            )
        record = read_settings(checkpoint)
        self._generator = load_generator(
            checkpoint, DIRECTIONS[self.settings.direction]
        )
        self._resolution = record["model"]["resolution"]
        self._coverage = record["coverage"]
        self._feather = feather(self._resolution, self.settings.feather)
        self._detector = FaceDetector(
            self.settings.min_face, self.settings.min_confidence
        )
        self.reset()

    def reset(self) -> None:
        """Forgets the faces seen so far; the next frame is of another video."""
        self._tracker = FaceTracker(self.settings.smoothing)

    def swap(self, frames: list[np.ndarray]) -> list[tuple[np.ndarray, int]]:
        """Swaps the faces in the next frames.

        Args:
            frames: RGB uint8 (height, width, 3), in their order in time; a handful at
                once is faster than one by one.

        Returns:
            For each frame the picture in the layout of the settings, RGB uint8, and the
            number of faces swapped in it. A frame without a face is left as it is.
        """
        matrices = [self._place_faces(frame) for frame in frames]
        crops = [
            align(frame, matrix, self._resolution)
            for frame, of_frame in zip(frames, matrices, strict=True)
            for matrix in of_frame
        ]
        generated = iter(self._generate(crops))
        results = []
        for frame, of_frame in zip(frames, matrices, strict=True):
            layers = [
                place(*face, matrix, frame)
                for matrix, face in zip(of_frame, generated, strict=False)
            ]
            picture = self._picture(frame, layers)
            results.append((picture, len(layers)))
        return results

    def _place_faces(self, frame: np.ndarray) -> list[np.ndarray]:
        """Where the faces are: matrices from frame to network pixels, largest last."""
        tracks = self._tracker.update(self._detector.detect(frame))
        faces = sorted((track.face for track in tracks), key=lambda face: face.size)
        return [
            crop_matrix(face.landmarks, self._resolution, self._coverage)
            for face in faces
        ]

    def _generate(self, crops: list[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Generated RGB float32 [0, 255] and feathered alpha of each crop."""
        if not crops:
            return []
        x = np.stack(crops)
        network_input = x.astype(np.float32) / 127.5 - 1
        alphas, pictures = self._generator.predict_on_batch(network_input)
        alphas = np.maximum(alphas, self.settings.min_alpha) * self._feather
        return [
            (match_colors((rgb + 1) * 127.5, crop, alpha, self.settings.color), alpha)
            for rgb, crop, alpha in zip(pictures, x, alphas, strict=True)
        ]

    def _picture(self, frame: np.ndarray, layers: list[Layer]) -> np.ndarray:
        """The frame with its new faces, in the layout of the settings."""
        return lay_out(frame, blend(frame, layers), layers, self.settings.layout)


def convert_image(
    source: str | Path,
    out: str | Path,
    model_dir: str | Path,
    settings: ConvertSettings | None = None,
) -> int:
    """Swaps the faces in a photo.

    Args:
        source: the photo; its EXIF rotation is honoured.
        out: the picture to write, .png, .jpg or .webp; marked as synthetic.
        model_dir: folder given to `fsgan.train`.
        settings: how to convert; None takes the defaults.

    Returns:
        The number of faces swapped; 0 leaves the photo as it is.

    Raises:
        FileNotFoundError: `source` or the model is missing.
        ValueError: `source` is not a photo, or a setting is wrong.
        OSError: `out` cannot be written.
    """
    _refuse_overwriting(source, out)
    image = read_image(source)
    [(picture, faces)] = FaceSwapper(model_dir, settings).swap([image])
    if not faces:
        log.warning("no face found in %s: it is left as it is", source)
    write_image(out, picture, xmp=image_xmp())
    return faces


def convert_video(
    source: str | Path,
    out: str | Path,
    model_dir: str | Path,
    settings: ConvertSettings | None = None,
    *,
    start: float = 0.0,
    end: float | None = None,
) -> ConvertedVideo:
    """Swaps the faces in a video and carries its sound over.

    Memory does not grow with the length of the video. The output takes its name when it
    is complete.

    Args:
        source: the video.
        out: the video to write, .mp4; marked as synthetic.
        model_dir: folder given to `fsgan.train`.
        settings: how to convert; None takes the defaults.
        start: first second to convert.
        end: second to stop at; None goes on to the end.

    Returns:
        Counts and speed.

    Raises:
        FileNotFoundError: `source` or the model is missing.
        ValueError: `source` is not a video, no frame lies between `start` and `end`, or
            a setting is wrong.
        OSError: `out` cannot be written.
    """
    _refuse_overwriting(source, out)
    if not 0 <= start < (np.inf if end is None else end):
        raise ValueError(f"start must be in [0, end), got start={start}, end={end}")
    info = probe(source)
    swapper = FaceSwapper(model_dir, settings)
    frames = read_frames(source, start, end)
    written = with_face = 0
    began = time.perf_counter()
    share = (min(end or np.inf, info.duration) - start) / info.duration
    with (
        VideoWriter(
            out,
            info.width * swapper.settings.layout,
            info.height,
            info.fps,
            audio_from=source,
            start=start,
            end=end,
            crf=swapper.settings.crf,
            metadata=video_metadata(),
        ) as writer,
        tqdm(total=max(1, round(info.frame_count * share)), unit="frame") as progress,
    ):
        for chunk in _chunks(frames, _CHUNK):
            results = swapper.swap([frame.image for frame in chunk])
            for frame, (picture, faces) in zip(chunk, results, strict=True):
                writer.write(picture, frame.time)
                written, with_face = written + 1, with_face + bool(faces)
                progress.update()
        if not written:
            raise ValueError(
                f"{source} has no frame between {start} and {end} s: it is "
                f"{info.duration:.2f} s long"
            )
    if not with_face:
        log.warning("no face found in %s: it is left as it is", source)
    speed = written / (time.perf_counter() - began)
    return ConvertedVideo(Path(out), written, with_face, speed)


def _chunks(items: Iterator, size: int) -> Iterator[list]:
    """Yields lists of up to `size` successive items."""
    while chunk := list(islice(items, size)):
        yield chunk


def _refuse_overwriting(source: str | Path, out: str | Path) -> None:
    """Raises where the output would replace the source."""
    if Path(source).resolve() == Path(out).resolve():
        raise ValueError(f"{out} is the source itself: give the output another name")
