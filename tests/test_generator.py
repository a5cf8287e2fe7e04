import os
import subprocess
import sys
from copy import copy
from importlib.util import find_spec

import keras
import numpy as np
import pytest
from keras import layers, ops
from skimage.data import astronaut

from fsgan.models.checkpoint import load_generator, save_checkpoint
from fsgan.models.networks import ModelConfig
from fsgan.swap import generator as module
from fsgan.swap.generator import FaceGenerator, FewChannelConv2D, SelfAttention
from fsgan.swap.swapper import ENGINES
from fsgan.training.gan import FaceSwapGAN

BACKENDS = [b for b in ("tensorflow", "jax", "torch") if find_spec(b)]

EVERY_ENGINE = """
import sys
from pathlib import Path
import keras
import numpy as np
from fsgan.models.checkpoint import load_generator
from fsgan.swap.generator import FaceGenerator
from fsgan.swap.swapper import ENGINES

checkpoint, faces = Path(sys.argv[1]), np.load(sys.argv[2])
exact = load_generator(checkpoint, "a").predict_on_batch(faces / np.float32(127.5) - 1)
alpha, rgb = (keras.ops.convert_to_numpy(x) for x in exact)
for engine in ENGINES:
    generator = FaceGenerator(checkpoint, "a", engine, batch_size=2)
    ours = generator(faces)
    assert [x.shape[0] for x in generator(faces[:0])] == [0, 0]
    errors = 255 * abs(ours[0] - alpha), abs(ours[1] - (rgb + 1) * 127.5)
    print(engine, generator.engine, max(x.max() for x in errors))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small generator whose attention has something to say."""
    keras.utils.set_random_seed(0)
    model = ModelConfig(64, "lite", discriminators=False, latent=64, coverage=0.75)
    gan = FaceSwapGAN(model)
    for network in gan.networks.values():
        for layer in network.layers:
            if isinstance(layer, SelfAttention):
                layer.scale.gamma.assign([0.05])
    settings = {"model": model, "iteration": 0}
    return save_checkpoint(tmp_path_factory.mktemp("model"), gan.networks, {}, settings)


@pytest.fixture(scope="module")
def faces():
    photo = astronaut()
    starts = (60, 70, 80, 90, 100)
    return np.stack([photo[s : s + 64, s + 110 : s + 174] for s in starts])


@pytest.fixture(scope="module")
def float32(checkpoint):
    return FaceGenerator(checkpoint, "a", "float32")


def sharing(generator, batch_size):
    """The same with other batches: compiling takes a second."""
    generator = copy(generator)
    generator.batch_size = batch_size
    return generator


class Breaking:
    """An engine whose memory suffices for so many faces."""

    def __init__(self, run, most):
        self.run, self.most, self.sizes = run, most, []

    def __call__(self, faces):
        self.sizes.append(len(faces))
        if len(faces) > self.most:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating tensor")
        return self.run(faces)


def test_alpha_and_rgb_are_those_of_the_network_in_their_ranges(checkpoint, faces):
    exact = load_generator(checkpoint, "b").predict_on_batch(faces / 127.5 - 1)
    generator = FaceGenerator(checkpoint, "b", "keras")
    alpha, rgb = generator(faces)
    assert alpha.dtype == rgb.dtype == np.float32
    np.testing.assert_allclose(alpha, exact[0], atol=1e-4)
    np.testing.assert_allclose(rgb, (exact[1] + 1) * 127.5, atol=0.01)
    assert rgb.max() > 1 and rgb.min() >= 0 and rgb.max() <= 255
    assert (generator.resolution, generator.coverage) == (64, 0.75)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_engine_agrees_with_keras_on(backend, checkpoint, faces, tmp_path):
    np.save(tmp_path / "faces.npy", faces[:2])
    done = subprocess.run(
        [sys.executable, "-c", EVERY_ENGINE, checkpoint, tmp_path / "faces.npy"],
        env=os.environ
        | {"KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert tuple(row[0] for row in rows) == ENGINES
    bounds = {"auto": 2, "bfloat16": 40, "mixed": 4, "float32": 0.1, "keras": 0.1}
    for asked, engine, error in rows:
        assert asked == "auto" or engine == asked
        assert float(error) < bounds[asked], (asked, engine)
    if backend == "jax":
        assert rows[0][1] == "float32"


@pytest.mark.parametrize(("error", "engine"), [(0.9, "bfloat16"), (1.1, "float32")])
def test_auto_takes_bfloat16_only_where_the_faces_stay_the_same(
    error, engine, checkpoint, monkeypatch
):
    monkeypatch.setattr(module, "fastest_precision", lambda: "bfloat16")
    monkeypatch.setattr(module, "_error", lambda *_: error)
    assert FaceGenerator(checkpoint, "a").engine == engine


def test_auto_is_float32_where_bfloat16_is_slow(checkpoint, monkeypatch):
    monkeypatch.setattr(module, "fastest_precision", lambda: "float32")
    assert FaceGenerator(checkpoint, "a").engine == "float32"


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
    generator = sharing(float32, 4)
    together = generator(faces)
    for index in range(len(faces)):
        for whole, one in zip(
            together, generator(faces[index : index + 1]), strict=True
        ):
            np.testing.assert_allclose(whole[index], one[0], atol=0.01)


def test_batches_are_halved_until_the_memory_suffices(float32, faces, caplog):
    generator = sharing(float32, 8)
    expected = generator(faces)
    generator._run = Breaking(generator._run, 2)
    for ours, exact in zip(generator(faces), expected, strict=True):
        np.testing.assert_allclose(ours, exact, atol=0.01)
    assert generator._run.sizes == [5, 4, 2, 2, 1]
    generator(faces)
    assert generator._run.sizes[5:] == [2, 2, 1]
    assert [r.levelname for r in caplog.records].count("WARNING") == 2


def test_one_face_too_many_for_the_memory_is_one_sentence(float32, faces):
    generator = sharing(float32, 4)
    generator._run = Breaking(generator._run, 0)
    with pytest.raises(MemoryError, match="out of memory for one face of 64 pixels"):
        generator(faces)


def test_other_errors_pass_through(float32, faces):
    generator = sharing(float32, 4)

    def run(_):
        raise RuntimeError("no such kernel")

    generator._run = run
    with pytest.raises(RuntimeError, match="no such kernel"):
        generator(faces)


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 128, 128, 3), np.uint8), np.zeros((2, 64, 64, 3))]
)
def test_faces_of_another_size_or_dtype_are_refused(wrong, float32):
    with pytest.raises(ValueError, match=r"uint8 \(n, 64, 64, 3\) for this model, got"):
        float32(wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", "fastest"), "engine must be 'auto' or one of .* got 'fastest'"),
        (("c",), "person must be 'a' or 'b', got 'c'"),
        (("a", "auto", 0), "batch_size must be at least 1, got 0"),
    ],
)
def test_unknown_arguments_are_refused(arguments, message, checkpoint):
    with pytest.raises(ValueError, match=message):
        FaceGenerator(checkpoint, *arguments)
