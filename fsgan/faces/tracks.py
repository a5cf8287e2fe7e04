"""The first pass over a video: its faces found, followed, and smoothed both ways."""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fsgan.faces.detector import FaceDetector
from fsgan.faces.face_record import ROW, read_record, write_record
from fsgan.faces.geometry import Face, align, crop_matrix
from fsgan.faces.tracking import CutDetector, FaceTracker, Track, smooth
from fsgan.media.image_sequence import ImageSequence, is_sequence
from fsgan.media.images import contact_sheet, read_image, write_beside, write_image
from fsgan.media.prefetch import prefetch
from fsgan.media.reader import VideoInfo, probe, read_frames

log = logging.getLogger(__name__)

# Looking both ways smooths so much better that it may follow so much faster: a still
# face still shakes less than half as much as looking back, and fast heads stay sharp.
_BOTH_WAYS = 6
_CROPS = 8  # of a track, at most
_TILE = 96  # pixels, of the contact sheet
_SHOWN = 64  # tracks on the contact sheet, at most


class FaceFollower:
    """Finds the faces of successive frames and follows them, looking back only."""

    def __init__(
        self, detector: FaceDetector, noise: float | None = 0.03, search_every: int = 5
    ) -> None:
        """Starts before the first frame.

        Args:
            detector: finds the faces.
            noise: process noise of the Kalman filters, as of `FaceTracker`.
            search_every: every n-th frame is searched for new faces; between, only the
                places are looked at where faces are expected.
        """
        self._detector = detector
        self._tracker = FaceTracker(noise)
        self._cuts = CutDetector()
        self._search_every = search_every
        self._frames = 0

    def follow(self, frame: np.ndarray) -> list[Track]:
        """Finds the faces of the next frame.

        Args:
            frame: RGB uint8 (height, width, 3). Of another size than the one before, it
                begins a new shot.

        Returns:
            The tracks seen in it, as of `FaceTracker.update`.
        """
        if self._cuts.is_cut(frame):
            self._tracker.end_tracks()
        expected = self._tracker.expected_boxes()
        search = not expected or self._frames % self._search_every == 0
        self._frames += 1
        return self._tracker.update(self._detector.find(frame, expected, search))


@dataclass(frozen=True)
class FollowedTrack:
    """One face of a video.

    Attributes:
        number: what `fsgan.convert_video(only=...)` knows it by.
        frames: frames in which it was found.
        first: index of the first of them.
        last: index of the last.
        start: seconds of the first.
        end: seconds of the last.
    """

    number: int
    frames: int
    first: int
    last: int
    start: float
    end: float


