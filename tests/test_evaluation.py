"""Evaluations of swaps that are perfect, wrong, damaged or real."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fsgan import ConvertSettings, convert_video
from fsgan.data.sample import make_sample_clips
from fsgan.evaluation.evaluate import evaluate
from fsgan.evaluation.measure import cut_out_frames, in_step
from fsgan.evaluation.record import worst_stretches
from fsgan.evaluation.report import write_report
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import align, crop_matrix
from fsgan.faces.tracks import follow_faces
from fsgan.media.images import write_image
from fsgan.media.reader import Frame, read_frames
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
    assert found.time.jitter == 1
    assert found.time.flicker == 1
    assert found.time.missed == 0
    assert found.untouched.outside_psnr == 100
    assert found.untouched.frames == (FRAMES, FRAMES)
    assert found.untouched.seconds == pytest.approx((0.48, 0.48), abs=0.05)
    assert found.untouched.audio_offset == 0
    assert np.allclose(found.expression.values, 0, atol=1e-9)
    assert set(found.seam.values) == {1}
    assert {angle: spread.high for angle, spread in found.pose.items()} == {
        "roll": 0,
        "yaw": 0,
        "pitch": 0,
    }
    assert len(found.frames) == len(found.expression.values) == FRAMES
    assert [frame.index for frame in found.frames] == list(range(FRAMES))
    assert {frame.outside for frame in found.frames} == {0}
    assert found.identity.retrieved_source == 1
    assert found.identity.moved == pytest.approx(0, abs=0.05)
    assert found.reconstruction == {}
    assert [Path(found.source).name, Path(found.swapped).name] == ["a.mp4", "copy.mp4"]
    read = json.loads((tmp_path / "report" / "report.json").read_text())
    assert read["time"] == {"jitter": 1, "flicker": 1, "missed": 0}
    assert any("No model is given" in note for note in read["notes"])


def test_the_right_person_wins_and_a_wrong_decoder_loses(
    clips, footage, faces, right, tmp_path
):
    video = write(tmp_path / "wrong.mkv", with_faces_of(footage, lender=0))
    wrong = evaluate(clips[0], video, *faces, tmp_path, distractors=faces[0])
    assert right.identity.retrieved_target == 1
    assert wrong.identity.retrieved_target == 0
    # Two folders of the same faces: a tie goes to the distractors.
    assert wrong.identity.retrieved_distractors == 1
    assert right.identity.moved > 0.5 > 0.2 > wrong.identity.moved
    assert right.frames[0].to_target > wrong.frames[0].to_target
    assert wrong.frames[0].to_source > right.frames[0].to_source
    fake, real = right.heat_maps["fake"], right.heat_maps["target"]
    assert (len(fake), len(fake[0]), len(real)) == (FRAMES, 5, 5)
    for name in ("target", "source"):
        itself = np.diag(right.heat_maps[name])
        assert itself == pytest.approx(np.ones(5), abs=1e-3)


def test_from_b_to_a_the_persons_are_exchanged(clips, faces, tmp_path):
    copy = shutil.copyfile(clips[0], tmp_path / "copy.mp4")
    found = evaluate(clips[0], copy, *faces, tmp_path, direction="BtoA")
    assert found.identity.retrieved_target == 1
    assert found.heat_maps["target"] != found.heat_maps["source"]


def test_a_pasted_face_leaves_all_else_as_it_is(right):
    assert right.untouched.outside_psnr == 100
    assert right.untouched.audio_offset is None
    assert right.time.missed == 0
    assert right.expression.mean > 0
    assert all(abs(frame.pose) < 45 for frame in right.frames)
    assert right.frames[0].pose == max(x.values[0] for x in right.pose.values())


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
    assert found.time.missed == pytest.approx(3 / FRAMES)
    missed = [frame for frame in found.frames if not frame.found]
    assert [frame.index for frame in missed] == [3, 4, 9]
    assert {frame.expression for frame in missed} == {None}
    assert {frame.to_target for frame in missed} == {None}
    assert [x.outside for x in found.frames if x.index in (6, 7, 8)] == [0, 8, 0]
    assert found.worst == (3,)  # the others are less than half a second away
    assert worst_stretches(found, 0.05) == [(0.07, 0.17)]
    told, worst, shown, folder = reports[-1]
    assert (told, folder) == (found, tmp_path)
    assert [index for index, *_ in worst] == [3]
    assert (worst[0][1] != worst[0][2]).any()
    assert {name: len(of_person) for name, of_person in shown.items()} == {
        "target": 5,
        "source": 5,
        "fake": 8,
    }


def test_frames_that_are_lacking_are_counted_and_the_rest_compared(
    clips, footage, faces, tmp_path
):
    frames = [frame for frame, _ in footage[0]]
    video = write(tmp_path / "short.mkv", frames[:10])
    found = evaluate(clips[0], video, *faces, tmp_path)
    assert found.untouched.frames == (12, 10)
    assert found.untouched.outside_psnr == 100
    assert len(found.frames) == 10
    assert any("12 frames, the swapped video 10" in note for note in found.notes)


def test_a_part_is_laid_over_its_place_in_the_source(clips, footage, faces, tmp_path):
    frames = [frame for frame, _ in footage[0]]
    write(tmp_path / "part.mkv", frames[5:12], audio_from=clips[0], start=0.2, end=0.48)
    found = evaluate(
        clips[0], tmp_path / "part.mkv", *faces, tmp_path, start=0.2, end=0.48
    )
    assert found.untouched.outside_psnr == 100
    assert found.untouched.frames == (7, 7)
    assert found.untouched.seconds[0] == pytest.approx(0.28)
    assert found.untouched.audio_offset == pytest.approx(0, abs=0.002)
    assert [frame.index for frame in found.frames] == list(range(5, 12))
    assert found.time.jitter == 1


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
    assert found.untouched.outside_psnr == 100
    assert {frame.outside for frame in found.frames} == {0}
    assert found.time.flicker < 1  # plain gray, in part, does not flicker
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    # A tenth of 20 faces is held out; B's decoder paints them gray.
    assert [len(found.reconstruction[side].psnr.values) for side in "ab"] == [2, 2]
    assert found.reconstruction["b"].psnr.mean < 25
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


def frame_at(index: int, time: float) -> Frame:
    return Frame(index, Fraction(time).limit_denominator(1000), np.empty(0))


@pytest.mark.parametrize(
    ("times", "pairs"),
    [
        ([0, 0.04, 0.08], [(0, 0), (1, 1), (2, 2)]),
        ([0.001, 0.041, 0.079], [(0, 0), (1, 1), (2, 2)]),
        ([0, 0.08], [(0, 0), (1, None), (2, 1)]),
        ([0.04, 0.06, 0.08], [(0, None), (1, 0), (None, 1), (2, 2)]),
        ([0, 0.04, 0.08, 0.12], [(0, 0), (1, 1), (2, 2), (None, 3)]),
        ([], [(0, None), (1, None), (2, None)]),
    ],
)
def test_frames_are_paired_by_their_times(times, pairs):
    source = [frame_at(index, 1 + index / 25) for index in range(3)]
    swapped = [frame_at(index, time) for index, time in enumerate(times)]
    found = in_step(iter(source), iter(swapped), Fraction(1), Fraction(1, 100))
    assert [(a and a.index, b and b.index) for a, b in found] == pairs


def test_the_worst_frames_are_cut_out_of_both_videos(clips, footage, tmp_path):
    copy = write(tmp_path / "copy.mkv", [255 - frame for frame, _ in footage[0]])
    followed = follow_faces(clips[0], tmp_path / "copy")
    found = cut_out_frames((clips[0], copy), (0.0, None), followed, None, (9, 2))
    assert [index for index, *_ in found] == [9, 2]
    for index, before, after in found:
        np.testing.assert_array_equal(before, 255 - after)
        left, top, right, bottom = followed.faces(index)[0].box
        assert before.shape[0] > bottom - top
        assert min(before.shape[:2]) > 1.4 * (right - left)
    assert cut_out_frames((clips[0], copy), (0.0, None), followed, None, ()) == []
