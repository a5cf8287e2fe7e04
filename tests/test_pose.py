"""Which way a head is turned: a head turned by known angles, seen by a camera."""

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.faces.geometry import MEAN_LANDMARKS, transform_points
from fsgan.faces.mesh import POINTS, FaceMesh
from fsgan.faces.pose import (
    DEPTH_OF_NOSE,
    estimate_head_pose,
    estimate_mesh_pose,
    estimate_yaw,
    head_model,
    pose_difference,
    without_profiles,
)

POSES = [
    (0, 0, 0),
    (25, 0, 0),
    (0, 40, 0),
    (0, -40, 0),
    (0, 0, 30),
    (0, 0, -30),
    (-160, 10, -5),
    (12, -35, 20),
    (-30, 60, -25),
]


def rotation(roll: float, yaw: float, pitch: float) -> np.ndarray:
    """Of a head nodded up, then turned to the right, then leant clockwise."""
    (r, y, p) = np.radians([roll, yaw, pitch])
    nod = [[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]]
    turn = [[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]]
    lean = [[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]]
    return np.array(lean) @ turn @ nod


def turned(*pose: float) -> np.ndarray:
    """The head, turned as by `rotation`."""
    return head_model() @ rotation(*pose).T


def seen(head: np.ndarray) -> np.ndarray:
    """The head as the camera that is assumed sees it, its points about (300, 200).

    Their mean lies in the line of sight, and they are 1/20 of the focal length across.
    """
    place = np.array([0.0, 0.0, 20.0])
    for _ in range(100):
        points = (head + place)[:, :2] / (head + place)[:, 2:]
        place[:2] -= points.mean(axis=0) * place[2]
        place[2] *= 20 * np.linalg.norm(points - points.mean(axis=0))
    return points * 1000 + (300, 200)


def test_the_head_is_the_mean_shape_with_a_nose():
    head = head_model()
    assert abs(head[:, :2] - MEAN_LANDMARKS + MEAN_LANDMARKS.mean(axis=0)).max() < 0.02
    np.testing.assert_allclose(head[:, 0], -head[[1, 0, 2, 4, 3], 0], atol=1e-12)
    np.testing.assert_array_equal(head[[0, 1, 3, 4], 2], 0)
    np.testing.assert_allclose(head[2, 2], -DEPTH_OF_NOSE * (head[1, 0] - head[0, 0]))


@pytest.mark.parametrize("pose", POSES)
def test_known_angles_come_back_near_and_far_and_in_a_mirror(pose):
    head = turned(*pose)
    np.testing.assert_allclose(estimate_head_pose(seen(head)), pose, atol=1e-3)
    far = head[:, :2] * 250 + (1500, -80)  # parallel rays
    np.testing.assert_allclose(estimate_head_pose(far), pose, atol=0.7)
    mirrored = far[[1, 0, 2, 4, 3]] * (-1, 1)
    expected = estimate_head_pose(far) * (-1, -1, 1)
    np.testing.assert_allclose(estimate_head_pose(mirrored), expected, atol=1e-3)


@pytest.mark.parametrize("pose", POSES)
def test_known_angles_of_a_mesh_come_back(pose):
    """Whatever the nose."""
    head = np.random.default_rng(0).normal(size=(POINTS, 3))
    head[[10, 152, 234, 454]] = [(0, -9, 1), (0, 9, 1), (-7, 0, 5), (7, 0, 5)]
    points = 20 * head @ rotation(*pose).T + (300, 200, 0)
    found = estimate_mesh_pose(points[:, :2], points[:468, 2])
    np.testing.assert_allclose(found, pose, atol=1e-6)


def test_a_real_face_turns_with_its_picture_and_is_mirrored_with_it():
    photo, fit = astronaut(), FaceMesh()
    five = np.array([[204, 101], [246, 103], [225, 126], [203, 138], [245, 141]])
    level = estimate_mesh_pose(*fit.with_depth(photo, five))
    matrix = cv2.getRotationMatrix2D((225.0, 120.0), -25, 1.0)  # clockwise
    leant = cv2.warpAffine(photo, matrix, (512, 512), borderMode=1)
    found = estimate_mesh_pose(*fit.with_depth(leant, transform_points(five, matrix)))
    np.testing.assert_allclose(found - level, (25, 0, 0), atol=1)
    five = five[[1, 0, 2, 4, 3]] * (-1, 1) + (511, 0)
    found = estimate_mesh_pose(*fit.with_depth(photo[:, ::-1], five))
    np.testing.assert_allclose(found, level * (-1, -1, 1), atol=4)


def test_a_profile_has_an_answer():
    pose = estimate_head_pose(seen(turned(0, 88, 0)))
    np.testing.assert_allclose(pose, (0, 88, 0), atol=0.01)


def test_signs_are_those_of_the_picture():
    points = MEAN_LANDMARKS * 256
    level = estimate_head_pose(points)
    right, up, leant = points.copy(), points.copy(), points.copy()
    right[2, 0] += 15
    up[2, 1] -= 15
    leant[[0, 3]] -= (0, 8)  # what lies left rises: clockwise
    assert (estimate_head_pose(right) - level)[1] > 10
    assert (estimate_head_pose(up) - level)[2] > 10
    assert (estimate_head_pose(leant) - level)[0] > 1.5


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (np.zeros((4, 2)), r"must be 5 finite points \(x, y\), got"),
        (np.full((5, 2), np.nan), "must be 5 finite points"),
        (np.arange(5)[:, None] * (3.0, 1.0), "lie on one line"),
    ],
)
def test_points_that_are_no_face_are_refused(points, reason):
    with pytest.raises(ValueError, match=reason):
        estimate_head_pose(points)


@pytest.mark.parametrize("yaw", [-70, -20, 0, 45, 60])
def test_a_yaw_is_read_off_the_nose_whatever_else_the_head_does(yaw):
    points = seen(turned(25, yaw, 10))
    assert estimate_yaw(points) == pytest.approx(yaw, abs=3)
    smile = points.copy()
    smile[3:] += 0.15 * (points[[3, 4]] - points[[4, 3]])  # 30 % wider
    assert estimate_yaw(smile) == pytest.approx(estimate_yaw(points), abs=5)
    both = estimate_yaw(np.stack([points, 2 * points + 5]))
    np.testing.assert_allclose(both, estimate_yaw(points))


def test_a_real_face_is_left_out_where_it_is_in_profile(turning, detector):
    kept = []
    for degrees, picture in turning.items():
        [face] = detector.detect(picture)
        if degrees <= 40:
            assert estimate_yaw(face.landmarks) == pytest.approx(degrees, abs=5)
        kept += [degrees] * len(without_profiles([face]))
    assert kept == [0, 10, 20, 30, 40, 50]


def test_differences_go_the_short_way_round():
    source = [[0, 0, 0], [179, 10, -5], [-179, 0, 0]]
    swapped = [[0, 0, 0], [-179, 4, 5], [179, 0, 0]]
    np.testing.assert_allclose(
        pose_difference(source, swapped), [[0, 0, 0], [2, -6, 10], [-2, 0, 0]]
    )
