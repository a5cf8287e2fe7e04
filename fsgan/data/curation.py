"""Stages: which faces of a folder to train on, and whose they are."""

import filecmp
import logging
import os
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, FiniteFloat

from fsgan.data import quality
from fsgan.data.extract import (
    StageResult,
    extract_faces,
    write_faces_record,
)
from fsgan.data.quality import ExamineSettings, FolderReport, embed_files
from fsgan.faces.detector import MinConfidence, MinFace
from fsgan.faces.geometry import RECORD, read_faces_record
from fsgan.faces.identity import SAME_PERSON, load_network
from fsgan.media.files import check_output, unfinished, write_beside, write_json
from fsgan.media.images import (
    contact_sheet,
    evenly,
    list_images,
    read_image,
    write_image,
)
from fsgan.validation import Count, check_two_folders, checked, read_json

log = logging.getLogger(__name__)

REPORT = "dataset_report.json"
REJECTED = "rejected"
REASONS = "reasons.json"
UNSORTED = "unsorted"


@dataclass(frozen=True, eq=False, repr=False)
class Examination:
    """What `examine_faces` found; a notebook shows its page.

    Attributes:
        folders: A, and B where it was given.
        coverage: as of `quality.compare_folders`; None where A stands alone.
        advice: plain sentences, the most important ones of all this.
        page: all this as HTML, with the worst faces and why they are rejected.
    """

    folders: tuple[FolderReport, ...]
    coverage: dict[str, float] | None
    advice: list[str]
    page: str

    def __len__(self) -> int:
        """Counts the faces."""
        return sum(map(len, self.folders))

    def __repr__(self) -> str:
        """Says how many faces were examined and how many should go."""
        rejected = sum(len(folder.rejected) for folder in self.folders)
        return f"{len(self)} faces examined, {rejected} to reject"

    def _repr_html_(self) -> str:
        return self.page


@dataclass(frozen=True, eq=False, repr=False)
class Curated(StageResult):
    """What `curate` did.

    Attributes:
        people: the folders of the people, the one with most faces first.
        faces: number of faces in each of them.
        unsorted: number of faces in the folder `unsorted`.
        contact_sheet: RGB uint8, a row of faces for each of the first ten folders.
    """

    people: list[Path]
    faces: list[int]
    unsorted: int
    contact_sheet: np.ndarray

    def __len__(self) -> int:
        """Counts the people."""
        return len(self.people)

    def __repr__(self) -> str:
        """Says how many people and faces were found."""
        return (
            f"{len(self)} people with {sum(self.faces)} faces, {self.unsorted} unsorted"
        )


@checked
def examine_faces(
    faces_a: str | Path,
    faces_b: str | Path | None = None,
    *,
    settings: ExamineSettings | None = None,
    apply: bool = False,
    out: str | Path | None = None,
) -> Examination:
    """Looks through one or two folders of faces, as of `fsgan.extract_faces`.

    Folders without `faces.json` are examined as far as pixels go. Other people are
    found with dlib only (the extra `identity`): of a large folder, in 500 faces and
    those beside the outliers among them. Nothing is changed unless `apply` is set.

    Args:
        faces_a: folder of aligned crops of person A.
        faces_b: the same of B; with it the two are compared.
        settings: what is rejected; None for `ExamineSettings()`.
        apply: moves rejected faces to `rejected/` in their folder, where `reasons.json`
            says why; `restore_faces` takes them back.
        out: JSON file for the report; None for `dataset_report.json` in `faces_a`. The
            page lies beside it, with the suffix `.html`.

    Returns:
        The report.

    Raises:
        FileNotFoundError: a folder is missing or holds no picture.
        ValueError: a file is no picture, a crop is not square, `faces.json` or
            `reasons.json` is damaged, or the two folders are one.
        FileExistsError: `rejected/` holds another face of the same name; nothing has
            been moved then.
        OSError: a folder cannot be written.
    """
    settings = settings or ExamineSettings()
    paths = [Path(path) for path in (faces_a, faces_b) if path is not None]
    if faces_b is not None:
        check_two_folders("A and B", *paths)
    out = paths[0] / REPORT if out is None else Path(out)
    check_output(out)
    folders = tuple(quality.examine_folder(path, settings) for path in paths)
    coverage = quality.compare_folders(*folders) if len(folders) == 2 else None
    advice = quality.advise(folders, coverage)
    if len(folders) == 2:
        advice += quality.compare_people(*folders)
    page = quality.render_page(folders, advice)
    for sentence in advice:
        log.info(sentence)
    if apply:
        before = {folder.path: _read_reasons(folder.path) for folder in folders}
        moves = [
            (folder.path / name, folder.path / REJECTED / name)
            for folder in folders
            for name in folder.rejected
        ]
        _move(moves)
        for folder in folders:
            if folder.rejected:
                reasons = before[folder.path] | folder.rejected
                write_json(folder.path / REJECTED / REASONS, reasons)
    found = [{"folder": str(f.path), "faces": f.as_json()} for f in folders]
    write_json(out, {"advice": advice, "coverage": coverage, "folders": found})
    with write_beside(out.with_suffix(".html")) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return Examination(folders, coverage, advice, page)


