"""The frames of a swap that went wrong: ranked, shown, and converted again."""

import os
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy.ndimage import median_filter
from tqdm.auto import tqdm

from fsgan.evaluation.measure import (
    SwappedVideo,
    cut_out_faces,
    face_oval,
    find_tracks,
    probe_both,
    read_conversion,
)
from fsgan.evaluation.metrics import cosine_similarity, expression_distance, sharpness
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import CROP_SIZE, align, crop_matrix, transform_points
from fsgan.faces.identity import embed, load_network
from fsgan.faces.mesh import LEFT_EYE, LIPS, RIGHT_EYE, FaceMesh
from fsgan.media.encoding import key_frames, replace_frames
from fsgan.media.files import check_output, unfinished
from fsgan.media.images import contact_sheet, write_image
from fsgan.media.provenance import (
    image_xmp,
    read_sidecar,
    sidecar_path,
    video_metadata,
)
from fsgan.media.reader import probe
from fsgan.media.writer import VideoWriter
from fsgan.swap.convert import finish_output
from fsgan.swap.swapper import ConvertSettings, FaceSwapper
from fsgan.training.recipes import changed
from fsgan.validation import AboveZero, AtLeastZero, Count, checked

_AROUND = 25  # frames of the same face, of which the median is what is usual
_JOINED = 12  # frames between two suspects of one stretch, at most
_SIZE = 128  # pixels, of the crop in which sharpness is measured
_CELLS = 8  # a side, in which the change of a face is measured
_UNCHANGED = 0.3  # of the usual change: the face of the source is still there
_MISSED = "face missed"
# Of each signal the least that counts as usual: shares of the distance between the eyes
# and of the crop's side, levels of 255, logarithm, cosine similarity.
_LEAST = {
    "expression": 0.005,
    "jitter": 0.002,
    "mask": 0.5,
    "blur": 0.03,
    "identity": 0.005,
}
_FILM = ("crf", "lossless", "encoder", "layout", "layers", "mark")  # settings of it
_TILE, _COLUMNS = 160, 6  # of the sheet
_ROW = np.dtype(
    [
        ("index", np.int64),  # as of `SuspectFrame`, like the next two
        ("position", np.int64),
        ("seconds", np.float64),
        ("run", np.int32),
        ("track", np.int32),
        ("missed", np.bool_),
        ("expression", np.float32),
        ("offset", np.float32, 2),  # of the swap's mesh from the source's, of the crop
        ("change", np.float32, (_CELLS, _CELLS)),  # of the crop's cells, levels of 255
        ("sharpness", np.float32),  # its logarithm
        ("embedding", np.float32, 128),  # NaN where it is not asked for
    ]
)


class SuspectFrame(NamedTuple):
    """A frame of the source, and what is most unusual in its swap."""

    index: int  # in the source, from 0
    position: int  # in the swap, from 0
    seconds: float  # its time in the source
    # How many times as far off what is usual around it as nine in ten frames are.
    score: float
    reason: str  # the signal of that score, or "face missed"


class Stretch(NamedTuple):
    """Suspicious frames that lie close together."""

    first: SuspectFrame
    last: SuspectFrame
    worst: SuspectFrame

    def __str__(self) -> str:
        """A row of the table."""
        return (
            f"{self.first.seconds:9.2f} s  frames {self.first.index} to "
            f"{self.last.index}: {self.worst.reason}, score {self.worst.score:.1f} in "
            f"frame {self.worst.index}"
        )


@dataclass(frozen=True, repr=False)
class Review:
    """What looks wrong in a swap; printed, it is a table.

    Attributes:
        frames: all frames with a swapped face, the most suspicious first.
        stretches: where frames reach the limit, the worst first.
        sheet: picture of the worst frame of each, source and swap; None without any.
        notes: what could not be measured, and what was converted again.
    """

    frames: tuple[SuspectFrame, ...]
    stretches: tuple[Stretch, ...]
    sheet: Path | None
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        """The table."""
        rows = [str(stretch) for stretch in self.stretches]
        shown = [] if self.sheet is None else [f"shown in {self.sheet}"]
        return "\n".join([*(rows or ["no frame stands out"]), *shown, *self.notes])


