"""Tasks on the workers of Dask.distributed (the extra `cluster`): docs/cluster.md."""

import os
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import cv2
from dask.system import CPU_COUNT
from distributed import Client, Worker, WorkerPlugin, as_completed, get_worker

from fsgan.media.files import unfinished
from fsgan.tasks import attempt

RETRIES = 2  # after a fault of the system, such as a network disk that is away
# A network disk takes up to two minutes to learn that who holds a lock is dead.
LOCK_TRIES, LOCK_SECONDS = 30, 5
SCHEDULER_PORT, CONNECT_SECONDS = 8786, 10


class Share(WorkerPlugin):
    """A worker's share of its machine, and what all its tasks need."""

    def __init__(
        self, prepare: Callable[[], dict], needs: list[Path], hosts: Mapping[str, int]
    ) -> None:
        """Is told what to make, what to see, and the number of workers by machine."""
        self._prepare, self._needs, self._hosts = prepare, needs, hosts

    @cached_property
    def prepared(self) -> dict:
        """What all tasks need, made with the first."""
        return self._prepare()

    def setup(self, worker: Worker) -> None:
        """Refuses files that are not shared, and takes a share of the cores."""
        if hidden := [path for path in self._needs if not path.exists()]:
            raise ValueError(
                f"the worker {worker.address} does not see {hidden[0]}: sources, model "
                "and output must lie in folders that all machines share under one name"
            )
        try:
            tempfile.TemporaryFile(dir=self._needs[0]).close()
        except OSError as error:
            raise ValueError(
                f"the worker {worker.address} cannot write to "
                f"{self._needs[0].parents[1]} ({error.strerror}): give it the right to"
            ) from error
        threads = max(1, CPU_COUNT // self._hosts.get(_host(worker.address), 1))
        os.environ["OMP_NUM_THREADS"] = str(threads)  # of PyTorch; Dask says 1
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
        cv2.setNumThreads(threads)


def outcomes_on(
    cluster: Any,
    work: Callable[..., Any],
    tasks: Mapping[Any, tuple],
    prepare: Callable[[], dict],
    needs: Iterable[Path],
    gpu: bool,
) -> Iterator[tuple[Any, Any]]:
    """Yields what becomes of each task as it ends; all is as of `run_each`."""
    if not tasks:
        return
    name, out = f"fsgan-{uuid4()}", next(iter(tasks.values()))[0]
    with _connected(cluster) as client, unfinished(out) as marker:
        client.wait_for_workers(1)
        workers = client.scheduler_info(n_workers=-1)["workers"]
        for address, worker in workers.items():
            if worker["nthreads"] > 1 or address.startswith("inproc:"):
                raise ValueError(
                    f"the worker {address} runs tasks in threads, but the networks "
                    "need a process each: start workers with one thread, as dask "
                    "worker --nthreads 1 or LocalCluster(threads_per_worker=1)"
                )
        on_card = gpu and any("GPU" in it["resources"] for it in workers.values())
        # What is missing here is missing everywhere; the task will say so.
        seen = map(_absolute, (marker, *(path for path in needs if path.exists())))
        keys = {f"{name}-{number}": key for number, key in enumerate(tasks)}
        try:
            share = Share(prepare, [*seen], Counter(map(_host, workers)))
            client.register_plugin(share, name=name)
            ended = as_completed(
                client.submit(
                    _run,
                    name,
                    work,
                    tuple(map(_absolute, tasks[key])),
                    key=task,
                    retries=RETRIES,
                    resources={"GPU": 1} if on_card else None,
                )
                for task, key in keys.items()
            )
            for future in ended:
                try:
                    outcome = future.result()
                except Exception as error:
                    outcome = error
                future.release()  # or it is done again if the worker dies that holds it
                yield keys[future.key], outcome
        finally:
            with suppress(OSError):  # the cluster is gone
                client.unregister_worker_plugin(name)


def _run(name: str, work: Callable, task: tuple) -> Any:
    """Does one task, on a worker; its result, or an error that stays if repeated."""
    prepared = get_worker().plugins[name].prepared
    outcome = attempt(work, task, prepared)
    for _ in range(LOCK_TRIES):
        if not isinstance(outcome, BlockingIOError):
            break
        time.sleep(LOCK_SECONDS)
        outcome = attempt(work, task, prepared)
    if getattr(outcome, "errno", None):  # the system's, not a sentence of ours
        raise outcome
    return outcome


@contextmanager
def _connected(cluster: Any) -> Iterator[Client]:
    """A client; one that was given stays open."""
    if isinstance(cluster, Client):
        yield cluster
        return
    if isinstance(cluster, str):  # Dask itself would try for minutes
        try:
            where = urlsplit(cluster if "://" in cluster else f"tcp://{cluster}")
            address = where.hostname or "nowhere", where.port or SCHEDULER_PORT
            socket.create_connection(address, CONNECT_SECONDS).close()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no Dask scheduler answers at {cluster}: give the address that dask "
                "scheduler prints, such as tcp://192.168.0.7:8786"
            ) from error
    with Client(cluster, set_as_default=False) as client:
        yield client


def _absolute(argument: Any) -> Any:
    """A path as all machines know it; anything else as it is."""
    return argument.absolute() if isinstance(argument, Path) else argument


def _host(address: str) -> str | None:
    """The machine that an address names."""
    return urlsplit(address).hostname
