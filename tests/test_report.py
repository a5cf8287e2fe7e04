"""The page of an evaluation of which everything is known, read back."""

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
from test_results import EMPTY, FIGURES, FRAMES, FULL

from fsgan.evaluation.report import (
    draw_frames,
    draw_identity,
    draw_reconstruction,
    write_report,
)
from fsgan.evaluation.results import NOT_MEASURED
from fsgan.media.images import read_image
from fsgan.media.provenance import read_marks

EVIL = "<b>\"&'{{ title }}.mp4"
COLORS = {80: (200, 0, 0), 20: (0, 200, 0), 25: (0, 0, 200)}


def plain(color):
    return np.full((32, 32, 3), color, np.uint8)


WORST = [(i, plain(color), plain(255)) for i, color in COLORS.items()]
FACES = {name: [plain(90)] * 2 for name in ("target", "source", "swapped")}
_frames = list(FRAMES)
_frames[20] = replace(_frames[20], seam=3.5, to_target=0.1)
_frames[25] = replace(_frames[25], found=False)
CHANGED = replace(
    FULL,
    source=EVIL,
    swapped=EVIL,
    direction="BtoA",
    notes=(EVIL,),
    environment={EVIL: EVIL},
    frames=tuple(_frames),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert write_report(CHANGED, WORST, FACES, folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


def test_every_figure_is_on_the_page_with_what_it_means(page):
    for row in FULL.assessments:
        cells = (row.value, row.percentiles, row.ideal)
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        assert f"<tr><th>{row.measure}</th>{cells}" in page
        assert f'<td class="{row.rating}">{row.rating}</td>' in page
    assert page.count("6 dB more is half the error") == 2


def test_what_is_not_measured_says_what_it_needs(tmp_path):
    text = write_report(EMPTY, [], FACES, tmp_path).read_text(encoding="utf-8")
    missing = [row for row in EMPTY.assessments if row.value == NOT_MEASURED]
    needs = re.findall(f'"not-measured">{NOT_MEASURED}</td>\n<td>(.+?)</td>', text)
    assert len(needs) == len(missing)
    assert "pip install &#39;fsgan[identity]&#39;" in needs[0]
    assert not (tmp_path / "worst.jpg").exists()


def test_the_page_needs_no_other_file(page):
    sources = re.findall(r'(?:src|href|srcset|poster)\s*=\s*"([^"]*)"', page)
    assert len(sources) == 3 + 2 * len(WORST)
    for source in sources:
        assert source.startswith("data:image/")
        content = base64.b64decode(source.partition("base64,")[2], validate=True)
        Image.open(BytesIO(content)).verify()
    rest = re.sub(r'src="[^"]*"', "", page)
    for word in ("http:", "https:", "//", "url(", "@import", "<script", "<link"):
        assert word not in rest


def test_names_are_escaped(page):
    assert "<b>&#34;" not in page and '<b>"' not in page
    escaped = html.escape(EVIL).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")
    # Title twice; source; note; environment twice. The calls quote them, too.
    assert page.count(escaped) == 2 + 1 + 1 + 2
    assert "Faces of B (the source)" in page


def test_worst_frames_are_in_the_order_given_with_what_they_are_worse_in(page, folder):
    told = re.findall(r"<b>Frame (\d+)</b>, ([\d.]+) s: (.*?)<", page)
    assert told == [
        ("80", "3.20", "expression 0.800 (worse than 80% of frames)"),
        (
            "20",
            "0.80",
            "seam 3.50 (worse than 99% of frames); likeness to the target 0.100 (worse "
            "than 99% of frames)",
        ),
        ("25", "1.00", "no face is found in the swap"),
    ]
    pictures = re.findall(r'"data:image/jpeg;base64,([^"]*)" alt="(\w+)"', page)
    assert [alt for _, alt in pictures] == ["source", "swapped"] * 3
    for (content, _), color in zip(pictures[::2], COLORS.values(), strict=True):
        face = Image.open(BytesIO(base64.b64decode(content))).convert("RGB")
        assert np.abs(np.array(face).mean(axis=(0, 1)) - color).max() < 10
    sheet = read_image(folder / "worst.jpg")
    assert sheet.shape == (2 * (192 + 16), 4 * 192, 3)
    places = [(96, 96), (96, 480), (304, 96)]
    for place, color in zip(places, COLORS.values(), strict=True):
        assert np.abs(sheet[place] - np.array(color, float)).max() < 10


def test_the_page_gives_the_call_that_converts_the_worst_again(page):
    [code] = re.findall("<pre>(.*?)</pre>", page, re.DOTALL)
    _, call = ast.parse(html.unescape(code)).body
    assert ast.unparse(call.value.func) == "fsgan.review"
    assert [ast.literal_eval(path) for path in call.value.args[:2]] == [EVIL, EVIL]


def test_every_figure_is_in_the_json_too(folder, tmp_path):
    read = json.loads((folder / "report.json").read_text())
    assert read["frames"][20]["seam"] == pytest.approx(3.5)
    assert read["figures"]["jitter"] == pytest.approx(1.27)
    assert read["figures"]["seam"]["values"] == pytest.approx(FIGURES["seam"].values)
    assert read["worst"] == [80, 20, 25]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="choose another output folder"):
        write_report(FULL, [], FACES, tmp_path / "file" / "report")


# The pictures


def test_pictures_lie_beside_and_swapped_faces_are_marked(folder):
    names = {path.name for path in folder.iterdir()}
    pictures = {"identity.png", "over_time.png", "reconstruction.png", "worst.jpg"}
    assert names == pictures | {"report.html", "report.json"}
    marked = {name for name in pictures if read_marks(folder / name)}
    assert marked == {"identity.png", "worst.jpg"}


def test_heat_maps_share_one_scale_of_colour():
    figure = draw_identity(FULL, FACES)
    maps = [axis.images[0] for axis in figure.axes[:3]]
    for image, values in zip(maps, FULL.similarities.values(), strict=True):
        np.testing.assert_array_equal(image.get_array(), values)
        assert image.get_clim() == pytest.approx((0.3, 1.0))
    strips = [strip for axis in figure.axes[:3] for strip in axis.child_axes]
    assert [len(strip.images) for strip in strips] == [1] * 6


def test_everything_measured_of_frames_is_drawn():
    axes = draw_frames(FULL).axes
    names = ("to_target", "expression", "pose", "seam", "outside")
    for axis, name in zip(axes, names, strict=True):
        values = [getattr(frame, name) for frame in FRAMES]
        np.testing.assert_allclose(axis.get_lines()[0].get_ydata(), values)
    dotted = [line for line in axes[1].get_lines() if line.get_linestyle() == ":"]
    times = [line.get_xdata()[0] for line in dotted]
    assert times == pytest.approx([0.8, 1.0, 3.2])


def test_held_out_faces_of_both_are_counted():
    for axis in draw_reconstruction(FULL).axes:
        assert round(sum(bar.get_height() for bar in axis.patches)) == 2 * 21


def test_figures_of_nothing_say_so_and_none_is_left_open():
    for figure in (
        draw_identity(EMPTY, {}),
        draw_frames(EMPTY),
        draw_reconstruction(EMPTY),
    ):
        told = [text.get_text() for axis in figure.axes for text in axis.texts]
        assert NOT_MEASURED in told
    assert pyplot.get_fignums() == []
