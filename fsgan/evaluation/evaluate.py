"""Stage: from footage and its swap to figures of how good the swap is."""

import json
import os
import platform
import shutil
from collections.abc import Collection
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import av
import cv2
import keras
import numpy as np

from fsgan.evaluation.comparison import Comparison
from fsgan.evaluation.face_metrics import (
    IdentityScores,
    Spread,
    identity_scores,
    similarity_matrix,
)
from fsgan.evaluation.faces import (
    CHOSEN,
    describe_each,
    evenly,
    expression_68,
    read_crops,
    rebuild,
)
from fsgan.evaluation.measure import compare_videos, cut_out_frames
from fsgan.evaluation.record import (
    Evaluation,
    FrameScores,
    TimeScores,
    UntouchedScores,
    worst_frames,
)
from fsgan.evaluation.video_metrics import audio_offset
from fsgan.faces.descriptors import load_descriptor
from fsgan.faces.tracks import FaceTracks, follow_faces
from fsgan.media.provenance import sidecar_path
from fsgan.media.reader import VideoInfo, probe
from fsgan.swap.swapper import DIRECTIONS, ConvertSettings, FaceSwapper

REPORT = "report.json"

_SHOWN = 8  # faces of each person in the report
_ANGLES = ("roll", "yaw", "pitch")
_EMBEDDERS = {
    "dlib": "which no training of this package looks through",
    "VGGFace": "which training may have looked through: that flatters the swap",
    "local binary patterns": "which tell people of one clip apart and no others: "
    "install 'fsgan[identity]' for figures to go by",
}


def evaluate(
    source: str | Path,
    swapped: str | Path,
    faces_a: str | Path,
    faces_b: str | Path,
    out_dir: str | Path,
    *,
    direction: str = "AtoB",
    model: str | Path | None = None,
    distractors: str | Path | None = None,
    tracks: Collection[int] | None = None,
    start: float = 0.0,
    end: float | None = None,
) -> Evaluation:
    """Measures how good a swapped video is.

    Both videos are read in step, in constant memory. Geometry and time are measured in
    all frames; up to 64 of them, evenly chosen, tell whose face it is. With `model` it
    takes about as long as the conversion did.

    Args:
        source: the footage.
        swapped: what `fsgan.convert_video` made of it, in layout 1.
        faces_a: folder of A's face crops, as of `fsgan.extract_faces`.
        faces_b: folder of B's.
        out_dir: folder for `report.html` and its pictures, for `report.json`, and for
            what `fsgan.follow_faces` writes.
        direction: "AtoB": B's face on footage of A; or "BtoA".
        model: folder given to `fsgan.train` with these folders of faces: the masks are
            made again with it, and the faces that training held out are rebuilt. None
            estimates the masks and rebuilds nothing.
        distractors: folder of face crops of other people.
        tracks: numbers of the faces that were swapped; None stands for all.
        start: second of the source that is time 0 of `swapped`.
        end: second of the source at which `swapped` ends; None for the source's end.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: a file is missing, a folder of faces is missing or empty, or
            the model folder holds no checkpoint.
        ValueError: a file is no video; the videos differ in size; no face is found in
            what they share; there is no track of that number; or `direction` is unknown
            or not that of the swap.
        OSError: `out_dir` cannot be written.
    """
    from fsgan.evaluation.report import write_report  # lest Matplotlib starts earlier

    source, swapped, out_dir = Path(source), Path(swapped), Path(out_dir)
    if direction not in DIRECTIONS:
        raise ValueError(
            f"direction must be one of {tuple(DIRECTIONS)}, got {direction!r}"
        )
    infos = _probe_both(source, swapped)
    settings, notes = _settings_of(swapped, direction)
    folders = {"a": Path(faces_a), "b": Path(faces_b)}
    target = DIRECTIONS[direction]
    crops = {
        "target": read_crops(folders[target]),
        "source": read_crops(folders["a" if target == "b" else "b"]),
    }
    others = None if distractors is None else read_crops(distractors)
    swapper = None if model is None else FaceSwapper(model, settings)
    notes.append(_note_on_masks(swapper, swapped))
    embedder = load_descriptor().name
    notes.append(f"Faces are told apart by {embedder}, {_EMBEDDERS[embedder]}.")

    part = (start, end)
    followed = _follow(source, swapped, out_dir, settings, part)
    tracks = _check_tracks(followed, tracks)
    vectors = {name: describe_each(of_person) for name, of_person in crops.items()}
    comparison, counts = compare_videos(
        (source, swapped), part, followed, tracks, swapper, CHOSEN
    )
    if counts[0] != counts[1]:
        notes.append(
            f"The source has {counts[0]} frames, the swapped video {counts[1]}: those "
            "of the same time are compared."
        )
    identity, frames = None, comparison.frames
    if comparison.crops:
        crops["fake"] = [new for _, new in comparison.crops]
        vectors["fake"] = describe_each(crops["fake"])
        identity = identity_scores(
            vectors["fake"],
            vectors["target"],
            vectors["source"],
            others and describe_each(others),
        )
        frames = _with_identity(comparison, identity)
    landmarks_68, note = expression_68(comparison.crops)
    notes.append(note)
    rebuilt = {}
    if swapper is not None:
        rebuilt, note = rebuild(swapper.checkpoint, folders)
        notes.append(note)
    evaluation = Evaluation(
        source=str(source),
        swapped=str(swapped),
        direction=direction,
        embedder=embedder,
        notes=tuple(notes),
        machine=_machine(),
        identity=identity,
        heat_maps=_heat_maps(vectors),
        expression=_spread(comparison.expression),
        expression_68=landmarks_68,
        pose=_pose(comparison.pose),
        reconstruction=rebuilt,
        time=TimeScores(
            _finite(comparison.jitter),
            _finite(comparison.flicker.value),
            comparison.missed,
        ),
        seam=_spread([frame.seam for frame in frames if frame.seam is not None]),
        untouched=_untouched(infos, comparison, counts, part),
        frames=tuple(frames),
        worst=worst_frames(frames),
        model=None if model is None else str(model),
        settings=_other_than_default(settings),
    )
    evaluation.save(out_dir / REPORT)
    worst = cut_out_frames((source, swapped), part, followed, tracks, evaluation.worst)
    shown = {name: evenly(of_person, _SHOWN) for name, of_person in crops.items()}
    write_report(evaluation, worst, shown, out_dir)
    return evaluation


