import numpy as np
import pytest
from skimage.data import astronaut, camera

from fsgan import convert_images, convert_videos
from fsgan.media.images import read_image, write_image
from fsgan.media.reader import probe
from fsgan.media.writer import VideoWriter
from fsgan.models.checkpoint import save_checkpoint
from fsgan.models.networks import ModelConfig
from fsgan.swap.swapper import FaceSwapper
from fsgan.training.gan import FaceSwapGAN


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    gan = FaceSwapGAN(ModelConfig(64, "lite", attention=False))
    settings = {"model": gan.config, "iteration": 0}
    save_checkpoint(folder, gan.networks, {}, settings)
    return folder


@pytest.fixture
def videos(tmp_path):
    """Two videos of a face and two files that are none."""
    folder = tmp_path / "videos"
    for name in ("one.mp4", "two.mov"):
        with VideoWriter(folder / name, 340, 300, 25) as writer:
            for index in range(3):
                writer.write(np.roll(astronaut()[:300, 60:400], index, axis=1))
    (folder / "broken.mp4").write_text("no video")
    (folder / "notes.txt").write_text("no video either")
    return folder


def test_one_video_that_fails_does_not_stop_the_others(
    model_dir, videos, tmp_path, caplog, monkeypatch
):
    loaded = []
    load = FaceSwapper.__init__
    monkeypatch.setattr(
        FaceSwapper, "__init__", lambda *a: (loaded.append(a), load(*a))[1]
    )
    files = convert_videos(videos, tmp_path / "out", model_dir)
    assert len(loaded) == 1
    assert [path.name for path in files.converted] == ["one.mp4", "two.mov"]
    assert [done.frames for done in files.converted.values()] == [3, 3]
    assert probe(tmp_path / "out" / "two.mp4").frame_count == 3
    [(path, why)] = files.failed.items()
    assert path.name == "broken.mp4"
    assert "broken.mp4" in why
    assert "broken.mp4 failed" in caplog.text
    table = str(files).splitlines()
    assert table[0].startswith("one.mp4     face in 3 of 3 frames")
    assert table[-1].startswith("broken.mp4  FAILED: ")


def test_what_is_done_is_not_done_again(model_dir, videos, tmp_path):
    convert_videos([videos / "one.mp4"], tmp_path / "out", model_dir)
    names = [videos / "one.mp4", videos / "two.mov"]
    files = convert_videos(names, tmp_path / "out", model_dir)
    assert [path.name for path in files.converted] == ["two.mov"]
    assert "exists already" in files.failed[videos / "one.mp4"]
    files = convert_videos(names, tmp_path / "out", model_dir, overwrite=True)
    assert not files.failed


def test_photos_are_swapped_each_for_itself(model_dir, tmp_path):
    folder = tmp_path / "photos"
    write_image(folder / "collins.jpg", astronaut())
    write_image(folder / "gray.webp", np.full((50, 60, 3), 99, np.uint8))
    (folder / "empty.png").touch()
    files = convert_images(folder, tmp_path / "out", model_dir)
    assert {path.name: n for path, n in files.converted.items()} == {
        "collins.jpg": 1,
        "gray.webp": 0,
    }
    assert "is empty" in files.failed[folder / "empty.png"]
    assert read_image(tmp_path / "out" / "collins.jpg").shape == (512, 512, 3)
    assert str(files).splitlines() == [
        "collins.jpg  faces: 1",
        "gray.webp    faces: 0",
        f"empty.png    FAILED: {files.failed[folder / 'empty.png']}",
    ]


def test_a_photo_of_another_kind_becomes_png(model_dir, tmp_path):
    from PIL import Image

    Image.fromarray(camera()).save(tmp_path / "gray.tif")
    convert_images([tmp_path / "gray.tif"], tmp_path / "out", model_dir)
    assert read_image(tmp_path / "out" / "gray.png").shape == (512, 512, 3)


def test_two_sources_of_one_name_are_refused_before_the_work(model_dir, tmp_path):
    names = [tmp_path / "a" / "x.mp4", tmp_path / "b" / "x.mov"]
    with pytest.raises(ValueError, match="would both be written to"):
        convert_videos(names, tmp_path / "out", model_dir)


def test_a_folder_without_videos_is_named(model_dir, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no videos"):
        convert_videos(tmp_path, tmp_path / "out", model_dir)
    with pytest.raises(FileNotFoundError, match="is not a folder of videos"):
        convert_videos(tmp_path / "nowhere", tmp_path / "out", model_dir)
