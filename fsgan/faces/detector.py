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
from typing import Annotated

import cv2
import numpy as np
from pydantic import Field, FiniteFloat
from scipy.special import expit

from fsgan.assets import asset
from fsgan.faces.geometry import Face, intersection_over_union
from fsgan.validation import checked

# The search starts a little below the smallest face: none is lost to rounding.
_SEARCH_MARGIN = 1.2
_MIN_OVERLAP = 0.3  # a face that overlaps less with the box given is another one
_SAME_FACE = 0.5  # two faces that overlap more are one

_WINDOW, _STRIDE = 12, 2  # of the first network, pixels
_PYRAMID = 0.709  # from the size of one level to the next
_PROPOSED, _REFINED, _FINAL = 0.6, 0.7, 0.7  # smallest scores of the three networks
_GRAY = (127.5, 127.5, 127.5)  # zero to the networks
_MAX_MULTIPLE = 4  # of the side of a patch, cut out before it is averaged

MinFace = Annotated[FiniteFloat, Field(ge=20)]
MinConfidence = Annotated[FiniteFloat, Field(ge=_FINAL, le=1)]


class FaceDetector:
    """Finds faces and their five points with MTCNN.

    The networks are loaded with the first frame. A detector serves one thread.
    """

    @checked
    def __init__(
        self, min_face: MinFace = 30, min_confidence: MinConfidence = 0.9
    ) -> None:
        """Sets the thresholds.

        Args:
            min_face: shorter side of the smallest face of interest, in frame pixels,
                at least 20. Larger values are faster.
            min_confidence: smallest score of a face, in [0.7, 1].

        Raises:
            ValueError: a threshold is out of its range.
        """
        self.min_face = min_face
        self.min_confidence = min_confidence

    @cached_property
    def _networks(self) -> list[cv2.dnn.Net]:
        return [read_network(name) for name in ("pnet", "rnet", "onet")]

    def detect(self, image: np.ndarray) -> list[Face]:
        """Searches a whole frame for faces.

        Args:
            image: RGB uint8 (height, width, 3).

        Returns:
            The faces, largest first, in pixels of `image`; boxes may reach beyond it.
        """
        return _largest_first(filter(self._accepts, map(_to_face, self._search(image))))

    def detect_near(
        self, image: np.ndarray, boxes: Sequence[np.ndarray]
    ) -> list[Face | None]:
        """Looks for a face at each of a few boxes: a millisecond or two a box.

        Args:
            image: RGB uint8 (height, width, 3).
            boxes: where faces are expected, each float (4,), (left, top, right, bottom)
                in pixels, off by no more than a fifth of their size.

        Returns:
            For each box its face, or None where there is none or it has moved away.
        """
        boxes = np.reshape(boxes, (-1, 4)).astype(float)
        found: list[Face | None] = [None] * len(boxes)
        # A network can be shown what is finite, in the frame and not far too large.
        size = image.shape[1::-1]
        inside = np.minimum(boxes[:, 2:], size) - np.maximum(boxes[:, :2], 0) >= 1
        inside &= boxes[:, 2:] - boxes[:, :2] <= 4 * max(size)
        indices = np.flatnonzero(inside.all(axis=1))
        rows = self._settle(image, boxes[indices])
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
            search: search the whole frame in any case. It is also done where no face is
                expected, or an expected one is not seen.

        Returns:
            The faces, largest first, in pixels of `image`; boxes may reach beyond it.
        """
        if len(expected) and not search:
            faces = self.detect_near(image, expected)
            if None not in faces:
                boxes = [face.box for face in faces]
                overlaps = np.triu(intersection_over_union(boxes, boxes), 1)
                if overlaps.max() <= _SAME_FACE:
                    return _largest_first(faces)
        return self.detect(image)

    def _accepts(self, face: Face) -> bool:
        return face.confidence >= self.min_confidence and face.size >= self.min_face

    def _search(self, image: np.ndarray) -> np.ndarray:
        """All faces of an image, float (n, 15), most confident first."""
        level, proposals = image, [np.empty((0, 5))]
        smallest = self.min_face / _SEARCH_MARGIN
        for scale in pyramid_scales(image.shape[:2], smallest):
            height, width = np.ceil(np.multiply(image.shape[:2], scale)).astype(int)
            # From the level before: from the whole image takes three times as long.
            level = cv2.resize(level, (width, height), interpolation=cv2.INTER_AREA)
            proposals.append(_propose(self._networks[0], level, scale))
        rows = suppress_overlapping(np.concatenate(proposals), 0.7)
        rows = _look(self._networks[1], image, rows[:, :4], 24)
        rows = suppress_overlapping(rows[rows[:, 4] >= _REFINED], 0.7)
        rows = _look(self._networks[2], image, rows[:, :4], 48)
        rows = suppress_overlapping(rows[rows[:, 4] >= _FINAL], 0.7, of_smaller=True)
        settled = self._settle(image, rows[:, :4])
        settled[:, 4] = np.minimum(settled[:, 4], rows[:, 4])
        settled = settled[settled[:, 4] >= _FINAL]
        return suppress_overlapping(settled, 0.7, of_smaller=True)

    def _settle(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The third network's rows, float (n, 15), for boxes (n, 4) near faces.

        It looks again at the boxes of its first look; the lower score counts. Then it
        matters less where a face was first proposed: points shake less from frame to
        frame, and fewer things that are no face pass.
        """
        first = _look(self._networks[2], image, boxes, 48)
        second = _look(self._networks[2], image, first[:, :4], 48)
        second[:, 4] = np.minimum(first[:, 4], second[:, 4])
        return second


