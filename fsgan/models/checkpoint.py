"""Complete checkpoints of a training, written so that they are never half there."""

import errno
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NotRequired

import h5py
import keras
import numpy as np
from pydantic import ConfigDict, Field, FiniteFloat
from typing_extensions import TypedDict

from fsgan.media.files import unfinished
from fsgan.models.networks import ModelConfig, build_decoder, build_encoder
from fsgan.validation import check_file, read_json

log = logging.getLogger(__name__)

SETTINGS = "settings.json"

_MOST_VALUES = 2**28  # in a file of Keras 2: 1 GiB, several times what v2.2 has

Networks = Mapping[str, keras.Model]
Optimizers = Mapping[str, keras.Optimizer]


class _Training(TypedDict, total=False):
    """What is read of the settings of a training, apart from training on."""

    __pydantic_config__ = ConfigDict(extra="allow")
    iterations: Annotated[int, Field(ge=1)]
    validation: Annotated[FiniteFloat, Field(ge=0, lt=1)]
    augmentation: dict[str, Any]


class _Settings(TypedDict):
    """The content of `settings.json`."""

    __pydantic_config__ = ConfigDict(extra="allow")
    model: dict[str, Any]
    iteration: Annotated[int, Field(ge=0)]
    coverage: NotRequired[float]
    decoders_swapped: NotRequired[bool]
    progress: NotRequired[Annotated[FiniteFloat, Field(ge=0, le=1)]]
    seconds: NotRequired[Annotated[FiniteFloat, Field(ge=0)]]
    training: NotRequired[_Training]
    faces: NotRequired[list[list[int]]]


def latest_checkpoint(model_dir: str | Path) -> Path | None:
    """Finds the newest checkpoint of a model folder, as given to `fsgan.train`.

    Returns:
        The checkpoint's folder, or None where there is none.
    """
    found = _checkpoints(model_dir)
    return found[-1] if found else None


def save_checkpoint(
    model_dir: str | Path,
    networks: Networks,
    optimizers: Optimizers,
    settings: dict,
    keep: int = 1,
    backup: int = 5_000,
) -> Path:
    """Writes networks, optimizers and settings, all of them or nothing.

    Args:
        model_dir: Folder of the training.
        networks: The networks by name, as of `build_networks`.
        optimizers: The optimizers by name, built.
        settings: What is needed to go on or to use the model: "model", a `ModelConfig`,
            "iteration", updates done so far, and whatever else JSON holds.
        keep: Number of newest checkpoints to keep, at least 1.
        backup: Checkpoints at multiples of this iteration are kept for good.

    Returns:
        The checkpoint's folder.

    Raises:
        FloatingPointError: A weight or moment is not finite; nothing is written.
        OSError: The folder cannot be written to, or the disk is full.
    """
    iteration = settings["iteration"]
    folder = Path(model_dir) / "checkpoints" / f"iteration_{iteration:07d}"
    if folder.exists():
        return folder
    for name, owner in [*networks.items(), *optimizers.items()]:
        if not _is_finite(owner):
            raise FloatingPointError(
                f"the weights of {name} are not finite at iteration {iteration}, not "
                "saved: train on from the last checkpoint with a smaller learning_rate"
            )
    with unfinished(folder) as place:
        owners = *networks.values(), *optimizers.values()
        values = sum(math.prod(v.shape) for owner in owners for v in owner.variables)
        if shutil.disk_usage(place).free < 4 * values:
            # Found out by writing, it may crash the HDF5 library.
            raise OSError(errno.ENOSPC, "no space left")
        (beside := place / folder.name).mkdir()
        for name, network in networks.items():
            network.save_weights(beside / f"{name}.weights.h5")
        for name, optimizer in optimizers.items():
            state: dict[str, np.ndarray] = {}
            optimizer.save_own_variables(state)
            np.savez(beside / f"optimizer_{name}.npz", **state)
        record = settings | {
            "model": asdict(settings["model"]),
            "backend": keras.backend.backend(),
        }
        (beside / SETTINGS).write_text(json.dumps(record, indent=1), encoding="utf-8")
        for file in beside.iterdir():
            with open(file, "r+b") as written:
                os.fsync(written.fileno())
        os.rename(beside, folder)
    for old in _checkpoints(model_dir)[:-keep]:
        if _iteration(old) % backup:
            shutil.rmtree(old)
    return folder


