"""Stage: from footage and a trained model to swapped footage."""

import logging
import time
from collections.abc import Collection, Iterator, Sequence
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
from fsgan.following import FaceFollower, FollowedFaces, follow_faces
from fsgan.geometry import Face, align, crop_matrix
from fsgan.identity import Identity
from fsgan.images import read_image, write_image
from fsgan.provenance import image_xmp, video_metadata
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
    search_every: int = 5  # frames; those between are looked at where faces were
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
        if self.search_every < 1:
            raise ValueError(
                f"search_every must be at least 1, got {self.search_every}"
            )
        FaceDetector(self.min_face, self.min_confidence)


@dataclass(frozen=True)
class ConvertedVideo:
    """What `convert_video` did.

    Attributes:
        path: the swapped video.
        frames: frames written.
        frames_with_face: those of them in which a face was swapped.
        frames_per_second: speed of the conversion, both passes together.
        swapped: numbers of the tracks whose faces were swapped.
        faces: all that were followed, with their contact sheet.
    """

    path: Path
    frames: int
    frames_with_face: int
    frames_per_second: float
    swapped: tuple[int, ...]
    faces: FollowedFaces


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
        self._follower = FaceFollower(
            self._detector, self.settings.smoothing, self.settings.search_every
        )

    def swap(
        self,
        frames: Sequence[np.ndarray],
        faces: Sequence[list[Face]] | None = None,
    ) -> list[tuple[np.ndarray, int]]:
        """Swaps the faces in the next frames.

        Args:
            frames: RGB uint8 (height, width, 3), in their order in time; a handful at
                once is faster than one by one.
            faces: those to swap in each frame, where they are known; None finds and
                follows them, looking back only.

        Returns:
            For each frame the picture in the layout of the settings, RGB uint8, and the
            number of faces swapped in it. A frame without a face is left as it is.
        """
        if faces is None:
            follow = self._follower.follow
            faces = [[track.face for track in follow(frame)] for frame in frames]
        matrices = [self._place(of_frame) for of_frame in faces]
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

    def _place(self, faces: list[Face]) -> list[np.ndarray]:
        """Matrices from frame to network pixels, of the largest face last."""
        return [
            crop_matrix(face.landmarks, self._resolution, self._coverage)
            for face in sorted(faces, key=lambda face: face.size)
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
    only: str | Path | int | Collection[int] | None = None,
    faces: str | Path | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> ConvertedVideo:
    """Swaps the faces in a video and carries its sound over.

    Two passes: the first finds and follows the faces (`fsgan.follow_faces`), so that
    they are smoothed looking both ways; the second swaps them. What the first finds
    stays beside the output: `<out>.faces.json`, with which a second conversion need not
    search again, and `<out>.tracks.png`, which shows each track with its number. Frames
    pass by a few at a time. The output takes its name when it is complete.

    Args:
        source: the video.
        out: the video to write, .mp4; marked as synthetic.
        model_dir: folder given to `fsgan.train`.
        settings: how to convert; None takes the defaults.
        only: whose face to swap: a photo or a folder of face crops of the person, or
            the number of a track, or several. None swaps all.
        faces: name given to `fsgan.follow_faces`; None takes that of `out`.
        start: first second to convert.
        end: second to stop at; None goes on to the end.

    Returns:
        Counts, speed and the faces followed.

    Raises:
        FileNotFoundError: `source`, the model or the reference is missing.
        ValueError: `source` is not a video, no frame lies between `start` and `end`,
            the reference shows no face or several, there is no track of that number, or
            a setting is wrong.
        OSError: `out` cannot be written.
    """
    _refuse_overwriting(source, out)
    if not 0 <= start < (np.inf if end is None else end):
        raise ValueError(f"start must be in [0, end), got start={start}, end={end}")
    info = probe(source)
    swapper = FaceSwapper(model_dir, settings)
    settings = swapper.settings
    person = Identity.of(only) if isinstance(only, str | Path) else None
    unopened = VideoWriter(  # before the first pass, lest it be for nothing
        out,
        info.width * settings.layout,
        info.height,
        info.fps,
        audio_from=source,
        start=start,
        end=end,
        crf=settings.crf,
        metadata=video_metadata(),
    )
    began = time.perf_counter()
    followed = follow_faces(
        source,
        faces or out,
        min_face=settings.min_face,
        min_confidence=settings.min_confidence,
        smoothing=settings.smoothing,
        search_every=settings.search_every,
        start=start,
        end=end,
    )
    chosen = _choose(followed, only if person is None else person)
    frames = read_frames(source, start, end)
    written = with_face = 0
    share = (min(end or np.inf, info.duration) - start) / info.duration
    count = max(1, round(info.frame_count * share))
    with unopened as writer, tqdm(desc="swap", total=count, unit="frame") as progress:
        for chunk in _chunks(frames, _CHUNK):
            results = swapper.swap(
                [frame.image for frame in chunk],
                [followed.faces(frame.index, chosen) for frame in chunk],
            )
            for frame, (picture, swapped) in zip(chunk, results, strict=True):
                writer.write(picture, frame.time)
                written, with_face = written + 1, with_face + bool(swapped)
                progress.update()
    if not with_face:
        log.warning("no face to swap in %s: it is left as it is", source)
    speed = written / (time.perf_counter() - began)
    return ConvertedVideo(
        Path(out), written, with_face, speed, tuple(sorted(chosen)), followed
    )


def _choose(
    followed: FollowedFaces, only: Identity | int | Collection[int] | None
) -> set[int]:
    """Numbers of the tracks to swap."""
    tracks = followed.tracks
    numbers = {track.number for track in tracks}
    if only is None:
        return numbers
    if isinstance(only, Identity):
        spans = [(track.first, track.last) for track in tracks]
        same = only.choose(followed.crops(tracks), spans)
        return {
            track.number for track, is_same in zip(tracks, same, strict=True) if is_same
        }
    wanted = set(only) if isinstance(only, Collection) else {only}
    if unknown := wanted - numbers:
        raise ValueError(
            f"only must name tracks of {followed.source}: there is no {min(unknown)} "
            f"among {sorted(numbers)}; look at the picture of the tracks"
        )
    return wanted


def _chunks(items: Iterator, size: int) -> Iterator[list]:
    """Yields lists of up to `size` successive items."""
    while chunk := list(islice(items, size)):
        yield chunk


def _refuse_overwriting(source: str | Path, out: str | Path) -> None:
    """Raises where the output would replace the source."""
    if Path(source).resolve() == Path(out).resolve():
        raise ValueError(f"{out} is the source itself: give the output another name")
