"""Stage: from footage to training material, face crops and their eye masks."""

import json
import logging
import os
import shutil
from collections.abc import Generator, Sized
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from fsgan.data.masks import (
    eye_mask_from_5_landmarks,
    eye_mask_from_68_landmarks,
    overlay,
)
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import (
    MEAN_LANDMARKS,
    Face,
    align,
    crop_matrix,
    transform_points,
)
from fsgan.faces.landmarks import LandmarkDetector
from fsgan.media.camera import camera_frames
from fsgan.media.images import (
    IMAGE_SUFFIXES,
    contact_sheet,
    list_images,
    read_image,
    write_beside,
    write_image,
)
from fsgan.media.reader import probe, read_frames

log = logging.getLogger(__name__)

RECORD = "faces.json"
CROP_SIZE = 256
_BATCH = 16
MASK_METHODS = ("auto", "face_alignment", "five_points")


@dataclass(frozen=True)
class ExtractedFaces:
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


@dataclass(frozen=True)
class EyeMasks:
    """What `make_eye_masks` did.

    Attributes:
        method: the method used, "face_alignment" or "five_points".
        files: the masks written, in the order of the faces.
        contact_sheet: RGB uint8 picture of up to 32 masks over their faces, those
            first that differ most from the mask of the mean shape: the likeliest wrong.
    """

    method: str
    files: list[Path]
    contact_sheet: np.ndarray


