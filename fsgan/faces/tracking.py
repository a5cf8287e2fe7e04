"""Faces linked over frames, each smoothed by its own Kalman filter; shot cuts."""

from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

import cv2
import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.linalg import splu

from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import Face, intersection_over_union
from fsgan.validation import AboveZero, Count, check

_MIN_OVERLAP = 0.3  # intersection over union, of boxes that are linked
_MAX_MISSED = 5  # frames for which a track waits for its face to come back
# Of the face's size, between expected and found points. Within a shot up to 0.11 was
# seen; more is a cut to nearly the same place.
_MAX_JUMP = 0.15
# Of two frames; 0.65 and more was seen within a shot, most cuts are below 0.2.
_MIN_SIMILARITY = 0.5
_NOISE = 0.03  # of the process, relative to that of the measurement
_UNKNOWN_VELOCITY = 1e4  # variance, (pixels a frame) squared
_STEP = np.array([[1.0, 1.0], [0.0, 1.0]])  # of position and velocity, in one frame
_THUMBNAIL = (64, 36)  # pixels, the size at which frames are compared


class KalmanFilter:
    """Constant-velocity Kalman filter for many coordinates at once.

    Every coordinate has the same noise, so one 2x2 covariance of (position, velocity)
    serves them all. The first measurement is the first state.

    Source: Kalman, "A new approach to linear filtering and prediction problems", 1960;
    the noise model of faceswap-GAN v2.2 (unit measurement noise, process noise equal in
    position and velocity).
    """

    def __init__(self, measurement: np.ndarray, noise: float = _NOISE) -> None:
        """Starts at rest at the first measurement.

        Args:
            measurement: float array of any shape, pixels.
            noise: process noise relative to the measurement noise, above 0. Larger
                values follow faster and smooth less.
        """
        self.noise = noise
        self.position = np.array(measurement, np.float64)
        self.velocity = np.zeros_like(self.position)
        self.covariance = np.eye(2)

    def predict(self) -> np.ndarray:
        """Moves the state one frame ahead; returns the expected position."""
        self.position = self.position + self.velocity
        self.covariance = _STEP @ self.covariance @ _STEP.T + self.noise * np.eye(2)
        return self.position

    def correct(self, measurement: np.ndarray) -> np.ndarray:
        """Takes in the measurement of this frame; returns the filtered position."""
        gain = self.covariance[:, 0] / (self.covariance[0, 0] + 1.0)
        residual = measurement - self.position
        self.position = self.position + gain[0] * residual
        self.velocity = self.velocity + gain[1] * residual
        self.covariance = self.covariance - np.outer(gain, self.covariance[0])
        return self.position


def smooth(measurements: np.ndarray, seen: np.ndarray, noise: float) -> np.ndarray:
    """Smooths a path looking both ways: without lag, and across gaps.

    It is the most likely path in the model of `KalmanFilter`, except that the first
    velocity is unknown.

    Args:
        measurements: float (n, ...), n >= 1, pixels; values where nothing was seen are
            ignored.
        seen: bool (n,), where there is a measurement; the first is one.
        noise: process noise relative to the measurement noise, above 0.

    Returns:
        float64 (n, ...), the smoothed path.

    Source: Rauch, Tung and Striebel, "Maximum likelihood estimates of linear dynamic
    systems", 1965.
    """
    count = len(seen)
    # Least squares over position and velocity of all frames, measured and stepped on.
    measure = sparse.kron(sparse.diags_array(np.array(seen, float)), [[1.0, 0.0]])
    step = sparse.kron(sparse.eye_array(count - 1, count, k=1), np.eye(2))
    step -= sparse.kron(sparse.eye_array(count - 1, count), _STEP)
    start = sparse.coo_array(([1 / _UNKNOWN_VELOCITY], ([1], [1])), (2 * count,) * 2)
    weights = measure.T @ measure + step.T @ step / noise + start
    known = np.reshape(measurements, (count, -1))
    known = np.where(np.reshape(seen, (count, 1)), known, 0)
    states = splu(weights.tocsc()).solve(measure.T @ known)
    return states[::2].reshape(np.shape(measurements))


class CutDetector:
    """Tells where one shot ends and the next begins.

    Thumbnails of successive frames are compared by the contrast and structure terms of
    the structural similarity: a change of light is no cut, nor is a flat frame that
    follows another.

    Source: Wang et al., "Image quality assessment: from error visibility to structural
    similarity", 2004.
    """

    def __init__(self) -> None:
        """Starts before the first frame."""
        self._shape: tuple[int, ...] | None = None
        self._last = np.zeros(_THUMBNAIL[::-1])

    def is_cut(self, frame: np.ndarray) -> bool:
        """Says whether the next frame begins a new shot.

        A frame of another size than the one before does, the first of all does not.

        Args:
            frame: RGB uint8 (height, width, 3).
        """
        small = cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(float)
        covariance = np.cov(gray.ravel(), self._last.ravel())
        steady = (0.03 * 255) ** 2  # keeps the noise of flat frames from counting
        similarity = (2 * covariance[0, 1] + steady) / (np.trace(covariance) + steady)
        shape, self._shape, self._last = self._shape, frame.shape, gray
        if shape is None:
            return False
        return bool(frame.shape != shape or similarity < _MIN_SIMILARITY)


