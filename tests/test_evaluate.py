"""Evaluations of swaps that are perfect, wrong, damaged or real."""

import json
import shutil
from fractions import Fraction

import numpy as np
import pytest
from keras import ops
from skimage.data import astronaut

from fsgan import ConvertSettings, convert_video
from fsgan.data.sample import make_sample_clips
from fsgan.evaluation.evaluate import (
    _expression_68,
    _read_conversion,
    evaluate,
    rebuild,
)
from fsgan.evaluation.measure import Comparison
from fsgan.evaluation.metrics import expression_distance, psnr, ssim
from fsgan.evaluation.report import write_report
from fsgan.evaluation.results import worst_stretches
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import align, crop_matrix
from fsgan.media.images import write_image
from fsgan.media.reader import read_frames
from fsgan.media.writer import VideoWriter
from fsgan.models.checkpoint import save_checkpoint
from fsgan.models.networks import ModelConfig
from fsgan.swap.compositing import blend, feather, place
from fsgan.training.gan import FaceSwapGAN

FRAMES = 12
COVERAGE = 0.8


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
    """A folder of face crops: some of the frames, mirrored the second time."""
    for index in range(count):
        frame, landmarks = of_person[4 * index % FRAMES]
        crop = align(frame, crop_matrix(landmarks, 128), 128)
        write_image(folder / f"{index}.png", crop[:, :: 1 - index // FRAMES * 2].copy())
    return folder


@pytest.fixture(scope="module")
def faces(footage, tmp_path_factory):
    """Folders of five face crops of A and of B."""
    return [
        write_faces(tmp_path_factory.mktemp(person), of_person, 5)
        for person, of_person in zip("ab", footage, strict=True)
    ]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """An untrained model: B's decoder generates plain gray, half transparent."""
    folder = tmp_path_factory.mktemp("model")
    gan = FaceSwapGAN(ModelConfig(64, "lite", attention=False))
    for layer, channels in (("rgb", 3), ("alpha", 1)):
        weights = [np.zeros((5, 5, 32, channels)), np.zeros(channels)]
        gan.networks["decoder_b"].get_layer(layer).set_weights(weights)
    settings = {"model": gan.config, "iteration": 0}
    settings["training"] = {"validation": 0.1}
    save_checkpoint(folder, gan.networks, {}, settings)
    return folder


def write(path, frames, **options):
    """Writes frames so that every pixel stays as it is."""
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, Fraction(25), lossless=True, **options) as w:
        for frame in frames:
            w.write(frame)
    return path


def with_faces_of(footage, lender):
    """The frames of A with the very faces of a lender, A or B, laid over A's."""
    frames = []
    for index, (frame, landmarks) in enumerate(footage[0]):
        # Of A itself the face of another moment: that is what it looks like if the
        # decoder is the wrong one.
        lent, points = footage[lender][(index + 5 * (1 - lender)) % FRAMES]
        face = align(lent, crop_matrix(points, 64, COVERAGE), 64).astype(np.float32)
        matrix = crop_matrix(landmarks, 64, COVERAGE)
        frames.append(blend(frame, [place(face, feather(64), matrix, frame)]))
    return frames


@pytest.fixture(scope="module")
def right(clips, footage, faces, tmp_path_factory):
    """The evaluation of a swap with B's faces."""
    folder = tmp_path_factory.mktemp("right")
    video = write(folder / "swap.mkv", with_faces_of(footage, lender=1))
    return evaluate(clips[0], video, *faces, folder)


def test_a_copy_of_the_source_is_perfect_but_for_the_person(clips, faces, tmp_path):
    copy = shutil.copyfile(clips[0], tmp_path / "copy.mp4")
    found = evaluate(clips[0], copy, *faces, tmp_path / "report")
    figures = found.figures
    expected = {"jitter": 1, "flicker": 1, "missed": 0, "background": 100}
    expected |= {"frames": FRAMES, "source_frames": FRAMES, "sound_delay": 0}
    expected |= {"nearest_source": 1}
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
    assert "psnr_a" not in figures
    read = json.loads((tmp_path / "report" / "report.json").read_text())
    assert read["figures"]["jitter"] == pytest.approx(1)
    assert any("No model is given" in note for note in read["notes"])
    assert any("There is no copy.mp4.synthetic.json" in note for note in read["notes"])


def test_the_right_person_wins_and_a_wrong_decoder_loses(
    clips, footage, faces, right, tmp_path
):
    video = write(tmp_path / "wrong.mkv", with_faces_of(footage, lender=0))
    wrong = evaluate(clips[0], video, *faces, tmp_path, distractors=faces[0])
    ours, theirs = right.figures, wrong.figures
    assert ours["nearest_target"] > 0.9 > 0.1 > theirs["nearest_target"]
    # Two folders of the same faces: a tie goes to the distractors.
    assert theirs["nearest_other"] > 0.9
    assert ours["moved"] > 0.5 > 0.2 > theirs["moved"]
    assert right.frames[0].to_target > wrong.frames[0].to_target
    assert wrong.frames[0].to_source > right.frames[0].to_source
    fake, real = right.similarities["swapped"], right.similarities["target"]
    assert (len(fake), len(fake[0]), len(real)) == (FRAMES, 5, 5)
    for name in ("target", "source"):
        itself = np.diag(right.similarities[name])
        assert itself == pytest.approx(np.ones(5), abs=1e-3)


def test_a_pasted_face_leaves_all_else_as_it_is(right):
    figures = right.figures
    assert figures["background"] == pytest.approx(100)
    assert figures["sound_delay"] is None
    assert figures["missed"] == pytest.approx(0)
    assert figures["expression"].mean > 0
    pose = max(figures[angle].values[0] for angle in ("roll", "yaw", "pitch"))
    assert right.frames[0].pose == pytest.approx(pose)


def test_without_dlib_the_report_says_how_to_get_it(
    clips, faces, tmp_path, monkeypatch
):
    def missing(*_):
        raise FileNotFoundError("dlib is not installed")

    monkeypatch.setattr("fsgan.evaluation.evaluate.embed", missing)
    copy = shutil.copyfile(clips[0], tmp_path / "copy.mp4")
    found = evaluate(clips[0], copy, *faces, tmp_path, direction="BtoA")
    assert "moved" not in found.figures
    assert found.similarities == {}
    assert {frame.to_target for frame in found.frames} == {None}
    [note] = [note for note in found.notes if "Whose face it is" in note]
    assert "pip install 'fsgan[identity]'" in note
    assert found.direction == "BtoA"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"settings": 3}', "is damaged"),
        ('{"settings": {"crf": 99}}', "crf must be in 0..51, got 99"),
        ('{"settings": {"min_face": 20, "old": 1}}', "settings old are unknown here"),
    ],
)
def test_a_damaged_or_older_sidecar_is_named(tmp_path, text, said):
    """Once it was reported as absent."""
    swapped = tmp_path / "swap.mp4"
    (tmp_path / "swap.mp4.synthetic.json").write_text(text)
    settings, [note] = _read_conversion(swapped, "AtoB")
    assert note.startswith("swap.mp4.synthetic.json") and said in note
    assert settings.min_face == (20 if "old" in text else ConvertSettings().min_face)


