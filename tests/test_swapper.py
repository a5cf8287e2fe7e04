import math
from dataclasses import replace

import numpy as np
import pytest
from skimage.data import astronaut

from fsgan import ConvertSettings, FaceSwapper
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import Face
from fsgan.swap.compositing import BLEND_METHODS

pytestmark = pytest.mark.usefixtures("shared_generators")
PLAIN = ConvertSettings(color="none")
NOSE = (123, 226)  # row and column in the photo of the astronaut


class FakeGenerator:
    """In the place of the generator: any function of the crops."""

    resolution, coverage = 64, 0.8

    def __init__(self, alpha, function):
        self.alpha, self.function = alpha, function

    def __call__(self, faces):
        alphas = np.full((*faces.shape[:3], 1), self.alpha, np.float32)
        return alphas, self.function(faces.astype(np.float32))


@pytest.fixture
def shots():
    """Five frames of a face that moves to the right."""
    return [np.roll(astronaut()[:300, 50:450], 2 * i, axis=1) for i in range(5)]


@pytest.fixture(scope="module")
def face(portrait):
    [face] = FaceDetector().detect(portrait)
    return face


def outside(layer, shape):
    """Pixels of a frame that a layer leaves as they are."""
    untouched = np.ones(shape[:2], bool)
    untouched[layer.rows, layer.columns] = layer.alpha[..., 0] == 0
    return untouched


def test_a_frame_without_a_face_is_left_as_it_is(gray_model):
    frame = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
    [swapped] = FaceSwapper(gray_model).swap([frame])
    assert repr(swapped) == "Swapped(120x90 pixels, faces: 0)"
    np.testing.assert_array_equal(swapped.picture, frame)


@pytest.mark.parametrize("method", BLEND_METHODS)
def test_only_the_face_changes(gray_model, method):
    frame = astronaut()
    swapper = FaceSwapper(gray_model, replace(PLAIN, blend=method))
    [(picture, [layer])] = swapper.swap([frame])
    rows, columns = np.nonzero((picture != frame).any(axis=-1))
    # Eileen Collins' face as MTCNN boxes it, and no more than the crop around it.
    assert 55 < rows.min() < rows.max() < 185
    assert 165 < columns.min() < columns.max() < 285
    untouched = outside(layer, frame.shape)
    assert 0.9 < untouched.mean() < 0.99
    np.testing.assert_array_equal(picture[untouched], frame[untouched])
    if method == "alpha":  # the nose lies in the middle, where alpha is 1: plain gray
        np.testing.assert_allclose(picture[NOSE], 127.5, atol=1)


def test_a_generator_that_copies_gives_back_the_frame(gray_model):
    swapper = FaceSwapper(gray_model, PLAIN)
    swapper._generator = FakeGenerator(1, lambda faces: faces)
    frame = astronaut()
    difference = np.abs(swapper(frame).astype(float) - frame)[70:170, 180:270]
    assert 0 < difference.mean() < 4


def test_the_direction_chooses_the_decoder(gray_model):
    b, a = (
        FaceSwapper(gray_model, replace(PLAIN, direction=direction))(astronaut())
        for direction in ("AtoB", "BtoA")
    )
    # Only B's decoder is set to plain gray.
    assert np.ptp(b[115:130, 220:232].astype(int)) <= 1
    assert np.ptp(a[115:130, 220:232].astype(int)) > 5


@pytest.mark.parametrize(("min_alpha", "share"), [(0.0, 0.25), (0.75, 0.75)])
def test_a_weak_mask_can_be_raised(gray_model, min_alpha, share):
    swapper = FaceSwapper(gray_model, replace(PLAIN, min_alpha=min_alpha))
    swapper._generator = FakeGenerator(0.25, lambda faces: np.full_like(faces, 127.5))
    source = astronaut()[NOSE].astype(float)
    expected = source + share * (127.5 - source)
    np.testing.assert_allclose(swapper(astronaut())[NOSE], expected, atol=1)


