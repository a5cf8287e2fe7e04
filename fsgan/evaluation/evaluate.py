"""Stage: footage and its swap -> how good the swap is."""

from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import av
import cv2
import numpy as np
from tqdm.auto import tqdm

from fsgan.data.dataset import center_crop_batch, load_faces, split_faces
from fsgan.evaluation.measure import (
    SOUND_RATE,
    Comparison,
    SwappedVideo,
    cut_out_faces,
    find_tracks,
    measure_video,
    probe_both,
    read_conversion,
    read_sound,
)
from fsgan.evaluation.metrics import (
    Figure,
    Summary,
    cosine_similarity,
    expression_distance,
    identity_scores,
    psnr,
    sound_delay,
    ssim,
    summarize,
)
from fsgan.evaluation.results import Evaluation, FrameScores, worst_frames
from fsgan.faces.geometry import (
    CROP_EXTENT,
    read_crops,
)
from fsgan.faces.identity import SAME_PERSON, embed
from fsgan.faces.landmarks import LandmarkDetector
from fsgan.media.files import check_output
from fsgan.media.images import evenly, list_images
from fsgan.models.checkpoint import read_settings
from fsgan.models.precision import machine
from fsgan.swap.generator import FaceGenerator
from fsgan.swap.swapper import DIRECTIONS, ConvertSettings, FaceSwapper
from fsgan.validation import (
    AboveZero,
    AtLeastZero,
    check_two_folders,
    checked,
)

_CHOSEN = 64  # faces of each person, and frames, whose identity is compared
_CHOSEN_FOOTAGE = 8  # faces of the footage, to know who it shows
_CHOSEN_68 = 16  # faces whose 68 landmarks are compared: they take a second each
_SHOWN = 8  # faces of each person in the report
_SOUND_SECONDS = 300  # that are compared, at most


@checked
def evaluate(
    source: str | Path,
    swapped: str | Path,
    faces_a: str | Path,
    faces_b: str | Path,
    out_dir: str | Path,
    *,
    direction: Literal[*DIRECTIONS] = "AtoB",
    model: str | Path | None = None,
    distractors: str | Path | None = None,
    tracks: Collection[int] | None = None,
    start: AtLeastZero = 0.0,
    end: AboveZero | None = None,
) -> Evaluation:
    """Measures how good a swapped video is.

    Both videos are read in step, in constant memory. Up to 64 frames, evenly chosen,
    tell whose face it is; all else is measured in every frame. With `model` it takes
    about as long as the conversion did.

    Args:
        source: the footage.
        swapped: what `fsgan.convert_video` made of it, in layout 1.
        faces_a: folder of A's face crops, as of `fsgan.extract_faces`.
        faces_b: folder of B's.
        out_dir: folder for `report.html`, its pictures, `report.json` and the tracks.
        direction: "AtoB": B's face on footage of A; or "BtoA".
        model: folder given to `fsgan.train` with these folders of faces, to make the
            masks again and to rebuild held-out faces. None estimates the masks.
        distractors: folder of face crops of other people.
        tracks: numbers of the faces that were swapped; None stands for all.
        start: second of the source at which the conversion began.
        end: second of the source at which `swapped` ends; None for the source's end.

    Returns:
        What was measured.

    Raises:
        FileNotFoundError: a file is missing, a folder of faces is missing or empty, or
            the model folder holds no checkpoint.
        ValueError: a file is no video; the videos differ in size; no face is found in
            what they share; there is no track of that number; or `direction` is unknown
            or not that of the swap.
        OSError: `out_dir` cannot be written.
    """
    from fsgan.evaluation.report import write_report  # Matplotlib is slow to start

    source, swapped, out_dir = Path(source), Path(swapped), Path(out_dir)
    check_output(out_dir / "report.html")
    check_two_folders("A and B", faces_a, faces_b)
    infos = probe_both(source, swapped)
    settings, notes = read_conversion(source, swapped, direction)
    folders = {"a": Path(faces_a), "b": Path(faces_b)}
    target = DIRECTIONS[direction]
    crops = {
        "target": _read_crops(folders[target]),
        "source": _read_crops(folders["a" if target == "b" else "b"]),
    }
    others = None if distractors is None else _read_crops(distractors)
    swapper = None if model is None else FaceSwapper(model, settings)
    notes.append(_note_on_masks(swapper, swapped))

    found = find_tracks(source, swapped, out_dir, settings, tracks, start, end)
    video = SwappedVideo(source, swapped, found, tracks, start, end)
    wide = _read_crops(folders[target], CROP_EXTENT)
    comparison = measure_video(video, swapper, _CHOSEN, wide)
    crops["swapped"] = [new for _, _, new in comparison.crops]
    figures = comparison.figures() | {
        "seconds": infos[1].duration,
        "source_seconds": min(end or np.inf, infos[0].duration) - start,
        "sound_delay": _sound_delay(video),
    }
    footage = [old for _, old, _ in evenly(comparison.crops, _CHOSEN_FOOTAGE)]
    identity, similarities, said = _compare_identities(
        crops, others, comparison.ceiling, footage
    )
    notes += said
    figures |= identity
    notes += _notes_on_mesh(figures)
    figures["expression_68"], note = _expression_68(comparison)
    notes.append(note)
    if swapper is not None:
        rebuilt, note = _rebuild(swapper.checkpoint, folders)
        notes.append(note)
        figures |= rebuilt
    if figures["frames"] != figures["source_frames"]:
        notes.append(
            "The source has {source_frames} frames, the swapped video {frames}: those "
            "of the same time are compared.".format(**figures)
        )
    frames = _with_identity(comparison, identity)
    evaluation = Evaluation(
        source=str(source),
        swapped=str(swapped),
        direction=direction,
        notes=tuple(notes),
        environment=machine() | {"opencv": cv2.__version__, "av": av.__version__},
        figures=figures,
        similarities=similarities,
        frames=tuple(frames),
        worst=worst_frames(frames),
        model=None if model is None else str(model),
        settings=dict(
            sorted(asdict(settings).items() - asdict(ConvertSettings()).items())
        ),
    )
    worst = cut_out_faces(video, evaluation.worst)
    shown = {name: evenly(of_person, _SHOWN) for name, of_person in crops.items()}
    write_report(evaluation, worst, shown, out_dir)
    return evaluation