def test_faces_missed_and_pixels_changed_outside(
    clips, footage, faces, reports, tmp_path
):
    frames = [frame.copy() for frame, _ in footage[0]]
    for index in (3, 4, 9):
        left, top = footage[0][index][1].min(axis=0).astype(int)
        frames[index][top - 30 : top + 60, left - 30 : left + 60] = 128
    frames[7][2, 3] ^= 8
    video = write(tmp_path / "damaged.mkv", frames)
    found = evaluate(clips[0], video, *faces, tmp_path)
    assert found.figures["missed"] == pytest.approx(3 / FRAMES)
    missed = [frame for frame in found.frames if not frame.found]
    assert [frame.index for frame in missed] == [3, 4, 9]
    assert {frame.expression for frame in missed} == {None}
    assert {frame.to_target for frame in missed} == {None}
    assert [x.outside for x in found.frames if x.index in (6, 7, 8)] == [0, 8, 0]
    assert found.worst == (3,)  # the others are less than half a second away
    np.testing.assert_allclose(worst_stretches(found, 0.05), [(0.07, 0.17)])
    told, worst, shown, folder = reports[-1]
    assert (told, folder) == (found, tmp_path)
    assert [index for index, *_ in worst] == [3]
    assert (worst[0][1] != worst[0][2]).any()
    assert {name: len(of_person) for name, of_person in shown.items()} == {
        "target": 5,
        "source": 5,
        "swapped": 8,
    }


