"""Faces linked over frames, each followed by its own Kalman filter; shot cuts."""

from dataclasses import dataclass, field
from itertools import count

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from fsgan.faces.geometry import Face, intersection_over_union

# Of the face's size, between expected and found points. Within a shot up to 0.11 was
# seen; more is a cut to nearly the same place.
_MAX_JUMP = 0.15
# Of the similarity of two frames; 0.65 and more was seen within a shot, and where
# sentences of one speaker are joined; most shots of different scenes are below 0.2.
_MIN_SIMILARITY = 0.5
_UNKNOWN_VELOCITY = 1e4  # variance, (pixels a frame) squared
_THUMBNAIL = (64, 36)  # pixels, what frames are compared at


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


def smooth(measurements: np.ndarray, seen: np.ndarray, noise: float) -> np.ndarray:
    """Smooths a path looking both ways: without lag, and across gaps.

    The model is that of `KalmanFilter`, but that nothing is presumed of the first
    velocity.

    Args:
        measurements: float (n, ...), n >= 1, pixels; what stands where nothing was
            seen is not looked at.
        seen: bool (n,), where there is a measurement; the first is one.
        noise: process noise relative to the measurement noise, above 0.

    Returns:
        float64 (n, ...), the smoothed path.

    Raises:
        ValueError: `noise` is not above 0, or the path does not begin with a
            measurement.

    Source: Rauch, Tung and Striebel, "Maximum likelihood estimates of linear dynamic
    systems", 1965.
    """
    if not (len(seen) and seen[0]):
        raise ValueError("the path must begin with a measurement: seen[0] is not True")
    kalman = KalmanFilter(measurements[0], noise)
    kalman.covariance = np.diag([1.0, _UNKNOWN_VELOCITY])
    step = np.array([[1.0, 1.0], [0.0, 1.0]])
    states, gains = [np.stack([kalman.position, kalman.velocity])], []
    for measurement, is_seen in zip(measurements[1:], seen[1:], strict=True):
        filtered = kalman.covariance
        kalman.predict()
        gains.append(filtered @ step.T @ np.linalg.inv(kalman.covariance))
        if is_seen:
            kalman.correct(measurement)
        states.append(np.stack([kalman.position, kalman.velocity]))
    for index in reversed(range(len(gains))):
        expected = np.tensordot(step, states[index], axes=1)
        surprise = states[index + 1] - expected
        states[index] = states[index] + np.tensordot(gains[index], surprise, axes=1)
    return np.array(states)[:, 0]


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
        """Compares the next frame with the one before.

        Args:
            frame: RGB uint8 (height, width, 3).

        Returns:
            Whether it begins a new shot; a frame of another size does, the first frame
            of all does not.
        """
        small = cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA)
        gray = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(float)
        known = self._shape is not None
        same_size = frame.shape == self._shape
        ((variance, shared), (_, last_variance)) = np.cov(
            gray.ravel(), self._last.ravel()
        )
        steady = (0.03 * 255) ** 2  # keeps the noise of flat frames from counting
        similarity = (2 * shared + steady) / (variance + last_variance + steady)
        self._shape, self._last = frame.shape, gray
        return known and not (same_size and similarity >= _MIN_SIMILARITY)


@dataclass(eq=False)
class Track:
    """One face followed over frames.

    Attributes:
        number: counts the tracks of a video from 0.
        face: the face of the last frame in which it was seen, smoothed.
        found: the same face as the detector gave it.
        run: counts, over the tracks of a video, the stretches without a jump. Nothing
            may be smoothed from one to the next.
        missed: frames since the face was seen.
    """

    number: int
    face: Face
    found: Face
    run: int
    missed: int = 0
    _filter: KalmanFilter | None = field(default=None, repr=False)


class FaceTracker:
    """Links the faces of successive frames and smooths each on its own.

    Faces are linked where their boxes overlap most (Hungarian assignment). A face that
    overlaps none, as after a cut, starts a new track from its own measurement; where a
    cut leads to nearly the same place, the track's filter starts anew: another run. So
    nothing is smoothed across a cut or from one person to another.
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
        self._numbers, self._runs = count(), count()

    def expected_boxes(self) -> list[np.ndarray]:
        """Says where the faces should be in the next frame.

        Returns:
            float (4,) each, (left, top, right, bottom): the boxes of all tracks, those
            that wait for their face included.
        """
        return [self._expected_box(track) for track in self._tracks]

    def end_tracks(self) -> None:
        """Ends all tracks: the next frame is of another shot."""
        self._tracks = []

    def update(self, faces: list[Face]) -> list[Track]:
        """Takes in the faces of the next frame.

        Args:
            faces: the faces found in it, possibly none; one that holds a value that
                is no number is left out.

        Returns:
            The tracks seen in this frame; each `Track.face` is the smoothed face.
        """
        faces = [face for face in faces if np.isfinite(_measurement(face)).all()]
        overlap = intersection_over_union(
            np.array(self.expected_boxes()), np.array([face.box for face in faces])
        )
        for track in self._tracks:
            if track._filter is not None:
                track._filter.predict()
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
        """Where the track's box should be in the next frame."""
        if track._filter is None:
            return track.face.box
        return (track._filter.position + track._filter.velocity)[:2].ravel()

    def _follow(self, track: Track, found: Face) -> Track:
        """Corrects a track by the face found for it."""
        track.face, track.found, track.missed = found, found, 0
        if track._filter is None:
            return track
        measurement = _measurement(found)
        jump = np.linalg.norm(measurement - track._filter.position, axis=1)[2:]
        if jump.mean() > _MAX_JUMP * found.size:
            track._filter = KalmanFilter(measurement, self.noise)
            track.run = next(self._runs)
        else:
            state = track._filter.correct(measurement)
            track.face = Face(state[:2].ravel(), state[2:], found.confidence)
        return track

    def _start(self, face: Face) -> Track:
        """Starts a track at a face that no track explains."""
        kalman = None
        if self.noise is not None:
            kalman = KalmanFilter(_measurement(face), self.noise)
        return Track(next(self._numbers), face, face, next(self._runs), _filter=kalman)


def _measurement(face: Face) -> np.ndarray:
    """The two corners of the box and the five points as (7, 2)."""
    return np.vstack([face.box.reshape(2, 2), face.landmarks])
