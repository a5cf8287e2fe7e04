"""What an evaluation measured, what it means, and which frames are worst."""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from scipy.stats import rankdata

from fsgan.evaluation.metrics import MAX_PSNR, Figure, Summary
from fsgan.media.images import write_beside

NOT_MEASURED = "not measured"

# Errors of `fsgan.faces.pose.estimate_head_pose` that 95 of 100 faces stay below where
# landmarks are off by 2 % of the distance between the eyes; both faces have them.
_ROLL_ERROR, _YAW_ERROR = 3.0 * 2**0.5, 5.0 * 2**0.5  # degrees
_SOUND_EARLY, _SOUND_LATE = -0.045, 0.125  # seconds, noticed from: ITU-R BT.1359-1
_COLUMNS = 88  # of the table in text


@dataclass(frozen=True)
class FrameScores:
    """One frame with a face; None is what could not be measured in it.

    Attributes:
        index: of the frame in the source, from 0.
        seconds: its time in the source.
        found: whether every face of the source is found in the swapped frame.
        to_target: mean cosine similarity of the swapped face to the target's faces.
        to_source: the same to the source's.
        expression: mean `fsgan.evaluation.metrics.expression_distance`.
        pose: largest difference of roll, yaw and pitch, degrees.
        seam: `fsgan.evaluation.metrics.seam`.
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


class Assessment(NamedTuple):
    """One figure and how to read it, as text.

    Attributes:
        key: its name in `Evaluation.figures`.
        group: what it is a figure of.
        measure: its name in words.
        value: the mean or the figure itself with its unit, or "not measured".
        percentiles: 5 %, median and 95 % where it is one of many faces, else "".
        ideal: what a perfect swap has.
        rating: "good", "bad", "compare" where no limit is known, or "not measured".
    """

    key: str
    group: str
    measure: str
    value: str
    percentiles: str
    ideal: str
    rating: str


# By group: key, name, format and ideal of each figure; an ideal that is a key stands
# for that figure. evaluation_table.html says what they mean.
_MEASURES = {
    "Whose face it is": (
        ("moved", "Moved to the target", "{:.2f}", "1"),
        ("to_target", "Like the target", "{:.3f}", "within_target"),
        ("to_source", "Like the source", "{:.3f}", "target_to_source"),
        ("within_target", "Target like itself", "{:.3f}", ""),
        ("target_to_source", "Target like source", "{:.3f}", ""),
        ("nearest_target", "Nearest is the target", "{:.1%}", "100%"),
        ("nearest_source", "Nearest is the source", "{:.1%}", "0%"),
        ("nearest_other", "Nearest is another", "{:.1%}", "0%"),
    ),
    "Expression and pose kept": (
        ("expression", "Expression, 5 points", "{:.3f}", "0"),
        ("expression_68", "Expression, 68 points", "{:.3f}", "0"),
        ("roll", "Roll", "{:.1f} deg", "0"),
        ("yaw", "Yaw", "{:.1f} deg", "0"),
        ("pitch", "Pitch", "{:.1f} deg", "0"),
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
            ("features", "features", "{:.3f}", "0"),
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

    `print` shows the table of all figures, as does a notebook.

    Attributes:
        source: path of the footage.
        swapped: path of the swapped video.
        direction: "AtoB" or "BtoA".
        notes: what to know of the figures, a sentence each.
        environment: machine, versions and date.
        figures: what was measured, by name; `assessments` says it in words. Landmark
            distances are in distances between the eyes, angles in degrees, jitter,
            flicker and seam against the source.
        similarities: cosine similarities as lists of rows, within "target" and
            "source", and of "swapped" to the target; empty without dlib.
        frames: each frame with a face.
        worst: indices of the worst frames, the worst first, as of `worst_frames`.
        model: folder of the model, if it was given.
        settings: those of the conversion that are not the defaults.
    """

    source: str
    swapped: str
    direction: str
    notes: tuple[str, ...]
    environment: dict[str, str]
    figures: dict[str, Figure]
    similarities: dict[str, list[list[float]]]
    frames: tuple[FrameScores, ...]
    worst: tuple[int, ...]
    model: str | None = None
    settings: dict[str, str | float | bool | None] = field(default_factory=dict)

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

    def save(self, path: str | Path) -> None:
        """Writes everything as JSON.

        Args:
            path: file to write.

        Raises:
            OSError: it cannot be written.
            ValueError: a figure is not finite.
        """
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        with write_beside(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def _assess(
        self, group: str, key: str, measure: str, style: str, ideal: str
    ) -> Assessment:
        value, percentiles = self.figures.get(key), ""
        if ideal.isidentifier():
            known = self.figures.get(ideal)
            ideal = "?" if known is None else style.format(known)
        if value is None:
            unknown = (NOT_MEASURED, "", ideal, NOT_MEASURED)
            return Assessment(key, group, measure, *unknown)
        rating = "compare"
        if key in _GOOD:
            rating = "good" if _GOOD[key](self.figures) else "bad"
        if isinstance(value, Summary):
            number = style.partition("}")[0] + "}"
            ends = (value.low, value.median, value.high)
            percentiles = " / ".join(number.format(end) for end in ends)
            value = value.mean
        text = style.format(value)
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
        group = ""
        for row in self.assessments:
            if row.group != group:
                group = row.group
                lines += ["", _line(group, "mean", "5 % / median / 95 %", "ideal", "")]
            lines.append(_line(f"  {row.measure}", *row[3:]))
        lines.append("")
        for note in self.notes:
            lines += textwrap.wrap(f"- {note}", _COLUMNS, subsequent_indent="  ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return render("evaluation_table.html", evaluation=self)


def render(template: str, **values: object) -> str:
    """Fills in one of the package's HTML templates; values are escaped."""
    environment = Environment(
        loader=PackageLoader("fsgan", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


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
        seconds: before and after each of them, above 0.

    Returns:
        (start, end) in seconds of the source, that with the worst frame first. They do
        not overlap or touch; none begins before the first frame with a face.

    Raises:
        ValueError: `seconds` is not above 0.
    """
    if not seconds > 0:
        raise ValueError(f"seconds must be above 0, got {seconds}")
    times = {frame.index: frame.seconds for frame in evaluation.frames}
    worst = [times[index] for index in evaluation.worst]
    stretches: list[tuple[float, float]] = []
    for time in sorted(worst):
        start = max(time - seconds, evaluation.frames[0].seconds)
        if stretches and start <= stretches[-1][1]:
            start = stretches.pop()[0]
        stretches.append((round(start, 3), round(time + seconds, 3)))

    def first_in(stretch: tuple[float, float]) -> int:
        return [stretch[0] <= time <= stretch[1] for time in worst].index(True)

    return sorted(stretches, key=first_in)


def _ranked(values: np.ndarray) -> np.ndarray:
    """Ranks from 0 (smallest) to 1 (largest); NaN where there is no value."""
    ranks = rankdata(values, nan_policy="omit")
    return (ranks - 1) / max(np.count_nonzero(~np.isnan(values)) - 1, 1)


def _line(*cells: str) -> str:
    """A line of the table in text."""
    widths = (26, 13, 24, 10, 12)
    joined = "".join(cell.ljust(n) for cell, n in zip(cells, widths, strict=True))
    return joined.rstrip()
