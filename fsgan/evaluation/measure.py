"""A video and its swap, read in step and measured frame by frame."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, takewhile
from pathlib import Path

import av
import numpy as np
from tqdm.auto import tqdm

from fsgan.evaluation.metrics import expression_distance, seam
from fsgan.evaluation.motion import (
    Background,
    Flicker,
    jitter,
    sound_delay,
    surroundings,
)
from fsgan.evaluation.results import FrameScores
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import CROP_SIZE, Face, align, crop_matrix
from fsgan.faces.pose import estimate_head_pose, pose_difference
from fsgan.faces.tracks import FaceTracks
from fsgan.media.decoding import clock_start, decode, open_media, packets
from fsgan.media.images import evenly
from fsgan.media.prefetch import prefetch
from fsgan.media.reader import Frame, probe, read_frames, time_limits
from fsgan.swap.compositing import feather, place
from fsgan.swap.swapper import FaceSwapper

_MASK_SIZE = 64  # pixels, of an estimated mask
_COVERAGE = 0.8  # of a model that is not known, the default of `ModelConfig`
_SEAM_MARGIN = 4  # pixels around a mask, beyond which no seam reaches
_SURROUNDINGS = 1.8  # sides of a face's box that a picture of it shows
_SOUND_RATE = 16_000  # samples a second, at which sounds are compared
_SOUND_SECONDS = 300  # that are compared, at most


@dataclass(frozen=True)
class SwappedVideo:
    """A video, its swap, and the faces that were swapped.

    Attributes:
        source: path of the video.
        swapped: path of its swap.
        followed: the faces of the source.
        tracks: numbers of those that were swapped; None stands for all.
        start: second of the source that is time 0 of the swap.
        end: second of the source at which the swap ends; None for the source's end.
    """

    source: Path
    swapped: Path
    followed: FaceTracks
    tracks: Collection[int] | None = None
    start: float = 0.0
    end: float | None = None

    def faces(self, index: int) -> list[Face]:
        """The swapped faces of a frame of the source."""
        return self.followed.faces(index, self.tracks)

    def frames(self) -> Iterator[tuple[Frame | None, Frame | None]]:
        """The frames of both videos, as of `in_step`."""
        return in_step(
            prefetch(read_frames(self.source, self.start, self.end), ahead=4),
            prefetch(read_frames(self.swapped), ahead=4),
            time_limits(self.start, self.end)[0],
            1 / (2 * probe(self.source).fps),
        )


class Comparison:
    """What is measured of a video and its swap, frame after frame.

    Attributes:
        frames: scores of each frame with a face, without those of identity.
        expression: landmark distance of each face found in both.
        pose: roll, yaw and pitch that the swap added to each of them, degrees.
        crops: of the chosen frames (index, source, swapped): aligned crops, RGB uint8
            (256, 256, 3), each cut out by its own landmarks.
        counts: frames of the source and of the swap.
        flicker: of the faces.
        background: what changed outside of them.
    """

    def __init__(self, swapper: FaceSwapper | None, chosen: Collection[int]) -> None:
        """Starts before the first frame.

        Args:
            swapper: makes the masks again; None estimates them: whole squares.
            chosen: indices of the frames to cut the faces out of.
        """
        self._swapper, self._chosen = swapper, set(chosen)
        # As sensitive as can be: what is looked for is known to be there.
        self._detector = FaceDetector(20, 0.7)
        self._runs: list[int | None] = []
        # By run and frame: landmarks in source and swap, (2, 5, 2).
        self._landmarks: dict = defaultdict(dict)
        self.frames: list[FrameScores] = []
        self.expression: list[float] = []
        self.pose: list[np.ndarray] = []
        self.crops: list[tuple[int, np.ndarray, np.ndarray]] = []
        self.counts = np.zeros(2, int)
        self.flicker, self.background = Flicker(), Background()

    def add(self, before: Frame, after: np.ndarray, faces: list[Face]) -> None:
        """Takes the next frame.

        Args:
            before: of the source.
            after: RGB uint8 (height, width, 3), the same frame of the swapped video.
            faces: those that were swapped; they are looked for anew in both frames.
        """
        source, faces = before.image, [] if before.damaged else faces
        alpha = self._alpha(source, faces)
        runs = [face.run for face in faces]
        if runs != self._runs:
            self.flicker.cut()
            self._runs = runs
        self.flicker.add(source, after, alpha)
        outside = self.background.add(source, after, alpha)
        boxes = [face.box for face in faces]
        found = zip(
            runs,
            self._detector.detect_near(source, boxes),
            self._detector.detect_near(after, boxes),
            strict=True,
        )
        seen, both = 0, []
        for run, old, new in found:
            if old:
                seen += 1
                missing = np.full_like(old.landmarks, np.nan)
                pair = np.stack([old.landmarks, new.landmarks if new else missing])
                self._landmarks[run][before.index] = pair
                if new:
                    both.append(pair)
        if not seen:
            return
        expression, pose = np.empty(0), np.empty((0, 3))
        if both:
            old, new = np.stack(both, axis=1)
            expression = expression_distance(old, new)
            poses = ([estimate_head_pose(points) for points in x] for x in (old, new))
            pose = pose_difference(*map(np.stack, poses))
        self.expression += expression.tolist()
        self.pose += list(pose)
        if before.index in self._chosen:
            for pair in both:
                old, new = (
                    align(frame, crop_matrix(points), CROP_SIZE)
                    for frame, points in zip((source, after), pair, strict=True)
                )
                self.crops.append((before.index, old, new))
        self.frames.append(
            FrameScores(
                before.index,
                float(before.time),
                found=len(both) == seen,
                expression=float(expression.mean()) if both else None,
                pose=float(np.abs(pose).max()) if both else None,
                seam=_seam(source, after, alpha),
                outside=outside,
            )
        )

    @property
    def missed(self) -> float:
        """Share of the source's faces that are not found in the swap."""
        faces = sum(map(len, self._landmarks.values()))
        return 1 - len(self.expression) / faces

    @property
    def jitter(self) -> float | None:
        """Jitter of all faces, as of `fsgan.evaluation.motion.jitter`."""
        runs = []
        for found in self._landmarks.values():
            first, last = min(found), max(found)
            # Two frames more keep successive runs apart.
            points = np.full((last - first + 3, 2, 5, 2), np.nan)
            points[np.array(list(found)) - first] = list(found.values())
            runs.append(points)
        return jitter(*np.concatenate(runs).swapaxes(0, 1)) if runs else None

    def _alpha(self, frame: np.ndarray, faces: list[Face]) -> np.ndarray:
        """The mask of a frame, float32 (height, width, 1)."""
        if self._swapper:
            [(_, layers)] = self._swapper.swap([frame], [faces])
        else:
            rgb = np.zeros((_MASK_SIZE, _MASK_SIZE, 3), np.float32)
            matrices = [crop_matrix(x.landmarks, _MASK_SIZE, _COVERAGE) for x in faces]
            layers = [place(rgb, feather(_MASK_SIZE), x, frame) for x in matrices]
        alpha = np.zeros((*frame.shape[:2], 1), np.float32)
        for layer in layers:
            part = alpha[layer.rows, layer.columns]
            np.maximum(part, layer.alpha, out=part)
        return alpha


