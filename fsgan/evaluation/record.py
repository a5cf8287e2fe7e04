"""What an evaluation found, as plain values that go to JSON and into a report."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from fsgan.evaluation.face_metrics import IdentityScores, ReconstructionScores, Spread
from fsgan.media.images import write_beside


@dataclass(frozen=True)
class FrameScores:
    """One frame with a face; None stands for what could not be measured in it.

    Attributes:
        index: of the frame in the source, from 0.
        seconds: its time in the source.
        found: whether a face was found in the swapped frame where the source has one.
        to_target: cosine similarity of the swapped face to the target's faces, mean.
        to_source: that to the source's.
        expression: landmark distance to the source's face, aligned, in eye distances.
        pose: largest difference of roll, yaw and pitch to the source's face, degrees.
        seam: gradients along the mask's border against the source's own.
        outside: largest difference outside the mask, levels of 255.
    """

    index: int
    seconds: float
    found: bool
    to_target: float | None = None
    to_source: float | None = None
    expression: float | None = None
    pose: float | None = None
    seam: float | None = None
    outside: float | None = None


@dataclass(frozen=True)
class TimeScores:
    """What a swap is like in motion.

    Attributes:
        jitter: acceleration of the swapped face's landmarks against the source's own,
            1 where they move alike.
        flicker: change inside the face from frame to frame, along the optical flow of
            the source, against the source's own.
        missed: share of the source's faces that are not found in the swapped frame.
    """

    jitter: float | None
    flicker: float | None
    missed: float


@dataclass(frozen=True)
class UntouchedScores:
    """What a swap must leave as it is.

    Attributes:
        outside_psnr: of the pixels outside the mask, dB; only encoding takes from it.
        frames: frames of the source and of the swapped video.
        seconds: duration of both.
        audio_offset: seconds that the sound comes later than in the source; None where
            one of them is silent.
    """

    outside_psnr: float | None
    frames: tuple[int, int]
    seconds: tuple[float, float]
    audio_offset: float | None


@dataclass(frozen=True)
class Evaluation:
    """How good a swapped video is; what could not be measured is None.

    Attributes:
        source: path of the footage.
        swapped: path of the swapped video.
        direction: "AtoB" or "BtoA".
        embedder: what told the persons apart.
        notes: what the reader must know of the figures, one sentence each.
        machine: where it was measured: machine, versions, date.
        identity: whose face it is.
        heat_maps: similarities, as lists of rows: "target", "source", "fake".
        expression: distances of five landmarks in the frames, in eye distances.
        expression_68: those of 68, in some frames; None without their detector.
        pose: absolute differences of roll, yaw, pitch, degrees.
        reconstruction: of held-out faces of "a" and "b" by their own decoders.
        time: in motion.
        seam: along the border of the mask.
        untouched: what is outside.
        frames: each frame with a face.
        worst: indices of the worst frames, the worst first, as of `worst_frames`.
        model: folder of the model, if it was given.
        settings: those of the conversion that are not the defaults.
    """

    source: str
    swapped: str
    direction: str
    embedder: str
    notes: tuple[str, ...]
    machine: dict[str, str]
    identity: IdentityScores | None
    heat_maps: dict[str, list[list[float]]]
    expression: Spread | None
    expression_68: Spread | None
    pose: dict[str, Spread]
    reconstruction: dict[str, ReconstructionScores]
    time: TimeScores
    seam: Spread | None
    untouched: UntouchedScores
    frames: tuple[FrameScores, ...]
    worst: tuple[int, ...]
    model: str | None = None
    settings: dict[str, str | float | bool | None] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Writes everything as JSON.

        Args:
            path: file to write.

        Raises:
            OSError: it cannot be written.
            ValueError: a figure is not finite: JSON has no word for it.
        """
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        with write_beside(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def worst_frames(
    frames: Sequence[FrameScores], count: int = 12, apart: float = 0.5
) -> tuple[int, ...]:
    """Chooses the frames to look at first.

    Frames are ranked in each of three measures, from 0 for the best to 1 for the worst:
    expression, seam (the farther from 1, the worse; 2 is as far as one half), and
    likeness to the target (the less, the worse), which is interpolated between the
    frames in which it was measured. A frame is as bad as the
    mean of the ranks it has. Those with a missed face come before all others.

    Args:
        frames: in their order in time.
        count: of frames to choose, at most.
        apart: seconds by which they lie apart, at least: neighbours are alike.

    Returns:
        Their indices in the source, the worst first.
    """
    seconds, expression, seam, likeness = (
        np.array([getattr(frame, name) for frame in frames], float)
        for name in ("seconds", "expression", "seam", "to_target")
    )
    if (known := ~np.isnan(likeness)).any():
        likeness = np.interp(seconds, seconds[known], likeness[known])
    seam = np.abs(np.log(np.maximum(seam, 1e-6)))
    ranks = np.stack([_ranked(values) for values in (expression, seam, -likeness)])
    known = ~np.isnan(ranks)
    badness = np.where(known, ranks, 0).sum(0) / np.maximum(known.sum(0), 1)
    badness[[not frame.found for frame in frames]] = 2
    chosen: list[FrameScores] = []
    for position in np.argsort(-badness, kind="stable"):
        frame = frames[position]
        if len(chosen) == count:
            break
        if all(abs(frame.seconds - other.seconds) >= apart for other in chosen):
            chosen.append(frame)
    return tuple(frame.index for frame in chosen)


def worst_stretches(
    evaluation: Evaluation, seconds: float = 0.5
) -> list[tuple[float, float]]:
    """Gathers the worst frames to stretches of the source.

    To convert just those again::

        for number, (start, end) in enumerate(worst_stretches(evaluation)):
            out = f"better_{number}.mp4"
            fsgan.convert_video("a.mp4", out, "model", settings, start=start, end=end)

    Args:
        evaluation: with its worst frames.
        seconds: shown before and after each of them, above 0.

    Returns:
        (start, end) in seconds of the source, that with the worst frame first. None
        overlaps or touches another one; none begins before the first frame with a face.

    Raises:
        ValueError: `seconds` is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    times = {frame.index: frame.seconds for frame in evaluation.frames}
    stretches: list[tuple[float, float]] = []
    for time in sorted(times[index] for index in evaluation.worst):
        start = max(time - seconds, evaluation.frames[0].seconds)
        if stretches and start <= stretches[-1][1]:
            start = stretches.pop()[0]
        stretches.append((round(start, 3), round(time + seconds, 3)))

    def worst_in(stretch: tuple[float, float]) -> int:
        inside = (
            stretch[0] <= times[index] <= stretch[1] for index in evaluation.worst
        )
        return list(inside).index(True)

    return sorted(stretches, key=worst_in)


def _ranked(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 (smallest) to 1 (largest); NaN where there is no value."""
    known = ~np.isnan(values)
    ranks = np.full(len(values), np.nan)
    ranks[known] = (rankdata(values[known]) - 1) / max(known.sum() - 1, 1)
    return ranks
