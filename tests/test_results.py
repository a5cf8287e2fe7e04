"""What an evaluation measured: assessed, saved, ranked, gathered to stretches."""

from dataclasses import replace

import numpy as np
import pytest

from fsgan.evaluation.metrics import summarize
from fsgan.evaluation.results import (
    NOT_MEASURED,
    Evaluation,
    FrameScores,
    worst_frames,
)


def many(start, step=0.01):
    """21 values: mean 12 steps above the start, low 1, median 10, high 19."""
    return summarize(start + step * np.array([*range(20), 62.0]))


FIGURES = {
    "moved": 0.72,
    "ceiling": 0.88,
    "moved_of_ceiling": 0.82,
    "to_target": many(0.711),
    "to_source": many(0.412),
    "within_target": 0.853,
    "target_to_source": 0.314,
    "nearest_target": 0.91,
    "nearest_source": 0.06,
    "nearest_other": 0.03,
    "mouth_follows": 0.69,
    "eyes_follow": 0.57,
    "sharpness": 0.46,
    "mask_iou": many(0.805),
    "expression": many(0.123),
    "expression_68": many(0.234),
    "roll": many(0.4, 0.05),
    "yaw": many(1.6, 0.1),
    "pitch": many(5.8, 0.1),
    "jitter": 1.27,
    "flicker": 0.83,
    "missed": 0.045,
    "seam": many(1.49, 0.05),
    "psnr_a": many(21.3, 0.5),
    "ssim_a": many(0.543),
    "psnr_b": many(33.4, 0.5),
    "ssim_b": many(0.655),
    "background": 41.7,
    "frames": 99,
    "source_frames": 100,
    "seconds": 3.96,
    "source_seconds": 4.0,
    "sound_delay": 0.021,
}
FRAMES = tuple(
    FrameScores(index, index / 25, True, 0.5, 0.4, 0.01 * index, 2.0, 1.0, 3.0)
    for index in range(100)
)
FULL = Evaluation(
    source="a.mp4",
    swapped="swap.mp4",
    direction="AtoB",
    notes=("Read this first.",),
    environment={"cores": "4", "fsgan": "9.8.7"},
    figures=FIGURES,
    similarities={
        "target": [[1.0, 0.8], [0.8, 1.0]],
        "source": [[1.0, 0.7], [0.7, 1.0]],
        "swapped": [[0.6, 0.5], [0.4, 0.3]],
    },
    frames=FRAMES,
    worst=(80, 20, 25),
)
EMPTY = replace(
    FULL,
    figures={"missed": 1.0, "frames": 1, "source_frames": 1}
    | {"seconds": 0.04, "source_seconds": 0.04, "background": None},
    similarities={},
    frames=(FrameScores(0, 0.0, False),),
    worst=(0,),
)


def assess(key, **figures):
    """How a figure is assessed, with some others changed."""
    changed = replace(FULL, figures=FIGURES | figures)
    [row] = [row for row in changed.assessments if row.key == key]
    return row


# Figures in words


def test_figures_come_with_their_percentiles_and_what_is_ideal():
    row = assess("to_target")
    assert row[3:] == ("0.831", "0.721 / 0.811 / 0.901", "0.853", "good")
    assert assess("roll")[3:5] == ("1.0 deg", "0.5 / 0.9 / 1.4")
    assert assess("missed")[3:] == ("4.5%", "", "0%", "bad")
    assert assess("frames")[3:] == ("99", "", "100", "bad")
    assert assess("sound_delay").value == "0.021 s"
    assert assess("pitch").rating == "compare"  # a nose of another length


