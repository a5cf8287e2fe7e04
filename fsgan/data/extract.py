"""Stage: from footage to training material, aligned face crops and their record."""

import logging
import os
from collections.abc import Generator, Sequence, Sized
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from fsgan.faces.detector import FaceDetector, MinConfidence, MinFace
from fsgan.faces.geometry import (
    CROP_EXTENT,
    RECORD,
    Face,
    align,
    crop_matrix,
    read_faces_record,
)
from fsgan.media.files import check_output, full_disk_named, unfinished, write_json
from fsgan.media.images import (
    contact_sheet,
    encode_image,
    evenly,
    is_animated,
    list_images,
    picture_html,
    read_image,
)
from fsgan.media.reader import is_video, list_videos, probe, read_frames
from fsgan.tasks import Cluster, Results, run_each
from fsgan.validation import AboveZero, Count, check_two_folders, checked

log = logging.getLogger(__name__)

SMALLEST_CROP, LARGEST_CROP = 256, 512  # pixels
_LEAST_CROP = 32  # pixels, of crops from elsewhere


class StageResult:
    """What a stage did; a notebook shows it as one sentence and a picture."""

    files: list[Path]
    contact_sheet: np.ndarray

    def __len__(self) -> int:
        """Counts the files."""
        return len(self.files)

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{picture_html(self.contact_sheet)}"


@dataclass(frozen=True, eq=False, repr=False)
class ExtractedFaces(StageResult):
    """What `extract_faces` did.

    Attributes:
        frames: frames (or photos) searched.
        frames_with_face: those of them in which a face was found.
        files: the crops written, in the order of the frames.
        contact_sheet: RGB uint8 picture of up to 64 of them, evenly chosen.
    """

    frames: int
    frames_with_face: int
    files: list[Path]
    contact_sheet: np.ndarray

    def __repr__(self) -> str:
        """Says how many faces were found."""
        return f"{len(self)} faces in {self.frames_with_face} of {self.frames} frames"


