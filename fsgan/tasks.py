"""The same work for many files, one after the other or on the machines of a cluster."""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

log = logging.getLogger(__name__)

_FOR_THE_USER = (FloatingPointError, MemoryError, OSError, ValueError)


@runtime_checkable
class Cluster(Protocol):
    """A client or a cluster of `distributed`, for example a `LocalCluster`."""

    scheduler_info: Any


@dataclass(frozen=True)
class Results:
    """What became of many files; printed, it is a table, failures last.

    Attributes:
        done: by source (or name), what the stage returned.
        failed: by source (or name), why not.
    """

    done: dict[Any, Any] = field(default_factory=dict)
    failed: dict[Any, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        """The table."""
        rows = {
            k: f"faces: {it}" if type(it) is int else it for k, it in self.done.items()
        }
        rows |= {key: f"FAILED: {why}" for key, why in self.failed.items()}
        names = [getattr(key, "name", key) for key in rows]
        width = max(map(len, names), default=0)
        lines = zip(names, rows.values(), strict=True)
        return "\n".join(f"{name:<{width}}  {what}" for name, what in lines)


def run_each(
    work: Callable[..., Any],
    tasks: Mapping[Any, tuple],
    prepare: Callable[[], dict] = dict,
    *,
    cluster: str | Cluster | None,
    needs: Iterable[Path] = (),
    gpu: bool = False,
) -> Results:
    """Does the same work for each task; one that fails does not stop the others.

    In a notebook the table fills while they run; the log has a line for each.

    Args:
        work: called with the arguments of a task and what `prepare` returns; on a
            cluster again if the worker dies.
        tasks: by source (or name), the arguments, first the path that it writes.
        prepare: makes keyword arguments for all tasks, once in each process.
        cluster: the cluster, or the address of its scheduler; None works here.
        needs: files and folders that are read.
        gpu: whether a task takes a graphics card, where workers offer any.

    Returns:
        The table.

    Raises:
        ImportError: Dask is not installed.
        ValueError: two tasks write to one path; no scheduler answers, or a worker runs
            its tasks in threads, does not see a path, or cannot write.
    """
    writers = {}
    for key, (out, *_) in tasks.items():  # Windows and macOS do not tell A from a
        other = writers.setdefault(str(out).casefold(), key)
        if other is not key:
            raise ValueError(
                f"{other} and {key} would both be written to {out}: give them "
                "different names or take them one by one"
            )
    results = Results()
    if cluster is None:
        prepared = prepare()
        outcomes = ((key, attempt(work, it, prepared)) for key, it in tasks.items())
    else:
        try:
            from fsgan.cluster import outcomes_on
        except ImportError as error:
            raise ImportError(
                "a cluster needs Dask.distributed: pip install 'fsgan[cluster]'"
            ) from error
        outcomes = outcomes_on(cluster, work, tasks, prepare, needs, gpu)
    show = _show(results)
    for key, outcome in outcomes:
        if isinstance(outcome, Exception):
            told = isinstance(outcome, _FOR_THE_USER)
            kind = "" if told else f"{type(outcome).__name__}: "
            results.failed[key] = f"{kind}{outcome}"
            log.error("%s failed: %s", key, results.failed[key])
        else:
            results.done[key] = outcome
            log.info("%s: %s", key, outcome)
        show()
    return results


def attempt(work: Callable, task: tuple, prepared: dict) -> Any:
    """Does the work; returns what it returns, or what went wrong for the user."""
    try:
        return work(*task, **prepared)
    except _FOR_THE_USER as error:
        return error


def _show(results: Results) -> Callable[[], object]:
    """Shows a table in a notebook; what is returned brings it up to date."""
    if "ipykernel" not in sys.modules or not sys.modules["IPython"].get_ipython():
        return lambda: None
    from IPython.display import display

    handle = display(results, display_id=True)
    return lambda: handle.update(results)