def _probe_both(source: Path, swapped: Path) -> tuple[VideoInfo, VideoInfo]:
    """Describes both videos; raises where they cannot be laid over each other."""
    infos = probe(source), probe(swapped)
    own, other = ((info.width, info.height) for info in infos)
    if other in ((2 * own[0], own[1]), (3 * own[0], own[1])):
        raise ValueError(
            f"{swapped} shows {other[0] // own[0]} pictures side by side: convert "
            "again with layout=1"
        )
    if own != other:
        raise ValueError(
            f"{swapped} is {other[0]}x{other[1]} pixels, {source} {own[0]}x{own[1]}: "
            "give the very footage that was swapped"
        )
    return infos


def _settings_of(swapped: Path, direction: str) -> tuple[ConvertSettings, list[str]]:
    """The settings of the conversion, from the file beside its result, and a note."""
    path = sidecar_path(swapped)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        settings = ConvertSettings(**record["settings"])
    except (OSError, ValueError, KeyError, TypeError):
        note = (
            f"There is no {path.name} that says how the video was converted: the "
            "defaults are taken."
        )
        return ConvertSettings(direction=direction), [note]
    if settings.direction != direction:
        raise ValueError(
            f"{swapped} was swapped {settings.direction}: say "
            f"direction={settings.direction!r}"
        )
    return settings, []


def _note_on_masks(swapper: FaceSwapper | None, swapped: Path) -> str:
    """Says where the masks come from."""
    if swapper is None:
        return (
            "No model is given: masks are the whole squares that faces are generated "
            "in, so seam and outside are those of squares."
        )
    note = f"Masks are made again with {swapper.checkpoint.name}"
    if swapped.stat().st_mtime < swapper.checkpoint.stat().st_mtime:
        return f"{note}, which is YOUNGER than the swapped video: they may differ."
    return f"{note}."