def test_frames_that_are_lacking_are_counted_and_the_rest_compared(
    clips, footage, faces, tmp_path
):
    frames = [frame for frame, _ in footage[0]]
    video = write(tmp_path / "short.mkv", frames[:10])
    found = evaluate(clips[0], video, *faces, tmp_path)
    assert (found.figures["source_frames"], found.figures["frames"]) == (12, 10)
    assert found.figures["background"] == pytest.approx(100)
    assert len(found.frames) == 10
    assert any("12 frames, the swapped video 10" in note for note in found.notes)


def test_a_part_is_laid_over_its_place_in_the_source(clips, footage, faces, tmp_path):
    frames = [frame for frame, _ in footage[0]]
    write(tmp_path / "part.mkv", frames[5:12], audio_from=clips[0], start=0.2, end=0.48)
    found = evaluate(
        clips[0], tmp_path / "part.mkv", *faces, tmp_path, start=0.2, end=0.48
    )
    expected = {"background": 100, "frames": 7, "source_frames": 7, "jitter": 1}
    assert {k: found.figures[k] for k in expected} == pytest.approx(expected)
    assert found.figures["source_seconds"] == pytest.approx(0.28)
    assert found.figures["sound_delay"] == pytest.approx(0, abs=0.002)
    assert [frame.index for frame in found.frames] == list(range(5, 12))


def test_a_real_conversion_with_its_model(
    clips, footage, model_dir, tmp_path, monkeypatch
):
    faces = []
    for person, of_person in zip("ab", footage, strict=True):
        (tmp_path / person).mkdir()
        faces.append(write_faces(tmp_path / person, of_person, 20))
    video = tmp_path / "swap.mkv"
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
    assert found.figures["flicker"] < 1  # plain gray, in part, does not flicker
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    # A tenth of 20 faces is held out; B's decoder paints them gray.
    assert [len(found.figures[f"psnr_{side}"].values) for side in "ab"] == [2, 2]
    assert found.figures["psnr_b"].mean < 25
    assert any("2 faces of A and 2 faces of B" in note for note in found.notes)
    with pytest.raises(ValueError, match="was swapped AtoB: say direction='AtoB'"):
        evaluate(clips[0], video, *faces, tmp_path, direction="BtoA")


