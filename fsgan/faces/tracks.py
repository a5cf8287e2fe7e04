"""The first pass over a video: its faces found, tracked, and smoothed both ways."""

import base64
import html
import json
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from tqdm.auto import tqdm

from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import Face, align, crop_matrix
from fsgan.faces.tracking import FaceTracker, smooth
from fsgan.media.files import write_beside
from fsgan.media.images import (
    contact_sheet,
    evenly,
    list_images,
    picture_html,
    write_image,
)
from fsgan.media.prefetch import prefetch
from fsgan.media.reader import Frame, VideoInfo, probe, read_frames, time_limits

log = logging.getLogger(__name__)

_VERSION = 2  # Raise it when faces are found or linked otherwise.
# Looking both ways smooths so much better that it may follow so much faster: a still
# face still shakes less than half as much as looking back, and fast heads stay sharp.
_BOTH_WAYS = 6
_CROPS = 8  # of a track, at most
_CROP = 144  # pixels, the side of these; dlib's network sees 150
_TILE = 96  # pixels, of the contact sheet
_SHOWN = 64  # tracks on the contact sheet, at most

_ROW = np.dtype(
    [
        ("frame", np.int64),  # index in the video
        ("time", np.float64),  # seconds
        ("track", np.int32),
        ("run", np.int32),
        ("confidence", np.float64),  # NaN where the detector missed the face
        ("box", np.float64, 4),  # as found, pixels; NaN likewise
        ("landmarks", np.float64, (5, 2)),  # likewise
        ("smoothed_box", np.float64, 4),
        ("smoothed_landmarks", np.float64, (5, 2)),
    ]
)
# Crops of each track, with the index of the frame that each is of, as JPEG.
_Crops = dict[int, list[tuple[int, bytes]]]


@dataclass(frozen=True)
class Track:
    """One face of a video."""

    number: int  # what `fsgan.convert_video(only=...)` knows it by
    frames: int  # in which it was found
    first: int  # index of the first of them
    last: int  # index of the last
    start: float  # seconds of the first
    end: float  # seconds of the last


