import logging
import shutil
from functools import cache
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from test_networks import build_hollow

from fsgan.models.checkpoint import load_checkpoint, load_generator
from fsgan.models.legacy import FILES, import_legacy, read_legacy, swap_red_and_blue
from fsgan.models.networks import (
    ModelConfig,
    build_decoder,
    build_discriminator,
    build_encoder,
    build_networks,
)

SEEDS = {  # of the original's test weights, by file
    "encoder.h5": 1000,
    "decoder_A.h5": 2000,
    "decoder_B.h5": 3000,
    "netDA.h5": 4000,
    "netDB.h5": 5000,
}
LITE = ModelConfig(64, "lite")


def write_keras2(path, layers, names=bytes, group="/"):
    """Writes what Keras 2 does: layer -> its weights by name; a shape writes zeros."""

    def spelled(strings):
        if names is bytes:
            return np.array([string.encode() for string in strings])
        return list(strings)

    with h5py.File(path, "w") as file:
        root = file.require_group(group)
        root.attrs["layer_names"] = spelled(layers)
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.1.5"
        for layer, weights in layers.items():
            of_layer = root.create_group(layer)
            of_layer.attrs["weight_names"] = spelled(weights)
            for name, weight in weights.items():
                if isinstance(weight, tuple):
                    of_layer.create_dataset(name, weight, "float32")
                else:
                    of_layer.create_dataset(name, data=weight)


@pytest.fixture(scope="module")
def golden():
    """Layers of files written by Keras 2.1.5; what the original makes of the weights.

    Maps every 4th, images every 8th pixel, BGR.
    """
    with np.load(Path(__file__).parent / "golden" / "legacy.npz") as arrays:
        return dict(arrays)


def recipe_layers(golden, file, seed):
    """The original's test weights, seed + k draws the k-th, in the file's layers."""
    stem = file.removesuffix(".h5")
    layers = {name.decode(): {} for name in golden[f"{stem}_layers"]}
    weights = zip(golden[f"{stem}_weights"], golden[f"{stem}_shapes"], strict=True)
    for k, (name, padded) in enumerate(weights):
        name, shape = name.decode(), tuple(size for size in padded if size)
        weight = np.random.RandomState(seed + k).standard_normal(shape)
        if name.endswith("kernel:0"):
            weight /= np.sqrt(np.prod(shape[:-1]))
        else:
            weight *= 0.1
        if name.endswith("gamma:0"):
            weight += 0.5 if name.startswith("scale") else 1
        layers[name.split("/")[0]][name] = weight.astype("float32")
    return layers


@pytest.fixture(scope="module")
def original(golden, tmp_path_factory):
    """A folder with the five files of a lite model of 64 pixels."""
    folder = tmp_path_factory.mktemp("original")
    for file, seed in SEEDS.items():
        write_keras2(folder / file, recipe_layers(golden, file, seed))
    return folder


