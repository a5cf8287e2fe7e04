"""Stage: from the faces of many people to a trained model for each pair."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal

from fsgan.data.curation import UNSORTED
from fsgan.models.checkpoint import latest_checkpoint, read_settings
from fsgan.tasks import Cluster, Results, run_each
from fsgan.training.monitor import VALIDATION, read_losses, read_validation
from fsgan.training.train import train
from fsgan.validation import AboveZero, checked


@dataclass(frozen=True)
class TrainedPair:
    """What the model of a pair reached.

    Attributes:
        model_dir: its folder.
        iterations: updates, of all calls.
        minutes: of training, likewise.
        losses: the last ones, by name, as of `fsgan.read_losses`.
        held_out: the last errors on held-out faces, as of `fsgan.read_validation`;
            empty where none are held out.
    """

    model_dir: Path
    iterations: int
    minutes: float
    losses: dict[str, float]
    held_out: dict[str, float]

    def __str__(self) -> str:
        """One line for a table."""
        errors = self.losses | {f"held-out {k}": it for k, it in self.held_out.items()}
        errors = "".join(f", {name} {value:.3f}" for name, value in errors.items())
        return f"{self.iterations} iterations, {self.minutes:.1f} minutes{errors}"


@checked
def train_pairs(
    people: str | Path,
    out_dir: str | Path,
    pairs: Literal["all"] | list[tuple[str, str]] = "all",
    *,
    recipe: str = "quick",
    minutes: AboveZero | None = None,
    model: Mapping | None = None,
    settings: Mapping | None = None,
    cluster: str | Cluster | None = None,
) -> Results:
    """Trains a model for each pair of people, one after the other or on many machines.

    Call it again to go on: a pair that has had its minutes or iterations stays as it
    is, and others go on from their checkpoint.

    Args:
        people: a folder of faces for each person, as of `fsgan.curate`.
        out_dir: folder for the models; that of A and B is `A-B`, and turns either into
            the other.
        pairs: names of two folders each, A and B; "all" takes each two once.
        recipe: as of `fsgan.train`.
        minutes: how long to train each pair, those of earlier calls included; None
            trains to the number of iterations.
        model: what to change of the recipe's architecture, by name.
        settings: what to change of its settings, by name.
        cluster: as of `fsgan.convert_videos`; a worker trains a pair. If one dies,
            another goes on from the last checkpoint.

    Returns:
        A table of what each reached; a pair that fails does not stop the others.

    Raises:
        FileNotFoundError: there is no such folder, or fewer than two people in it.
        ImportError: Dask is not installed.
        ValueError: a pair is not of two of them, or the cluster is refused, as of
            `fsgan.convert_videos`.
        KeyboardInterrupt: a training was interrupted; it is saved.
    """
    people, out_dir = Path(people), Path(out_dir)
    found = people.iterdir() if people.is_dir() else ()
    names = sorted(it.name for it in found if it.is_dir() and it.name[0] != ".")
    names = [name for name in names if name != UNSORTED]
    if len(names) < 2:
        raise FileNotFoundError(
            f"{people} holds no two folders of faces: give the folder that curate wrote"
        )
    pairs = list(combinations(names, 2)) if pairs == "all" else pairs
    for a, b in pairs:
        if a == b or not {a, b} <= {*names}:
            raise ValueError(
                f"a pair must be two of {', '.join(names)} in {people}, got {a} and {b}"
            )
    work = partial(
        _train_pair, recipe=recipe, minutes=minutes, model=model, settings=settings
    )
    tasks = {
        f"{a}-{b}": (out_dir / f"{a}-{b}", people / a, people / b) for a, b in pairs
    }
    needs = {people / name for name in chain(*pairs)}
    return run_each(work, tasks, cluster=cluster, needs=needs, gpu=True)


def _train_pair(
    model_dir: Path, faces_a: Path, faces_b: Path, minutes: float | None, **how: Any
) -> TrainedPair:
    """Trains one pair for what is left of its time."""
    checkpoint = latest_checkpoint(model_dir)
    left = minutes
    if minutes and checkpoint:
        left -= read_settings(checkpoint).get("seconds", 0.0) / 60
    if left is None or left > 0:
        checkpoint = train(faces_a, faces_b, model_dir, minutes=left, **how)
        if read_settings(checkpoint).get("interrupted"):
            raise KeyboardInterrupt
    reached, held_out = read_settings(checkpoint), {}
    if (model_dir / VALIDATION).exists():
        held_out = _last(read_validation(model_dir))
    seconds = reached.get("seconds", 0.0)
    losses = _last(read_losses(model_dir))
    return TrainedPair(model_dir, reached["iteration"], seconds / 60, losses, held_out)


def _last(columns: dict) -> dict[str, float]:
    """The last line of a table, without the number of the iteration."""
    values = {name: float(column[-1]) for name, column in columns.items()}
    return {name: it for name, it in values.items() if name != "iteration" and it == it}