@checked
def restore_faces(faces_dir: str | Path) -> list[Path]:
    """Takes rejected faces back into their folder; a few may be moved by hand as well.

    Args:
        faces_dir: the folder that holds `rejected/`.

    Returns:
        The faces that came back; none where `rejected/` is missing or empty.

    Raises:
        NotADirectoryError: there is no such folder.
        FileExistsError: the folder holds another face of the same name; nothing has
            been moved then.
    """
    faces_dir = Path(faces_dir)
    if not faces_dir.is_dir():
        raise NotADirectoryError(f"{faces_dir} is no folder of faces; check the name")
    found = sorted((faces_dir / REJECTED).glob("[!.]*"))
    moves = [(path, faces_dir / path.name) for path in found if path.suffix != ".json"]
    _move(moves)
    (faces_dir / REJECTED / REASONS).unlink(missing_ok=True)
    return [target for _, target in moves]


@checked
def curate(
    source: str | Path,
    out_dir: str | Path,
    *,
    every: Count = 6,
    min_face: MinFace = 30,
    min_confidence: MinConfidence = 0.9,
    min_group: Count = 2,
    threshold: Annotated[FiniteFloat, Field(gt=-1, lt=1)] | None = None,
) -> Curated:
    """Sorts the faces of many people into a folder for each of them.

    The folders are `person_000`, `person_001` and so on, the one with most faces first,
    each with its `faces.json`, so that `fsgan.train` takes it as it is, and a contact
    sheet beside it. Everything is a copy and appears at once, when it is complete.

    People are told apart by dlib (the extra `identity`), in a tenth of a second a face
    and more. A person in two kinds of light may get two folders: join them by hand.

    Args:
        source: a folder of photos; a folder of face crops with `faces.json`, as
            `fsgan.extract_faces` writes it; or a video.
        out_dir: folder for the result, missing or empty.
        every: every n-th frame of a video is searched.
        min_face: shorter side of the smallest face taken, in pixels, at least 20.
        min_confidence: smallest score of a face, in [0.7, 1].
        min_group: people with fewer faces go to `unsorted`, at least 1.
        threshold: mean cosine similarity, in (-1, 1), from which on two groups of faces
            are one person's; higher makes more and purer groups. None takes 0.93.

    Returns:
        The folders, and a contact sheet to check them by.

    Raises:
        FileNotFoundError: `source` does not exist or holds no picture, or dlib is not
            installed.
        FileExistsError: `out_dir` is not empty.
        ValueError: no face was found, a file is no picture, a crop is not square, or a
            setting is out of its range.
        OSError: `out_dir` cannot be written.
    """
    threshold = SAME_PERSON if threshold is None else threshold
    source, out_dir = Path(source), Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir} is not empty: give the name of a new folder")
    load_network()  # fails before the work starts
    with unfinished(out_dir) as folder:
        faces_dir = source
        if not (source / RECORD).is_file():
            faces_dir = folder / "faces"
            extract_faces(
                source,
                faces_dir,
                every=every,
                min_face=min_face,
                min_confidence=min_confidence,
            )
        people, lone = _group_people(list_images(faces_dir), threshold, min_group)
        record = read_faces_record(faces_dir)
        groups = people | ({UNSORTED: lone} if lone else {})
        sheet = _copy_groups(groups, record, folder / "groups")
        if out_dir.exists():
            out_dir.rmdir()
        os.replace(folder / "groups", out_dir)
    curated = Curated(
        [out_dir / name for name in people],
        [len(files) for files in people.values()],
        len(lone),
        sheet,
    )
    log.info("%s: %r", source, curated)
    return curated