def _follow(
    source: Path,
    swapped: Path,
    out_dir: Path,
    settings: ConvertSettings,
    part: tuple[float, float | None],
) -> FaceTracks:
    """The faces of the source; what the conversion found is not searched for again."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for suffix in (".tracks.json", ".tracks.png"):
        known = swapped.with_suffix(suffix)
        copy = out_dir / known.name
        if known.is_file() and known.resolve() != copy.resolve():
            shutil.copyfile(known, copy)
    return follow_faces(
        source,
        out_dir / swapped.name,
        min_face=settings.min_face,
        min_confidence=settings.min_confidence,
        smoothing=settings.smoothing,
        search_every=settings.search_every,
        start=part[0],
        end=part[1],
    )


def _check_tracks(
    followed: FaceTracks, tracks: Collection[int] | None
) -> Collection[int] | None:
    """The tracks asked for; raises where one of them is not there."""
    numbers = [track.number for track in followed.tracks]
    if not numbers:
        raise ValueError(f"no face is found in {followed.source}: nothing was swapped")
    if unknown := set(tracks or ()) - set(numbers):
        raise ValueError(
            f"tracks must be of {followed.source}: there is no {min(unknown)} among "
            f"{numbers}; look at the picture of the tracks"
        )
    return tracks


def _with_identity(
    comparison: Comparison, identity: IdentityScores
) -> list[FrameScores]:
    """The frames' scores, with those of identity where they were measured."""
    of_frames = np.array(comparison.crops_of)
    to_target, to_source = (
        np.array(spread.values) for spread in (identity.to_target, identity.to_source)
    )
    return [
        replace(
            frame,
            to_target=float(to_target[of_frames == frame.index].mean()),
            to_source=float(to_source[of_frames == frame.index].mean()),
        )
        if frame.index in of_frames
        else frame
        for frame in comparison.frames
    ]


def _heat_maps(vectors: dict[str, np.ndarray]) -> dict[str, list[list[float]]]:
    """Similarities within the target and the source, and of the fake to the target."""
    others = {"target": "target", "source": "source", "fake": "target"}
    return {
        name: similarity_matrix(faces, vectors[others[name]]).round(4).tolist()
        for name, faces in vectors.items()
    }


def _pose(differences: list[np.ndarray]) -> dict[str, Spread]:
    """How much roll, yaw and pitch differ."""
    values = np.abs(differences).T
    return (
        dict(zip(_ANGLES, map(Spread.of, values), strict=True)) if len(values) else {}
    )


def _untouched(
    infos: tuple[VideoInfo, VideoInfo],
    comparison: Comparison,
    counts: tuple[int, int],
    part: tuple[float, float | None],
) -> UntouchedScores:
    """What the swap left as it is."""
    source, swapped = infos
    start, end = part
    offset = None
    if source.has_audio and swapped.has_audio:
        offset = audio_offset(source.path, swapped.path, start, end)
    seconds = min(end or np.inf, source.duration) - start
    return UntouchedScores(
        comparison.outside.psnr, counts, (seconds, swapped.duration), offset
    )


def _other_than_default(settings: ConvertSettings) -> dict:
    """What to give to `ConvertSettings` to get these."""
    defaults = asdict(ConvertSettings())
    return {
        name: value
        for name, value in asdict(settings).items()
        if value != defaults[name]
    }


def _machine() -> dict[str, str]:
    """Where and with what it was measured."""
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "fsgan": version("fsgan"),
        "keras": f"{keras.__version__} on {keras.backend.backend()}",
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "av": av.__version__,
    }


def _spread(values: list[float]) -> Spread | None:
    return Spread.of(values) if values else None


def _finite(value: float | None) -> float | None:
    """The value where JSON has a word for it."""
    return value if value is not None and np.isfinite(value) else None
