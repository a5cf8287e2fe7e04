"""VGGFace's features, with stand-in weights by formula in a file of its format."""

import logging
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from fsgan import assets
from fsgan.models import vggface
from fsgan.models.precision import computing_in
from fsgan.models.vggface import (
    FILE,
    URL,
    build_vggface,
    load_vggface,
    perceptual_features,
    preprocess,
)


def stand_in_weights():
    """Weights by layer: convolution k and its norm from RandomState(5000 + k)."""
    shapes = {"conv1/7x7_s2": (7, 7, 3, 64)}
    channels = 64
    for stage, (blocks, filters) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(1, blocks + 1):
            name = f"conv{stage + 2}_{block}"
            shapes[f"{name}_1x1_reduce"] = (1, 1, channels, filters)
            shapes[f"{name}_3x3"] = (3, 3, filters, filters)
            shapes[f"{name}_1x1_increase"] = (1, 1, filters, 4 * filters)
            if block == 1:
                shapes[f"{name}_1x1_proj"] = (1, 1, channels, 4 * filters)
            channels = 4 * filters
    layers = {}
    for k, (name, shape) in enumerate(shapes.items()):
        random = np.random.RandomState(5000 + k)
        kernel = random.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))
        gamma, beta, mean, variance = 0.1 * random.standard_normal((4, shape[-1]))
        layers[name] = {"kernel:0": kernel}
        layers[f"{name}/bn"] = {
            "gamma:0": 1 + gamma,
            "beta:0": beta,
            "moving_mean:0": mean,
            "moving_variance:0": 1 + np.abs(variance),
        }
    return layers


def write_weights(path, layers, group="/"):
    """Writes weights as Keras 2 does, with the layers that have none."""
    names = ["input_1", *layers, "activation_1", "avg_pool"]
    with h5py.File(path, "w") as file:
        root = file.require_group(group)
        root.attrs["layer_names"] = [name.encode() for name in names]
        for name in names:
            of_layer = root.require_group(name)
            arrays = layers.get(name, {})
            of_layer.attrs["weight_names"] = [f"{name}/{k}".encode() for k in arrays]
            for key, array in arrays.items():
                dataset = of_layer.create_dataset(f"{name}/{key}", array.shape, "f4")
                if array.any():  # zeros need no room
                    dataset[...] = array


@pytest.fixture(scope="module")
def stand_in() -> dict:
    return stand_in_weights()