class FaceTracks:
    """The tracked faces of a stretch of a video.

    Attributes:
        source: the video.
        tracks: the faces, in the order in which they appear.
        contact_sheet: RGB uint8 picture, a row for each track; None without tracks.
    """

    def __init__(self, source: Path, rows: np.ndarray, crops: _Crops) -> None:
        """Takes what `follow_faces` knows of each face in each frame."""
        self.source = source
        self._rows, self._crops = rows, crops
        self._frames = rows["frame"].copy()  # to be searched fast
        self.tracks: list[Track] = []
        found = rows[~np.isnan(rows["confidence"])]
        for number in np.unique(found["track"]).tolist():
            seen = found[found["track"] == number][["frame", "time"]]
            (first, start), (last, end) = seen[[0, -1]].tolist()
            self.tracks.append(Track(number, len(seen), first, last, start, end))
        self.contact_sheet = self._draw() if self.tracks else None

    def __len__(self) -> int:
        """The number of tracks."""
        return len(self.tracks)

    def __repr__(self) -> str:
        """The video and the number of tracks."""
        return f"FaceTracks({self.source}: {len(self)} tracks)"

    def _repr_html_(self) -> str:
        if self.contact_sheet is None:
            return html.escape(repr(self))
        return picture_html(self.contact_sheet)

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
                row["smoothed_box"],
                row["smoothed_landmarks"],
                float(np.nan_to_num(row["confidence"])),
                int(row["track"]),
                int(row["run"]),
            )
            for row in self._rows[first:last]
            if only is None or row["track"] in only
        ]

    def crops(self, tracks: Sequence[Track]) -> list[np.ndarray]:
        """Gives some aligned crops of each track, evenly spread over its length.

        Args:
            tracks: of this video.

        Returns:
            For each track RGB uint8 (n, 144, 144, 3), 1 <= n <= 8.
        """
        return [
            np.stack(
                [
                    cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
                    for _, jpeg in self._crops[track.number]
                ]
            )
            for track in tracks
        ]

    def _draw(self) -> np.ndarray:
        """A row of crops for each track, the longest if they are many."""
        shown = sorted(self.tracks, key=lambda track: -track.frames)[:_SHOWN]
        if len(shown) < len(self.tracks):
            log.warning(
                "the sheet shows the %d longest of %d tracks", _SHOWN, len(self.tracks)
            )
        shown.sort(key=lambda track: track.number)
        tiles, labels = [], []
        for track, crops in zip(shown, self.crops(shown), strict=True):
            tiles += [*crops, *np.zeros((_CROPS - len(crops), 1, 1, 3), np.uint8)]
            span = f"{track.start:.1f}-{track.end:.1f} s"
            labels += [f"track {track.number}", span, f"{track.frames} frames"]
            labels += [""] * (_CROPS - 3)
        return contact_sheet(tiles, _CROPS, _TILE, labels)


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
) -> FaceTracks:
    """Finds and tracks the faces of a video, for `fsgan.convert_video` to swap.

    Writes two files: `<out>.tracks.json` says for each frame and track where the face
    was found (box, five points, confidence; null where the detector missed it for up to
    5 frames) and where it is once smoothed, and holds a few crops of each track;
    `<out>.tracks.png` shows these with the tracks' numbers. Where the first is there
    already, made from the same file with the same settings, for this stretch or a
    longer one, the video is not read again. Memory: 256 bytes a face and frame.

    Args:
        source: the video or folder of pictures, as of `fsgan.media.reader.read_frames`.
        out: name of the two files; a suffix, as of the video to write, is left out.
        min_face: shorter side of the smallest face taken, in pixels, at least 20.
        min_confidence: smallest score of a face, in [0.7, 1].
        smoothing: process noise of the Kalman filters, above 0; less is smoother. None
            turns smoothing off, and leaves gaps open.
        search_every: every n-th frame is searched for new faces; between, only the
            places are looked at where faces are expected, while all are there.
        start: first second.
        end: second to stop at; None goes on to the end.
        fps: frames a second of a folder of pictures; None takes 25.

    Returns:
        The tracks between `start` and `end`, their faces and the contact sheet.

    Raises:
        FileNotFoundError: `source` is missing.
        ValueError: `source` is no video, no frame lies between `start` and `end`, or a
            setting is wrong.
        OSError: the files cannot be written.
    """
    if smoothing is not None and not smoothing > 0:
        raise ValueError(f"smoothing must be above 0, or None, got {smoothing}")
    source, tracks_file = Path(source), Path(out).with_suffix(".tracks.json")
    detector = FaceDetector(min_face, min_confidence)
    tracker = FaceTracker(detector, search_every=search_every)
    info = probe(source, fps)
    made_from = fingerprint(source) | {
        "fps": str(info.fps),
        "min_face": min_face,
        "min_confidence": min_confidence,
        "search_every": search_every,
        "start": start,
        "end": end,
    }
    known = _read(tracks_file, made_from)
    with write_beside(tracks_file) as path:  # fails before the search, if it must
        if known is None:
            known = (made_from, *_search(info, tracker, start, end, fps))
        made_from, found, crops = known
        rows = _smooth(found, smoothing)
        _write(path, made_from | {"smoothing": smoothing}, rows, crops)
    tracks = FaceTracks(source, *_within(rows, crops, start, end))
    sheet = tracks_file.with_suffix(".png")
    if tracks.contact_sheet is None:
        sheet.unlink(missing_ok=True)
    else:
        write_image(sheet, tracks.contact_sheet)
    return tracks


def fingerprint(source: Path) -> dict[str, str | int]:
    """Name, bytes and last change of a video or folder: tells it from another one."""
    files = list_images(source) if source.is_dir() else [source]
    stats = [path.stat() for path in files]
    return {
        "source": source.name,
        "bytes": sum(stat.st_size for stat in stats),
        "modified": max(stat.st_mtime_ns for stat in stats),
    }


def _write(path: Path, made_from: dict, rows: np.ndarray, crops: _Crops) -> None:
    """Writes a tracks file: JSON, one line a face; null stands where it was missed."""
    encoded = {
        number: [[frame, base64.b64encode(jpeg).decode()] for frame, jpeg in of_track]
        for number, of_track in crops.items()
    }
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"version": _VERSION} | made_from)[:-1] + ', "faces": [')
        for index, row in enumerate(rows):
            entry = {name: row[name].tolist() for name in _ROW.names}
            if np.isnan(row["confidence"]):
                entry |= {"confidence": None, "box": None, "landmarks": None}
            file.write(("," if index else "") + "\n" + json.dumps(entry))
        file.write('\n],\n"crops": ' + json.dumps(encoded) + "}\n")


