"""What an evaluation measured, what it means, and which frames are worst."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from fsgan.assets import render
from fsgan.evaluation.metrics import MAX_PSNR, Figure, Summary

NOT_MEASURED = "not measured"

# What `fsgan.faces.pose.estimate_mesh_pose` says of a portrait and of its mirror image
# differs by less in 95 of 100.
_ROLL_ERROR, _YAW_ERROR = 1.4, 3.6  # degrees
_SOUND_EARLY, _SOUND_LATE = -0.045, 0.125  # seconds, noticed from: ITU-R BT.1359-1
_COLUMNS = 88  # of the table in text
_ROW = "{:<26}{:<13}{:<24}{:<10}{:<12}"


@dataclass(frozen=True)
class FrameScores:
    """One frame with a face; None is what could not be measured in it."""

    index: int  # in the source, from 0
    seconds: float  # its time in the source
    found: bool  # every face of the source is found in the swapped frame
    to_target: float | None = None  # mean cosine similarity to the target's faces
    to_source: float | None = None  # the same to the source's
    expression: float | None = None  # mean `metrics.expression_distance`
    pose: float | None = None  # largest difference of roll, yaw and pitch, degrees
    seam: float | None = None  # `metrics.seam`
    outside: float | None = None  # largest difference outside the mask, of 255


class Assessment(NamedTuple):
    """One figure and how to read it, as text.

    `rating` is "good", "bad", "compare" where no limit is known, or "not measured".
    """

    key: str  # its name in `Evaluation.figures`
    group: str  # what it is a figure of
    measure: str  # its name in words
    value: str  # the mean or the figure itself with its unit, or "not measured"
    percentiles: str  # 5 %, median and 95 % where it is one of many faces, else ""
    ideal: str  # what a perfect swap has
    rating: str


# By group: key, name, format and ideal of each figure; an ideal that is a key stands
# for that figure. evaluation_table.html says what they mean.
_MEASURES = {
    "Whose face it is": (
        ("moved", "Moved to the target", "{:.2f}", "ceiling"),
        ("ceiling", "Real faces put there", "{:.2f}", "1"),
        ("moved_of_ceiling", "Moved, of what can be", "{:.2f}", "1"),
        ("to_target", "Like the target", "{:.3f}", "within_target"),
        ("to_source", "Like the source", "{:.3f}", "target_to_source"),
        ("within_target", "Target like itself", "{:.3f}", ""),
        ("target_to_source", "Target like source", "{:.3f}", ""),
        ("nearest_target", "Nearest is the target", "{:.1%}", "100%"),
        ("nearest_source", "Nearest is the source", "{:.1%}", "0%"),
        ("nearest_other", "Nearest is another", "{:.1%}", "0%"),
    ),
    "Expression and pose kept": (
        ("mouth_follows", "Mouth follows", "{:.2f}", "1"),
        ("eyes_follow", "Eyes follow", "{:.2f}", "1"),
        ("expression", "Expression, 5 points", "{:.3f}", "0"),
        ("expression_68", "Expression, 68 points", "{:.3f}", "0"),
        ("roll", "Roll", "{:.1f} deg", "0"),
        ("yaw", "Yaw", "{:.1f} deg", "0"),
        ("pitch", "Pitch", "{:.1f} deg", "0"),
    ),
    "The picture": (
        ("sharpness", "Sharpness", "{:.2f}", "1"),
        ("mask_iou", "Mask on the face", "{:.3f}", "1"),
    ),
    "In motion": (
        ("jitter", "Jitter", "{:.2f}", "1"),
        ("flicker", "Flicker", "{:.2f}", "1"),
        ("missed", "Faces missed", "{:.1%}", "0%"),
        ("seam", "Seam", "{:.2f}", "1"),
    ),
    "Held-out faces rebuilt": tuple(
        (f"{key}_{person}", f"{person.upper()}, {name}", style, ideal)
        for person in "ab"
        for key, name, style, ideal in (
            ("psnr", "PSNR", "{:.1f} dB", f"{MAX_PSNR:.0f} dB"),
            ("ssim", "SSIM", "{:.3f}", "1"),
        )
    ),
    "Untouched": (
        ("background", "Outside the mask", "{:.1f} dB", f"{MAX_PSNR:.0f} dB"),
        ("frames", "Frames", "{}", "source_frames"),
        ("seconds", "Duration", "{:.3f} s", "source_seconds"),
        ("sound_delay", "Sound late by", "{:.3f} s", "0 s"),
    ),
}

# When a figure is good, where a limit can be justified; all others are to compare.
_GOOD: dict[str, Callable[[dict], bool]] = {
    "to_target": lambda f: f["to_target"].mean > f["to_source"].mean,
    "nearest_target": lambda f: f["nearest_target"] > 0.5,
    "roll": lambda f: f["roll"].high <= _ROLL_ERROR,
    "yaw": lambda f: f["yaw"].high <= _YAW_ERROR,
    "missed": lambda f: f["missed"] == 0,
    "frames": lambda f: f["frames"] == f["source_frames"],
    "seconds": lambda f: (
        abs(f["seconds"] - f["source_seconds"])
        < 1.5 * f["source_seconds"] / f["source_frames"]
    ),
    "sound_delay": lambda f: _SOUND_EARLY <= f["sound_delay"] <= _SOUND_LATE,
}


@dataclass(frozen=True, repr=False)
class Evaluation:
    """How good a swapped video is; None is what could not be measured.

    `print` shows the table of all figures, as does a notebook. Among `figures` landmark
    distances are in distances between the eyes, angles in degrees, jitter, flicker and
    seam against the source.
    """

    source: str  # path of the footage
    swapped: str  # path of the swapped video
    direction: str  # "AtoB" or "BtoA"
    notes: tuple[str, ...]  # what to know of the figures, a sentence each
    environment: dict[str, str | int]  # machine, versions and date
    figures: dict[str, Figure]  # by name; `assessments` says them in words
    # Cosine similarities as lists of rows, within "target" and "source", and of
    # "swapped" to the target; empty without dlib.
    similarities: dict[str, list[list[float]]]
    frames: tuple[FrameScores, ...]  # each frame with a face
    worst: tuple[int, ...]  # indices of the worst frames, as of `worst_frames`
    model: str | None = None  # folder of the model, if it was given
    settings: dict = field(default_factory=dict)  # of the conversion, not the defaults

    @property
    def title(self) -> str:
        """A heading."""
        return f"Evaluation of {Path(self.swapped).name}"

    @property
    def description(self) -> str:
        """Who was replaced by whom, in a sentence."""
        old, new = self.direction.split("to")
        return (
            f"Faces of {old} (the source) in {Path(self.source).name} were replaced by "
            f"{new}'s (the target). Frames with a face: {len(self.frames)}."
        )

    @property
    def assessments(self) -> list[Assessment]:
        """Every figure with how to read it, the most important first."""
        return [
            self._assess(group, *measure)
            for group, measures in _MEASURES.items()
            for measure in measures
        ]

    def _assess(
        self, group: str, key: str, measure: str, style: str, ideal: str
    ) -> Assessment:
        value, percentiles = self.figures.get(key), ""
        if ideal.isidentifier():
            known = self.figures.get(ideal)
            ideal = "?" if known is None else style.format(known)
        text, rating = NOT_MEASURED, NOT_MEASURED
        if isinstance(value, Summary):
            number = style.partition("}")[0] + "}"
            ends = (value.low, value.median, value.high)
            percentiles = " / ".join(number.format(end) for end in ends)
            value = value.mean
        if value is not None:
            text, rating = style.format(value), "compare"
            if key in _GOOD:
                rating = "good" if _GOOD[key](self.figures) else "bad"
        return Assessment(key, group, measure, text, percentiles, ideal, rating)

    def __repr__(self) -> str:
        """Shortens the evaluation to a line."""
        ratings = [row.rating for row in self.assessments]
        return (
            f"<{self.title}: {len(self.frames)} frames with a face, "
            f"{ratings.count('good')} figures good, {ratings.count('bad')} bad>"
        )

    def __str__(self) -> str:
        """Lays out all figures as a table, at most 88 columns wide, then the notes."""
        lines = [self.title, *textwrap.wrap(self.description, _COLUMNS)]
        for group, rows in groupby(self.assessments, lambda row: row.group):
            lines += [
                "",
                _ROW.format(group, "mean", "5 % / median / 95 %", "ideal", ""),
            ]
            lines += [_ROW.format(f"  {row.measure}", *row[3:]) for row in rows]
        lines.append("")
        for note in self.notes:
            lines += textwrap.wrap(f"- {note}", _COLUMNS, subsequent_indent="  ")
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        return render("evaluation_table.html", evaluation=self)


def worst_frames(
    frames: Sequence[FrameScores], count: int = 12, apart: float = 0.5
) -> tuple[int, ...]:
    """Chooses the frames to look at first.

    Frames are ranked from 0 (best) to 1 (worst) by expression, by the seam's distance
    from 1 (2 is as far as 1/2), and by similarity to the target, interpolated between
    the frames that have it. A frame is as bad as the mean of its ranks; those with a
    missed face are worse than all others.

    Args:
        frames: in their order in time.
        count: of frames to choose, at most.
        apart: seconds by which they lie apart, at least.

    Returns:
        Their indices in the source, the worst first.
    """
    seconds, expression, seam, similarity = (
        np.array([getattr(frame, name) for frame in frames], float)
        for name in ("seconds", "expression", "seam", "to_target")
    )
    if (known := ~np.isnan(similarity)).any():
        similarity = np.interp(seconds, seconds[known], similarity[known])
    seam = np.abs(np.log(np.maximum(seam, 1e-6)))
    ranks = np.stack([_ranked(values) for values in (expression, seam, -similarity)])
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


def _ranked(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 (smallest) to 1 (largest); NaN where there is no value."""
    ranks = rankdata(values, nan_policy="omit")
    return (ranks - 1) / max(np.count_nonzero(~np.isnan(values)) - 1, 1)