@pytest.fixture(scope="module")
def network(tmp_path_factory, stand_in) -> keras.Model:
    folder = tmp_path_factory.mktemp("project")
    write_weights(folder / FILE, stand_in)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "FOLDERS", (folder,))
        network = load_vggface()
    (folder / FILE).unlink()  # 95 MB
    return network


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The only folder for weights, empty."""
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path,))
    yield tmp_path
    (tmp_path / FILE).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def golden():
    """Excerpts of the maps, made without Keras as the entry `made_with` tells."""
    with np.load(Path(__file__).parent / "golden" / "vggface.npz") as arrays:
        return dict(arrays)


def faces():
    pixels = np.random.RandomState(5100).uniform(-128, 128, (1, 224, 224, 3))
    return pixels.astype("float32")


def check_maps(maps, golden, tolerance):
    """Holds the maps, deepest first, against the excerpts."""
    steps = [(7, 2, 64), (28, 5, 32), (55, 9, 16), (112, 16, 8)]
    for i, (map_, (size, step, channels)) in enumerate(zip(maps, steps, strict=True)):
        assert map_.shape[1:3] == (size, size)
        found = ops.convert_to_numpy(ops.cast(map_, "float32"))
        expected = golden[f"map_{i}"]
        np.testing.assert_allclose(
            found[:, ::step, ::step, ::channels],
            expected,
            atol=tolerance * expected.max(),
        )
        # Only the first convolution is seen before its ReLU.
        assert (found.min() < 0) == (i == 3)


def test_features_are_those_of_another_implementation_and_never_learn(golden, network):
    assert network.trainable_variables == []
    for training in (False, True):
        check_maps(network(faces(), training=training), golden, 1e-5)


@pytest.mark.parametrize(
    ("colors", "mean"), [([1, -1, -1], [-91.4953, -103.8827, 255 - 131.0912])]
)
def test_preprocessing_gives_bgr_less_the_mean_colour(golden, colors, mean):
    plain = np.broadcast_to(np.float32(colors), (2, 96, 64, 3))
    seen = ops.convert_to_numpy(preprocess(plain))
    expected = np.broadcast_to(mean, (2, 224, 224, 3))
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    real = np.random.RandomState(21).uniform(-1, 1, (2, 64, 64, 3))[:1]
    seen = ops.convert_to_numpy(preprocess(real[..., ::-1].astype("float32")))
    np.testing.assert_allclose(seen[:, ::16, ::16], golden["preprocessed"], atol=1e-4)


def test_only_the_network_computes_in_bfloat16():
    with computing_in("bfloat16"):
        assert {output.dtype for output in build_vggface().outputs} == {"bfloat16"}
    seen = preprocess(ops.cast(np.ones((1, 8, 8, 3)), "bfloat16"))
    assert keras.backend.standardize_dtype(seen.dtype) == "float32"


def test_a_saved_model_with_other_slashes_is_read_too(folder, stand_in, network):
    renamed = {
        name.replace("_1x1", "/1x1").replace("_3x3", "/3x3"): layer
        for name, layer in stand_in.items()
    }
    assert "conv2_1/1x1_reduce/bn" in renamed
    write_weights(folder / FILE, renamed, group="model_weights")
    read = load_vggface().get_weights()
    for one, other in zip(read, network.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def no_weights(path):
    path.write_bytes(b"<html>Not found</html>")


def hdf5_of_something_else(path):
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)


FIRST = {"conv1/7x7_s2": {"kernel:0": np.ones((7, 7, 3, 64))}}


def truncated(path):
    write_weights(path, FIRST)
    path.write_bytes(path.read_bytes()[:-1000])


def without_its_arrays(path):
    write_weights(path, FIRST)
    with h5py.File(path, "r+") as file:
        del file["conv1/7x7_s2/conv1/7x7_s2/kernel:0"]


def check_refusal(folder, reason):
    with pytest.raises(ValueError) as caught:
        load_vggface()
    assert str(caught.value) == (
        f"{folder / FILE} is not the expected {FILE}: {reason}; get it again as "
        "weights/README.md says"
    )


@pytest.mark.parametrize(
    "write",
    [Path.touch, no_weights, hdf5_of_something_else, truncated, without_its_arrays],
)
def test_a_damaged_or_wrong_file_is_refused(folder, write):
    write(folder / FILE)
    check_refusal(folder, "it is damaged or no weight file of Keras 2")


def missing(layers):
    del layers["conv5_3_3x3/bn"]


def of_senet50(layers):
    layers["conv2_1_1x1_down"] = {"kernel:0": np.zeros((1, 1, 256, 16))}


def wrong_shape(layers):
    layers["conv4_1_1x1_proj"] = {"kernel:0": np.zeros((1, 1, 512, 512))}


def too_few_arrays(layers):
    del layers["conv3_1_3x3/bn"]["beta:0"]


def not_finite(layers):
    layers["conv2_2_3x3/bn"]["moving_mean:0"][5] = np.nan


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (missing, "layer conv5_3_3x3_bn is missing"),
        (of_senet50, "layer conv2_1_1x1_down does not belong there"),
        (
            wrong_shape,
            "layer conv4_1_1x1_proj has the shapes [(1, 1, 512, 512)], "
            "not [(1, 1, 512, 1024)]",
        ),
        (
            too_few_arrays,
            "layer conv3_1_3x3_bn has the shapes [(128,), (128,), (128,)], "
            "not [(128,), (128,), (128,), (128,)]",
        ),
        (not_finite, "layer conv2_2_3x3_bn has values that are not finite"),
    ],
)
def test_weights_of_another_network_are_refused(
    folder, stand_in, network, monkeypatch, spoil, reason
):
    monkeypatch.setattr(vggface, "build_vggface", lambda: network)  # half a second
    layers = {
        name: {key: np.zeros(array.shape) for key, array in arrays.items()}
        for name, arrays in stand_in.items()
    }
    spoil(layers)
    write_weights(folder / FILE, layers)
    check_refusal(folder, reason)


def test_training_goes_on_without_weights_unless_they_are_required(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert perceptual_features("auto") is None
    [record] = caplog.records
    assert "goes on WITHOUT the perceptual loss" in record.getMessage()
    assert URL in record.getMessage() and str(folder) in record.getMessage()
    with pytest.raises(FileNotFoundError, match=f"{FILE} is missing"):
        perceptual_features("required")


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_damaged_file_is_refused_rather_than_ignored(folder, mode):
    no_weights(folder / FILE)
    with pytest.raises(ValueError, match="is not the expected"):
        perceptual_features(mode)


def test_off_looks_for_nothing(folder, caplog):
    no_weights(folder / FILE)
    assert perceptual_features("off") is None
    assert not caplog.records


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="auto, required, off, got 'maybe'"):
        perceptual_features("maybe")
