import random

import keras
import numpy as np
import pytest

from fsgan.data.dataset import Batch, Samples
from fsgan.models.networks import ModelConfig
from fsgan.models.precision import computing_in
from fsgan.models.vggface import preprocess
from fsgan.training import losses
from fsgan.training.gan import FaceSwapGAN
from fsgan.training.objective import PhaseTerms
from fsgan.training.presets import PRESETS, preset

CONFIG = ModelConfig(64, "lite", "instancenorm", attention=False)
WEIGHTS = losses.LossWeights()
SPARSE = PhaseTerms.of(WEIGHTS, None, False)


def make_batch(seed=0, people=2):
    rng = np.random.default_rng(seed)

    def pictures(channels):
        return rng.uniform(-1, 1, (2, 64, 64, channels)).astype(np.float32)

    sides = [Samples(pictures(3), pictures(3), abs(pictures(1))) for _ in range(people)]
    return Batch(tuple(sides), np.float32(0.3), np.float32(0.7))


@pytest.fixture(scope="module")
def gan():
    return FaceSwapGAN(CONFIG, WEIGHTS)


def all_values(gan):
    return {
        (name, i): array
        for name, network in gan.networks.items()
        for i, array in enumerate(network.get_weights())
    }


def test_without_a_margin_the_mask_is_asked_to_be_sparse():
    assert tuple(SPARSE) == (0, np.float32(0.01), 0, 0)


def test_with_a_margin_the_mask_is_asked_to_reach_it():
    expected = (1, 0, np.float32(0.1), np.float32(0.4))
    assert PhaseTerms.of(WEIGHTS, 0.4, True) == expected


def test_a_step_reports_the_losses_of_the_networks_before_it(gan):
    batch = make_batch()
    distorted, real, eyes = batch.sides[1]
    latent = gan.networks["encoder"](distorted)
    alpha, rgb = gan.networks["decoder_b"](latent)
    fake = alpha * rgb + (1 - alpha) * distorted

    def score(images):
        pair = keras.ops.concatenate([images, distorted], axis=-1)
        return np.array(gan.networks["discriminator_b"](pair))

    mix = 0.3
    expected = {
        "discriminator_b": np.mean((score(mix * real + (1 - mix) * fake) - mix) ** 2)
        + np.mean((score(mix * real + (1 - mix) * rgb) - mix) ** 2),
        "reconstruction_b": np.mean(np.abs(rgb - real)),
        "eyes_b": 30 * losses.eyes_loss(real, rgb, eyes),
        "edge_b": 0.1 * losses.edge_loss(real, rgb),
        "mask_b": 0.1 * np.mean(np.maximum(0.4 - np.array(alpha), 0))
        + 0.1 * losses.mask_total_variation_loss(alpha),
    }
    logs = gan.train_on_batch(PhaseTerms.of(WEIGHTS, 0.4, False), batch)
    found = {name: logs[name] for name in expected}
    assert found == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )


def test_a_step_updates_every_weight_of_all_five_networks(gan):
    before = all_values(gan)
    gan.train_on_batch(SPARSE, make_batch())
    after = all_values(gan)
    assert [key for key in before if np.array_equal(before[key], after[key])] == []


def features():
    """A stand-in for VGGFace: four maps of the picture, deepest first."""
    picture = keras.Input((224, 224, 3))
    maps = [keras.layers.AveragePooling2D(size)(picture) for size in (32, 8, 4, 2)]
    return keras.Model(picture, maps)


def test_a_change_of_phase_keeps_moments_and_recompiles_nothing():
    gan = FaceSwapGAN(CONFIG, WEIGHTS, vggface=features())
    traces, generate = [], gan._generate
    gan._generate = lambda *arguments: traces.append(1) or generate(*arguments)
    logs = gan.train_on_batch(SPARSE, make_batch())
    assert logs["perceptual_a"] == logs["perceptual_b"] == 0
    optimizer = gan.optimizers["generator"]
    moments = [v.numpy() for v in optimizer.variables[2:6]]
    gan.set_learning_rate(0.3)
    for kept, now in zip(moments, optimizer.variables[2:6], strict=True):
        np.testing.assert_array_equal(kept, now.numpy())
    logs = gan.train_on_batch(PhaseTerms.of(WEIGHTS, 0.5, True), make_batch())
    assert logs["perceptual_a"] > 0
    assert float(optimizer.learning_rate) == pytest.approx(0.3e-4)
    assert len(traces) == 1


def test_the_perceptual_loss_sees_raw_and_composed_faces_mixed():
    gan, batch = FaceSwapGAN(CONFIG, WEIGHTS, vggface=features()), make_batch()
    sample, mix = batch.sides[1], batch.mix_perceptual
    alpha, rgb = gan.generate(sample.warped, "b")
    fake = alpha * rgb + (1 - alpha) * sample.warped
    maps = [
        [np.array(m) for m in gan.vggface(preprocess(picture))]
        for picture in (sample.target, mix * rgb + (1 - mix) * fake)
    ]
    expected = float(losses.perceptual_loss(*maps))
    logs = gan.train_on_batch(PhaseTerms.of(WEIGHTS, None, True), batch)
    assert logs["perceptual_b"] == pytest.approx(expected, rel=1e-3)


