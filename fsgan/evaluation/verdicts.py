"""The figures of an evaluation with what they mean, as a table in text."""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fsgan.evaluation.face_metrics import MOST_PSNR, IdentityScores, Spread
from fsgan.evaluation.record import Evaluation

NOT_MEASURED = "not measured"

_COLUMNS = 88  # of the table in text
# By how much 95 of 100 angles are off where points are off by 2 % of the distance
# between the eyes, as of `fsgan.faces.pose.estimate_head_pose`.
_POSE_ERROR = {"roll": 3.0, "yaw": 5.0}  # degrees
# When sound begins to be noticed early or late: ITU-R BT.1359-1.
_EARLY, _LATE = -0.045, 0.125  # seconds


class Verdict(NamedTuple):
    """One figure of an evaluation and how to read it.

    Attributes:
        group: what it is a figure of.
        measure: its name.
        value: the mean or the figure itself, with its unit, or "not measured".
        spread: 5 %, median and 95 % of the faces, where it is one of many faces.
        perfect: what a perfect swap has.
        verdict: "good", "bad", "compare" where no border can be justified, or "not
            measured".
        meaning: what it says, or why it was not measured.
    """

    group: str
    measure: str
    value: str
    spread: str
    perfect: str
    verdict: str
    meaning: str


def judge(evaluation: Evaluation) -> list[Verdict]:
    """Says of every figure what it means, and whether it is good where that is known.

    Args:
        evaluation: what was measured.

    Returns:
        A verdict for each figure, what matters most first.
    """
    return [
        *_judge_identity(evaluation),
        *_judge_motion(evaluation),
        *_judge_rebuilt(evaluation),
        *_judge_untouched(evaluation),
    ]


def summary(evaluation: Evaluation) -> str:
    """Writes an evaluation as a table in text.

    Args:
        evaluation: what was measured.

    Returns:
        Lines of 88 characters at most: one for each figure, in groups, then the notes.
    """
    lines = [title_of(evaluation), *textwrap.wrap(describe_swap(evaluation), _COLUMNS)]
    group = ""
    for row in judge(evaluation):
        if row.group != group:
            group = row.group
            lines += ["", _line((group, "mean", "5 % / median / 95 %", "perfect", ""))]
        lines.append(_line((f"  {row.measure}", *row[2:6])))
    lines.append("")
    for note in evaluation.notes:
        lines += textwrap.wrap(f"- {note}", _COLUMNS, subsequent_indent="  ")
    return "\n".join(lines)


def title_of(evaluation: Evaluation) -> str:
    """Says what the evaluation is of, in a title.

    Args:
        evaluation: what was measured.

    Returns:
        A few words.
    """
    return f"Evaluation of {Path(evaluation.swapped).name}"


def describe_swap(evaluation: Evaluation) -> str:
    """Says who was replaced by whom, and what told them apart.

    Args:
        evaluation: what was measured.

    Returns:
        Sentences.
    """
    new, old = ("B", "A") if evaluation.direction == "AtoB" else ("A", "B")
    footage = Path(evaluation.source).name
    return (
        f"Faces of {old} (the source) in {footage} were replaced by {new}'s "
        f"(the target). Frames with a face: {len(evaluation.frames)}. Persons are told "
        f"apart by {evaluation.embedder}."
    )


def _judged(
    group: str,
    measure: str,
    value: Spread | float | None,
    style: str,
    perfect: str,
    meaning: str,
    missing: str = "",
    good: Callable[[float], bool] | None = None,
) -> Verdict:
    """A verdict; `good` is asked of a figure, or of a spread's far end."""
    if value is None:
        gone = (NOT_MEASURED, "", perfect, NOT_MEASURED, missing)
        return Verdict(group, measure, *gone)
    spread, figure, asked = "", value, value
    if isinstance(value, Spread):
        number = style.partition("}")[0] + "}"
        ends = (value.low, value.median, value.high)
        spread = " / ".join(number.format(end) for end in ends)
        figure, asked = value.mean, value.high
    verdict = "compare" if good is None else "good" if good(asked) else "bad"
    told = style.format(figure)
    return Verdict(group, measure, told, spread, perfect, verdict, meaning)