def cluster_faces(embeddings: np.ndarray, threshold: float) -> np.ndarray:
    """Groups faces by average linkage, in memory that grows with their number.

    Args:
        embeddings: float (n, d), rows of length 1.
        threshold: mean cosine similarity from which on two groups become one.

    Returns:
        The group of each face, int (n,); equal numbers are one group.

    Source: Murtagh 1983, "A survey of recent advances in hierarchical clustering
    algorithms", nearest-neighbour chains.
    """
    # The mean similarity of all pairs of two groups is the product of their means.
    means, labels = embeddings.astype(float), np.arange(len(embeddings))
    sizes, waiting = np.ones(len(means)), np.ones(len(means), bool)
    chain: list[int] = []  # each the nearest of the one before it
    while waiting.any():
        chain = chain or [int(waiting.argmax())]
        last = chain[-1]
        similarity = np.where(waiting, means @ means[last], -np.inf)
        similarity[last] = -np.inf
        nearest = int(similarity.argmax())
        if similarity[nearest] < threshold:  # and no group to come is nearer
            waiting[last] = False
            chain.pop()
        elif len(chain) > 1 and similarity[nearest] < similarity[chain[-2]] + 1e-9:
            pair = chain[-2:]
            del chain[-2:]
            means[pair[0]] = np.average(means[pair], axis=0, weights=sizes[pair])
            sizes[pair[0]] += sizes[last]
            waiting[last] = False
            labels[labels == last] = pair[0]
        else:
            chain.append(nearest)
    return labels


def _group_people(
    files: list[Path], threshold: float, min_group: int
) -> tuple[dict[str, list[Path]], list[Path]]:
    """The crops of each person by name of the folder, most first, and the unsorted."""
    groups = defaultdict(list)
    labels = cluster_faces(embed_files(files), threshold)
    for file, label in zip(files, labels.tolist(), strict=True):
        groups[label].append(file)
    people, lone = {}, []
    for group in sorted(groups.values(), key=len, reverse=True):
        if len(group) >= min_group:
            people[f"person_{len(people):03d}"] = group
        else:
            lone += group
    return people, lone


def _copy_groups(
    groups: dict[str, list[Path]], record: list[dict], out_dir: Path
) -> np.ndarray:
    """Copies crops and entries; draws a sheet beside each folder, and one of all."""
    entries = {entry["file"]: entry for entry in record}
    tiles, labels = [], []
    for name, files in groups.items():
        (out_dir / name).mkdir(parents=True)
        for file in files:
            shutil.copy2(file, out_dir / name)
        known = [entries[file.name] for file in files if file.name in entries]
        write_faces_record(out_dir / name, known)
        faces = [read_image(file) for file in evenly(files, 64)]
        write_image(out_dir / f"{name}.png", contact_sheet(faces))
        if len(tiles) < 80:
            row = evenly(faces, 8)
            tiles += [*row, *[np.zeros((1, 1, 3), np.uint8)] * (8 - len(row))]
            labels += [name, f"{len(files)} faces", *[""] * 6]
    return contact_sheet(tiles, labels=labels)


def _read_reasons(faces_dir: Path) -> dict[str, str]:
    """Why faces of a folder were rejected before, by name."""
    path = faces_dir / REJECTED / REASONS
    if not path.is_file():
        return {}
    return read_json(path, dict[str, str], "delete it; the faces beside it stay")


def _move(moves: list[tuple[Path, Path]]) -> None:
    """Moves files, unless one would destroy another picture."""
    for source, target in moves:
        if target.exists() and not filecmp.cmp(source, target, shallow=False):
            raise FileExistsError(
                f"{target} is another picture than {source}: move or rename one of them"
            )
    for source, target in moves:
        target.parent.mkdir(exist_ok=True)
        os.replace(source, target)
