"""Faces in a frame: searched for everywhere, or near where they should be.

MTCNN is a cascade: the first network proposes windows over an image pyramid, the second
refines them, the third refines again and gives five points. A candidate is a row: left,
top, right, bottom, score and, where the third network has looked, the five points as x,
y, x, y ... The box holds its left and top but not its right and bottom, so that a
network sees `image[top:bottom, left:right]`.

Source: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded
Convolutional Networks", 2016; rounding and thresholds as in faceswap-GAN v2.2.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property

import cv2
import numpy as np
from scipy.special import expit

from fsgan.assets import asset
from fsgan.faces.geometry import Face, intersection_over_union

# The search starts a little below the smallest face: none is lost to rounding.
_SEARCH_MARGIN = 1.2
_MIN_OVERLAP = 0.3  # a face that overlaps less with the box given is another one
_SAME_FACE = 0.5  # two faces that overlap more are one

_WINDOW, _STRIDE = 12, 2  # of the first network, pixels
_PYRAMID = 0.709  # from the size of one level to the next
_PROPOSED, _REFINED, _FINAL = 0.6, 0.7, 0.7  # smallest scores of the three networks
_GRAY = 127.5  # zero to the networks
_MAX_MULTIPLE = 4  # of the side of a patch, cut out before it is averaged


class FaceDetector:
    """Finds faces and their five points with MTCNN.

    The networks are loaded with the first frame. A detector serves one thread.
    """

    def __init__(self, min_face: float = 30, min_confidence: float = 0.9) -> None:
        """Sets the thresholds.

        Args:
            min_face: shorter side of the smallest face of interest, in frame pixels,
                at least 20. Larger values are faster.
            min_confidence: smallest score of a face, in [0.7, 1].

        Raises:
            ValueError: a threshold is out of its range.
        """
        if not min_face >= 20:
            raise ValueError(f"min_face must be at least 20 pixels, got {min_face}")
        if not _FINAL <= min_confidence <= 1:
            raise ValueError(
                f"min_confidence must be in [{_FINAL}, 1], got {min_confidence}"
            )
        self.min_face = min_face
        self.min_confidence = min_confidence

    @cached_property
    def _cascade(self) -> "Cascade":
        return Cascade()

    def detect(self, image: np.ndarray) -> list[Face]:
        """Searches a whole frame for faces.

        Args:
            image: RGB uint8 (height, width, 3).

        Returns:
            The faces, largest first, in pixels of `image`; boxes may reach beyond it.
        """
        rows = self._cascade.search(image, self.min_face / _SEARCH_MARGIN)
        return _largest_first(filter(self._accepts, map(_to_face, rows)))

    def detect_near(
        self, image: np.ndarray, boxes: Sequence[np.ndarray]
    ) -> list[Face | None]:
        """Looks for a face at each of a few boxes, and nowhere else.

        This takes a millisecond or two a box, whatever the size of the frame.

        Args:
            image: RGB uint8 (height, width, 3).
            boxes: where faces are expected, each float (4,), (left, top, right, bottom)
                in pixels, off by no more than a fifth of their size.

        Returns:
            For each box its face, or None where there is none or it has moved away.
        """
        boxes = np.reshape(boxes, (-1, 4)).astype(float)
        found: list[Face | None] = [None] * len(boxes)
        indices = np.flatnonzero(_in_sight(boxes, image.shape[:2]))
        rows = self._cascade.settle(image, boxes[indices])
        for index, face in zip(indices, map(_to_face, rows), strict=True):
            overlap = intersection_over_union(face.box, boxes[index]).item()
            if self._accepts(face) and overlap >= _MIN_OVERLAP:
                found[index] = face
        return found

    def detect_next(
        self, image: np.ndarray, expected: Sequence[np.ndarray], search: bool = False
    ) -> list[Face]:
        """Finds the faces in the next frame of a video, the fast way where it can.

        Args:
            image: RGB uint8 (height, width, 3).
            expected: where the faces of the frame before should be now, each float
                (4,), (left, top, right, bottom) in pixels.
            search: search the whole frame in any case, as after a cut and every few
                frames for faces that have come in. It is also done where no face is
                expected, or an expected one is not seen.

        Returns:
            The faces, largest first, in pixels of `image`; boxes may reach beyond it.
        """
        if len(expected) and not search:
            faces = self.detect_near(image, expected)
            if None not in faces and not _any_twice(faces):
                return _largest_first(faces)
        return self.detect(image)

    def _accepts(self, face: Face) -> bool:
        return face.confidence >= self.min_confidence and face.size >= self.min_face


class Cascade:
    """The three networks and the steps between them; for one thread at a time."""

    def __init__(self) -> None:
        """Loads the networks."""
        self._proposer, self._refiner, self._finisher = map(
            read_network, ("pnet", "rnet", "onet")
        )

    def search(self, image: np.ndarray, min_face: float) -> np.ndarray:
        """Finds all faces of an image.

        Args:
            image: RGB uint8 (height, width, 3).
            min_face: side of the smallest window to look at, pixels, at least 12.

        Returns:
            float (n, 15), the faces, most confident first.
        """
        level, proposals = image, [np.empty((0, 5))]
        for scale in pyramid_scales(image.shape[:2], min_face):
            height, width = np.ceil(np.multiply(image.shape[:2], scale)).astype(int)
            # From the level before: from the whole image takes three times as long.
            level = cv2.resize(level, (width, height), interpolation=cv2.INTER_AREA)
            proposals.append(self._propose(level, scale))
        rows = suppress_overlapping(np.concatenate(proposals), 0.7)
        rows = self.refine(image, rows[:, :4])
        rows = suppress_overlapping(rows[rows[:, 4] >= _REFINED], 0.7)
        rows = self.finish(image, rows[:, :4])
        rows = suppress_overlapping(rows[rows[:, 4] >= _FINAL], 0.7, of_smaller=True)
        settled = self.settle(image, rows[:, :4])
        settled[:, 4] = np.minimum(settled[:, 4], rows[:, 4])
        settled = settled[settled[:, 4] >= _FINAL]
        return suppress_overlapping(settled, 0.7, of_smaller=True)

    def settle(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Runs the third network twice, the second time on the boxes of the first.

        Then it matters less where a face was first proposed: points shake less from
        frame to frame, and fewer things that are no face pass.

        Args:
            image: RGB uint8 (height, width, 3).
            boxes: float (n, 4), near faces.

        Returns:
            float (n, 15), in the order of the boxes; the score is the lower of the two.
        """
        first = self.finish(image, boxes)
        second = self.finish(image, first[:, :4])
        second[:, 4] = np.minimum(first[:, 4], second[:, 4])
        return second

    def refine(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Scores and moves boxes (n, 4) with the second network: rows (n, 5)."""
        return _run_on_patches(self._refiner, image, boxes, 24)

    def finish(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Scores and moves boxes, and finds five points, with the third: (n, 15)."""
        return _run_on_patches(self._finisher, image, boxes, 48)

    def _propose(self, level: np.ndarray, scale: float) -> np.ndarray:
        """Windows of one level of the pyramid that may hold a face, float (n, 5)."""
        output = _forward(self._proposer, level[None])[0].transpose(1, 2, 0)
        scores = _face_score(output)
        cells = np.nonzero(scores >= _PROPOSED)
        rows = np.column_stack([windows(*cells, scale), scores[cells], output[cells]])
        rows = suppress_overlapping(rows, 0.5)
        return np.column_stack([_moved(rows[:, :4], rows[:, 5:9]), rows[:, 4]])


def read_network(name: str) -> cv2.dnn.Net:
    """Loads one of MTCNN's networks; `tools/make_mtcnn_onnx.py` made the files.

    Args:
        name: `"pnet"`, `"rnet"` or `"onet"`.

    Returns:
        The network: float32 (n, 3, height, width), RGB in [-1, 1], to (n, channels,
        rows, columns): four offsets of the box; for `"onet"` five x and five y of the
        points; two logits, no face and face.
    """
    # From memory: OpenCV cannot open every path that Windows allows.
    content = asset(f"mtcnn/{name}.onnx").read_bytes()
    return cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))


