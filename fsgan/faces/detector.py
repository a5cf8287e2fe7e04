"""Faces in a frame: searched for everywhere, or aimed at where they should be."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from fsgan.faces.cascade import FINISHED, SHRINKAGE, Cascade
from fsgan.faces.geometry import Face, intersection_over_union

# The search is a little finer than asked: no face is lost to rounding.
_SEARCH_FINER = 1.2
# A face that overlaps less with the box aimed at is another one or has jumped.
_MIN_OVERLAP = 0.3
# Two faces that overlap more are one.
_SAME_FACE = 0.5


class FaceDetector:
    """Finds faces and their five points with MTCNN.

    The networks are loaded with the first frame. A detector serves one thread.

    Source: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded
    Convolutional Networks", 2016; weights of the package `mtcnn`.
    """

    def __init__(
        self,
        min_face: float = 30,
        min_confidence: float = 0.9,
        shrinkage: float = SHRINKAGE,
    ) -> None:
        """Sets the thresholds.

        Args:
            min_face: shorter side of the smallest face of interest, in frame pixels,
                at least 20. Larger values are faster: the pyramid of the search starts
                at 14 / `min_face` of the frame's size.
            min_confidence: smallest score of a face, in [0.7, 1].
            shrinkage: of the pyramid that the search looks at, share of its size that a
                level is of the one before, in [0.3, 0.95]. Smaller values are faster
                and may miss faces of sizes in between.

        Raises:
            ValueError: a threshold is out of its range.
        """
        if not min_face >= 20:
            raise ValueError(f"min_face must be at least 20 pixels, got {min_face}")
        if not FINISHED <= min_confidence <= 1:
            raise ValueError(
                f"min_confidence must be in [{FINISHED}, 1], got {min_confidence}"
            )
        if not 0.3 <= shrinkage <= 0.95:
            raise ValueError(f"shrinkage must be in [0.3, 0.95], got {shrinkage}")
        self.shrinkage = shrinkage
        self.min_face = min_face
        self.min_confidence = min_confidence

    @cached_property
    def _cascade(self) -> Cascade:
        return Cascade()

    def detect(self, image: np.ndarray) -> list[Face]:
        """Searches a whole frame for faces.

        Args:
            image: RGB uint8 (height, width, 3).

        Returns:
            The faces, largest first, in pixels of `image`; boxes may reach beyond it.

        Raises:
            FileNotFoundError: the package `mtcnn` is not installed.
        """
        rows = self._cascade.search(
            image, self.min_face / _SEARCH_FINER, self.shrinkage
        )
        return _largest_first(filter(self._accepts, map(_to_face, rows)))

    def aim(self, image: np.ndarray, boxes: Sequence[np.ndarray]) -> list[Face | None]:
        """Looks for a face around each of a few boxes, and nowhere else.

        This takes a millisecond or two a box, whatever the size of the frame.

        Args:
            image: RGB uint8 (height, width, 3).
            boxes: where faces are expected, each float (4,), (left, top, right, bottom)
                in pixels, off by no more than a fifth of their size.

        Returns:
            For each box its face, or None where there is none or it has moved away.

        Raises:
            FileNotFoundError: the package `mtcnn` is not installed.
        """
        boxes = np.reshape(boxes, (-1, 4)).astype(float)
        aimed: list[Face | None] = [None] * len(boxes)
        indices = np.flatnonzero(_in_sight(boxes, image.shape[:2]))
        rows = self._cascade.settle(image, boxes[indices])
        for index, face in zip(indices, map(_to_face, rows), strict=True):
            overlap = intersection_over_union(face.box, boxes[index]).item()
            if self._accepts(face) and overlap >= _MIN_OVERLAP:
                aimed[index] = face
        return aimed

    def find(
        self, image: np.ndarray, expected: Sequence[np.ndarray], search: bool = False
    ) -> list[Face]:
        """Finds the faces in the next frame of a video, the short way where it can.

        Args:
            image: RGB uint8 (height, width, 3).
            expected: where the faces of the frame before should be now, each float
                (4,), (left, top, right, bottom) in pixels.
            search: search the whole frame in any case. Ask for it after a cut, and
                every ten frames or so for faces that have come in. It is also done
                where no face is expected, or an expected one is not seen.

        Returns:
            The faces, largest first, in pixels of `image`; boxes may reach beyond it.

        Raises:
            FileNotFoundError: the package `mtcnn` is not installed.
        """
        if len(expected) and not search:
            faces = self.aim(image, expected)
            if None not in faces and not _any_twice(faces):
                return _largest_first(faces)
        return self.detect(image)

    def _accepts(self, face: Face) -> bool:
        return face.confidence >= self.min_confidence and face.size >= self.min_face


def _to_face(row: np.ndarray) -> Face:
    return Face(row[:4], row[5:].reshape(5, 2), float(row[4]))


def _largest_first(faces: Iterable[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: face.size, reverse=True)


def _in_sight(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which boxes a network can be shown: finite, in the frame, not out of all size."""
    sides = boxes[:, 2:] - boxes[:, :2]
    inside = np.minimum(boxes[:, 2:], shape[::-1]) - np.maximum(boxes[:, :2], 0)
    return ((inside >= 1) & (sides <= 4 * max(shape))).all(axis=1)


def _any_twice(faces: list[Face]) -> bool:
    boxes = [face.box for face in faces]
    return bool(np.triu(intersection_over_union(boxes, boxes) > _SAME_FACE, 1).any())
