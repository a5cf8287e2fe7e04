"""Which way a head is turned, from its five points or its mesh."""

import cv2
import numpy as np

from fsgan.faces.geometry import MEAN_LANDMARKS, Face

PROFILE = 52.0
"""Degrees of `estimate_yaw` from which on a face is in profile: it is not swapped, as a
crop shows half of it, half of what is behind it. Three-quarter views give up to 47."""

DEPTH_OF_NOSE = 0.42
"""By how many eye distances the tip of the nose lies in front of eyes and mouth."""

_FOCAL_LENGTH = 20.0  # in sizes of the face: nearly parallel rays
_MIRRORED = [1, 0, 2, 4, 3]  # the five points, seen in a mirror
_CHEEKS, _HEIGHT = [234, 454], [10, 152]  # of a mesh: left to right, forehead to chin


def head_model() -> np.ndarray:
    """Gives the mean shape in three dimensions, symmetric, eyes and mouth in a plane.

    Returns:
        float64 (5, 3), shares of an aligned crop's side about the middle of the points:
        x to the right, y down as seen in the image, z away from the camera.
    """
    shape = MEAN_LANDMARKS - MEAN_LANDMARKS.mean(axis=0)
    shape = (shape + shape[_MIRRORED] * (-1, 1)) / 2
    depth = np.zeros((5, 1))
    depth[2] = -DEPTH_OF_NOSE * (shape[1, 0] - shape[0, 0])
    return np.hstack([shape, depth])


def estimate_head_pose(landmarks: np.ndarray) -> np.ndarray:
    """Estimates which way a face looks, by fitting the head of `head_model`.

    No camera is known: the angles are those against the line from the camera to the
    face. A nose that is shorter than the mean looks like a raised head, so differences
    between faces of one person are more accurate than the angles themselves.

    Args:
        landmarks: float (5, 2), (x, y) pixels, in the order of the detector.

    Returns:
        float64 (3,): roll, yaw and pitch in degrees. Positive is clockwise, to the
        right as seen in the image, and up; the head is first nodded, then turned, then
        leant.

    Raises:
        ValueError: there are not five finite points, or they lie on one line.

    Source: Terzakis and Lourakis, "A Consistently Fast and Globally Optimal Solution to
    the Perspective-n-Point Problem", 2020, as in OpenCV.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError(f"landmarks must be 5 finite points (x, y), got {landmarks}")
    points = points - points.mean(axis=0)
    size = np.linalg.norm(points)
    if np.linalg.svd(points, compute_uv=False)[1] <= 1e-3 * size:
        raise ValueError("landmarks lie on one line: they are no face")
    camera = np.diag([_FOCAL_LENGTH, _FOCAL_LENGTH, 1.0])
    _, turn, _ = cv2.solvePnP(
        head_model(), points / size, camera, None, flags=cv2.SOLVEPNP_SQPNP
    )
    return _angles(cv2.Rodrigues(turn)[0])


def estimate_yaw(landmarks: np.ndarray) -> np.ndarray:
    """Estimates how far heads are turned, from where the nose lies across the face.

    Without a fit: as fast for many as for one. True to a few degrees up to 50; the
    detector's points of a profile give 50 to 70. (The mesh never gives more than 48.)

    Args:
        landmarks: float (..., 5, 2), (x, y) pixels, in the order of the detector.

    Returns:
        float64 (...), degrees, positive to the right as seen in the image.
    """
    points, model = np.asarray(landmarks, np.float64), head_model()
    brow = points[..., :2, :].mean(-2, keepdims=True)
    down = points[..., 3:, :].mean(-2, keepdims=True) - brow
    across = down[..., ::-1] * (1, -1)
    place = ((points - brow) * across).sum(-1)
    widths = place[..., [1, 4]] - place[..., [0, 3]]
    widths = (widths / (model[[1, 4]] - model[[0, 3]])[:, 0]).mean(-1)
    return np.degrees(np.arctan2(place[..., 2] / -model[2, 2], widths))


def without_profiles(faces: list[Face]) -> list[Face]:
    """Gives the faces that can be swapped: those that are not turned to `PROFILE`."""
    return [face for face in faces if abs(estimate_yaw(face.landmarks)) < PROFILE]


def estimate_mesh_pose(mesh: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Estimates which way a face looks, by its cheeks, forehead and chin.

    The nose does not count: unlike `estimate_head_pose` this hardly takes a short nose
    for a raised head.

    Args:
        mesh: float (500, 2), (x, y) pixels, as of `fsgan.faces.mesh.FaceMesh`.
        depth: float (468,), pixels, of the same face.

    Returns:
        float64 (3,): roll, yaw and pitch in degrees, as of `estimate_head_pose`.
    """
    points = np.column_stack([mesh[: len(depth)], depth]).astype(np.float64)
    across, down = (np.diff(points[ends], axis=0)[0] for ends in (_CHEEKS, _HEIGHT))
    axes, lengths = np.linalg.qr(np.column_stack([across, down]))
    across, down = (axes * np.sign(np.diag(lengths))).T
    return _angles(np.column_stack([across, down, np.cross(across, down)]))


def _angles(rotation: np.ndarray) -> np.ndarray:
    """Roll, yaw and pitch in degrees of a head that was turned by a matrix (3, 3)."""
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    across, down, away = -rotation[:, 2]  # where the nose points
    # As if the head were not leant: as in the crop.
    x = across * np.cos(roll) + down * np.sin(roll)
    y = down * np.cos(roll) - across * np.sin(roll)
    return np.degrees([roll, np.arctan2(x, -away), np.arctan2(-y, np.hypot(x, away))])


def pose_difference(source: np.ndarray, swapped: np.ndarray) -> np.ndarray:
    """Compares the poses of faces, before and after a swap.

    Args:
        source: float (..., 3), roll, yaw and pitch in degrees.
        swapped: float (..., 3), the same faces after the swap.

    Returns:
        float64 (..., 3), what the swap added, in degrees in [-180, 180).
    """
    return (np.asarray(swapped, np.float64) - source + 180) % 360 - 180
