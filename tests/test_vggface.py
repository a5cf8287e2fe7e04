"""VGGFace's features, with stand-in weights by formula in a file of its format."""

import logging
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops
from test_checkpoint import write_keras2

from fsgan import assets
from fsgan.models import vggface
from fsgan.models.precision import computing_in
from fsgan.models.vggface import FILE, URL, build_vggface, load_vggface, preprocess


@pytest.fixture(scope="module")
def stand_in() -> dict:
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
        layers[name] = {"kernel": kernel}
        layers[f"{name}/bn"] = {
            "gamma": 1 + gamma,
            "beta": beta,
            "moving_mean": mean,
            "moving_variance": 1 + np.abs(variance),
        }
    return layers


@pytest.fixture(scope="module")
def network(tmp_path_factory, stand_in) -> keras.Model:
    folder = tmp_path_factory.mktemp("project")
    write_keras2(folder / FILE, stand_in)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assets, "FOLDERS", (folder,))
        network = load_vggface()
    (folder / FILE).unlink()  # 95 MB
    return network


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The only folder for weights, empty."""
    monkeypatch.setattr(assets, "FOLDERS", (tmp_path,))
    return tmp_path


@pytest.fixture(scope="module")
def golden():
    """Excerpts of the maps, made without Keras as the entry `made_with` tells."""
    with np.load(Path(__file__).parent / "golden" / "vggface.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("training", [False, True])
def test_features_are_those_of_another_implementation_and_never_learn(
    golden, network, training
):
    pixels = np.random.RandomState(5100).uniform(-128, 128, (1, 224, 224, 3))
    maps = network(pixels.astype("float32"), training=training)
    steps = [(7, 2, 64), (28, 5, 32), (55, 9, 16), (112, 16, 8)]
    for i, (map_, (size, step, channels)) in enumerate(zip(maps, steps, strict=True)):
        assert map_.shape[1:3] == (size, size)
        found, expected = ops.convert_to_numpy(map_), golden[f"map_{i}"]
        np.testing.assert_allclose(
            found[:, ::step, ::step, ::channels], expected, atol=1e-5 * expected.max()
        )
        # Only the first convolution is seen before its ReLU.
        assert (found.min() < 0) == (i == 3)
    assert network.trainable_variables == []


def test_preprocessing_gives_bgr_less_the_mean_colour(golden):
    red = np.broadcast_to(np.float32([1, -1, -1]), (2, 96, 64, 3))
    seen = ops.convert_to_numpy(preprocess(red))
    mean = [-91.4953, -103.8827, 255 - 131.0912]
    np.testing.assert_allclose(seen, np.broadcast_to(mean, seen.shape), rtol=1e-6)
    real = np.random.RandomState(21).uniform(-1, 1, (2, 64, 64, 3))[:1]
    seen = ops.convert_to_numpy(preprocess(real[..., ::-1].astype("float32")))
    np.testing.assert_allclose(seen[:, ::16, ::16], golden["preprocessed"], atol=1e-4)


def test_only_the_network_computes_in_bfloat16():
    with computing_in("bfloat16"):
        assert {output.dtype for output in build_vggface().outputs} == {"bfloat16"}
    seen = preprocess(ops.cast(np.ones((1, 8, 8, 3)), "bfloat16"))
    assert keras.backend.standardize_dtype(seen.dtype) == "float32"


@pytest.mark.parametrize(
    ("layer", "weights", "reason"),
    [
        ("conv5_3_3x3/bn", {}, r"conv5_3_3x3_bn has the shapes \[\], not \[\(512,\)"),
        (
            "conv2_1_1x1_down",  # of SENet50
            {"kernel": (1, 1, 256, 16)},
            r"conv2_1_1x1_down has the shapes \[\(1, 1, 256, 16\)\], not \[\]",
        ),
        (
            "conv4_1_1x1_proj",
            {"kernel": (1, 1, 512, 512)},
            r"\[\(1, 1, 512, 512\)\], not \[\(1, 1, 512, 1024\)\]",
        ),
    ],
)
def test_weights_of_another_network_are_refused(
    folder, stand_in, network, monkeypatch, layer, weights, reason
):
    monkeypatch.setattr(vggface, "build_vggface", lambda: network)  # half a second
    shapes = {
        name: {key: array.shape for key, array in arrays.items()}
        for name, arrays in stand_in.items()
    }
    write_keras2(folder / FILE, shapes | {layer: weights})
    message = rf"{FILE} is not the expected .*{reason}.*get it again as weights/READ"
    with pytest.raises(ValueError, match=message):
        load_vggface()


def test_training_goes_on_without_weights_unless_they_are_required(folder, caplog):
    with caplog.at_level(logging.WARNING):
        assert load_vggface("auto") is None
    [record] = caplog.records
    assert "goes on WITHOUT the perceptual loss" in record.getMessage()
    assert URL in record.getMessage() and str(folder) in record.getMessage()
    with pytest.raises(FileNotFoundError, match=f"{FILE} is missing"):
        load_vggface("required")


def test_a_damaged_file_is_refused_rather_than_ignored_unless_it_is_off(folder, caplog):
    (folder / FILE).write_bytes(b"<html>Not found</html>")
    for mode in ("auto", "required"):
        with pytest.raises(ValueError, match=f"{FILE} is damaged"):
            load_vggface(mode)
    assert load_vggface("off") is None
    assert not caplog.records
