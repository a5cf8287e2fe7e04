"""Many clips and many pairs on the workers of a cluster, here two processes."""

import errno
import os
import signal
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from clips import packets_of
from distributed import Client, LocalCluster, WorkerPlugin
from skimage.data import astronaut

from fsgan import (
    ConvertSettings,
    FaceSwapper,
    convert_videos,
    extract_faces,
    extract_videos,
    train_pairs,
)
from fsgan import cluster as ours
from fsgan.cluster import Share
from fsgan.media.writer import ResumableWriter, VideoWriter
from fsgan.swap import render
from fsgan.tasks import run_each

pytestmark = pytest.mark.slow
FRAMES = 20  # of a clip: two parts, as 16 go through the generator at once
FAST = ConvertSettings(engine="float32", search_every=12)


class Diary(WorkerPlugin):
    """A worker writes down what it does, and dies once, after a part of clip `b`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def note(self, text: str) -> None:
        with open(self.folder / str(os.getpid()), "a", encoding="utf-8") as diary:
            diary.write(f"{text}\n")

    def setup(self, worker) -> None:
        end_part, load = ResumableWriter.end_part, FaceSwapper.__init__

        def noted(writer, state):
            before = writer.frames_done
            end_part(writer, state)
            if writer.frames_done > before:
                self.note(f"{writer.path.stem} {before}-{writer.frames_done}")
            killed = self.folder / "killed"
            if writer.path.stem == "b" and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        def loaded(swapper, *arguments):
            load(swapper, *arguments)
            self.note("loaded")

        render.PART_FRAMES = 1
        ResumableWriter.end_part, FaceSwapper.__init__ = noted, loaded


@pytest.fixture(scope="module")
def diary(tmp_path_factory):
    return tmp_path_factory.mktemp("diary")


@pytest.fixture(scope="module")
def client(tmp_path_factory, diary):
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=":0",
            memory_limit=0,
            local_directory=tmp_path_factory.mktemp("dask"),
            resources={"GPU": 1},
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(Diary(diary))
        yield client


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips of a face that moves, each in another light."""
    folder = tmp_path_factory.mktemp("clips")
    portrait = astronaut()[:240, 90:390]
    for index, name in enumerate("abc"):
        with VideoWriter(folder / f"{name}.mp4", 300, 240, 25) as writer:
            for shift in range(FRAMES):
                picture = np.roll(portrait, shift, axis=1) * (1 - 0.1 * index)
                writer.write(picture.astype(np.uint8))
    return folder


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_worker_that_is_killed_costs_no_finished_part_and_no_clip(
    client, clips, diary, gray_model, tmp_path, monkeypatch, caplog
):
    caplog.set_level("INFO", "fsgan")
    monkeypatch.setattr(render, "PART_FRAMES", 1)
    asked, submit = [], Client.submit
    monkeypatch.setattr(
        Client,
        "submit",
        lambda *a, **named: (asked.append(named["resources"]), submit(*a, **named))[1],
    )
    alone = convert_videos(clips, tmp_path / "alone", gray_model, FAST)
    many = convert_videos(clips, tmp_path / "many", gray_model, FAST, cluster=client)
    assert (diary / "killed").exists()
    assert asked == [{"GPU": 1}] * 3
    assert many.failed == {}
    assert set(many.done) == set(alone.done)
    assert names_in(tmp_path / "many") == names_in(tmp_path / "alone")
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        expected, made = (packets_of(tmp_path / it / name) for it in ("alone", "many"))
        assert made == expected
    # Each clip is written once, though by two workers, and each loads the model once.
    diaries = [path.read_text().split("\n")[:-1] for path in diary.glob("[0-9]*")]
    assert all(lines.count("loaded") == 1 for lines in diaries)
    parts = sorted(line for lines in diaries for line in lines if line != "loaded")
    assert parts == [f"{name} {it}" for name in "abc" for it in ("0-16", "16-20")]
    # The table and the log were told as they went, and nothing of ours stays behind.
    rows = [text for text in caplog.messages if ".mp4: face in 20 of 20" in text]
    assert len(rows) == 2 * 3
    plugins = client.run(lambda dask_worker: [*dask_worker.plugins])
    assert not any(it.startswith("fsgan") for names in plugins.values() for it in names)


@pytest.mark.parametrize("many", [False, True])
def test_the_faces_of_each_clip_go_to_its_own_folder(client, clips, tmp_path, many):
    sources = [clips / "a.mp4", clips / "b.mp4", clips / "none.mp4"]
    cluster = client if many else None
    results = extract_videos(sources, tmp_path / "people", every=10, cluster=cluster)
    assert {key.name: len(found) for key, found in results.done.items()} == {
        "a.mp4": 2,
        "b.mp4": 2,
    }
    assert "none.mp4 does not exist" in results.failed[sources[2]]
    assert names_in(tmp_path / "people") == ["a", "b"]
    extract_faces(sources[1], tmp_path / "alone", every=10)
    for path in (tmp_path / "alone").iterdir():
        assert (tmp_path / "people" / "b" / path.name).read_bytes() == path.read_bytes()


def test_a_system_error_is_tried_again_and_a_sentence_is_not(client, clips, tmp_path):
    def work(counted, source):
        with open(counted, "a", encoding="utf-8") as file:
            file.write("x")
        if source.stem == "b":
            raise ValueError("no face found in it")
        if counted.stat().st_size < 3:
            raise OSError(errno.EIO, "I/O error")
        return "done"

    tasks = {name: (tmp_path / name, clips / f"{name}.mp4") for name in "ab"}
    results = run_each(work, tasks, cluster=client, needs=[clips])
    assert repr(results) == "a  done\nb  FAILED: no face found in it"
    assert [(tmp_path / name).stat().st_size for name in "ab"] == [3, 1]


