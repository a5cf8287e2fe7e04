"""A video and its swap measured frame by frame."""

from fractions import Fraction
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from clips import copy, flash_pictures, make_clip
from skimage.data import astronaut

from fsgan.evaluation.measure import (
    SOUND_RATE,
    Comparison,
    RealFaces,
    SwappedVideo,
    _joined,
    cut_out_faces,
    in_step,
    read_sound,
)
from fsgan.evaluation.metrics import sound_delay
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import (
    Face,
    align,
    crop_matrix,
    invert,
    recrop,
    transform_points,
)
from fsgan.faces.mesh import FaceMesh
from fsgan.media.reader import Frame
from fsgan.media.writer import VideoWriter
from fsgan.models.networks import ModelConfig

RATE = 44_100
PORTRAIT = astronaut()[:240, 100:340].copy()
MIRRORED = np.hstack([PORTRAIT, PORTRAIT[:, ::-1]])


def shown(index: int, image: np.ndarray, damaged: bool = False) -> Frame:
    return Frame(index, Fraction(index, 25), image, damaged)


def found(image: np.ndarray, *runs: int) -> list[Face]:
    """The faces of a picture from left to right, with the numbers of their runs."""
    faces = sorted(FaceDetector(40).detect(image), key=lambda face: face.box[0])
    return [
        Face(face.box, face.landmarks, face.confidence, run=run)
        for face, run in zip(faces, runs, strict=True)
    ]


def test_of_two_faces_the_mean_and_the_missed_one_count():
    comparison = Comparison(None, chosen=[0, 1])
    faces = found(MIRRORED, 0, 1)
    comparison.add(shown(0, MIRRORED), MIRRORED, faces)
    covered = MIRRORED.copy()
    covered[:, 240:] = 128
    comparison.add(shown(1, MIRRORED), covered, faces)
    assert [frame.found for frame in comparison.frames] == [True, False]
    assert comparison.frames[0].expression == pytest.approx(0, abs=1e-9)
    figures = comparison.figures()
    assert figures["missed"] == pytest.approx(1 / 4)
    assert len(figures["expression"].values) == 3
    assert figures["jitter"] is None  # two frames are too few
    assert [index for index, *_ in comparison.crops] == [0, 0, 1]


def test_jitter_of_each_face_where_it_is_seen_in_both():
    """The swap alone jumps between two faces; within one it jumps twice as far."""
    comparison = Comparison(None, chosen=[4])
    for index, shift, run in [(0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 5, 1), (4, 5, 1)]:
        after = np.roll(PORTRAIT, shift, axis=1)
        comparison.add(shown(index, PORTRAIT), after, found(PORTRAIT, run))
    assert comparison.figures()["jitter"] == pytest.approx(1)
    moved = np.roll(PORTRAIT, 9, axis=1)
    after = np.roll(PORTRAIT, 5 + 18, axis=1)
    comparison.add(shown(5, moved), after, found(moved, 1))
    assert comparison.figures()["jitter"] == pytest.approx(2, rel=0.2)
    [(index, old, new)] = comparison.crops
    assert (index, old.shape, new.shape) == (4, (256, 256, 3), (256, 256, 3))
    # The face moved, its crop, cut out by its own landmarks, did not.
    difference = np.abs(old.astype(int) - new)[60:200, 60:200]
    assert difference.mean() < 4