def test_the_cyclic_loss_goes_to_the_other_face_and_back():
    weights = losses.LossWeights(cyclic=10)
    gan, batch = FaceSwapGAN(CONFIG, weights), make_batch()
    real = batch.sides[0].target
    alpha, swapped = gan.generate(real, "b")
    back_alpha, back = gan.generate(swapped, "a")
    expected = np.mean(np.abs(back - real)) + 0.1 * np.mean(np.abs(back_alpha - alpha))
    logs = gan.train_on_batch(SPARSE, batch)
    assert logs["cyclic_a"] == pytest.approx(10 * expected, rel=1e-3)


def test_separate_updates_take_their_turns():
    separate = FaceSwapGAN(CONFIG, WEIGHTS, updates="separate")
    fused = FaceSwapGAN(CONFIG, WEIGHTS)
    assert separate.batches_per_step == 2
    assert list(separate.optimizers) == [
        "generator_a",
        "generator_b",
        "discriminator_a",
        "discriminator_b",
    ]
    first, second = make_batch(0), make_batch(1)
    before = all_values(separate)
    logs = separate.train_on_batch(SPARSE, first, second)
    after = all_values(separate)
    assert [key for key in before if np.array_equal(before[key], after[key])] == []
    # The discriminators come first, on the first batch; then A, on the second.
    expected = fused.train_on_batch(SPARSE, first)
    for name in ("discriminator_a", "discriminator_b"):
        assert logs[name] == pytest.approx(expected[name], rel=1e-4)
    _, rgb = FaceSwapGAN(CONFIG, WEIGHTS).generate(second.sides[0].warped, "a")
    error = np.mean(np.abs(rgb - second.sides[0].target))
    assert logs["reconstruction_a"] == pytest.approx(error, rel=1e-4)
    # B's encoder has already moved with A's loss.
    _, rgb = FaceSwapGAN(CONFIG, WEIGHTS).generate(second.sides[1].warped, "b")
    error = np.mean(np.abs(rgb - second.sides[1].target))
    assert logs["reconstruction_b"] != pytest.approx(error, rel=1e-4)


def test_the_relativistic_loss_trains():
    gan = FaceSwapGAN(CONFIG, WEIGHTS, adversarial_loss="relativistic_avg_lsgan")
    before = all_values(gan)
    logs = gan.train_on_batch(SPARSE, make_batch())
    assert np.isfinite(list(logs.values())).all()
    after = all_values(gan)
    same = {key for key in before if np.array_equal(before[key], after[key])}
    # Only differences of scores count: the last norm's offset may have no gradient.
    assert same <= {("discriminator_a", 6), ("discriminator_b", 6)}
    assert before["discriminator_a", 6].shape == (1,)


