import os
import subprocess
import sys
from copy import copy
from importlib.util import find_spec
from types import SimpleNamespace
from unittest.mock import patch

import keras
import numpy as np
import pytest
from keras import layers, ops
from skimage.data import astronaut

from fsgan.faces.geometry import Face
from fsgan.models.checkpoint import load_generator, save_checkpoint
from fsgan.models.layers import SelfAttention
from fsgan.models.networks import ModelConfig, build_networks
from fsgan.swap import generator as module
from fsgan.swap.generator import FaceGenerator, FewChannelConv2D
from fsgan.swap.swapper import ENGINES, FaceSwapper

pytestmark = pytest.mark.slow

OTHER_BACKENDS = [b for b in ("jax", "torch") if find_spec(b)]


def small_network():
    """A small generator with every kind of layer that an engine replaces."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    attention = SelfAttention()
    x = layers.Conv2D(24, 3, padding="same")(attention(x))
    attention.scale.gamma.assign([0.5])
    alpha = layers.Conv2D(1, 5, padding="same", activation="sigmoid", name="alpha")(x)
    rgb = layers.Conv2D(3, 5, padding="same", activation="tanh", name="rgb")(x)
    return keras.Model(inputs, [alpha, rgb])


def engines_agree():
    """Runs every engine on the backend at hand against the network itself."""
    network = small_network()
    faces = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), np.uint8)
    exact = network(faces.astype(np.float32) / 127.5 - 1)
    alpha, rgb = (ops.convert_to_numpy(x) for x in exact)
    settings = {"model": SimpleNamespace(resolution=16, coverage=0.8, network="v2.2")}
    bounds = {"auto": 2, "bfloat16": 8, "float16": 1, "mixed": 4}
    bounds |= {"float32": 0.1, "keras": 0.1}
    with (
        patch.object(module, "load_generator", lambda *_: network),
        patch.object(module, "read_settings", lambda _: settings),
    ):
        for engine in ENGINES:
            generator = FaceGenerator(None, "a", engine, batch_size=2)
            assert engine == "auto" or generator.engine == engine
            ours = generator(faces)
            assert [len(x) for x in generator(faces[:0])] == [0, 0]
            for x, y, levels in (
                (ours[0], alpha, 255),
                (ours[1], (rgb + 1) * 127.5, 1),
            ):
                error = levels * np.abs(x - y).max()
                assert error < bounds[engine], (engine, error)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    keras.utils.set_random_seed(0)
    model = ModelConfig(64, "lite", discriminators=False, latent=64, coverage=0.75)
    networks = build_networks(model)
    for layer in networks["decoder_b"].layers:
        if isinstance(layer, SelfAttention):
            layer.scale.gamma.assign([0.05])
    folder = tmp_path_factory.mktemp("model")
    return save_checkpoint(folder, networks, {}, {"model": model, "iteration": 0})


@pytest.fixture(scope="module")
def faces():
    photo = astronaut()
    starts = (60, 70, 80, 90, 100)
    return np.stack([photo[s : s + 64, s + 110 : s + 174] for s in starts])


@pytest.fixture(scope="module")
def float32(checkpoint):
    return FaceGenerator(checkpoint, "b", "float32")


def sharing(generator, batch_size):
    """The same with other batches: compiling takes a second."""
    generator = copy(generator)
    generator.batch_size = batch_size
    return generator


class Breaking:
    """A network for which the memory suffices for so many faces."""

    def __init__(self, run, most):
        self.run, self.most, self.sizes = run, most, []

    def __call__(self, faces):
        self.sizes.append(len(faces))
        if len(faces) > self.most:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating tensor")
        return self.run(faces)


def test_a_model_that_paints_no_finite_values_is_refused(float32, faces):
    broken = sharing(float32, 4)
    broken._run = lambda x: [ops.ones((*x.shape[:3], 1)), ops.full(x.shape, np.nan)]
    with pytest.raises(FloatingPointError, match=r"iteration_0000000 paints values"):
        broken(faces)


def test_every_engine_agrees_with_keras():
    engines_agree()


@pytest.mark.parametrize("backend", OTHER_BACKENDS)
def test_every_engine_agrees_with_keras_on(backend):
    code = "import test_generator; test_generator.engines_agree()"
    paths = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {"KERAS_BACKEND": backend, "PYTHONPATH": paths}
        | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr


def test_alpha_and_rgb_are_those_of_the_network_in_their_ranges(
    checkpoint, faces, float32
):
    exact = load_generator(checkpoint, "b").predict_on_batch(faces / 127.5 - 1)
    alpha, rgb = float32(faces)
    assert alpha.dtype == rgb.dtype == np.float32
    np.testing.assert_allclose(alpha, exact[0], atol=1e-3)
    np.testing.assert_allclose(rgb, (exact[1] + 1) * 127.5, atol=0.1)
    assert rgb.max() > 1 and rgb.min() >= 0 and rgb.max() <= 255
    assert (float32.resolution, float32.coverage) == (64, 0.75)


@pytest.mark.parametrize(
    ("card", "fastest", "error", "engine", "tried"),
    [
        (False, "bfloat16", 0.9, "bfloat16", ["bfloat16"]),
        (False, "bfloat16", 1.1, "float32", ["bfloat16", "mixed", "float32"]),
        (False, "float32", 0.9, "float32", ["float32"]),
        (True, "bfloat16", 0.9, "bfloat16", ["bfloat16"]),
        (True, "bfloat16", 1.1, "float32", ["bfloat16", "float16", "float32"]),
        (True, "float16", 0.9, "float16", ["float16"]),
        (True, "float16", np.nan, "float32", ["float16", "float32"]),
        (True, "float32", 0.9, "float32", ["float32"]),
    ],
)
def test_auto_tries_half_precision_where_it_is_fast_and_takes_it_where_it_is_accurate(
    card, fastest, error, engine, tried, monkeypatch
):
    network, seen = small_network(), []

    def rebuild(network, engine):
        seen.append(engine)
        return network

    monkeypatch.setattr(module, "has_graphics_card", lambda: card)
    monkeypatch.setattr(module, "fastest_precision", lambda: fastest)
    monkeypatch.setattr(module, "_error", lambda *_: error)
    monkeypatch.setattr(module, "_rebuild", rebuild)
    assert module._fastest_accurate(network) == (engine, network)
    assert seen == tried


def test_the_largest_difference_counts_alpha_and_rgb_by_their_ranges():
    zeros = np.zeros((1, 2, 2, 1)), np.zeros((1, 2, 2, 3))
    assert module._error(zeros, (zeros[0] + 0.1, zeros[1])) == pytest.approx(25.5)
    assert module._error(zeros, (zeros[0], zeros[1] - 0.1)) == pytest.approx(12.75)


def test_a_convolution_by_rows_is_the_convolution():
    x = np.random.default_rng(0).normal(size=(2, 7, 9, 4)).astype("float32")
    plain = layers.Conv2D(3, 5, padding="same", activation="tanh")
    plain.build(x.shape)
    plain.bias.assign([0.1, -0.2, 0.3])
    ours = FewChannelConv2D.from_config(plain.get_config())
    ours.build(x.shape)
    ours.set_weights(plain.get_weights())
    np.testing.assert_allclose(
        ops.convert_to_numpy(ours(x)), ops.convert_to_numpy(plain(x)), atol=1e-5
    )


def test_faces_do_not_depend_on_those_beside_them(float32, faces):
    together = sharing(float32, 4)(faces)
    for index in range(len(faces)):
        alone = float32(faces[index : index + 1])
        for whole, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(whole[index], one[0], atol=0.01)


def test_faces_of_several_frames_and_tracks_go_through_the_network_together(
    checkpoint, faces, float32, monkeypatch
):
    monkeypatch.setattr(module, "FaceGenerator", lambda *_: sharing(float32, 4))
    swapper = FaceSwapper(checkpoint.parents[1])
    swapper._generator._run = network = Breaking(float32._run, 4)
    points = np.array([[20, 26], [44, 26], [32, 40], [23, 50], [41, 50]], float)
    tracks = [Face(np.array([8.0, 8, 56, 56]), points + x, 1.0) for x in (0, 3)]
    chunks = [(faces, [tracks] * 5), (faces[:1], [[]]), (faces[:2], [tracks] * 2)]
    swapped = [len(of_chunk) for of_chunk, _ in swapper.stream(chunks)]
    assert swapped == [5, 1, 2]
    assert network.sizes == [4, 4, 2, 4]  # 5 frames of 2 faces, none, 2 frames of 2


@pytest.mark.parametrize(("card", "size"), [(True, 64), (False, 16)])
def test_a_card_takes_more_faces_at_once(checkpoint, card, size, monkeypatch):
    monkeypatch.setattr(module, "has_graphics_card", lambda: card)
    assert FaceGenerator(checkpoint, "b", "keras").batch_size == size
    assert FaceGenerator(checkpoint, "b", "keras", 3).batch_size == 3


def test_batches_are_halved_until_the_memory_suffices(float32, faces, caplog):
    expected = float32(faces)
    generator = sharing(float32, 8)
    generator._run = Breaking(generator._run, 2)
    for ours, exact in zip(generator(faces), expected, strict=True):
        np.testing.assert_allclose(ours, exact, atol=0.01)
    assert generator._run.sizes == [5, 4, 2, 2, 1]
    assert [r.levelname for r in caplog.records].count("WARNING") == 2
    generator._run.most = 0
    with pytest.raises(MemoryError, match="out of memory for one face of 64 pixels"):
        generator(faces)
