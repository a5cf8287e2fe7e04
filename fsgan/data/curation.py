"""Stages: which faces of a folder to train on, and whose they are."""

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from fsgan.data.curation_report import (
    Coverage,
    ExamineSettings,
    FolderReport,
    advise,
    compare_folders,
    draw_measures,
    examine_folder,
    render_page,
)
from fsgan.data.extract import (
    RECORD,
    StageResult,
    extract_faces,
    read_faces_record,
    write_faces_record,
    write_json,
)
from fsgan.faces.identity import SAME_PERSON, embed, load_network
from fsgan.media.images import (
    contact_sheet,
    evenly,
    list_images,
    read_image,
    write_beside,
    write_image,
)

log = logging.getLogger(__name__)

DoctorSettings = ExamineSettings
"""The name that `ExamineSettings` had before."""

REPORT = "dataset_report.json"
REJECTED = "rejected"
REASONS = "reasons.json"
UNSORTED = "unsorted"
_SHEET = 64  # faces on the contact sheet of a person
_ROW = 8  # faces in a row of a contact sheet


@dataclass(frozen=True, eq=False, repr=False)
class Examination:
    """What `examine_faces` found; a notebook shows its page.

    Attributes:
        folders: A, and B where it was given.
        coverage: A against B; None without B or where the poses are not known.
        advice: plain sentences, the most important ones of all this.
        figure: histograms of what was measured.
        page: all this as HTML, with the worst faces and why they are rejected.
    """

    folders: tuple[FolderReport, ...]
    coverage: Coverage | None
    advice: list[str]
    figure: Figure
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
        contact_sheet: RGB uint8 picture, a row of up to eight faces for each of the
            first ten folders.
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


def examine_faces(
    faces_a: str | Path,
    faces_b: str | Path | None = None,
    *,
    settings: ExamineSettings | None = None,
    apply: bool = False,
    out: str | Path | None = None,
) -> Examination:
    """Looks through one or two folders of faces, as of `fsgan.extract_faces`.

    Folders without `faces.json` are examined as far as pixels go. Other people among
    the faces are found with dlib only (the extra `identity`), in a tenth of a second a
    face. Nothing is changed unless `apply` is set: then the rejected faces move to
    `rejected/` in their folder, with their entries of `faces.json`, and
    `rejected/reasons.json` says why. Nothing is deleted; `restore_faces` takes them
    back. Masks stay where they are: those of faces that are gone are not read.

    Args:
        faces_a: folder of aligned crops of person A.
        faces_b: the same of B; with it the two are compared.
        settings: what is rejected; None for `ExamineSettings()`.
        apply: moves the rejected faces.
        out: JSON file for the report; None for `dataset_report.json` in `faces_a`. The
            page lies beside it, with the suffix `.html`.

    Returns:
        The report.

    Raises:
        FileNotFoundError: a folder is missing or holds no picture.
        ValueError: a file is no picture, a crop is not square, `faces.json` is damaged,
            or the two folders are one.
        FileExistsError: `rejected/` holds another face of the same name; nothing has
            been moved then.
        OSError: a folder cannot be written.
    """
    settings = settings or ExamineSettings()
    paths = [Path(path) for path in (faces_a, faces_b) if path is not None]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"A and B need two folders, got {faces_a} for both")
    folders = tuple(
        examine_folder(path, read_faces_record(path), settings) for path in paths
    )
    coverage = compare_folders(*folders) if len(folders) == 2 else None
    advice, figure = advise(folders, coverage, settings), draw_measures(folders)
    page = render_page(folders, advice, figure)
    report = Examination(folders, coverage, advice, figure, page)
    for sentence in advice:
        log.info(sentence)
    if apply:
        for folder in folders:
            for name in folder.rejected:
                _check_free(folder.path / REJECTED / name, folder.path / name)
        for folder in folders:
            _move_rejected(folder)
    out = paths[0] / REPORT if out is None else Path(out)
    write_json(out, _as_json(report))
    with write_beside(out.with_suffix(".html")) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return report


