"""Stage: faces of many people sorted into a folder for each of them."""

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.cluster import AgglomerativeClustering
from tqdm.auto import tqdm

from fsgan.data.extract import RECORD, extract_faces, read_record
from fsgan.faces.descriptors import describe, load_descriptor
from fsgan.media.images import contact_sheet, list_images, read_image, write_image

log = logging.getLogger(__name__)

UNSORTED = "unsorted"
_SHEET = 64  # faces on the contact sheet of a person
_ROW = 8  # faces in a row of a contact sheet


@dataclass(frozen=True)
class Curated:
    """What `curate` did.

    Attributes:
        people: the folders of the people, the one with most faces first.
        faces: number of faces in each of them.
        unsorted: number of faces in the folder `unsorted`.
        contact_sheet: RGB uint8 picture, a row of up to eight faces for each of the
            first ten folders.
    """

    people: list[Path]
    faces: list[int]
    unsorted: int
    contact_sheet: np.ndarray


def curate(
    source: str | Path,
    out_dir: str | Path,
    *,
    every: int = 6,
    min_face: float = 30,
    min_confidence: float = 0.9,
    min_group: int = 2,
    threshold: float | None = None,
) -> Curated:
    """Sorts the faces of many people into a folder for each of them.

    The folders are `person_000`, `person_001` and so on, the one with most faces first,
    each with its `faces.json`, so that `fsgan.train` takes it as it is, and with a
    contact sheet beside it, `person_000.png`. Faces that are like too few others go to
    `unsorted`. The source is left as it is: everything is a copy. All appears at once,
    when it is complete.

    With dlib (the extra `identity`) this sorts photographs:
    of nine people, and of clips, every person became one group. With patterns alone
    it sorts the people of one video, or the videos in a folder of faces, not
    photographs: 902 faces from clips of six people became seven folders without a
    wrong face; of 12 photographed faces of nine people, two of them seen twice and
    more, all went to `unsorted`. A person may get two folders, one for another light
    or a hand before the face: join them by hand.

    Args:
        source: a folder of photos; a folder of face crops with `faces.json`, as
            `fsgan.extract_faces` writes it; or a video. About 10 000 faces fit: the
            memory grows with the square of their number, to 1 GB there.
        out_dir: folder for the result, missing or empty.
        every: every n-th frame of a video is searched.
        min_face: shorter side of the smallest face taken, in pixels, at least 20.
        min_confidence: smallest score of a face, in [0.7, 1].
        min_group: people with fewer faces go to `unsorted`, at least 1.
        threshold: mean cosine similarity, in (-1, 1), from which on two groups of faces
            are one person's; higher makes more and purer groups. None takes that of
            `fsgan.faces.identity.load_descriptor`.

    Returns:
        The folders, and a contact sheet to judge them by.

    Raises:
        FileNotFoundError: `source` does not exist or holds no picture.
        FileExistsError: `out_dir` is not empty.
        ValueError: no face was found, a file is no picture, a crop is not square, or a
            setting is out of its range.
        OSError: `out_dir` cannot be written.
    """
    if min_group < 1:
        raise ValueError(f"min_group must be at least 1, got {min_group}")
    if threshold is not None and not -1 < threshold < 1:
        raise ValueError(f"threshold must be in (-1, 1), got {threshold}")
    source, out_dir = Path(source), Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir} is not empty: give the name of a new folder")
    unfinished = out_dir.with_name(f".{out_dir.name}-{os.getpid()}")
    try:
        faces_dir = source
        if not (source / RECORD).is_file():
            faces_dir = unfinished / ".faces"
            extract_faces(
                source,
                faces_dir,
                every=every,
                min_face=min_face,
                min_confidence=min_confidence,
            )
        groups = _groups(list_images(faces_dir), min_group, threshold)
        record = {entry["file"]: entry for entry in read_record(faces_dir)}
        for name, files in groups.items():
            _copy(files, unfinished / name, record)
        shutil.rmtree(unfinished / ".faces", ignore_errors=True)
        if out_dir.exists():
            out_dir.rmdir()
        os.replace(unfinished, out_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    people = {name: files for name, files in groups.items() if name != UNSORTED}
    lone = len(groups.get(UNSORTED, []))
    log.info("%d people and %d unsorted faces in %s", len(people), lone, source)
    return Curated(
        [out_dir / name for name in people],
        [len(files) for files in people.values()],
        lone,
        _overview(out_dir, groups),
    )


def _groups(
    files: list[Path], min_group: int, threshold: float | None
) -> dict[str, list[Path]]:
    """The crops of each person by folder name, most first, and the unsorted last."""
    if threshold is None:
        threshold = load_descriptor().threshold
    labels = np.zeros(len(files), int)
    if len(files) > 1:
        progress = tqdm(files, desc="describe", unit="face")
        faces = np.concatenate([describe(read_image(path)[None]) for path in progress])
        labels = AgglomerativeClustering(
            n_clusters=None,
            metric="precomputed",
            linkage="average",
            distance_threshold=1 - threshold,
        ).fit_predict(1 - faces @ faces.T)
    counts = np.bincount(labels)
    groups: dict[str, list[Path]] = {}
    lone = []
    for label in np.argsort(-counts, kind="stable"):
        group = [files[index] for index in np.flatnonzero(labels == label)]
        if len(group) >= min_group:
            groups[f"person_{len(groups):03d}"] = group
        else:
            lone += group
    return groups | ({UNSORTED: lone} if lone else {})


def _copy(files: list[Path], folder: Path, record: dict[str, dict]) -> None:
    """Copies crops and their entries, and draws the contact sheet beside the folder."""
    folder.mkdir(parents=True)
    for path in files:
        shutil.copy2(path, folder)
    entries = [record[path.name] for path in files if path.name in record]
    (folder / RECORD).write_text(
        json.dumps({"faces": entries}, indent=1), encoding="utf-8"
    )
    shown = [read_image(path) for path in _evenly(files, _SHEET)]
    write_image(folder.with_name(f"{folder.name}.png"), contact_sheet(shown, _ROW))


def _overview(out_dir: Path, groups: dict[str, list[Path]]) -> np.ndarray:
    """A row of faces for each of the first folders."""
    tiles, labels = [], []
    for name, files in list(groups.items())[:10]:
        shown = [out_dir / name / path.name for path in _evenly(files, _ROW)]
        tiles += [read_image(path) for path in shown]
        tiles += [np.zeros((1, 1, 3), np.uint8)] * (_ROW - len(shown))
        labels += [name, f"{len(files)} faces"] + [""] * (_ROW - 2)
    return contact_sheet(tiles, _ROW, labels=labels)


def _evenly(items: list, count: int) -> list:
    """Up to `count` of the items, evenly chosen."""
    picked = np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)
    return [items[index] for index in picked]
