"""Dense landmarks: MediaPipe's face mesh, with the eyes' contours refined.

A mesh has 500 points: the 468 of the face mesh in MediaPipe's order, then 16 of the
contour of the left eye and 16 of the right one, as seen in the image, from the iris
network, which reads closed eyes far better than the mesh does.
"""

from functools import cached_property

import cv2
import numpy as np

from fsgan.assets import asset
from fsgan.faces.geometry import (
    MEAN_LANDMARKS,
    align,
    fit_similarity,
    invert,
    transform_points,
)

POINTS = 500
LEFT_EYE, RIGHT_EYE = slice(468, 484), slice(484, 500)  # as seen in the image
_OVAL = [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288]
_OVAL += [397, 365, 379, 378, 400, 377, 152, 148, 176, 149, 150, 136]
_OVAL += [172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]
OVAL = np.array(_OVAL)
"""The face's outline from the hairline round to the chin and back, 36 points."""
_LIPS = [61, 146, 91, 181, 84, 17, 314, 405, 321, 375]
_LIPS += [291, 409, 270, 269, 267, 0, 37, 39, 40, 185]
LIPS = np.array(_LIPS)
"""The outer contour of the lips, 20 points."""

_MESH_SIDE, _MESH_SCALE = 192, 1.5  # pixels; sides of the aligned crop
_EYE_SIDE, _EYE_SCALE = 64, 2.8  # pixels; distances between an eye's corners
_EYE_CORNERS = ((33, 133), (362, 263))  # outer and inner, left to right in the image


class FaceMesh:
    """Fits 500 points to faces.

    Source: Kartynnik et al. 2019, "Real-time facial surface geometry from monocular
    video on mobile GPUs"; Ablavatski et al. 2020, "Real-time pupil tracking from
    monocular video for digital puppetry".
    """

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Fits the mesh to one face.

        Args:
            image: RGB uint8 (height, width, 3), a frame or a crop.
            landmarks: float (5, 2), the face's five points in pixels of `image`.

        Returns:
            float32 (500, 2), (x, y) pixels of `image`.

        Raises:
            ValueError: the five points coincide.
        """
        return self.with_depth(image, landmarks)[0]

    def with_depth(
        self, image: np.ndarray, landmarks: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Fits the mesh to one face, in three dimensions.

        Args:
            image: RGB uint8 (height, width, 3), a frame or a crop.
            landmarks: float (5, 2), the face's five points in pixels of `image`.

        Returns:
            The points as `__call__` gives them, float32 (500, 2), and of the first 468
            how far they are away, float32 (468,): pixels of `image` from a plane
            through the head, growing away from the camera.

        Raises:
            ValueError: the five points coincide.
        """
        shape = (MEAN_LANDMARKS - 0.52) / _MESH_SCALE + 0.5
        matrix = fit_similarity(landmarks, shape * _MESH_SIDE - 0.5)
        crop = align(image, matrix, _MESH_SIDE)
        found = _forward(self._mesh, crop, "conv2d_20", 468)
        points = transform_points(found[:, :2], invert(matrix))
        depth = found[:, 2] / np.sqrt(np.linalg.det(matrix[:, :2]))
        eyes = [
            self._eye(image, *points[list(corners)], mirrored=corners[0] == 362)
            for corners in _EYE_CORNERS
        ]
        points = np.concatenate([points, *eyes]).astype(np.float32)
        return points, depth.astype(np.float32)

    def _eye(
        self, image: np.ndarray, left: np.ndarray, right: np.ndarray, mirrored: bool
    ) -> np.ndarray:
        """The contour of an eye between two corners; the network knows left eyes."""
        across = right - left
        scale = _EYE_SIDE / (_EYE_SCALE * np.hypot(*across))
        cosine, sine = scale * across / np.hypot(*across)
        rotation = np.array([[cosine, sine], [-sine, cosine]])
        middle = np.full(2, (_EYE_SIDE - 1) / 2)
        shift = middle - rotation @ (left + right) / 2
        matrix = np.column_stack([rotation, shift])
        crop = align(image, matrix, _EYE_SIDE)
        if mirrored:
            crop = np.ascontiguousarray(crop[:, ::-1])
        points = _forward(self._iris, crop, "output_eyes_contours_and_brows", 71)[
            :16, :2
        ]
        if mirrored:
            points[:, 0] = _EYE_SIDE - 1 - points[:, 0]
        return transform_points(points, invert(matrix))

    @cached_property
    def _mesh(self) -> cv2.dnn.Net:
        return cv2.dnn.readNetFromTFLite(str(asset("mediapipe/face_landmark.tflite")))

    @cached_property
    def _iris(self) -> cv2.dnn.Net:
        return cv2.dnn.readNetFromTFLite(str(asset("mediapipe/iris_landmark.tflite")))


def mouth_opening(mesh: np.ndarray) -> np.ndarray:
    """Measures how far the inner lips are apart.

    Args:
        mesh: float (..., 500, 2).

    Returns:
        float (...), shares of the mouth's width; about 0 is closed.
    """
    return _distance(mesh, 13, 14) / _distance(mesh, 61, 291)


def eye_opening(mesh: np.ndarray) -> np.ndarray:
    """Measures how far the eyelids are apart, the mean of both eyes.

    Args:
        mesh: float (..., 500, 2).

    Returns:
        float (...), height over width of the eye's contour; below about 0.15 is closed.
    """
    openings = []
    for eye in (LEFT_EYE, RIGHT_EYE):
        contour = mesh[..., eye, :]
        contour = contour - contour.mean(axis=-2, keepdims=True)
        _, _, axes = np.linalg.svd(contour, full_matrices=False)
        width, height = np.ptp(contour @ axes.swapaxes(-1, -2), axis=-2).T
        openings.append((height / width).T)
    return np.mean(openings, axis=0)


def _distance(mesh: np.ndarray, one: int, other: int) -> np.ndarray:
    """Distance between two points of each mesh."""
    return np.linalg.norm(mesh[..., one, :] - mesh[..., other, :], axis=-1)


def _forward(net: cv2.dnn.Net, crop: np.ndarray, layer: str, points: int) -> np.ndarray:
    """Points (x, y, z) of a crop; the networks count from pixels' corners."""
    net.setInput(cv2.dnn.blobFromImage(crop, 1 / 255))
    return net.forward(layer).reshape(points, 3) - (0.5, 0.5, 0)