def test_swapping_the_decoders_takes_their_moments_along():
    gan = FaceSwapGAN(CONFIG, WEIGHTS)
    gan.train_on_batch(SPARSE, make_batch())

    def state(side):
        return [np.array(v) for v in gan._decoder_state(side)]

    before = state("a"), state("b")
    encoder = gan.networks["encoder"].get_weights()
    # Two moments for each weight.
    assert len(before[0]) == 3 * len(gan.networks["decoder_a"].weights)
    gan.swap_decoders()
    assert gan.decoders_swapped
    for old, new in zip(before, (state("b"), state("a")), strict=True):
        for one, other in zip(old, new, strict=True):
            np.testing.assert_array_equal(one, other)
    assert any(abs(a - b).max() > 0 for a, b in zip(*before, strict=True))
    for one, other in zip(encoder, gan.networks["encoder"].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_bfloat16_computes_in_it_and_keeps_weights_and_losses_in_float32():
    gan = FaceSwapGAN(CONFIG, WEIGHTS, precision="bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    layer = gan.networks["encoder"].layers[1]
    assert (layer.compute_dtype, layer.variable_dtype) == ("bfloat16", "float32")
    batch = make_batch()
    logs = gan.train_on_batch(SPARSE, batch)
    exact = FaceSwapGAN(CONFIG, WEIGHTS).train_on_batch(SPARSE, batch)
    assert logs == pytest.approx(exact, rel=0.03)
    alpha, rgb = gan.generate(batch.sides[0].warped, "a")
    assert alpha.dtype == rgb.dtype == np.float32


def test_the_autoencoder_has_no_mask_and_no_discriminators():
    model, weights = preset("autoencoder", capacity="lite")
    gan, batch = FaceSwapGAN(model, weights), make_batch()
    assert list(gan.networks) == ["encoder", "decoder_a", "decoder_b"]
    alpha, rgb = gan.generate(batch.sides[0].warped, "a")
    np.testing.assert_array_equal(alpha, 1)
    logs = gan.train_on_batch(SPARSE, batch)
    error = np.mean(np.abs(rgb - batch.sides[0].target))
    assert logs["reconstruction_a"] == pytest.approx(error, rel=1e-4)
    others = {key: value for key, value in logs.items() if "reconstruction" not in key}
    assert sum(others.values()) == 0


def test_the_single_autoencoder_knows_one_person_by_sixteen_numbers():
    model, weights = preset("single", capacity="lite")
    gan = FaceSwapGAN(model, weights)
    assert list(gan.networks) == ["encoder", "decoder_a"]
    widths = [
        layer.units
        for layer in gan.networks["encoder"].layers[5:]
        if hasattr(layer, "units")
    ]
    assert widths[0] == 16
    logs = gan.train_on_batch(SPARSE, make_batch(people=1))
    assert logs["reconstruction_a"] > 0
    assert not [key for key in logs if key.endswith("_b")]


def test_the_presets_differ_by_their_ideas():
    assert list(PRESETS) == ["single", "autoencoder", "gan"]
    single, autoencoder, gan = (model for model, _ in PRESETS.values())
    assert (single.people, autoencoder.people) == (1, 2)
    assert (single.latent_width, autoencoder.latent_width) == (16, 1024)
    assert (autoencoder.mask, autoencoder.discriminators) == (False, False)
    assert (gan.mask, gan.discriminators, gan.attention) == (True, True, True)
    assert preset("autoencoder", 128, "lite").model.latent_width == 2048
    with pytest.raises(ValueError, match="single, autoencoder, gan, got 'vae'"):
        preset("vae")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"adversarial_loss": "wgan"}, "'mixup_lsgan' or 'relativistic_avg_lsgan'"),
        ({"updates": "both"}, "updates must be 'fused' or 'separate', got 'both'"),
        ({"precision": "float16"}, "precision must be 'float32' or 'bfloat16'"),
    ],
)
def test_unknown_options_are_named(option, message):
    with pytest.raises(ValueError, match=message):
        FaceSwapGAN(CONFIG, WEIGHTS, **option)


def test_a_cycle_needs_two_persons():
    model, _ = preset("single", capacity="lite")
    with pytest.raises(ValueError, match="needs two persons"):
        FaceSwapGAN(model, losses.LossWeights(cyclic=10))


def test_a_failure_while_building_restores_the_precision():
    with pytest.raises(ZeroDivisionError), computing_in("bfloat16"):
        raise ZeroDivisionError
    assert keras.config.dtype_policy().name == "float32"


def test_the_generators_loss_leaves_the_discriminators_alone(gan):
    generator = {v.path for v in gan.variables("generator")}
    discriminator = {v.path for v in gan.variables("discriminator")}
    counted = sum(len(n.trainable_variables) for n in gan.networks.values())
    assert len(gan.variables("generator")) + len(gan.variables("discriminator")) == (
        counted
    )
    assert generator.isdisjoint(discriminator)


def test_the_decoders_start_alike_and_part_with_the_first_step():
    gan, faces = FaceSwapGAN(CONFIG, WEIGHTS), make_batch().sides[0].warped

    def pictures(part):
        return [gan.generate(faces, person)[part] for person in "ab"]

    assert pictures(0)[0].shape == (2, 64, 64, 1)
    assert pictures(1)[0].shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(*pictures(1))
    gan.train_on_batch(SPARSE, make_batch())
    for part in (0, 1):
        one, two = pictures(part)
        assert np.abs(one - two).max() > 1e-3


def test_the_seed_fixes_the_weights_and_nothing_else():
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first, same, other = (
        all_values(FaceSwapGAN(CONFIG, WEIGHTS, seed=seed)) for seed in (1, 1, 2)
    )
    assert random.random() == expected
    assert all(np.array_equal(first[key], same[key]) for key in first)
    key = ("encoder", 0)
    assert not np.array_equal(first[key], other[key])


def test_training_on_one_face_learns_it():
    # Smooth faces: noise could only be learnt pixel by pixel. No adversarial loss: its
    # game swings the reconstruction up and down, by how much depends on the machine.
    rng = np.random.default_rng(1)
    coarse = rng.uniform(-0.5, 0.5, (2, 4, 4, 3)).astype(np.float32)
    face_a, face_b = np.array(keras.ops.image.resize(coarse, (64, 64)))
    eyes = np.zeros((2, 64, 64, 1), np.float32)
    pair_a, pair_b = np.stack([face_a] * 2), np.stack([face_b] * 2)
    sides = Samples(pair_a, pair_a, eyes), Samples(pair_b, pair_b, eyes)
    batch = Batch(sides, *np.float32([0.3, 0.7]))
    gan = FaceSwapGAN(CONFIG, losses.LossWeights(adversarial=0))
    logs = [gan.train_on_batch(SPARSE, batch) for _ in range(60)]
    for name in ("reconstruction_a", "reconstruction_b"):
        assert np.mean([log[name] for log in logs[-10:]]) < 0.2 * logs[0][name]
