"""A video and its swap compared, frame by frame."""

from collections.abc import Collection
from itertools import groupby

import cv2
import numpy as np

from fsgan.evaluation.face_metrics import expression_distance
from fsgan.evaluation.metrics import seam
from fsgan.evaluation.record import FrameScores
from fsgan.evaluation.video_metrics import FlowFlicker, Outside, jitter
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import Face, align, crop_matrix
from fsgan.faces.pose import estimate_head_pose, pose_difference
from fsgan.media.reader import Frame
from fsgan.swap.compositing import feather, place
from fsgan.swap.swapper import FaceSwapper

_CROP_SIZE = 256  # pixels
_MASK_SIZE = 64  # pixels, of an estimated mask
_COVERAGE = 0.8  # of a model that is not known, the default of `ModelConfig`
_SEAM_MARGIN = 4  # pixels around a mask, beyond which no seam reaches


class Comparison:
    """What a video and its swap have in common, and what not.

    Attributes:
        frames: scores of each frame with a face, but for those of identity.
        expression: landmark distance of each face found in both.
        pose: roll, yaw and pitch that the swap added to each of them, in degrees.
        crops: pairs of aligned crops of the chosen frames, source and swapped, RGB
            uint8 (256, 256, 3), each cut out by its own landmarks.
        crops_of: index of the frame of each pair.
        faces: faces of the source.
        flicker: of the faces.
        outside: what changed elsewhere.
    """

    def __init__(self, swapper: FaceSwapper | None, chosen: Collection[int]) -> None:
        """Starts before the first frame.

        Args:
            swapper: makes the masks again; None estimates them: whole squares.
            chosen: indices of the frames to cut the faces out of.
        """
        self._swapper, self._chosen = swapper, set(chosen)
        # As fine as can be: what is looked for is known to be there.
        self._detector = FaceDetector(20, 0.7)
        self._runs: list[int | None] = []
        self._found: list[tuple[int, int, np.ndarray, np.ndarray]] = []
        self.frames: list[FrameScores] = []
        self.expression: list[float] = []
        self.pose: list[np.ndarray] = []
        self.crops: list[tuple[np.ndarray, np.ndarray]] = []
        self.crops_of: list[int] = []
        self.faces = 0
        self.flicker, self.outside = FlowFlicker(), Outside()

    def add(self, before: Frame, after: np.ndarray, faces: list[Face]) -> None:
        """Takes the next frame.

        Faces are looked for in both frames alike, where they are in the source.

        Args:
            before: of the source.
            after: RGB uint8 (height, width, 3), the same frame of the swapped video.
            faces: those that were swapped.
        """
        source, faces = before.image, [] if before.damaged else faces
        alpha = self._alpha(source, faces)
        runs = [face.run for face in faces]
        if runs != self._runs:
            self.flicker.cut()
            self._runs = runs
        self.flicker.add(source, after, alpha)
        outside = self.outside.add(source, after, alpha)
        boxes = [face.box for face in faces]
        pairs = zip(
            runs,
            self._detector.detect_near(source, boxes),
            self._detector.detect_near(after, boxes),
            strict=True,
        )
        seen = [(run, old, new) for run, old, new in pairs if old]
        both = [(old.landmarks, new.landmarks) for _, old, new in seen if new]
        for run, old, new in seen:
            points = new.landmarks if new else np.full_like(old.landmarks, np.nan)
            self._found.append((run, before.index, old.landmarks, points))
        expression, pose = self._compare(both)
        if before.index in self._chosen:
            self._cut_out(before.index, source, after, both)
        self.faces += len(seen)
        if seen:
            score = FrameScores(
                before.index,
                float(before.time),
                found=len(both) == len(seen),
                expression=float(np.mean(expression)) if both else None,
                pose=float(np.abs(pose).max()) if both else None,
                seam=_seam(source, after, alpha),
                outside=outside,
            )
            self.frames.append(score)

    @property
    def missed(self) -> float:
        """Share of the source's faces that are not found in the swapped video."""
        return 1 - len(self.expression) / self.faces

    @property
    def jitter(self) -> float | None:
        """That of all faces, as of `fsgan.evaluation.video_metrics.jitter`."""
        unknown = np.full((5, 2), np.nan)
        sequences: tuple[list, list] = ([], [])
        by_run = sorted(self._found, key=lambda found: found[:2])
        for _, of_run in groupby(by_run, key=lambda found: found[0]):
            last = None
            for _, index, *points in of_run:
                # What is missing between keeps apart what is not successive.
                gap = 2 if last is None else min(index - last - 1, 2)
                for sequence, one in zip(sequences, points, strict=True):
                    sequence += [unknown] * gap + [one]
                last = index
        if len(sequences[0]) < 3:
            return None
        return jitter(*map(np.stack, sequences))

    def _alpha(self, frame: np.ndarray, faces: list[Face]) -> np.ndarray:
        """The mask of a frame, float32 (height, width, 1)."""
        if self._swapper:
            [(_, layers)] = self._swapper.swap([frame], [faces])
        else:
            rgb = np.zeros((_MASK_SIZE, _MASK_SIZE, 3), np.float32)
            layers = [
                place(rgb, feather(_MASK_SIZE), matrix, frame)
                for matrix in (
                    crop_matrix(face.landmarks, _MASK_SIZE, _COVERAGE) for face in faces
                )
            ]
        alpha = np.zeros((*frame.shape[:2], 1), np.float32)
        for layer in layers:
            part = alpha[layer.rows, layer.columns]
            np.maximum(part, layer.alpha, out=part)
        return alpha

    def _compare(
        self, both: list[tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Landmark distances and pose differences of a frame, also noted."""
        if not both:
            return np.empty(0), np.empty((0, 3))
        old, new = map(np.stack, zip(*both, strict=True))
        expression = expression_distance(old, new)
        poses = (np.stack([estimate_head_pose(x) for x in side]) for side in (old, new))
        pose = pose_difference(*poses)
        self.expression += expression.tolist()
        self.pose += list(pose)
        return expression, pose

    def _cut_out(
        self,
        index: int,
        source: np.ndarray,
        after: np.ndarray,
        both: list[tuple[np.ndarray, np.ndarray]],
    ) -> None:
        """Notes the crops of a frame's faces."""
        for points in both:
            old, new = (
                align(frame, crop_matrix(landmarks, _CROP_SIZE), _CROP_SIZE)
                for frame, landmarks in zip((source, after), points, strict=True)
            )
            self.crops.append((old, new))
            self.crops_of.append(index)


def _seam(source: np.ndarray, after: np.ndarray, alpha: np.ndarray) -> float | None:
    """The seam of a frame; None where there is none or the source is all plain."""
    left, top, width, height = cv2.boundingRect((alpha[..., 0] > 0).astype(np.uint8))
    if not width:
        return None
    rows = slice(max(0, top - _SEAM_MARGIN), top + height + _SEAM_MARGIN)
    columns = slice(max(0, left - _SEAM_MARGIN), left + width + _SEAM_MARGIN)
    value = seam(*(x[rows, columns] for x in (source, after, alpha)))
    return value if np.isfinite(value) else None