def extract_faces(
    source: int | str | Path,  # in this order, "0" on a command line is a camera
    out_dir: str | Path,
    *,
    every: int = 6,
    min_face: float = 30,
    min_confidence: float = 0.95,
    seconds: float | None = None,
    most: int | None = None,
) -> ExtractedFaces:
    """Cuts the faces out of a video, photos or a camera, aligned to one mean shape.

    Each face is warped once, from the full frame to a 256x256 crop. The crops are named
    after the source and the frame, so that several sources of one person can share a
    folder; a source that is extracted again replaces its own crops. The crops appear
    when all are done: after a fault the folder is as before. After an interrupt the
    crops found so far are kept, beside those that the source had; to extract it again
    replaces them all. A face whose points are no numbers or coincide is left out, and
    the log says how many were. `faces.json` in the folder
    says for each crop where it comes from: file, source, frame index, time in
    seconds, box, five points, confidence, matrix (frame pixels to crop pixels).

    A camera goes on until `seconds` or `most` say stop, or an interrupt (Ctrl-C, the
    stop button of a notebook), which ends it as well as they do. Each time is a source
    of its own, named after the moment, so that faces are added to those of before.

    Args:
        source: a video, a photo, a folder of photos or the number of a camera,
            counted from 0.
        out_dir: folder for the crops, made when it is missing.
        every: every n-th frame of a video or camera is searched; of photos, all are.
        min_face: shorter side of the smallest face taken, in frame pixels, at least 20.
        min_confidence: smallest score of a face, in [0.7, 1].
        seconds: of a video or camera, from its start, that are searched; None for all.
        most: faces after which the search stops; None for no limit. The last frame may
            add a few more.

    Returns:
        What was found, and a contact sheet to judge it by.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: `source` is neither video nor photo, no face was found in it, or a
            setting is out of its range.
        OSError: `out_dir` cannot be written, or there is no such camera.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    if most is not None and most < 1:
        raise ValueError(f"most must be at least 1 or None, got {most}")
    camera = source if isinstance(source, int) else None
    if camera is not None:
        source = f"camera{camera}_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    source, out_dir = Path(source), Path(out_dir)
    if source.is_dir() and source.resolve() == out_dir.resolve():
        raise ValueError(f"crops and photos need two folders, got {source} for both")
    detector = FaceDetector(min_face, min_confidence)
    taken = {
        entry["file"]: entry["source"]
        for entry in read_record(out_dir)
        if entry["source"] != str(source)
    }
    found: list[dict] = []
    frames, with_face, unusable = 0, 0, 0
    unfinished = out_dir / f".unfinished-{os.getpid()}"
    searched = _sampled_frames(source, every, seconds, camera, found)
    try:
        for name, index, time, image in searched:
            detected = detector.detect(image)
            faces = [face for face in detected if _usable(face)]
            unusable += len(detected) - len(faces)
            frames, with_face = frames + 1, with_face + bool(faces)
            for number, face in enumerate(faces):
                matrix = crop_matrix(face.landmarks, CROP_SIZE)
                file = f"{name}_face{number}.jpg"
                if file in taken:
                    raise ValueError(
                        f"{out_dir} already holds {file} of {taken[file]}: rename "
                        f"{source} or extract it to another folder"
                    )
                taken[file] = str(source)
                write_image(unfinished / file, align(image, matrix, CROP_SIZE))
                found.append(_entry(file, source, index, time, face, matrix))
            if most is not None and len(found) >= most:
                break
        if unusable:
            log.warning(
                "left out %d faces of %s: their points are no numbers or coincide",
                unusable,
                source,
            )
        if not found:
            raise ValueError(
                f"no face found in {source} ({frames} frames searched): try a smaller "
                "min_face or min_confidence, every=1, or footage with larger faces"
            )
        _replace(out_dir, source, unfinished, found)
    except KeyboardInterrupt:
        # The last crop may be half written; what is recorded is whole.
        if found:
            _replace(out_dir, source, unfinished, found, keep=True)
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
        searched.close()  # switches a camera off
        shutil.rmtree(unfinished, ignore_errors=True)
    log.info("%d faces in %d of %d frames of %s", len(found), with_face, frames, source)
    files = [out_dir / entry["file"] for entry in found]
    sheet = contact_sheet([read_image(path) for path in _evenly(files, 64)])
    return ExtractedFaces(frames, with_face, files, sheet)


def make_eye_masks(
    faces_dir: str | Path, masks_dir: str | Path, method: str = "auto"
) -> EyeMasks:
    """Draws a mask of the eyes for every face crop of a folder.

    Args:
        faces_dir: folder of crops, as of `extract_faces`.
        masks_dir: folder for the masks, PNG files named like the crops.
        method: "face_alignment" draws fine masks from 68 landmarks and downloads the
            network's weights when they are not in `weights/`; "five_points" draws crude
            ones from the points in `faces.json`, or from the mean shape for crops that
            are not recorded there; "auto" takes the first where package and weights are
            at hand, else the second, and logs which.

    Returns:
        The method used, the files and a picture of the masks to look at first.

    Raises:
        FileNotFoundError: there are no crops, or what "face_alignment" needs is
            missing.
        ValueError: `method` is unknown, the two folders are one, a crop is not square,
            or a weight file is damaged.
        OSError: `masks_dir` cannot be written.
    """
    if method not in MASK_METHODS:
        raise ValueError(f"method must be one of {MASK_METHODS}, got {method!r}")
    faces_dir = Path(faces_dir)
    crops = list_images(faces_dir)
    masks_dir = Path(masks_dir)
    if masks_dir.resolve() == faces_dir.resolve():
        raise ValueError(f"faces and masks need two folders, got {faces_dir} for both")
    method, network = _mask_method(method)
    recorded = {entry["file"]: entry for entry in read_record(faces_dir)}
    files, agreement = [masks_dir / f"{path.stem}.png" for path in crops], []
    progress = tqdm(total=len(crops), desc="eye masks", unit="face")
    with progress:
        for start in range(0, len(crops), _BATCH):
            paths = crops[start : start + _BATCH]
            batch = [_read_crop(path) for path in paths]
            points = network.detect(batch) if network is not None else []
            for index, (path, crop) in enumerate(zip(paths, batch, strict=True)):
                size = len(crop)
                if network is not None:
                    mask = eye_mask_from_68_landmarks(points[index], size)
                else:
                    five = _crop_landmarks(recorded.get(path.name), size)
                    mask = eye_mask_from_5_landmarks(five, size)
                gray = np.repeat(np.round(mask * 255).astype(np.uint8), 3, axis=-1)
                write_image(files[start + index], gray)
                agreement.append(_agreement(mask))
                progress.update()
    worst = np.argsort(agreement, kind="stable")[:32]
    overlays = [
        overlay(read_image(crops[index]), read_image(files[index])[..., :1] / 255)
        for index in worst
    ]
    return EyeMasks(method, files, contact_sheet(overlays, size=128))


def read_record(faces_dir: str | Path) -> list[dict]:
    """Reads what `extract_faces` wrote down about the crops of a folder.

    Args:
        faces_dir: the folder of crops.

    Returns:
        The entries of its `faces.json`; none where there is no such file.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(faces_dir) / RECORD
    if not path.is_file():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))["faces"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged: delete it and extract the faces again"
        ) from error


