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
from skimage.data import astronaut, camera

from fsgan import (
    ConvertSettings,
    FaceSwapper,
    convert_image,
    convert_images,
    convert_video,
    convert_videos,
    follow_faces,
    make_sample_clips,
)
from fsgan.faces import tracks
from fsgan.faces.detector import FaceDetector
from fsgan.faces.geometry import crop_matrix
from fsgan.faces.identity import Identity
from fsgan.media.images import list_images, read_image, write_image
from fsgan.media.provenance import read_marks, says_synthetic
from fsgan.media.reader import probe, read_frames
from fsgan.media.writer import ResumableWriter, VideoWriter
from fsgan.swap import render

pytestmark = pytest.mark.usefixtures("shared_generators")
FRAMES, NOISE = 12, 5  # frames of the clip; the one without a face


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Eileen Collins moving to the right, one frame of noise among the others."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    portrait = astronaut()[:300, 50:450]
    noise = np.random.default_rng(0).integers(0, 255, portrait.shape, np.uint8)
    with VideoWriter(path, 400, 300, Fraction(25)) as writer:
        for index in range(FRAMES):
            moved = np.roll(portrait, 2 * index, axis=1)
            writer.write(noise if index == NOISE else moved)
    return path


@pytest.fixture(scope="module")
def swap(gray_model, clip, tmp_path_factory, shared_generators):
    """The clip converted."""
    out = tmp_path_factory.mktemp("swap") / "swap.mp4"
    return convert_video(clip, out, gray_model)


@pytest.fixture(scope="module")
def two_people(tmp_path_factory):
    """Hopper on the left and Collins on the right."""
    folder = tmp_path_factory.mktemp("two")
    clips = make_sample_clips(folder, seconds=0.2, size=(320, 180))
    with VideoWriter(folder / "two.mp4", 640, 180, Fraction(25)) as writer:
        for pair in zip(*map(frames_of, clips), strict=True):
            writer.write(np.hstack(pair))
    return folder / "two.mp4"


def frames_of(path):
    return [frame.image for frame in read_frames(path)]


def changed_halves(source, swapped):
    """How much the left and the right half of the frames have changed at most."""
    pairs = zip(frames_of(source), frames_of(swapped), strict=True)
    difference = [np.abs(a.astype(float) - b).mean(-1) for a, b in pairs]
    blocks = np.array(difference).reshape(len(difference), 9, 20, 32, 20).mean((2, 4))
    return blocks[..., :16].max(), blocks[..., 16:].max()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_importing_the_stage_brings_neither_training_nor_keras():
    code = "import sys, fsgan.swap.convert; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "fsgan.swap.swapper" in loaded
    assert not {"fsgan.training", "keras", "tensorflow", "jax"} & set(loaded)


# --- a video ---


def test_a_video_keeps_its_frames_and_is_marked(clip, swap):
    assert (swap.frames, swap.frames_with_face) == (FRAMES, FRAMES - 1)
    assert swap.frames_damaged == 0
    source, swapped = frames_of(clip), frames_of(swap.path)
    assert len(swapped) == FRAMES
    assert probe(swap.path).fps == 25
    assert says_synthetic(read_marks(swap.path))
    # Encoding noise alone where nothing is swapped.
    difference = np.abs(source[0].astype(float) - swapped[0])
    assert difference[:, :60].mean() < 3
    assert difference[60:180, 130:220].mean() > 10
    assert names_in(swap.path.parent) == [
        "swap.mp4",
        "swap.mp4.synthetic.json",
        "swap.tracks.json",
        "swap.tracks.png",
    ]


def test_in_a_notebook_it_is_a_line_and_the_contact_sheet(swap):
    assert str(swap).startswith("face in 11 of 12 frames, ")
    assert repr(swap) == f"ConvertedVideo({swap.path}: {swap})"
    assert str(swap) in swap._repr_html_()
    assert "<img" in swap._repr_html_()