def test_the_layout_is_that_of_the_settings(gray_model):
    frame = astronaut()
    picture = FaceSwapper(gray_model, ConvertSettings(layout=3))(frame)
    np.testing.assert_array_equal(picture[:, :512], frame)
    np.testing.assert_array_equal(picture[400:, 1024:], frame[400:] // 3)
    assert picture[NOSE[0], 1024 + NOSE[1]].min() > 250


def test_successive_frames_give_the_same_at_once_and_one_by_one(gray_model, shots):
    at_once = FaceSwapper(gray_model).swap(shots)
    swapper = FaceSwapper(gray_model)
    for frame, (picture, _) in zip(shots, at_once, strict=True):
        assert np.abs(swapper(frame).astype(int) - picture).max() <= 1


def test_a_new_video_is_not_smoothed_with_the_one_before(gray_model, shots):
    swapper = FaceSwapper(gray_model)
    first, *_, smoothed = (swapped.picture for swapped in swapper.swap(shots))
    swapper.reset()
    assert (swapper(shots[-1]) != smoothed).any()
    swapper.reset()
    np.testing.assert_array_equal(swapper(shots[0]), first)


def test_faces_that_are_known_are_not_searched(gray_model, face, portrait, monkeypatch):
    monkeypatch.setattr(FaceDetector, "detect_next", None)
    swapper = FaceSwapper(gray_model, PLAIN)
    (picture, [_]), (left, []) = swapper.swap([portrait] * 2, [[face], []])
    column, row = face.landmarks[2].round().astype(int)
    np.testing.assert_allclose(picture[row, column], 127.5, atol=1)
    np.testing.assert_array_equal(left, portrait)
    with pytest.raises(ValueError, match="a list for each of 2 frames, got 1"):
        swapper.swap([portrait] * 2, [[face]])


def test_a_given_picture_is_put_where_a_generated_one_would_be(
    gray_model, face, portrait
):
    swapper = FaceSwapper(gray_model, PLAIN)
    [(generated, [layer])] = swapper.swap([portrait], [[face]])
    gray, alpha = np.full((64, 64, 3), 127.5), np.ones((64, 64, 1), np.float32)
    given, [same] = swapper.paste(portrait, face, gray, alpha)
    assert np.abs(given.astype(int) - generated).max() <= 1
    np.testing.assert_allclose(same.alpha, layer.alpha, atol=0.01)
    np.testing.assert_array_equal(
        swapper.paste(portrait, face, gray, 0 * alpha).picture, portrait
    )


def test_the_label_is_in_the_picture_of_swapped_frames_alone(gray_model, shots):
    swapper = FaceSwapper(gray_model, ConvertSettings(label=True, color="none"))
    noise = np.random.default_rng(0).integers(0, 255, shots[0].shape, np.uint8)
    labelled = [(swapper(x) != x)[-60:].any() for x in (shots[0], noise)]
    assert labelled == [True, False]


@pytest.mark.parametrize("method", BLEND_METHODS)
@pytest.mark.parametrize("shift", [(-110, 0), (0, 110), (160, 160), (-2000, 0)])
def test_a_face_partly_or_wholly_outside_does_no_harm(
    gray_model, portrait, face, method, shift
):
    moved = replace(face, landmarks=face.landmarks + shift)
    swapper = FaceSwapper(gray_model, ConvertSettings(blend=method))
    [(picture, [layer])] = swapper.swap([portrait], [[moved]])
    untouched = outside(layer, portrait.shape)
    np.testing.assert_array_equal(picture[untouched], portrait[untouched])
    assert untouched.all() == (shift[0] == -2000)


def test_of_two_faces_the_larger_is_in_front(gray_model, portrait, face):
    centre = face.landmarks.mean(0)
    box = np.array([*(centre - 9), *(centre + 9)])
    aside = np.array([25, 0])
    small = Face(box, face.landmarks + aside, 1.0)
    large = replace(face, landmarks=face.landmarks - aside)
    swapper = FaceSwapper(gray_model, PLAIN)
    swapper._generator = FakeGenerator(
        1, lambda faces: np.stack([np.full((64, 64, 3), 50 + 100 * i) for i in (0, 1)])
    )
    column, row = centre.round().astype(int)
    for faces in ([small, large], [large, small]):
        [(picture, _)] = swapper.swap([portrait], [faces])
        np.testing.assert_allclose(picture[row, column], 150, atol=2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"direction": "BtoB"}, "direction must be 'AtoB' or 'BtoA', got"),
        ({"color": "yuv"}, "color must be .*'hist_match', got 'yuv'"),
        ({"blend": "add"}, "blend must be .*'poisson'.*, got 'add'"),
        ({"encoder": "card"}, "encoder must be 'software' or 'nvenc', got 'card'"),
        ({"engine": "steam"}, "engine must be .*'auto'.*, got 'steam'"),
        ({"color_smoothing": 1}, "color_smoothing must be less than 1, got 1"),
        ({"sharpen": -1}, "sharpen must be greater than or equal to 0, got -1"),
        ({"enhance": -1}, "enhance must be greater than or equal to 0, got -1"),
        ({"certificate": "me.pem"}, "certificate and private_key must be given"),
        ({"layout": True}, "layout must be a valid integer, got True"),
        ({"layout": 4}, "layout must be less than or equal to 3, got 4"),
        ({"min_alpha": 1.5}, "min_alpha must be less than or equal to 1, got 1.5"),
        ({"feather": 0}, "feather must be greater than 0, got 0"),
        ({"search_every": 0}, "search_every must be greater than or equal to 1, got 0"),
        ({"search_every": 1.5}, "search_every must be a valid integer, got 1.5"),
        ({"sharpen": math.inf}, "sharpen must be a finite number, got inf"),
        ({"enhance": math.inf}, "enhance must be a finite number, got inf"),
        ({"smoothing": math.inf}, "smoothing must be a finite number, got inf"),
        ({"min_face": math.inf}, "min_face must be a finite number, got inf"),
        *[
            ({name: 1}, f"{name} must be a valid boolean, got 1")
            for name in ("layers", "lossless", "mark", "label")
        ],
        ({"crf": 52}, "crf must be less than or equal to 51, got 52"),
        ({"min_face": 10}, "min_face must be greater than or equal to 20, got 10"),
        (
            {"min_confidence": 0.5},
            "min_confidence must be greater than or equal to 0.7",
        ),
        ({"smoothing": 0}, "smoothing must be greater than 0, got 0"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        ConvertSettings(**setting)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained model in"):
        FaceSwapper(tmp_path)
