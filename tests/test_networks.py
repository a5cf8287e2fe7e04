from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from fsgan.models.legacy import swap_red_and_blue
from fsgan.models.networks import (
    NORMS,
    ModelConfig,
    build_decoder,
    build_discriminator,
    build_encoder,
    build_networks,
    conv_block,
    discriminator_block,
    residual_block,
    upscale,
)
from fsgan.models.precision import computing_in
from fsgan.training.losses import (
    LossWeights,
    edge_loss,
    eyes_loss,
    lsgan_loss,
    mask_sparsity_loss,
    mask_total_variation_loss,
    reconstruction_loss,
)

pytestmark = pytest.mark.slow

BUILDERS = (build_encoder, build_decoder, build_discriminator)


@pytest.fixture(scope="module")
def golden():
    """Made by running v2.2's blocks, networks and losses on the inputs in the tests.

    Weights as of `recipe_weights`; maps every 2nd, images every 8th pixel, BGR.
    """
    with np.load(Path(__file__).parent / "golden" / "models.npz") as arrays:
        return dict(arrays)


def recipe_weights(model, seed):
    """The original's test weights: seed + k draws the k-th, in the original's order."""
    weights = []
    for k, variable in enumerate(model.weights):
        weight = np.random.RandomState(seed + k).standard_normal(variable.shape)
        if variable.name == "kernel":
            weight /= np.sqrt(np.prod(variable.shape[:-1]))
        else:
            weight *= 0.1
        if variable.name == "gamma":
            weight += 0.5 if "scale" in variable.path else 1
        weights.append(weight.astype("float32"))
    return weights


def build_hollow(builder, config):
    """Builds a model of the right shapes without the memory for its weights."""
    with keras.StatelessScope(initialize_variables=False):
        model = builder(config)
    keras.utils.clear_session()  # else Keras fills them at its next chance: gigabytes
    return model


@pytest.mark.parametrize(
    ("resolution", "capacity", "norm", "attention", "parameters"),
    [
        (256, "standard", "instancenorm", True, (78004878, 6679686, 3009483)),
        (128, "lite", "instancenorm", True, (19045452, 436329, 1878664)),
        (64, "lite", "instancenorm", False, (9963112, 418154, 665604)),
        (128, "standard", "none", False, (68157120, 6501319, 1714176)),
        (64, "standard", "batchnorm", True, (59145858, 6308086, 749377)),
        (64, "standard", "groupnorm", True, (59138178, 6304502, 748609)),
        (64, "standard", "layernorm", True, (59138178, 6304502, 748609)),
    ],
)
def test_networks_have_the_original_s_parameters_and_the_shapes_said(
    resolution, capacity, norm, attention, parameters
):
    config = ModelConfig(resolution, capacity, norm, attention)
    models = [build_hollow(builder, config) for builder in BUILDERS]
    encoder, decoder, discriminator = models
    assert tuple(model.count_params() for model in models) == parameters
    assert encoder.input_shape == (None, resolution, resolution, 3)
    width = 512 if capacity == "standard" else 256
    assert encoder.output_shape == decoder.input_shape == (None, 8, 8, width)
    assert decoder.output_shape == [
        (None, resolution, resolution, 1),
        (None, resolution, resolution, 3),
        *[(None, side, side, 3) for side in (64, 128) if side < resolution],
    ]
    assert discriminator.input_shape == (None, resolution, resolution, 6)
    assert discriminator.output_shape == (None, 8, 8, 1)


LITE = ModelConfig(capacity="lite")