def test_outside_of_the_mask_every_pixel_counts():
    """Outside of the square of the face; and all of a damaged frame."""
    comparison, [face] = Comparison(None, []), found(PORTRAIT, 0)
    after = PORTRAIT.copy()
    nose = face.landmarks[2].astype(int)
    after[nose[1] - 5 : nose[1] + 5, nose[0] - 5 : nose[0] + 5] = 0
    comparison.add(shown(0, PORTRAIT), after, [face])
    assert comparison.figures()["background"] == pytest.approx(100)
    after[0, 0] ^= 4
    comparison.add(shown(1, PORTRAIT), after, [face])
    # Of 64 pixels a side, the border fades over 10: what changes there is a seam.
    to_frame = invert(crop_matrix(face.landmarks, 64, 0.8))
    [(x, y)] = transform_points([[5, 32]], to_frame).astype(int)
    after[y : y + 2, x : x + 2] = 0
    comparison.add(shown(2, PORTRAIT), after, [face])
    assert [frame.outside for frame in comparison.frames] == [0, 4, 4]
    seams = [frame.seam for frame in comparison.frames]
    assert seams[:2] == pytest.approx([1, 1]) and seams[2] > 1
    assert comparison.frames[1].seconds == pytest.approx(0.04)
    whole = Comparison(None, [])
    changed = PORTRAIT.copy()
    changed[nose[1], nose[0]] ^= 16
    whole.add(shown(0, PORTRAIT, damaged=True), changed, [face])
    assert whole.frames == []
    whole.add(shown(1, PORTRAIT), PORTRAIT, [face])
    # Three differences of 16 in all of one frame, and what is outside of another.
    mask = _joined(comparison._layers(PORTRAIT, [face]), PORTRAIT)
    values = PORTRAIT.size * (1 + np.mean(mask == 0))
    expected = 10 * np.log10(255**2 * values / (3 * 16**2))
    assert whole.figures()["background"] == pytest.approx(expected)


def grimace(mouth: float, eyes: float) -> np.ndarray:
    """The portrait with lips further apart, by so many pixels, and narrower eyes."""
    x, y = np.meshgrid(*2 * [np.arange(240, dtype=np.float32)])
    near = np.exp(-(((x - 124) / 22) ** 2))
    lower = ((y - 138) / 8).clip(0, 1) * ((200 - y) / 40).clip(0, 1)
    lids = np.exp(-(((y - 102) / 16) ** 4))
    rows = y - mouth * near * lower + eyes * (y - 102) * lids
    return cv2.remap(PORTRAIT, x, np.float32(rows), cv2.INTER_LINEAR)


def compared(source: list, swap: list, face: Face, **options) -> Comparison:
    comparison = Comparison(None, [0], **options)
    for index, (before, after) in enumerate(zip(source, swap, strict=True)):
        comparison.add(shown(index, before), after, [face])
    return comparison


def test_whether_mouth_and_eyes_follow_over_time():
    [face] = found(PORTRAIT, 0)
    phases = np.linspace(0, 2 * np.pi, 12)
    clip = [grimace(6 - 6 * np.cos(x), 0.6 + 0.6 * np.sin(x)) for x in phases]
    talking = [grimace(6 - 6 * np.cos(x), 0.6) for x in phases]
    for swap, mouth, eyes in ((clip, 1, 1), ([PORTRAIT] * 12, 0, 0), (talking, 1, 0)):
        figures = compared(clip, swap, face).figures()
        assert figures["mouth_follows"] == pytest.approx(mouth, abs=0.1)
        assert figures["eyes_follow"] == pytest.approx(eyes, abs=0.1)
    for frames in ([PORTRAIT] * 12, clip[:9]):  # too still, too few
        figures = compared(frames, frames, face).figures()
        assert figures["mouth_follows"] is figures["eyes_follow"] is None


def test_a_blurred_face_is_less_sharp_than_the_targets_own():
    [face] = found(PORTRAIT, 0)
    own = align(PORTRAIT, crop_matrix(face.landmarks, 410, 1.6), 410)
    for after, low, high in (
        (PORTRAIT, 0.9, 1.2),  # the crop was resampled once more
        (cv2.GaussianBlur(PORTRAIT, (0, 0), 2), 0.1, 0.5),
    ):
        figures = compared([PORTRAIT], [after], face, target=[own]).figures()
        assert low < figures["sharpness"] < high
        assert figures["mask_iou"] is None  # no model
    assert compared([PORTRAIT], [PORTRAIT], face).figures()["sharpness"] is None