def _note_on_masks(swapper: FaceSwapper | None, swapped: Path) -> str:
    """Says where the masks come from."""
    if swapper is None:
        return (
            "No model is given: masks are the whole squares that faces are generated "
            "in, so seam and outside are those of squares."
        )
    younger = swapped.stat().st_mtime < swapper.checkpoint.stat().st_mtime
    warning = ", which is YOUNGER than the swapped video: they may differ"
    return f"Masks are made again with {swapper.checkpoint.name}{warning * younger}."


def _read_crops(folder: str | Path, extent: float = 1.0) -> list[np.ndarray]:
    """Up to 64 face crops of a folder, evenly chosen."""
    return list(read_crops(evenly(list_images(folder), _CHOSEN), extent))


def _sound_delay(video: SwappedVideo) -> float | None:
    """Seconds by which the sound of the swap comes late; None where there is none."""
    seconds = min(_SOUND_SECONDS, (video.end or np.inf) - video.start)
    source = read_sound(video.source, video.zero, seconds)
    swapped = read_sound(video.swapped, 0, seconds)
    return sound_delay(source, swapped, SOUND_RATE)


def _compare_identities(
    crops: dict[str, list[np.ndarray]],
    others: list[np.ndarray] | None,
    ceiling: list[np.ndarray],
    footage: list[np.ndarray],
) -> tuple[dict[str, Figure], dict[str, list[list[float]]], list[str]]:
    """Figures of identity, similarities as for `Evaluation`, and notes."""
    try:
        progress = tqdm(crops, desc="recognize", unit="person")
        embeddings = {name: embed(crops[name]) for name in progress if crops[name]}
        distractors = others and embed(others)
    except FileNotFoundError:
        needed = "dlib's face network: pip install 'fsgan[identity]'"
        return {}, {}, [f"Whose face it is was not measured: it needs {needed}."]
    against = {"target": "target", "source": "source", "swapped": "target"}
    similarities = {
        name: cosine_similarity(faces, embeddings[against[name]]).round(4).tolist()
        for name, faces in embeddings.items()
    }
    if not crops["swapped"]:
        return {}, similarities, ["No face is found in the frames that were chosen."]
    swapped, *people = (embeddings[name] for name in ("swapped", "target", "source"))
    scores = identity_scores(swapped, *people, distractors)
    if ceiling:
        best = scores["ceiling"] = identity_scores(embed(ceiling), *people)["moved"]
        if best and best > 0:
            scores["moved_of_ceiling"] = scores["moved"] / best
    notes = ["Faces are told apart by dlib's face network."]
    if scores["target_to_source"] > SAME_PERSON:
        notes.append("A and B look like one person: a swap cannot be told from none.")
    elif footage:
        to_target, to_source = (
            cosine_similarity(embed(footage), of_one).mean() for of_one in people
        )
        if to_target > to_source:
            notes.append(
                "The footage shows the person who was to be put into it: the direction "
                "is wrong, or the folders of faces are exchanged."
            )
    return scores, similarities, notes