class TrackedFace(NamedTuple):
    """A face of one frame, linked to those of the frames before.

    Nothing may be smoothed from one run of a track to the next.
    """

    face: Face  # smoothed, with its track and its run, counted over the video from 0
    found: Face  # as the detector gave it


@dataclass(eq=False)
class _Track:
    """What is known of a face from frame to frame."""

    number: int
    run: int
    kalman: KalmanFilter  # of its box and points
    missed: int = 0  # frames since it was last seen


class FaceTracker:
    """Finds the faces of successive frames, links them and smooths each on its own.

    Faces are linked where their boxes overlap most (Hungarian assignment). A face that
    overlaps none, as after a cut, starts a new track from its own measurement; where a
    cut leads to nearly the same place, the track's filter starts anew: another run. So
    nothing is smoothed across a cut or from one person to another.

    Attributes:
        cuts: how many were seen so far.
    """

    def __init__(
        self,
        detector: FaceDetector | None,
        noise: float | None = _NOISE,
        search_every: int = 5,
    ) -> None:
        """Starts before the first frame.

        Args:
            detector: finds the faces; None where only `update` is called.
            noise: process noise of the Kalman filters, above 0; less is smoother and
                lags more. None turns smoothing off.
            search_every: every n-th frame is searched for new faces; between, only the
                places are looked at where faces are expected, while all are there.

        Raises:
            ValueError: a setting is out of its range.
        """
        check("noise", noise, AboveZero | None)
        check("search_every", search_every, Count)
        self._detector, self._search_every = detector, search_every
        self._smooths, self._noise = noise is not None, noise or _NOISE
        self._cut_detector, self.cuts = CutDetector(), 0
        self._frames = 0
        self._tracks: list[_Track] = []
        self._numbers, self._runs = count(), count()

    def track(self, frame: np.ndarray) -> list[TrackedFace]:
        """Finds the faces of the next frame.

        Args:
            frame: RGB uint8 (height, width, 3). Of another size than the one before, it
                begins a new shot.

        Returns:
            The faces found in it.
        """
        if self._cut_detector.is_cut(frame):
            self._tracks, self.cuts = [], self.cuts + 1
        search = not self._tracks or self._frames % self._search_every == 0
        self._frames += 1
        expected = self.expected_boxes()
        return self.update(self._detector.detect_next(frame, expected, search))

    def expected_boxes(self) -> list[np.ndarray]:
        """Says where the faces of all tracks should be in the next frame."""
        states = [track.kalman for track in self._tracks]
        return [(state.position + state.velocity)[:2].ravel() for state in states]

    def update(self, faces: list[Face]) -> list[TrackedFace]:
        """Links the faces of the next frame, found elsewhere.

        Args:
            faces: possibly none; one with a value that is not finite is left out.

        Returns:
            The same faces with their tracks.
        """
        faces = [face for face in faces if np.isfinite(_measurement(face)).all()]
        overlap = intersection_over_union(
            np.array(self.expected_boxes()), np.array([face.box for face in faces])
        )
        linked = {
            column: self._tracks[row]
            for row, column in zip(*linear_sum_assignment(-overlap), strict=True)
            if overlap[row, column] >= _MIN_OVERLAP
        }
        for track in self._tracks:
            track.missed += 1
            track.kalman.predict()
        tracked, seen = [], []
        for index, face in enumerate(faces):
            track = self._follow(linked.get(index), face)
            seen.append(track)
            smoothed = face
            if self._smooths:
                state = track.kalman.position
                smoothed = Face(state[:2].ravel(), state[2:], face.confidence)
            smoothed = replace(smoothed, track=track.number, run=track.run)
            tracked.append(TrackedFace(smoothed, face))
        waiting = [track for track in self._tracks if track not in seen]
        self._tracks = seen + [t for t in waiting if t.missed <= _MAX_MISSED]
        return tracked

    def _follow(self, track: _Track | None, face: Face) -> _Track:
        """Takes a face into its track, or starts a track, or a run, with it."""
        measurement = _measurement(face)
        kalman = KalmanFilter(measurement, self._noise)
        if track is None:
            return _Track(next(self._numbers), next(self._runs), kalman)
        track.missed = 0
        jump = np.linalg.norm(measurement - track.kalman.position, axis=1)[2:]
        if jump.mean() > _MAX_JUMP * face.size:
            track.kalman, track.run = kalman, next(self._runs)
        else:
            track.kalman.correct(measurement)
        return track


def _measurement(face: Face) -> np.ndarray:
    """The two corners of the box and the five points as (7, 2)."""
    return np.vstack([face.box.reshape(2, 2), face.landmarks])
