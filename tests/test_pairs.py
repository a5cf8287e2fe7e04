"""From a folder of photographs to a model for each pair of people in it."""

import json
import shutil
from dataclasses import asdict
from functools import partial

import numpy as np
import pytest
from skimage.data import astronaut

from fsgan import (
    ConvertSettings,
    convert_image,
    curate,
    make_sample_clips,
    train_pairs,
)
from fsgan.media.images import list_images, read_image, write_image
from fsgan.media.reader import read_frames
from fsgan.models.networks import ModelConfig
from fsgan.training import pairs

FAST = ConvertSettings(engine="keras")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def photos(tmp_path_factory, hopper_photo):
    """A folder with photographs of three people, in three lights each."""
    folder = tmp_path_factory.mktemp("photos")
    clip = make_sample_clips(folder / "clips")[1]
    people = {
        "collins": astronaut()[:300, 60:400],
        "hopper": hopper_photo,
        "nobody": next(read_frames(clip)).image,
    }
    for name, photo in people.items():
        for light in (1, 0.9, 0.8):
            path = folder / f"{name}{light}.png"
            write_image(path, (photo * light).astype(np.uint8))
    shutil.rmtree(folder / "clips")
    return folder


@pytest.fixture
def eager():
    tf = pytest.importorskip("tensorflow")
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
def test_of_a_folder_of_photos_each_pair_is_trained_and_swapped(
    photos, tmp_path, eager, monkeypatch
):
    monkeypatch.setattr("fsgan.data.dataset.LEAST_TO_SPLIT", 3)
    people, models = tmp_path / "people", tmp_path / "models"
    curated = curate(photos, people, min_group=1)
    assert curated.faces == [3, 3, 3]
    short = {"batch_size": 1, "precision": "float32", "validation": 0.5}
    how = {"recipe": "autoencoder", "model": {"capacity": "lite"}, "settings": short}
    table = train_pairs(people, models, minutes=1e-6, **how)
    names = [f"person_00{a}-person_00{b}" for a, b in ((0, 1), (0, 2), (1, 2))]
    assert [*table.done] == names_in(models) == names
    for name, reached in table.done.items():
        assert reached.model_dir == models / name
        assert reached.iterations == 1
        assert reached.held_out.keys() == {"reconstruction_a", "reconstruction_b"}
        assert 0 < reached.losses["reconstruction_a"] < 2
        assert 0 < reached.minutes < 5
        assert f"{name}  1 iterations, " in repr(table)
        [photo, *_] = list_images(people / name.split("-")[0])
        out = tmp_path / f"{name}.png"
        assert convert_image(photo, out, models / name, FAST) == 1
        assert (read_image(out) != read_image(photo)).mean() > 0.1


def test_a_pair_goes_on_to_its_time_and_an_interrupt_ends_all(
    two_people, tmp_path, monkeypatch
):
    asked = []

    def train(a, b, model_dir, minutes, **how):
        asked.append((model_dir.name, minutes, how["recipe"]))
        folder = model_dir / "checkpoints" / "0000005"
        folder.mkdir(parents=True, exist_ok=True)
        seconds = 60 if len(asked) == 1 else 120
        model = asdict(ModelConfig(64))
        settings = {"model": model, "iteration": 5, "seconds": seconds}
        settings["interrupted"] = len(asked) == 3
        (folder / "settings.json").write_text(json.dumps(settings))
        (model_dir / "losses.csv").write_text("iteration,face_a,eyes_a\n5,0.25,nan\n")
        return folder

    newest = tmp_path / "a-b" / "checkpoints" / "0000005"
    monkeypatch.setattr(pairs, "train", train)
    monkeypatch.setattr(
        pairs, "latest_checkpoint", lambda it: newest if asked else None
    )
    run = partial(train_pairs, two_people, tmp_path, [("a", "b")])
    first = run(minutes=1)
    assert repr(first) == "a-b  5 iterations, 1.0 minutes, face_a 0.250"
    assert run(minutes=1).done == first.done
    run(minutes=2)
    assert asked == [("a-b", 1, "quick"), ("a-b", 1.0, "quick")]
    with pytest.raises(KeyboardInterrupt):
        run()
    assert asked[2] == ("a-b", None, "quick")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([("a", "c")], "a pair must be two of a, b in .*, got a and c"),
        ([("a", "a")], "got a and a"),
        ([("a",)], "pairs must be"),
        ("some", "pairs must be 'all' or a valid list, got 'some'"),
    ],
)
def test_a_pair_that_cannot_be_is_refused(two_people, tmp_path, chosen, message):
    with pytest.raises(ValueError, match=message):
        train_pairs(two_people, tmp_path / "out", chosen)
    assert names_in(tmp_path) == []


def test_a_folder_without_two_people_is_refused(two_people, tmp_path):
    for folder in (tmp_path / "nowhere", two_people / "a"):
        with pytest.raises(FileNotFoundError, match="holds no two folders of faces"):
            train_pairs(folder, tmp_path / "out")
