"""An evaluation of which everything is known, read back from the page."""

import ast
import base64
import html
import json
import re
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from fsgan.evaluation.face_metrics import IdentityScores, ReconstructionScores, Spread
from fsgan.evaluation.plots import draw_identity, draw_reconstruction, draw_times
from fsgan.evaluation.record import (
    Evaluation,
    FrameScores,
    TimeScores,
    UntouchedScores,
    worst_stretches,
)
from fsgan.evaluation.report import write_report
from fsgan.evaluation.verdicts import NOT_MEASURED, judge, summary
from fsgan.media.images import read_image
from fsgan.media.provenance import read_marks


def spread(start, step=0.01):
    """21 values: mean 12 steps above the start, low 1, median 10, high 19."""
    return Spread.of(start + step * np.array([*range(20), 62.0]))


FRAMES = tuple(
    FrameScores(index, index / 25, True, 0.5, 0.4, 0.01 * index, 2.0, 1.0, 3.0)
    for index in range(100)
)
FULL = Evaluation(
    source="a.mp4",
    swapped="swap.mp4",
    direction="AtoB",
    embedder="local binary patterns",
    notes=("Read this first.",),
    machine={"cores": "4", "fsgan": "9.8.7"},
    identity=IdentityScores(
        spread(0.711), spread(0.412), 0.853, 0.314, 0.72, 0.91, 0.06, 0.03
    ),
    heat_maps={
        "target": [[1.0, 0.8], [0.8, 1.0]],
        "source": [[1.0, 0.7], [0.7, 1.0]],
        "fake": [[0.6, 0.5], [0.4, 0.3]],
    },
    expression=spread(0.123),
    expression_68=spread(0.234),
    pose={"roll": spread(1.6, 0.1), "yaw": spread(3.7, 0.1), "pitch": spread(5.8, 0.1)},
    reconstruction={
        "a": ReconstructionScores(spread(21.3, 0.5), spread(0.543), spread(1.015)),
        "b": ReconstructionScores(spread(33.4, 0.5), spread(0.655), spread(1.226)),
    },
    time=TimeScores(1.27, 0.83, 0.045),
    seam=spread(1.49, 0.05),
    untouched=UntouchedScores(41.7, (100, 99), (4.0, 3.96), 0.021),
    frames=FRAMES,
    worst=(80, 20, 25),
)
EMPTY = replace(
    FULL,
    identity=None,
    heat_maps={},
    expression=None,
    expression_68=None,
    pose={},
    reconstruction={},
    time=TimeScores(None, None, 1.0),
    seam=None,
    untouched=UntouchedScores(None, (1, 1), (0.04, 0.04), None),
    frames=(FrameScores(0, 0.0, False),),
    worst=(0,),
)
COLORS = {80: (200, 0, 0), 20: (0, 200, 0), 25: (0, 0, 200)}


def plain(color):
    return np.full((32, 32, 3), color, np.uint8)


WORST = [(i, plain(color), plain(255)) for i, color in COLORS.items()]
FACES = {name: [plain(90)] * 2 for name in ("target", "source", "fake")}


def written(folder, evaluation=FULL, worst=WORST):
    return write_report(evaluation, worst, FACES, folder).read_text(encoding="utf-8")


def verdict(evaluation, measure):
    [found] = [row for row in judge(evaluation) if row.measure == measure]
    return found


def with_identity(**changes):
    return replace(FULL, identity=replace(FULL.identity, **changes))


# The figures


def test_figures_are_told_with_their_spread_and_what_is_perfect():
    row = verdict(FULL, "Like the target")
    assert row[2:6] == ("0.831", "0.721 / 0.811 / 0.901", "0.853", "good")
    assert verdict(FULL, "Roll")[2:4] == ("2.8 deg", "1.7 / 2.6 / 3.5")
    assert verdict(FULL, "Faces missed")[2:6] == ("4.5%", "", "0%", "bad")
    assert verdict(FULL, "Sound late by").value == "0.021 s"


# How figures are written, by the words in their path; all others with three decimals.
STYLES = {
    "pose|psnr": "{:.1f}",
    "moved|jitter|flicker|seam": "{:.2f}",
    "retrieved|missed": "{:.1%}",
    "frames": "{}",
}


