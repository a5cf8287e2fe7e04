import errno
import json
import pickle
import shutil
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from fsgan.models.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    load_generator,
    read_keras2_weights,
    read_settings,
    save_checkpoint,
    transfer_weights,
)
from fsgan.models.networks import ModelConfig, build_networks

CONFIG = ModelConfig(64, "lite", attention=False, latent=8, coverage=0.75)
SETTINGS = {"model": CONFIG, "iteration": 2, "training": {"batch_size": 3}}


def build():
    """Networks, and an optimizer of the encoder."""
    networks = build_networks(CONFIG)
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
    written = json.loads((saved / "settings.json").read_text())
    assert written["model"] == asdict(CONFIG)


def test_the_generator_is_the_encoder_and_one_decoder(trained, saved):
    networks, _ = trained
    faces = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype("float32")
    for person in "ab":
        found = load_generator(saved, person)(faces)
        expected = networks[f"decoder_{person}"](networks["encoder"](faces))
        for one, two in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, two, atol=1e-6)


def test_a_model_of_one_person_cannot_put_on_another_s_face(tmp_path):
    settings = {"model": replace(CONFIG, people=1), "iteration": 0}
    folder = save_checkpoint(tmp_path, {}, {}, settings)
    with pytest.raises(ValueError, match="knows one person"):
        load_generator(folder, "b")


def test_the_newest_and_the_backups_are_kept(tmp_path):
    for iteration in (3, 4, 5, 6, 8, 9):
        settings = SETTINGS | {"iteration": iteration}
        save_checkpoint(tmp_path, {}, {}, settings, keep=2, backup=4)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["iteration_0000004", "iteration_0000008", "iteration_0000009"]
    assert latest_checkpoint(tmp_path).name == names[-1]


def test_an_unfinished_checkpoint_is_not_seen(tmp_path):
    (tmp_path / "checkpoints" / ".unfinished").mkdir(parents=True)
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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is missing"),
        ("{", "EOF while parsing"),
        ("[]", "is damaged"),
        ({}, "model: Field required"),
        ({"model": {}}, "iteration: Field required"),
        ({"model": [], "iteration": 1}, "model: Input should be"),
        ({"model": {"size": 64}, "iteration": 1}, "argument 'size'"),
        ({"model": {"resolution": "64"}, "iteration": 1}, "resolution must be"),
        ({"model": {"latent": True}, "iteration": 1}, "latent must be"),
        ({"model": {}, "iteration": 1, "coverage": -1}, "coverage must be"),
        ({"model": {"coverage": float("nan")}, "iteration": 1}, "coverage must be"),
        ({"model": {}, "iteration": -1}, "iteration: Input should be"),
        ({"model": {}, "iteration": True}, "iteration: Input should be"),
        ({"model": {}, "iteration": 1, "progress": 2}, "progress: Input should be"),
        ({"model": {}, "iteration": 1, "seconds": "1"}, "seconds: Input should be"),
        ({"model": {}, "iteration": 1, "training": []}, "training: Input should be"),
        (
            {"model": {}, "iteration": 1, "training": {"iterations": 0}},
            "training.iterations: Input should be",
        ),
        (
            {"model": {}, "iteration": 1, "training": {"augmentation": 3}},
            "training.augmentation: Input should be",
        ),
    ],
)
def test_damaged_settings_name_the_key_in_one_sentence(tmp_path, content, reason):
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=f"{reason}.*: restore it, or delete") as error:
        read_settings(tmp_path)
    assert "\n" not in str(error.value)


def test_a_disk_too_small_for_a_checkpoint_is_named(trained, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OSError, match="the disk is full") as error:
        save_checkpoint(tmp_path, *trained, SETTINGS)
    assert error.value.errno == errno.ENOSPC
    assert not list(tmp_path.iterdir())


def test_other_folders_beside_the_checkpoints_are_left_alone(copied):
    copy = shutil.copytree(copied, copied.with_name(f"{copied.name} copy"))
    later = copied.rename(copied.with_name("iteration_10000000"))
    shutil.copytree(later, later.with_name("iteration_9999999"))
    model_dir = copied.parents[1]
    assert latest_checkpoint(model_dir) == later
    save_checkpoint(model_dir, {}, {}, SETTINGS | {"iteration": 10000001}, backup=3)
    assert copy.exists() and not later.exists()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["network", "optimizer"])
