"""A video and its swap, read in step and measured frame by frame."""

import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

import av
import cv2
import numpy as np
from tqdm.auto import tqdm
from typing_extensions import TypedDict

from fsgan.evaluation.metrics import (
    MAX_PSNR,
    Figure,
    Flicker,
    Jitter,
    expression_distance,
    follows,
    mask_iou,
    seam,
    sharpness,
    summarize,
)
from fsgan.evaluation.results import FrameScores
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import (
    CROP_EXTENT,
    CROP_SIZE,
    Face,
    align,
    crop_matrix,
    mean_landmarks,
    transform_points,
)
from fsgan.faces.mesh import OVAL, FaceMesh, eye_opening, mouth_opening
from fsgan.faces.pose import estimate_mesh_pose, pose_difference
from fsgan.faces.tracks import FaceTracks, follow_faces
from fsgan.media.decoding import clock_start, decode, open_media, packets
from fsgan.media.files import write_beside
from fsgan.media.images import evenly
from fsgan.media.prefetch import prefetch
from fsgan.media.provenance import sidecar_path
from fsgan.media.reader import (
    Frame,
    VideoInfo,
    converted_from,
    probe,
    read_frames,
)
from fsgan.models.checkpoint import read_settings
from fsgan.models.networks import ModelConfig
from fsgan.swap.compositing import Layer, feather, place
from fsgan.swap.swapper import ConvertSettings, FaceSwapper
from fsgan.validation import read_json

_MASK_SIZE = 64  # pixels, of an estimated mask
_COVERAGE = 0.8  # of a model that is not known, the default of `ModelConfig`
_UNKNOWN = ModelConfig(128, coverage=1.0)  # what sharpness is measured at, without one
_MOUTH = 200.0  # degrees of pose that a mouth open as far as it is wide counts for
_AROUND = 0.4  # of a face's size, shown on every side of it

SOUND_RATE = 16_000
"""Samples a second, at which sounds are compared."""


@dataclass(frozen=True)
class SwappedVideo:
    """A video, its swap, and the faces that were swapped."""

    source: Path
    swapped: Path
    tracks: FaceTracks  # the faces of the source
    only: Collection[int] | None = None  # tracks that were swapped; None: all
    start: float = 0.0  # seconds of the source between which it was converted
    end: float | None = None

    def faces(self, index: int) -> list[Face]:
        """The swapped faces of a frame of the source."""
        return self.tracks.faces(index, self.only)

    @cached_property
    def zero(self) -> Fraction:
        """Second of the source that is time 0 of the swap."""
        return converted_from(self.source, self.start, self.end)

    def frames(self) -> Iterator[tuple[Frame | None, Frame | None]]:
        """The frames of both videos, as of `in_step`."""
        return in_step(
            prefetch(read_frames(self.source, self.start, self.end), ahead=4),
            prefetch(read_frames(self.swapped), ahead=4),
            self.zero,
            1 / (2 * probe(self.source).fps),
        )


def probe_both(source: Path, swapped: Path) -> tuple[VideoInfo, VideoInfo]:
    """Describes both videos; raises where they cannot be laid over each other."""
    infos = probe(source), probe(swapped)
    sizes = [(info.width, info.height) for info in infos]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "{} is {}x{} pixels, {} {}x{}: give the very footage that was swapped, "
            "converted with layout=1".format(swapped, *sizes[1], source, *sizes[0])
        )
    return infos


class _Sidecar(TypedDict):
    settings: dict[str, Any]
    source: NotRequired[str | None]