def pyramid_scales(shape: tuple[int, int], min_face: float) -> np.ndarray:
    """Lists the scales of the image pyramid, largest first.

    `shape` is height and width of the image, `min_face` the side of the smallest window
    to look at in pixels; where the image is smaller, there are none.
    """
    first, shorter = _WINDOW / min_face, min(shape)
    if shorter * first < _WINDOW:
        return np.empty(0)
    count = int(np.log(_WINDOW / (shorter * first)) / np.log(_PYRAMID)) + 1
    return first * _PYRAMID ** np.arange(count)


def windows(rows: np.ndarray, columns: np.ndarray, scale: float) -> np.ndarray:
    """Lists the boxes of the image, (n, 4) whole pixels, that `pnet` looked at.

    `rows` and `columns` are int (n,), of its output for a level of the pyramid at
    `scale`.
    """
    # Pixels were counted from 1 when the networks were trained, and so scaled.
    first = _STRIDE * np.stack([columns, rows], axis=-1) + 1
    last = first + _WINDOW - 1
    return np.hstack([np.trunc(first / scale) - 1, np.trunc(last / scale)])


def squares(boxes: np.ndarray) -> np.ndarray:
    """Makes boxes (n, 4) square, about the same centre, with the longer side."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True, initial=0)
    corners = (boxes[:, :2] + boxes[:, 2:] - longer) / 2
    return np.hstack([corners, corners + longer])


def cut_patches(image: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Cuts squares out of an image and brings them to one size.

    `boxes` is float (n, 4), square, anywhere; their fractions of a pixel count. Gives
    uint8 (n, size, size, 3), gray outside the image.
    """
    patches = np.empty((len(boxes), size, size, 3), np.uint8)
    for patch, (left, top, right, _) in zip(patches, boxes, strict=True):
        # Cut at a multiple of the size, then averaged: a large face does not alias.
        multiple = int(np.clip(np.ceil((right - left) / size), 1, _MAX_MULTIPLE))
        scale = (right - left) / (multiple * size)
        to_image = np.array([[scale, 0, left], [0, scale, top]])
        to_image[:, 2] += (scale - 1) / 2  # centres of pixels, not their corners
        cut = cv2.warpAffine(
            image,
            to_image,
            (multiple * size, multiple * size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderValue=(_GRAY, _GRAY, _GRAY),
        )
        cv2.resize(cut, (size, size), dst=patch, interpolation=cv2.INTER_AREA)
    return patches


def suppress_overlapping(
    rows: np.ndarray, max_overlap: float, *, of_smaller: bool = False
) -> np.ndarray:
    """Drops candidates that overlap a more confident one (non-maximum suppression).

    Args:
        rows: float (n, 5 or more).
        max_overlap: largest share that two may have in common, in [0, 1].
        of_smaller: the share is of the smaller box, not of their union.

    Returns:
        The rows that stay, most confident first.
    """
    boxes, order, kept = rows[:, :4], np.argsort(-rows[:, 4], kind="stable"), []
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    while order.size:
        best, order = order[0], order[1:]
        kept.append(best)
        corner = np.maximum(boxes[best, :2], boxes[order, :2])
        sides = np.minimum(boxes[best, 2:], boxes[order, 2:]) - corner
        common = np.prod(np.maximum(sides, 0), axis=1)
        if of_smaller:
            whole = np.minimum(areas[best], areas[order])
        else:
            whole = areas[best] + areas[order] - common
        order = order[common <= max_overlap * whole]
    return rows[kept]


def _run_on_patches(
    network: cv2.dnn.Net, image: np.ndarray, boxes: np.ndarray, size: int
) -> np.ndarray:
    """Rows of what the second or third network makes of the squares around boxes."""
    seen = squares(boxes)
    if not len(seen):
        return np.empty((0, 5 if size == 24 else 15))
    output = _forward(network, cut_patches(image, seen, size))[..., 0, 0]
    x, y = output[:, 4:-2].reshape(len(seen), 2, -1).swapaxes(0, 1)
    sides = seen[:, 2:] - seen[:, :2]
    points = np.stack([x, y], axis=-1) * sides[:, None] + seen[:, None, :2]
    points = points.reshape(len(seen), -1)
    moved = _moved(seen, output[:, :4])
    return np.column_stack([moved, _face_score(output), points])


def _forward(network: cv2.dnn.Net, images: np.ndarray) -> np.ndarray:
    """The output, float32 (n, channels, rows, columns), for images in [0, 255]."""
    mean = (_GRAY, _GRAY, _GRAY)
    network.setInput(cv2.dnn.blobFromImages(images, 1 / 128, mean=mean))
    output = network.forward()
    # NaN or infinity anywhere: a score of a half, which is no face.
    return np.where(np.isfinite(output).all(axis=1, keepdims=True), output, 0)


def _face_score(output: np.ndarray) -> np.ndarray:
    """Softmax of the last two channels, "no face" and "face"; of the latter."""
    return expit(output[..., -1] - output[..., -2])


def _moved(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Boxes moved by offsets that are shares of their sides."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def _to_face(row: np.ndarray) -> Face:
    return Face(row[:4], row[5:].reshape(5, 2), float(row[4]))


def _largest_first(faces: Iterable[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: face.size, reverse=True)


def _in_sight(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Which boxes a network can be shown: finite, in the frame, not far too large."""
    sides = boxes[:, 2:] - boxes[:, :2]
    inside = np.minimum(boxes[:, 2:], shape[::-1]) - np.maximum(boxes[:, :2], 0)
    return ((inside >= 1) & (sides <= 4 * max(shape))).all(axis=1)


def _any_twice(faces: list[Face]) -> bool:
    boxes = [face.box for face in faces]
    return bool(np.triu(intersection_over_union(boxes, boxes) > _SAME_FACE, 1).any())