class FollowedFaces:
    """The faces of a video.

    Attributes:
        source: the video.
        tracks: the faces followed, in the order in which they appear.
        contact_sheet: RGB uint8 picture, a row for each track; None without tracks.
    """

    def __init__(self, source: Path, rows: np.ndarray) -> None:
        """Takes what is known of each face in each frame, in the order of the frames.

        Args:
            source: the video.
            rows: as made by `follow_faces`.
        """
        self.source = source
        self.tracks: list[FollowedTrack] = []
        self.contact_sheet: np.ndarray | None = None
        self._rows = rows
        self._frames = rows["frame"].copy()  # to be searched fast
        for number in np.unique(rows["track"]):
            seen = self._seen(number)
            first, last = seen[0], seen[-1]
            self.tracks.append(
                FollowedTrack(
                    int(number),
                    len(seen),
                    int(first["frame"]),
                    int(last["frame"]),
                    float(first["time"]),
                    float(last["time"]),
                )
            )

    def faces(self, frame: int, only: Collection[int] | None = None) -> list[Face]:
        """Gives the smoothed faces of one frame.

        Args:
            frame: its index in the video.
            only: numbers of the tracks wanted; None wants all.

        Returns:
            The faces; the confidence of one that the detector missed is 0.
        """
        first, last = np.searchsorted(self._frames, [frame, frame + 1])
        return [
            Face(
                row["smoothed"][:2].ravel(),
                row["smoothed"][2:],
                float(np.nan_to_num(row["confidence"])),
                int(row["track"]),
                int(row["run"]),
            )
            for row in self._rows[first:last]
            if only is None or row["track"] in only
        ]

    def crops(
        self, tracks: Collection[FollowedTrack], size: int = 256
    ) -> list[np.ndarray]:
        """Cuts some aligned crops of each track out of the video, evenly chosen.

        Args:
            tracks: of this video.
            size: side of the crops in pixels.

        Returns:
            For each track RGB uint8 (n, size, size, 3), 1 <= n <= 8.
        """
        chosen: dict[int, list[tuple[int, np.ndarray]]] = {}
        for track in tracks:
            seen = self._seen(track.number)
            count = min(_CROPS, 1 + len(seen) // 4)
            for row in seen[np.linspace(0, len(seen) - 1, count).round().astype(int)]:
                place = (track.number, row["smoothed"][2:])
                chosen.setdefault(int(row["frame"]), []).append(place)
        crops: dict[int, list[np.ndarray]] = {track.number: [] for track in tracks}
        for frame in read_frames(self.source) if chosen else ():
            for number, landmarks in chosen.get(frame.index, ()):
                matrix = crop_matrix(landmarks, size)
                crops[number].append(align(frame.image, matrix, size))
            if frame.index == max(chosen):
                break
        return [np.stack(of_track) for of_track in crops.values()]

    def _seen(self, number: int) -> np.ndarray:
        """The rows of a track in which the detector found it."""
        rows = self._rows
        return rows[(rows["track"] == number) & ~np.isnan(rows["confidence"])]


def follow_faces(
    source: str | Path,
    out: str | Path,
    *,
    min_face: float = 35,
    min_confidence: float = 0.8,
    smoothing: float | None = 0.03,
    search_every: int = 5,
    start: float = 0.0,
    end: float | None = None,
    fps: Fraction | float | None = None,
) -> FollowedFaces:
    """Finds and follows the faces of a video, for `fsgan.convert_video` to swap.

    Writes two files: `<out>.faces.json` says for each frame and track where the face
    was found (box, five points, confidence; null where the detector missed it for up to
    5 frames) and where it is once smoothed; `<out>.tracks.png` shows each track, with
    its number. Where the first is there already, made from the same file with the same
    settings, nothing is searched again. Frames pass by one by one; what is kept of each
    face in each is 256 bytes.

    Args:
        source: the video, or an image sequence, as of `fsgan.media.reader.read_frames`.
        out: name of the two files; a suffix, as of the video to write, is left out.
        min_face: shorter side of the smallest face taken, in pixels, at least 20.
        min_confidence: smallest score of a face, in [0.7, 1].
        smoothing: process noise of the Kalman filters, above 0; less is smoother. None
            turns smoothing off, and leaves gaps open.
        search_every: every n-th frame is searched for new faces; between, only the
            places are looked at where faces are expected, while all are there.
        start: first second.
        end: second to stop at; None goes on to the end.
        fps: frames a second of an image sequence; None takes 25.

    Returns:
        The tracks, their faces and the contact sheet.

    Raises:
        FileNotFoundError: `source` is missing.
        ValueError: `source` is no video, no frame lies between `start` and `end`, or a
            setting is wrong.
        OSError: the files cannot be written.
    """
    if smoothing is not None and not smoothing > 0:
        raise ValueError(f"smoothing must be above 0, or None, got {smoothing}")
    if search_every < 1:
        raise ValueError(f"search_every must be at least 1, got {search_every}")
    source, record = Path(source), Path(out).with_suffix(".faces.json")
    sheet = Path(out).with_suffix(".tracks.png")
    detector = FaceDetector(min_face, min_confidence)
    info = probe(source, fps)
    header = fingerprint(source) | {
        "fps": str(info.fps),
        "min_face": min_face,
        "min_confidence": min_confidence,
        "search_every": search_every,
        "start": start,
        "end": end,
    }
    header, found = read_record(record, header)
    with write_beside(record) as path:  # before the search, lest it be for nothing
        if found is None:
            follower = FaceFollower(detector, search_every=search_every)
            found = _search(info, follower, start, end, fps)
            sheet.unlink(missing_ok=True)
        rows = _smooth(found, smoothing)
        write_record(path, header | {"smoothing": smoothing}, rows)
    followed = FollowedFaces(source, rows)
    if followed.tracks:
        if not sheet.is_file():
            write_image(sheet, _draw(followed))
        followed.contact_sheet = read_image(sheet)
    return followed


def fingerprint(source: Path) -> dict[str, str | int]:
    """Tells a video from another one of the same name.

    Args:
        source: the video, a folder of pictures or a pattern of their names.

    Returns:
        Name, bytes and time of the last change.
    """
    files = ImageSequence(source).files if is_sequence(source) else [source]
    stats = [path.stat() for path in files]
    return {
        "source": source.name,
        "bytes": sum(stat.st_size for stat in stats),
        "modified": max(stat.st_mtime_ns for stat in stats),
    }


def _search(
    info: VideoInfo,
    follower: FaceFollower,
    start: float,
    end: float | None,
    fps: Fraction | float | None,
) -> np.ndarray:
    """Rows of the faces found; nothing is smoothed yet."""
    found = bytearray()
    seconds = min(end or np.inf, info.duration) - start
    frames = max(1, round(info.frame_count * seconds / info.duration))
    stream = prefetch(read_frames(info.path, start, end, fps), ahead=4)
    for frame in tqdm(stream, "find faces", frames, unit="frame"):
        for track in follower.follow(frame.image):
            face = track.found
            points = np.vstack([face.box.reshape(2, 2), face.landmarks]).round(3)
            time, confidence = round(float(frame.time), 6), round(face.confidence, 6)
            place = (frame.index, time, track.number, track.run)
            found += np.array([(*place, confidence, points, points)], ROW).tobytes()
    return np.frombuffer(found, ROW)


def _smooth(found: np.ndarray, smoothing: float | None) -> np.ndarray:
    """Adds the smoothed points, and rows where a run has a gap."""
    if smoothing is None or not len(found):
        return found
    runs = []
    for run in np.unique(found["run"]):
        of_run = found[found["run"] == run]
        frames = np.arange(of_run["frame"][0], of_run["frame"][-1] + 1)
        seen = np.isin(frames, of_run["frame"])
        rows = np.zeros(len(frames), ROW)
        rows["confidence"], rows["found"] = np.nan, np.nan
        rows["track"], rows["run"] = of_run["track"][0], run
        rows["time"] = np.interp(frames, of_run["frame"], of_run["time"]).round(6)
        rows[seen] = of_run
        rows["frame"] = frames
        smoothed = smooth(rows["found"], seen, _BOTH_WAYS * smoothing)
        rows["smoothed"] = smoothed.round(3)
        runs.append(rows)
    return np.sort(np.concatenate(runs), order=["frame", "track"])


def _draw(followed: FollowedFaces) -> np.ndarray:
    """A row of crops for each track, the longest if they are many."""
    longest = sorted(followed.tracks, key=lambda track: -track.frames)[:_SHOWN]
    if len(longest) < len(followed.tracks):
        log.warning(
            "the sheet shows the %d longest of %d tracks", _SHOWN, len(followed.tracks)
        )
    shown = sorted(longest, key=lambda track: track.number)
    tiles, labels = [], []
    for track, crops in zip(shown, followed.crops(shown, _TILE), strict=True):
        blank = np.zeros((_CROPS - len(crops), *crops.shape[1:]), np.uint8)
        tiles += [*crops, *blank]
        span = f"{track.start:.1f}-{track.end:.1f} s"
        labels += [f"track {track.number}", span, f"{track.frames} frames"]
        labels += [""] * (_CROPS - 3)
    return contact_sheet(tiles, _CROPS, _TILE, labels)