def _judge_identity(evaluation: Evaluation) -> list[Verdict]:
    scores = evaluation.identity
    measured = dict.fromkeys(IdentityScores.__dataclass_fields__)
    if scores is not None:
        measured = vars(scores)
    within, apart = (
        "?" if value is None else f"{value:.3f}"
        for value in (measured["within_target"], measured["target_to_source"])
    )
    no_pair = "needs two faces of the target that are told apart from the source's"
    no_face = "needs a face in those frames of the swap that are compared"
    rows: tuple[tuple[str, str, str, str, str, Callable | None], ...] = (
        (
            "Moved to the target",
            "moved",
            "{:.2f}",
            "1",
            "0: no nearer to the target than the source was; 1: as near as another "
            "real face of the target. Means the same whatever tells faces apart, but "
            "no point between is a border.",
            None,
        ),
        (
            "Like the target",
            "to_target",
            "{:.3f}",
            within,
            f"Two faces of the target have {within}, one of the target and one of the "
            f"source {apart}: that depends on what tells faces apart. Good where it is "
            "more than likeness to the source.",
            lambda _: scores.to_target.mean > scores.to_source.mean,
        ),
        (
            "Like the source",
            "to_source",
            "{:.3f}",
            apart,
            f"Faces of the target have {apart}. Judged in the line above.",
            None,
        ),
        (
            "Target like itself",
            "within_target",
            "{:.3f}",
            "",
            "Two real faces of the target, for scale.",
            None,
        ),
        (
            "Target like source",
            "target_to_source",
            "{:.3f}",
            "",
            "Real faces of the two people, for scale: where a swap starts from.",
            None,
        ),
        (
            "Nearest is the target",
            "retrieved_target",
            "{:.1%}",
            "100%",
            "Swapped faces whose nearest real face is one of the target. Above half, "
            "most are taken for the target.",
            lambda value: value > 0.5,
        ),
        (
            "Nearest is the source",
            "retrieved_source",
            "{:.1%}",
            "0%",
            "Still taken for the person of the footage.",
            None,
        ),
        (
            "Nearest is another",
            "retrieved_distractors",
            "{:.1%}",
            "0%",
            "Taken for one of the other people, where some were given.",
            None,
        ),
    )
    return [
        _judged(
            "Whose face it is",
            name,
            measured[measure],
            style,
            perfect,
            meaning,
            no_face if scores is None else no_pair,
            good,
        )
        for name, measure, style, perfect, meaning, good in rows
    ]


def _judge_motion(evaluation: Evaluation) -> list[Verdict]:
    group, missing = "Expression and pose kept", "no face was found in both videos"
    rows = [
        _judged(
            group,
            "Expression, 5 points",
            evaluation.expression,
            "{:.3f}",
            "0",
            "How far landmarks moved, in distances between the eyes: a mouth's corners "
            "count, lids and lips do not. Never quite 0, as finding a face anew moves "
            "its points, too; no border is known.",
            missing,
        ),
        _judged(
            group,
            "Expression, 68 points",
            evaluation.expression_68,
            "{:.3f}",
            "0",
            "The same with lids, brows and lips, in some of the frames.",
            "needs the package face-alignment and its weights",
        ),
    ]
    for angle, error in _POSE_ERROR.items():
        error *= np.sqrt(2)  # both of the faces that are compared are off
        rows.append(
            _judged(
                group,
                angle.capitalize(),
                evaluation.pose.get(angle),
                "{:.1f} deg",
                "0",
                f"Up to {error:.1f} degrees in 95 of 100 faces may be the error of the "
                "measure (points off by 2 % of the distance between the eyes in both "
                "videos); more is a head that turned.",
                missing,
                lambda value, error=error: value <= error,
            )
        )
    rows.append(
        _judged(
            group,
            "Pitch",
            evaluation.pose.get("pitch"),
            "{:.1f} deg",
            "0",
            "No border: the nose of another person, longer or shorter, looks like a "
            "nod. An even shift is that; look at how far 5 % and 95 % lie apart.",
            missing,
        )
    )
    group, time = "In motion", evaluation.time
    few = "needs frames in a row with a face"
    return [
        *rows,
        _judged(
            group,
            "Jitter",
            time.jitter,
            "{:.2f}",
            "1",
            "Acceleration of the landmarks against the source's: more than 1 trembles, "
            "less is smoother than the head was. No border is known.",
            f"{few}, and a source that moves",
        ),
        _judged(
            group,
            "Flicker",
            time.flicker,
            "{:.2f}",
            "1",
            "Change inside the face from frame to frame against the source's: more "
            "than 1 flickers, less has lost detail that moved. No border is known.",
            f"{few}, and a source that changes",
        ),
        _judged(
            group,
            "Faces missed",
            time.missed,
            "{:.1%}",
            "0%",
            "Where the detector sees a face in the source and none in the swap, "
            "something is wrong with it: look at them first.",
            "",
            lambda value: value == 0,
        ),
        _judged(
            group,
            "Seam",
            evaluation.seam,
            "{:.2f}",
            "1",
            "Gradients along the mask's border against the source's: more than 1 is an "
            "outline, less is blur. Depends on the skin: compare settings on the same "
            "footage.",
            missing,
        ),
    ]