@checked
def review(
    source: str | Path,
    swapped: str | Path,
    model: str | Path | None = None,
    settings: ConvertSettings | Mapping | None = None,
    *,
    out: str | Path | None = None,
    limit: AboveZero = 2.0,
    most: Count = 24,
    identity_every: Count = 10,
    tracks: Collection[int] | None = None,
    start: AtLeastZero = 0.0,
    end: AboveZero | None = None,
) -> Review:
    """Ranks the frames of a swap that look wrong, and converts them again.

    Each face is compared with itself in the 25 frames around: where its mesh lies
    ("jitter") and what it expresses ("expression") against the source's, where the
    picture was changed ("mask"), how sharp it is ("blur"), and how like the track's
    usual face it is ("identity"). A face that is not there any more, or is still the
    source's, is "face missed". What the first pass never found is not seen.

    With a model, the stretches are converted again, and no others. In the new film the
    packets of all frames are the old ones, to the bit, but for those frames and what
    follows them up to the next key frame (at most 250 frames; none in a lossless film):
    this shows what it showed, encoded once more. Sound and subtitles are copied, too.

    Args:
        source: the footage.
        swapped: what `fsgan.convert_video` made of it, in layout 1; beside it goes the
            sheet, `<swapped>.review.png`.
        model: folder given to `fsgan.train`, to convert again; None only looks.
        settings: what to change of the conversion's settings, {"color": "lab"}; how the
            film is encoded and laid out stays.
        out: the new film, of the same kind; None: it takes the place of `swapped`.
        limit: score from which on a frame belongs to a stretch.
        most: stretches that are listed and shown, at most.
        identity_every: every n-th frame is asked whose face it is: a tenth of a second.
        tracks: as of `fsgan.evaluate`, like the next two.
        start: second of the source at which the conversion began.
        end: second of the source at which it ended.

    Returns:
        The frames and stretches. Memory: 1 KB a face and frame.

    Raises:
        FileExistsError: `out` is there already.
        FileNotFoundError: a file, or the model, is missing.
        ValueError: a file is no video; the videos differ in size or frames; no face is
            found; there is no such track; a setting is wrong, or not to be changed; or
            the film was not encoded here.
        OSError: the sheet or the film cannot be written.
    """
    source, swapped = Path(source), Path(swapped)
    sheet = swapped.with_suffix(".review.png")
    check_output(sheet)
    probe_both(source, swapped)
    used, notes = read_conversion(source, swapped)
    again = None
    if model is not None:
        out = _check_film(swapped, out)
        again = FaceSwapper(model, _changed(used, settings, tracks))
    elif out is not None or settings is not None:
        raise ValueError("out and settings are to convert again: give the model, too")
    found = find_tracks(source, swapped, swapped.parent, used, tracks, start, end)
    video = SwappedVideo(source, swapped, found, tracks, start, end)
    frames = _rank(_measure(video, identity_every, notes))
    stretches = _stretches(frames, limit)[:most]
    shown = sheet if stretches else None
    sheet.unlink(missing_ok=True)
    if stretches:
        tiles, labels = [], []
        cut = cut_out_faces(video, [it.worst.index for it in stretches])
        for stretch, (_, *pictures) in zip(stretches, cut, strict=True):
            tiles += pictures
            labels += [f"frame {stretch.worst.index}", stretch.worst.reason]
        if again is not None:
            notes.append(_convert_again(video, stretches, again, used, out))
        write_image(sheet, contact_sheet(tiles, _COLUMNS, _TILE, labels), image_xmp())
    return Review(tuple(frames), tuple(stretches), shown, tuple(notes))


def _check_film(swapped: Path, out: str | Path | None) -> Path:
    """The name of the new film; raises where it cannot be made."""
    if swapped.is_dir():
        raise ValueError(f"{swapped} is a folder: only films are converted again")
    out = swapped if out is None else Path(out)
    check_output(out)
    check_output(sidecar_path(out))
    if out.suffix.lower() != swapped.suffix.lower():
        raise ValueError(f"out must end in {swapped.suffix}, like the film, got {out}")
    if out != swapped and out.exists():
        raise FileExistsError(f"{out} exists already: give another name")
    return out


