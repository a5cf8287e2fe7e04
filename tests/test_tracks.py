"""The first pass: two real people in one clip, found, tracked, written down."""

import base64
import json
import math
from fractions import Fraction

import cv2
import numpy as np
import pytest

from fsgan import make_sample_clips
from fsgan.faces import tracks
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import MEAN_LANDMARKS, Face, align, crop_matrix
from fsgan.faces.tracks import follow_faces
from fsgan.media.images import evenly, read_image
from fsgan.media.reader import Frame, read_frames
from fsgan.media.writer import VideoWriter

FRAMES = 12
SIDE = 320  # pixels, the width of one person's half


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Frames of the two people of the sample."""
    folder = tmp_path_factory.mktemp("sample")
    paths = make_sample_clips(folder, seconds=FRAMES / 25, size=(SIDE, 180))
    return [[frame.image for frame in read_frames(path)] for path in paths]


def write(path, frames):
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, Fraction(25)) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def together(people, tmp_path_factory):
    """Hopper on the left, Collins on the right."""
    frames = [np.hstack(pair) for pair in zip(*people, strict=True)]
    return write(tmp_path_factory.mktemp("clip") / "together.mp4", frames)


@pytest.fixture
def searches(monkeypatch):
    """How many frames were given to the detector, and which of them it shall miss."""
    find, state = FaceDetector.detect_next, {"frames": 0, "missed": ()}

    def counted(self, image, expected, search=False):
        state["frames"] += 1
        faces = find(self, image, expected, search)
        return [] if state["frames"] - 1 in state["missed"] else faces

    monkeypatch.setattr(FaceDetector, "detect_next", counted)
    return state


def box_of(followed, frame, track):
    [face] = followed.faces(frame, {track})
    return face.box


def record_of(out):
    return json.loads(out.with_suffix(".tracks.json").read_text())


def test_two_people_are_two_tracks_with_a_row_each_on_the_sheet(together, tmp_path):
    followed = follow_faces(together, tmp_path / "out.mp4")
    assert [track.number for track in followed.tracks] == [0, 1]
    for track in followed.tracks:
        assert (track.frames, track.first, track.last) == (FRAMES, 0, FRAMES - 1)
        assert (track.start, track.end) == (0, pytest.approx((FRAMES - 1) / 25))
    for frame in range(FRAMES):
        sides = {box_of(followed, frame, track)[0] // SIDE for track in range(2)}
        assert sides == {0, 1}
    assert followed.faces(FRAMES) == followed.faces(0, only=[]) == []
    sheet = read_image(tmp_path / "out.tracks.png")
    np.testing.assert_array_equal(sheet, followed.contact_sheet)
    assert sheet.shape == (2 * (96 + 16), 8 * 96, 3)
    # 12 frames give 4 crops each; the rest of the row is black.
    assert sheet[:96, : 4 * 96].mean() > 50
    assert sheet[:96, 4 * 96 :].max() == 0
    crops = followed.crops(followed.tracks)
    assert [of_track.shape for of_track in crops] == [(4, 144, 144, 3)] * 2
    tile = cv2.resize(crops[1][0], (96, 96), interpolation=cv2.INTER_AREA)
    assert np.abs(tile.astype(float) - sheet[112 : 112 + 96, :96]).mean() < 6
    # The aligned crop, but for what JPEG and smoothing change.
    frame, [_, face] = next(read_frames(together)).image, followed.faces(0)
    crop = align(frame, crop_matrix(face.landmarks, 144), 144)
    assert np.abs(crops[1][0].astype(float) - crop).mean() < 6
    assert len(followed) == 2
    assert repr(followed) == f"FaceTracks({together}: 2 tracks)"
    assert followed._repr_html_().startswith("<img ")


def test_the_record_says_where_each_face_is(together, tmp_path):
    followed = follow_faces(together, tmp_path / "out.mp4", end=0.2)
    record = record_of(tmp_path / "out")
    assert record["source"] == "together.mp4"
    assert (record["min_face"], record["smoothing"], record["end"]) == (35, 0.03, 0.2)
    assert [(e["frame"], e["track"]) for e in record["faces"]] == [
        (frame, track) for frame in range(5) for track in range(2)
    ]
    entry = record["faces"][-1]
    assert entry["time"] == pytest.approx(0.16)
    [face] = followed.faces(4, {1})
    np.testing.assert_allclose(face.box, entry["smoothed_box"])
    np.testing.assert_allclose(face.landmarks, entry["smoothed_landmarks"])
    assert face.confidence == pytest.approx(entry["confidence"])
    # As found and as smoothed: near each other, not the same.
    assert 0 < np.abs(face.landmarks - entry["landmarks"]).max() < 3
    assert 0 < np.abs(face.box - entry["box"]).max() < 6
    detected = FaceDetector(35, 0.8).detect(next(read_frames(together)).image)
    boxes = sorted(face.box[0] for face in detected)
    found = sorted(entry["box"][0] for entry in record["faces"][:2])
    np.testing.assert_allclose(found, boxes, atol=0.001)


def test_crops_are_evenly_spread_over_tracks_of_any_length(portrait, detector):
    [face] = detector.detect(portrait)
    sampler = tracks._CropSampler()
    for index in range(100):
        sampler.add(Frame(index, Fraction(index, 25), portrait), face)
        assert len(sampler.kept) < 16
    chosen = [index for index, _ in evenly(sampler.kept, 8)]
    assert len(chosen) == 8
    assert set(np.diff(chosen)) <= {8, 16}


@pytest.mark.parametrize("again", [{}, {"smoothing": 0.3}])
def test_the_same_source_is_read_once(together, tmp_path, monkeypatch, again):
    passes, read = [], tracks.read_frames
    monkeypatch.setattr(
        tracks, "read_frames", lambda *stretch: passes.append(stretch) or read(*stretch)
    )
    stretch = {"start": 0.2, "end": 0.4}
    first = follow_faces(together, tmp_path / "out.mp4", **stretch)
    written = (tmp_path / "out.tracks.json").read_bytes()
    (tmp_path / "out.tracks.png").unlink()
    second = follow_faces(together, tmp_path / "out.mp4", **stretch, **again)
    assert passes == [(together, 0.2, 0.4, None)]
    assert second.tracks == first.tracks
    np.testing.assert_array_equal(second.contact_sheet, first.contact_sheet)
    np.testing.assert_array_equal(*(x.crops(x.tracks) for x in (first, second)))
    assert (tmp_path / "out.tracks.png").is_file()
    same = np.allclose(box_of(first, 8, 1), box_of(second, 8, 1), atol=1e-9)
    assert same == (not again)
    assert ((tmp_path / "out.tracks.json").read_bytes() == written) == (not again)


def test_a_record_of_more_is_limited_to_the_stretch_asked_for(
    people, tmp_path, searches
):
    """A face, then another one in another place: each in its own half only."""
    cut = [*people[0][:6], *[np.roll(frame, 90, axis=1) for frame in people[1][:6]]]
    clip = write(tmp_path / "cut.mp4", cut)
    whole = follow_faces(clip, tmp_path / "out")
    spans = [(track.number, track.first, track.last) for track in whole.tracks]
    assert spans == [(0, 0, 5), (1, 6, 11)]
    part = follow_faces(clip, tmp_path / "out", start=0.32, end=0.4)  # frames 8, 9
    [track] = part.tracks
    assert (track.number, track.frames, track.first, track.last) == (1, 2, 8, 9)
    assert (track.start, track.end) == (pytest.approx(0.32), pytest.approx(0.36))
    assert part.faces(7) == part.faces(10) == part.faces(3) == []
    np.testing.assert_array_equal(box_of(part, 8, 1), box_of(whole, 8, 1))
    assert len(part.crops(part.tracks)[0]) >= 1
    assert part.contact_sheet.shape[0] == 96 + 16
    # The file still knows the whole.
    assert follow_faces(clip, tmp_path / "out").tracks == whole.tracks
    assert searches["frames"] == 12


@pytest.mark.parametrize(
    "setting",
    [{"min_face": 40}, {"min_confidence": 0.9}, {"search_every": 2}, {"end": 0.08}],
)
def test_other_settings_and_a_longer_stretch_search_again(
    together, tmp_path, searches, setting
):
    follow_faces(together, tmp_path / "out", end=0.04)
    followed = follow_faces(together, tmp_path / "out", **{"end": 0.04} | setting)
    assert searches["frames"] == 1 + followed.tracks[0].frames


def test_another_file_of_the_same_name_is_searched(people, tmp_path, searches):
    clip = write(tmp_path / "clip.mp4", people[0][:3])
    first = follow_faces(clip, tmp_path / "out")
    write(clip, people[1][:3])
    second = follow_faces(clip, tmp_path / "out")
    assert searches["frames"] == 6
    assert not np.array_equal(first.contact_sheet, second.contact_sheet)


@pytest.mark.parametrize(
    "damage",
    ["{", "[]", '{"version": 3, "faces": [{"box": 3}]}', '{"a": 1}', "\xff"],
)
def test_a_damaged_record_is_made_again(together, tmp_path, searches, caplog, damage):
    (tmp_path / "out.tracks.json").write_text(damage)
    follow_faces(together, tmp_path / "out", end=0.04)
    assert searches["frames"] == 1
    assert "is damaged" in caplog.text
    assert record_of(tmp_path / "out")["faces"]


def test_a_record_of_an_older_version_is_made_again_without_a_word(
    together, tmp_path, searches, caplog
):
    caplog.set_level("WARNING", "fsgan")
    (tmp_path / "out.tracks.json").write_text('{"version": 2, "source": "a.mp4"}')
    follow_faces(together, tmp_path / "out", end=0.04)
    assert (searches["frames"], caplog.text) == (1, "")


def entry(record, **change):
    record["faces"][0] |= change


def first_crop(record, text):
    record["crops"]["0"][0][1] = text


JPEG = base64.b64encode(cv2.imencode(".jpg", np.zeros((9, 9, 3)))[1]).decode()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda it: it.pop("crops"),
        lambda it: it["crops"].pop("1"),
        lambda it: it["crops"].update({"0": []}),
        lambda it: it["crops"].update({"a": it["crops"]["0"]}),
        lambda it: first_crop(it, "?"),
        lambda it: first_crop(it, "AAAA"),
        lambda it: first_crop(it, JPEG),
        lambda it: it.update(faces={}),
        lambda it: it.update(start="0"),
        lambda it: entry(it, frame=1.5),
        lambda it: entry(it, frame=10**30),
        lambda it: entry(it, frame=10**9),
        lambda it: entry(it, frame=2),
        lambda it: entry(it, frame=-1),
        lambda it: entry(it, track=1),
        lambda it: entry(it, time=float("nan")),
        lambda it: entry(it, confidence=2),
        lambda it: entry(it, box=[0, 0, 1e300, 9]),
        lambda it: entry(it, box=[0, 0, float("inf"), 9]),
        lambda it: entry(it, landmarks=[[0, 0]] * 4),
        lambda it: entry(it, landmarks=[[0]] * 5),
        lambda it: entry(it, smoothed_box=None),
        lambda it: entry(it, profile=0),
    ],
)
def test_a_record_with_one_wrong_value_is_made_again(
    together, tmp_path, searches, caplog, spoil
):
    path = tmp_path / "out.tracks.json"
    followed = follow_faces(together, tmp_path / "out", end=0.12)
    whole, searches["frames"] = path.read_text(), 0
    record = json.loads(whole)
    spoil(record)
    path.write_text(json.dumps(record))
    again = follow_faces(together, tmp_path / "out", end=0.12)
    assert searches["frames"] == 3
    assert f"{path} is damaged (" in caplog.text
    assert "the faces are searched again" in caplog.text
    assert path.read_text() == whole
    assert again.tracks == followed.tracks


def test_frames_in_which_a_face_is_missed_are_filled(together, tmp_path, searches):
    whole = follow_faces(together, tmp_path / "whole")
    searches |= {"frames": 0, "missed": (7, 8, 9)}
    gap = follow_faces(together, tmp_path / "gap")
    assert [track.frames for track in gap.tracks] == [FRAMES - 3] * 2
    for frame in (7, 8, 9):
        [face] = gap.faces(frame, {1})
        assert face.confidence == 0
        [expected] = whole.faces(frame, {1})
        assert np.abs(face.landmarks - expected.landmarks).max() < 2
    entries = record_of(tmp_path / "gap")["faces"]
    missed = [entry["frame"] for entry in entries if entry["box"] is None]
    assert missed == [7, 7, 8, 8, 9, 9]
    # Without smoothing faces stay where they were found.
    assert follow_faces(together, tmp_path / "gap", smoothing=None).faces(7) == []
    for entry in record_of(tmp_path / "gap")["faces"]:
        assert entry["landmarks"] == entry["smoothed_landmarks"]


def rows_of(*runs):
    """Rows of faces 100 pixels wide, as found at 25 frames a second.

    Of each run its first frame, frames, left, pixels a frame, and track.
    """
    rows = []
    for number, (first, frames, left, speed, track) in enumerate(runs):
        for frame in range(first, first + frames):
            x = left + speed * (frame - first)
            found = (x, 0, x + 100, 100), x + 100 * MEAN_LANDMARKS
            rows.append((frame, frame / 25, track, number, 1, *found, *found, False))
    rows = np.array(rows, tracks._ROW)
    return np.sort(rows, order="frame")


@pytest.mark.parametrize(
    ("later", "cuts", "closed"),
    [
        ((12, 9, 0, 0, 1), (), True),
        ((12, 9, 0, 0, 0), (), True),  # the tracker took it for a jump
        ((21, 9, 0, 0, 1), (), True),
        ((23, 9, 0, 0, 1), (), False),  # more than half a second
        ((12, 9, 0, 0, 1), (11,), False),
        ((12, 9, 0, 0, 1), (12,), False),
        ((10, 9, 0, 0, 0), (), False),  # no gap: a cut to nearly the same place
        ((12, 9, 60, 0, 1), (), False),  # somebody beside
        ((21, 9, 168, 8, 1), (), False),  # out of a stand
    ],
)
def test_a_gap_closes_within_a_shot_where_the_face_comes_back(later, cuts, closed):
    rows = rows_of((0, 10, 0, 0, 0), later)
    linked, count = tracks._link(rows, np.array([0, *cuts, 40]))
    assert count == closed
    assert (len(np.unique(linked["run"])) == 1) == closed
    assert linked["track"].max() == (0 if closed else later[-1])


def test_a_face_that_moves_on_is_linked_where_it_should_be():
    rows = rows_of((0, 10, 0, 8, 0), (21, 9, 168, 8, 1), (21, 9, 0, 0, 2))
    linked, count = tracks._link(rows, np.array([0, 40]))
    assert count == 1
    last = linked[linked["frame"] == 29]
    assert last["track"].tolist() == [0, 2]


def test_each_of_two_faces_comes_back_as_itself():
    rows = rows_of(
        (0, 9, 0, 0, 0), (0, 9, 40, 0, 1), (12, 9, 42, 0, 2), (12, 9, 1, 0, 3)
    )
    linked, count = tracks._link(rows, np.array([0, 40]))
    assert count == 2
    by_track = {it: linked["box"][linked["track"] == it, 0] for it in (0, 1)}
    assert [np.ptp(by_track[it]) for it in (0, 1)] == [1, 2]


def test_a_clear_face_missed_for_a_third_of_a_second_is_one_track(
    together, tmp_path, searches, caplog
):
    caplog.set_level("INFO")
    whole = follow_faces(together, tmp_path / "whole")
    assert "0 gaps closed, 0 lone faces dropped" in caplog.text
    searches |= {"frames": 0, "missed": range(2, 10)}
    gap = follow_faces(together, tmp_path / "gap")
    assert "2 gaps closed, 0 lone faces dropped" in caplog.text
    assert [track.number for track in gap.tracks] == [0, 1]
    assert [len(of_track) for of_track in gap.crops(gap.tracks)] == [2, 2]
    for frame in range(FRAMES):
        for track in (0, 1):
            [face], [expected] = gap.faces(frame, {track}), whole.faces(frame, {track})
            assert face.run == gap.faces(0, {track})[0].run
            assert np.abs(face.landmarks - expected.landmarks).max() < 6


@pytest.mark.parametrize(
    ("frames", "kept"),
    [((5, 6), False), ((3, 4, 5), False), ((0, 1), True), ((11,), True)],
)
def test_a_flash_is_no_face_but_at_the_end_of_a_shot_one_may_go_on(
    together, tmp_path, monkeypatch, frames, kept
):
    find, count = FaceDetector.detect_next, iter(range(FRAMES))

    def with_flash(self, image, expected, search=False):
        faces = find(self, image, expected[:2], search)
        flash = Face(np.array([0.0, 0, 40, 40]), 40 * MEAN_LANDMARKS, 0.81)
        return [*faces, flash] if next(count) in frames else faces

    monkeypatch.setattr(FaceDetector, "detect_next", with_flash)
    followed = follow_faces(together, tmp_path / "out")
    assert [track.number for track in followed.tracks] == [0, 1, 2][: 2 + kept]
    assert [len(followed.faces(frame)) for frame in frames] == [2 + kept] * len(frames)


def test_a_head_is_left_alone_while_it_is_in_profile(turning, tmp_path):
    degrees = [*range(0, 81, 10), 80, *range(80, -1, -10)]
    frames = [turning[it] for it in degrees for _ in range(2)]
    followed = follow_faces(write(tmp_path / "turn.mp4", frames), tmp_path / "out")
    [track] = followed.tracks
    assert (track.first, track.last) == (0, len(frames) - 1)
    there = np.array([len(followed.faces(frame)) for frame in range(len(frames))])
    assert np.abs(np.diff(there)).sum() == 2  # out and in again
    assert there[:10].all()  # up to 40 degrees
    assert not there[14:-14].any()  # from 70 on
    left_alone = len(frames) - there.sum()
    assert followed.frames_in_profile() == followed.frames_in_profile({0}) == left_alone
    assert followed.frames_in_profile({1}) == 0
    profile = [it["profile"] for it in record_of(tmp_path / "out")["faces"]]
    assert profile == (there == 0).tolist()


def test_near_the_limit_nothing_flickers(monkeypatch):
    yaw = np.array([0, 47, 49, 51, 53, 49, 53, 51, 49, 47, 49, 51, 49, 0.0])
    monkeypatch.setattr(tracks, "estimate_yaw", lambda points: -yaw)
    rows = tracks._smooth(rows_of((0, len(yaw), 0, 0, 0)), 0.03)
    assert np.flatnonzero(rows["profile"]).tolist() == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("kind", ["another person", "the same face after a gap"])
def test_nothing_is_smoothed_across_a_cut(people, tmp_path, kind):
    face, empty = people[0][0], np.full_like(people[0][0], 128)
    empty[::2] = 0
    if kind == "another person":
        frames = [*[face] * 4, *[people[1][0]] * 4]
    else:
        frames = [*[face] * 4, empty, *[np.roll(face, 8, axis=1)] * 4]
    followed = follow_faces(write(tmp_path / "cut.mp4", frames), tmp_path / "out")
    spans = [(track.first, track.last) for track in followed.tracks]
    assert spans == [(0, 3), (len(frames) - 4, len(frames) - 1)]
    for track in followed.tracks:
        stretch = range(track.first, track.last + 1)
        boxes = [box_of(followed, frame, track.number) for frame in stretch]
        assert np.ptp(boxes, axis=0).max() < 3
    assert kind == "another person" or followed.faces(4) == []


def test_the_points_shake_less_than_the_detector_s(people, tmp_path):
    rng = np.random.default_rng(0)
    still = people[1][0] + rng.normal(0, 12, (30, *people[1][0].shape))
    clip = write(tmp_path / "still.mp4", np.clip(still, 0, 255).astype(np.uint8))
    follow_faces(clip, tmp_path / "out")
    entries = record_of(tmp_path / "out")["faces"]
    jitter, raw = (
        np.abs(np.diff([entry[name] for entry in entries], axis=0)).mean()
        for name in ("smoothed_landmarks", "landmarks")
    )
    assert raw > 0.02
    assert jitter < raw / 3  # the noise of a detector is not all white


def test_a_video_without_faces_has_no_tracks(tmp_path):
    frames = [np.full((90, 160, 3), 90, np.uint8)] * 3
    followed = follow_faces(write(tmp_path / "plain.mp4", frames), tmp_path / "out")
    assert followed.contact_sheet is None
    assert followed.tracks == followed.faces(0) == followed.crops([]) == []
    assert "0 tracks" in followed._repr_html_()
    assert record_of(tmp_path / "out")["faces"] == []
    assert not (tmp_path / "out.tracks.png").exists()


def test_an_interrupted_search_leaves_nothing(together, tmp_path, monkeypatch):
    def interrupt(self, image, expected, search=False):
        raise KeyboardInterrupt

    monkeypatch.setattr(FaceDetector, "detect_next", interrupt)
    with pytest.raises(KeyboardInterrupt):
        follow_faces(together, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"smoothing": 0}, "smoothing must be greater than 0, got 0"),
        ({"min_face": 3}, "min_face must be greater than or equal to 20, got 3"),
        ({"min_confidence": 2}, "min_confidence must be less than or equal to 1"),
        ({"end": math.nan}, "end must be a finite number, got nan"),
        ({"search_every": 1.5}, "search_every must be a valid integer, got 1.5"),
        ({"fps": 0.0}, "fps must be greater than 0, got 0.0"),
        ({"start": 9}, "no frame of .*together.mp4 lies in the chosen part"),
    ],
)
def test_wrong_settings_are_named_and_leave_nothing(
    together, tmp_path, setting, message
):
    with pytest.raises(ValueError, match=message):
        follow_faces(together, tmp_path / "out", **setting)
    assert list(tmp_path.iterdir()) == []


def test_the_two_files_need_a_name(together):
    with pytest.raises(ValueError, match="is no name of its own"):
        follow_faces(together, "")
