"""Complete checkpoints of a training, written so that they are never half there."""

import json
import logging
import os
import shutil
import warnings
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np

from fsgan.models.networks import ModelConfig, build_decoder, build_encoder
from fsgan.training.gan import FaceSwapGAN

log = logging.getLogger(__name__)

SETTINGS = "settings.json"
_FOLDER = "iteration_{:07d}"


def latest_checkpoint(model_dir: str | Path) -> Path | None:
    """Finds the newest checkpoint of a model folder.

    Args:
        model_dir: folder given to `fsgan.train`.

    Returns:
        The checkpoint's folder, or None where there is none.
    """
    found = sorted((Path(model_dir) / "checkpoints").glob("iteration_*"))
    return found[-1] if found else None


def save_checkpoint(
    model_dir: str | Path, gan: FaceSwapGAN, settings: dict, keep: int, backup: int
) -> Path:
    """Writes networks, optimizers, iteration and settings.

    Everything is written to a hidden folder that is renamed when it is complete: a
    checkpoint exists as a whole or not at all.

    Args:
        model_dir: folder of the training.
        gan: what is trained.
        settings: JSON-serialisable; what is needed to go on or to use the model, with
            the architecture under "model".
        keep: number of newest checkpoints to keep, at least 1.
        backup: checkpoints at multiples of this iteration are kept for good.

    Returns:
        The checkpoint's folder.
    """
    folder = Path(model_dir) / "checkpoints" / _FOLDER.format(gan.iteration)
    if folder.exists():
        return folder
    beside = folder.with_name(".unfinished")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, network in gan.networks.items():
        network.save_weights(beside / f"{name}.weights.h5")
    for name, optimizer in gan.optimizers.items():
        state: dict[str, np.ndarray] = {}
        optimizer.save_own_variables(state)
        np.savez(beside / f"optimizer_{name}.npz", **state)
    record = settings | {
        "model": asdict(gan.config),
        "iteration": gan.iteration,
        "decoders_swapped": gan.decoders_swapped,
        "backend": keras.backend.backend(),
    }
    (beside / SETTINGS).write_text(json.dumps(record, indent=1), encoding="utf-8")
    for file in beside.iterdir():
        with open(file, "rb") as written:
            os.fsync(written.fileno())
    os.rename(beside, folder)
    for old in sorted(folder.parent.glob("iteration_*"))[:-keep]:
        if int(old.name.removeprefix("iteration_")) % backup:
            shutil.rmtree(old)
    return folder


def load_checkpoint(folder: Path, gan: FaceSwapGAN) -> None:
    """Puts a checkpoint's state into a model of the same architecture.

    Args:
        folder: the checkpoint, as of `latest_checkpoint`.
        gan: the model; its networks, optimizers and iteration are overwritten.

    Raises:
        ValueError: the architecture differs, or a file is missing or damaged.
    """
    settings = read_settings(folder)
    if ModelConfig(**settings["model"]) != gan.config:
        raise ValueError(
            f"{folder} holds a model with {settings['model']}, not "
            f"{asdict(gan.config)}: use these settings or another model folder"
        )
    for name, network in gan.networks.items():
        _load_weights(network, folder / f"{name}.weights.h5")
    for name, optimizer in gan.optimizers.items() if settings["iteration"] else ():
        with np.load(folder / f"optimizer_{name}.npz") as state:
            optimizer.load_own_variables(state)
    gan.iteration = settings["iteration"]
    gan.decoders_swapped = settings.get("decoders_swapped", False)


def transfer_weights(model_dir: str | Path, gan: FaceSwapGAN, what: str) -> None:
    """Starts a model with the weights of another pair's.

    Args:
        model_dir: folder of the other training.
        gan: the model; its optimizers and iteration stay as they are.
        what: "encoder", or "all" networks.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: the architecture differs, a file is missing or damaged, or `what` is
            neither.
    """
    if what not in ("encoder", "all"):
        raise ValueError(f"transfer must be 'encoder' or 'all', got {what!r}")
    folder = latest_checkpoint(model_dir)
    if folder is None:
        raise FileNotFoundError(
            f"no checkpoint in {model_dir}: start_from takes the model folder of a "
            "training"
        )
    theirs, ours = (
        asdict(ModelConfig(**read_settings(folder)["model"])),
        asdict(gan.config),
    )
    of_decoders = ("mask", "discriminators", "people") if what == "encoder" else ()
    free = ("coverage", *of_decoders)
    differing = [
        f"{name} {theirs[name]!r}, not {value!r}"
        for name, value in ours.items()
        if name not in free and theirs[name] != value
    ]
    if differing:
        raise ValueError(
            f"{model_dir} holds another architecture ({', '.join(differing)}): only a "
            "model of the same one can be started from"
        )
    for name in gan.networks if what == "all" else ("encoder",):
        _load_weights(gan.networks[name], folder / f"{name}.weights.h5")
    log.info("starting with %s of %s", what, folder)


def load_generator(folder: Path, person: str) -> keras.Model:
    """Loads what turns faces into one person's face.

    Args:
        folder: the checkpoint, as of `latest_checkpoint`.
        person: "a" or "b", whose face is generated.

    Returns:
        A model from RGB [-1, 1] (n, R, R, 3) to alpha [0, 1] (n, R, R, 1) and RGB
        [-1, 1] (n, R, R, 3).

    Raises:
        ValueError: a weight file is missing, damaged or of another architecture.
    """
    config = ModelConfig(**read_settings(folder)["model"])
    encoder, decoder = build_encoder(config), build_decoder(config)
    _load_weights(encoder, folder / "encoder.weights.h5")
    _load_weights(decoder, folder / f"decoder_{person}.weights.h5")
    alpha, rgb, *_ = decoder(encoder.output)
    return keras.Model(encoder.input, [alpha, rgb])


def read_settings(folder: Path) -> dict:
    """Reads the settings of a checkpoint.

    Args:
        folder: the checkpoint, as of `latest_checkpoint`.

    Returns:
        The settings: "model", "iteration" and what training added.

    Raises:
        ValueError: the file is missing or damaged.
    """
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        # Older checkpoints say it beside the model.
        settings["model"].setdefault("coverage", settings.get("coverage", 0.8))
        settings["iteration"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / SETTINGS} is missing or damaged: delete the folder {folder} to "
            "use the checkpoint before it"
        ) from error
    return settings


def _load_weights(network: keras.Model, path: Path) -> None:
    """Loads a network's weights or says in one sentence why they do not fit."""
    try:
        with warnings.catch_warnings():
            # Keras only warns where it leaves layers with their random weights.
            warnings.simplefilter("error", UserWarning)
            network.load_weights(path)
    except (OSError, ValueError, KeyError, UserWarning) as error:
        raise ValueError(
            f"{path} is missing, damaged or not the weights of the architecture in "
            f"{SETTINGS} beside it: restore the file, or train in another folder"
        ) from error