def test_a_file_that_a_dead_machine_holds_is_waited_for(monkeypatch):
    worker = SimpleNamespace(plugins={"name": SimpleNamespace(prepared={"b": 2})})
    monkeypatch.setattr(ours, "get_worker", lambda: worker)
    slept = []
    monkeypatch.setattr(ours.time, "sleep", slept.append)

    def work(free, b):
        if len(slept) < free:
            raise BlockingIOError("it is being written by another process")
        return b

    assert ours._run("name", work, (3,)) == 2
    assert slept == [ours.LOCK_SECONDS] * 3
    assert isinstance(ours._run("name", work, (99,)), BlockingIOError)
    assert len(slept) == 3 + ours.LOCK_TRIES


def test_a_fault_of_ours_is_a_row_and_the_rest_goes_on(client, tmp_path):
    tasks = {name: (tmp_path / name, it) for it, name in enumerate("ab")}
    results = run_each(lambda out, it: 1 / it, tasks, cluster=client)
    assert results.done == {"b": 1}
    assert results.failed == {"a": "ZeroDivisionError: division by zero"}
    assert names_in(tmp_path) == []


def test_a_folder_that_is_not_shared_is_refused(client, clips, tmp_path, monkeypatch):
    @contextmanager
    def elsewhere(path):
        yield tmp_path / "only here"

    monkeypatch.setattr(ours, "unfinished", elsewhere)
    with pytest.raises(ValueError, match=r"the worker tcp:.* does not see .*only here"):
        run_each(print, {"a": (tmp_path / "a",)}, cluster=client)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"does not see .*moon"):
        Share(dict, [tmp_path, Path("/moon")], {}).setup(SimpleNamespace(address="x"))


def test_a_folder_that_a_worker_cannot_write_to_is_refused(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(errno.EACCES, "Permission denied", dir)

    monkeypatch.setattr(ours.tempfile, "TemporaryFile", refuse)
    marker = tmp_path / "out" / ".unfinished" / "1-abc"
    marker.mkdir(parents=True)
    with pytest.raises(ValueError, match=r"cannot write to .*out \(Permission denied"):
        Share(dict, [marker], {}).setup(SimpleNamespace(address="tcp://10.0.0.1:7"))


@pytest.mark.parametrize(("workers", "threads"), [(1, 12), (4, 3), (24, 1)])
def test_the_cores_of_a_machine_are_shared(workers, threads, tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(ours, "CPU_COUNT", 12)
    monkeypatch.setattr(ours.cv2, "setNumThreads", taken.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    share = Share(dict, [tmp_path], {"10.0.0.1": workers, "10.0.0.2": 5})
    share.setup(SimpleNamespace(address="tcp://10.0.0.1:7"))
    assert taken == [threads]
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == str(threads)
    assert os.environ["OMP_NUM_THREADS"] == str(threads)


@pytest.mark.filterwarnings("ignore:Couldn't detect a suitable IP")  # no network
def test_what_is_no_cluster_of_processes_is_refused(clips, gray_model, tmp_path):
    convert = partial(convert_videos, clips, tmp_path / "out")
    local = LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=":0",
        memory_limit=0,
        local_directory=tmp_path / "dask",
    )
    with local, pytest.raises(ValueError, match="the networks need a process each"):
        convert(gray_model, cluster=local)
    for address in ("tcp://127.0.0.1:1", "127.0.0.1:1", "", "a b", "x:y", "tls://ä€"):
        with pytest.raises(
            ValueError, match=f"no Dask scheduler answers at {address}:"
        ):
            convert(gray_model, cluster=address)
    with pytest.raises(ValueError, match=r"cluster must be .*, got 3"):
        convert(gray_model, cluster=3)
    swapper = FaceSwapper(gray_model, FAST)
    with pytest.raises(ValueError, match="give the model's folder"):
        convert(swapper, cluster="tcp://127.0.0.1:1")
    assert not (tmp_path / "out").exists()


def test_without_dask_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsgan.cluster", None)
    with pytest.raises(ImportError, match=r"pip install 'fsgan\[cluster\]'"):
        run_each(print, {}, cluster="tcp://127.0.0.1:1")


def test_in_a_notebook_the_table_fills_while_it_runs(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda table: shown.append(repr(table)))
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace())
    monkeypatch.setattr("IPython.get_ipython", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda *a, **named: handle)
    run_each(divmod, {"a": (4, 2), "b": (9, 2)}, cluster=None)
    assert shown == ["a  (2, 0)", "a  (2, 0)\nb  (4, 1)"]


def test_a_pair_is_trained_in_a_worker_and_left_alone_when_done(
    client, two_people, tmp_path
):
    how = {"recipe": "autoencoder", "model": {"capacity": "lite"}}
    how["settings"] = {"batch_size": 1, "precision": "float32"}
    train = partial(train_pairs, two_people, tmp_path, cluster=client, **how)
    first = train(minutes=1e-6)
    assert first.failed == {}
    assert first.done["a-b"].iterations == 1
    assert first.done["a-b"].model_dir == tmp_path / "a-b"
    assert train(minutes=1e-6).done == first.done
