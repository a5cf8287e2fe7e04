"""The first pass over a video: its faces found, tracked, and smoothed both ways."""

import base64
import html
import json
import logging
import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
from pydantic import Base64Bytes, Field
from skimage.filters import apply_hysteresis_threshold
from tqdm.auto import tqdm
from typing_extensions import TypedDict

from fsgan.faces.detector import FaceDetector, MinConfidence, MinFace
from fsgan.faces.geometry import (
    Box,
    Face,
    Landmarks,
    align,
    crop_matrix,
    intersection_over_union,
)
from fsgan.faces.pose import PROFILE, estimate_yaw
from fsgan.faces.tracking import FaceTracker, smooth
from fsgan.media.files import check_output, write_beside
from fsgan.media.images import (
    contact_sheet,
    evenly,
    list_images,
    picture_html,
    write_image,
)
from fsgan.media.prefetch import prefetch
from fsgan.media.reader import Frame, VideoInfo, probe, read_frames, time_limits
from fsgan.validation import AboveZero, AtLeastZero, Count, Share, checked, read_json

log = logging.getLogger(__name__)

_VERSION = 3  # Raise it when faces are found or linked otherwise.
# Looking both ways smooths so much better that it may follow so much faster: a still
# face still shakes less than half as much as looking back, and fast heads stay sharp.
_BOTH_WAYS = 6
_GAP = 0.5  # seconds between two sights of a face, at most
_MOTION = 5  # frames, at both ends of a gap, that tell how fast a face moves
_SAME_PLACE = 0.5  # intersection over union, of the boxes at both ends of a gap
_LONE = 3  # frames: so short a run between frames without the face is none
_FRONTAL = PROFILE - 4  # degrees; next to a profile it takes so little to be a face
_LONGEST_STEP = 1000  # frames; of a damaged file more would be filled
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
        ("profile", np.bool_),  # turned too far to be swapped
    ]
)
# Crops of each track, with the index of the frame that each is of, as JPEG.
_Crops = dict[int, list[tuple[int, bytes]]]

_Index = Annotated[int, Field(ge=0, lt=2**31)]
_Seconds = Annotated[float, Field(ge=0, le=1e9)]
_JPEGs = list[tuple[_Index, Base64Bytes]]


class _Entry(TypedDict):
    """A row in the tracks file."""

    frame: _Index
    time: _Seconds
    track: _Index
    run: _Index
    confidence: Share | None
    box: Box | None
    landmarks: Landmarks | None
    smoothed_box: Box
    smoothed_landmarks: Landmarks
    profile: bool