def test_what_cannot_be_compared_is_refused(clips, footage, faces, tmp_path):
    frames = [frame for frame, _ in footage[0]]
    wide = write(tmp_path / "wide.mkv", [np.hstack([x, x]) for x in frames[:2]])
    small = write(tmp_path / "small.mkv", [x[:90].copy() for x in frames[:2]])
    gray = write(tmp_path / "gray.mkv", [np.full_like(frames[0], 90)] * 3)
    (tmp_path / "empty").mkdir()
    out = tmp_path / "report"
    with pytest.raises(ValueError, match=r"shows 2 pictures .* again with layout=1"):
        evaluate(clips[0], wide, *faces, out)
    with pytest.raises(ValueError, match=r"is 320x90 pixels, .* 320x180"):
        evaluate(clips[0], small, *faces, out)
    with pytest.raises(FileNotFoundError, match="empty holds no pictures"):
        evaluate(clips[0], clips[0], faces[0], tmp_path / "empty", out)
    with pytest.raises(FileNotFoundError, match="no trained model in"):
        evaluate(clips[0], clips[0], *faces, out, model=tmp_path / "empty")
    with pytest.raises(ValueError, match="direction must be one of"):
        evaluate(clips[0], clips[0], *faces, out, direction="AtoA")
    assert not out.exists()
    with pytest.raises(ValueError, match=r"no face is found in .*gray"):
        evaluate(gray, gray, *faces, out)
    with pytest.raises(ValueError, match=r"there is no 7 among \[0\]"):
        evaluate(clips[0], clips[0], *faces, out, tracks=[7])
    late = write(tmp_path / "late.mkv", [np.full_like(frames[0], 90)] * 2 + frames)
    with pytest.raises(ValueError, match=r"shows no moment of .* give the start"):
        evaluate(late, write(tmp_path / "x.mkv", frames[:2]), *faces, out)
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
    summary, note = _expression_68(with_crops(*[(dark, dark)] * 20))
    assert summary.values == pytest.approx([0] * 16, abs=1e-9)
    assert note == "68 landmarks are measured on 16 faces."
    summary, _ = _expression_68(with_crops((dark, light)))
    [points], [moved] = (FakeDetector().detect([crop]) for crop in (dark, light))
    by_hand = expression_distance(points[None], moved[None])
    assert summary.values == pytest.approx(by_hand)
    assert summary.mean > 0.01
    assert _expression_68(with_crops())[0] is None


def test_without_68_landmarks_the_note_says_why(monkeypatch):
    def missing():
        raise FileNotFoundError("the package face-alignment is not installed")

    monkeypatch.setattr("fsgan.evaluation.evaluate.LandmarkDetector", missing)
    assert _expression_68(with_crops()) == (
        None,
        "Expression is measured by five landmarks only: the package face-alignment is "
        "not installed.",
    )


def test_held_out_faces_are_rebuilt_by_their_own_decoders(tmp_path, monkeypatch):
    """A's decoder paints black, B's white; VGGFace sees the brightness alone."""
    gan = FaceSwapGAN(ModelConfig(64, "lite", attention=False, coverage=0.5))
    for side, level in (("a", -20), ("b", 20)):
        weights = [np.zeros((5, 5, 32, 3)), np.full(3, level)]
        gan.networks[f"decoder_{side}"].get_layer("rgb").set_weights(weights)
    face = astronaut()[40:168, 160:288]
    for index in range(20):
        write_image(tmp_path / "faces" / f"{index}.png", face)
    folders = dict.fromkeys("ab", tmp_path / "faces")

    def rebuilt(iteration, **training):
        settings = {"model": gan.config, "iteration": iteration, "training": training}
        checkpoint = save_checkpoint(tmp_path, gan.networks, {}, settings)
        return rebuild(checkpoint, folders)

    figures, note = rebuilt(1, validation=0)
    assert figures == {} and "0 faces of A and 0 faces of B" in note
    monkeypatch.setattr("fsgan.evaluation.evaluate.find_weights", lambda _: "here")
    monkeypatch.setattr(
        "fsgan.evaluation.evaluate.load_vggface",
        lambda: lambda x: [ops.concatenate([x, ops.ones_like(x)], axis=-1)],
    )
    # VGGFace never judges where training looked through it.
    figures, note = rebuilt(2, validation=0.1, perceptual="auto")
    assert "training looked through them" in note and "features_a" not in figures
    figures, note = rebuilt(3, validation=0.1, perceptual="off")
    assert "2 faces of A and 2 faces of B" in note
    # At a coverage of a half the network sees the middle 64 pixels as they are.
    real = face[32:96, 32:96].copy()
    for side, level in zip("ab", (0, 255), strict=True):
        plain = np.full_like(real, level)
        psnrs, ssims = figures[f"psnr_{side}"].values, figures[f"ssim_{side}"].values
        assert psnrs == pytest.approx([psnr(real, plain)] * 2)
        assert ssims == pytest.approx([ssim(real, plain)] * 2)
        assert len(figures[f"features_{side}"].values) == 2
