"""What an evaluation found: written, ranked, and gathered to stretches."""

import json
from dataclasses import replace

import pytest

from fsgan.evaluation.record import (
    Evaluation,
    FrameScores,
    TimeScores,
    UntouchedScores,
    worst_frames,
    worst_stretches,
)


def frame(index: int, found: bool = True, **scores: float) -> FrameScores:
    """A frame of a video of one frame a second."""
    return FrameScores(index, float(index), found, **scores)


def evaluation(*frames: FrameScores, worst: tuple[int, ...] = ()) -> Evaluation:
    return Evaluation(
        source="a.mp4",
        swapped="swap.mp4",
        direction="AtoB",
        embedder="dlib",
        notes=("One.",),
        machine={"machine": "x86_64"},
        identity=None,
        heat_maps={"target": [[1.0]]},
        expression=None,
        expression_68=None,
        pose={},
        reconstruction={},
        time=TimeScores(1.0, None, 0.0),
        seam=None,
        untouched=UntouchedScores(41.5, (2, 2), (2.0, 2.0), 0.0),
        frames=frames,
        worst=worst,
    )


def test_what_is_saved_reads_as_it_was(tmp_path):
    found = evaluation(frame(0, seam=1.5), frame(1, found=False), worst=(1,))
    found.save(tmp_path / "new" / "report.json")
    read = json.loads((tmp_path / "new" / "report.json").read_text())
    assert read["frames"][0]["seam"] == 1.5
    assert read["frames"][1] == {
        "index": 1,
        "seconds": 1.0,
        "found": False,
        **dict.fromkeys(
            ["to_target", "to_source", "expression", "pose", "seam", "outside"]
        ),
    }
    assert read["time"] == {"jitter": 1.0, "flicker": None, "missed": 0.0}
    assert read["untouched"]["frames"] == [2, 2]
    assert read["worst"] == [1]


def test_what_json_cannot_say_is_refused_and_nothing_written(tmp_path):
    endless = replace(evaluation(), time=TimeScores(float("inf"), None, 0.0))
    with pytest.raises(ValueError, match="not JSON compliant"):
        endless.save(tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


def test_frames_are_ranked_by_the_mean_of_their_ranks():
    # Ranks of expression 0, 1/2, 1; of seam, by how far from 1, 0, 1, 1/2; of likeness
    # 0, 1/2, 1, as 0.85 lies between: means 0, 2/3 and 5/6.
    frames = [
        frame(0, expression=0.1, seam=1.0, to_target=0.9),
        frame(1, expression=0.2, seam=2.0),
        frame(2, expression=0.3, seam=0.8, to_target=0.8),
    ]
    assert worst_frames(frames) == (2, 1, 0)


def test_what_is_not_measured_does_not_count():
    # Means of ranks: 1/2, 1/4 (of two), 1 (of one).
    frames = [
        frame(0, expression=0.1, seam=3.0),
        frame(1, expression=0.2, seam=1.0),
        frame(2, expression=0.3),
    ]
    assert worst_frames(frames) == (2, 0, 1)


def test_likeness_to_the_source_does_not_count_and_less_to_the_target_is_worse():
    frames = [
        frame(0, to_target=0.9, to_source=0.1),
        frame(1, to_target=0.8, to_source=0.9),
    ]
    assert worst_frames(frames) == (1, 0)


def test_a_missed_face_comes_before_all_others():
    frames = [
        frame(0, expression=0.3, seam=2.0),
        frame(1, found=False, seam=0.5),
        frame(2, expression=0.1, seam=1.0),
    ]
    assert worst_frames(frames)[0] == 1


def test_the_worst_lie_apart_and_are_not_more_than_asked_for():
    frames = [
        FrameScores(index, index / 25, True, expression=value)
        for index, value in enumerate([1, 5, 4, 3, 2, 0.5, 0.4])
    ]
    assert worst_frames(frames, apart=0.07) == (1, 3, 5)
    assert worst_frames(frames, count=2, apart=0.0) == (1, 2)


def test_a_border_blurred_to_half_is_as_bad_as_one_twice_as_hard():
    seams = [1.0, 1.9, 0.5, 1.1]
    frames = [frame(index, seam=seam) for index, seam in enumerate(seams)]
    assert worst_frames(frames) == (2, 1, 3, 0)


def test_no_frames_no_worst():
    assert worst_frames([]) == ()


def test_worst_frames_are_gathered_to_stretches():
    frames = [frame(index) for index in range(20)]
    found = evaluation(*frames, worst=(10, 3, 4, 0))
    assert worst_stretches(found) == [(9.5, 10.5), (2.5, 4.5), (0, 0.5)]
    assert worst_stretches(found, 0.2) == [
        (9.8, 10.2),
        (2.8, 3.2),
        (3.8, 4.2),
        (0, 0.2),
    ]
    assert worst_stretches(found, 6) == [(0, 16)]
    assert worst_stretches(evaluation(*frames)) == []


def test_a_stretch_of_no_length_is_refused():
    with pytest.raises(ValueError, match="seconds must be above 0, got 0"):
        worst_stretches(evaluation(frame(0), worst=(0,)), 0)
