"""The file that says where the faces of a video are, frame by frame."""

import json
import logging
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)

_VERSION = 1  # Raise it when faces are found or linked otherwise.

ROW = np.dtype(
    [
        ("frame", np.int64),
        ("time", np.float64),
        ("track", np.int32),
        ("run", np.int32),
        ("confidence", np.float64),
        ("found", np.float64, (7, 2)),
        ("smoothed", np.float64, (7, 2)),
    ]
)
"""What is known of one face in one frame: index of the frame, its time in seconds,
number and run of the track, score of the detector, seven points in pixels as found and
as smoothed (corners of the box, five landmarks). Score and points found are NaN where
the detector missed the face."""


def write_record(path: Path, header: dict, rows: np.ndarray) -> None:
    """Writes a record as JSON, one line a face; null stands where it was missed.

    Args:
        path: the file, written in place.
        header: from which file and how the faces were found.
        rows: of dtype `ROW`, in the order of the frames.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"version": _VERSION} | header)[:-1] + ', "faces": [')
        for index, entry in enumerate(map(_entry, rows)):
            file.write(("," if index else "") + "\n" + json.dumps(entry))
        file.write("\n]}\n")


def read_record(path: Path, header: dict) -> tuple[dict, np.ndarray | None]:
    """Reads what was found, if it was found in the same file in the same way.

    A record of a longer part of the video serves, too. A damaged one is as none, and is
    named in the log.

    Args:
        path: the file; it may be missing.
        header: from which file and how the faces are to be found, `start` and `end` in
            seconds among it.

    Returns:
        The header of the record and its rows of what was found, of dtype `ROW`; or
        `header` and None.
    """
    if not path.is_file():
        return header, None
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        entries, version = known.pop("faces"), known.pop("version")
        found = [_row(entry) for entry in entries if entry["box"] is not None]
        rows = np.array(found, ROW)
        same = version == _VERSION and all(
            known[name] == value
            for name, value in header.items()
            if name not in ("start", "end")
        )
        covers = known["start"] <= header["start"] and _end(header) <= _end(known)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s is damaged (%r): the faces are searched again", path, error)
        return header, None
    return (known, rows) if same and covers else (header, None)


def _end(header: dict) -> float:
    return np.inf if header["end"] is None else header["end"]


def _entry(row: np.void) -> dict:
    """What the record says of one face in one frame."""
    seen = not np.isnan(row["confidence"])
    return {
        "frame": int(row["frame"]),
        "time": float(row["time"]),
        "track": int(row["track"]),
        "run": int(row["run"]),
        "confidence": float(row["confidence"]) if seen else None,
        "box": row["found"][:2].ravel().tolist() if seen else None,
        "landmarks": row["found"][2:].tolist() if seen else None,
        "smoothed_box": row["smoothed"][:2].ravel().tolist(),
        "smoothed_landmarks": row["smoothed"][2:].tolist(),
    }


def _row(entry: dict) -> tuple:
    """The row of an entry, not smoothed."""
    points = np.vstack([np.reshape(entry["box"], (2, 2)), entry["landmarks"]])
    place = (entry[name] for name in ("frame", "time", "track", "run", "confidence"))
    return (*place, points, points)