def test_what_is_not_finite_is_neither_saved_nor_loaded(
    tmp_path, saved, fresh, monkeypatch, bad, part
):
    load_checkpoint(saved, *fresh)
    owner = fresh[0]["encoder"] if part == "network" else fresh[1]["generator"]
    variable = owner.variables[-1]
    variable.assign(np.full(variable.shape, bad))
    with pytest.raises(FloatingPointError, match="are not finite at iteration 2"):
        save_checkpoint(tmp_path, *fresh, SETTINGS)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("fsgan.models.checkpoint._is_finite", lambda _: True)
        folder = save_checkpoint(tmp_path, *fresh, SETTINGS)
    with pytest.raises(ValueError, match="holds values that are not finite: restore"):
        load_checkpoint(folder, *fresh)
    if part == "network":
        with pytest.raises(ValueError, match="not finite"):
            load_generator(folder, "b")


class Malicious:
    """Creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("as_array", [True, False])
def test_an_optimizer_file_cannot_run_code(copied, fresh, tmp_path, as_array):
    path, proof = copied / "optimizer_generator.npz", tmp_path / "proof"
    if as_array:
        with np.load(path) as state:
            names = state.files
        np.savez(path, **dict.fromkeys(names, np.array([Malicious(proof)])))
    else:
        path.write_bytes(pickle.dumps(Malicious(proof)))
    with pytest.raises(ValueError, match="missing, damaged or not of the") as error:
        load_checkpoint(copied, *fresh)
    assert "unsafely" not in str(error.value)
    assert not proof.exists()
    with open(path, "rb") as file:
        loaded = np.load(file, allow_pickle=True)
        assert not as_array or len(loaded["0"])
    assert proof.exists()  # so it could have


def fewer_arrays(path):
    np.savez(path, **{"0": np.zeros(1)})


def wrong_shapes(path):
    with np.load(path) as state:
        np.savez(path, **{name: np.zeros(3) for name in state})


def other_names(path):
    with np.load(path) as state:
        np.savez(path, **{f"x{name}": array for name, array in state.items()})


def compressed(path):
    with np.load(path) as state:
        np.savez_compressed(path, **state)


def enormous(path):
    """Declares an array of a million terabytes."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**18,)}
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            with archive.open(name, "w") as file:
                np.lib.format.write_array_header_1_0(file, header)


@pytest.mark.parametrize(
    "damage", [fewer_arrays, wrong_shapes, other_names, compressed, enormous]
)
def test_an_optimizer_file_with_other_arrays_is_refused(copied, fresh, damage):
    damage(copied / "optimizer_generator.npz")
    with pytest.raises(ValueError, match=r"optimizer_generator\.npz is missing, dam"):
        load_checkpoint(copied, *fresh)


def linked(file, where):
    file["elsewhere"] = h5py.ExternalLink(where, "/")


def external(file, where):
    file.create_dataset("x", (4,), "float32", external=[(where, 0, 16)])


def virtual(file, where):
    layout = h5py.VirtualLayout((4,), "float32")
    layout[:] = h5py.VirtualSource(where, "x", (4,))
    file.create_virtual_dataset("x", layout)


def huge(file, where):
    file.create_dataset("x", (10**15,), "float32", chunks=(10**6,))


@pytest.mark.parametrize("write", [linked, external, virtual, huge])
def test_a_weight_file_reads_no_other_file_and_no_more_than_it_holds(
    copied, fresh, tmp_path, write
):
    """In a stranger's model, they could be anyone's."""
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["x"] = np.ones(4, "float32")
    old = tmp_path / "old.h5"
    with h5py.File(old, "w") as file:
        write(file, str(secret))
        name = "elsewhere" if write is linked else "."
        file.attrs["layer_names"] = [name]
        file["/"].attrs["weight_names"] = ["x"]
    with pytest.raises(ValueError, match=r"links to another|does not lie in the file"):
        read_keras2_weights(old)

    path = copied / "encoder.weights.h5"
    with h5py.File(path, "r+") as file:
        layer = next(iter(file["layers"].values()))["vars"]
        del layer["0"]
        write(layer, str(secret))
        layer.move("elsewhere" if write is linked else "x", "0")
    with pytest.raises(ValueError, match=r"encoder\.weights\.h5 is missing, damaged"):
        load_generator(copied, "b")


