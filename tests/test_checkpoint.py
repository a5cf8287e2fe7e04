import shutil

import numpy as np
import pytest
from test_gan import CONFIG, SPARSE, WEIGHTS, all_values, make_batch

from fsgan.models.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    load_generator,
    read_settings,
    save_checkpoint,
)
from fsgan.models.networks import ModelConfig
from fsgan.training.gan import FaceSwapGAN


@pytest.fixture(scope="module")
def gan():
    gan = FaceSwapGAN(CONFIG, WEIGHTS)
    for seed in range(2):
        gan.train_on_batch(SPARSE, make_batch(seed))
    return gan


@pytest.fixture(scope="module")
def saved(gan, tmp_path_factory):
    return save_checkpoint(
        tmp_path_factory.mktemp("model"), gan, {"coverage": 0.8}, keep=2, backup=5000
    )


def test_a_checkpoint_gives_back_every_weight_and_moment(gan, saved):
    other = FaceSwapGAN(CONFIG, WEIGHTS, seed=9)
    load_checkpoint(saved, other)
    assert other.iteration == 2
    there, here = all_values(other), all_values(gan)
    for key, array in here.items():
        np.testing.assert_array_equal(array, there[key])
    for name, optimizer in gan.optimizers.items():
        ours = other.optimizers[name].variables
        for one, two in zip(optimizer.variables, ours, strict=True):
            np.testing.assert_array_equal(one.numpy(), two.numpy())


def test_going_on_equals_not_having_stopped(saved):
    runs = []
    for seed in (3, 4):
        gan = FaceSwapGAN(CONFIG, WEIGHTS, seed=seed)
        load_checkpoint(saved, gan)
        runs.append([gan.train_on_batch(SPARSE, make_batch(s)) for s in range(2)])
    for one, two in zip(*runs, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def test_the_generator_is_the_encoder_and_one_decoder(gan, saved):
    faces = make_batch(7).sides[0].warped
    for person in "ab":
        found = load_generator(saved, person).predict_on_batch(faces)
        for one, two in zip(found, gan.generate(faces, person), strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_settings_travel_with_the_weights(saved):
    settings = read_settings(saved)
    assert settings["coverage"] == 0.8
    assert settings["iteration"] == 2
    assert settings["model"]["capacity"] == "lite"


def test_the_newest_and_the_backups_are_kept(gan, tmp_path):
    for iteration in (3, 4, 5, 6, 8, 9):
        gan.iteration = iteration
        save_checkpoint(tmp_path, gan, {}, keep=2, backup=4)
    gan.iteration = 2
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["iteration_0000004", "iteration_0000008", "iteration_0000009"]


def test_an_unfinished_checkpoint_is_not_seen(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "checkpoints" / ".unfinished")
    assert latest_checkpoint(tmp_path) is None


def test_another_architecture_is_refused(saved):
    other = FaceSwapGAN(ModelConfig(64, "lite", "none", attention=False))
    with pytest.raises(ValueError, match=r"'instancenorm'.*not.*'norm': 'none'"):
        load_checkpoint(saved, other)


@pytest.mark.parametrize("damage", ["truncated", "missing", "swapped"])
def test_weights_that_do_not_fit_are_refused_in_one_sentence(saved, tmp_path, damage):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    path = folder / "decoder_b.weights.h5"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "missing":
        path.unlink()
    else:
        shutil.copy(folder / "encoder.weights.h5", path)
    with pytest.raises(ValueError, match=r"decoder_b\.weights\.h5 is missing, damaged"):
        load_generator(folder, "b")


def test_damaged_settings_are_refused_in_one_sentence(saved, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(saved, folder)
    (folder / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="delete the folder"):
        read_settings(folder)