def test_the_real_face_of_the_same_pose_and_mouth_is_lent():
    fit = FaceMesh()
    pictures = [PORTRAIT, grimace(12, 0)]
    faces = [found(picture, 0)[0].landmarks for picture in pictures]
    pairs = list(zip(pictures, faces, strict=True))
    crops = [align(x, crop_matrix(points, 410, 1.6), 410) for x, points in pairs]
    # Where less was stored, borders are repeated: the model sees the same.
    small = [recrop(recrop(crop, 1.6), 1.0, 1.6) for crop in crops]
    real, same = (RealFaces(x, ModelConfig(64)) for x in (crops, small))
    bare = RealFaces(crops, ModelConfig(64, mask=False))
    for picture, points in pairs:
        mesh = fit.with_depth(picture, points)
        face, alpha = real.nearest(*mesh)
        seen = align(picture, crop_matrix(points, 64, 0.8), 64)
        assert np.abs(face.astype(int) - seen).mean() < 3
        assert alpha.shape == (64, 64, 1) and alpha.dtype == np.float32
        assert alpha[32, 32] == alpha.max() == 1 and alpha.min() == 0
        again, mask = same.nearest(*mesh)
        assert np.abs(face.astype(int) - again).mean() < 3
        assert np.abs(alpha - mask).mean() < 0.03
        assert (bare.nearest(*mesh)[1] == 1).all()


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


def write_video(path, frames):
    height, width = frames[0].shape[:2]
    with VideoWriter(path, width, height, Fraction(25), lossless=True) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def test_the_worst_frames_are_cut_out_of_both_videos(tmp_path):
    [face] = found(PORTRAIT, 0)
    frames = [np.roll(PORTRAIT, shift, axis=0) for shift in range(4)]
    source = write_video(tmp_path / "source.mkv", frames)
    swapped = write_video(tmp_path / "swapped.mkv", [255 - frame for frame in frames])
    tracks = SimpleNamespace(faces=lambda index, only: [face])
    video = SwappedVideo(source, swapped, tracks)
    pictures = cut_out_faces(video, (3, 1))
    assert [index for index, *_ in pictures] == [3, 1]
    for _, before, after in pictures:
        np.testing.assert_array_equal(before, 255 - after)
        left, top, right, bottom = face.box
        assert before.shape[0] > bottom - top
        assert min(before.shape[:2]) > 1.4 * (right - left)
    assert cut_out_faces(video, ()) == []


def write_sound(path, samples: np.ndarray, rate: int = RATE):
    """Writes a sound track without loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=rate)
        stream.layout = "mono"
        whole = np.int16(np.clip(samples, -1, 1) * 32767)[None]
        frame = av.AudioFrame.from_ndarray(whole, "s16", "mono")
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("start", [0, 0.5, 0.83, 1.01])
def test_sound_and_frames_are_in_step_where_the_sound_begins_first(
    tmp_path, suffix, start
):
    late = Fraction(844, 1000)
    times = [late + Fraction(k, 25) for k in range(60)]
    source = make_clip(
        tmp_path / "clip.mp4", flash_pictures(), times=times, sound="aac"
    )
    swapped = copy(source, tmp_path / f"copy{suffix}", start)
    video = SwappedVideo(source, swapped, SimpleNamespace(), start=start)
    pairs = list(video.frames())
    assert len(pairs) == sum(time >= start for time in times)
    assert all(before and after for before, after in pairs)
    levels = [[frame.image.mean() for frame in pair] for pair in pairs]
    np.testing.assert_allclose(*np.transpose(levels), atol=3)
    sounds = read_sound(source, video.zero, 2), read_sound(swapped, 0, 2)
    assert sound_delay(*sounds, SOUND_RATE) == pytest.approx(0, abs=1e-3)


def test_sound_is_compared_from_the_start_of_the_part(tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.3, 2 * RATE)
    noise = np.convolve(noise, np.ones(20) / 20, "same")
    source = write_sound(tmp_path / "source.wav", noise)
    part = noise[round(0.5 * RATE) : round(1.25 * RATE)]
    late = write_sound(tmp_path / "late.wav", np.concatenate([np.zeros(441), part]))
    slow = write_sound(tmp_path / "slow.wav", noise[::2], RATE // 2)
    for path, start, seconds, expected in ((late, 0.5, 0.75, 0.01), (slow, 0, 2, 0)):
        sounds = read_sound(source, start, seconds), read_sound(path, 0, seconds)
        assert sound_delay(*sounds, SOUND_RATE) == pytest.approx(expected, abs=1e-3)
    silent = read_sound(write_video(tmp_path / "silent.mkv", [PORTRAIT] * 2), 0, 2)
    assert silent.shape == (2 * SOUND_RATE,) and not silent.any()
    with pytest.raises(FileNotFoundError, match="missing"):
        read_sound(tmp_path / "missing.wav", 0, 1)
