"""From weight files of faceswap-GAN v2.2 (2018) to a model of ours.

The original saves five HDF5 files of Keras 2, and its networks see BGR. Weights are
taken in the order of the files, which is also that of our networks.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np

from fsgan.models.checkpoint import (
    latest_checkpoint,
    read_keras2_weights,
    save_checkpoint,
)
from fsgan.models.networks import ModelConfig, build_networks

log = logging.getLogger(__name__)

FILES = {
    "encoder": "encoder.h5",
    "decoder_a": "decoder_A.h5",
    "decoder_b": "decoder_B.h5",
    "discriminator_a": "netDA.h5",
    "discriminator_b": "netDB.h5",
}
"""Our name of each network -> the original's file of it."""

_CAPACITIES = {64: "standard", 32: "lite"}  # by channels of the encoder's first conv
_RESOLUTIONS = {5: 64, 6: 128, 7: 256}  # by 3x3 convs in the encoder, upscale included
# By the number of weights in a norm layer, and whether they have a value a channel.
_NORMS = {
    (2, False): ("instancenorm",),
    (2, True): ("groupnorm", "layernorm"),
    (4, True): ("batchnorm",),
}
_NORM_NAMES = "the norm instancenorm, layernorm, groupnorm, batchnorm or none"


def import_legacy(
    weights_dir: str | Path,
    model_dir: str | Path,
    *,
    norm: str | None = None,
    coverage: float = 0.8,
) -> Path:
    """Turns weights of faceswap-GAN v2.2 into a model to convert with or to train on.

    Training goes on with fresh moments, from the start of its schedule. With
    `batchnorm`, whose statistics the original never updated, training on changes the
    output from the first iteration.

    Args:
        weights_dir: Folder of `encoder.h5`, `decoder_A.h5` and `decoder_B.h5`. Where
            `netDA.h5` or `netDB.h5` is missing, that discriminator starts fresh.
        model_dir: Folder of the new model, for `fsgan.convert_video` and `fsgan.train`.
        norm: The norm trained with. Needed only between "groupnorm" and "layernorm",
            whose files look alike; None takes what the encoder's shapes tell.
        coverage: Share of a crop's width that the networks see, 0.1 to 1.6. 0.8 is the
            original's conversion (`roi_coverage` 0.9 cut 10 % from each side); 0.68,
            the middle of its training, shows the networks what they know best.

    Returns:
        The checkpoint's folder, of iteration 0.

    Raises:
        FileNotFoundError: The encoder or a decoder is missing.
        FileExistsError: `model_dir` already holds a model.
        ValueError: A file is damaged or of another model, or an argument is wrong.
    """
    ModelConfig(coverage=coverage)  # refuses what no model may have
    if latest_checkpoint(model_dir):
        raise FileExistsError(
            f"{model_dir} already holds a model: import into another folder"
        )
    config, weights = read_legacy(weights_dir, norm)
    config = replace(config, coverage=coverage)
    networks = build_networks(config)
    for name, network in networks.items():
        path = Path(weights_dir) / FILES[name]
        if name not in weights:
            log.warning("no file %s: the %s starts fresh", path, name)
            continue
        shapes = [tuple(variable.shape) for variable in network.weights]
        if [array.shape for array in weights[name]] != shapes:
            raise ValueError(
                f"{path} does not fit the architecture that {FILES['encoder']} is of: "
                f"give the files of one model, trained with {_NORM_NAMES}"
            )
        network.set_weights(weights[name])
    return save_checkpoint(model_dir, networks, {}, {"model": config, "iteration": 0})


def read_legacy(
    folder: str | Path, norm: str | None = None
) -> tuple[ModelConfig, dict[str, list[np.ndarray]]]:
    """Reads weights of faceswap-GAN v2.2 and the architecture they are of.

    Args:
        folder: As `weights_dir` of `import_legacy`.
        norm: As of `import_legacy`.

    Returns:
        The architecture, and for each network that has a file its weights in RGB,
        float32, in the order of `set_weights`.

    Raises:
        FileNotFoundError: The encoder or a decoder is missing.
        ValueError: A file is damaged, or not one of faceswap-GAN v2.2; or `norm` is
            missing or contradicts the files.
    """
    layers = {}
    for name, file in FILES.items():
        path = Path(folder) / file
        if path.is_file():
            # Scales and offsets of the original's group norm are (1, 1, 1, channels).
            layers[name] = [
                [x.ravel() if x.shape[:3] == (1, 1, 1) else x for x in layer]
                for layer in read_keras2_weights(path).values()
            ]
        elif not name.startswith("discriminator"):
            raise FileNotFoundError(
                f"no file {path}: give the folder with encoder.h5, decoder_A.h5 and "
                "decoder_B.h5 of faceswap-GAN v2.2"
            )
    config = _infer_config(layers["encoder"], norm, Path(folder) / FILES["encoder"])
    return config, {
        name: swap_red_and_blue([array for layer in of_network for array in layer])
        for name, of_network in layers.items()
    }


def swap_red_and_blue(weights: list[np.ndarray]) -> list[np.ndarray]:
    """Turns a network's weights, as of `get_weights`, from BGR to RGB, or back."""
    swapped = []
    for array in weights:
        # Only what reads images has 3 or, two at once, 6 channels in; only what makes
        # them has 3 channels out.
        if array.ndim == 4 and array.shape[2] in (3, 6):
            array = array[:, :, [2, 1, 0, 5, 4, 3][: array.shape[2]]]
        elif array.shape[-1:] == (3,):
            array = array[..., ::-1]
        swapped.append(array)
    return swapped


def _infer_config(
    encoder: list[list[np.ndarray]], norm: str | None, path: Path
) -> ModelConfig:
    """The architecture whose encoder has these layers."""
    kernels = [layer[0].shape for layer in encoder if layer[0].ndim == 4]
    sizes = [kernel[:2] for kernel in kernels]
    vectors = [layer for layer in encoder if layer[0].ndim == 1 and len(layer) > 1]
    kinds = {(len(layer), layer[0].size > 1) for layer in vectors}
    try:
        resolution = _RESOLUTIONS[sizes.count((3, 3))]
        capacity = _CAPACITIES[kernels[0][-1]]
        [norms] = [_NORMS[kind] for kind in kinds] or [("none",)]
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path} is not an encoder of faceswap-GAN v2.2: give the folder of such a "
            f"model, trained with {_NORM_NAMES}"
        ) from error
    if norm not in (norms if len(norms) > 1 else (None, *norms)):
        raise ValueError(
            f"norm must be {' or '.join(map(repr, norms))} for {path}, got {norm!r}"
        )
    return ModelConfig(
        resolution=resolution,
        capacity=capacity,
        norm=norm or norms[0],
        attention=(1, 1) in sizes,
    )