def _changed(
    used: ConvertSettings,
    settings: ConvertSettings | Mapping | None,
    tracks: Collection[int] | None,
) -> ConvertSettings:
    """The settings of the film with the changes; raises where one may not be made."""
    new = changed(used, settings or {})
    for name in _FILM:
        if getattr(new, name) != (value := getattr(used, name)):
            raise ValueError(f"{name} must stay that of the film, {value!r}")
    searched = ("min_face", "min_confidence", "search_every")
    if tracks and any(getattr(new, x) != getattr(used, x) for x in searched):
        raise ValueError(
            f"{', '.join(searched)} number the tracks anew: leave these, or tracks, "
            "as they are"
        )
    return new


def _convert_again(
    video: SwappedVideo,
    stretches: Sequence[Stretch],
    swapper: FaceSwapper,
    used: ConvertSettings,
    out: Path,
) -> str:
    """Writes the film with new stretches, and says what became of its frames."""
    film, settings, keys = video.swapped, swapper.settings, key_frames(video.swapped)
    spans = sorted((it.first.position, it.last.position + 1) for it in stretches)
    asked = {position for span in spans for position in range(*span)}
    pieces: list[tuple[int, int]] = []
    for first, last in spans:
        end = keys[bisect_left(keys, last)]
        if pieces and first <= pieces[-1][1]:
            first, before = pieces.pop()
            end = max(end, before)
        pieces.append((first, end))
    info = probe(video.source)
    encoding = {name: getattr(used, name) for name in ("crf", "lossless", "encoder")}
    with unfinished(out) as folder:
        tracks = find_tracks(
            *(video.source, film, folder, settings, video.only, video.start, video.end)
        )
        files, pairs, position = {}, (it for it in video.frames() if it[1]), 0
        for first, end in pieces:
            swapper.reset()
            files[first] = folder / f"{first}{film.suffix}"
            size = info.width, info.height
            with VideoWriter(files[first], *size, info.fps, **encoding) as writer:
                for before, after in islice(pairs, first - position, end - position):
                    picture = after.image
                    if after.index in asked and not before.damaged:
                        faces = tracks.faces(before.index, video.only)
                        [(picture, _)] = swapper.swap([before.image], [faces])
                    writer.write(picture)
            position = end
        whole = folder / f"whole{film.suffix}"
        marks = video_metadata() if settings.mark else {}
        replace_frames(film, files, whole, marks)
        if settings.mark:
            record, _ = read_sidecar(film) or ({}, False)
            how = asdict(settings)
            secrets = {name: how.pop(name) for name in ("certificate", "private_key")}
            new = [
                {"start": it.first.seconds, "end": it.last.seconds, "settings": how}
                for it in stretches
            ]
            again = record.get("again", []) + new
            signed = replace(used, **secrets)
            finish_output(signed, video.source, out, whole, again)
        os.replace(whole, out)
    encoded = sum(end - first for first, end in pieces)
    return (
        f"{out}: frames converted again: {len(asked)}; behind them, encoded once more: "
        f"{encoded - len(asked)}; untouched to the bit: {keys[-1] - encoded}."
    )


def _measure(video: SwappedVideo, every: int, notes: list[str]) -> np.ndarray:
    """Measures each swapped face; raises where there is none, or frames are lacking."""
    try:
        load_network()
    except FileNotFoundError as error:
        notes.append(f"Whose face it is was not measured: {error}.")
        every = 0
    mesh, detector = FaceMesh(), FaceDetector(20, 0.7)
    rows, count = [], probe(video.swapped).frame_count
    for before, after in tqdm(video.frames(), "review", count, unit="frame"):
        if not (before and after):
            lacking = video.source if after else video.swapped
            raise ValueError(
                f"{lacking} lacks a frame that the other video has "
                f"({float((before or after).time):.2f} s): give the very footage that "
                "was swapped, and the start and end of the conversion"
            )
        if before.damaged:
            continue
        for face in video.faces(before.index):
            pictures = before.image, after.image
            meshes = [mesh(picture, face.landmarks) for picture in pictures]
            crop, small = (crop_matrix(face.landmarks, x) for x in (CROP_SIZE, _SIZE))
            old, new = (align(picture, crop, CROP_SIZE) for picture in pictures)
            shapes = [transform_points(points, crop) for points in meshes]
            change = cv2.absdiff(old, new).mean(axis=2)
            oval = face_oval(meshes[1], small, _SIZE)
            sharp = sharpness(align(after.image, small, _SIZE), oval)
            seen = any(detector.detect_near(after.image, [face.box]))
            asked = every and before.index % every == 0
            row = (
                *(before.index, after.index, float(before.time), face.run, face.track),
                not seen and face.confidence > 0,
                _expression(*meshes),
                np.median(shapes[1] - shapes[0], axis=0) / CROP_SIZE,
                cv2.resize(change, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA),
                np.log(max(sharp, 1e-3)),
                embed([new])[0] if asked else np.nan,
            )
            rows.append(np.array([row], _ROW))
    if not rows:
        raise ValueError(f"no face is found in {video.source}: nothing was swapped")
    return np.concatenate(rows)


