"""The frames of a swap that went wrong."""

import cv2
import numpy as np
import pytest

from fsgan import make_sample_clips, review
from fsgan.evaluation.review import SuspectFrame, _stretches, _unusual
from fsgan.faces.detector import FaceDetector
from fsgan.media.images import read_image
from fsgan.media.provenance import read_marks
from fsgan.media.reader import read_frames
from fsgan.media.writer import VideoWriter

FRAMES = 48


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return make_sample_clips(folder, seconds=FRAMES / 25, size=(320, 180))[0]


@pytest.fixture(scope="module")
def swap(source):
    """Frames, a face in other colours for each, its mask, and the box of the face."""
    detector, frames = FaceDetector(35, 0.8), []
    for frame in read_frames(source):
        [face] = detector.detect(frame.image)
        left, top, right, bottom = face.box
        middle = [round(float(x)) for x in ((left + right) / 2, (top + bottom) / 2)]
        mask = np.zeros(frame.image.shape[:2], np.float32)
        axes = round((right - left) / 2), round((bottom - top) / 2)
        cv2.ellipse(mask, middle, axes, 0, 0, 360, 1, -1)
        mask = cv2.GaussianBlur(mask, (0, 0), 2)[..., None]
        frames.append((frame.image, 0.75 * frame.image + (40, 0, 10), mask, face.box))
    return frames


def blended(image, face, mask, _):
    return (image + mask * (face - image)).round().astype(np.uint8)


def write(path, frames):
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, 25, lossless=True) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def moved(frame, pixels):
    image, face, mask, box = frame
    return blended(image, *(np.roll(x, pixels, axis=1) for x in (face, mask)), box)


def blurred(frame):
    image, face, mask, box = frame
    return blended(image, cv2.GaussianBlur(face, (0, 0), 2.5), mask, box)


def half(frame):
    image, face, mask, box = frame
    mask = mask.copy()
    mask[:, round(box[[0, 2]].mean()) :] = 0
    return blended(image, face, mask, box)


def gaping(frame):
    """The mouth further open: all below the lips lies lower."""
    image, face, mask, box = frame
    x, y = np.meshgrid(*map(np.arange, image.shape[1::-1]))
    line = box[1] + 0.78 * (box[3] - box[1])
    lower = (0.12 * (box[3] - box[1]) * ((y - line) / 3).clip(0, 1)).astype(np.float32)
    rows = y.astype(np.float32) - lower
    lips = cv2.remap(np.float32(face), np.float32(x), rows, cv2.INTER_LINEAR)
    return blended(image, lips, mask, box)


FAULTS = {
    8: (lambda frame: moved(frame, 4), "jitter"),
    16: (blurred, "blur"),
    24: (half, "mask"),
    32: (lambda frame: frame[0], "face missed"),
    40: (gaping, "expression"),
}


def test_each_fault_leads_the_ranking_under_its_name(source, swap, tmp_path):
    frames = [blended(*frame) for frame in swap]
    for index, (fault, _) in FAULTS.items():
        frames[index] = fault(swap[index])
    path = write(tmp_path / "swap.mkv", frames)
    found = review(source, path, identity_every=FRAMES + 1)
    assert len(found.frames) == FRAMES
    leading = {frame.index: frame.reason for frame in found.frames[: len(FAULTS)]}
    assert leading == {index: reason for index, (_, reason) in FAULTS.items()}
    assert found.frames[0].reason == "face missed"
    for frame in found.frames:
        assert frame.position == frame.index
        assert frame.seconds == pytest.approx(frame.index / 25)
    assert read_marks(found.sheet)["DigitalSourceType"]
    # One stretch, of which frame 32 is shown, and what was found is said in a row.
    assert read_image(found.sheet).shape == (160 + 16, 2 * 160, 3)
    assert "frames 8 to 40: face missed" in repr(found)


def test_a_strange_face_is_seen_where_it_is_asked_for(
    source, swap, tmp_path, monkeypatch
):
    """Of 10 faces that are asked for, the sixth is another person's."""
    asked = iter(np.eye(2, 128)[[0, 0, 0, 0, 0, 1, 0, 0, 0, 0]])
    module = "fsgan.evaluation.review."
    monkeypatch.setattr(module + "load_network", lambda: None)
    monkeypatch.setattr(module + "embed", lambda crops: next(asked)[None])
    path = write(tmp_path / "swap.mkv", [blended(*frame) for frame in swap])
    found = review(source, path, identity_every=5)
    assert (found.frames[0].index, found.frames[0].reason) == (25, "identity")
    monkeypatch.undo()
    found = review(source, path, identity_every=FRAMES + 1, limit=90)
    assert found.stretches == () and found.sheet is None
    assert not (tmp_path / "swap.review.png").exists()


def test_what_cannot_be_reviewed_is_refused(source, swap, tmp_path):
    frames = [blended(*frame) for frame in swap[:6]]
    short = write(tmp_path / "short.mkv", frames)
    with pytest.raises(ValueError, match=r"short.mkv lacks a frame .*\(0.24 s\): give"):
        review(source, short)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        review(tmp_path / "missing.mp4", short)
    with pytest.raises(ValueError, match=r"no track|there is no 7"):
        review(source, short, tracks=[7])
    gray = write(tmp_path / "gray.mkv", [np.full_like(frames[0], 90)] * 6)
    with pytest.raises(ValueError, match="no face is found"):
        review(gray, short)
    wide = write(tmp_path / "wide.mkv", [np.hstack([it, it]) for it in frames])
    with pytest.raises(ValueError, match="layout=1"):
        review(source, wide)


def test_frames_that_lie_close_are_one_stretch():
    frames = [
        SuspectFrame(index, index, index / 25, score, reason)
        for index, score, reason in [
            (3, 2.5, "blur"),
            (15, 3.0, "mask"),
            (16, 1.9, "mask"),
            (28, 9.0, "jitter"),
            (90, 0.5, "face missed"),
        ]
    ]
    stretches = _stretches(frames, 2.0)
    spans = [(it.first.index, it.last.index, it.worst.index) for it in stretches]
    assert spans == [(90, 90, 90), (28, 28, 28), (3, 15, 15)]


def test_what_is_usual_is_the_median_around_in_the_same_run():
    values = np.array([1.0, 1, 9, 1, 1, 5, 5, 5])
    runs = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    assert _unusual(values, runs).tolist() == [0, 0, 8, 0, 0, 0, 0, 0]
    both = _unusual(np.stack([values, 0 * values], axis=1), runs)
    assert both.sum(axis=0).tolist() == [8, 0]
