import errno
import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from fsgan import ConvertSettings, FaceSwapper, convert_image, convert_video
from fsgan.data.extract import extract_faces
from fsgan.data.sample import make_sample_clips
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import Face, crop_matrix
from fsgan.faces.tracks import follow_faces
from fsgan.media.images import list_images, read_image, write_image
from fsgan.media.provenance import read_marks
from fsgan.media.reader import probe, read_frames
from fsgan.media.writer import ResumableWriter, VideoWriter
from fsgan.models.checkpoint import save_checkpoint
from fsgan.models.networks import ModelConfig
from fsgan.swap.compositing import BLEND_METHODS
from fsgan.training.gan import FaceSwapGAN

FRAMES = 12


@pytest.fixture(scope="module", autouse=True)
def _plain_engine():
    """No trial of which engine is good: that takes a second for each swapper."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fsgan.swap.generator.fastest_precision", lambda: "float32")
        yield


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """An untrained model: B's decoder generates plain gray, fully opaque."""
    folder = tmp_path_factory.mktemp("model")
    gan = FaceSwapGAN(ModelConfig(64, "lite", attention=False))
    decoder = gan.networks["decoder_b"]
    decoder.get_layer("rgb").set_weights(
        [np.zeros((5, 5, 32, 3)), np.zeros(3)],
    )
    decoder.get_layer("alpha").set_weights(
        [np.zeros((5, 5, 32, 1)), np.full(1, 20.0)],
    )
    settings = {"model": gan.config, "iteration": 0}
    save_checkpoint(folder, gan.networks, {}, settings)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Eileen Collins moving to the right, one frame of noise among the others."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    portrait = astronaut()[:300, 50:450]
    noise = np.random.default_rng(0).integers(0, 255, portrait.shape, np.uint8)
    with VideoWriter(path, 400, 300, Fraction(25)) as writer:
        for index in range(FRAMES):
            moved = np.roll(portrait, 2 * index, axis=1)
            writer.write(noise if index == 5 else moved)
    return path


@pytest.fixture(scope="module")
def two_people(tmp_path_factory):
    """Hopper on the left and Collins on the right; a clip of Collins alone."""
    folder = tmp_path_factory.mktemp("two")
    clips = make_sample_clips(folder, seconds=0.4, size=(320, 180))
    with VideoWriter(folder / "two.mp4", 640, 180, Fraction(25)) as writer:
        for pair in zip(*map(frames_of, clips), strict=True):
            writer.write(np.hstack(pair))
    return folder / "two.mp4", clips[1]


def changed_halves(source, swapped):
    """How much the left and the right half of the frames have changed at most."""
    pairs = zip(frames_of(source), frames_of(swapped), strict=True)
    difference = [np.abs(a.astype(float) - b).mean(-1) for a, b in pairs]
    blocks = np.array(difference).reshape(len(difference), 9, 20, 32, 20).mean((2, 4))
    return blocks[..., :16].max(), blocks[..., 16:].max()


def frames_of(path):
    return [frame.image for frame in read_frames(path)]


def test_a_frame_without_a_face_is_left_as_it_is(model_dir):
    frame = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    [(picture, layers)] = FaceSwapper(model_dir).swap([frame])
    assert layers == []
    np.testing.assert_array_equal(picture, frame)


@pytest.mark.parametrize("method", BLEND_METHODS)
def test_only_the_face_changes(model_dir, method):
    frame = astronaut()
    settings = ConvertSettings(color="none", blend=method)
    [(picture, [layer])] = FaceSwapper(model_dir, settings).swap([frame])
    rows, columns = np.nonzero((picture != frame).any(axis=-1))
    # Eileen Collins' face as MTCNN boxes it, and no more than the crop around it.
    assert 55 < rows.min() < rows.max() < 185
    assert 165 < columns.min() < columns.max() < 285
    # Where the mask says nothing the frame is the same to the bit.
    outside = np.ones(frame.shape[:2], bool)
    outside[layer.rows, layer.columns] = layer.alpha[..., 0] == 0
    assert 0.9 < outside.mean() < 0.99
    np.testing.assert_array_equal(picture[outside], frame[outside])


