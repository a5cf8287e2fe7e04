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
from fsgan.models.vggface import (
    FILE,
    URL,
    build_vggface,
    load_vggface,
    perceptual_features,
    preprocess,
)

BLOCKS = {2: (3, 64), 3: (4, 128), 4: (6, 256), 5: (3, 512)}  # stage: blocks, filters


def convolutions():
    """Name and kernel shape of each convolution, as keras-vggface has them."""
    yield "conv1/7x7_s2", (7, 7, 3, 64)
    channels = 64
    for stage, (blocks, filters) in BLOCKS.items():
        for block in range(1, blocks + 1):
            name = f"conv{stage}_{block}"
            yield f"{name}_1x1_reduce", (1, 1, channels, filters)
            yield f"{name}_3x3", (3, 3, filters, filters)
            yield f"{name}_1x1_increase", (1, 1, filters, 4 * filters)
            if block == 1:
                yield f"{name}_1x1_proj", (1, 1, channels, 4 * filters)
            channels = 4 * filters


def stand_in_weights():
    """Weights of each layer: convolution k and its norm from RandomState(5000 + k)."""
    layers = {}
    for k, (name, shape) in enumerate(convolutions()):
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


def write_weights(file: h5py.Group, layers: dict) -> None:
    """Writes weights as Keras 2 does, with the layers that have none."""
    names = ["input_1", *layers, "activation_1", "avg_pool"]
    file.attrs["layer_names"] = [name.encode() for name in names]
    for name in names:
        group = file.require_group(name)
        arrays = layers.get(name, {})
        group.attrs["weight_names"] = [f"{name}/{key}".encode() for key in arrays]
        for key, array in arrays.items():
            dataset = group.create_dataset(f"{name}/{key}", array.shape, "float32")
            if array.any():  # zeros need no room
                dataset[...] = array


@pytest.fixture(scope="module")
def stand_in() -> dict:
    return stand_in_weights()


@pytest.fixture(scope="module")
def weight_file(tmp_path_factory, stand_in):
    path = tmp_path_factory.mktemp("project") / FILE
    with h5py.File(path, "w") as file:
        write_weights(file, stand_in)
    yield path
    path.unlink()  # 95 MB


