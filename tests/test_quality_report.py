"""Folders of which everything is known are compared, told and drawn."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot
from test_quality import examine, make_folder, spoil

from fsgan.data.quality import DoctorSettings, Folder, Measures
from fsgan.data.quality_report import advise, compare, draw_page

COUNT = 300
GOOD = {
    "sharpness": 50,
    "blur": 0,
    "strangeness": 0,
    "brightness": 100,
    "confidence": 1,
    "size": 200,
    "roll": 0,
    "yaw": 0,
    "pitch": 0,
}


def found(count=COUNT, **measures):
    """A folder of good faces, of which some measures are others."""
    columns = [
        np.broadcast_to(np.array((GOOD | measures)[field.name], float), count)
        for field in fields(Measures)
    ]
    names = [f"{index}.png" for index in range(count)]
    return Folder(Path("faces"), names, Measures(*columns), {}, {}, {}, 0)


def some(value, count):
    """The first `count` faces have a value, the others have 0."""
    return np.where(np.arange(COUNT) < count, value, 0)


def advice_on(*folders):
    coverage = compare(*folders) if len(folders) == 2 else None
    return advise(folders, coverage, DoctorSettings())


START = [f"A (faces) has {COUNT} faces.", f"B (faces) has {COUNT} faces."]


# A against B


def test_a_folder_covers_itself():
    folder = found(yaw=np.linspace(-40, 40, COUNT), pitch=some(20, 50))
    coverage = compare(folder, folder)
    assert coverage.pose_missing_in_b == coverage.pose_missing_in_a == 0
    assert coverage.missing_in_b == coverage.missing_in_a == 0
    assert coverage.yaw_overlap == pytest.approx(1)
    assert coverage.pitch_overlap == coverage.brightness_overlap == 1
    assert advice_on(folder, folder) == START


def test_shares_and_overlaps_are_those_counted_by_hand():
    a = found(yaw=some(-45, 120), brightness=100 + some(60, 30))
    b = found(pitch=some(11, 75))
    coverage = compare(a, b)
    assert coverage.pose_missing_in_b == 120 / 300
    assert coverage.pose_missing_in_a == 75 / 300
    assert coverage.missing_in_b == 120 / 300  # the bright ones are among those
    assert coverage.yaw_overlap == pytest.approx(180 / 300)
    assert coverage.pitch_overlap == pytest.approx(225 / 300)
    assert coverage.brightness_overlap == pytest.approx(270 / 300)


def test_the_reach_is_ten_degrees_and_twenty_five_levels():
    within, beyond = found(yaw=9.9), found(yaw=10.1)
    assert compare(within, found()).pose_missing_in_b == 0
    assert compare(beyond, found()).pose_missing_in_b == 1
    assert compare(found(yaw=8, pitch=8), found()).pose_missing_in_b == 1
    assert compare(found(brightness=124.9), found()).missing_in_b == 0
    assert compare(found(brightness=125.1), found()).missing_in_b == 1


def test_rejected_faces_cover_nothing():
    b = found(yaw=some(-45, 120))
    a = found(yaw=some(-45, 120))
    rejected = {name: "blurred" for name in b.names[:120]}
    assert compare(a, replace(b, rejected=rejected)).pose_missing_in_b == 120 / 300
    assert compare(replace(a, rejected=rejected), b).pose_missing_in_b == 0


def test_without_poses_nothing_is_compared():
    assert compare(found(), found(yaw=np.nan, pitch=np.nan)) is None
    assert compare(found(yaw=np.nan, pitch=np.nan), found()) is None


# Advice


@pytest.mark.parametrize(
    ("axis", "sign", "beyond", "looking"),
    [
        ("yaw", -1, "left of -15", "left"),
        ("yaw", 1, "right of 15", "right"),
        ("pitch", -1, "below -15", "down"),
        ("pitch", 1, "above 15", "up"),
    ],
)
def test_directions_that_only_one_has_are_told(axis, sign, beyond, looking):
    a = found(**{axis: some(sign * 45, 120)})
    b = found(**{axis: some(sign * 15, 90)})
    assert advice_on(a, b) == [
        *START,
        f"B has no face looking {beyond} degrees; A has 120: film B looking {looking}.",
        "40% of A's faces have no face of B within 10 degrees.",
        "30% of B's faces have no face of A within 10 degrees.",
    ]
    told = f"A has no face looking {beyond} degrees; B has 120: film A looking"
    assert advice_on(b, a)[2] == f"{told} {looking}."


def test_straight_ahead_is_zero_degrees():
    told = advice_on(found(yaw=some(-45, 120)), found())[2]
    assert told.startswith("B has no face looking left of 0 degrees; A has 120")


def test_light_that_differs_is_told():
    assert advice_on(found(brightness=130), found(brightness=50))[2:] == [
        "B is darker than A: 50 against 130 of 255; light them alike where you can."
    ]
    assert advice_on(found(brightness=50), found(brightness=130))[2:] == [
        "A is darker than B: 50 against 130 of 255; light them alike where you can."
    ]


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        (
            replace(
                found(),
                rejected={
                    "1.png": "blurred",
                    "2.png": "duplicate of 3.png",
                    "4.png": "duplicate of 5.png",
                },
            ),
            "3 of A should go: 1 blurred; 2 duplicate.",
        ),
        (
            found(strangeness=some(2.5, 90)),
            "30% of A form a group of their own: look whether it is another person or "
            "only another light.",
        ),
        (
            replace(found(), unrecorded=34),
            "34 of A are not in faces.json: their pose, size and confidence are not "
            "known; extract_faces writes it.",
        ),
        (
            replace(found(), near_duplicates={f"{i}.png": "0.png" for i in range(75)}),
            "75 of A nearly repeat another face: search fewer frames, or film more "
            "expressions and directions of view.",
        ),
        (
            found(size=63),
            "A's faces are small in the footage, 63 pixels: film it closer.",
        ),
    ],
)
def test_each_lack_of_a_folder_is_told(folder, sentence):
    assert advice_on(folder)[:2] == [START[0], sentence]


def test_a_single_face_gets_its_advice():
    assert advice_on(found(count=1)) == [
        "A (faces) has 1 face.",
        "A has too few faces to tell blurred ones and strangers: 10 are needed.",
        "A has too few different faces, 1: a few hundred are better.",
    ]


# The page


def test_the_page_shows_the_worst_faces_and_leaves_no_state(tmp_path):
    faces = make_folder(tmp_path / "a")
    spoil(faces)
    figure = draw_page((examine(faces), examine(make_folder(tmp_path / "b"))))
    assert pyplot.get_fignums() == []
    figure.savefig(tmp_path / "page.png", dpi=30)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:2] == ["sharpness", "brightness, 0..255"]
    assert titles[6:].count("blurred.png\nblurred") == 1
    assert "copy.png\nduplicate of\ncollins_003.png" in titles[6:14]
    assert all(title.endswith("\nkept") for title in titles[14:])
    assert len(titles) == 6 + 8 + 8