def load_checkpoint(folder: Path, networks: Networks, optimizers: Optimizers) -> dict:
    """Puts a checkpoint's state into the networks and optimizers of a training.

    Optimizers have to be built; at iteration 0 they stay fresh.

    Returns:
        The settings, as of `read_settings`.

    Raises:
        ValueError: A file is missing, damaged, of another architecture or not finite.
    """
    settings = read_settings(folder)
    _load_weights(folder, networks)
    for name, optimizer in optimizers.items() if settings["iteration"] else ():
        path = folder / f"optimizer_{name}.npz"
        with (
            _refusing(path, optimizer),
            open(path, "rb") as file,
            np.load(file, allow_pickle=False) as state,
        ):
            # As saved: no array takes more memory than its file.
            if any(member.compress_type for member in state.zip.infolist()):
                raise ValueError("compressed")
            optimizer.load_own_variables(state)
    return settings


def transfer_weights(
    model_dir: str | Path, networks: Networks, config: ModelConfig, what: str
) -> None:
    """Starts a model with the weights of another pair's.

    Args:
        model_dir: Folder of the other training.
        networks: What to overwrite, by name.
        config: Their architecture.
        what: "encoder", or "all" networks.

    Raises:
        FileNotFoundError: The folder holds no checkpoint.
        ValueError: The architecture differs, a file is missing or damaged, or `what` is
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
    theirs, ours = asdict(read_settings(folder)["model"]), asdict(config)
    free = {"coverage"}  # no matter of the architecture
    if what == "encoder":
        free |= {"mask", "discriminators", "people"}
        networks = {"encoder": networks["encoder"]}
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
    _load_weights(folder, networks)
    log.info("starting with %s of %s", what, folder)


def load_generator(folder: Path, person: str) -> keras.Model:
    """Loads what turns faces into one person's face.

    Args:
        folder: The checkpoint.
        person: "a" or "b", whose face is generated.

    Returns:
        A model from RGB [-1, 1] (n, R, R, 3) to alpha [0, 1] (n, R, R, 1) and RGB
        [-1, 1] (n, R, R, 3).

    Raises:
        ValueError: As of `load_coders`.
    """
    encoder, decoder = load_coders(folder, person)
    alpha, rgb, *_ = decoder(encoder.output)
    return keras.Model(encoder.input, [alpha, rgb])


def load_coders(folder: Path, people: str) -> list[keras.Model]:
    """Loads the encoder and the decoders of some people.

    Args:
        folder: The checkpoint.
        people: "a", "b" or "ab".

    Returns:
        The encoder, then a decoder for each, as of `fsgan.models.networks`.

    Raises:
        ValueError: The model does not know a person, or a weight file is missing,
            damaged or of another architecture.
    """
    config = read_settings(folder)["model"]
    if not set(people) <= set(config.sides):
        raise ValueError(
            f"the model of {folder} knows one person and cannot put on another's face: "
            "train with the faces of two people"
        )
    networks = {"encoder": build_encoder(config)}
    networks |= {f"decoder_{person}": build_decoder(config) for person in people}
    _load_weights(folder, networks)
    return list(networks.values())


def read_settings(folder: Path) -> dict:
    """Reads the settings of a checkpoint, older ones as if they were written today.

    Returns:
        "model", a `ModelConfig`, "iteration" and what training added.

    Raises:
        ValueError: The file is missing or damaged: which key, and why.
    """
    path = folder / SETTINGS
    remedy = f"restore it, or delete the folder {folder} to use the checkpoint before"
    try:
        settings = read_json(path, _Settings, remedy)
    except OSError as error:
        raise ValueError(f"{path} is missing or cannot be read: {remedy}") from error
    # The coverage was once here and with the augmentation, not part of the model.
    settings.get("training", {}).get("augmentation", {}).pop("coverage", None)
    coverage = {"coverage": settings.pop("coverage", 0.8)}
    try:
        settings["model"] = ModelConfig(**coverage | settings["model"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged (model: {error}): {remedy}") from error
    return settings


def read_keras2_weights(path: Path) -> dict[str, list[np.ndarray]]:
    """Reads a weight file of Keras 2, which Keras 3 only loads into its own layers.

    Args:
        path: HDF5 file of a model or of its weights.

    Returns:
        Layer -> its weights, float32, in the order of the file; `/` in a name is `_`.

    Raises:
        ValueError: The file is damaged or another one, or values are not finite.
    """
    weights, left = {}, _MOST_VALUES
    try:
        check_file(path)
        with h5py.File(path) as file:
            if file.visititems_links(_leads_elsewhere):
                raise ValueError("it links to another file")
            root = file.get("model_weights", file)  # there where a model was saved
            for name in np.asarray(root.attrs["layer_names"]).astype(str):
                group = root[name]
                names = np.asarray(group.attrs["weight_names"]).astype(str)
                if names.size:
                    datasets = [group[weight] for weight in names]
                    left -= sum(dataset.size for dataset in datasets)
                    if left < 0 or any(it.external or it.is_virtual for it in datasets):
                        raise ValueError(f"layer {name} does not lie in the file")
                    arrays = [np.asarray(dataset, np.float32) for dataset in datasets]
                    weights[name.replace("/", "_")] = arrays
                    if not all(np.isfinite(array).all() for array in arrays):
                        raise ValueError(f"layer {name} is not finite")
    except Exception as error:  # on damaged files, h5py raises nearly anything
        raise ValueError(
            f"{path} is damaged or no weight file of Keras 2 ({error}): get it again "
            "from where it came from"
        ) from error
    return weights


def _checkpoints(model_dir: str | Path) -> list[Path]:
    """The checkpoints of a model folder, oldest first."""
    found = (Path(model_dir) / "checkpoints").glob("iteration_*")
    return sorted((it for it in found if _iteration(it) is not None), key=_iteration)


def _iteration(folder: Path) -> int | None:
    """The iteration of a checkpoint; None for a folder of another name."""
    digits = folder.name.removeprefix("iteration_")
    return int(digits) if digits.isdecimal() else None


def _is_finite(owner: keras.Model | keras.Optimizer) -> bool:
    """Whether all values of a network or an optimizer are finite."""
    values = map(keras.ops.convert_to_numpy, owner.variables)
    return all(np.isfinite(of_one).all() for of_one in values)


def _leads_elsewhere(name: str, link: Any) -> bool | None:
    """Whether a link of an HDF5 file leads to another file; None goes on looking."""
    return isinstance(link, h5py.ExternalLink) or None


def _load_weights(folder: Path, networks: Networks) -> None:
    for name, network in networks.items():
        path = folder / f"{name}.weights.h5"
        with _refusing(path, network):  # Keras refuses links and what does not fit
            network.load_weights(path)


@contextmanager
def _refusing(path: Path, owner: keras.Model | keras.Optimizer) -> Iterator[None]:
    """Says in one sentence that a file does not fit, or is not finite."""
    try:
        with warnings.catch_warnings():
            # Keras only warns where it leaves random weights or fresh moments.
            warnings.simplefilter("error", UserWarning)
            check_file(path)
            yield
    except Exception as error:  # h5py, NumPy and Keras raise nearly anything
        raise ValueError(
            f"{path} is missing, damaged or not of the architecture in {SETTINGS} "
            "beside it: restore the file, or train in another folder"
        ) from error
    if not _is_finite(owner):
        raise ValueError(
            f"{path} holds values that are not finite: restore the file, or delete the "
            f"folder {path.parent} to use the checkpoint before"
        )