def test_where_the_mask_is_full_the_generated_face_shows(model_dir):
    settings = ConvertSettings(color="none")
    picture = FaceSwapper(model_dir, settings)(astronaut())
    # The nose lies in the middle, where alpha is 1: plain gray.
    np.testing.assert_allclose(picture[123, 226], 127.5, atol=1)


class Fake:
    """In the place of the generator: any function of the crops."""

    resolution, coverage = 64, 0.8

    def __init__(self, alpha, function):
        self.alpha, self.function = alpha, function

    def __call__(self, faces):
        alphas = np.full((*faces.shape[:3], 1), self.alpha, np.float32)
        return alphas, self.function(faces.astype(np.float32))


def test_a_generator_that_copies_gives_back_the_frame(model_dir):
    swapper = FaceSwapper(model_dir, ConvertSettings(color="none"))
    swapper._generator = Fake(1, lambda faces: faces)
    frame = astronaut()
    [(picture, layers)] = swapper.swap([frame])
    assert len(layers) == 1
    difference = np.abs(picture.astype(float) - frame)[70:170, 180:270]
    assert 0 < difference.mean() < 4


def test_the_direction_chooses_the_decoder(model_dir):
    frame = astronaut()
    swapped = [
        FaceSwapper(model_dir, ConvertSettings(direction, "none")).swap([frame])[0][0]
        for direction in ("AtoB", "BtoA")
    ]
    # Only B's decoder is set to plain gray.
    assert np.ptp(swapped[0][115:130, 220:232].astype(int)) <= 1
    assert np.ptp(swapped[1][115:130, 220:232].astype(int)) > 5


def test_a_timid_mask_can_be_raised(model_dir):
    frame, pictures = astronaut(), {}
    for least in (0.0, 0.75):
        settings = ConvertSettings(color="none", min_alpha=least)
        swapper = FaceSwapper(model_dir, settings)
        swapper._generator = Fake(0.25, lambda faces: np.full_like(faces, 127.5))
        pictures[least] = swapper(frame)[123, 226].astype(float)
    source = frame[123, 226].astype(float)
    for least, share in ((0.0, 0.25), (0.75, 0.75)):
        expected = source + share * (127.5 - source)
        np.testing.assert_allclose(pictures[least], expected, atol=1)