def test_only_the_seconds_asked_for_are_converted_and_marked_unless_asked(
    gray_model, clip, tmp_path, caplog
):
    out, settings = tmp_path / "part.webm", ConvertSettings(mark=False)
    result = convert_video(clip, out, gray_model, settings, start=0.08, end=0.2)
    assert result.frames == len(frames_of(out)) == 3
    source = frames_of(clip)[2].astype(float)
    assert np.abs(frames_of(out)[0] - source)[:, :60].mean() < 3
    assert read_marks(out) == {}
    assert "marks are off" in caplog.text


@pytest.mark.parametrize(
    ("name", "stretch", "message"),
    [
        ("no.mp4", {"start": 0.3, "end": 0.3}, "start must be in"),
        ("no.mp4", {"start": 60}, "frame"),
        ("no.gif", {}, r"\.gif"),
        ("no/%05d.png", {}, r"\.png"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    gray_model, clip, tmp_path, name, stretch, message
):
    with pytest.raises(ValueError, match=message):
        convert_video(clip, tmp_path / name, gray_model, **stretch)
    assert names_in(tmp_path) == []


def test_a_loaded_swapper_serves_again(clip, gray_model, swap, tmp_path):
    swapper = FaceSwapper(gray_model, ConvertSettings())
    for name in ("1.mp4", "2.mp4"):
        again = convert_video(clip, tmp_path / name, swapper)
        for a, b in zip(frames_of(again.path), frames_of(swap.path), strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="settings are the swapper's own"):
        convert_video(clip, tmp_path / "3.mp4", swapper, ConvertSettings(sharpen=1))


def test_a_model_of_one_person_is_named_as_such(clip, tmp_path):
    from fsgan.models.checkpoint import save_checkpoint
    from fsgan.models.networks import ModelConfig, build_networks

    model = ModelConfig(
        64, "lite", attention=False, discriminators=False, people=1, latent=64
    )
    settings = {"model": model, "iteration": 0}
    save_checkpoint(tmp_path, build_networks(model), {}, settings)
    with pytest.raises(ValueError, match="knows one person"):
        convert_video(clip, tmp_path / "swap.mp4", tmp_path)


# --- the first pass ---


@pytest.fixture
def reads(monkeypatch):
    """How often a video is decoded; frame 3 is damaged."""
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        for frame in read_frames(*arguments, **options):
            yield replace(frame, damaged=frame.index == 3)

    for module in (tracks, render):
        monkeypatch.setattr(module, "read_frames", counted)
    return calls


def test_a_video_is_decoded_twice_and_after_a_first_pass_once(
    gray_model, clip, tmp_path, reads, monkeypatch
):
    monkeypatch.setattr(Identity, "choose", lambda self, of, spans: [True] * len(of))
    person = Identity(np.zeros((1, 128), np.float32))
    settings = ConvertSettings(lossless=True)
    out = tmp_path / "swap.mkv"
    for expected in (2, 1):
        reads.clear()
        result = convert_video(
            clip, out, gray_model, settings, only=person, overwrite=True
        )
        assert len(reads) == expected
    assert result.swapped
    # A damaged frame is left as it is and counted.
    assert (result.frames_damaged, result.frames_with_face) == (1, FRAMES - 2)
    assert "1 damaged" in str(result)
    source, swapped = frames_of(clip), frames_of(out)
    np.testing.assert_array_equal(swapped[3], source[3])
    assert (swapped[4] != source[4]).any()


def test_a_longer_first_pass_does_not_mark_a_stretch_without_faces(
    gray_model, clip, tmp_path, caplog
):
    faces, out = tmp_path / "faces", tmp_path / "swap.mp4"
    assert len(follow_faces(clip, faces)) == 2
    result = convert_video(  # the frame of noise alone
        clip, out, gray_model, faces=faces, start=0.2, end=0.24
    )
    assert (result.frames, result.frames_with_face, result.swapped) == (1, 0, ())
    assert read_marks(out) == {}
    assert "no face found to swap in" in caplog.text
    assert not (tmp_path / "swap.mp4.synthetic.json").exists()


def test_a_stretch_of_damaged_frames_is_not_marked(gray_model, clip, tmp_path, reads):
    out = tmp_path / "swap.mp4"
    result = convert_video(clip, out, gray_model, start=0.12, end=0.16)  # frame 3
    assert (result.frames, result.frames_damaged, result.swapped) == (1, 1, ())
    assert read_marks(out) == {}


def test_a_head_is_not_swapped_while_it_is_in_profile(gray_model, turning, tmp_path):
    """Once an upright patch lay beside the face."""
    degrees, source = [0, 20, 40, 60, 80, 80, 60, 40, 20, 0], tmp_path / "turn.mkv"
    with VideoWriter(source, 340, 300, Fraction(25), lossless=True) as writer:
        for it in degrees:
            for _ in range(3):
                writer.write(turning[it])
    settings, out = ConvertSettings(lossless=True), tmp_path / "swap.mkv"
    result = convert_video(source, out, gray_model, settings)
    pairs = zip(frames_of(source), frames_of(out), strict=True)
    swapped = [bool((before != after).any()) for before, after in pairs]
    assert swapped[:9] == swapped[-9:] == [True] * 9
    assert swapped[12:18] == [False] * 6
    assert result.frames_with_face == sum(swapped)
    assert result.frames_in_profile == swapped.count(False)
    assert f", {result.frames_in_profile} in profile, " in str(result)
    away = {"start": 0.48, "end": 0.6, "faces": out}  # 80 degrees
    part = convert_video(source, tmp_path / "away.mkv", gray_model, settings, **away)
    assert (part.swapped, part.frames_in_profile) == ((), 3)
    assert read_marks(part.path) == {}


def test_a_photo_in_profile_is_left_as_it_is(gray_model, turning, tmp_path, caplog):
    photo, out = tmp_path / "photo.png", tmp_path / "swap.png"
    write_image(photo, turning[80])
    assert convert_image(photo, out, gray_model) == 0
    np.testing.assert_array_equal(read_image(out), turning[80])
    assert "photo.png: faces in profile are left as they are: 1" in caplog.text
    [swapped] = FaceSwapper(gray_model).swap([turning[80]])  # as of a camera
    assert swapped.layers == []


def test_an_interrupted_conversion_leaves_no_half_video(
    gray_model, clip, tmp_path, monkeypatch
):
    def interrupt(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(FaceSwapper, "_compose", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert_video(clip, tmp_path / "half.mp4", gray_model)
    # The first pass is whole: the next conversion goes on from there.
    assert names_in(tmp_path) == ["half.tracks.json", "half.tracks.png"]
    monkeypatch.undo()
    monkeypatch.setattr(FaceDetector, "detect_next", interrupt)
    settings = ConvertSettings(smoothing=0.3)
    result = convert_video(clip, tmp_path / "half.mp4", gray_model, settings)
    assert result.frames_with_face == FRAMES - 1


# --- one of two people ---


@pytest.mark.parametrize("only", [None, [0, 1], 0, 1])
def test_tracks_are_chosen_by_their_numbers(gray_model, two_people, tmp_path, only):
    result = convert_video(two_people, tmp_path / "s.mp4", gray_model, only=only)
    wanted = {0, 1} if only in (None, [0, 1]) else {only}
    assert set(result.swapped) == wanted
    changed = changed_halves(two_people, result.path)
    for track in (0, 1):
        [face] = result.faces.faces(0, {track})
        change = changed[int(face.box[0] // 320)]
        assert change > 25 if track in wanted else change < 8  # encoding alone


def test_a_person_is_chosen_by_a_photo(gray_model, two_people, tmp_path):
    frame = frames_of(two_people)[0]
    reference, both = tmp_path / "collins.png", tmp_path / "both.png"
    write_image(reference, frame[:, 320:])
    write_image(both, frame)
    result = convert_video(
        two_people, tmp_path / "swap.mp4", gray_model, only=reference
    )
    left, right = changed_halves(two_people, result.path)
    assert len(result.swapped) == 1
    assert left < 8 < 25 < right
    out = tmp_path / "swap.png"
    assert convert_image(both, out, gray_model, only=reference) == 1
    changed = (read_image(out) != frame).any(axis=-1)
    assert not changed[:, :320].any()
    assert changed[:, 320:].any()


def test_tracks_and_references_that_are_missing_are_named(
    gray_model, two_people, tmp_path
):
    out = tmp_path / "swap.mp4"
    with pytest.raises(FileNotFoundError, match=r"nobody\.jpg"):
        convert_video(two_people, out, gray_model, only=tmp_path / "nobody.jpg")
    assert names_in(tmp_path) == []  # it was not searched
    with pytest.raises(ValueError, match=r"there is no 7 among \[0, 1\]"):
        convert_video(two_people, out, gray_model, only=[0, 7])
    assert not out.exists()


# --- kinds of output ---


def test_lossless_with_layers_nothing_but_the_face_changes(gray_model, clip, tmp_path):
    settings = ConvertSettings(layers=True, lossless=True)
    result = convert_video(clip, tmp_path / "swap.mkv", gray_model, settings)
    folder = tmp_path / "swap.layers"
    pairs = zip(frames_of(clip), frames_of(result.path), strict=True)
    for index, (source, swapped) in enumerate(pairs):
        with Image.open(folder / "face" / f"{index:06d}.png") as image:
            rgba = np.asarray(image).astype(float)
        alpha = rgba[..., 3:] / 255
        again = alpha * rgba[..., :3] + (1 - alpha) * source
        # Half a level each: face, result, and alpha for the widest difference.
        assert np.abs(again - swapped).max() <= 1.5
        assert alpha.any() == (index != NOISE)
        near = cv2.dilate((alpha > 0).astype(np.uint8), np.ones((5, 5))) > 0
        np.testing.assert_array_equal(swapped[~near], source[~near])
    mask = read_image(folder / "mask" / f"{FRAMES - 1:06d}.png")[..., 0]
    np.testing.assert_array_equal(mask, rgba[..., 3])
    described = json.loads((folder / "matrices.json").read_text())
    assert len(described["frames"]) == FRAMES
    [face] = described["frames"][0]["faces"]
    [known] = result.faces.faces(0)
    expected = crop_matrix(known.landmarks, 64, 0.8)
    np.testing.assert_allclose(face["matrix"], expected, atol=1e-6)


def test_a_folder_of_pictures_goes_in_and_out(gray_model, clip, tmp_path):
    for index, image in enumerate(frames_of(clip)[:3]):
        write_image(tmp_path / "in" / f"{index}.png", image)
    settings = ConvertSettings(color="none")
    result = convert_video(tmp_path / "in", tmp_path / "out", gray_model, settings)
    assert (result.frames, result.frames_with_face) == (3, 3)
    pictures = list_images(tmp_path / "out")
    assert [p.name for p in pictures] == ["000000.png", "000001.png", "000002.png"]
    assert says_synthetic(read_marks(pictures[0]))
    source, swapped = frames_of(clip)[0], read_image(pictures[0])
    np.testing.assert_array_equal(swapped[:, :60], source[:, :60])
    np.testing.assert_allclose(swapped[123, 226 - 50], 127.5, atol=1)


# --- marks ---


def test_a_video_without_faces_is_copied_and_not_marked(gray_model, tmp_path, caplog):
    gray = np.random.default_rng(0).integers(90, 110, (64, 64, 3), np.uint8)
    source, out = tmp_path / "plain.mp4", tmp_path / "swap.mp4"
    with VideoWriter(source, 64, 64, 25) as writer:
        for _ in range(6):
            writer.write(gray)
    result = convert_video(source, out, gray_model)
    assert (result.frames, result.frames_with_face) == (6, 0)
    assert out.read_bytes() == source.read_bytes()
    assert "no face found to swap in" in caplog.text
    assert "<img" not in result._repr_html_()
    # Another kind of file, or a part of it, cannot be a copy.
    again = convert_video(source, tmp_path / "swap.mkv", gray_model, start=0.08)
    assert again.frames == len(frames_of(again.path)) == 4
    assert read_marks(again.path) == {}


# --- going on ---

KILLED_AT_THE_FIFTH_CHUNK = """
import os, signal, sys, time
import fsgan
from fsgan.swap import render
from fsgan.swap.swapper import FaceSwapper
render.PART_FRAMES = 2
compose, calls = FaceSwapper._compose, 0
def killed_at_the_fifth(self, chunk):
    global calls
    calls += 1
    if calls == 5:
        time.sleep(0.5)  # what is composed may be written
        os.kill(os.getpid(), signal.SIGKILL)
    return compose(self, chunk)
FaceSwapper._compose = killed_at_the_fifth
source, out, model = sys.argv[1:]
swapper = FaceSwapper(model, fsgan.ConvertSettings(engine="float32"))
swapper.batch_size = 2
fsgan.convert_video(source, out, swapper)
"""


@pytest.mark.slow
def test_a_killed_conversion_goes_on_and_is_the_same(
    gray_model, clip, tmp_path, monkeypatch
):
    out = tmp_path / "killed" / "swap.mp4"
    arguments = ["-c", KILLED_AT_THE_FIFTH_CHUNK, str(clip), str(out), str(gray_model)]
    assert subprocess.run([sys.executable, *arguments], check=False).returncode == -9
    assert not out.exists()
    monkeypatch.setattr(render, "PART_FRAMES", 2)
    swapper = FaceSwapper(gray_model, ConvertSettings(engine="float32"))
    swapper.batch_size = 2
    composed, compose = [], swapper._compose
    monkeypatch.setattr(
        swapper, "_compose", lambda chunk: composed.append(chunk) or compose(chunk)
    )
    resumed = convert_video(clip, out, swapper)
    assert 1 <= len(composed) <= 4  # of 6 chunks
    whole = convert_video(clip, tmp_path / "whole" / "swap.mp4", swapper)
    assert (resumed.frames, resumed.frames_with_face) == (FRAMES, FRAMES - 1)
    pairs = zip(read_frames(resumed.path), read_frames(whole.path), strict=True)
    for one, other in pairs:
        assert one.time == other.time
        np.testing.assert_array_equal(one.image, other.image)
    assert names_in(resumed.path.parent) == names_in(whole.path.parent)


def test_a_full_disk_is_named_and_leaves_no_half_file(
    gray_model, clip, tmp_path, monkeypatch
):
    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ResumableWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        convert_video(clip, tmp_path / "swap.mp4", gray_model, end=0.1)
    assert not (tmp_path / "swap.mp4").exists()


@pytest.mark.parametrize("convert", [convert_image, convert_video])
def test_what_is_there_is_kept_unless_asked(convert, gray_model, clip, tmp_path):
    source, out = clip, tmp_path / "swap.mp4"
    if convert is convert_image:
        source, out = tmp_path / "photo.png", tmp_path / "swap.png"
        write_image(source, astronaut())
    out.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert(source, out, gray_model)
    assert out.read_text() == "mine"
    with pytest.raises(ValueError, match="is the source itself"):
        convert(source, source.parent / "." / source.name, gray_model)
    convert(source, out, gray_model, overwrite=True)
    assert out.stat().st_size > 4


# --- photos, and many files ---


def test_a_photo_is_swapped_and_marked_or_left_as_it_is(gray_model, tmp_path, caplog):
    photo, out = tmp_path / "photo.png", tmp_path / "swap.png"
    plain = np.full((80, 80, 3), 90, np.uint8)
    for image, count in ((astronaut(), 1), (plain, 0)):
        write_image(photo, image)
        assert convert_image(photo, out, gray_model, overwrite=True) == count
        assert says_synthetic(read_marks(out)) == bool(count)
        assert np.array_equal(read_image(out), image) == (not count)
    assert "no face found" in caplog.text
    with pytest.raises(ValueError, match=r"must end in \.png.*got .*swap\.bmp"):
        convert_image(photo, tmp_path / "swap.bmp", tmp_path)


def test_a_layout_too_wide_for_the_kind_of_picture_is_refused_before_the_work(
    gray_model, tmp_path, monkeypatch
):
    monkeypatch.setattr(FaceSwapper, "swap", None)
    write_image(tmp_path / "wide.png", np.zeros((2, 8192, 3), np.uint8))
    out, settings = tmp_path / "out.webp", ConvertSettings(layout=3)
    with pytest.raises(ValueError, match=r"out\.webp cannot hold 24576x2 pixels") as e:
        convert_image(tmp_path / "wide.png", out, gray_model, settings)
    assert ".unfinished" not in str(e.value)
    assert not out.exists()


def test_photos_are_swapped_each_for_itself(gray_model, tmp_path):
    folder = tmp_path / "photos"
    write_image(folder / "collins.jpg", astronaut())
    write_image(folder / "gray.webp", np.full((50, 60, 3), 99, np.uint8))
    Image.fromarray(camera()).save(folder / "man.tif")  # a kind that is not written
    (folder / "empty.png").touch()
    files = convert_images(folder, tmp_path / "out", gray_model)
    counts = {path.name: count for path, count in files.done.items()}
    assert counts["collins.jpg"] == 1
    assert counts["gray.webp"] == 0
    assert names_in(tmp_path / "out")[0] == "collins.jpg"
    assert read_image(tmp_path / "out" / "man.png").shape == (512, 512, 3)
    [why] = files.failed.values()
    assert "is empty" in why
    lines = str(files).splitlines()
    assert lines[0] == "collins.jpg  faces: 1"
    assert lines[-1] == f"empty.png    FAILED: {why}"


def test_a_video_that_fails_does_not_stop_the_others(
    gray_model, clip, tmp_path, caplog, monkeypatch
):
    folder, loaded = tmp_path / "videos", []
    for name in ("one.mp4", "two.mov"):
        with VideoWriter(folder / name, 340, 300, 25) as writer:
            for index in range(3):
                writer.write(np.roll(astronaut()[:300, 60:400], index, axis=1))
    (folder / "broken.mp4").write_text("no video")
    (folder / "notes.txt").write_text("no video either")
    still = Image.new("RGB", (64, 48))
    still.save(folder / "still.webp")
    waves = [Image.new("RGB", (64, 48), "red")]
    still.save(folder / "wave.webp", save_all=True, append_images=waves)
    load = FaceSwapper.__init__
    monkeypatch.setattr(
        FaceSwapper, "__init__", lambda *a: (loaded.append(a), load(*a))[1]
    )
    out = tmp_path / "out"
    convert_videos([folder / "one.mp4"], out, gray_model)
    files = convert_videos(folder, out, gray_model)
    assert len(loaded) == 2
    assert [path.name for path in files.done] == ["two.mov", "wave.webp"]
    assert probe(out / "two.mp4").frame_count == 3
    assert "exists already" in files.failed[folder / "one.mp4"]
    assert "broken.mp4" in files.failed[folder / "broken.mp4"]
    assert "broken.mp4 failed" in caplog.text
    table = repr(files).splitlines()
    assert table[0].startswith("two.mov     face in 3 of 3 frames")
    assert table[2].startswith("broken.mp4  FAILED: ")


def test_lists_of_files_that_cannot_be_are_refused_before_the_work(
    gray_model, tmp_path
):
    names = [tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.mov"]
    with pytest.raises(ValueError, match="would both be written to"):
        convert_videos(names, tmp_path / "out", gray_model)
    with pytest.raises(FileNotFoundError, match="holds no videos"):
        convert_videos(tmp_path, tmp_path / "out", gray_model)
    with pytest.raises(FileNotFoundError, match="is not a folder of videos"):
        convert_videos(tmp_path / "nowhere", tmp_path / "out", gray_model)


@pytest.mark.parametrize("convert", [convert_image, convert_video])
def test_no_output_has_its_name_before_its_sidecar(
    convert, gray_model, clip, tmp_path, monkeypatch
):
    source, out = clip, tmp_path / "swap.mp4"
    if convert is convert_image:
        source, out = tmp_path / "photo.png", tmp_path / "swap.png"
        write_image(source, astronaut())

    def die(path, source, settings, content, again):
        assert (path, content.exists(), out.exists()) == (out, True, False)
        raise KeyboardInterrupt

    monkeypatch.setattr("fsgan.swap.convert.write_sidecar", die)
    with pytest.raises(KeyboardInterrupt):
        convert(source, out, gray_model)
    assert not out.exists()