def _judge_rebuilt(evaluation: Evaluation) -> list[Verdict]:
    group = "Held-out faces rebuilt"
    missing = "needs a model that was trained with validation, and its faces"
    rows = []
    for person in "ab":
        scores = evaluation.reconstruction.get(person)
        for measure, name, style, perfect, meaning in (
            (
                "psnr",
                "PSNR",
                "{:.1f} dB",
                f"{MOST_PSNR:.0f} dB",
                "6 dB more is half the error. Blurred pictures do well: compare models "
                "on the same faces only.",
            ),
            (
                "ssim",
                "SSIM",
                "{:.3f}",
                "1",
                "1 is the same structure, 0 nothing in common. Compare models on the "
                "same faces only.",
            ),
            (
                "feature_distance",
                "features",
                "{:.3f}",
                "0",
                "What a face network sees: 0 is the same, 2 nothing alike. Compare "
                "models on the same faces only.",
            ),
        ):
            value = scores and getattr(scores, measure)
            why = "needs the weights of VGGFace" if scores else missing
            name = f"{person.upper()}, {name}"
            rows.append(_judged(group, name, value, style, perfect, meaning, why))
    return rows


def _judge_untouched(evaluation: Evaluation) -> list[Verdict]:
    scores, group = evaluation.untouched, "Untouched"
    (frames, swapped_frames), (seconds, swapped_seconds) = scores.frames, scores.seconds
    error = 255 * 10 ** (-(scores.outside_psnr or 0) / 20)
    return [
        _judged(
            group,
            "Outside the mask",
            scores.outside_psnr,
            "{:.1f} dB",
            f"{MOST_PSNR:.0f} dB",
            f"A usual error of {error:.1f} of 255 levels. Encoding alone takes from "
            "it: compare with a lossless conversion (.mkv, lossless=True).",
            "the masks leave nothing outside",
        ),
        _judged(
            group,
            "Frames",
            swapped_frames,
            "{}",
            f"{frames}",
            "As many as the source has.",
            "",
            lambda value: value == frames,
        ),
        _judged(
            group,
            "Duration",
            swapped_seconds,
            "{:.3f} s",
            f"{seconds:.3f} s",
            "As long as the source, to a frame.",
            "",
            lambda value: round(abs(value - seconds) * frames / seconds) <= 1,
        ),
        _judged(
            group,
            "Sound late by",
            scores.audio_offset,
            "{:.3f} s",
            "0 s",
            "Noticed from 0.045 s early or 0.125 s late on (ITU-R BT.1359-1).",
            "one of the two has no sound",
            lambda value: _EARLY <= value <= _LATE,
        ),
    ]


def _line(cells: Sequence[str]) -> str:
    """A line of the table in text."""
    widths = (26, 13, 24, 10, 12)
    joined = "".join(cell.ljust(n) for cell, n in zip(cells, widths, strict=True))
    return joined.rstrip()