def written_figures(record, path=""):
    """Names and figures of a JSON record, as written; without those of each face."""
    for name, value in record.items():
        here = f"{path} {name}"
        if isinstance(value, dict):
            yield from written_figures(value, here)
        elif isinstance(value, list) and path == " untouched":
            yield from written_figures({f"{name} {i}": v for i, v in enumerate(value)})
        elif isinstance(value, int | float):
            styles = [
                style for words, style in STYLES.items() if re.search(words, here)
            ]
            yield here, (styles or ["{:.3f}"])[0].format(value)


def test_every_figure_of_the_json_is_on_the_page_and_in_the_summary(tmp_path):
    FULL.save(tmp_path / "report.json")
    record = json.loads((tmp_path / "report.json").read_text())
    figures = dict(written_figures(record))
    # 14 spreads of 4; 6 more of identity; 3 of time; outside and sound; 2 pairs.
    assert len(figures) == 14 * 4 + 6 + 3 + 2 + 2 * 2
    for text in (written(tmp_path), summary(FULL)):
        told = re.sub('data:[^"]*', "", text)
        for name, figure in figures.items():
            assert re.search(rf"(?<![\d.]){figure}(?![\d.]*\d)", told), name


def test_a_changed_figure_changes_the_page(tmp_path):
    before = written(tmp_path)
    after = written(tmp_path, replace(FULL, time=TimeScores(1.28, 0.83, 0.045)))
    assert "<td>1.27</td>" in before and "<td>1.28</td>" not in before
    assert "<td>1.28</td>" in after and "<td>1.27</td>" not in after


def test_what_is_none_is_not_measured_and_says_why(tmp_path):
    missing = [row for row in judge(EMPTY) if row.value == NOT_MEASURED]
    assert len(missing) == 8 + 2 + 3 + 2 + 1 + 6 + 2
    assert all(row.verdict == NOT_MEASURED and row.meaning for row in missing)
    assert [row.measure for row in judge(EMPTY)] == [row.measure for row in judge(FULL)]
    page = written(tmp_path, EMPTY, [])
    assert page.count(f"<td>{NOT_MEASURED}</td>") == len(missing)
    assert summary(EMPTY).count(NOT_MEASURED) == 2 * len(missing)


def test_one_none_among_the_rest_is_not_measured():
    scores = replace(FULL.reconstruction["a"], feature_distance=None)
    changed = replace(FULL, reconstruction={"a": scores})
    assert "VGGFace" in verdict(changed, "A, features").meaning
    assert "validation" in verdict(changed, "B, features").meaning
    changed = with_identity(moved=None, within_target=None)
    gone = [row.measure for row in judge(changed) if row.value == NOT_MEASURED]
    assert gone == ["Moved to the target", "Target like itself"]


@pytest.mark.parametrize(
    ("measure", "good", "bad"),
    [
        (
            "Like the target",
            with_identity(to_target=spread(0.42), to_source=spread(0.41)),
            with_identity(to_target=spread(0.42), to_source=spread(0.42)),
        ),
        (
            "Nearest is the target",
            with_identity(retrieved_target=0.51),
            with_identity(retrieved_target=0.5),
        ),
        # 3 degrees in each of two faces: 4.24 in their difference.
        (
            "Roll",
            replace(FULL, pose={"roll": spread(4.2, 0)}),
            replace(FULL, pose={"roll": spread(4.3, 0)}),
        ),
        (
            "Faces missed",
            replace(FULL, time=TimeScores(1, 1, 0.0)),
            replace(FULL, time=TimeScores(1, 1, 0.01)),
        ),
        *(
            (
                measure,
                replace(FULL, untouched=UntouchedScores(40, *good)),
                replace(FULL, untouched=UntouchedScores(40, *bad)),
            )
            for measure, good, bad in (
                ("Frames", ((9, 9), (1, 1), 0), ((9, 8), (1, 1), 0)),
                ("Duration", ((25, 25), (1, 1.04), 0), ((25, 25), (1, 1.07), 0)),
                ("Sound late by", ((9, 9), (1, 1), 0.125), ((9, 9), (1, 1), 0.126)),
                ("Sound late by", ((9, 9), (1, 1), -0.045), ((9, 9), (1, 1), -0.046)),
            )
        ),
    ],
)
def test_a_border_is_where_it_is_said_to_be(measure, good, bad):
    assert verdict(good, measure).verdict == "good"
    assert verdict(bad, measure).verdict == "bad"


