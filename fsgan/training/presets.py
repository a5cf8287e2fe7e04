"""The ancestors of the full model: one code, an idea more each time.

`single` learns to paint one person through a narrow bottleneck. `autoencoder` (the
first deepfakes) adds the second person: the encoder is shared, the decoders are not, so
a face may go in as A and come out as B. `gan` adds the attention mask, discriminators
and the losses on eyes, edges and features.
"""

from dataclasses import replace
from typing import NamedTuple

from fsgan.models.networks import ModelConfig
from fsgan.training.losses import LossWeights


class Preset(NamedTuple):
    """What to train, and for what.

    Attributes:
        model: the architecture, for `fsgan.train(model=...)`.
        losses: the weights, for `TrainSettings(losses=...)`.
    """

    model: ModelConfig
    losses: LossWeights


_ONLY_RECONSTRUCTION = LossWeights(
    adversarial=0, eyes=0, edge=0, perceptual=0, sparsity=0, hinge=0, total_variation=0
)
_PLAIN = ModelConfig(norm="none", attention=False, mask=False, discriminators=False)
PRESETS = {
    "single": Preset(replace(_PLAIN, people=1, latent=16), _ONLY_RECONSTRUCTION),
    "autoencoder": Preset(_PLAIN, _ONLY_RECONSTRUCTION),
    "gan": Preset(ModelConfig(), LossWeights()),
}


def preset(name: str, resolution: int = 64, capacity: str = "standard") -> Preset:
    """Looks up an architecture and its losses by name.

    Args:
        name: "single": strided convolutions to 16 numbers and back, one person, mean
            absolute error. "autoencoder": a shared encoder to 8x8x512, a decoder for
            each of two persons, mean absolute error. "gan": everything.
        resolution: side of the network's images, pixels: 64, 128 or 256.
        capacity: "standard", or "lite" with half the width.

    Returns:
        The architecture and the weights of the losses.

    Raises:
        ValueError: a value is not one of these.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    model, losses = PRESETS[name]
    return Preset(replace(model, resolution=resolution, capacity=capacity), losses)
