from fractions import Fraction

import numpy as np
import pytest
from skimage.data import astronaut

from fsgan import ConvertSettings, FaceSwapper, convert_image, convert_video
from fsgan.checkpoint import save_checkpoint
from fsgan.detection import FaceDetector
from fsgan.extract import extract_faces
from fsgan.following import follow_faces
from fsgan.gan import FaceSwapGAN
from fsgan.images import read_image, write_image
from fsgan.models import ModelConfig
from fsgan.provenance import read_marks
from fsgan.sample import make_sample_clips
from fsgan.video import probe, read_frames
from fsgan.video_writer import VideoWriter

FRAMES = 12


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
    save_checkpoint(folder, gan, {"coverage": 0.8}, keep=1, backup=5000)
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
    [(picture, faces)] = FaceSwapper(model_dir).swap([frame])
    assert faces == 0
    np.testing.assert_array_equal(picture, frame)


def test_only_the_face_changes(model_dir):
    frame = astronaut()
    settings = ConvertSettings(color="none")
    [(picture, faces)] = FaceSwapper(model_dir, settings).swap([frame])
    assert faces == 1
    changed = (picture != frame).any(axis=-1)
    rows, columns = np.nonzero(changed)
    # Eileen Collins' face as MTCNN boxes it, and no more than the crop around it.
    assert 55 < rows.min() < rows.max() < 185
    assert 165 < columns.min() < columns.max() < 285
    # The nose lies in the middle, where alpha is 1: plain gray.
    np.testing.assert_allclose(picture[123, 226], 127.5, atol=1)


def test_a_generator_that_copies_gives_back_the_frame(model_dir):
    swapper = FaceSwapper(model_dir, ConvertSettings(color="none"))

    class Copy:
        def predict_on_batch(self, x):
            return np.ones((*x.shape[:3], 1), np.float32), x

    swapper._generator = Copy()
    frame = astronaut()
    [(picture, faces)] = swapper.swap([frame])
    assert faces == 1
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

        class Timid:
            def predict_on_batch(self, x):
                return np.full((*x.shape[:3], 1), 0.25, np.float32), np.zeros_like(x)

        swapper._generator = Timid()
        pictures[least] = swapper.swap([frame])[0][0][123, 226].astype(float)
    source = frame[123, 226].astype(float)
    for least, share in ((0.0, 0.25), (0.75, 0.75)):
        expected = source + share * (127.5 - source)
        np.testing.assert_allclose(pictures[least], expected, atol=1)


@pytest.mark.parametrize("layout", [1, 2, 3])
def test_layouts_stand_side_by_side(model_dir, layout):
    frame = astronaut()
    settings = ConvertSettings(layout=layout)
    [(picture, _)] = FaceSwapper(model_dir, settings).swap([frame])
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
        [(alone, _)] = swapper.swap([frame])
        assert np.abs(alone.astype(int) - picture).max() <= 1


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
    assert result.frames_per_second > 0
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
        ({"color": "lab"}, "color must be one of .*'hist_match'.*, got 'lab'"),
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

    monkeypatch.setattr(FaceSwapper, "swap", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_video(clip, tmp_path / "half.mp4", model_dir)
    # The first pass is whole: the next conversion goes on from there.
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["half.faces.json", "half.tracks.png"]
    monkeypatch.undo()
    monkeypatch.setattr(FaceDetector, "find", interrupt)
    result = convert_video(clip, tmp_path / "half.mp4", model_dir)
    assert result.frames_with_face == FRAMES - 1


def test_the_first_pass_can_be_made_before(model_dir, clip, tmp_path, monkeypatch):
    followed = follow_faces(clip, tmp_path / "faces")
    monkeypatch.setattr(FaceDetector, "find", None)
    settings = ConvertSettings(smoothing=0.3)
    result = convert_video(
        clip, tmp_path / "swap.mp4", model_dir, settings, faces=tmp_path / "faces"
    )
    assert result.frames_with_face == FRAMES - 1
    assert result.faces.tracks == followed.tracks


def test_an_output_that_cannot_be_is_refused_before_the_search(
    model_dir, clip, tmp_path
):
    with pytest.raises(ValueError, match=r"\.avi"):
        convert_video(clip, tmp_path / "swap.avi", model_dir)
    assert list(tmp_path.iterdir()) == []


def test_faces_that_are_known_are_not_searched(model_dir, monkeypatch):
    [face] = FaceDetector().detect(astronaut())
    monkeypatch.setattr(FaceDetector, "find", None)
    swapper = FaceSwapper(model_dir, ConvertSettings(color="none"))
    results = swapper.swap([astronaut()] * 2, [[face], []])
    assert [faces for _, faces in results] == [1, 0]
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