class _Record(TypedDict):
    """The tracks file."""

    version: int
    source: str
    bytes: int
    modified: int
    fps: str
    min_face: float
    min_confidence: float
    search_every: int
    start: float
    end: float | None
    faces: list[_Entry]
    crops: dict[_Index, Annotated[_JPEGs, Field(min_length=1, max_length=_CROPS)]]


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
        tracks: the faces, in the order in which they appear; none that is only seen in
            profile.
        contact_sheet: RGB uint8 picture, a row for each track; None without tracks.
    """

    def __init__(self, source: Path, rows: np.ndarray, crops: _Crops) -> None:
        """Takes what `follow_faces` knows of each face in each frame."""
        self.source = source
        self._rows, self._crops = rows, crops
        self._frames = rows["frame"].copy()  # to be searched fast
        self.tracks: list[Track] = []
        found = rows[~np.isnan(rows["confidence"]) & ~rows["profile"]]
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
        """Gives the smoothed faces of one frame that can be swapped.

        Args:
            frame: its index in the video.
            only: numbers of the tracks wanted; None wants all.

        Returns:
            The faces, none in profile; the confidence of one that the detector missed
            is 0.
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
            if not row["profile"] and (only is None or row["track"] in only)
        ]

    def frames_in_profile(self, only: Collection[int] | None = None) -> int:
        """Counts the frames in which a face is turned too far to be swapped.

        Args:
            only: numbers of the tracks that count; None counts all.
        """
        rows = self._rows[self._rows["profile"]]
        if only is not None:
            rows = rows[np.isin(rows["track"], list(only))]
        return len(np.unique(rows["frame"]))

    def crops(self, tracks: Sequence[Track]) -> list[np.ndarray]:
        """Gives some aligned crops of each track, evenly spread over its length.

        Args:
            tracks: of this video.

        Returns:
            For each track RGB uint8 (n, 144, 144, 3), 1 <= n <= 8.
        """
        return [
            np.stack([_decode(jpeg) for _, jpeg in self._crops[track.number]])
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


@checked
def follow_faces(
    source: str | Path,
    out: str | Path,
    *,
    min_face: MinFace = 35,
    min_confidence: MinConfidence = 0.8,
    smoothing: AboveZero | None = 0.03,
    search_every: Count = 5,
    start: AtLeastZero = 0.0,
    end: AboveZero | None = None,
    fps: Fraction | AboveZero | None = None,
) -> FaceTracks:
    """Finds and tracks the faces of a video, for `fsgan.convert_video` to swap.

    Writes two files: `<out>.tracks.json` says for each frame and track where the face
    was found (box, five points, confidence; null where the detector missed it for up to
    half a second or 5 frames), where it is once smoothed, and whether it is in profile,
    too far turned to be swapped, and holds a few crops of each track;
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
    source, out = Path(source), Path(out)
    check_output(out)
    tracks_file = out.with_suffix(".tracks.json")
    detector = FaceDetector(min_face, min_confidence)
    tracker = FaceTracker(detector, search_every=search_every)
    info = probe(source, fps)
    made_from = fingerprint(source) | {
        "fps": str(info.fps),
        "min_face": float(min_face),
        "min_confidence": min_confidence,
        "search_every": search_every,
        "start": float(start),
        "end": None if end is None else float(end),
    }
    known = _read(tracks_file, made_from)
    with write_beside(tracks_file) as path:  # fails before the search, if it must
        if known is None:
            known = (made_from, *_search(info, tracker, start, end, fps))
        made_from, found, crops = known
        rows = _smooth(found, smoothing)
        _write(path, made_from | {"smoothing": smoothing}, rows, crops)
    tracks = FaceTracks(source, *_within(rows, crops, start, end))
    if in_profile := tracks.frames_in_profile():
        log.info("%s: a face in profile is left alone in %d frames", source, in_profile)
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
            entry: dict = {name: row[name].tolist() for name in _ROW.names}
            if np.isnan(row["confidence"]):
                entry |= {"confidence": None, "box": None, "landmarks": None}
            file.write(("," if index else "") + "\n" + json.dumps(entry))
        file.write('\n],\n"crops": ' + json.dumps(encoded) + "}\n")


def _read(path: Path, made_from: dict) -> tuple[dict, np.ndarray, _Crops] | None:
    """Reads what was found in the same way in this stretch or a longer one, if it was.

    The smoothed points in the rows are out of date. A damaged file counts as none.
    """
    if not path.is_file() or _is_older(path):
        return None
    try:
        known = read_json(path, _Record, "the faces are searched again")
        rows = [
            tuple(entry[name] for name in _ROW.names)
            for entry in known.pop("faces")
            if None not in (entry["confidence"], entry["box"], entry["landmarks"])
        ]
        found, crops = np.array(rows, _ROW), known.pop("crops")
        _check_found(path, found, crops)
    except ValueError as error:
        log.warning("%s", error)
        return None
    same = all(
        known[name] == value
        for name, value in made_from.items()
        if name not in ("start", "end")
    )
    starts = known["start"] <= made_from["start"]
    ends = (made_from["end"] or np.inf) <= (known["end"] or np.inf)
    return (known, found, crops) if same and starts and ends else None


def _is_older(path: Path) -> bool:
    """Whether a tracks file is whole, but of a program that found faces otherwise."""
    with path.open("rb") as file:
        head = re.match(rb'{"version": (\d+),', file.read(40))
    return head is not None and int(head[1]) != _VERSION


def _check_found(path: Path, found: np.ndarray, crops: _Crops) -> None:
    """Raises where rows or crops of a tracks file do not belong together."""
    of_runs = np.sort(found, order=["run", "frame"])
    same = of_runs["run"][1:] == of_runs["run"][:-1]
    steps = np.diff(of_runs["frame"])[same]
    pictures = [jpeg for of_track in crops.values() for _, jpeg in of_track]
    if steps.size and not 1 <= steps.min() <= steps.max() <= _LONGEST_STEP:
        what = "frames of one face that do not follow each other"
    elif (np.diff(of_runs["track"])[same] != 0).any():
        what = "one face with two numbers"
    elif missing := set(found["track"].tolist()) - set(crops):
        what = f"no crops of track {min(missing)}"
    elif any(np.shape(_decode(jpeg)) != (_CROP, _CROP, 3) for jpeg in pictures):
        what = "a crop that is no picture"
    else:
        return
    raise ValueError(f"{path} is damaged ({what}): the faces are searched again")


def _decode(jpeg: bytes) -> np.ndarray | None:
    """A crop, RGB uint8; None where it cannot be decoded."""
    try:
        return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error:  # nothing in it, or said to be huge
        return None


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


def _search(
    info: VideoInfo,
    tracker: FaceTracker,
    start: float,
    end: float | None,
    fps: Fraction | float | None,
) -> tuple[np.ndarray, _Crops]:
    """Rows of the faces found, not smoothed yet, and crops of each track."""
    found, samplers = bytearray(), defaultdict(_CropSampler)
    borders: list[int] = []  # first frames of the shots, and the one behind the last
    count = info.frames_between(start, end)
    frames = prefetch(read_frames(info.path, start, end, fps), ahead=4)
    for frame in tqdm(frames, "find faces", count, unit="frame"):
        if frame.damaged:
            continue  # nothing is swapped in it
        for face, as_found in tracker.track(frame.image):
            samplers[face.track].add(frame, as_found)
            place = (frame.index, float(frame.time), face.track, face.run)
            points = as_found.box.round(3), as_found.landmarks.round(3)
            row = (*place, round(as_found.confidence, 6), *points, *points, False)
            found += np.array([row], _ROW).tobytes()
        if tracker.cuts == len(borders):
            borders.append(frame.index)
    rows = np.frombuffer(found, _ROW)
    crops = {number: sampler.kept for number, sampler in samplers.items()}
    return _tidy(info.path, rows, crops, np.array([*borders, frame.index + 1]))


def _tidy(
    path: Path, rows: np.ndarray, crops: _Crops, borders: np.ndarray
) -> tuple[np.ndarray, _Crops]:
    """Closes gaps, drops lone runs, numbers the tracks anew and chooses their crops."""
    linked, closed = _link(rows, borders)
    kept = _is_kept(linked, borders)
    numbers, places = np.unique(linked["track"][kept], return_inverse=True)
    chosen = {}
    for new, number in enumerate(numbers.tolist()):
        parts = np.unique(rows["track"][linked["track"] == number]).tolist()
        of_track = [crop for part in parts for crop in crops[part]]
        seen = np.count_nonzero(linked["track"][kept] == number)
        chosen[new] = evenly(of_track, min(_CROPS, 1 + seen // 4))
    dropped = len(np.unique(linked["run"][~kept]))
    log.info("%s: %d gaps closed, %d lone faces dropped", path, closed, dropped)
    linked = linked[kept]
    linked["track"] = places
    return linked, chosen


def _of_runs(rows: np.ndarray) -> list[np.ndarray]:
    """Indices of the rows of each run, the runs in the order in which they begin."""
    order = np.argsort(rows["run"], kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(rows["run"][order])) + 1)
    return sorted((part for part in parts if part.size), key=lambda part: part[0])


def _link(rows: np.ndarray, borders: np.ndarray) -> tuple[np.ndarray, int]:
    """Joins runs between which a face was lost for a moment; and says how many.

    That is within one shot, and where the face comes back to where it was, or moved on.
    """
    tracks, runs, closed = rows["track"].copy(), rows["run"].copy(), 0
    frames, times = rows["frame"].copy(), rows["time"].copy()
    shots = np.searchsorted(borders, frames, "right")
    open_runs: list[np.ndarray] = []  # of each the last rows
    for run in _of_runs(rows):
        first = run[0]
        recent = times[first] - _GAP - 1e-6
        open_runs = [other for other in open_runs if times[other[-1]] >= recent]
        overlaps = {
            index: _overlap(rows[other], rows[run[:_MOTION]])
            for index, other in enumerate(open_runs)
            if shots[other[-1]] == shots[first]
            and frames[other[-1]] < frames[first] - 1
            and _may_be_one(frames, tracks, tracks[other[-1]], tracks[first])
        }
        best = max(overlaps, key=overlaps.get, default=None)
        if best is not None and overlaps[best] >= _SAME_PLACE:
            before = open_runs.pop(best)
            tracks[tracks == tracks[first]] = tracks[before[-1]]
            runs[run] = runs[before[-1]]
            run, closed = np.concatenate([before, run]), closed + 1
        open_runs.append(run[-_MOTION:])
    rows = rows.copy()
    rows["track"], rows["run"] = tracks, runs
    return rows, closed


def _may_be_one(frames: np.ndarray, tracks: np.ndarray, track: int, later: int) -> bool:
    """Whether a track is over when another begins, or they are the same."""
    last, first = frames[tracks == track][-1], frames[tracks == later][0]
    return track == later or last < first


def _overlap(before: np.ndarray, after: np.ndarray) -> float:
    """How well boxes at both ends of a gap agree, at rest or moving on, in [0, 1]."""
    ends = before["box"][-1], after["box"][0]
    half = (after["frame"][0] - before["frame"][-1]) / 2
    met = ends[0] + half * _velocity(before), ends[1] - half * _velocity(after)
    return max(intersection_over_union(*pair).item() for pair in (ends, met))


def _velocity(rows: np.ndarray) -> np.ndarray:
    """Of a box over some frames, pixels a frame."""
    frames = rows["frame"][-1] - rows["frame"][0]
    return (rows["box"][-1] - rows["box"][0]) / max(frames, 1)


def _is_kept(rows: np.ndarray, borders: np.ndarray) -> np.ndarray:
    """Marks the rows of runs that are no flash: long, beside another, or at a cut."""
    kept = np.ones(len(rows), bool)
    for run in _of_runs(rows):
        frames, track = rows["frame"][run], rows["track"][run[0]]
        outside = frames[0] - 1, frames[-1] + 1
        if len(run) <= _LONE and not np.isin([frames[0], outside[1]], borders).any():
            beside = np.isin(rows["frame"], outside) & (rows["track"] == track)
            kept[run] = beside.any()
    return kept


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
        yaw = np.abs(estimate_yaw(rows["smoothed_landmarks"]))
        rows["profile"] = apply_hysteresis_threshold(yaw, _FRONTAL, PROFILE)
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