@pytest.mark.parametrize(
    ("name", "seed", "block"),
    [
        ("groupnorm", 60, lambda x: NORMS["groupnorm"]()(x)),
        ("layernorm", 70, lambda x: NORMS["layernorm"]()(x)),
        ("conv_block", 200, lambda x: conv_block(x, 24, norm="instancenorm")),
        ("conv_block_unstrided", 220, lambda x: conv_block(x, 24, strides=1)),
        (
            "discriminator_block",
            240,
            lambda x: discriminator_block(x, 24, norm="instancenorm"),
        ),
        ("residual_block", 260, lambda x: residual_block(x, 32)),
        ("upscale_shuffle", 280, lambda x: upscale(x, 16, ModelConfig())),
        ("upscale_nearest", 300, lambda x: upscale(x, 16, LITE)),
        ("conv_block_odd", 320, lambda x: conv_block(x, 24)),
        ("discriminator_block_odd", 340, lambda x: discriminator_block(x, 24)),
    ],
)
def test_block_is_the_original_one(golden, name, seed, block):
    random = np.random.RandomState(11)
    maps = random.standard_normal((2, 8, 8, 32)).astype("float32")
    if name.endswith("odd"):
        maps = random.standard_normal((2, 7, 9, 32)).astype("float32")
    inputs = keras.Input(maps.shape[1:])
    model = keras.Model(inputs, block(inputs))
    model.set_weights(recipe_weights(model, seed))
    np.testing.assert_allclose(model(maps)[:, ::2, ::2], golden[name], atol=1e-5)
    decay = golden.get(f"{name}_decay", 0)
    np.testing.assert_allclose(sum(model.losses), decay, rtol=1e-5)


def uniform(random, *shape):
    return random.uniform(-1, 1, shape).astype("float32")


def test_networks_and_their_losses_are_the_original_ones(golden):
    encoder, decoder, discriminator = networks = [build(LITE) for build in BUILDERS]
    for network, seed in zip(networks, (1000, 2000, 4000), strict=True):
        network.set_weights(swap_red_and_blue(recipe_weights(network, seed)))

    random = np.random.RandomState(77)
    image = uniform(random, 2, 64, 64, 3)[..., ::-1]
    pair = uniform(random, 2, 64, 64, 6)[..., [2, 1, 0, 5, 4, 3]]
    latent = encoder(image)
    alpha, rgb = map(np.asarray, decoder(latent))
    composed = alpha * rgb + (1 - alpha) * image
    for name, found in {
        "latent": latent[:, ::2, ::2],
        "abgr": np.concatenate([alpha, rgb[..., ::-1]], axis=-1)[:, ::8, ::8],
        "composed": composed[:, ::8, ::8, ::-1],
        "score": discriminator(pair),
    }.items():
        np.testing.assert_allclose(found, golden[name], atol=1e-4, err_msg=name)

    random = np.random.RandomState(79)
    warped = uniform(random, 2, 64, 64, 3)[..., ::-1]
    real = uniform(random, 2, 64, 64, 3)[..., ::-1]
    eyes = (random.uniform(size=(2, 64, 64, 3)) > 0.9).astype("float32")[..., ::-1]
    alpha, rgb = map(np.asarray, decoder(encoder(warped)))
    made = alpha * rgb + (1 - alpha) * warped, rgb

    def score(images):
        return discriminator(np.concatenate([images, warped], axis=-1))

    weights = LossWeights()
    # The original counts the eyes' pixels as reconstruction, their edges as edge.
    eye_pixels = weights.eyes * reconstruction_loss(eyes * real, eyes * rgb)
    eye_edges = weights.eyes * eyes_loss(real, rgb, eyes) - eye_pixels
    terms = [
        weights.adversarial * sum(lsgan_loss(score(x), 1) for x in made),
        reconstruction_loss(real, rgb) + eye_pixels,
        weights.edge * edge_loss(real, rgb) + eye_edges,
    ]
    mask = weights.sparsity * mask_sparsity_loss(alpha)
    mask += weights.total_variation * mask_total_variation_loss(alpha)
    decay = sum(encoder.losses) + sum(decoder.losses)
    mixed = [lsgan_loss(score(0.3 * real + 0.7 * x), 0.3) for x in made]
    discriminator_decay = sum(discriminator.losses)
    for name, found in {
        "generator_decay": decay,
        "discriminator_decay": discriminator_decay,
        "discriminator_loss": sum(mixed) + discriminator_decay,
        "generator_losses": [sum(terms) + mask + decay, *terms],
    }.items():
        np.testing.assert_allclose(found, golden[name], rtol=1e-4, err_msg=name)