@pytest.mark.parametrize("layout", [1, 2, 3])
def test_layouts_stand_side_by_side(model_dir, layout):
    frame = astronaut()
    picture = FaceSwapper(model_dir, ConvertSettings(layout=layout))(frame)
    assert picture.shape == (512, 512 * layout, 3)
    if layout > 1:
        np.testing.assert_array_equal(picture[:, :512], frame)
    if layout == 3:
        np.testing.assert_array_equal(picture[400:, 1024:], frame[400:] // 3)
        assert picture[123, 1024 + 226].min() > 250


def test_successive_frames_give_the_same_at_once_and_one_by_one(model_dir, clip):
    frames = frames_of(clip)[:4]
    at_once = FaceSwapper(model_dir).swap(frames)
    swapper = FaceSwapper(model_dir)
    for frame, (picture, _) in zip(frames, at_once, strict=True):
        assert np.abs(swapper(frame).astype(int) - picture).max() <= 1


def test_a_new_video_is_not_smoothed_with_the_one_before(model_dir, clip):
    frames = frames_of(clip)[:5]
    swapper = FaceSwapper(model_dir)
    first = swapper.swap(frames[:1])[0][0]
    smoothed = swapper.swap(frames[1:])[-1][0]
    swapper.reset()
    fresh = swapper.swap(frames[-1:])[0][0]
    assert not np.array_equal(fresh, smoothed)
    swapper.reset()
    np.testing.assert_array_equal(swapper.swap(frames[:1])[0][0], first)


def test_a_video_keeps_its_frames_and_is_marked(model_dir, clip, tmp_path):
    result = convert_video(clip, tmp_path / "swap.mp4", model_dir)
    assert (result.frames, result.frames_with_face) == (FRAMES, FRAMES - 1)
    assert result.frames_damaged == 0
    assert result.frames_per_second > 0
    assert str(result).startswith("face in 11 of 12 frames, ")
    source, swapped = frames_of(clip), frames_of(tmp_path / "swap.mp4")
    assert len(swapped) == FRAMES
    assert probe(tmp_path / "swap.mp4").fps == 25
    assert "compositeWithTrainedAlgorithmicMedia" in str(
        read_marks(tmp_path / "swap.mp4")
    )
    # Encoding noise alone where nothing is swapped.
    difference = np.abs(source[0].astype(float) - swapped[0])
    assert difference[:, :60].mean() < 3
    face = (slice(60, 180), slice(130, 220))
    assert difference[face].mean() > 10


def test_only_the_seconds_asked_for_are_converted(model_dir, clip, tmp_path):
    out = tmp_path / "part.mp4"
    result = convert_video(clip, out, model_dir, start=0.08, end=0.2)
    assert result.frames == len(frames_of(out)) == 3
    source = frames_of(clip)[2].astype(float)
    assert np.abs(frames_of(out)[0] - source)[:, :60].mean() < 3


def test_a_photo_is_swapped_and_marked(model_dir, tmp_path):
    write_image(tmp_path / "photo.png", astronaut())
    faces = convert_image(tmp_path / "photo.png", tmp_path / "swap.png", model_dir)
    assert faces == 1
    assert not np.array_equal(read_image(tmp_path / "swap.png"), astronaut())
    assert "compositeWithTrainedAlgorithmicMedia" in str(
        read_marks(tmp_path / "swap.png")
    )


def test_a_photo_of_a_kind_that_cannot_be_written_is_refused_first(tmp_path):
    write_image(tmp_path / "photo.png", astronaut())
    with pytest.raises(ValueError, match=r"out must end in \.png.*got .*swap\.bmp"):
        convert_image(tmp_path / "photo.png", tmp_path / "swap.bmp", tmp_path)


def test_a_photo_without_a_face_is_written_as_it_is(model_dir, tmp_path, caplog):
    plain = np.full((80, 80, 3), 90, np.uint8)
    write_image(tmp_path / "plain.png", plain)
    assert convert_image(tmp_path / "plain.png", tmp_path / "out.png", model_dir) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out.png"), plain)
    assert "no face found" in caplog.text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"direction": "BtoB"}, r"direction must be one of \('AtoB', 'BtoA'\), got"),
        ({"color": "yuv"}, "color must be one of .*'hist_match'.*, got 'yuv'"),
        ({"blend": "add"}, "blend must be one of .*'poisson'.*, got 'add'"),
        ({"engine": "steam"}, "engine must be one of .*'auto'.*, got 'steam'"),
        ({"color_smoothing": 1}, r"color_smoothing must be in \[0, 1\), got 1"),
        ({"sharpen": -1}, "sharpen must be at least 0, got -1"),
        ({"enhance": -1}, "enhance must be at least 0, got -1"),
        ({"certificate": "me.pem"}, "certificate and private_key must be given"),
        ({"layout": 4}, r"layout must be one of \(1, 2, 3\), got 4"),
        ({"min_alpha": 1.5}, r"min_alpha must be in \[0, 1\], got 1.5"),
        ({"feather": 0}, "feather must be in"),
        ({"search_every": 0}, "search_every must be at least 1, got 0"),
        ({"crf": 52}, "crf must be in 0..51, got 52"),
        ({"min_face": 10}, "min_face must be at least 20 pixels, got 10"),
        ({"min_confidence": 0.5}, "min_confidence must be in"),
        ({"smoothing": 0}, "smoothing must be above 0, or None, got 0"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        ConvertSettings(**setting)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained model in"):
        FaceSwapper(tmp_path)


@pytest.mark.parametrize("convert", [convert_image, convert_video])
def test_the_source_is_never_overwritten(convert, model_dir, clip):
    with pytest.raises(ValueError, match="is the source itself"):
        convert(clip, clip.parent / "." / clip.name, model_dir)


@pytest.mark.parametrize(("start", "end"), [(-1, None), (0.3, 0.3), (60, None)])
def test_a_stretch_without_frames_leaves_nothing(model_dir, clip, tmp_path, start, end):
    with pytest.raises(ValueError, match=r"start|frame"):
        convert_video(clip, tmp_path / "no.mp4", model_dir, start=start, end=end)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_video_leaves_nothing(model_dir, tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.mp4"):
        convert_video(tmp_path / "text.mp4", tmp_path / "out.mp4", model_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["text.mp4"]


def test_an_interrupted_conversion_leaves_no_half_video(
    model_dir, clip, tmp_path, monkeypatch
):
    def interrupt(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(FaceSwapper, "_compose", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_video(clip, tmp_path / "half.mp4", model_dir)
    # The first pass is whole: the next conversion goes on from there.
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["half.tracks.json", "half.tracks.png"]
    monkeypatch.undo()
    monkeypatch.setattr(FaceDetector, "detect_next", interrupt)
    result = convert_video(clip, tmp_path / "half.mp4", model_dir)
    assert result.frames_with_face == FRAMES - 1


def test_the_first_pass_can_be_made_before(model_dir, clip, tmp_path, monkeypatch):
    followed = follow_faces(clip, tmp_path / "faces")
    monkeypatch.setattr(FaceDetector, "detect_next", None)
    settings = ConvertSettings(smoothing=0.3)
    result = convert_video(
        clip, tmp_path / "swap.mp4", model_dir, settings, faces=tmp_path / "faces"
    )
    assert result.frames_with_face == FRAMES - 1
    assert result.faces.tracks == followed.tracks


def test_a_first_pass_over_more_swaps_nothing_outside_of_the_stretch(
    model_dir, clip, tmp_path, caplog
):
    faces = tmp_path / "faces"
    assert len(follow_faces(clip, faces)) == 2
    result = convert_video(  # the frame of noise alone
        clip, tmp_path / "swap.mp4", model_dir, faces=faces, start=0.2, end=0.24
    )
    assert (result.frames, result.frames_with_face, result.swapped) == (1, 0, ())
    assert "not marked as synthetic" in caplog.text


def test_an_output_that_cannot_be_is_refused_before_the_search(
    model_dir, clip, tmp_path
):
    with pytest.raises(ValueError, match=r"\.avi"):
        convert_video(clip, tmp_path / "swap.avi", model_dir)
    assert list(tmp_path.iterdir()) == []


def test_faces_that_are_known_are_not_searched(model_dir, monkeypatch):
    [face] = FaceDetector().detect(astronaut())
    monkeypatch.setattr(FaceDetector, "detect_next", None)
    swapper = FaceSwapper(model_dir, ConvertSettings(color="none"))
    results = swapper.swap([astronaut()] * 2, [[face], []])
    assert [len(layers) for _, layers in results] == [1, 0]
    np.testing.assert_allclose(results[0][0][123, 226], 127.5, atol=1)
    np.testing.assert_array_equal(results[1][0], astronaut())


# One of two people


def test_without_a_choice_both_are_swapped(model_dir, two_people, tmp_path):
    result = convert_video(two_people[0], tmp_path / "swap.mp4", model_dir)
    assert result.swapped == (0, 1)
    assert min(changed_halves(two_people[0], result.path)) > 25


@pytest.mark.parametrize("track", [0, 1])
def test_a_track_is_chosen_by_its_number(model_dir, two_people, tmp_path, track):
    result = convert_video(two_people[0], tmp_path / "s.mp4", model_dir, only=track)
    assert result.swapped == (track,)
    [face] = result.faces.faces(0, {track})
    changed = changed_halves(two_people[0], result.path)
    side = int(face.box[0] // 320)
    assert changed[side] > 25
    assert changed[1 - side] < 8  # encoding alone


def test_several_tracks_are_chosen_by_their_numbers(model_dir, two_people, tmp_path):
    out = tmp_path / "swap.mp4"
    result = convert_video(two_people[0], out, model_dir, only=[0, 1], end=0.1)
    assert result.swapped == (0, 1)


@pytest.mark.parametrize("kind", ["photo", "folder"])
def test_a_person_is_chosen_by_a_reference(model_dir, two_people, tmp_path, kind):
    clip, alone = two_people
    if kind == "folder":
        reference = tmp_path / "faces"
        extract_faces(alone, reference, every=3)
    else:
        reference = tmp_path / "collins.png"
        write_image(reference, frames_of(alone)[0])
    result = convert_video(clip, tmp_path / "swap.mp4", model_dir, only=reference)
    left, right = changed_halves(clip, result.path)
    assert len(result.swapped) == 1
    assert left < 8 < 25 < right


def test_a_track_that_is_not_there_is_named(model_dir, two_people, tmp_path):
    with pytest.raises(ValueError, match=r"there is no 7 among \[0, 1\]"):
        convert_video(two_people[0], tmp_path / "swap.mp4", model_dir, only=[0, 7])
    assert not (tmp_path / "swap.mp4").exists()


def test_a_reference_that_is_missing_is_named_before_the_search(
    model_dir, two_people, tmp_path
):
    with pytest.raises(FileNotFoundError, match=r"nobody\.jpg"):
        convert_video(
            two_people[0],
            tmp_path / "swap.mp4",
            model_dir,
            only=tmp_path / "nobody.jpg",
        )
    assert list(tmp_path.iterdir()) == []


# Faces in every position


def turned(portrait, degrees):
    """The portrait turned about its middle, on a larger gray frame."""
    frame = cv2.copyMakeBorder(
        portrait, *[100] * 4, cv2.BORDER_CONSTANT, value=[99] * 3
    )
    height, width = frame.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return cv2.warpAffine(frame, matrix, (width, height)), matrix


@pytest.mark.parametrize("method", BLEND_METHODS)
def test_a_face_tilted_by_60_degrees_is_swapped_in_its_place(
    model_dir, portrait, method
):
    frame, matrix = turned(portrait, 60)
    [upright] = FaceDetector().detect(portrait)
    landmarks = (upright.landmarks + 100) @ matrix[:, :2].T + matrix[:, 2]
    face = Face(np.array([0, 0, *frame.shape[1::-1]], float), landmarks, 1.0)
    settings = ConvertSettings(color="none", blend=method)
    [(picture, [layer])] = FaceSwapper(model_dir, settings).swap([frame], [[face]])
    column, row = landmarks[2].round().astype(int)
    if method == "alpha":
        np.testing.assert_allclose(picture[row, column], 127.5, atol=1)
    rows, columns = np.nonzero((picture != frame).any(axis=-1))
    middle = np.mean([rows.mean(), columns.mean()] - landmarks.mean(0)[::-1])
    assert abs(middle) < 10
    # A square box would touch the ends of the rectangle; the mask is a turned one.
    assert not layer.alpha[0, 0] and layer.alpha.max() > 0.99


@pytest.mark.parametrize("method", BLEND_METHODS)
@pytest.mark.parametrize("shift", [(-110, 0), (0, 110), (160, 160), (-2000, 0)])
def test_a_face_partly_or_wholly_outside_does_no_harm(
    model_dir, portrait, method, shift
):
    [face] = FaceDetector().detect(portrait)
    moved = replace(face, landmarks=face.landmarks + shift)
    swapper = FaceSwapper(model_dir, ConvertSettings(blend=method))
    [(picture, [layer])] = swapper.swap([portrait], [[moved]])
    assert picture.shape == portrait.shape
    outside = np.ones(portrait.shape[:2], bool)
    outside[layer.rows, layer.columns] = layer.alpha[..., 0] == 0
    np.testing.assert_array_equal(picture[outside], portrait[outside])
    assert outside.all() == (shift[0] == -2000)


def test_of_two_faces_the_larger_is_in_front(model_dir, portrait):
    [face] = FaceDetector().detect(portrait)
    centre = face.landmarks.mean(0)
    aside = np.array([25, 0])
    box = np.array([*(centre - 9), *(centre + 9)])
    small = Face(box, face.landmarks + aside, 1.0)
    large = replace(face, landmarks=face.landmarks - aside)
    swapper = FaceSwapper(model_dir, ConvertSettings(color="none"))
    seen = []

    def by_order(faces):
        seen.append(faces)
        return np.stack([np.full((64, 64, 3), 50 + 100 * i) for i in range(2)])

    swapper._generator = Fake(1, by_order)
    for faces in ([small, large], [large, small]):
        [(picture, layers)] = swapper.swap([portrait], [faces])
        assert len(layers) == 2
        column, row = centre.round().astype(int)
        np.testing.assert_allclose(picture[row, column], 150, atol=2)
    np.testing.assert_array_equal(*seen)


# Kinds of output


def test_without_loss_nothing_but_the_face_changes(model_dir, clip, tmp_path):
    settings = ConvertSettings(lossless=True, color="none")
    result = convert_video(clip, tmp_path / "swap.mkv", model_dir, settings)
    swapper = FaceSwapper(model_dir, settings)
    for frame, swapped in zip(
        read_frames(clip), frames_of(tmp_path / "swap.mkv"), strict=True
    ):
        faces = result.faces.faces(frame.index)
        [(picture, layers)] = swapper.swap([frame.image], [faces])
        np.testing.assert_array_equal(swapped, picture)
        outside = np.ones(swapped.shape[:2], bool)
        for layer in layers:
            outside[layer.rows, layer.columns] &= layer.alpha[..., 0] == 0
        np.testing.assert_array_equal(swapped[outside], frame.image[outside])


@pytest.mark.parametrize("name", ["swap.webm", "swap.mov"])
def test_other_kinds_of_video_hold_the_same(model_dir, clip, tmp_path, name):
    result = convert_video(clip, tmp_path / name, model_dir, end=0.2)
    assert result.frames == len(frames_of(tmp_path / name)) == 5
    assert "compositeWithTrainedAlgorithmicMedia" in str(read_marks(tmp_path / name))


def test_a_sequence_of_pictures_goes_in_and_out(model_dir, clip, tmp_path):
    for index, image in enumerate(frames_of(clip)):
        write_image(tmp_path / "in" / f"{index}.png", image)
    settings = ConvertSettings(color="none")
    result = convert_video(tmp_path / "in", tmp_path / "out", model_dir, settings)
    assert (result.frames, result.frames_with_face) == (FRAMES, FRAMES - 1)
    pictures = list_images(tmp_path / "out")
    assert [path.name for path in pictures][:2] == ["000000.png", "000001.png"]
    assert len(pictures) == FRAMES
    assert "compositeWithTrainedAlgorithmicMedia" in str(read_marks(pictures[0]))
    source, swapped = frames_of(clip)[0], read_image(pictures[0])
    np.testing.assert_array_equal(swapped[:, :60], source[:, :60])
    np.testing.assert_allclose(swapped[123, 226 - 50], 127.5, atol=1)


def test_layers_for_compositing_lie_beside_the_video(model_dir, clip, tmp_path):
    settings = ConvertSettings(layers=True, lossless=True)
    result = convert_video(clip, tmp_path / "swap.mkv", model_dir, settings)
    folder = tmp_path / "swap.layers"
    assert len(list((folder / "face").iterdir())) == FRAMES
    swapped, source = frames_of(result.path)[0], frames_of(clip)[0]
    with Image.open(folder / "face" / "000000.png") as image:
        rgba = np.asarray(image).astype(float)
    alpha = rgba[..., 3:] / 255
    again = alpha * rgba[..., :3] + (1 - alpha) * source
    # Half a level each: face, result, and alpha for the widest difference.
    assert np.abs(again - swapped).max() <= 1.5
    mask = read_image(folder / "mask" / "000000.png")[..., 0]
    np.testing.assert_array_equal(mask, rgba[..., 3])
    assert not read_image(folder / "mask" / "000005.png").any()  # the noise
    described = json.loads((folder / "matrices.json").read_text())
    assert len(described["frames"]) == FRAMES
    [face] = described["frames"][0]["faces"]
    [known] = result.faces.faces(0)
    expected = crop_matrix(known.landmarks, 64, 0.8)
    np.testing.assert_allclose(face["matrix"], expected, atol=1e-6)


def test_the_label_is_in_the_picture_of_swapped_frames_alone(model_dir, clip):
    frames = [frames_of(clip)[index] for index in (4, 5)]
    settings = ConvertSettings(label=True, color="none")
    pictures = [FaceSwapper(model_dir, settings)(frame) for frame in frames]
    pairs = zip(pictures, frames, strict=True)
    corners = [(picture != frame)[-60:].any() for picture, frame in pairs]
    assert corners == [True, False]


# Marks


def test_marks_are_turned_off_by_name_and_the_log_says_so(
    model_dir, clip, tmp_path, caplog
):
    settings = ConvertSettings(mark=False)
    convert_video(clip, tmp_path / "swap.mp4", model_dir, settings, end=0.2)
    assert read_marks(tmp_path / "swap.mp4") == {}
    assert "marks are off" in caplog.text


def test_a_video_without_faces_is_copied_and_not_marked(model_dir, tmp_path, caplog):
    gray = np.random.default_rng(0).integers(90, 110, (64, 64, 3), np.uint8)
    with VideoWriter(tmp_path / "plain.mp4", 64, 64, 25) as writer:
        for _ in range(6):
            writer.write(gray)
    source, out = tmp_path / "plain.mp4", tmp_path / "swap.mp4"
    result = convert_video(source, out, model_dir)
    assert (result.frames, result.frames_with_face) == (6, 0)
    assert out.read_bytes() == source.read_bytes()
    assert "no face found to swap in" in caplog.text
    # Another kind of file, or a part of it, cannot be a copy.
    again = convert_video(source, tmp_path / "swap.mkv", model_dir, start=0.08)
    assert again.frames == len(frames_of(again.path)) == 4
    assert read_marks(again.path) == {}


# Going on


def test_a_killed_conversion_goes_on_and_is_the_same(
    model_dir, clip, tmp_path, monkeypatch
):
    """Killed in the second pass, with some parts finished; ended in this process."""
    code = """if True:
        import os, signal, sys, time
        import fsgan.swap.render
        from fsgan.swap.swapper import FaceSwapper
        fsgan.swap.render.PART_FRAMES = fsgan.swap.render.CHUNK_FRAMES = 2
        compose, calls = FaceSwapper._compose, 0
        def killed_at_the_fifth(self, work):
            global calls
            calls += 1
            if calls == 5:
                time.sleep(0.3)  # what is composed may be written
                os.kill(os.getpid(), signal.SIGKILL)
            return compose(self, work)
        FaceSwapper._compose = killed_at_the_fifth
        settings = fsgan.ConvertSettings(engine="float32")
        fsgan.convert_video(*sys.argv[1:], settings)
    """
    out = tmp_path / "killed" / "swap.mp4"
    command = [sys.executable, "-c", code, str(clip), str(out), str(model_dir)]
    assert subprocess.run(command, check=False).returncode == -9
    assert not out.exists()
    assert len(list((out.parent / ".swap.mp4.parts").glob("*.npz"))) >= 2
    monkeypatch.setattr("fsgan.swap.render.PART_FRAMES", 2)
    monkeypatch.setattr("fsgan.swap.render.CHUNK_FRAMES", 2)
    swapper = FaceSwapper(model_dir, ConvertSettings(engine="float32"))
    composed, compose = [], swapper._compose
    monkeypatch.setattr(
        swapper, "_compose", lambda work: composed.append(work) or compose(work)
    )
    resumed = convert_video(clip, out, swapper)
    assert 1 <= len(composed) <= 4  # of 6 chunks
    whole = convert_video(clip, tmp_path / "whole" / "swap.mp4", swapper)
    assert (resumed.frames, resumed.frames_with_face) == (12, 11)
    for one, other in zip(
        read_frames(resumed.path), read_frames(whole.path), strict=True
    ):
        assert one.time == other.time
        np.testing.assert_array_equal(one.image, other.image)
    names = [
        sorted(path.name for path in result.path.parent.iterdir())
        for result in (resumed, whole)
    ]
    assert names[0] == names[1]


def test_a_damaged_frame_is_left_as_it_is_and_counted(
    model_dir, clip, tmp_path, monkeypatch
):
    def one_damaged(*arguments):
        for frame in read_frames(*arguments):
            yield replace(frame, damaged=frame.index == 3)

    monkeypatch.setattr("fsgan.swap.render.read_frames", one_damaged)
    settings = ConvertSettings(lossless=True)
    result = convert_video(clip, tmp_path / "swap.mkv", model_dir, settings)
    assert (result.frames_damaged, result.frames_with_face) == (1, FRAMES - 2)
    assert "1 damaged" in str(result)
    source, swapped = frames_of(clip), frames_of(result.path)
    np.testing.assert_array_equal(swapped[3], source[3])
    assert (swapped[4] != source[4]).any()


def test_a_full_disk_is_said_and_leaves_no_half_file(
    model_dir, clip, tmp_path, monkeypatch
):
    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ResumableWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        convert_video(clip, tmp_path / "swap.mp4", model_dir)
    assert not (tmp_path / "swap.mp4").exists()


@pytest.mark.parametrize("convert", [convert_image, convert_video])
def test_what_is_there_is_kept_unless_asked(convert, model_dir, clip, tmp_path):
    suffix = ".mp4" if convert is convert_video else ".png"
    source = clip
    if convert is convert_image:
        source = tmp_path / "photo.png"
        write_image(source, astronaut())
    out = tmp_path / f"swap{suffix}"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert(source, out, model_dir)
    assert out.read_text() == "mine"
    convert(source, out, model_dir, overwrite=True)
    assert out.stat().st_size > 4


def test_a_loaded_swapper_serves_again(model_dir, clip, tmp_path):
    swapper = FaceSwapper(model_dir, ConvertSettings(color="adain"))
    first, second = (
        convert_video(clip, tmp_path / name, swapper) for name in ("1.mp4", "2.mp4")
    )
    for a, b in zip(frames_of(first.path), frames_of(second.path), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="settings are the swapper's own"):
        convert_video(clip, tmp_path / "3.mp4", swapper, ConvertSettings())


def test_of_a_photo_of_two_the_person_asked_for_is_swapped(
    model_dir, two_people, tmp_path
):
    both = frames_of(two_people[0])[0]
    write_image(tmp_path / "both.png", both)
    extract_faces(two_people[1], tmp_path / "faces", every=3)
    faces = convert_image(
        tmp_path / "both.png",
        tmp_path / "swap.png",
        model_dir,
        only=tmp_path / "faces",
    )
    changed = (read_image(tmp_path / "swap.png") != both).any(axis=-1)
    assert faces == 1
    assert not changed[:, :320].any()
    assert changed[:, 320:].any()