def _read(path: Path, made_from: dict) -> tuple[dict, np.ndarray, _Crops] | None:
    """Reads what was found in the same way in this stretch or a longer one, if it was.

    The smoothed points in the rows are out of date. A damaged file counts as none.
    """
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.pop("version") != _VERSION:
            return None
        rows = [
            tuple(entry[name] for name in _ROW.names)
            for entry in known.pop("faces")
            if entry["box"] is not None
        ]
        crops = {
            int(number): [(frame, base64.b64decode(jpeg)) for frame, jpeg in of_track]
            for number, of_track in known.pop("crops").items()
        }
        if missing := {row[2] for row in rows} - set(crops):
            raise KeyError(f"crops of track {min(missing)}")
        same = all(
            known[name] == value
            for name, value in made_from.items()
            if name not in ("start", "end")
        )
        starts = known["start"] <= made_from["start"]
        ends = (made_from["end"] or np.inf) <= (known["end"] or np.inf)
        found = np.array(rows, _ROW)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%r): the faces are searched again", path, error)
        return None
    return (known, found, crops) if same and starts and ends else None


@dataclass
class _CropSampler:
    """Keeps every n-th crop of a track, and doubles n when there are too many."""

    kept: list[tuple[int, bytes]] = field(default_factory=list)
    seen: int = 0
    every: int = 1

    def add(self, frame: Frame, face: Face) -> None:
        if self.seen % self.every == 0:
            crop = align(frame.image, crop_matrix(face.landmarks, _CROP), _CROP)
            quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
            jpeg = cv2.imencode(".jpg", crop[..., ::-1], quality)[1].tobytes()
            self.kept.append((frame.index, jpeg))
            if len(self.kept) == 2 * _CROPS:
                self.kept = self.kept[::2]
                self.every *= 2
        self.seen += 1

    def chosen(self) -> list[tuple[int, bytes]]:
        return evenly(self.kept, min(_CROPS, 1 + self.seen // 4))


def _search(
    info: VideoInfo,
    tracker: FaceTracker,
    start: float,
    end: float | None,
    fps: Fraction | float | None,
) -> tuple[np.ndarray, _Crops]:
    """Rows of the faces found, not smoothed yet, and crops of each track."""
    found, samplers = bytearray(), defaultdict(_CropSampler)
    count = info.frames_between(start, end)
    frames = prefetch(read_frames(info.path, start, end, fps), ahead=4)
    for frame in tqdm(frames, "find faces", count, unit="frame"):
        for face, as_found in tracker.track(frame.image):
            samplers[face.track].add(frame, as_found)
            place = (frame.index, float(frame.time), face.track, face.run)
            points = as_found.box.round(3), as_found.landmarks.round(3)
            row = (*place, round(as_found.confidence, 6), *points, *points)
            found += np.array([row], _ROW).tobytes()
    crops = {number: sampler.chosen() for number, sampler in samplers.items()}
    return np.frombuffer(found, _ROW), crops


def _smooth(found: np.ndarray, smoothing: float | None) -> np.ndarray:
    """Fills in the smoothed points, and rows where a run has a gap."""
    runs = [found[:0]]
    for run in np.unique(found["run"]):
        of_run = found[found["run"] == run]
        frames = of_run["frame"]
        if smoothing is not None:
            frames = np.arange(frames[0], frames[-1] + 1)
        seen = np.isin(frames, of_run["frame"])
        rows = np.zeros(len(frames), _ROW)
        rows["frame"], rows["track"], rows["run"] = frames, of_run["track"][0], run
        rows["time"] = np.interp(frames, of_run["frame"], of_run["time"])
        for name in ("confidence", "box", "landmarks"):
            rows[name] = np.nan
            rows[name][seen] = of_run[name]
        for name in ("box", "landmarks"):
            path = rows[name]
            if smoothing is not None:
                path = smooth(path, seen, _BOTH_WAYS * smoothing).round(3)
            rows[f"smoothed_{name}"] = path
        runs.append(rows)
    return np.sort(np.concatenate(runs), order=["frame", "track"])


def _within(
    rows: np.ndarray, crops: _Crops, start: float, end: float | None
) -> tuple[np.ndarray, _Crops]:
    """The rows of a stretch, and of each track in it the crops, if there are any."""
    first, last = time_limits(start, end)
    after = rows["time"] >= float(first)
    rows = rows[after & (rows["time"] < (np.inf if last is None else float(last)))]
    limited = {}
    for number in np.unique(rows["track"]).tolist():
        of_track = rows[rows["track"] == number]["frame"]
        inside = [crop for crop in crops[number] if crop[0] in of_track]
        limited[number] = inside or crops[number]
    return rows, limited