def read_network(name: str) -> cv2.dnn.Net:
    """Loads `"pnet"`, `"rnet"` or `"onet"`; see `tools/make_mtcnn_onnx.py`."""
    # From memory: OpenCV cannot open every path that Windows allows.
    content = asset(f"mtcnn/{name}.onnx").read_bytes()
    return cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))


def pyramid_scales(shape: tuple[int, int], min_face: float) -> np.ndarray:
    """Scales of the pyramid, largest first, for an image of this height and width."""
    first, shorter = _WINDOW / min_face, min(shape)
    if shorter * first < _WINDOW:
        return np.empty(0)
    count = int(np.log(_WINDOW / (shorter * first)) / np.log(_PYRAMID)) + 1
    return first * _PYRAMID ** np.arange(count)


def windows(rows: np.ndarray, columns: np.ndarray, scale: float) -> np.ndarray:
    """Boxes (n, 4) of the image at which `pnet` gave these rows and columns (n,)."""
    # Pixels were counted from 1 when the networks were trained, and so scaled.
    first = _STRIDE * np.stack([columns, rows], axis=-1) + 1
    last = first + _WINDOW - 1
    return np.hstack([np.trunc(first / scale) - 1, np.trunc(last / scale)])


def squares(boxes: np.ndarray) -> np.ndarray:
    """Makes boxes (n, 4) square, about the same centre, with the longer side."""
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, keepdims=True, initial=0)
    corners = (boxes[:, :2] + boxes[:, 2:] - longer) / 2
    return np.hstack([corners, corners + longer])


def move(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Moves boxes (n, 4) by offsets (n, 4) that are shares of their sides."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)


def cut_patches(image: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Cuts squares (n, 4) out of an image; uint8 (n, size, size, 3), gray outside."""
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
            borderValue=_GRAY,
        )
        cv2.resize(cut, (size, size), dst=patch, interpolation=cv2.INTER_AREA)
    return patches


def suppress_overlapping(
    rows: np.ndarray, max_overlap: float, *, of_smaller: bool = False
) -> np.ndarray:
    """Drops candidates that overlap a more confident one (non-maximum suppression).

    Two of those left, most confident first, share no more than `max_overlap` of their
    union, or of the smaller box.
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


def _propose(network: cv2.dnn.Net, level: np.ndarray, scale: float) -> np.ndarray:
    """Windows of one level of the pyramid that may hold a face, float (n, 5)."""
    output = _forward(network, level[None])[0].transpose(1, 2, 0)
    scores = _face_score(output)
    cells = np.nonzero(scores >= _PROPOSED)
    rows = np.column_stack([windows(*cells, scale), scores[cells], output[cells]])
    rows = suppress_overlapping(rows, 0.5)
    return np.column_stack([move(rows[:, :4], rows[:, 5:9]), rows[:, 4]])


def _look(
    network: cv2.dnn.Net, image: np.ndarray, boxes: np.ndarray, size: int
) -> np.ndarray:
    """Rows of what the second or third network makes of the squares around boxes."""
    seen = squares(boxes)
    if not len(seen):
        return np.empty((0, 5 if size == 24 else 15))
    output = _forward(network, cut_patches(image, seen, size))[..., 0, 0]
    x, y = np.split(output[:, 4:-2], 2, axis=1)
    sides = seen[:, 2:] - seen[:, :2]
    points = np.stack([x, y], axis=-1) * sides[:, None] + seen[:, None, :2]
    points = points.reshape(len(seen), -1)
    return np.column_stack([move(seen, output[:, :4]), _face_score(output), points])


def _forward(network: cv2.dnn.Net, images: np.ndarray) -> np.ndarray:
    """The output, float32 (n, channels, rows, columns), for images in [0, 255]."""
    network.setInput(cv2.dnn.blobFromImages(images, 1 / 128, mean=_GRAY))
    output = network.forward()
    # NaN or infinity anywhere: a score of a half, which is no face.
    return np.where(np.isfinite(output).all(axis=1, keepdims=True), output, 0)


def _face_score(output: np.ndarray) -> np.ndarray:
    """Softmax of the last two channels, "no face" and "face"; of the latter."""
    return expit(output[..., -1] - output[..., -2])


def _to_face(row: np.ndarray) -> Face:
    return Face(row[:4], row[5:].reshape(5, 2), float(row[4]))


def _largest_first(faces: Iterable[Face]) -> list[Face]:
    return sorted(faces, key=lambda face: face.size, reverse=True)