@pytest.fixture(scope="module")
def imported(original, tmp_path_factory):
    return import_legacy(original, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def inputs():
    """An image and a pair of images, RGB."""
    random = np.random.RandomState(77)
    image = random.uniform(-1, 1, (2, 64, 64, 3)).astype("float32")
    pair = random.uniform(-1, 1, (2, 64, 64, 6)).astype("float32")
    return image[..., ::-1], pair[..., [2, 1, 0, 5, 4, 3]]


@cache
def shapes_of(builder, config):
    """Path and shape of each weight of a network of ours."""
    return [(v.path, tuple(v.shape)) for v in build_hollow(builder, config).weights]


def hollow_layers(builder, config):
    """Layers of a network of ours with shapes as the original has them."""
    layers = {}
    for path, shape in shapes_of(builder, config):
        layer, name = path.rsplit("/", 1)
        if config.norm in ("groupnorm", "layernorm") and name in ("gamma", "beta"):
            shape = (1, 1, 1, *shape) if shape != (1,) else shape
        layers.setdefault(layer.replace("/", "_"), {})[f"{name}:0"] = shape
    return layers


def write_hollow(folder, config, **style):
    """Writes files without discriminators, all weights 0, of any architecture."""
    write_keras2(folder / "encoder.h5", hollow_layers(build_encoder, config), **style)
    decoder = hollow_layers(build_decoder, config)
    write_keras2(folder / "decoder_A.h5", decoder, **style)
    write_keras2(folder / "decoder_B.h5", decoder, **style)


def test_the_original_s_files_give_its_output(golden, original, inputs):
    config, weights = read_legacy(original)
    assert config == LITE
    assert list(weights) == list(FILES)
    encoder, decoder = build_encoder(config), build_decoder(config)
    discriminator = build_discriminator(config)
    encoder.set_weights(weights["encoder"])
    discriminator.set_weights(weights["discriminator_a"])
    image, pair = inputs
    latent = encoder(image)
    np.testing.assert_allclose(latent[:, ::4, ::4], golden["latent"], atol=1e-4)
    for side in "ab":
        decoder.set_weights(weights[f"decoder_{side}"])
        alpha, rgb = (np.asarray(output)[:, ::8, ::8] for output in decoder(latent))
        abgr = np.concatenate([alpha, rgb[..., ::-1]], axis=-1)
        np.testing.assert_allclose(abgr, golden[f"abgr_{side}"], atol=1e-4)
    np.testing.assert_allclose(discriminator(pair), golden["score_a"], atol=1e-4)


def test_an_imported_model_converts_as_the_original(golden, imported, inputs):
    for side in "ab":
        alpha, rgb = load_generator(imported, side).predict_on_batch(inputs[0])
        abgr = np.concatenate([alpha, rgb[..., ::-1]], axis=-1)[:, ::8, ::8]
        np.testing.assert_allclose(abgr, golden[f"abgr_{side}"], atol=1e-4)


def test_an_imported_model_is_a_complete_checkpoint(golden, imported, inputs):
    networks = build_networks(LITE)
    settings = load_checkpoint(imported, networks, {})
    assert (settings["iteration"], settings["model"]) == (0, LITE)
    score = networks["discriminator_a"](inputs[1])
    np.testing.assert_allclose(score, golden["score_a"], atol=1e-4)


@pytest.mark.parametrize(
    "architecture",
    [
        (128, "standard", "none", True),
        (256, "lite", "batchnorm", False),
        (64, "lite", "groupnorm", True),
        (128, "lite", "layernorm", False),
        (64, "lite", "instancenorm", True),
    ],
    ids=str,
)
def test_the_files_tell_their_architecture(tmp_path, architecture):
    config = ModelConfig(*architecture)
    write_hollow(tmp_path, config)
    look_alike = config.norm in ("groupnorm", "layernorm")
    found, weights = read_legacy(tmp_path, config.norm if look_alike else None)
    assert found == config
    for name, builder in (("encoder", build_encoder), ("decoder_b", build_decoder)):
        expected = [shape for _, shape in shapes_of(builder, config)]
        assert [array.shape for array in weights[name]] == expected


@pytest.mark.parametrize(
    "style", [{"names": str}, {"group": "model_weights"}], ids=["str names", "model"]
)
def test_files_of_other_keras_versions_are_read(tmp_path, style):
    write_hollow(tmp_path, LITE, **style)
    assert read_legacy(tmp_path)[0] == LITE


def test_batchnorm_statistics_arrive_as_such(tmp_path):
    config = ModelConfig(64, "lite", "batchnorm", attention=False)
    write_hollow(tmp_path, config)
    decoder = build_decoder(config)
    layers = hollow_layers(build_decoder, config)
    for weights in layers.values():
        if len(weights) == 4:
            [shape] = set(weights.values())
            weights.clear()
            for k, name in enumerate(
                ("gamma", "beta", "moving_mean", "moving_variance")
            ):
                weights[f"{name}:0"] = np.full(shape, k + 1)
    write_keras2(tmp_path / "decoder_A.h5", layers)
    decoder.set_weights(read_legacy(tmp_path)[1]["decoder_a"])
    norms = [
        x for x in decoder.layers if isinstance(x, keras.layers.BatchNormalization)
    ]
    assert len(norms) == 3
    for norm in norms:
        values = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        assert [float(value[0]) for value in values] == [1, 2, 3, 4]


def test_red_and_blue_change_places_where_images_go_in_and_out():
    kernel = np.arange(6.0).reshape(1, 1, 6, 1) + np.zeros((4, 4, 1, 64))
    image_kernel = np.arange(3.0) + np.zeros((5, 5, 32, 1))
    weights = [
        kernel[:, :, :3],
        kernel,
        image_kernel,
        np.array([0.1, 0.2, 0.3]),
        np.arange(4.0),
        np.arange(12.0).reshape(4, 3).T,
    ]
    swapped = swap_red_and_blue(weights)
    assert swapped[0][0, 0, :, 0].tolist() == [2, 1, 0]
    assert swapped[1][0, 0, :, 0].tolist() == [2, 1, 0, 5, 4, 3]
    assert swapped[2][0, 0, 0].tolist() == [2, 1, 0]
    assert swapped[3].tolist() == [0.3, 0.2, 0.1]
    np.testing.assert_array_equal(swapped[4], weights[4])
    np.testing.assert_array_equal(swapped[5], weights[5])
    for array, back in zip(weights, swap_red_and_blue(swapped), strict=True):
        np.testing.assert_array_equal(array, back)


def test_missing_discriminators_start_fresh_and_it_is_said(tmp_path, caplog):
    write_hollow(tmp_path, LITE)
    with caplog.at_level(logging.WARNING, "fsgan.models.legacy"):
        folder = import_legacy(tmp_path, tmp_path / "model", coverage=0.68)
    assert [record.getMessage() for record in caplog.records] == [
        f"no file {tmp_path / 'netDA.h5'}: the discriminator_a starts fresh",
        f"no file {tmp_path / 'netDB.h5'}: the discriminator_b starts fresh",
    ]
    networks = build_networks(LITE)
    settings = load_checkpoint(folder, networks, {})
    assert np.any(networks["discriminator_b"].get_weights()[0])
    assert not np.any(networks["decoder_b"].get_weights()[0])
    assert settings["model"].coverage == 0.68


@pytest.mark.parametrize("file", ["encoder.h5", "decoder_A.h5", "decoder_B.h5"])
def test_a_missing_encoder_or_decoder_is_refused(tmp_path, file):
    write_hollow(tmp_path, LITE)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no file .*{file}: give the folder"):
        read_legacy(tmp_path)


def damage(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "of Keras 3":
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save_weights(
            path.with_name("new.weights.h5")
        )
        shutil.move(path.with_name("new.weights.h5"), path)
    else:  # a layer is listed that is not there
        with h5py.File(path, "r+") as file:
            del file[file.attrs["layer_names"][0]]


@pytest.mark.parametrize("how", ["truncated", "empty", "of Keras 3", "a layer short"])
def test_a_damaged_file_is_refused(tmp_path, how):
    write_hollow(tmp_path, LITE)
    damage(tmp_path / "decoder_B.h5", how)
    with pytest.raises(ValueError, match=r"decoder_B\.h5 cannot be used, it is dam"):
        read_legacy(tmp_path)


def test_weights_that_are_not_numbers_are_refused(tmp_path):
    write_hollow(tmp_path, LITE)
    with h5py.File(tmp_path / "decoder_A.h5", "r+") as file:
        layer = file[file.attrs["layer_names"][0]]
        layer[layer.attrs["weight_names"][0]][0] = np.nan
    with pytest.raises(
        ValueError, match=r"decoder_A\.h5 cannot be used, layer .*finite"
    ):
        read_legacy(tmp_path)


def test_files_of_two_models_are_refused_before_anything_is_written(tmp_path):
    write_hollow(tmp_path, LITE)
    other = hollow_layers(build_decoder, ModelConfig(128, "lite"))
    write_keras2(tmp_path / "decoder_B.h5", other)
    with pytest.raises(
        ValueError, match=r"decoder_B\.h5 does not fit the architecture"
    ):
        import_legacy(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def first_norm_is_another(layers):
    layer = next(name for name, weights in layers.items() if "gamma:0" in weights)
    layers[layer] = {"gamma:0": (1, 1, 1, 128), "beta:0": (1, 1, 1, 128)}


def one_more_conv(layers):
    layers["more"] = layers["more2"] = layers["more3"] = {"kernel:0": (3, 3, 256, 256)}


def another_width(layers):
    layers[next(iter(layers))] = {"kernel:0": (5, 5, 3, 48)}


@pytest.mark.parametrize(
    "change", [dict.clear, first_norm_is_another, one_more_conv, another_width]
)
def test_another_encoder_is_refused(tmp_path, change):
    write_hollow(tmp_path, LITE)
    layers = hollow_layers(build_encoder, LITE)
    change(layers)
    write_keras2(tmp_path / "encoder.h5", layers)
    with pytest.raises(ValueError, match=r"encoder\.h5 is not an encoder of faceswap"):
        read_legacy(tmp_path)


@pytest.mark.parametrize(
    ("trained", "given", "message"),
    [
        ("groupnorm", None, "norm must be 'groupnorm' or 'layernorm' for .*, got None"),
        ("layernorm", "none", "norm must be 'groupnorm' or 'layernorm' .*, got 'none'"),
        ("instancenorm", "batchnorm", "norm must be 'instancenorm' .* got 'batchnorm'"),
        ("none", "groupnorm", "norm must be 'none' for .*, got 'groupnorm'"),
    ],
)
def test_a_norm_that_the_files_exclude_is_refused(tmp_path, trained, given, message):
    write_hollow(tmp_path, ModelConfig(64, "lite", trained))
    with pytest.raises(ValueError, match=message):
        read_legacy(tmp_path, given)


def test_a_model_is_not_imported_over_another(imported):
    model_dir = imported.parents[1]
    with pytest.raises(FileExistsError, match="already holds a model: import into an"):
        import_legacy("elsewhere", model_dir)


def test_a_coverage_out_of_range_is_refused(original, tmp_path):
    with pytest.raises(ValueError, match="coverage must be a number from"):
        import_legacy(original, tmp_path, coverage=1.2)
