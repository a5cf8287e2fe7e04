"""Faces linked over frames, each followed by its own Kalman filter."""

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from fsgan.geometry import Face, intersection_over_union

# Of the face's size, between expected and found points. Within a shot up to 0.11 was
# seen; more is a cut to nearly the same place.
_MAX_JUMP = 0.15


class KalmanFilter:
    """Constant-velocity Kalman filter for many coordinates at once.

    Every coordinate has the same noise, so one 2x2 covariance of (position, velocity)
    serves them all. The first measurement is the first state.

    Source: Kalman, "A new approach to linear filtering and prediction problems", 1960;
    the noise model of faceswap-GAN v2.2 (unit measurement noise, process noise equal in
    position and velocity).
    """

    def __init__(self, measurement: np.ndarray, noise: float = 0.03) -> None:
        """Starts at rest at the first measurement.

        Args:
            measurement: float array of any shape, pixels.
            noise: process noise relative to the measurement noise, above 0. Larger
                values follow faster and smooth less.

        Raises:
            ValueError: `noise` is not above 0.
        """
        if not noise > 0:
            raise ValueError(f"noise must be above 0, got {noise}")
        self.noise = noise
        self.position = np.array(measurement, np.float64)
        self.velocity = np.zeros_like(self.position)
        self.covariance = np.eye(2)

    def predict(self) -> np.ndarray:
        """Moves the state one frame ahead.

        Returns:
            float64, the expected position, in the shape of the measurement.
        """
        step = np.array([[1.0, 1.0], [0.0, 1.0]])
        self.position = self.position + self.velocity
        self.covariance = step @ self.covariance @ step.T + self.noise * np.eye(2)
        return self.position

    def correct(self, measurement: np.ndarray) -> np.ndarray:
        """Takes in the measurement of the frame the state was moved to.

        Args:
            measurement: float, in the shape of the first one, pixels.

        Returns:
            float64, the filtered position of this frame.
        """
        gain = self.covariance[:, 0] / (self.covariance[0, 0] + 1.0)
        residual = measurement - self.position
        self.position = self.position + gain[0] * residual
        self.velocity = self.velocity + gain[1] * residual
        self.covariance = self.covariance - np.outer(gain, self.covariance[0])
        return self.position


@dataclass(eq=False)
class Track:
    """One face followed over frames.

    Attributes:
        number: counts the tracks of a video from 0.
        face: the face of the last frame in which it was seen, smoothed.
        missed: frames since then.
    """

    number: int
    face: Face
    missed: int = 0
    _filter: KalmanFilter | None = field(default=None, repr=False)


class FaceTracker:
    """Links the faces of successive frames and smooths each on its own.

    Faces are linked where their boxes overlap most (Hungarian assignment). A face that
    overlaps none, as after a cut, starts a new track from its own measurement; where a
    cut leads to nearly the same place, the track's filter starts anew. So nothing is
    smoothed across a cut or from one person to another.
    """

    def __init__(
        self,
        noise: float | None = 0.03,
        min_overlap: float = 0.3,
        max_missed: int = 5,
    ) -> None:
        """Sets how faces are linked and smoothed.

        Args:
            noise: process noise of the Kalman filters, above 0; None turns smoothing
                off. The default shakes a third as much as the detector and lags 1 to 2
                pixels where a head moves fast; v2.2's 0.003 shakes a fifth and lags
                up to 5.
            min_overlap: smallest intersection over union that links two boxes, in
                (0, 1).
            max_missed: frames for which a track waits for its face to come back.

        Raises:
            ValueError: a setting is out of its range.
        """
        if noise is not None and not noise > 0:
            raise ValueError(f"noise must be above 0 or None, got {noise}")
        if not 0 < min_overlap < 1:
            raise ValueError(f"min_overlap must be in (0, 1), got {min_overlap}")
        if max_missed < 0:
            raise ValueError(f"max_missed must be at least 0, got {max_missed}")
        self.noise = noise
        self.min_overlap = min_overlap
        self.max_missed = max_missed
        self._tracks: list[Track] = []
        self._started = 0

    def update(self, faces: list[Face]) -> list[Track]:
        """Takes in the faces of the next frame.

        Args:
            faces: the faces found in it, possibly none.

        Returns:
            The tracks seen in this frame; each `Track.face` is the smoothed face.
        """
        expected = [self._expected_box(track) for track in self._tracks]
        overlap = intersection_over_union(
            np.array(expected), np.array([face.box for face in faces])
        )
        pairs = [
            (row, column)
            for row, column in zip(*linear_sum_assignment(-overlap), strict=True)
            if overlap[row, column] >= self.min_overlap
        ]
        seen = [self._follow(self._tracks[row], faces[column]) for row, column in pairs]
        linked = {column for _, column in pairs}
        seen += [self._start(f) for i, f in enumerate(faces) if i not in linked]
        waiting = [track for track in self._tracks if track not in seen]
        for track in waiting:
            track.missed += 1
        self._tracks = seen + [t for t in waiting if t.missed <= self.max_missed]
        return seen

    def _expected_box(self, track: Track) -> np.ndarray:
        """Moves the filter one frame ahead; where the track's box should be now."""
        if track._filter is None:
            return track.face.box
        return track._filter.predict()[:2].ravel()

    def _follow(self, track: Track, face: Face) -> Track:
        """Corrects a track by the face found for it."""
        if track._filter is not None:
            measurement = _measurement(face)
            jump = np.linalg.norm(measurement - track._filter.position, axis=1)[2:]
            if jump.mean() > _MAX_JUMP * face.size:
                track._filter = KalmanFilter(measurement, self.noise)
            else:
                state = track._filter.correct(measurement)
                face = Face(state[:2].ravel(), state[2:], face.confidence)
        track.face, track.missed = face, 0
        return track

    def _start(self, face: Face) -> Track:
        """Starts a track at a face that no track explains."""
        kalman = None
        if self.noise is not None:
            kalman = KalmanFilter(_measurement(face), self.noise)
        self._started += 1
        return Track(self._started - 1, face, _filter=kalman)


def _measurement(face: Face) -> np.ndarray:
    """The two corners of the box and the five points as (7, 2)."""
    return np.vstack([face.box.reshape(2, 2), face.landmarks])
