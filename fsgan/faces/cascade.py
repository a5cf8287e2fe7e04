"""MTCNN's cascade: windows proposed over a pyramid, refined, and given five points.

A candidate is a row: left, top, right, bottom, score and, where the third network has
looked, the five points as x, y, x, y ... The box holds its left and top but not its
right and bottom, so that a network sees `image[top:bottom, left:right]`.

Source: Zhang et al., "Joint Face Detection and Alignment using Multi-task Cascaded
Convolutional Networks", 2016; rounding and thresholds as in faceswap-GAN v2.2.
"""

import cv2
import numpy as np
from scipy.special import expit

from fsgan.faces.mtcnn_networks import read_network

WINDOW, STRIDE = 12, 2  # of the first network, pixels
SHRINKAGE = 0.709  # from one level of the pyramid to the next
PROPOSED, REFINED, FINISHED = 0.6, 0.7, 0.7  # smallest scores of the three networks
GRAY = 127.5  # zero to the networks
MAX_MULTIPLE = 4  # of the side of a patch, cut out before it is averaged


class Cascade:
    """The three networks and the steps between them; for one thread at a time."""

    def __init__(self) -> None:
        """Loads the networks.

        Raises:
            FileNotFoundError: the package `mtcnn` is not installed.
        """
        self._proposer = read_network("pnet")
        self._refiner = read_network("rnet")
        self._finisher = read_network("onet")

    def search(
        self, image: np.ndarray, min_face: float, shrinkage: float = SHRINKAGE
    ) -> np.ndarray:
        """Finds all faces of an image.

        Args:
            image: RGB uint8 (height, width, 3).
            min_face: side of the smallest window to look at, pixels, at least 12.
            shrinkage: of the pyramid's levels, as of `scales`.

        Returns:
            float (n, 15), the faces, surest first.
        """
        level, proposals = image, [np.empty((0, 5))]
        for scale in scales(image.shape[:2], min_face, shrinkage):
            height, width = np.ceil(np.multiply(image.shape[:2], scale)).astype(int)
            # Each from the one before it: from the whole image takes thrice the time.
            level = cv2.resize(level, (width, height), interpolation=cv2.INTER_AREA)
            proposals.append(self._propose(level, scale))
        rows = strongest(np.concatenate(proposals), 0.7)
        rows = self.refine(image, rows[:, :4])
        rows = strongest(rows[rows[:, 4] >= REFINED], 0.7)
        rows = self.finish(image, rows[:, :4])
        rows = strongest(rows[rows[:, 4] >= FINISHED], 0.7, of_smaller=True)
        settled = self.settle(image, rows[:, :4])
        settled[:, 4] = np.minimum(settled[:, 4], rows[:, 4])
        return strongest(settled[settled[:, 4] >= FINISHED], 0.7, of_smaller=True)

    def settle(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Looks twice with the third network, the second time at what it saw first.

        That takes the chance out of where a face was first proposed: from frame to
        frame points shake less, and what is no face seldom looks like one thrice.

        Args:
            image: RGB uint8 (height, width, 3).
            boxes: float (n, 4), about where the faces are.

        Returns:
            float (n, 15), in the order of the boxes; the score is the lower of the two.
        """
        first = self.finish(image, boxes)
        second = self.finish(image, first[:, :4])
        second[:, 4] = np.minimum(first[:, 4], second[:, 4])
        return second

    def refine(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Scores boxes and moves them to the faces in them, with the second network.

        Args:
            image: RGB uint8 (height, width, 3).
            boxes: float (n, 4), anywhere; the network looks at the square around each.

        Returns:
            float (n, 5), in the order of the boxes.
        """
        return _look(self._refiner, image, boxes, 24)

    def finish(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """Scores boxes, moves them and finds the five points, with the third network.

        Args:
            image: RGB uint8 (height, width, 3).
            boxes: float (n, 4), anywhere; the network looks at the square around each.

        Returns:
            float (n, 15), in the order of the boxes.
        """
        return _look(self._finisher, image, boxes, 48)

    def _propose(self, level: np.ndarray, scale: float) -> np.ndarray:
        """Windows of one level of the pyramid that may hold a face, float (n, 5)."""
        answers = _forward(self._proposer, level[None])[0].transpose(1, 2, 0)
        scores = _face_score(answers)
        cells = np.nonzero(scores >= PROPOSED)
        rows = np.column_stack([windows(*cells, scale), scores[cells], answers[cells]])
        rows = strongest(rows, 0.5)
        return np.column_stack([_moved(rows[:, :4], rows[:, 5:9]), rows[:, 4]])


def scales(
    shape: tuple[int, int], min_face: float, shrinkage: float = SHRINKAGE
) -> np.ndarray:
    """Lists the scales of the image pyramid, largest first.

    Args:
        shape: height and width of the image.
        min_face: side of the smallest window to look at, pixels.
        shrinkage: share of its size that a level is of the one before, in (0, 1).

    Returns:
        float (n,), n = 0 where the image is smaller than that.
    """
    first, shorter = WINDOW / min_face, min(shape)
    if shorter * first < WINDOW:
        return np.empty(0)
    count = int(np.log(WINDOW / (shorter * first)) / np.log(shrinkage)) + 1
    return first * shrinkage ** np.arange(count)


def windows(rows: np.ndarray, columns: np.ndarray, scale: float) -> np.ndarray:
    """Says which boxes of the image the first network looked at.

    Args:
        rows: int (n,), of its answers.
        columns: int (n,).
        scale: of the level of the pyramid.

    Returns:
        float (n, 4), whole pixels.
    """
    # Pixels were counted from 1 when the networks were trained, and so scaled.
    first = STRIDE * np.stack([columns, rows], axis=-1) + 1
    last = first + WINDOW - 1
    return np.hstack([np.trunc(first / scale) - 1, np.trunc(last / scale)])


def squares(boxes: np.ndarray) -> np.ndarray:
    """Makes boxes square, about the same centre, with the longer side.

    Args:
        boxes: float (n, 4).

    Returns:
        float (n, 4).
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True, initial=0)
    corners = (boxes[:, :2] + boxes[:, 2:] - longer) / 2
    return np.hstack([corners, corners + longer])


def patches(image: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """Cuts squares out of an image and brings them to one size.

    Args:
        image: RGB uint8 (height, width, 3).
        boxes: float (n, 4), square, anywhere; their fractions of a pixel count.
        size: side of the patches.

    Returns:
        uint8 (n, size, size, 3); gray outside the image.
    """
    result = np.empty((len(boxes), size, size, 3), np.uint8)
    for patch, (left, top, right, _) in zip(result, boxes, strict=True):
        # Cut at a multiple of the size, then averaged: a large face does not alias.
        multiple = int(np.clip(np.ceil((right - left) / size), 1, MAX_MULTIPLE))
        scale = (right - left) / (multiple * size)
        to_image = np.array([[scale, 0, left], [0, scale, top]])
        to_image[:, 2] += (scale - 1) / 2  # centres of pixels, not their corners
        cut = cv2.warpAffine(
            image,
            to_image,
            (multiple * size, multiple * size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderValue=(GRAY, GRAY, GRAY),
        )
        cv2.resize(cut, (size, size), dst=patch, interpolation=cv2.INTER_AREA)
    return result


def strongest(
    rows: np.ndarray, max_overlap: float, *, of_smaller: bool = False
) -> np.ndarray:
    """Drops candidates that overlap a surer one (non-maximum suppression).

    Args:
        rows: float (n, 5 or more).
        max_overlap: largest share that two may have in common, in [0, 1].
        of_smaller: the share is of the smaller box, not of their union.

    Returns:
        The rows that stay, surest first.
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


def _look(
    network: cv2.dnn.Net, image: np.ndarray, boxes: np.ndarray, size: int
) -> np.ndarray:
    """Rows of what a network of patches says of boxes."""
    seen = squares(boxes)
    if not len(seen):
        return np.empty((0, 5 if size == 24 else 15))
    answers = _forward(network, patches(image, seen, size))[..., 0, 0]
    x, y = answers[:, 4:-2].reshape(len(seen), 2, -1).swapaxes(0, 1)
    sides = seen[:, 2:] - seen[:, :2]
    points = np.stack([x, y], axis=-1) * sides[:, None] + seen[:, None, :2]
    points = points.reshape(len(seen), -1)
    moved = _moved(seen, answers[:, :4])
    return np.column_stack([moved, _face_score(answers), points])


def _forward(network: cv2.dnn.Net, images: np.ndarray) -> np.ndarray:
    """The answers, float32 (n, channels, rows, columns), to images in [0, 255]."""
    network.setInput(cv2.dnn.blobFromImages(images, 1 / 128, mean=(GRAY, GRAY, GRAY)))
    answers = network.forward()
    # NaN or infinity anywhere: a score of a half, which is no face.
    return np.where(np.isfinite(answers).all(axis=1, keepdims=True), answers, 0)


def _face_score(answers: np.ndarray) -> np.ndarray:
    """Softmax of the last two channels, "no face" and "face"; of the latter."""
    return expit(answers[..., -1] - answers[..., -2])


def _moved(boxes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Boxes moved by offsets that are shares of their sides."""
    return boxes + offsets * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