def read_conversion(
    source: Path, swapped: Path, direction: str | None = None
) -> tuple[ConvertSettings, list[str]]:
    """The settings of the conversion, from the file beside its result, and notes."""
    path = sidecar_path(swapped)
    defaults = ConvertSettings(direction=direction or "AtoB")
    use = "says how the video was converted: the default settings are used."
    if not path.is_file():
        return defaults, [f"There is no {path.name} that {use}"]
    try:
        record = read_json(path, _Sidecar, "convert again")
        recorded, made_of = record["settings"], record.get("source")
        names = {field.name for field in fields(ConvertSettings)}
        unknown = sorted(recorded.keys() - names)
        settings = ConvertSettings(**{k: recorded[k] for k in recorded.keys() & names})
    except (OSError, ValueError) as error:
        why = f"damaged or of another version ({error})"
        return defaults, [f"{path.name} is {why}; it {use}"]
    if direction not in (None, settings.direction):
        raise ValueError(
            f"{swapped} was swapped {settings.direction}: say "
            f"direction={settings.direction!r}"
        )
    notes = []
    if made_of not in (None, source.name):
        notes.append(
            f"{path.name} says that the video was made of {made_of}, not of "
            f"{source.name}: all is wrong unless that is another name for it."
        )
    if unknown:
        names = ", ".join(unknown)
        notes.append(
            f"{path.name} is of another version: its settings {names} are unknown here."
        )
    return settings, notes


def find_tracks(
    source: Path,
    swapped: Path,
    out_dir: Path,
    settings: ConvertSettings,
    wanted: Collection[int] | None,
    start: float,
    end: float | None,
) -> FaceTracks:
    """The faces of the source; what the conversion found is not searched for again."""
    known = swapped.with_suffix(".tracks.json")
    copy = out_dir / known.name
    if known.is_file() and known.resolve() != copy.resolve():
        with write_beside(copy) as file:
            shutil.copyfile(known, file)
    tracks = follow_faces(
        source,
        out_dir / swapped.name,
        min_face=settings.min_face,
        min_confidence=settings.min_confidence,
        smoothing=settings.smoothing,
        search_every=settings.search_every,
        start=start,
        end=end,
    )
    numbers = [track.number for track in tracks.tracks]
    if not numbers:
        raise ValueError(f"no face is found in {source}: nothing was swapped")
    if unknown := set(wanted or ()) - set(numbers):
        raise ValueError(
            f"tracks must be of {source}: there is no {min(unknown)} among {numbers}; "
            "look at the picture of the tracks"
        )
    return tracks


