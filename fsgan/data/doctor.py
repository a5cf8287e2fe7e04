"""Stage: what is in a folder of faces, and which of them should not be trained on."""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from fsgan.data.extract import RECORD, read_record
from fsgan.data.quality import DoctorSettings, Folder, examine_folder
from fsgan.data.quality_report import Coverage, advise, compare, draw_page
from fsgan.media.images import write_beside

log = logging.getLogger(__name__)

REPORT = "doctor.json"
REJECTED = "rejected"
REASONS = "reasons.json"


@dataclass(frozen=True, eq=False)
class Examination:
    """What `examine_faces` found.

    Attributes:
        folders: A, and B where it was given.
        coverage: A against B; None without B or where the poses are not known.
        advice: plain sentences, the most important ones of all this.
        figure: one page of histograms and of the worst faces with the reason. Save it
            outside of the folders, where it would be taken for a face.
    """

    folders: tuple[Folder, ...]
    coverage: Coverage | None
    advice: list[str]
    figure: Figure


def examine_faces(
    faces_a: str | Path,
    faces_b: str | Path | None = None,
    *,
    settings: DoctorSettings | None = None,
    apply: bool = False,
    out: str | Path | None = None,
) -> Examination:
    """Looks through one or two folders of faces, as of `fsgan.extract_faces`.

    Folders without `faces.json` are examined as far as pixels go. Nothing is changed
    unless `apply` is set: then the rejected faces move to `rejected/` in their folder,
    with their entries of `faces.json`, and `rejected/reasons.json` says why. Nothing
    is deleted; `restore_faces` takes them back. Masks stay where they are: those of
    faces that are gone are not read.

    Args:
        faces_a: folder of aligned crops of person A.
        faces_b: the same of B; with it the two are compared.
        settings: what is rejected; None for `DoctorSettings()`.
        apply: moves the rejected faces.
        out: JSON file for the report; None for `doctor.json` in `faces_a`.

    Returns:
        The report; written as JSON, too, without the figure.

    Raises:
        FileNotFoundError: a folder is missing or holds no picture.
        ValueError: a file is no picture, a crop is not square, `faces.json` is damaged,
            or the two folders are one.
        FileExistsError: `rejected/` holds another face of the same name; nothing has
            been moved then.
        OSError: a folder cannot be written.
    """
    settings = settings or DoctorSettings()
    paths = [Path(path) for path in (faces_a, faces_b) if path is not None]
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"A and B need two folders, got {faces_a} for both")
    folders = tuple(examine_folder(path, read_record(path), settings) for path in paths)
    coverage = compare(*folders) if len(folders) == 2 else None
    advice = advise(folders, coverage, settings)
    report = Examination(folders, coverage, advice, draw_page(folders))
    for sentence in advice:
        log.info(sentence)
    if apply:
        for folder in folders:
            for name in folder.rejected:
                _check_free(folder.path / REJECTED / name, folder.path / name)
        for folder in folders:
            _move(folder)
    _write_json(paths[0] / REPORT if out is None else Path(out), _as_json(report))
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
        _sort_record(faces_dir)
    return [faces_dir / name for name in names]


def _as_json(report: Examination) -> dict:
    """The report in JSON's own types; null is what is not known."""
    coverage = asdict(report.coverage) if report.coverage else None
    folders = [
        {"folder": str(folder.path), "faces": _faces_as_json(folder)}
        for folder in report.folders
    ]
    return {"advice": report.advice, "coverage": coverage, "folders": folders}


def _faces_as_json(folder: Folder) -> list[dict]:
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


def _move(folder: Folder) -> None:
    """Moves the rejected faces with their reasons and entries."""
    if not folder.rejected:
        return
    rejected = folder.path / REJECTED
    rejected.mkdir(exist_ok=True)
    # Reasons first and the record last: what breaks off is put right by the next call.
    _write_json(rejected / REASONS, _read_reasons(rejected) | folder.rejected)
    for name in folder.rejected:
        os.replace(folder.path / name, rejected / name)
    _sort_record(folder.path)


def _check_free(target: Path, source: Path) -> None:
    """Raises where a move would destroy another picture."""
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise FileExistsError(
            f"{target} is another picture than {source}: move or rename one of them"
        )


def _read_reasons(rejected: Path) -> dict[str, str]:
    path = rejected / REASONS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _sort_record(faces_dir: Path) -> None:
    """Gives each entry to the folder in which its face lies now."""
    rejected = faces_dir / REJECTED
    here = {entry["file"]: entry for entry in read_record(faces_dir)}
    there = {entry["file"]: entry for entry in read_record(rejected)}
    moved = {name for name in here | there if (rejected / name).is_file()}
    back = {name for name in there if (faces_dir / name).is_file()}
    reasons = _read_reasons(rejected)
    _write_json(
        rejected / REASONS,
        {name: reasons[name] for name in reasons if (rejected / name).is_file()},
    )
    if not here and not there:
        return
    entries = [entry for name, entry in (here | there).items() if name in moved]
    _write_json(rejected / RECORD, {"faces": entries})
    entries = [
        entry
        for name, entry in (here | there | here).items()
        if name in back or name not in moved
    ]
    _write_json(faces_dir / RECORD, {"faces": entries})


def _write_json(path: Path, content: dict) -> None:
    with write_beside(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
