"""The notebook for Colab: run once as if there, and its installation on its own."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import pytest
from packaging.requirements import Requirement

from fsgan import make_sample_clips, verify

pytestmark = pytest.mark.slow

PATH = Path(__file__).parents[1] / "colab" / "fsgan_colab.ipynb"
CELLS = nbformat.read(PATH, as_version=4).cells
CODE = {cell.id: cell.source for cell in CELLS if cell.cell_type == "code"}
COLAB = {  # some of what it had installed in June 2026
    "keras": "3.13.2",
    "numpy": "2.0.2",
    "opencv-python": "4.13.0.92",
    "scikit-image": "0.25.2",
    "tensorflow": "2.20.0",
}
STOCK = COLAB, {"tensorflow": "2.18.0", "jax": "0.5.2", "numpy": "2.0.2"}  # and 2025.07
INSTALL = ("parameters", "install-tools", "install-look", "install-fsgan")
SHORT = dict(
    MINUTES=0.05, RESOLUTION=64, BATCH_SIZE=2, PREVIEW_EVERY=5, EVERY=6, END=0.4
)
STUB = """
import shutil
from pathlib import Path


def note(*what):
    print(*what, file=open("calls.txt", "a"))


def mount(folder):
    note("mount", folder)


def upload():
    clip = sorted(Path("uploads").iterdir())[0]
    note("upload", clip.name)
    return {shutil.move(clip, clip.name): b""}


def download(path):
    note("download", path)
