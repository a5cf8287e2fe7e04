"""The frames of a swap that went wrong."""

import av
import cv2
import numpy as np
import pytest

from fsgan import ConvertSettings, convert_video, make_sample_clips, review, verify
from fsgan.evaluation.review import SuspectFrame, _stretches, _unusual
from fsgan.faces.detector import FaceDetector
from fsgan.faces.tracks import FaceTracks
from fsgan.media.images import read_image
from fsgan.media.provenance import read_marks, read_sidecar
from fsgan.media.reader import read_frames
from fsgan.media.writer import VideoWriter
from fsgan.models.checkpoint import save_checkpoint
from fsgan.models.networks import ModelConfig, build_networks

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


LOST, PART = 20, 16  # the frame that was not swapped; frames from key to key frame


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a model that lays half transparent red over a face."""
    config = ModelConfig(64, "lite", attention=False, discriminators=False)
    networks = build_networks(config)
    for layer, bias in (("rgb", [0.5, -0.5, -0.5]), ("alpha", [-0.5])):
        weights = [np.zeros((5, 5, 32, len(bias))), np.array(bias)]
        networks["decoder_b"].get_layer(layer).set_weights(weights)
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, networks, {}, {"model": config, "iteration": 0})
    return folder


@pytest.fixture(scope="module")
def make_film(source, model, shared_generators):
    """Converts the clip, but for one frame."""
    faces = FaceTracks.faces

    def make(path, **settings):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("fsgan.swap.render.PART_FRAMES", PART)
            patch.setattr(
                FaceTracks,
                "faces",
                lambda self, index, only=None: (
                    [] if index == LOST else faces(self, index, only)
                ),
            )
            settings = ConvertSettings(color="none", **settings)
            convert_video(source, path, model, settings)
        return path

    return make


def packets(path, kind):
    with av.open(str(path)) as file:
        found = [it for it in file.demux(**{kind: 0}) if it.size]
        return [(it.pts, it.duration, bytes(it)) for it in found]


def shown(path):
    return [(frame.time, frame.image) for frame in read_frames(path)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
def test_only_what_went_wrong_is_converted_again(
    source, make_film, model, tmp_path, suffix
):
    film, out = make_film(tmp_path / f"swap{suffix}"), tmp_path / f"better{suffix}"
    content = film.read_bytes()
    changes = {"min_alpha": 0.6}
    options = {"most": 1, "identity_every": 99}
    found = review(source, film, model, changes, out=out, **options)
    [stretch] = found.stretches
    assert (stretch.first.index, stretch.worst.reason) == (LOST, "face missed")
    last = stretch.last.index
    assert film.read_bytes() == content
    old, new = packets(film, "video"), packets(out, "video")
    assert [it[:2] for it in old] == [it[:2] for it in new]
    changed = [index for index in range(FRAMES) if old[index] != new[index]]
    end = next(it for it in (2 * PART, FRAMES) if it > last)
    assert changed == list(range(LOST, end))
    assert f"again: {last + 1 - LOST}; behind them, encoded once more: "
    assert f"{end - last - 1}; untouched to the bit: {FRAMES + LOST - end}" in repr(
        found
    )
    assert packets(film, "audio") == packets(out, "audio") != []
    before, after = shown(film), shown(out)
    assert [time for time, _ in before] == [time for time, _ in after]
    for index, ((_, one), (_, other)) in enumerate(zip(before, after, strict=True)):
        if index not in changed:
            np.testing.assert_array_equal(one, other)
        elif index > last:
            assert cv2.PSNR(one, other) > 35
    # The face became red.
    change = after[LOST][1].astype(int) - before[LOST][1]
    assert change[..., 0].mean() > 1 > change[..., 1].mean()
    # The new film says that it is synthetic, and what was done to it.
    found = verify(out)
    assert found.synthetic and not found.tampered and found.sidecar_matches
    record, _ = read_sidecar(out)
    assert record["settings"]["min_alpha"] == 0
    [again] = record["again"]
    assert again["settings"]["min_alpha"] == 0.6
    assert again["start"] == pytest.approx(LOST / 25)


def test_a_lossless_film_changes_in_those_frames_alone(
    source, make_film, model, tmp_path
):
    """It takes its own place, and what was done before is still noted."""
    film = make_film(tmp_path / "swap.mkv", lossless=True)
    before = packets(film, "video")
    found = review(source, film, model, most=1, identity_every=99)
    [stretch] = found.stretches
    after = packets(film, "video")
    changed = [index for index in range(FRAMES) if before[index] != after[index]]
    assert LOST in changed
    first, last = stretch.first.position, stretch.last.position
    assert first <= changed[0] and changed[-1] <= last
    found = review(source, film, model, limit=0.1, most=1, identity_every=99)
    assert "face missed" not in {frame.reason for frame in found.frames}
    assert len(read_sidecar(film)[0]["again"]) == 2


def test_what_cannot_be_converted_again_is_refused(
    source, make_film, model, swap, tmp_path
):
    film = make_film(tmp_path / "swap.mp4")
    (tmp_path / "there.mp4").write_text("mine")
    content = film.read_bytes()
    for error, message, arguments in (
        (ValueError, "give the model", {"settings": {"color": "lab"}}),
        (ValueError, "crf must stay that of the film, 18", {"settings": {"crf": 30}}),
        (ValueError, "out must end in .mp4", {"out": tmp_path / "new.mkv"}),
        (FileExistsError, "there.mp4 exists", {"out": tmp_path / "there.mp4"}),
        (ValueError, "has no 'colour', but", {"settings": {"colour": "lab"}}),
        (FileNotFoundError, "no trained model", {"model": tmp_path}),
        (
            ValueError,
            "number the tracks anew",
            {"tracks": [0], "settings": {"min_face": 20}},
        ),
    ):
        if "model" not in arguments and message != "give the model":
            arguments = {"model": model} | arguments
        with pytest.raises(error, match=message):
            review(source, film, **arguments)
    frames = [blended(*frame) for frame in swap]
    frames[LOST] = swap[LOST][0]
    height, width = frames[0].shape[:2]
    other = tmp_path / "other.mp4"
    with VideoWriter(other, width, height, 25, crf=30) as writer:
        for frame in frames:
            writer.write(frame)
    with pytest.raises(ValueError, match="was not encoded here with these settings"):
        review(source, other, model, identity_every=99)
    assert film.read_bytes() == content
    assert not list(tmp_path.glob(".unfinished"))