def test_the_spread_of_a_pose_counts_not_its_mean():
    values = np.zeros(100)
    values[:10] = 30
    changed = replace(FULL, pose={"yaw": Spread.of(values)})
    assert verdict(changed, "Yaw").value == "3.0 deg"
    assert verdict(changed, "Yaw").verdict == "bad"


@pytest.mark.parametrize("pitch", [0.0, 40.0])
def test_a_nose_of_another_length_is_not_judged(pitch):
    changed = replace(FULL, pose={"pitch": spread(pitch, 0)})
    assert verdict(changed, "Pitch").verdict == "compare"


def test_an_error_in_decibels_is_told_in_levels():
    # 255 / 10 ** (20 / 20)
    changed = replace(FULL, untouched=UntouchedScores(20.0, (1, 1), (1, 1), 0))
    assert "25.5 of 255 levels" in verdict(changed, "Outside the mask").meaning


def test_the_summary_is_no_wider_than_a_page_of_code():
    changed = replace(FULL, notes=("long " * 60,))
    for evaluation in (changed, EMPTY):
        lines = summary(evaluation).splitlines()
        assert max(map(len, lines)) <= 88
        assert all(line == line.rstrip() for line in lines)
    assert "swap.mp4" in summary(FULL)
    assert "- Read this first." in summary(FULL)


# The page


def test_the_page_needs_no_other_file(tmp_path):
    page = written(tmp_path)
    sources = re.findall(r'(?:src|href|srcset|poster)\s*=\s*"([^"]*)"', page)
    assert len(sources) == 3 + 2 * len(WORST)
    assert all(source.startswith("data:image/") for source in sources)
    for source in sources:
        content = base64.b64decode(source.partition("base64,")[2], validate=True)
        Image.open(BytesIO(content)).verify()
    rest = re.sub(r'src="[^"]*"', "", page)
    for word in ("http:", "https:", "//", "url(", "@import", "<script", "<link"):
        assert word not in rest


def test_the_page_names_what_was_evaluated(tmp_path):
    page = written(tmp_path)
    assert "<title>Evaluation of swap.mp4</title>" in page
    assert "Faces of A (the source) in a.mp4 were replaced by B&#x27;s" in page
    for text in (FULL.embedder, FULL.notes[0], "cores", "9.8.7"):
        assert text in page
    page = written(tmp_path, replace(FULL, direction="BtoA"))
    assert "Faces of B (the source) in a.mp4 were replaced by A&#x27;s" in page


def test_names_are_escaped(tmp_path):
    evil = "<b>\"&'$title.mp4"
    changed = replace(
        FULL,
        source=evil,
        swapped=evil,
        embedder=evil,
        notes=(evil,),
        machine={evil: evil},
    )
    page = written(tmp_path, changed)
    assert "<b>&quot;" not in page and '<b>"' not in page
    # Title twice; source, embedder; note; machine twice. The calls quote them, too.
    assert page.count(html.escape(evil)) == 2 + 2 + 1 + 2
    assert_calls(page, changed)


def test_worst_frames_are_in_the_order_given(tmp_path):
    page = written(tmp_path)
    told = re.findall(r"<b>Frame (\d+)</b>, ([\d.]+) s", page)
    assert told == [("80", "3.20"), ("20", "0.80"), ("25", "1.00")]
    pictures = re.findall(r'"data:image/jpeg;base64,([^"]*)" alt="(\w+)"', page)
    assert [alt for _, alt in pictures] == ["source", "swapped"] * 3
    for (content, _), color in zip(pictures[::2], COLORS.values(), strict=True):
        face = Image.open(BytesIO(base64.b64decode(content))).convert("RGB")
        assert np.abs(np.array(face).mean(axis=(0, 1)) - color).max() < 10
    sheet = read_image(tmp_path / "worst.jpg")
    assert sheet.shape == (2 * (192 + 16), 4 * 192, 3)
    places = [(96, 96), (96, 480), (304, 96)]
    for place, color in zip(places, COLORS.values(), strict=True):
        assert np.abs(sheet[place] - np.array(color, float)).max() < 10


def test_a_reason_is_what_a_frame_is_worse_in_than_others(tmp_path):
    frames = list(FRAMES)
    frames[20] = replace(frames[20], seam=3.5)
    frames[25] = replace(frames[25], found=False)
    page = written(tmp_path, replace(FULL, frames=tuple(frames)))
    assert "3.20 s: expression 0.800 (worse than 80% of frames)" in page
    assert "0.80 s: seam 3.50 (worse than 99% of frames)<" in page
    assert "1.00 s: no face is found in the swap<" in page


