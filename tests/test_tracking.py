"""The Kalman filter against the original's, the smoother, faces that keep numbers."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from fsgan.faces.geometry import MEAN_LANDMARKS, Face
from fsgan.faces.tracking import CutDetector, FaceTracker, KalmanFilter, smooth

# Made by running the two Kalman filters of v2.2's `process_video` on the 60 noisy boxes
# stored with it, which jump at frame 40, at three process noises: `statePre` and
# `errorCovPre` of OpenCV's filter before each frame.
GOLDEN = np.load(Path(__file__).parent / "golden" / "tracking.npz")


def face_at(left: float, top: float, side: float = 100) -> Face:
    box = np.array([left, top, left + side, top + side], float)
    return Face(box, box[:2] + side * MEAN_LANDMARKS, 0.99)


def noisy(face: Face, rng: np.random.Generator) -> Face:
    """The face as a detector with one pixel of noise would report it."""
    box = face.box + rng.normal(0, 1, 4)
    return Face(box, face.landmarks + rng.normal(0, 1, (5, 2)), face.confidence)


def points_of(faces: list[Face]) -> np.ndarray:
    """The five points and the corners of the box, (n, 7, 2)."""
    return np.array([[*face.landmarks, *face.box.reshape(2, 2)] for face in faces])


def jitter(points: np.ndarray) -> float:
    return np.abs(np.diff(points, axis=0)).mean()


def track(faces: list[Face], **settings) -> list[Face]:
    """The smoothed faces of frames with one face each."""
    tracker = FaceTracker(None, **settings)
    return [tracker.update([face])[0].face for face in faces]


def update(tracker: FaceTracker, *faces: Face) -> dict[int, Face]:
    """The smoothed faces of the next frame by the numbers of their tracks."""
    return {tracked.face.track: tracked.face for tracked in tracker.update(list(faces))}


# The filter


def test_two_steps_by_hand():
    kalman = KalmanFilter(np.array([10.0]), noise=1.0)
    # Covariance [[1, 0], [0, 1]] becomes [[1 + 1 + 1, 1], [1, 1 + 1]].
    assert kalman.predict() == pytest.approx(10)
    np.testing.assert_allclose(kalman.covariance, [[3, 1], [1, 2]])
    # Gain (3, 1) / (3 + 1); the measurement is 4 away.
    assert kalman.correct(np.array([14.0])) == pytest.approx(13)
    assert kalman.velocity == pytest.approx(1)
    np.testing.assert_allclose(kalman.covariance, [[0.75, 0.25], [0.25, 1.75]])
    assert kalman.predict() == pytest.approx(14)


@pytest.mark.parametrize("noise", ["0.003", "0.03", "0.0003"])
def test_one_step_is_the_original_s_step(noise):
    states = GOLDEN[f"state_{noise}"].reshape(60, 2, 4).astype(float)
    covariances = GOLDEN[f"covariance_{noise}"].astype(float)
    # The original's corners are (row, column) as x and y: (x0, y0) and (x1, y1).
    corners = GOLDEN["boxes_x0x1y0y1"][:, [0, 2, 1, 3]].reshape(60, 2, 2)
    # Its first frame is shown, not filtered; 200 predictions lie before the second.
    for frame in range(1, 59):
        kalman = KalmanFilter(np.zeros((2, 2)), float(noise))
        kalman.position, kalman.velocity = states[frame, :, :2], states[frame, :, 2:]
        kalman.covariance = covariances[frame]
        kalman.correct(corners[frame + 1])
        kalman.predict()
        step = np.concatenate([kalman.position, kalman.velocity], axis=-1)
        # The covariance that it starts from has four digits only, and weighs residuals.
        residual = np.abs(corners[frame + 1] - states[frame, :, :2]).max()
        np.testing.assert_allclose(step, states[frame + 1], atol=1e-4 + 2e-5 * residual)
        if frame > 1:
            np.testing.assert_allclose(
                kalman.covariance, covariances[frame + 1], atol=6e-5
            )


# The smoother


@pytest.mark.parametrize("noise", [0.003, 0.18, 2.0])
def test_the_smoothed_path_is_the_mean_given_what_was_measured(noise):
    rng = np.random.default_rng(10)
    path = np.cumsum(rng.normal(3, 4, (60, 2, 3)), axis=0)
    seen = rng.random(60) > 0.2
    seen[[0, -1]] = True, False
    lags = np.arange(60)[:, None] - np.arange(60)
    # Noise of position and velocity in a frame moves the positions from then on by 1
    # and by the frames passed; the first frame's is that of measurement and velocity.
    effects = np.stack([lags >= 0, np.maximum(lags, 0)], axis=-1).reshape(60, 120)
    covariance = effects * [1, 1e4, *[noise] * 118] @ effects.T
    later = seen & (np.arange(60) > 0)
    measured = covariance[later][:, later] + np.eye(later.sum())
    residuals = (path - path[0])[later].reshape(-1, 6)
    moves = covariance[:, later] @ np.linalg.solve(measured, residuals)
    expected = path[0] + moves.reshape(path.shape)
    path[~seen] = np.nan
    np.testing.assert_allclose(smooth(path, seen, noise), expected, atol=1e-6)
    np.testing.assert_allclose(smooth(path[:1], [True], noise), path[:1])


# Cuts


def cuts(*frames: np.ndarray) -> list[bool]:
    detector = CutDetector()
    return [detector.is_cut(frame) for frame in frames]


def test_another_picture_or_size_is_a_cut():
    one, other = astronaut(), np.ascontiguousarray(astronaut()[::-1])
    assert cuts(one, one, other, other, one) == [False, False, True, False, True]
    assert cuts(one, one[:400]) == [False, True]


def test_movement_zoom_and_light_are_no_cut():
    frame = astronaut()
    moved = np.roll(frame, (12, 25), axis=(0, 1))
    closer = cv2.resize(frame[15:-15, 15:-15], (512, 512))
    for changed in (moved, closer, frame // 2, np.clip(frame + 60.0, 0, 255)):
        assert cuts(frame, changed.astype(np.uint8)) == [False, False]


def test_dark_frames_full_of_noise_are_one_shot():
    rng = np.random.default_rng(13)
    dark = rng.integers(0, 9, (5, 90, 160, 3), np.uint8)
    assert not any(cuts(*dark))
    assert cuts(dark[0], astronaut()[:90, :160])[1]


# Smoothing


@pytest.mark.parametrize(("noise", "share"), [(0.003, 0.6), (0.03, 0.7)])
@pytest.mark.parametrize("speed", [0, 8])
def test_a_face_is_smoothed_without_lag(speed, noise, share):
    rng = np.random.default_rng(2)
    true = [face_at(50 + speed * frame, 80) for frame in range(300)]
    faces = [noisy(face, rng) for face in true]
    smoothed = track(faces, noise=noise)
    error, raw = (points_of(x) - points_of(true) for x in (smoothed, faces))
    assert np.abs(error[40:]).mean() < share * np.abs(raw[40:]).mean()
    assert jitter(error[40:]) < 0.4 * jitter(raw[40:])
    assert abs(error[40:, :, 0].mean()) < 0.05
    assert {(face.track, face.run, face.confidence) for face in smoothed} == {
        (0, 0, 0.99)
    }


def test_smoothing_can_be_switched_off():
    faces = [face_at(50 + frame**2, 80) for frame in range(5)]
    for face, given in zip(track(faces, noise=None), faces, strict=True):
        assert face.landmarks is given.landmarks
        assert (face.track, face.run) == (0, 0)


# Linking


@pytest.mark.parametrize(
    ("jumped", "track_number"),
    [
        (face_at(400, 300), 1),
        (face_at(160, 100), 0),  # a cut to nearly the same place
    ],
)
def test_a_jump_is_not_smoothed(jumped, track_number):
    faces = [face_at(50 + 5 * frame, 80) for frame in range(20)] + [jumped] * 2
    for face in track(faces)[20:]:  # nothing of the old speed is left
        assert (face.track, face.run) == (track_number, 1)
        np.testing.assert_allclose(face.landmarks, jumped.landmarks)
        np.testing.assert_allclose(face.box, jumped.box)


@pytest.mark.parametrize(
    ("first", "second", "number"),
    [
        (face_at(100, 100, 200), face_at(160, 160, 80), 1),
        (face_at(0, 0), face_at(50, 0), 0),  # overlap a third of the union
        (face_at(0, 0), face_at(60, 0), 1),  # a quarter
    ],
)
def test_only_faces_that_overlap_enough_are_linked(first, second, number):
    assert track([first, second])[1].track == number


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("top", "hides"), [(150, 0), (105, 40)])
def test_faces_that_cross_keep_their_numbers(order, top, hides):
    tracker = FaceTracker(None)
    for frame in range(40):
        front = face_at(50 + 8 * frame, 100)
        behind = face_at(362 - 8 * frame, top)
        hidden = abs(front.box[0] - behind.box[0]) < hides
        seen = [front] if hidden else [front, behind][::order]
        numbers = {
            found.box[1]: smoothed.track for smoothed, found in tracker.update(seen)
        }
        if frame == 0:
            first = dict(numbers)
        assert numbers == {top: first[top] for top in numbers}
    assert len(numbers) == 2


@pytest.mark.parametrize(("gap", "number"), [(1, 0), (5, 0), (6, 1)])
def test_a_face_that_comes_back_within_5_frames_keeps_its_number(gap, number):
    tracker = FaceTracker(None)
    for frame in range(30):
        update(tracker, face_at(50 + 4 * frame, 80))
    for _ in range(gap):
        assert update(tracker) == {}
    assert list(update(tracker, face_at(50 + 4 * (30 + gap), 80))) == [number]


def test_a_moving_face_is_expected_where_it_will_be():
    tracker = FaceTracker(None)
    for frame in range(60):
        update(tracker, face_at(50 + 4 * frame, 80))
    for frame in (60, 60, 61):  # asking changes nothing
        if frame == 61:
            update(tracker)
        [box] = tracker.expected_boxes()
        np.testing.assert_allclose(box, face_at(50 + 4 * frame, 80).box, atol=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_face_that_is_no_number_is_left_out(value):
    tracker = FaceTracker(None)
    update(tracker, face_at(50, 80))
    broken = Face(np.array([50, value, 150, 180]), face_at(50, 80).landmarks, 0.99)
    assert update(tracker, broken) == {}
    assert list(update(tracker, broken, face_at(50, 80))) == [0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": 0}, "noise must be greater than 0, got 0"),
        ({"noise": float("nan")}, "noise must be a finite number, got nan"),
        ({"search_every": 0}, "search_every must be greater than or equal to 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FaceTracker(None, **settings)


# Frames


def test_every_nth_frame_is_searched_and_the_first_after_a_cut(detector, portrait):
    asked, faces = [], detector.detect(portrait)

    class Recorder:
        def detect_next(self, image, expected, search):
            asked.append((len(expected), search))
            return faces

    tracker = FaceTracker(Recorder(), search_every=3)
    other = np.ascontiguousarray(portrait[::-1])
    for frame in (*[portrait] * 5, other, other[:280]):
        [tracked] = tracker.track(frame)
    expected = [(0, True), (1, False), (1, False), (1, True), (1, False)]
    assert asked == [*expected, (0, True), (0, True)]
    assert (tracked.face.track, tracked.face.run) == (2, 2)