@checked
def extract_faces(
    source: int | str | Path,  # in this order, "0" on a command line is a camera
    out_dir: str | Path,
    *,
    every: Count = 6,
    min_face: MinFace = 30,
    min_confidence: MinConfidence = 0.95,
    seconds: AboveZero | None = None,
    most: Count | None = None,
) -> ExtractedFaces:
    """Cuts the faces out of a video, photos or a camera, aligned to one mean shape.

    Each face is warped once, from the full frame to a square crop of 256 to 512 pixels,
    as many as the footage has, named after the source and the frame. Several sources of
    one person can share a folder; a source that is extracted again replaces its own
    crops. `faces.json` in the folder says for each crop where it comes from: file,
    source, frame index, time in seconds, box, five points, confidence, extent (its
    width in widths of the standard crop), matrix (frame pixels to crop pixels).

    The crops appear when all are done: after a fault the folder is as before. After an
    interrupt the crops found so far are kept, beside those that the source had. A face
    whose points are not finite or coincide is left out, and the log counts them.

    A camera goes on until `seconds` or `most` say stop, or an interrupt (Ctrl-C, the
    stop button of a notebook), which ends it as well as they do. Each time is a source
    of its own, named after the moment, so its faces are added to those of before.

    Args:
        source: a video or animated picture, a photo, a folder of photos, or the number
            of a camera, counted from 0.
        out_dir: folder for the crops, made when it is missing.
        every: every n-th frame of a video or camera is searched; of photos and
            animated pictures, all are.
        min_face: shorter side of the smallest face taken, in frame pixels, at least 20.
        min_confidence: smallest score of a face, in [0.7, 1].
        seconds: of a video or camera, from its start, that are searched; None for all.
        most: faces after which the search stops; None for no limit. The last frame may
            add a few more.

    Returns:
        What was found, and a contact sheet to check it by.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: `source` is neither video nor photo, no face was found in it, or a
            setting is out of its range.
        OSError: `out_dir` cannot be written, or there is no such camera.
    """
    camera = source if isinstance(source, int) else None
    if camera is not None:
        source = f"camera{camera}_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    source, out_dir = Path(source), Path(out_dir)
    if source.is_dir():
        check_two_folders("crops and photos", source, out_dir)
    for path in list_images(source) if source.is_dir() else [source]:
        check_output(out_dir / f"{path.name}_frame000000_face00.jpg")
    detector = FaceDetector(min_face, min_confidence)
    taken = {
        entry["file"].casefold(): entry["source"]  # Windows does not tell A from a
        for entry in read_faces_record(out_dir)
        if entry["source"] != str(source)
    }
    found: list[dict] = []
    frames, with_face, unusable = 0, 0, 0
    stack = ExitStack()
    searched = _sampled_frames(source, every, seconds, camera, found)
    stack.enter_context(closing(searched))  # switches a camera off
    new = stack.enter_context(unfinished(out_dir / RECORD))
    try:
        for name, index, time, image in searched:
            detected = detector.detect(image)
            faces = [face for face in detected if _is_usable(face)]
            unusable += len(detected) - len(faces)
            frames, with_face = frames + 1, with_face + bool(faces)
            for number, face in enumerate(faces):
                file = f"{name}_face{number}.jpg"
                if other := taken.get(file.casefold()):
                    raise ValueError(
                        f"{out_dir} already holds {file} of {other}: rename {source} "
                        "or extract it to another folder"
                    )
                taken[file.casefold()] = str(source)
                size = _crop_size(face.landmarks)
                matrix = crop_matrix(face.landmarks, size, CROP_EXTENT)
                crop = align(image, matrix, size)
                with full_disk_named(out_dir / file):
                    (new / file).write_bytes(encode_image(new / file, crop))
                found.append(_entry(file, source, index, time, face, matrix))
            if most is not None and len(found) >= most:
                break
        if unusable:
            log.warning(
                "left out %d faces of %s: their points are not finite or coincide",
                unusable,
                source,
            )
        if not found:
            raise ValueError(
                f"no face found in {source} ({frames} frames searched): try a smaller "
                "min_face or min_confidence, every=1, or footage with larger faces"
            )
        _replace(out_dir, source, new, found)
    except KeyboardInterrupt:
        # The last crop may be half written; what is recorded is whole.
        if found:
            _replace(out_dir, source, new, found, keep=True)
            log.warning(
                "interrupted: %s keeps the %d faces found in %d frames of %s",
                out_dir,
                len(found),
                frames,
                source,
            )
        if camera is None or not found:
            raise
    finally:
        stack.close()
    if others := sorted(set(taken.values()) - {str(source)}):
        log.warning(
            "%s keeps the faces of %s, too: empty it if they are of another person",
            out_dir,
            ", ".join(others),
        )
    log.info("%d faces in %d of %d frames of %s", len(found), with_face, frames, source)
    files = [out_dir / entry["file"] for entry in found]
    sheet = contact_sheet([read_image(path) for path in evenly(files, 64)])
    return ExtractedFaces(frames, with_face, files, sheet)


@checked
def extract_videos(
    sources: str | Path | Sequence[str | Path],
    out_dir: str | Path,
    *,
    every: Count = 6,
    min_face: MinFace = 30,
    min_confidence: MinConfidence = 0.95,
    seconds: AboveZero | None = None,
    most: Count | None = None,
    cluster: str | Cluster | None = None,
) -> Results:
    """Cuts the faces out of many videos, one after the other or on many machines.

    Args:
        sources: a folder of videos, or videos and whatever else `fsgan.extract_faces`
            takes, but no camera.
        out_dir: folder for the crops; those of each video go to a folder of its name.
        every: as of `fsgan.extract_faces`, like all that follows.
        min_face: smallest face.
        min_confidence: smallest score of a face.
        seconds: that are searched of each.
        most: faces after which the search of each stops.
        cluster: as of `fsgan.convert_videos`, and what a worker that dies had begun is
            begun anew.

    Returns:
        A table of what was found; a video that fails does not stop the others.

    Raises:
        FileNotFoundError: the folder is missing or holds no video.
        ImportError: Dask is not installed.
        ValueError: a setting is out of its range, two videos have one name, or the
            cluster is refused, as of `fsgan.convert_videos`.
    """
    settings = {"every": every, "min_face": min_face, "min_confidence": min_confidence}
    work = partial(_extract_to, seconds=seconds, most=most, **settings)
    tasks = {path: (Path(out_dir, path.stem), path) for path in list_videos(sources)}
    return run_each(work, tasks, cluster=cluster, needs=tasks)


def _extract_to(out_dir: Path, source: Path, **settings: Any) -> ExtractedFaces:
    """Extracts the faces of one of many videos."""
    return extract_faces(source, out_dir, **settings)