def _notes_on_mesh(figures: dict[str, Figure]) -> list[str]:
    """Says what was measured by the face mesh, and what could not be."""
    notes = [
        "MediaPipe's face mesh, which also draws masks for training, says how far "
        "mouth and eyes open, where the face is, and its pose; whose face it is, is "
        "said by a network that trained nothing."
    ]
    for key, what in (("mouth_follows", "mouth"), ("eyes_follow", "eyes")):
        if figures[key] is None:
            notes.append(
                f"Whether the {what} of the swap can follow the source's is not known: "
                "fewer than 10 faces are found in both, or the source hardly moves."
            )
    return notes


def _with_identity(
    comparison: Comparison, identity: dict[str, Figure]
) -> list[FrameScores]:
    """The frames' scores, with similarities where they were measured."""
    frames = {frame.index: frame for frame in comparison.frames}
    of_crops = np.array([index for index, *_ in comparison.crops])
    for name in ("to_target", "to_source") if identity else ():
        values = np.array(identity[name].values)
        for index in np.unique(of_crops).tolist():
            mean = float(values[of_crops == index].mean())
            frames[index] = replace(frames[index], **{name: mean})
    return list(frames.values())


def _expression_68(comparison: Comparison) -> tuple[Summary | None, str]:
    """Expression by 68 landmarks of up to 16 faces, and a note."""
    try:
        detector = LandmarkDetector()
    except FileNotFoundError as error:
        return None, f"Expression is measured by five landmarks only: {error}."
    chosen = evenly(comparison.crops, _CHOSEN_68)
    if not chosen:
        return None, "No swapped face is found whose 68 landmarks could be measured."
    _, *sides = zip(*chosen, strict=True)
    landmarks = (np.stack(detector.detect(side)) for side in sides)
    note = f"68 landmarks are measured on {len(chosen)} faces."
    return summarize(expression_distance(*landmarks)), note


def _rebuild(
    checkpoint: Path, folders: dict[str, Path]
) -> tuple[dict[str, Figure], str]:
    """Compares faces that training held out with what their own decoder makes of them.

    PSNR and SSIM of each person of whom faces were held out; and a note.
    """
    settings = read_settings(checkpoint)
    share = settings.get("training", {}).get("validation", 0)
    model = settings["model"]
    resolution, coverage = model.resolution, model.coverage
    figures, counts = {}, []
    for person in model.sides:
        faces = load_faces(folders[person], None, resolution, coverage)
        _, held_out = split_faces(faces, share)
        counts.append(f"{len(held_out)} faces of {person.upper()}")
        if not len(held_out):
            continue
        x = center_crop_batch(held_out.images, resolution, coverage, held_out.extent)
        real = np.rint((x + 1) * 127.5).astype(np.uint8)
        _, rgb = FaceGenerator(checkpoint, person, "float32")(real)
        pairs = list(zip(real, np.rint(rgb).astype(np.uint8), strict=True))
        figures[f"psnr_{person}"] = summarize([psnr(*pair) for pair in pairs])
        figures[f"ssim_{person}"] = summarize([ssim(*pair) for pair in pairs])
    return figures, (
        f"Rebuilt are {' and '.join(counts)}, the share of {share:g} that training "
        "held out if it had these very folders; whole pictures, without mask."
    )
