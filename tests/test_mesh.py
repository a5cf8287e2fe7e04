"""The dense landmarks: real faces, turned and moved, and openings of known size."""

import hashlib

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.assets import asset
from fsgan.faces.geometry import transform_points
from fsgan.faces.mesh import (
    LEFT_EYE,
    LIPS,
    OVAL,
    POINTS,
    RIGHT_EYE,
    FaceMesh,
    eye_opening,
    mouth_opening,
)

FIVE = np.array([[204, 101], [246, 103], [225, 126], [203, 138], [245, 141]], float)


@pytest.fixture(scope="module")
def mesh():
    return FaceMesh()


@pytest.fixture(scope="module")
def points(mesh):
    return mesh(astronaut(), FIVE)


@pytest.mark.parametrize("name", ["face_landmark.tflite", "iris_landmark.tflite"])
def test_the_networks_are_those_of_their_card(name):
    digest = hashlib.sha256(asset(f"mediapipe/{name}").read_bytes()).hexdigest()
    assert digest[:16] in asset("mediapipe/README.md").read_text()


def test_eyes_nose_mouth_and_outline_are_in_their_places(points):
    assert points.shape == (POINTS, 2)
    assert points.dtype == np.float32
    for eye, seen in ((LEFT_EYE, FIVE[0]), (RIGHT_EYE, FIVE[1])):
        assert np.hypot(*(points[eye].mean(axis=0) - seen)) < 3
    assert np.hypot(*(points[1] - FIVE[2])) < 5  # the tip of the nose
    corners = points[LIPS][:, 0].min(), points[LIPS][:, 0].max()
    np.testing.assert_allclose(corners, FIVE[3:, 0], atol=6)
    inside = cv2.pointPolygonTest
    assert all(inside(points[OVAL], tuple(map(float, it)), False) > 0 for it in FIVE)
    assert 70 < np.ptp(points[OVAL][:, 0]) < 95
    assert 100 < np.ptp(points[OVAL][:, 1]) < 130


@pytest.mark.parametrize(("angle", "scale"), [(30, 1.0), (-75, 1.5), (180, 0.8)])
def test_the_mesh_turns_and_grows_with_the_face(mesh, points, angle, scale):
    matrix = cv2.getRotationMatrix2D((225.0, 120.0), angle, scale)
    turned = cv2.warpAffine(astronaut(), matrix, (512, 512), borderMode=1)
    found = mesh(turned, transform_points(FIVE, matrix))
    apart = np.linalg.norm(found - transform_points(points, matrix), axis=1)
    assert np.median(apart) < 1
    assert apart.max() < 4


def test_a_mirrored_face_has_a_mirrored_mesh(mesh, points):
    photo = astronaut()[:, ::-1]
    five = FIVE[[1, 0, 2, 4, 3]] * (-1, 1) + (photo.shape[1] - 1, 0)
    found = mesh(photo, five) * (-1, 1) + (photo.shape[1] - 1, 0)
    for eye, other in ((LEFT_EYE, RIGHT_EYE), (RIGHT_EYE, LEFT_EYE)):
        middle, expected = found[eye].mean(axis=0), points[other].mean(axis=0)
        np.testing.assert_allclose(middle, expected, atol=1)
    np.testing.assert_allclose(mouth_opening(found), mouth_opening(points), atol=0.05)


def test_depth_grows_away_from_the_camera_and_with_the_picture(mesh, points):
    found, depth = mesh.with_depth(astronaut(), FIVE)
    np.testing.assert_array_equal(found, points)
    assert depth.shape == (468,) and depth.dtype == np.float32
    nose, chin, cheeks = depth[1], depth[152], depth[[234, 454]]
    assert nose < chin < cheeks.min()
    assert 0.5 < (cheeks.mean() - nose) / np.ptp(found[[234, 454], 0]) < 0.9
    photo = cv2.resize(astronaut(), None, fx=1.5, fy=1.5)
    _, larger = mesh.with_depth(photo, 1.5 * FIVE + 0.25)
    np.testing.assert_allclose(larger, 1.5 * depth, atol=2)


def test_openings_are_shares_of_the_width(points):
    assert 0.1 < mouth_opening(points) < 0.4  # a smile with teeth
    assert 0.2 < eye_opening(points) < 0.5
    drawn = points.copy()
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ellipse = np.stack([np.cos(angles), 0.25 * np.sin(angles)], axis=1)
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    for eye in (LEFT_EYE, RIGHT_EYE):
        drawn[eye] = 20 * ellipse @ turn + drawn[eye].mean(axis=0)
    drawn[[13, 14, 61, 291]] = [(0, 1), (0, 4), (-5, 2), (5, 2)]
    both = np.stack([drawn, points])
    np.testing.assert_allclose(eye_opening(both)[0], 0.25, atol=1e-5)
    np.testing.assert_allclose(mouth_opening(both)[0], 0.3, atol=1e-6)
    np.testing.assert_allclose(eye_opening(both)[1], eye_opening(points))


def test_points_that_coincide_are_refused(mesh):
    with pytest.raises(ValueError, match="coincide"):
        mesh(astronaut(), np.ones((5, 2)))