def compare(video: SwappedVideo, swapper: FaceSwapper | None, count: int) -> Comparison:
    """Measures a video and its swap.

    Args:
        video: both of them.
        swapper: makes the masks again; None estimates them.
        count: frames to cut faces out of, at most; they are evenly chosen.

    Returns:
        What was measured, of at least one frame.

    Raises:
        ValueError: a video cannot be read, or no face is found in what they share.
    """
    last = max(track.last for track in video.followed.tracks)
    with_face = [index for index in range(last + 1) if video.faces(index)]
    comparison = Comparison(swapper, evenly(with_face, count))
    total = probe(video.swapped).frame_count
    for before, after in tqdm(video.frames(), "evaluate", total, unit="frame"):
        comparison.counts += (before is not None, after is not None)
        if before and after:
            comparison.add(before, after.image, video.faces(before.index))
        else:
            comparison.flicker.cut()
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
            around = _around(boxes, before.image.shape[:2])
            pictures = (frame.image[around].copy() for frame in (before, after))
            found[before.index] = (before.index, *pictures)
        if len(found) == len(indices):
            break
    return [found[index] for index in indices]


def measure_sound_delay(video: SwappedVideo) -> float | None:
    """Measures by how much the sound of a swap comes later than the source's.

    Args:
        video: both of them; five minutes at most are compared.

    Returns:
        Seconds, as of `fsgan.evaluation.motion.sound_delay`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is no video or sound.
    """
    seconds = _SOUND_SECONDS
    if video.end is not None:
        seconds = min(seconds, video.end - video.start)
    source = _read_sound(video.source, video.start, seconds)
    swapped = _read_sound(video.swapped, 0, seconds)
    return sound_delay(source, swapped, _SOUND_RATE)


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


def _around(boxes: np.ndarray, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns around some boxes (n, 4), within a frame of that shape."""
    corners = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    middle = (corners[0] + corners[1]) / 2
    reach = _SURROUNDINGS * (corners[1] - corners[0]).max() / 2
    left, top = np.maximum(middle - reach, 0).astype(int)
    right, bottom = np.minimum(middle + reach, shape[::-1]).astype(int)
    return slice(top, bottom), slice(left, right)


def _seam(source: np.ndarray, after: np.ndarray, alpha: np.ndarray) -> float | None:
    """The seam of a frame; None where there is no mask or the source is all plain."""
    if not alpha.any():
        return None
    part = surroundings(alpha, _SEAM_MARGIN)
    value = seam(source[part], after[part], alpha[part])
    return value if np.isfinite(value) else None


def _read_sound(path: Path, start: float, seconds: float) -> np.ndarray:
    """The sound of a file, each sample at its time, mono float32 (n,)."""
    samples = np.zeros(round(seconds * _SOUND_RATE), np.float32)
    with open_media(path) as container:
        if not container.streams.audio:
            return samples
        track = container.streams.best("audio")
        origin = clock_start(container) + Fraction(start)
        resampler = av.AudioResampler("flt", "mono", _SOUND_RATE)
        frames = (
            x for x in decode(packets(container, track)) if x and x.pts is not None
        )
        heard = takewhile(lambda x: x.pts * x.time_base - origin <= seconds, frames)
        for frame in chain(heard, [None]):  # None flushes the resampler
            for piece in resampler.resample(frame):
                first = round((piece.pts * piece.time_base - origin) * _SOUND_RATE)
                values = piece.to_ndarray().ravel()[max(0, -first) :]
                room = samples[max(0, first) :][: len(values)]
                room[:] = values[: len(room)]
    return samples