def _expression(*meshes: np.ndarray) -> float:
    """How far lips and lids of two meshes differ, in distances between the eyes."""
    eyes = LEFT_EYE, RIGHT_EYE
    points = [
        [
            *(mesh[eye].mean(axis=0) for eye in eyes),
            *mesh[LIPS],
            *mesh[LEFT_EYE.start :],
        ]
        for mesh in meshes
    ]
    return float(expression_distance(*np.array(points)[:, None])[0])


def _rank(rows: np.ndarray) -> list[SuspectFrame]:
    """The frames by what is most unusual of any face in them, missed faces first."""
    change = _unusual(rows["change"], rows["run"])
    off = {
        "expression": np.abs(_unusual(rows["expression"], rows["run"])),
        "jitter": np.linalg.norm(_unusual(rows["offset"], rows["run"]), axis=1),
        "mask": np.abs(change).mean(axis=(1, 2)),
        "blur": -_unusual(rows["sharpness"], rows["run"]),
        "identity": np.full(len(rows), np.nan),
    }
    middle = rows["change"][:, 2:-2, 2:-2].mean(axis=(1, 2))
    missed = rows["missed"].copy()
    for track in np.unique(rows["track"]):
        of_track = rows["track"] == track
        missed |= of_track & (middle < _UNCHANGED * np.median(middle[of_track]))
        asked = np.flatnonzero(of_track & ~np.isnan(rows["embedding"][:, 0]))
        if len(asked):
            faces = rows["embedding"][asked]
            alike = cosine_similarity(faces, np.median(faces, axis=0)[None])[:, 0]
            off["identity"][asked] = np.median(alike) - alike
    scores = []
    for name, values in off.items():
        known = np.abs(values[~np.isnan(values)])
        usual = np.percentile(known, 90) if known.size else 1
        scores.append(np.nan_to_num(values / max(usual, _LEAST[name])))
    scores, names = np.array(scores), [*off]
    frames = {}
    for row, lost, of_row in zip(rows, missed, scores.T, strict=True):
        reason = _MISSED if lost else names[of_row.argmax()]
        place = row["index"].item(), row["position"].item(), row["seconds"].item()
        frame = SuspectFrame(*place, round(float(of_row.max()), 2), reason)
        frames[frame.index] = max(frame, frames.get(frame.index, frame), key=_badness)
    return sorted(frames.values(), key=_badness, reverse=True)


def _badness(frame: SuspectFrame) -> tuple[bool, float]:
    return frame.reason == _MISSED, frame.score


def _unusual(values: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Values (n, ...) less their medians over the frames around in the same run."""
    usual = np.empty_like(values)
    for run in np.unique(runs):
        of_run = values[runs == run]
        size = (_AROUND, *np.ones(values.ndim - 1, int))
        usual[runs == run] = median_filter(of_run, size, mode="nearest")
    return values - usual


def _stretches(frames: Sequence[SuspectFrame], limit: float) -> list[Stretch]:
    """Frames that reach the limit, joined where they lie close, the worst first."""
    suspects = [it for it in frames if it.score >= limit or it.reason == _MISSED]
    stretches: list[list[SuspectFrame]] = []
    for frame in sorted(suspects):
        if stretches and frame.index - stretches[-1][-1].index <= _JOINED:
            stretches[-1].append(frame)
        else:
            stretches.append([frame])
    found = [Stretch(it[0], it[-1], max(it, key=_badness)) for it in stretches]
    return sorted(found, key=lambda it: _badness(it.worst), reverse=True)