def test_little_likeness_to_the_target_is_a_reason(tmp_path):
    frames = list(FRAMES)
    frames[20] = replace(frames[20], to_target=0.1)
    frames[25] = replace(frames[25], to_target=0.9)
    page = written(tmp_path, replace(FULL, frames=tuple(frames)))
    assert "0.80 s: likeness to the target 0.100 (worse than 99% of frames)" in page
    assert "1.00 s: expression" in page


def assert_calls(page, evaluation):
    [code] = re.findall("<pre>(.*?)</pre>", page, re.DOTALL)
    tree = ast.parse(html.unescape(code))
    calls = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert [ast.unparse(call.func) for call in calls] == ["fsgan.convert_video"] * 2
    for call, stretch in zip(calls, worst_stretches(evaluation), strict=True):
        times = {key.arg: ast.literal_eval(key.value) for key in call.keywords}
        assert (times["start"], times["end"]) == pytest.approx(stretch, abs=1e-3)
        assert ast.literal_eval(call.args[0]) == evaluation.source
    outputs = {ast.literal_eval(call.args[1]) for call in calls}
    assert len(outputs - {evaluation.source, evaluation.swapped}) == 2


def test_the_page_gives_the_calls_that_convert_the_worst_again(tmp_path):
    page = written(tmp_path)
    assert worst_stretches(FULL) == [(2.7, 3.7), (pytest.approx(0.3), 1.5)]
    assert_calls(page, FULL)
    assert "direction=&#x27;AtoB&#x27;" in page


# The pictures


def test_pictures_lie_beside_and_swapped_faces_are_marked(tmp_path):
    written(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    pictures = {"identity.png", "over_time.png", "reconstruction.png", "worst.jpg"}
    assert names == pictures | {"report.html"}
    marked = {name for name in pictures if read_marks(tmp_path / name)}
    assert marked == {"identity.png", "worst.jpg"}


def test_worst_frames_of_an_earlier_evaluation_go(tmp_path):
    written(tmp_path)
    written(tmp_path, EMPTY, [])
    assert not (tmp_path / "worst.jpg").exists()


def test_heat_maps_share_one_scale_of_colour():
    figure = draw_identity(FULL, FACES)
    maps = [axis.images[0] for axis in figure.axes[:3]]
    for image, values in zip(maps, FULL.heat_maps.values(), strict=True):
        np.testing.assert_array_equal(image.get_array(), values)
        assert image.get_clim() == (0.3, 1.0)
    strips = [strip for axis in figure.axes[:3] for strip in axis.child_axes]
    assert [len(strip.images) for strip in strips] == [2] * 6


def test_curves_break_where_no_face_was():
    frames = FRAMES[:40] + FRAMES[60:]
    axis = draw_times(replace(FULL, frames=frames)).axes[1]
    seconds, values = axis.get_lines()[0].get_data()
    assert len(seconds) == 81
    assert np.flatnonzero(np.isnan(seconds)).tolist() == [40]
    kept = ~np.isnan(values)
    np.testing.assert_allclose(values[kept], [frame.expression for frame in frames])


def test_everything_measured_of_frames_is_drawn():
    axes = draw_times(FULL).axes
    drawn = [len(axis.get_lines()[0].get_xdata()) for axis in axes]
    assert drawn == [100] * 5
    dotted = [line for line in axes[1].get_lines() if line.get_linestyle() == ":"]
    assert [line.get_xdata()[0] for line in dotted] == [0.8, 1.0, 3.2]


def test_figures_of_nothing_say_so_and_none_is_left_open():
    for figure in (
        draw_identity(EMPTY, {}),
        draw_times(EMPTY),
        draw_reconstruction(EMPTY),
    ):
        told = [text.get_text() for axis in figure.axes for text in axis.texts]
        assert NOT_MEASURED in told
    assert pyplot.get_fignums() == []


def test_held_out_faces_of_both_are_counted():
    axes = draw_reconstruction(FULL).axes
    for axis in axes:
        assert sum(bar.get_height() for bar in axis.patches) == 2 * 21


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose another output folder"):
        written(tmp_path / "file" / "report")
