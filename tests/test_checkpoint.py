import json
import shutil
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest

from fsgan.models.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    load_generator,
    read_settings,
    save_checkpoint,
    transfer_weights,
)
from fsgan.models.networks import ModelConfig, build_networks

CONFIG = ModelConfig(64, "lite", attention=False, latent=8, coverage=0.75)
SETTINGS = {"model": CONFIG, "iteration": 2, "training": {"batch_size": 3}}


def build(config=CONFIG):
    """Networks, and an optimizer of the encoder."""
    networks = build_networks(config)
    optimizer = keras.optimizers.Adam()
    optimizer.build(networks["encoder"].trainable_variables)
    return networks, {"generator": optimizer}


@pytest.fixture(scope="module")
def trained():
    """Networks and an optimizer that has updated the encoder once."""
    networks, optimizers = build()
    variables = networks["encoder"].trainable_variables
    optimizers["generator"].apply([0 * v + 0.5 for v in variables], variables)
    return networks, optimizers


@pytest.fixture(scope="module")
def saved(trained, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"), *trained, SETTINGS)


@pytest.fixture(scope="module")
def fresh():
    """Networks and an optimizer to load into; what they hold does not matter."""
    return build()


@pytest.fixture
def copied(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints" / saved.name)


def same(one, other):
    pairs = zip(one.variables, other.variables, strict=True)
    return all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)


def test_a_checkpoint_gives_back_every_weight_moment_and_setting(trained, saved, fresh):
    settings = load_checkpoint(saved, *fresh)
    assert settings == SETTINGS | {"backend": keras.backend.backend()}
    for owners, loaded in zip(trained, fresh, strict=True):
        assert all(same(owners[name], loaded[name]) for name in owners)


def test_the_generator_is_the_encoder_and_one_decoder(trained, saved):
    networks, _ = trained
    faces = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype("float32")
    for person in "ab":
        found = load_generator(saved, person).predict_on_batch(faces)
        expected = networks[f"decoder_{person}"](networks["encoder"](faces))
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_a_model_of_one_person_cannot_put_on_another_s_face(tmp_path):
    config = replace(CONFIG, people=1, discriminators=False)
    settings = {"model": config, "iteration": 0}
    folder = save_checkpoint(tmp_path, build_networks(config), {}, settings)
    assert load_generator(folder, "a")
    with pytest.raises(ValueError, match="knows one person"):
        load_generator(folder, "b")


def test_the_newest_and_the_backups_are_kept(tmp_path):
    for iteration in (3, 4, 5, 6, 8, 9):
        settings = SETTINGS | {"iteration": iteration}
        save_checkpoint(tmp_path, {}, {}, settings, keep=2, backup=4)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["iteration_0000004", "iteration_0000008", "iteration_0000009"]
    assert latest_checkpoint(tmp_path).name == names[-1]


def test_an_unfinished_checkpoint_is_not_seen(copied, tmp_path):
    copied.rename(copied.with_name(".unfinished"))
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(
    ("beside", "augmentation", "coverage"),
    [({"coverage": 0.6}, 0.6, 0.6), ({}, 1, 0.8)],
)
def test_settings_of_older_versions_are_read(tmp_path, beside, augmentation, coverage):
    """The coverage stood beside the model, the latent's width as a number."""
    model = {"resolution": 128, "capacity": "lite", "latent": 2048}
    training = {"augmentation": {"flip": 0, "coverage": augmentation}}
    old = {"model": model, "iteration": 7, "training": training} | beside
    (tmp_path / "settings.json").write_text(json.dumps(old))
    assert read_settings(tmp_path) == {
        "model": ModelConfig(128, "lite", coverage=coverage),
        "iteration": 7,
        "training": {"augmentation": {"flip": 0}},
    }


def test_settings_are_plain_json(saved):
    written = json.loads((saved / "settings.json").read_text())
    assert written["model"] == asdict(CONFIG)


@pytest.mark.parametrize(
    "content",
    [None, "{", "[]", '{"iteration": 1}', '{"model": {"size": 64}, "iteration": 1}'],
)
def test_damaged_settings_are_refused_in_one_sentence(tmp_path, content):
    if content:
        (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ValueError, match="missing or damaged: delete the folder"):
        read_settings(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "missing", "swapped"])
@pytest.mark.parametrize(
    ("file", "other"),
    [
        ("decoder_b.weights.h5", "encoder.weights.h5"),
        ("optimizer_generator.npz", "settings.json"),
    ],
)
def test_files_that_do_not_fit_are_refused(copied, fresh, damage, file, other):
    path = copied / file
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "missing":
        path.unlink()
    else:
        shutil.copy(copied / other, path)
    with pytest.raises(ValueError, match=f"{file} is missing, damaged or not of the"):
        load_checkpoint(copied, *fresh)


def test_a_model_starts_with_another_s_encoder_or_with_all(saved, fresh, trained):
    theirs, ours = trained[0], fresh[0]
    for network in ours.values():
        network.set_weights([0 * weight for weight in network.get_weights()])
    model_dir = saved.parents[1]
    transfer_weights(model_dir, {"encoder": ours["encoder"]}, CONFIG, "encoder")
    assert same(ours["encoder"], theirs["encoder"])
    assert not same(ours["decoder_a"], theirs["decoder_a"])
    transfer_weights(model_dir, ours, replace(CONFIG, coverage=1), "all")
    assert all(same(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("change", "what", "message"),
    [
        ({"norm": "none"}, "all", "norm 'instancenorm', not 'none'"),
        ({"latent": None}, "encoder", "latent 8, not None"),
        ({"mask": False}, "all", "mask True, not False"),
        ({"mask": False}, "decoder", "must be 'encoder' or 'all', got 'decoder'"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(saved, change, what, message):
    with pytest.raises(ValueError, match=message):
        transfer_weights(saved.parents[1], {}, replace(CONFIG, **change), what)


def test_a_start_from_no_training_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        transfer_weights(tmp_path, {}, CONFIG, "all")
