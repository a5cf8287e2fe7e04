import logging
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
from test_checkpoint import write_keras2
from test_networks import build_hollow

from fsgan.models import legacy
from fsgan.models.checkpoint import read_settings
from fsgan.models.legacy import FILES, import_legacy, read_legacy, swap_red_and_blue
from fsgan.models.networks import ModelConfig, build_decoder, build_encoder

pytestmark = pytest.mark.slow

LITE = ModelConfig(64, "lite")
SMALL = ModelConfig(64, "lite", attention=False)


@pytest.fixture(scope="module")
def golden():
    """Layers of files written by Keras 2.1.5; what the original makes of the weights.

    Weights as of `recipe_layers`; maps every 4th, images every 8th pixel, BGR.
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


@cache
def hollow_layers(builder, config):
    """Layers of a network of ours with shapes as the original has them."""
    layers = {}
    for variable in build_hollow(builder, config).weights:
        layer, name = variable.path.rsplit("/", 1)
        shape = tuple(variable.shape)
        if config.norm in ("groupnorm", "layernorm") and name in ("gamma", "beta"):
            shape = (1, 1, 1, *shape) if shape != (1,) else shape
        layers.setdefault(layer.replace("/", "_"), {})[f"{name}:0"] = shape
    return layers


def write_hollow(folder, config, decoder=None):
    """Writes files without discriminators, all weights 0, of any architecture."""
    write_keras2(folder / "encoder.h5", hollow_layers(build_encoder, config))
    for side in "AB":
        write_keras2(folder / f"decoder_{side}.h5", decoder or {"conv": {}})


def test_an_imported_model_computes_what_the_original_does(
    golden, tmp_path, monkeypatch
):
    for file, seed in zip(FILES.values(), range(1000, 6000, 1000), strict=True):
        write_keras2(tmp_path / file, recipe_layers(golden, file, seed))
    monkeypatch.setattr(legacy, "save_checkpoint", lambda *arguments: arguments)
    _, networks, _, settings = import_legacy(tmp_path, tmp_path / "model")
    assert settings == {"model": LITE, "iteration": 0}

    random = np.random.RandomState(77)
    image = random.uniform(-1, 1, (2, 64, 64, 3)).astype("float32")[..., ::-1]
    pair = random.uniform(-1, 1, (2, 64, 64, 6)).astype("float32")
    latent = networks["encoder"](image)
    found = {
        "latent": latent[:, ::4, ::4],
        "score_a": networks["discriminator_a"](pair[..., [2, 1, 0, 5, 4, 3]]),
    }
    for side in "ab":
        alpha, rgb = map(np.asarray, networks[f"decoder_{side}"](latent))
        abgr = np.concatenate([alpha, rgb[..., ::-1]], axis=-1)
        found[f"abgr_{side}"] = abgr[:, ::8, ::8]
    for name, array in found.items():
        np.testing.assert_allclose(array, golden[name], atol=1e-4, err_msg=name)


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
    small = ModelConfig(*architecture, latent=8)  # any width of the latent is read
    write_hollow(tmp_path, small)
    look_alike = small.norm in ("groupnorm", "layernorm")
    found, weights = read_legacy(tmp_path, small.norm if look_alike else None)
    assert found == ModelConfig(*architecture)
    expected = build_hollow(build_encoder, small).weights
    shapes = [array.shape for array in weights["encoder"]]
    assert shapes == [tuple(variable.shape) for variable in expected]


def test_batchnorm_statistics_arrive_as_such(tmp_path):
    config = ModelConfig(64, "lite", "batchnorm", attention=False, latent=8)
    layers = {
        name: {
            weight: np.full(shape, 1.0 + k if len(weights) == 4 else 0.0)
            for k, (weight, shape) in enumerate(weights.items())
        }
        for name, weights in hollow_layers(build_decoder, config).items()
    }
    write_hollow(tmp_path, config, layers)
    decoder = build_decoder(config)
    decoder.set_weights(read_legacy(tmp_path)[1]["decoder_a"])
    kind = keras.layers.BatchNormalization
    norms = [layer for layer in decoder.layers if isinstance(layer, kind)]
    assert len(norms) == 3
    for norm in norms:
        values = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        np.testing.assert_allclose([value[0] for value in values], [1, 2, 3, 4])


def test_red_and_blue_change_places_where_images_go_in_and_out():
    kernel = np.arange(6.0).reshape(1, 1, 6, 1) + np.zeros((4, 4, 1, 64))
    image_kernel = np.arange(3.0) + np.zeros((5, 5, 32, 1))
    bias, norm = np.array([0.1, 0.2, 0.3]), np.arange(4.0)
    weights = [kernel[:, :, :3], kernel, image_kernel, bias, norm]
    swapped = swap_red_and_blue(weights)
    assert swapped[0][0, 0, :, 0].tolist() == [2, 1, 0]
    assert swapped[1][0, 0, :, 0].tolist() == [2, 1, 0, 5, 4, 3]
    assert swapped[2][0, 0, 0].tolist() == [2, 1, 0]
    assert swapped[3].tolist() == [0.3, 0.2, 0.1]
    for array, back in zip(weights, swap_red_and_blue(swapped), strict=True):
        np.testing.assert_array_equal(array, back)
    np.testing.assert_array_equal(swapped[4], norm)


def test_missing_discriminators_start_fresh_and_it_is_said(tmp_path, caplog):
    write_hollow(tmp_path, SMALL, hollow_layers(build_decoder, SMALL))
    with caplog.at_level(logging.WARNING, "fsgan.models.legacy"):
        folder = import_legacy(tmp_path, tmp_path / "model", coverage=0.68)
    assert [record.getMessage() for record in caplog.records] == [
        f"no file {tmp_path / 'netDA.h5'}: the discriminator_a starts fresh",
        f"no file {tmp_path / 'netDB.h5'}: the discriminator_b starts fresh",
    ]
    assert read_settings(folder)["model"].coverage == 0.68
    assert {path.name for path in folder.iterdir()} == {
        "settings.json",
        *(f"{name}.weights.h5" for name in FILES),
    }
    with pytest.raises(FileExistsError, match="already holds a model: import into an"):
        import_legacy("elsewhere", tmp_path / "model")


@pytest.mark.parametrize("file", ["encoder.h5", "decoder_A.h5", "decoder_B.h5"])
def test_a_missing_encoder_or_decoder_is_refused(tmp_path, file):
    write_hollow(tmp_path, SMALL)
    (tmp_path / file).unlink()
    with pytest.raises(FileNotFoundError, match=rf"no file .*{file}: give the folder"):
        read_legacy(tmp_path)


def test_files_of_two_models_are_refused_before_anything_is_written(tmp_path):
    write_hollow(tmp_path, SMALL, hollow_layers(build_decoder, LITE))
    message = r"decoder_A\.h5 does not fit the architecture"
    with pytest.raises(ValueError, match=message):
        import_legacy(tmp_path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


KERNEL = {"kernel:0": (3, 3, 256, 256)}


@pytest.mark.parametrize(
    "other",
    [
        {"more": KERNEL, "more2": KERNEL, "more3": KERNEL},
        {"more": {"gamma:0": (1, 1, 1, 128), "beta:0": (1, 1, 1, 128)}},
        None,  # none of the layers
    ],
)
def test_another_encoder_is_refused(tmp_path, other):
    write_hollow(tmp_path, SMALL)
    layers = hollow_layers(build_encoder, SMALL) | other if other else {"conv": {}}
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
    write_hollow(tmp_path, ModelConfig(64, "lite", trained, attention=False, latent=8))
    with pytest.raises(ValueError, match=message):
        read_legacy(tmp_path, given)


def test_a_coverage_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match="coverage must be less than"):
        import_legacy(tmp_path, tmp_path, coverage=1.7)