@pytest.fixture(scope="module")
def network(weight_file) -> keras.Model:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "FOLDERS", (weight_file.parent,))
        return load_vggface()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty `weights/`, and no way to the internet."""
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path,))
    monkeypatch.setenv(assets.OFFLINE, "1")
    yield tmp_path
    (tmp_path / FILE).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def golden():
    """Made with other means, which the entry `made_with` names."""
    with np.load(Path(__file__).parent / "golden" / "vggface.npz") as arrays:
        return dict(arrays)


def faces():
    pixels = np.random.RandomState(5100).uniform(-128, 128, (1, 224, 224, 3))
    return pixels.astype("float32")


def as_arrays(maps):
    return [ops.convert_to_numpy(ops.cast(map_, "float32")) for map_ in maps]


def excerpts(maps):
    """What the golden file holds of each map."""
    steps = {7: (2, 64), 28: (5, 32), 55: (9, 16), 112: (16, 8)}
    for map_ in maps:
        step, channels = steps[map_.shape[1]]
        yield map_[:, ::step, ::step, ::channels]


@pytest.mark.parametrize("training", [False, True])
def test_features_are_those_of_another_implementation(golden, network, training):
    maps = as_arrays(network(faces(), training=training))
    for i, excerpt in enumerate(excerpts(maps)):
        expected = golden[f"map_{i}"]
        np.testing.assert_allclose(excerpt, expected, atol=1e-5 * expected.max())


def test_maps_come_deepest_first(network):
    assert network.output_shape == [
        (None, 7, 7, 2048),
        (None, 28, 28, 512),
        (None, 55, 55, 256),
        (None, 112, 112, 64),
    ]


def test_only_the_first_convolution_is_seen_before_its_relu(network):
    assert [float(map_.min()) < 0 for map_ in as_arrays(network(faces()))] == [
        *[False] * 3,
        True,
    ]


def test_the_network_never_learns(network):
    assert network.trainable_variables == []


def test_bfloat16_gives_nearly_the_same_features(golden, network):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        half = build_vggface()
    finally:
        keras.config.set_dtype_policy(before)
    half.set_weights(network.get_weights())
    maps = half(faces())
    assert {keras.backend.standardize_dtype(map_.dtype) for map_ in maps} == {
        "bfloat16"
    }
    for i, excerpt in enumerate(excerpts(as_arrays(maps))):
        expected = golden[f"map_{i}"]
        np.testing.assert_allclose(excerpt, expected, atol=0.02 * expected.max())


def test_preprocessing_is_the_original_one(golden):
    real = np.random.RandomState(21).uniform(-1, 1, (2, 64, 64, 3))[:1]
    seen = preprocess(real[..., ::-1].astype("float32"))
    np.testing.assert_allclose(
        ops.convert_to_numpy(seen)[:, ::16, ::16], golden["preprocessed"], atol=1e-4
    )


def test_preprocessing_gives_bgr_less_the_mean_colour():
    red = np.broadcast_to(np.float32([1, -1, -1]), (2, 96, 64, 3))
    seen = ops.convert_to_numpy(preprocess(red))
    assert seen.shape == (2, 224, 224, 3)
    expected = np.broadcast_to([-91.4953, -103.8827, 255 - 131.0912], seen.shape)
    np.testing.assert_allclose(seen, expected, rtol=1e-6)


def test_preprocessing_computes_in_float32():
    seen = preprocess(ops.cast(np.ones((1, 8, 8, 3)), "bfloat16"))
    assert keras.backend.standardize_dtype(seen.dtype) == "float32"


def test_a_saved_model_with_other_slashes_is_read_too(folder, stand_in, network):
    renamed = {
        name.replace("_1x1", "/1x1").replace("_3x3", "/3x3"): layer
        for name, layer in stand_in.items()
    }
    assert "conv2_1/1x1_reduce/bn" in renamed
    with h5py.File(folder / FILE, "w") as file:
        write_weights(file.create_group("model_weights"), renamed)
    for read, expected in zip(
        load_vggface().get_weights(), network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(read, expected)


def refusal(folder) -> str:
    """What is said of the file in the folder."""
    with pytest.raises(ValueError) as caught:
        load_vggface()
    message = str(caught.value)
    start = f"{folder / FILE} is not the expected {FILE}: "
    end = "; get it again as weights/README.md says"
    assert message.startswith(start) and message.endswith(end)
    assert "\n" not in message
    return message[len(start) : -len(end)]


def no_weights(path):
    path.write_bytes(b"<html>Not found</html>")


def empty(path):
    path.touch()


def hdf5_of_something_else(path):
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros(3)


def truncated(path):
    with h5py.File(path, "w") as file:
        write_weights(file, {"conv1/7x7_s2": {"kernel:0": np.ones((7, 7, 3, 64))}})
    path.write_bytes(path.read_bytes()[:-1000])


def a_layer_without_its_arrays(path):
    with h5py.File(path, "w") as file:
        write_weights(file, {"conv1/7x7_s2": {"kernel:0": np.ones((7, 7, 3, 64))}})
        del file["conv1/7x7_s2/conv1/7x7_s2/kernel:0"]


@pytest.mark.parametrize(
    "write",
    [no_weights, empty, hdf5_of_something_else, truncated, a_layer_without_its_arrays],
)
def test_a_damaged_or_wrong_file_is_refused(folder, write):
    write(folder / FILE)
    assert refusal(folder) == "it is damaged or no weight file of Keras 2"


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
    ("spoil", "message"),
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
    folder, stand_in, network, monkeypatch, spoil, message
):
    monkeypatch.setattr(vggface, "build_vggface", lambda: network)  # half a second
    layers = {
        name: {key: np.zeros(array.shape) for key, array in arrays.items()}
        for name, arrays in stand_in.items()
    }
    spoil(layers)
    with h5py.File(folder / FILE, "w") as file:
        write_weights(file, layers)
    assert refusal(folder) == message


def test_training_without_weights_goes_on_and_says_so_once(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert perceptual_features("auto") is None
    [record] = caplog.records
    assert "goes on WITHOUT the perceptual loss" in record.getMessage()
    assert URL in record.getMessage()
    assert str(folder) in record.getMessage()


def test_training_that_requires_the_perceptual_loss_is_refused_without(folder):
    with pytest.raises(FileNotFoundError, match=f"{FILE} is missing") as caught:
        perceptual_features("required")
    assert URL in str(caught.value)


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_damaged_file_is_refused_rather_than_ignored(folder, mode):
    no_weights(folder / FILE)
    with pytest.raises(ValueError, match="is not the expected"):
        perceptual_features(mode)


def test_off_looks_for_nothing(folder, caplog):
    no_weights(folder / FILE)
    assert perceptual_features("off") is None
    assert not caplog.records


def test_the_network_is_returned_where_its_weights_are(weight_file, monkeypatch):
    monkeypatch.setattr(assets, "FOLDERS", (weight_file.parent,))
    monkeypatch.setattr(vggface, "load_vggface", lambda: "loaded")
    assert perceptual_features("auto") == perceptual_features("required") == "loaded"


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="auto, required, off, got 'maybe'"):
        perceptual_features("maybe")