@pytest.mark.parametrize("damage", ["truncated", "missing", "swapped"])
@pytest.mark.parametrize(
    ("file", "other"),
    [
        ("encoder.weights.h5", "decoder_b.weights.h5"),
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
    networks = {"encoder": fresh[0]["encoder"]}
    with pytest.raises(ValueError, match=f"{file} is missing, damaged or not of the"):
        load_checkpoint(copied, networks, fresh[1])


def test_a_model_starts_with_another_s_encoder_or_with_all(saved, fresh, trained):
    theirs, ours = trained[0], fresh[0]
    for network in ours.values():
        network.set_weights([0 * weight for weight in network.get_weights()])
    model_dir = saved.parents[1]
    transfer_weights(model_dir, ours, CONFIG, "encoder")
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
def test_a_start_that_does_not_fit_is_refused(saved, fresh, change, what, message):
    with pytest.raises(ValueError, match=message):
        transfer_weights(saved.parents[1], fresh[0], replace(CONFIG, **change), what)


def test_a_start_from_no_training_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        transfer_weights(tmp_path, {}, CONFIG, "all")


def write_keras2(path, layers, names=bytes, group="/"):
    """Writes what Keras 2 does: layer -> its weights by name; a shape writes zeros."""

    def spelled(strings):
        encoded = [string.encode() for string in strings]
        return np.array(encoded) if names is bytes else list(strings)

    with h5py.File(path, "w") as file:
        root = file.require_group(group)
        root.attrs["layer_names"] = spelled(layers)
        for layer, weights in layers.items():
            of_layer = root.create_group(layer)
            of_layer.attrs["weight_names"] = spelled(weights)
            for name, weight in weights.items():
                zeros = isinstance(weight, tuple)  # need no room in the file
                content = {"shape": weight} if zeros else {"data": weight}
                of_layer.create_dataset(name, dtype="float32", **content)


KERNEL, BIAS = np.arange(6.0).reshape(2, 3), np.ones(3)
LAYERS = {
    "input": {},
    "conv/1x1": {"conv/1x1/kernel:0": KERNEL, "conv/1x1/bias:0": BIAS},
    "dense": {"dense/kernel:0": BIAS},
}


@pytest.mark.parametrize("names", [bytes, str])
@pytest.mark.parametrize("group", ["/", "model_weights"])
def test_weights_of_keras_2_are_read_in_their_order(tmp_path, names, group):
    write_keras2(tmp_path / "old.h5", LAYERS, names, group)
    weights = read_keras2_weights(tmp_path / "old.h5")
    assert list(weights) == ["conv_1x1", "dense"]
    np.testing.assert_allclose(weights["conv_1x1"][0], KERNEL)
    assert [array.dtype for array in weights["conv_1x1"]] == ["float32", "float32"]


def without_a_layer(path):
    with h5py.File(path, "r+") as file:
        del file["dense"]


def of_keras_3(path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    model.save_weights(path.with_name("new.weights.h5"))
    path.with_name("new.weights.h5").replace(path)


def not_finite(path):
    write_keras2(path, LAYERS | {"dense": {"dense/kernel:0": np.array([np.nan])}})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: path.write_bytes(b"<html>Not found</html>"), ""),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "truncated"),
        (without_a_layer, "dense"),
        (of_keras_3, "layer_names"),
        (not_finite, "layer dense is not finite"),
    ],
)
def test_a_damaged_or_other_weight_file_is_refused(tmp_path, damage, reason):
    path = tmp_path / "old.h5"
    write_keras2(path, LAYERS)
    damage(path)
    message = rf"old\.h5 is damaged or no weight file of Keras 2 .*{reason}.*: get it"
    with pytest.raises(ValueError, match=message):
        read_keras2_weights(path)
