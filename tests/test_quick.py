"""The lean networks: their shapes, their size, and that they compute in float32."""

import keras
import numpy as np
import pytest

from fsgan.models.networks import build_decoder, build_encoder, build_networks
from fsgan.models.precision import computing_in
from fsgan.training.recipes import recipe


@pytest.mark.parametrize("resolution", [64, 96, 128])
def test_maps_are_small_and_parameters_few_at_any_resolution(resolution):
    model, _ = recipe("quick", resolution)
    networks = build_networks(model)
    assert list(networks) == ["encoder", "decoder_a", "decoder_b", "expression"]
    encoder, decoder, _, expression = networks.values()
    assert expression.input_shape == encoder.output_shape
    assert expression.output_shape == (None, 4)
    assert encoder.output_shape == decoder.input_shape == (None, 8, 8, 64)
    image = (None, resolution, resolution)
    assert decoder.output_shape == [(*image, 1), (*image, 3)]
    maps = [
        layer.output.shape
        for network in (encoder, decoder)
        for layer in network.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert max(side for _, side, _, _ in maps) == 32
    assert sum(network.count_params() for network in networks.values()) < 1.7e6


def test_a_wider_network_and_a_wider_latent():
    model, _ = recipe("quick", capacity="standard")
    encoder, decoder = build_encoder(model), build_decoder(model)
    assert encoder.output_shape == decoder.input_shape == (None, 8, 8, 128)
    widths = [x.units for x in encoder.layers if isinstance(x, keras.layers.Dense)]
    assert widths == [model.latent_width, 4 * 4 * 256]


def test_outputs_are_in_range_and_float32_in_mixed_precision():
    model, _ = recipe("quick", 96)
    with computing_in("bfloat16"):
        encoder, decoder = build_encoder(model), build_decoder(model)
    faces = np.random.default_rng(0).uniform(-1, 1, (2, 96, 96, 3)).astype("float32")
    alpha, rgb = decoder(encoder(faces))
    assert alpha.dtype == rgb.dtype == "float32"
    assert np.min(alpha) > 0 and np.max(alpha) < 1
    assert np.min(rgb) > -1 and np.max(rgb) < 1


def test_upscaling_starts_without_checkerboard():
    decoder = build_decoder(recipe("quick", 128).model)
    latent = np.random.default_rng(0).normal(size=(1, 8, 8, 64)).astype("float32")
    _, rgb = decoder(latent)
    blocks = np.reshape(rgb, (32, 4, 32, 4, 3))
    np.testing.assert_allclose(np.ptp(blocks, axis=(1, 3)), 0, atol=1e-6)