def write_faces_record(faces_dir: str | Path, entries: list[dict]) -> None:
    """Writes `faces.json`, as `read_faces_record` reads it.

    Args:
        faces_dir: the folder of crops.
        entries: one for each crop.

    Raises:
        OSError: the folder cannot be written.
    """
    write_json(Path(faces_dir) / RECORD, {"faces": entries})


def check_square(size: tuple[int, int], path: Path) -> None:
    """Refuses a picture that is no face crop.

    Args:
        size: width and height, pixels.
        path: the picture, for the sentence.

    Raises:
        ValueError: width and height differ, or are below 32.
    """
    width, height = size
    if width != height or width < _LEAST_CROP:
        raise ValueError(
            f"faces must be square crops of {_LEAST_CROP} pixels or more, as "
            f"extract_faces writes them, but {path} is {width}x{height} pixels"
        )


def _sampled_frames(
    source: Path, every: int, seconds: float | None, camera: int | None, found: Sized
) -> Generator[tuple[str, int, float, np.ndarray], None, None]:
    """Yields (name, frame index, seconds, image) of the frames to search.

    The progress bar tells how many faces are found.
    """
    if camera is None and (source.is_dir() or not is_video(source)):
        photos = list_images(source) if source.is_dir() else [source]
        for index, path in enumerate(tqdm(photos, desc=source.name, unit="photo")):
            name = path.name.replace(".", "_")
            try:
                if not is_animated(path):
                    yield name, index, 0.0, read_image(path)
                    continue
                for frame in read_frames(path, end=seconds):
                    file = f"{name}_frame{frame.index:06d}"
                    yield file, frame.index, float(frame.time), frame.image
            except ValueError as error:
                if len(photos) == 1:
                    raise
                log.warning("left out: %s", error)
        return
    if camera is None:
        if is_animated(source):
            every = 1  # rarely more than a few frames
        count = probe(source).frames_between(0, seconds)
        frames = read_frames(source, end=seconds)
    else:
        count, frames = None, read_frames(camera, end=seconds)
    progress = tqdm(total=count, desc=source.name, unit="frame")
    with progress, closing(frames):
        for frame in frames:
            if frame.index % every == 0:
                name = f"{source.stem}_frame{frame.index:06d}"
                yield name, frame.index, float(frame.time), frame.image
                progress.set_postfix(faces=len(found), refresh=False)
            progress.update()


def _entry(
    file: str, source: Path, index: int, time: float, face: Face, matrix: np.ndarray
) -> dict:
    """What `faces.json` says of one crop."""
    return {
        "file": file,
        "source": str(source),
        "frame": index,
        "time": round(time, 6),
        "box": face.box.round(3).tolist(),
        "landmarks": face.landmarks.round(3).tolist(),
        "confidence": round(face.confidence, 6),
        "extent": CROP_EXTENT,
        "matrix": matrix.tolist(),
    }


def _crop_size(landmarks: np.ndarray) -> int:
    """Side of the crop that keeps the frame's pixels, within limits; even."""
    scale = np.hypot(*crop_matrix(landmarks, 1, CROP_EXTENT)[0, :2])
    return 2 * round(np.clip(1 / scale, SMALLEST_CROP, LARGEST_CROP) / 2)


def _is_usable(face: Face) -> bool:
    """Whether the crop of a face can be cut."""
    if not np.isfinite([*face.box, *face.landmarks.ravel(), face.confidence]).all():
        return False
    return bool(np.ptp(face.landmarks, axis=0).max() > 0)


def _replace(
    out_dir: Path, source: Path, new: Path, found: list[dict], keep: bool = False
) -> None:
    """Puts the new crops and entries of a source in the place of its old ones.

    With `keep`, old ones stay where there are no new ones of their name.
    """
    for entry in found:
        # Again after an interrupt, some may have their place already.
        if (new / entry["file"]).exists():
            os.replace(new / entry["file"], out_dir / entry["file"])
    files = {entry["file"] for entry in found}
    kept = []
    for entry in read_faces_record(out_dir):
        if entry["file"] in files:
            continue
        if keep or entry["source"] != str(source):
            kept.append(entry)
        else:
            (out_dir / entry["file"]).unlink(missing_ok=True)
    write_faces_record(out_dir, kept + found)
