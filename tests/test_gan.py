import random

import keras
import numpy as np
import pytest

from fsgan import losses
from fsgan.dataset import Batch
from fsgan.gan import FaceSwapGAN, MaskTerms
from fsgan.models import ModelConfig

CONFIG = ModelConfig(64, "lite", "instancenorm", attention=False)
WEIGHTS = losses.LossWeights()


def make_batch(seed=0):
    rng = np.random.default_rng(seed)

    def pictures(channels):
        return rng.uniform(-1, 1, (2, 64, 64, channels)).astype(np.float32)

    sides = [p for _ in "ab" for p in (pictures(3), pictures(3), abs(pictures(1)))]
    return Batch(*sides, np.float32(0.3), np.float32(0.7))


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
    assert MaskTerms.of(WEIGHTS, None) == (np.float32(0.01), 0, 0)


def test_with_a_margin_the_mask_is_asked_to_reach_it():
    assert MaskTerms.of(WEIGHTS, 0.4) == (0, np.float32(0.1), np.float32(0.4))


def test_a_step_reports_the_losses_of_the_networks_before_it(gan):
    batch = make_batch()
    latent = gan.networks["encoder"](batch.warped_b)
    alpha, rgb = gan.networks["decoder_b"](latent)
    fake = alpha * rgb + (1 - alpha) * batch.warped_b

    def score(images):
        pair = keras.ops.concatenate([images, batch.warped_b], axis=-1)
        return np.array(gan.networks["discriminator_b"](pair))

    mix = 0.3
    expected = {
        "discriminator_b": np.mean(
            (score(mix * batch.target_b + (1 - mix) * fake) - mix) ** 2
        )
        + np.mean((score(mix * batch.target_b + (1 - mix) * rgb) - mix) ** 2),
        "reconstruction_b": np.mean(np.abs(rgb - batch.target_b)),
        "eyes_b": 30 * losses.eyes_loss(batch.target_b, rgb, batch.eyes_b),
        "edge_b": 0.1 * losses.edge_loss(batch.target_b, rgb),
        "mask_b": 0.1 * np.mean(np.maximum(0.4 - np.array(alpha), 0))
        + 0.1 * losses.mask_total_variation_loss(alpha),
    }
    logs = gan.train_on_batch(batch, MaskTerms.of(WEIGHTS, 0.4))
    found = {name: logs[name] for name in expected}
    assert found == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-4
    )


def test_a_step_updates_every_weight_of_all_five_networks(gan):
    before = all_values(gan)
    gan.train_on_batch(make_batch(), MaskTerms.of(WEIGHTS, None))
    after = all_values(gan)
    assert [key for key in before if np.array_equal(before[key], after[key])] == []


def test_a_change_of_phase_keeps_moments_and_recompiles_nothing(gan):
    gan.train_on_batch(make_batch(), MaskTerms.of(WEIGHTS, None))
    compiled = gan._compiled_step.experimental_get_tracing_count()
    optimizer = gan.optimizers["generator"]
    moments = [v.numpy() for v in optimizer.variables[2:6]]
    gan.set_learning_rate(0.3)
    for kept, now in zip(moments, optimizer.variables[2:6], strict=True):
        np.testing.assert_array_equal(kept, now.numpy())
    gan.train_on_batch(make_batch(), MaskTerms.of(WEIGHTS, 0.5))
    assert float(optimizer.learning_rate) == pytest.approx(0.3e-4)
    assert gan._compiled_step.experimental_get_tracing_count() == compiled
    gan.set_learning_rate(1)


def test_the_generators_loss_leaves_the_discriminators_alone(gan):
    generator = {v.path for v in gan.variables("generator")}
    discriminator = {v.path for v in gan.variables("discriminator")}
    counted = sum(len(n.trainable_variables) for n in gan.networks.values())
    assert len(gan.variables("generator")) + len(gan.variables("discriminator")) == (
        counted
    )
    assert generator.isdisjoint(discriminator)


def test_the_decoders_start_alike_and_part_with_the_first_step():
    gan, faces = FaceSwapGAN(CONFIG, WEIGHTS), make_batch().warped_a

    def pictures(part):
        return [gan.generate(faces, person)[part] for person in "ab"]

    assert pictures(0)[0].shape == (2, 64, 64, 1)
    assert pictures(1)[0].shape == (2, 64, 64, 3)
    np.testing.assert_array_equal(*pictures(1))
    gan.train_on_batch(make_batch(), MaskTerms.of(WEIGHTS, None))
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
    batch = Batch(pair_a, pair_a, eyes, pair_b, pair_b, eyes, *np.float32([0.3, 0.7]))
    gan = FaceSwapGAN(CONFIG, losses.LossWeights(adversarial=0))
    terms = MaskTerms.of(WEIGHTS, None)
    logs = [gan.train_on_batch(batch, terms) for _ in range(60)]
    for name in ("reconstruction_a", "reconstruction_b"):
        assert np.mean([log[name] for log in logs[-10:]]) < 0.2 * logs[0][name]
