"""Evaluations of swaps that are perfect, wrong, damaged or real."""

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest

from fsgan import ConvertSettings, convert_video
from fsgan.data.dataset import center_crop_batch
from fsgan.data.sample import make_sample_clips
from fsgan.evaluation.evaluate import _expression_68, _notes_on_mesh, evaluate
from fsgan.evaluation.measure import Comparison, read_conversion
from fsgan.evaluation.metrics import expression_distance, psnr, ssim
from fsgan.evaluation.report import write_report
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import align, crop_matrix
from fsgan.media.images import list_images, read_image, write_image
from fsgan.media.reader import read_frames
from fsgan.media.writer import VideoWriter
from fsgan.models.checkpoint import save_checkpoint
from fsgan.models.networks import ModelConfig, build_networks
from fsgan.swap.compositing import blend, feather, place

pytestmark = pytest.mark.slow

FRAMES = 12


@pytest.fixture(scope="module", autouse=True)
def reports():
    """What reports would be made of; to draw each of them would take a second.

    Nor is it tried which engine is good: that takes a second for each swapper.
    """
    asked_for = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fsgan.swap.generator.fastest_precision", lambda: "float32")
        patch.setattr(
            "fsgan.evaluation.report.write_report", lambda *args: asked_for.append(args)
        )
        yield asked_for


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Hopper with sound, and Collins."""
    folder = tmp_path_factory.mktemp("clips")
    return make_sample_clips(folder, seconds=FRAMES / 25, size=(320, 180))


@pytest.fixture(scope="module")
def footage(clips):
    """Frames, and the landmarks of the face in each of them, of both clips."""
    detector = FaceDetector(35, 0.8)
    found = []
    for clip in clips:
        frames = [frame.image for frame in read_frames(clip)]
        found.append([(x, detector.detect(x)[0].landmarks) for x in frames])
    return found


def write_faces(folder, of_person, count):
    """A folder of face crops: every fourth frame, over and over."""
    for index in range(count):
        frame, landmarks = of_person[4 * index % FRAMES]
        crop = align(frame, crop_matrix(landmarks, 128), 128)
        write_image(folder / f"{index}.png", crop)
    return folder


@pytest.fixture(scope="module")
def faces(footage, tmp_path_factory):
    """Folders of three face crops of A and of B."""
    return [
        write_faces(tmp_path_factory.mktemp(person), of_person, 3)
        for person, of_person in zip("ab", footage, strict=True)
    ]


def write(path, frames, **options):
    """Writes frames so that every pixel stays as it is."""
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, Fraction(25), lossless=True, **options) as w:
        for frame in frames:
            w.write(frame)
    return path


def test_a_copy_of_the_source_is_perfect_but_for_the_person(clips, faces, tmp_path):
    copy = shutil.copyfile(clips[0], tmp_path / "copy.mp4")
    # The distractors are of the same faces: a tie goes to them.
    found = evaluate(clips[0], copy, *faces, tmp_path / "new", distractors=faces[0])
    figures = found.figures
    expected = {"jitter": 1, "flicker": 1, "missed": 0, "background": 100}
    expected |= {"frames": FRAMES, "source_frames": FRAMES, "sound_delay": 0}
    expected |= {"nearest_target": 0, "nearest_other": 1}
    assert {name: figures[name] for name in expected} == pytest.approx(expected)
    assert (figures["seconds"], figures["source_seconds"]) == pytest.approx(
        (0.48, 0.48), abs=0.05
    )
    assert figures["moved"] == pytest.approx(0, abs=0.05)
    for name in ("expression", "roll", "yaw", "pitch"):
        assert figures[name].high == pytest.approx(0, abs=1e-6)
    assert figures["seam"].values == pytest.approx([1] * FRAMES)
    assert [frame.index for frame in found.frames] == list(range(FRAMES))
    assert {frame.outside for frame in found.frames} == {0}
    assert all(frame.to_source > frame.to_target for frame in found.frames)
    assert "psnr_a" not in figures and "ceiling" not in figures
    assert figures["sharpness"] > 0
    follows = figures["mouth_follows"], figures["eyes_follow"]
    assert follows == pytest.approx((1, 1))
    assert any("network that trained nothing" in note for note in found.notes)
    assert not any("exchanged" in note or "alike" in note for note in found.notes)
    assert any("No model is given" in note for note in found.notes)
    assert any("There is no copy.mp4.synthetic.json" in note for note in found.notes)


def test_the_wrong_footage_and_one_person_twice_are_noted(clips, faces, tmp_path):
    copy = shutil.copyfile(clips[0], tmp_path / "copy.mp4")
    found = evaluate(clips[0], copy, *faces[::-1], tmp_path / "new")
    assert any("folders of faces are exchanged" in note for note in found.notes)
    also_a = shutil.copytree(faces[0], tmp_path / "also_a")
    found = evaluate(clips[0], copy, faces[0], also_a, tmp_path / "new")
    assert any("A and B look like one person" in note for note in found.notes)


def test_a_pasted_face_is_the_target_and_leaves_all_else_as_it_is(
    clips, footage, faces, tmp_path
):
    frames = []
    for (frame, landmarks), (lent, points) in zip(*footage, strict=True):
        face = align(lent, crop_matrix(points, 64, 0.8), 64).astype(np.float32)
        layer = place(face, feather(64), crop_matrix(landmarks, 64, 0.8), frame)
        frames.append(blend(frame, [layer]))
    video = write(tmp_path / "swap.mkv", frames)
    found = evaluate(clips[0], video, *faces, tmp_path)
    figures = found.figures
    assert figures["nearest_target"] > 0.9
    assert figures["moved"] > 0.5
    assert figures["background"] == pytest.approx(100)
    assert figures["sound_delay"] is None
    assert figures["missed"] == pytest.approx(0)
    assert figures["expression"].mean > 0
    pose = max(figures[angle].values[0] for angle in ("roll", "yaw", "pitch"))
    assert found.frames[0].pose == pytest.approx(pose)
    fake, real = found.similarities["swapped"], found.similarities["target"]
    assert (len(fake), len(fake[0]), len(real)) == (FRAMES, 3, 3)
    for name in ("target", "source"):
        itself = np.diag(found.similarities[name])
        assert itself == pytest.approx(np.ones(3), abs=1e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"settings": 3}', "is damaged"),
        ('{"settings":' + 100_000 * "[", "is damaged"),
        ('{"settings": {"crf": 99}}', "crf must be less than or equal to 51, got 99"),
        ('{"settings": {"min_face": 20, "old": 1}}', "settings old are unknown here"),
        ('{"settings": {}, "source": "b.mp4"}', "was made of b.mp4, not of a.mp4"),
    ],
)
def test_a_sidecar_damaged_or_older_or_of_other_footage_is_named(tmp_path, text, said):
    """Once it was reported as absent."""
    swapped = tmp_path / "swap.mp4"
    (tmp_path / "swap.mp4.synthetic.json").write_text(text)
    settings, [note] = read_conversion(tmp_path / "a.mp4", swapped, "AtoB")
    assert note.startswith("swap.mp4.synthetic.json") and said in note
    assert settings.min_face == (20 if "old" in text else ConvertSettings().min_face)


def test_what_is_missed_or_changed_or_lacking_is_told(
    clips, footage, faces, reports, tmp_path
):
    """Three faces are covered, one pixel outside changed, and two frames lacking."""
    frames = [frame.copy() for frame, _ in footage[0]]
    for index in (3, 4, 9):
        left, top = footage[0][index][1].min(axis=0).astype(int)
        frames[index][top - 30 : top + 60, left - 30 : left + 60] = 128
    frames[7][2, 3] ^= 8
    video = write(tmp_path / "damaged.mkv", frames[:10])
    found = evaluate(clips[0], video, *faces, tmp_path)
    assert (found.figures["source_frames"], found.figures["frames"]) == (12, 10)
    assert any("12 frames, the swapped video 10" in note for note in found.notes)
    assert found.figures["missed"] == pytest.approx(3 / 10)
    missed = [frame for frame in found.frames if not frame.found]
    assert [frame.index for frame in missed] == [3, 4, 9]
    assert {(frame.expression, frame.to_target) for frame in missed} == {(None, None)}
    assert [x.outside for x in found.frames if x.index in (6, 7, 8)] == [0, 8, 0]
    assert found.worst == (3,)  # the others are less than half a second away
    told, worst, shown, folder = reports[-1]
    assert (told, folder) == (found, tmp_path)
    [(index, before, after)] = worst
    assert index == 3 and (before != after).any()
    counts = {name: len(of_person) for name, of_person in shown.items()}
    assert counts == {"target": 3, "source": 3, "swapped": 7}


def test_a_part_is_laid_over_its_place_in_the_source(
    clips, footage, faces, tmp_path, monkeypatch
):
    """And without dlib the report says how to get it."""

    def missing(*_):
        raise FileNotFoundError("dlib is not installed")

    monkeypatch.setattr("fsgan.evaluation.evaluate.embed", missing)
    frames = [frame for frame, _ in footage[0]]
    write(tmp_path / "part.mkv", frames[5:12], audio_from=clips[0], start=0.2, end=0.48)
    found = evaluate(
        clips[0],
        tmp_path / "part.mkv",
        *faces[::-1],
        tmp_path,
        direction="BtoA",
        start=0.2,
        end=0.48,
    )
    expected = {"background": 100, "frames": 7, "source_frames": 7, "jitter": 1}
    assert {k: found.figures[k] for k in expected} == pytest.approx(expected)
    assert found.figures["source_seconds"] == pytest.approx(0.28)
    assert found.figures["sound_delay"] == pytest.approx(0, abs=0.002)
    assert [frame.index for frame in found.frames] == list(range(5, 12))
    assert "moved" not in found.figures and found.similarities == {}
    [note] = [note for note in found.notes if "Whose face it is" in note]
    assert "pip install 'fsgan[identity]'" in note


def test_a_real_conversion_with_its_model(clips, footage, tmp_path, monkeypatch):
    """A's decoder paints black, B's gray, half transparent."""
    faces = []
    for person, of_person in zip("ab", footage, strict=True):
        (tmp_path / person).mkdir()
        faces.append(write_faces(tmp_path / person, of_person, 20))
    # Of a crop of 128 pixels the network sees the middle 64 as they are.
    config = ModelConfig(
        64, "lite", attention=False, discriminators=False, coverage=0.5
    )
    networks = build_networks(config)
    for person, level in (("a", -20), ("b", 0)):
        for layer, channels in (("rgb", 3), ("alpha", 1)):
            weights = [np.zeros((5, 5, 32, channels)), np.full(channels, level)]
            networks[f"decoder_{person}"].get_layer(layer).set_weights(weights)
    model_dir, video = tmp_path / "model", tmp_path / "swap.mkv"
    settings = {"model": config, "iteration": 0, "training": {"validation": 0.1}}
    save_checkpoint(model_dir, networks, {}, settings)
    settings = ConvertSettings(lossless=True, color="none", search_every=3)
    convert_video(clips[0], video, model_dir, settings)
    record = (tmp_path / "swap.tracks.json").read_text()
    # What the conversion found is not searched for again, and stays as it is.
    monkeypatch.delattr("fsgan.faces.tracks._search")
    monkeypatch.setattr("fsgan.evaluation.report.write_report", write_report)
    found = evaluate(clips[0], video, *faces, tmp_path / "report", model=model_dir)
    assert (tmp_path / "swap.tracks.json").read_text() == record
    # Masks made again with the settings of the conversion, to the pixel.
    assert found.figures["background"] == pytest.approx(100)
    assert {frame.outside for frame in found.frames} == {0}
    # The target's own faces move it, gray does not.
    moved, ceiling = found.figures["moved"], found.figures["ceiling"]
    assert ceiling > 0.1 > moved
    assert found.figures["moved_of_ceiling"] == pytest.approx(moved / ceiling)
    # The square lies within the face, and shows half of what it paints.
    assert found.figures["mask_iou"].values == pytest.approx([0.5] * FRAMES, abs=0.01)
    assert found.figures["flicker"] < 1  # plain gray, in part, does not flicker
    changed = {"color": "none", "lossless": True, "search_every": 3}
    assert found.settings == changed
    read = json.loads((tmp_path / "report" / "report.json").read_text())
    assert read["settings"] == changed
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    # A tenth of 20 faces is held out, and their own decoders rebuild them.
    assert any("2 faces of A and 2 faces of B" in note for note in found.notes)
    for side, folder, level in zip("ab", faces, (0, 128), strict=True):
        crops = np.stack([read_image(path) for path in list_images(folder)])
        crops = center_crop_batch(crops, 64, 0.5)
        crops = np.rint((crops + 1) * 127.5).astype(np.uint8)
        for name, metric in (("psnr", psnr), ("ssim", ssim)):
            of_all = [metric(crop, np.full_like(crop, level)) for crop in crops]
            for value in found.figures[f"{name}_{side}"].values:
                assert np.abs(np.array(of_all) - value).min() < 0.02
            assert len(found.figures[f"{name}_{side}"].values) == 2
    with pytest.raises(ValueError, match="was swapped AtoB: say direction='AtoB'"):
        evaluate(clips[0], video, *faces, tmp_path, direction="BtoA")


def test_what_cannot_be_compared_is_refused(clips, footage, faces, tmp_path):
    frames = [frame for frame, _ in footage[0]]
    wide = write(tmp_path / "wide.mkv", [np.hstack([x, x]) for x in frames[:2]])
    plain = [np.full_like(frames[0], 90)] * 2
    gray = write(tmp_path / "gray.mkv", plain)
    late = write(tmp_path / "late.mkv", plain + frames[:2])
    early = write(tmp_path / "early.mkv", frames[:2])
    empty, out = tmp_path / "empty", tmp_path / "report"
    empty.mkdir()
    for error, message, videos, folders, options in (
        (ValueError, "is 640x180 .* 320x180.* layout=1", (early, wide), faces, {}),
        (ValueError, "direction must be", (early, early), faces, {"direction": "A"}),
        (ValueError, "A and B need two", (early, early), (faces[0], faces[0]), {}),
        (FileNotFoundError, "empty holds no", (early, early), (faces[0], empty), {}),
        (FileNotFoundError, "no trained model", (early, early), faces, {"model": out}),
        (ValueError, "no face is found in .*gray", (gray, gray), faces, {}),
        (ValueError, r"no 7 among \[0\]", (early, early), faces, {"tracks": [7]}),
        (ValueError, "shows no moment of .* give the st", (late, early), faces, {}),
    ):
        with pytest.raises(error, match=message):
            evaluate(*videos, *folders, out, **options)
    assert not list(out.glob("report.*"))


class FakeDetector:
    """Finds 68 points, those of the mouth further down in a brighter crop."""

    def detect(self, crops):
        points = np.random.default_rng(0).uniform(0, 100, (68, 2))
        mouth = (np.arange(68) >= 48)[:, None] * [0, 1]
        return [points + crop[0, 0, 0] * mouth for crop in crops]


def with_crops(*pairs):
    comparison = Comparison(None, [])
    comparison.crops = [(index, *pair) for index, pair in enumerate(pairs)]
    return comparison


def test_68_landmarks_of_up_to_16_faces(monkeypatch):
    monkeypatch.setattr("fsgan.evaluation.evaluate.LandmarkDetector", FakeDetector)
    dark, light = (np.full((8, 8, 3), level, np.uint8) for level in (0, 3))
    summary, note = _expression_68(with_crops(*[(dark, light)] * 20))
    [points], [moved] = (FakeDetector().detect([crop]) for crop in (dark, light))
    by_hand = expression_distance(points[None], moved[None]).item()
    assert summary.values == pytest.approx([by_hand] * 16)
    assert note == "68 landmarks are measured on 16 faces."
    assert _expression_68(with_crops())[0] is None

    def missing():
        raise FileNotFoundError("the package face-alignment is not installed")

    monkeypatch.setattr("fsgan.evaluation.evaluate.LandmarkDetector", missing)
    summary, note = _expression_68(with_crops())
    assert summary is None and "five landmarks only: the package face-al" in note


def test_what_hardly_moves_is_said_not_to_be_known():
    notes = _notes_on_mesh({"mouth_follows": None, "eyes_follow": 0.9})
    assert any("the mouth of the swap can follow" in note for note in notes)
    assert not any("the eyes of the swap" in note for note in notes)