def test_kernels_start_as_the_original_ones():
    shuffled = build_decoder(ModelConfig()).get_weights()[0]  # (3, 3, 512, 4·256)
    assert np.isclose(shuffled.std(), 0.02, rtol=0.01)
    np.testing.assert_array_equal(shuffled[..., :256], shuffled[..., 256:512])
    discriminator = build_discriminator(ModelConfig())
    blocks = discriminator.get_weights()[1]  # (4, 4, 64, 128)
    assert np.isclose(blocks.std(), np.sqrt(2 / (4 * 4 * 64)), rtol=0.01)
    kernel = discriminator.get_layer("score").kernel  # (4, 4, 256, 1)
    limit = np.sqrt(6 / (4 * 4 * (256 + 1)))
    assert 0.99 * limit < np.abs(kernel).max() <= limit


@pytest.mark.parametrize("mask", [True, False])
def test_outputs_stay_float32_in_mixed_precision(mask):
    with computing_in("bfloat16"):
        encoder, decoder, discriminator = (
            builder(ModelConfig(64, "lite", mask=mask)) for builder in BUILDERS
        )
    assert encoder.output.dtype == "bfloat16"
    before_outputs = decoder.layers[-1 - len(decoder.outputs)]
    assert before_outputs.output.dtype == "bfloat16"
    assert discriminator.layers[-2].output.dtype == "bfloat16"
    assert {output.dtype for output in decoder.outputs} == {"float32"}
    assert discriminator.output.dtype == "float32"


def test_batchnorm_updates_its_statistics_in_training():
    discriminator = build_discriminator(ModelConfig(norm="batchnorm"))
    before = discriminator.get_weights()
    discriminator(uniform(np.random.RandomState(0), 2, 64, 64, 6), training=True)
    weights = zip(
        discriminator.weights, before, discriminator.get_weights(), strict=True
    )
    changed = {variable.name for variable, old, new in weights if (old != new).any()}
    assert changed == {"moving_mean", "moving_variance"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 100}, "resolution must be 64, 128 or 256, got 100"),
        ({"resolution": 64.0}, r"resolution must be a valid integer, got 64\.0"),
        ({"capacity": "huge"}, "capacity must be 'standard' or 'lite', got 'huge'"),
        ({"norm": "hybrid"}, "'groupnorm', 'batchnorm' or 'none', got 'hybrid'"),
        ({"attention": 1}, "attention must be a valid boolean, got 1"),
        ({"people": True}, "people must be a valid integer, got True"),
        ({"people": 3}, "people must be less than or equal to 2, got 3"),
        ({"latent": 0}, "latent must be greater than or equal to 1, got 0"),
        ({"latent": 8.0}, r"latent must be a valid integer, got 8\.0"),
        ({"latent": 10**9}, "latent must be less than or equal to 65536, got 1000000"),
        ({"coverage": 0.05}, r"coverage must be greater than or equal to 0\.1, got 0"),
        ({"coverage": "all"}, "coverage must be a valid number, got 'all'"),
    ],
)
def test_config_refuses_what_cannot_be_built(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def test_the_latent_follows_the_architecture_unless_it_is_given():
    wide = ModelConfig(128, "lite")
    assert (ModelConfig().latent_width, wide.latent_width) == (1024, 2048)
    assert replace(ModelConfig(), resolution=128, capacity="lite") == wide
    assert replace(ModelConfig(latent=16), resolution=128).latent_width == 16
    # Checkpoints of older versions hold the default as a number.
    assert ModelConfig(latent=1024) == ModelConfig()
    assert ModelConfig(128, "lite", latent=1024).latent_width == 1024


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, "encoder decoder_a decoder_b discriminator_a discriminator_b"),
        ({"people": 1}, "encoder decoder_a discriminator_a"),
        ({"discriminators": False}, "encoder decoder_a decoder_b"),
    ],
)
def test_a_model_has_a_decoder_and_a_discriminator_for_each_person(settings, names):
    config = ModelConfig(capacity="lite", attention=False, **settings)
    assert list(build_hollow(build_networks, config)) == names.split()