"""


def test_on_colab_it_goes_from_uploads_to_a_marked_download(tmp_path, monkeypatch):
    package = tmp_path / "google" / "colab"
    package.mkdir(parents=True)
    for name in ("__init__", "drive", "files"):
        (package / f"{name}.py").write_text("" if name == "__init__" else STUB)
    paths = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    make_sample_clips(tmp_path / "uploads", seconds=0.6)
    drive, kept = tmp_path / "drive", tmp_path / "drive" / "MyDrive" / "work" / "own"
    own = dict(UPLOAD=True, CONSENT=True, DRIVE=str(drive), WORK="work")
    cells = papermill.execute_notebook(
        PATH,
        tmp_path / "done.ipynb",
        parameters=SHORT | own,
        kernel_name="python3",
        cwd=str(tmp_path),
        progress_bar=False,
    ).cells
    outputs = {cell.id: cell.outputs for cell in cells if cell.cell_type == "code"}
    printed = {k: "".join(o.get("text", "") for o in v) for k, v in outputs.items()}
    shown = {k: {t for o in v for t in o.get("data", ())} for k, v in outputs.items()}
    assert (tmp_path / "calls.txt").read_text().splitlines() == [
        f"mount {drive}",
        "upload a.mp4",
        "upload b.mp4",
        f"download {kept / 'swap.mp4'}",
    ]
    assert "nothing to do" in printed["install-fsgan"]
    assert "64 pixels, lite; 0 iterations are done" in printed["settings"]
    assert printed["bench"] == "not measured: BENCH is False\n"
    assert "image/png" in shown["faces"] & shown["losses"]
    assert "image/jpeg" in shown["train"] and "text/html" in shown["side-by-side"]
    assert (tmp_path / "done.ipynb").stat().st_size < 3e6
    found = verify(kept / "swap.mp4")
    assert found.synthetic and not found.tampered
    assert {path.name for path in (kept / "footage").iterdir()} == {"a.mp4", "b.mp4"}
    assert list((kept / "model_quick" / "checkpoints").glob("iteration_*"))
    assert not (kept / "faces").exists()  # many small files: they stay local
    assert (tmp_path / "work" / "own" / "faces" / "a").is_dir()


@pytest.fixture
def install(monkeypatch):
    """Runs the cells of the installation on a machine with packages of some versions.

    Returns what pip was asked for.
    """

    def run_cells(versions, colab=True, uploads=(), **changed):
        calls, versions = [], dict(versions)

        def version(name):
            if name not in versions:
                raise PackageNotFoundError(name)
            return versions[name]

        def run(command, check):
            assert command[:4] == [sys.executable, "-m", "pip", "install"] and check
            versions.setdefault("fsgan", "0.1.0")
            calls.append(command[5:])

        monkeypatch.setattr(importlib.metadata, "version", version)
        monkeypatch.setattr(subprocess, "run", run)
        files = SimpleNamespace(upload=lambda: dict.fromkeys(uploads, b""))
        there = SimpleNamespace(files=files, drive=None) if colab else None
        monkeypatch.setitem(sys.modules, "google.colab", there)
        names = {}
        for cell in INSTALL:
            exec(CODE[cell], names)
            names |= changed
        return calls

    return run_cells


@pytest.mark.parametrize("stock", STOCK, ids="of {0[tensorflow]}".format)
def test_fsgan_works_with_what_colab_has(stock):
    project = tomllib.loads((PATH.parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    texts = project["dependencies"] + extras["tensorflow"] + extras["jax"]
    needed = {it.name: it.specifier for it in map(Requirement, texts)}
    for name, version in stock.items():
        assert version in needed.get(name, version), name


def test_fsgan_is_installed_with_what_it_lacks_and_dlib_once(install):
    wheel = "fsgan-0.1.0-py3-none-any.whl"
    models = "face_recognition_models"
    assert install(COLAB, uploads=[wheel]) == [[wheel, models, "dlib-bin"]]
    assert install(COLAB | {"dlib": "19.24.6"}, uploads=[wheel]) == [[wheel, models]]


def test_nothing_is_installed_where_it_is(install, capsys):
    assert install({"fsgan": "0.2.0", "tensorflow": "2.21.0"}) == []
    assert "this notebook was written for v0.1.0" in capsys.readouterr().out


def test_an_address_is_installed_at_the_tag(install):
    tag = f"v{importlib.metadata.version('fsgan')}"
    [call] = install(COLAB, SOURCE="git+https://example.com/fsgan")
    assert call[0] == f"git+https://example.com/fsgan@{tag}"


@pytest.mark.parametrize(
    ("versions", "colab", "sentence"),
    [
        ({"keras": "3.13.2"}, True, "this runtime has no TensorFlow"),
        (COLAB, True, "fsgan is not installed: set SOURCE"),
        (COLAB, False, "fsgan is not installed: set SOURCE"),
    ],
    ids=["a TPU", "nothing uploaded", "no Colab"],
)
def test_what_cannot_be_installed_is_an_error(install, versions, colab, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        install(versions, colab)


def test_footage_of_your_own_needs_consent():
    names = dict(UPLOAD=False, VIDEO_A="a.mp4", VIDEO_B=None, CONSENT=False)
    with pytest.raises(ValueError, match="set CONSENT = True if everybody"):
        exec(CODE["consent"], names)
    exec(CODE["consent"], names | {"CONSENT": True})
    exec(CODE["consent"], names | {"VIDEO_A": None})  # the sample


def test_the_switch_shows_a_table_of_speeds_and_keeps_the_figures():
    switch = 'BENCH = False  # @param {type: "boolean"}\n'
    assert CODE["bench"].startswith(switch)
    fsgan, shown = SimpleNamespace(benchmark="table of {}".format), []
    names = {"fsgan": fsgan, "display": shown.append, "kept": Path("kept")}
    exec(CODE["bench"].replace("False", "True", 1), names)
    assert shown == [f"table of {Path('kept', 'bench.json')}"]


def test_cells_are_short_and_the_first_says_what_is_allowed():
    for words in ("FAQ of Colab", "deepfakes", "people who agreed", "invented people"):
        assert words in CELLS[0].source
    for cell in CELLS:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 25, cell.id
            assert not cell.outputs and cell.execution_count is None
    tagged = [it.id for it in CELLS if "parameters" in it.metadata.get("tags", [])]
    assert tagged == [next(iter(CODE))] == ["parameters"]