class RealFaces:
    """Real faces of the target, as a model without fault would generate them.

    Attributes:
        sharpness: median `metrics.sharpness`.
    """

    def __init__(self, crops: Sequence[np.ndarray], model: ModelConfig) -> None:
        """Reduces crops to what a model sees.

        Args:
            crops: of extent `CROP_EXTENT`, RGB uint8 (size, size, 3), at least one.
            model: says resolution, coverage and whether masks are painted.
        """
        fit = FaceMesh()
        size, looks, sharp = model.resolution, [], []
        self._faces: list[tuple[np.ndarray, np.ndarray]] = []
        for crop in crops:
            five = mean_landmarks(len(crop), CROP_EXTENT)
            mesh, depth = fit.with_depth(crop, five)
            matrix = crop_matrix(five, size, model.coverage)
            picture, oval = align(crop, matrix, size), face_oval(mesh, matrix, size)
            looks.append(_look(mesh, depth))
            sharp.append(sharpness(picture, oval))
            self._faces.append((picture, oval if model.mask else np.ones_like(oval)))
        self._looks, self.sharpness = np.stack(looks), float(np.median(sharp))

    def nearest(
        self, mesh: np.ndarray, depth: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Chooses the face most like another one in pose and opening of the mouth.

        Args:
            mesh: of the other one, float (500, 2), as of `FaceMesh`.
            depth: float (468,), likewise.

        Returns:
            RGB uint8 (resolution, resolution, 3), and its alpha, float32 [0, 1]
            (resolution, resolution, 1).
        """
        apart = np.linalg.norm(self._looks - _look(mesh, depth), axis=1)
        return self._faces[int(apart.argmin())]


class _Pair(NamedTuple):
    """A face that is found in source and swap; arrays hold both, the source first."""

    face: Face  # as it was swapped
    layer: Layer
    landmarks: np.ndarray  # float (2, 5, 2), not smoothed
    meshes: np.ndarray  # float32 (2, 500, 2)
    depths: np.ndarray  # float32 (2, 468)


class Comparison:
    """What is measured of a video and its swap, frame after frame.

    Attributes:
        frames: scores of each frame with a face, without those of identity.
        crops: of the chosen frames (index, source, swapped): aligned crops, RGB uint8
            (256, 256, 3), each cut out by its own landmarks.
        ceiling: of the same frames, crops with real faces of the target put there.
        counts: frames of the source and of the swap.
    """

    def __init__(
        self,
        swapper: FaceSwapper | None,
        chosen: Collection[int],
        target: Sequence[np.ndarray] = (),
    ) -> None:
        """Starts before the first frame.

        Args:
            swapper: makes the masks again; None estimates them: whole squares.
            chosen: indices of the frames to cut the faces out of.
            target: crops of the target, as of `RealFaces`.
        """
        self._swapper, self._chosen = swapper, set(chosen)
        self._model = _UNKNOWN
        if swapper:
            self._model = read_settings(swapper.checkpoint)["model"]
        self._target = RealFaces(target, self._model) if len(target) else None
        self._mesh = FaceMesh()
        # As sensitive as can be: what is looked for is known to be there.
        self._detector = FaceDetector(20, 0.7)
        self._jitter, self._flicker = Jitter(), Flicker()
        self._expression: list[float] = []
        self._pose: list[np.ndarray] = []
        self._openings: list[np.ndarray] = []  # mouth, eyes, each in both; the track
        self._sharpness: list[float] = []
        self._mask_iou: list[float] = []
        self._seen = 0  # faces of the source
        self._squares = self._values = 0.0  # of differences outside the masks
        self.frames: list[FrameScores] = []
        self.crops: list[tuple[int, np.ndarray, np.ndarray]] = []
        self.ceiling: list[np.ndarray] = []
        self.counts = np.zeros(2, int)

    def add(self, before: Frame, after: np.ndarray, faces: list[Face]) -> None:
        """Takes the next frame.

        Args:
            before: of the source.
            after: RGB uint8 (height, width, 3), the same frame of the swapped video.
            faces: those that were swapped; they are looked for anew in both frames.
        """
        source, faces = before.image, [] if before.damaged else faces
        faces = sorted(faces, key=lambda face: face.size)  # as the layers are
        layers = self._layers(source, faces)
        alpha = _joined(layers, source)
        runs = [face.run for face in faces]
        self._flicker.add(before.index, runs, source, after, alpha)
        outside = cv2.absdiff(source, after)[alpha[..., 0] == 0]
        if outside.size:
            self._squares += cv2.norm(outside, cv2.NORM_L2SQR)
            self._values += outside.size
        boxes = [face.box for face in faces]
        in_source = self._detector.detect_near(source, boxes)
        in_swap = self._detector.detect_near(after, boxes)
        seen = sum(map(bool, in_source))
        if not seen:
            return
        self._seen += seen
        pairs = []
        for face, layer, *both in zip(faces, layers, in_source, in_swap, strict=True):
            if all(both):
                points = np.stack([found.landmarks for found in both])
                fits = map(self._mesh.with_depth, (source, after), points)
                meshes, depths = map(np.stack, zip(*fits, strict=True))
                pairs.append(_Pair(face, layer, points, meshes, depths))
        for pair in pairs:
            self._jitter.add(pair.face.run, before.index, pair.landmarks)
            person = -1 if pair.face.track is None else pair.face.track
            openings = mouth_opening(pair.meshes), eye_opening(pair.meshes)
            self._openings.append(np.float32([*np.ravel(openings), person]))
        if before.index in self._chosen:
            self._examine(before.index, source, after, pairs)
        expression = [
            float(expression_distance(*pair.landmarks[:, None])[0]) for pair in pairs
        ]
        pose = [
            pose_difference(*map(estimate_mesh_pose, pair.meshes, pair.depths))
            for pair in pairs
        ]
        self._expression += expression
        self._pose += pose
        self.frames.append(
            FrameScores(
                before.index,
                float(before.time),
                found=len(pairs) == seen,
                expression=float(np.mean(expression)) if pairs else None,
                pose=float(np.abs(pose).max()) if pairs else None,
                seam=seam(source, after, alpha),
                outside=int(outside.max()) if outside.size else None,
            )
        )

    def figures(self) -> dict[str, Figure]:
        """What was measured of all frames, by the names of `Evaluation.figures`."""
        background = MAX_PSNR if self._values else None
        if self._squares:
            error = self._squares / self._values
            background = min(float(10 * np.log10(255**2 / error)), MAX_PSNR)
        angles = np.abs(np.reshape(self._pose, (-1, 3))).T
        *openings, people = np.reshape(self._openings, (-1, 5)).T
        sharp = None
        if self._target and self._target.sharpness and self._sharpness:
            sharp = float(np.median(self._sharpness)) / self._target.sharpness
        seams = [frame.seam for frame in self.frames if frame.seam is not None]
        return {
            "expression": summarize(self._expression),
            **dict(zip(("roll", "yaw", "pitch"), map(summarize, angles), strict=True)),
            "mouth_follows": follows(*openings[:2], people),
            "eyes_follow": follows(*openings[2:], people),
            "sharpness": sharp,
            "mask_iou": summarize(self._mask_iou),
            "jitter": self._jitter.value,
            "flicker": self._flicker.value,
            "missed": 1 - len(self._expression) / self._seen,
            "seam": summarize(seams),
            "background": background,
            "frames": int(self.counts[1]),
            "source_frames": int(self.counts[0]),
        }

    def _examine(
        self, index: int, source: np.ndarray, after: np.ndarray, pairs: list[_Pair]
    ) -> None:
        """Cuts the faces of a chosen frame out, and measures what is slow."""
        model, lent = self._model, source
        for face, layer, landmarks, meshes, depths in pairs:
            self.crops.append((index, *map(_crop, (source, after), landmarks)))
            matrix = crop_matrix(landmarks[1], model.resolution, model.coverage)
            shown = align(after, matrix, model.resolution)
            oval = face_oval(meshes[1], matrix, model.resolution)
            self._sharpness.append(sharpness(shown, oval))
            if not self._swapper:
                continue
            if model.mask:
                oval = face_oval(
                    meshes[0], self._swapper.matrix(face), model.resolution
                )
                [ideal] = self._swapper.paste(source, face, shown, oval).layers
                self._mask_iou.append(mask_iou(layer.alpha, ideal.alpha))
            if self._target:
                real = self._target.nearest(meshes[0], depths[0])
                lent = self._swapper.paste(lent, face, *real).picture
        if lent is not source:
            boxes = [pair.face.box for pair in pairs]
            found = self._detector.detect_near(lent, boxes)
            self.ceiling += [_crop(lent, face.landmarks) for face in found if face]

    def _layers(self, frame: np.ndarray, faces: list[Face]) -> list[Layer]:
        """The new faces of a frame, or squares in their places."""
        if self._swapper:
            [(_, layers)] = self._swapper.swap([frame], [faces])
            return layers
        rgb = np.zeros((_MASK_SIZE, _MASK_SIZE, 3), np.float32)
        matrices = [crop_matrix(x.landmarks, _MASK_SIZE, _COVERAGE) for x in faces]
        return [place(rgb, feather(_MASK_SIZE), x, frame) for x in matrices]


def measure_video(
    video: SwappedVideo,
    swapper: FaceSwapper | None,
    count: int,
    target: Sequence[np.ndarray] = (),
) -> Comparison:
    """Measures a video and its swap.

    Args:
        video: both of them.
        swapper: makes the masks again; None estimates them.
        count: frames to cut faces out of, at most; they are evenly chosen.
        target: crops of the target, as of `RealFaces`.

    Returns:
        What was measured, of at least one frame.

    Raises:
        ValueError: a video cannot be read, or no face is found in what they share.
    """
    last = max(track.last for track in video.tracks.tracks)
    with_face = [index for index in range(last + 1) if video.faces(index)]
    comparison = Comparison(swapper, evenly(with_face, count), target)
    total = probe(video.swapped).frame_count
    for before, after in tqdm(video.frames(), "evaluate", total, unit="frame"):
        comparison.counts += (before is not None, after is not None)
        if before and after:
            comparison.add(before, after.image, video.faces(before.index))
    if not comparison.frames:
        raise ValueError(
            f"{video.swapped} shows no moment of {video.source} in which a face is "
            "found: give the start, end and tracks of the conversion"
        )
    return comparison


def cut_out_faces(
    video: SwappedVideo, indices: Collection[int]
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Cuts the faces of some frames and what is around them out of both videos.

    Args:
        video: both of them.
        indices: of frames of the source that both videos have, with a face in each.

    Returns:
        For each of them, in the order of `indices`: the index and its part of the
        source and of the swapped frame, RGB uint8 (height, width, 3).
    """
    found: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}
    for before, after in video.frames() if indices else ():
        if before and after and before.index in indices:
            boxes = np.stack([face.box for face in video.faces(before.index)])
            corners = np.stack([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
            margin = _AROUND * np.ptp(corners, axis=0).max()
            corners += [[-margin], [margin]]
            (left, top), (right, bottom) = corners.clip(0).astype(int)
            around = slice(top, bottom), slice(left, right)
            pictures = (frame.image[around].copy() for frame in (before, after))
            found[before.index] = (before.index, *pictures)
        if len(found) == len(indices):
            break
    return [found[index] for index in indices]


def in_step(
    source: Iterator[Frame],
    swapped: Iterator[Frame],
    start: Fraction,
    tolerance: Fraction,
) -> Iterator[tuple[Frame | None, Frame | None]]:
    """Pairs the frames of two videos by their times.

    Args:
        source: its frames, from `start` on.
        swapped: frames whose times count from `start`.
        start: seconds.
        tolerance: seconds between two frames of a pair, at most.

    Yields:
        Frames of one time, and with None those that the other video lacks, in the order
        of their times.
    """
    waiting = next(swapped, None)
    for frame in source:
        while waiting and waiting.time + start < frame.time - tolerance:
            yield None, waiting
            waiting = next(swapped, None)
        if waiting and waiting.time + start <= frame.time + tolerance:
            yield frame, waiting
            waiting = next(swapped, None)
        else:
            yield frame, None
    while waiting:
        yield None, waiting
        waiting = next(swapped, None)


def read_sound(path: Path, start: Fraction | float, seconds: float) -> np.ndarray:
    """Reads the sound of a file, each sample at its time; zeros where there is none.

    Returns:
        Mono float32 (n,), `SOUND_RATE` samples a second.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it is no video or sound.
    """
    samples = np.zeros(round(seconds * SOUND_RATE), np.float32)
    with open_media(path) as container:
        if not container.streams.audio:
            return samples
        track = container.streams.best("audio")
        origin = clock_start(container) + Fraction(start)
        resampler = av.AudioResampler("flt", "mono", SOUND_RATE)
        frames = (x for x in decode(packets(track)) if x and x.pts is not None)
        heard = takewhile(lambda x: x.pts * x.time_base - origin <= seconds, frames)
        for frame in chain(heard, [None]):  # None flushes the resampler
            for piece in resampler.resample(frame):
                first = round((piece.pts * piece.time_base - origin) * SOUND_RATE)
                values = piece.to_ndarray().ravel()[max(0, -first) :]
                room = samples[max(0, first) :][: len(values)]
                room[:] = values[: len(room)]
    return samples


def _look(mesh: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Yaw, pitch and opening of the mouth, (3,), weighed as `RealFaces` does."""
    _, yaw, pitch = estimate_mesh_pose(mesh, depth)
    return np.array([yaw, pitch, _MOUTH * mouth_opening(mesh)])


def face_oval(mesh: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """The face's mask in a crop, float32 [0, 1] (size, size, 1), slightly blurred."""
    hull = cv2.convexHull(transform_points(mesh[OVAL], matrix).astype(np.float32))
    mask = np.zeros((size, size), np.float32)
    cv2.fillConvexPoly(mask, np.rint(16 * hull).astype(np.int32), 1.0, shift=4)
    return cv2.GaussianBlur(mask, (0, 0), size / 64)[..., None]


def _crop(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    return align(frame, crop_matrix(landmarks), CROP_SIZE)


def _joined(layers: list[Layer], frame: np.ndarray) -> np.ndarray:
    """The mask of all layers of a frame, float32 (height, width, 1)."""
    alpha = np.zeros((*frame.shape[:2], 1), np.float32)
    for layer in layers:
        part = alpha[layer.rows, layer.columns]
        np.maximum(part, layer.alpha, out=part)
    return alpha