def test_every_figure_is_assessed_and_printed():
    rows = FULL.assessments
    assert {row.key for row in rows} == FIGURES.keys() - {
        "source_frames",
        "source_seconds",
    }
    for row in rows:
        assert f"  {row.measure}" in str(FULL)
        assert row.value in str(FULL) and row.percentiles in str(FULL)
    missing = [row for row in EMPTY.assessments if row.value == NOT_MEASURED]
    assert len(missing) == len(rows) - 3  # faces missed, frames, duration
    assert all(row.rating == NOT_MEASURED for row in missing)
    assert assess("to_target", within_target=None).ideal == "?"


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("to_target", {"to_source": many(0.71)}, {"to_source": many(0.711)}),
        ("nearest_target", {"nearest_target": 0.51}, {"nearest_target": 0.5}),
        ("roll", {"roll": many(1.4, 0)}, {"roll": many(1.5, 0)}),
        ("yaw", {"yaw": many(3.6, 0)}, {"yaw": many(3.7, 0)}),
        # The 95th percentile counts, not the mean.
        ("yaw", {"yaw": many(0)}, {"yaw": summarize([0] * 18 + [30] * 2)}),
        ("missed", {"missed": 0.0}, {"missed": 0.01}),
        ("frames", {"frames": 100}, {"frames": 99}),
        ("seconds", {"seconds": 4.04}, {"seconds": 4.07}),
        ("sound_delay", {"sound_delay": 0.125}, {"sound_delay": 0.126}),
        ("sound_delay", {"sound_delay": -0.045}, {"sound_delay": -0.046}),
    ],
)
def test_a_limit_is_where_it_is_said_to_be(key, good, bad):
    assert assess(key, **good).rating == "good"
    assert assess(key, **bad).rating == "bad"


def test_the_table_is_no_wider_than_a_page_of_code():
    for evaluation in (replace(FULL, notes=("long " * 60,)), EMPTY):
        lines = str(evaluation).splitlines()
        assert max(map(len, lines)) <= 88
        assert all(line == line.rstrip() for line in lines)
    assert "- Read this first." in str(FULL)


def test_a_notebook_shows_a_table_and_no_pages_of_numbers():
    assert repr(FULL) == (
        "<Evaluation of swap.mp4: 100 frames with a face, 6 figures good, 2 bad>"
    )
    html = FULL._repr_html_()
    assert html.count("<table") == 1
    assert "0.721 / 0.811 / 0.901" in html
    assert "pip install &#39;fsgan[identity]&#39;" in EMPTY._repr_html_()


# Worst frames


@pytest.mark.parametrize(
    ("scores", "worst"),
    [
        # Ranks of expression 0, 1/2, 1; of seam, by how far from 1, 0, 1, 1/2; of
        # likeness 0, 1/2, 1, as 0.85 lies between: means 0, 2/3 and 5/6.
        (
            {"expression": (0.1, 0.2, 0.3), "seam": (1.0, 2.0, 0.8)}
            | {"to_target": (0.9, None, 0.8)},
            (2, 1, 0),
        ),
        # What is not measured does not count: means 1/2, 1/4 (of two), 1 (of one).
        ({"expression": (0.1, 0.2, 0.3), "seam": (3.0, 1.0, None)}, (2, 0, 1)),
        # Likeness to the source does not count.
        ({"to_target": (0.9, 0.8), "to_source": (0.1, 0.9)}, (1, 0)),
        # A missed face comes before all others.
        ({"found": (True, False, True), "expression": (0.3, None, 0.1)}, (1, 0, 2)),
        # A border blurred to half is as bad as one twice as hard.
        ({"seam": (1, 1.9, 0.5, 1.1)}, (2, 1, 3, 0)),
        ({}, ()),
    ],
)
def test_frames_are_ranked_by_the_mean_of_their_ranks(scores, worst):
    of_frames = [
        dict(zip(scores, values, strict=True))
        for values in zip(*scores.values(), strict=True)
    ]
    frames = [
        FrameScores(**{"index": index, "seconds": float(index), "found": True} | values)
        for index, values in enumerate(of_frames)
    ]
    assert worst_frames(frames) == worst


def test_the_worst_lie_apart_and_are_not_more_than_asked_for():
    frames = [
        FrameScores(index, index / 25, True, expression=value)
        for index, value in enumerate([1, 5, 4, 3, 2, 0.5, 0.4])
    ]
    assert worst_frames(frames, apart=0.07) == (1, 3, 5)
    assert worst_frames(frames, count=2, apart=0.0) == (1, 2)