def restore_faces(faces_dir: str | Path) -> list[Path]:
    """Takes rejected faces, and their entries of `faces.json`, back into their folder.

    To take back a few, move their files by hand and call it, or not at all: a crop
    needs its entry only for crude eye masks.

    Args:
        faces_dir: the folder that holds `rejected/`.

    Returns:
        The faces that came back; none where `rejected/` is missing or empty.

    Raises:
        FileExistsError: the folder holds a face of the same name; nothing has been
            moved then.
        ValueError: a `faces.json` is damaged.
    """
    faces_dir = Path(faces_dir)
    rejected = faces_dir / REJECTED
    names = sorted(
        path.name for path in rejected.glob("[!.]*") if path.suffix != ".json"
    )
    for name in names:
        _check_free(faces_dir / name, rejected / name)
    for name in names:
        os.replace(rejected / name, faces_dir / name)
    if rejected.is_dir():
        _sort_records(faces_dir)
    return [faces_dir / name for name in names]


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

    People are told apart by dlib (the extra `identity`), in a tenth of a second a face.
    A person may get two folders, one for another light or a hand before the face: join
    them by hand.

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
    if min_group < 1:
        raise ValueError(f"min_group must be at least 1, got {min_group}")
    threshold = SAME_PERSON if threshold is None else threshold
    if not -1 < threshold < 1:
        raise ValueError(f"threshold must be in (-1, 1), got {threshold}")
    source, out_dir = Path(source), Path(out_dir)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir} is not empty: give the name of a new folder")
    load_network()
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
        groups = _group_people(list_images(faces_dir), min_group, threshold)
        record = {entry["file"]: entry for entry in read_faces_record(faces_dir)}
        for name, files in groups.items():
            _copy(files, unfinished / name, record)
        shutil.rmtree(unfinished / ".faces", ignore_errors=True)
        if out_dir.exists():
            out_dir.rmdir()
        os.replace(unfinished, out_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    people = {name: files for name, files in groups.items() if name != UNSORTED}
    curated = Curated(
        [out_dir / name for name in people],
        [len(files) for files in people.values()],
        len(groups.get(UNSORTED, [])),
        _overview(out_dir, groups),
    )
    log.info("%s: %r", source, curated)
    return curated


def cluster_faces(embeddings: np.ndarray, threshold: float) -> np.ndarray:
    """Groups faces by average linkage, in memory that grows with their number.

    The mean similarity of all pairs of two groups is the dot product of the groups'
    means, so no matrix of pairs is needed. About two seconds at 2 000 faces, a few
    minutes at 20 000.

    Args:
        embeddings: float (n, d), rows of length 1.
        threshold: mean cosine similarity from which on two groups become one.

    Returns:
        The group of each face, int (n,); equal numbers are one group.

    Source: Murtagh 1983, "A survey of recent advances in hierarchical clustering
    algorithms", nearest-neighbour chains.
    """
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
            other = chain[-2]
            del chain[-2:]
            means[other] = np.average(
                means[[other, last]], axis=0, weights=sizes[[other, last]]
            )
            sizes[other] += sizes[last]
            waiting[last] = False
            labels[labels == last] = other
        else:
            chain.append(nearest)
    return labels


def _as_json(report: Examination) -> dict:
    """The report in JSON's own types; null is what is not known."""
    coverage = asdict(report.coverage) if report.coverage else None
    folders = [
        {"folder": str(folder.path), "faces": _faces_as_json(folder)}
        for folder in report.folders
    ]
    return {"advice": report.advice, "coverage": coverage, "folders": folders}


def _faces_as_json(folder: FolderReport) -> list[dict]:
    """An object for each face."""
    columns = vars(folder.measures)
    faces = []
    for name, *values in zip(folder.names, *columns.values(), strict=True):
        known = [
            None if np.isnan(value) else round(float(value), 4) for value in values
        ]
        faces.append(
            {
                "file": name,
                **dict(zip(columns, known, strict=True)),
                "duplicate_of": folder.duplicates.get(name),
                "near_duplicate_of": folder.near_duplicates.get(name),
                "rejected": folder.rejected.get(name),
            }
        )
    return faces


def _move_rejected(folder: FolderReport) -> None:
    """Moves the rejected faces with their reasons and entries."""
    if not folder.rejected:
        return
    rejected = folder.path / REJECTED
    rejected.mkdir(exist_ok=True)
    # Reasons first and the record last: what breaks off is put right by the next call.
    write_json(rejected / REASONS, _read_reasons(rejected) | folder.rejected)
    for name in folder.rejected:
        os.replace(folder.path / name, rejected / name)
    _sort_records(folder.path)


def _check_free(target: Path, source: Path) -> None:
    """Raises where a move would destroy another picture."""
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise FileExistsError(
            f"{target} is another picture than {source}: move or rename one of them"
        )


def _read_reasons(rejected: Path) -> dict[str, str]:
    path = rejected / REASONS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _sort_records(faces_dir: Path) -> None:
    """Gives each entry, and each reason, to the folder in which its face lies now."""
    rejected = faces_dir / REJECTED
    here = {entry["file"]: entry for entry in read_faces_record(faces_dir)}
    there = {entry["file"]: entry for entry in read_faces_record(rejected)}
    reasons = _read_reasons(rejected)
    kept = {name: reasons[name] for name in reasons if (rejected / name).is_file()}
    write_json(rejected / REASONS, kept)
    if here or there:
        entries = here | there | here  # an entry of this folder counts more
        moved = [name for name in entries if (rejected / name).is_file()]
        stay = [
            name
            for name in entries
            if (name in there and (faces_dir / name).is_file()) or name not in moved
        ]
        write_faces_record(rejected, [(here | there)[name] for name in moved])
        write_faces_record(faces_dir, [entries[name] for name in stay])


def _group_people(
    files: list[Path], min_group: int, threshold: float
) -> dict[str, list[Path]]:
    """The crops of each person by folder name, most first, and the unsorted last."""
    progress = tqdm(files, desc="tell apart", unit="face")
    embeddings = np.concatenate([embed([read_image(path)]) for path in progress])
    labels = cluster_faces(embeddings, threshold)
    found, counts = np.unique(labels, return_counts=True)
    groups: dict[str, list[Path]] = {}
    lone = []
    for label in found[np.argsort(-counts, kind="stable")]:
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
    write_faces_record(
        folder, [record[path.name] for path in files if path.name in record]
    )
    shown = [read_image(path) for path in evenly(files, _SHEET)]
    write_image(folder.with_name(f"{folder.name}.png"), contact_sheet(shown, _ROW))


def _overview(out_dir: Path, groups: dict[str, list[Path]]) -> np.ndarray:
    """A row of faces for each of the first folders."""
    tiles, labels = [], []
    for name, files in list(groups.items())[:10]:
        shown = [out_dir / name / path.name for path in evenly(files, _ROW)]
        tiles += [read_image(path) for path in shown]
        tiles += [np.zeros((1, 1, 3), np.uint8)] * (_ROW - len(shown))
        labels += [name, f"{len(files)} faces"] + [""] * (_ROW - 2)
    return contact_sheet(tiles, _ROW, labels=labels)