def _sampled_frames(
    source: Path, every: int, seconds: float | None, camera: int | None, found: Sized
) -> Generator[tuple[str, int, float, np.ndarray], None, None]:
    """Yields (name, frame index, seconds, image) of the frames to search.

    The progress bar tells how many are found.
    """
    if source.is_dir() or source.suffix.lower() in IMAGE_SUFFIXES:
        photos = list_images(source) if source.is_dir() else [source]
        for index, path in enumerate(tqdm(photos, desc=source.name, unit="photo")):
            try:
                image = read_image(path)
            except ValueError as error:
                if len(photos) == 1:
                    raise
                log.warning("left out: %s", error)
                continue
            yield path.name.replace(".", "_"), index, 0.0, image
        return
    if camera is None:
        count, frames = probe(source).frame_count, read_frames(source, end=seconds)
    else:
        count, frames = None, camera_frames(camera, seconds)
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
        "matrix": matrix.tolist(),
    }


def _usable(face: Face) -> bool:
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
    old, files = read_record(out_dir), {entry["file"] for entry in found}
    stale = {entry["file"] for entry in old if entry["source"] == str(source)}
    for file in set() if keep else stale - files:
        (out_dir / file).unlink(missing_ok=True)
    kept = [
        entry
        for entry in old
        if entry["file"] not in files and (keep or entry["source"] != str(source))
    ]
    with write_beside(out_dir / RECORD) as path:
        path.write_text(json.dumps({"faces": kept + found}, indent=1), encoding="utf-8")


def _mask_method(method: str) -> tuple[str, LandmarkDetector | None]:
    """Decides on the method; loads the network it needs."""
    if method == "five_points":
        return method, None
    try:
        network = LandmarkDetector(download=method == "face_alignment")
        return "face_alignment", network
    except FileNotFoundError as error:
        if method == "face_alignment":
            raise
        log.warning("crude eye masks from five points, because %s", error)
        return "five_points", None


def _read_crop(path: Path) -> np.ndarray:
    """Reads a crop and checks that it is one."""
    crop = read_image(path)
    height, width = crop.shape[:2]
    if height != width:
        raise ValueError(
            f"faces must be square crops, as extract_faces writes them, but {path} "
            f"is {width}x{height} pixels"
        )
    return crop


def _agreement(mask: np.ndarray) -> float:
    """How well a mask overlaps the mask of the mean shape, in [0, 1]."""
    mean = eye_mask_from_5_landmarks(_crop_landmarks(None, len(mask)), len(mask)) > 0.5
    return float(((mask > 0.5) & mean).sum() / ((mask > 0.5) | mean).sum())


def _crop_landmarks(entry: dict | None, size: int) -> np.ndarray:
    """The five points in pixels of the crop."""
    if entry is None:
        return MEAN_LANDMARKS * size - 0.5
    points = transform_points(np.array(entry["landmarks"]), np.array(entry["matrix"]))
    return (points + 0.5) * size / CROP_SIZE - 0.5


def _evenly(items: list, count: int) -> list:
    """Up to `count` of the items, evenly chosen."""
    picked = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[index] for index in picked]
