import ast
import importlib.metadata
import json
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType

import nbformat
import papermill
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from packaging.requirements import Requirement

from fsgan.media.provenance import verify
from fsgan.media.reader import probe

FOLDER = Path(__file__).parents[1] / "colab"
PATH = FOLDER / "fsgan_colab.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=4)
CODE = {cell.id: cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"}
TEXT = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown"]
# What Colab had installed in June 2026.
COLAB = {
    "h5py": "3.16.0",
    "joblib": "1.5.3",
    "keras": "3.13.2",
    "lazy_loader": "0.5",
    "matplotlib": "3.10.0",
    "moviepy": "1.0.3",
    "numpy": "2.0.2",
    "opencv-python": "4.13.0.92",
    "pillow": "11.3.0",
    "pyyaml": "6.0.2",
    "scikit-image": "0.25.2",
    "scikit-learn": "1.6.1",
    "scipy": "1.16.3",
    "tensorflow": "2.20.0",
    "tqdm": "4.67.3",
}
# A pip that only writes down what it was asked for.
PIP = "import os, sys; print(*sys.argv[1:], file=open(os.environ['CALLS'], 'a'))"
STUB = """
import os, shutil
from pathlib import Path


def said(*what):
    print(*what, file=open(os.environ["CALLS"], "a"))


def mount(folder):
    said("mount", folder)
    Path(folder, "MyDrive").mkdir(parents=True, exist_ok=True)


def upload():
    waiting = sorted(Path(os.environ["UPLOADS"]).iterdir())
    said("upload", waiting[0].name)
    shutil.move(waiting[0], Path.cwd() / waiting[0].name)
    return {waiting[0].name: b""}


def download(path):
    said("download", path)
"""
QUICK = {
    "ITERATIONS": 10,
    "BATCH_SIZE": 2,
    "PREVIEW_EVERY": 5,
    "EVERY": 6,
    "END": 0.4,
    "SAMPLE_SECONDS": 0.6,
}


def execute(folder, without=(), **parameters):
    """Runs the notebook in a folder; the text that each cell printed."""
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.id not in without]
    nbformat.write(notebook, folder / "notebook.ipynb")
    done = papermill.execute_notebook(
        folder / "notebook.ipynb",
        folder / "done.ipynb",
        parameters=QUICK | parameters,
        kernel_name="python3",
        cwd=str(folder),
        progress_bar=False,
    )
    return {
        cell.id: "".join(out.get("text", "") for out in cell.get("outputs", []))
        for cell in done.cells
        if cell.cell_type == "code"
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run on a machine without Colab: its folder, and what the cells printed."""
    folder, stubs = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("stubs")
    (stubs / "pip").mkdir()
    (stubs / "pip" / "__main__.py").write_text(PIP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(stubs))
        patch.setenv("CALLS", str(folder / "calls.txt"))
        yield folder, execute(folder)


def test_without_colab_it_runs_on_the_sample_and_marks_the_swap(plain):
    folder, printed = plain
    work = folder / "fsgan_work" / "sample"
    swap = probe(work / "swap.mp4")
    assert (swap.width, swap.height, swap.has_audio) == (640, 360, True)
    assert probe(work / "side_by_side.mp4").width == 2 * 640
    for name in ("swap.mp4", "side_by_side.mp4"):
        found = verify(work / name)
        assert found.synthetic and not found.tampered
    assert "s per iteration" in printed["how-long"]
    assert "0 of 10 iterations are done" in printed["how-long"]
    assert str(work / "swap.mp4") in printed["download"]


def test_without_colab_nothing_is_installed(plain):
    folder, printed = plain
    assert not (folder / "calls.txt").exists()
    assert "nothing to do" in printed["install-fsgan"]
    assert "nothing to install" in printed["install-needed"]


def test_the_finished_notebook_shows_its_pictures_and_stays_small(plain):
    folder, _ = plain
    cells = nbformat.read(folder / "done.ipynb", as_version=4).cells
    shown = {
        cell.id: " ".join(key for out in cell.outputs for key in out.get("data", {}))
        for cell in cells
        if cell.cell_type == "code"
    }
    assert "image/png" in shown["faces"] and "image/png" in shown["losses"]
    assert "image/jpeg" in shown["train"]
    assert "text/html" in shown["side-by-side"]
    assert (folder / "done.ipynb").stat().st_size < 3e6


def test_on_colab_it_takes_uploads_goes_on_from_the_drive_and_downloads(
    plain, tmp_path, monkeypatch
):
    stubs, uploads, drive = (tmp_path / name for name in ("stubs", "uploads", "drive"))
    (stubs / "google" / "colab").mkdir(parents=True)
    (stubs / "pip").mkdir()
    (stubs / "pip" / "__main__.py").write_text(PIP)
    (stubs / "google" / "colab" / "__init__.py").touch()
    for module in ("drive", "files"):
        (stubs / "google" / "colab" / f"{module}.py").write_text(STUB)
    sample, kept = plain[0] / "fsgan_work" / "sample", drive / "MyDrive" / "w" / "own"
    shutil.copytree(sample / "footage", uploads)
    # As a machine that was taken away has left it.
    shutil.copytree(sample / "model_short", kept / "model_short")
    monkeypatch.setenv("PYTHONPATH", str(stubs))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls.txt"))
    monkeypatch.setenv("UPLOADS", str(uploads))
    printed = execute(
        tmp_path,
        without=["examine", "losses", "side-by-side", "evaluate"],  # as without Colab
        DRIVE=str(drive),
        WORK="w",
        UPLOAD=True,
        CONSENT=True,
        ITERATIONS=12,
        DIRECTION="BtoA",
    )
    assert (tmp_path / "calls.txt").read_text().splitlines() == [
        f"mount {drive}",
        "upload a.mp4",
        "upload b.mp4",
        f"download {kept / 'swap.mp4'}",
    ]
    assert "10 of 12 iterations are done" in printed["how-long"]
    assert (kept / "model_short" / "checkpoints" / "iteration_0000012").is_dir()
    assert verify(kept / "swap.mp4").synthetic
    assert sorted(path.name for path in (kept / "footage").iterdir()) == [
        "a.mp4",
        "b.mp4",
    ]
    assert not (kept / "faces").exists()  # many small files: they stay local
    assert (tmp_path / "w" / "own" / "faces" / "a").is_dir()


def run_install(monkeypatch, versions, cells, colab=True, uploads=()):
    """Runs cells of the installation, as if on Colab with these versions.

    Returns what pip was asked for, with the constraints in the place of their file.
    """
    calls, versions = [], dict(versions)

    def version(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    def run(command, check):
        assert command[:4] == [sys.executable, "-m", "pip", "install"] and check
        arguments = command[5:]
        if arguments[0] == "-c":
            arguments[1] = Path(arguments[1]).read_text().splitlines()
        else:
            versions["fsgan"] = "0.1.0"
        calls.append(arguments)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(subprocess, "run", run)
    modules = {name: ModuleType(name) for name in ("google.colab", "files", "drive")}
    if colab:
        modules["files"].upload = lambda: dict.fromkeys(uploads, b"")
        modules["google.colab"].files = modules["files"]
        modules["google.colab"].drive = modules["drive"]
        monkeypatch.setitem(sys.modules, "google.colab", modules["google.colab"])
    names = {}
    for cell in ("parameters", "install-tools", *cells):
        exec(CODE[cell], names)
    return calls


ALL = ("install-look", "install-fsgan", "install-needed")


def test_colab_keeps_its_own_versions_and_gets_only_what_it_lacks(monkeypatch, capsys):
    wheel = "fsgan-0.1.0-py3-none-any.whl"
    alone, rest = run_install(monkeypatch, COLAB, ALL, uploads=[wheel])
    assert alone == ["--no-deps", wheel]
    names = {Requirement(text).name for text in rest[2:]}
    assert names == {
        *("av", "docstring-parser", "jsonargparse", "moviepy", "mtcnn"),
        *("prefetch_generator", "scikit-image"),
    }
    pins = set(rest[1])
    assert {"numpy==2.0.2", "keras==3.13.2", "tensorflow==2.20.0"} <= pins
    assert {pin.split("==")[0] for pin in pins} == set(COLAB) - names
    printed = capsys.readouterr().out
    assert "numpy                >=2.3      2.0.2        kept" in printed
    assert "moviepy              >=2.2.1    1.0.3        to install" in printed


def test_nothing_is_installed_where_all_is_new_enough(monkeypatch, capsys):
    needed = [Requirement(text) for text in requires("fsgan") if "extra" not in text]
    newest = {
        need.name: clause.version
        for need in needed
        for clause in need.specifier
        if clause.operator == ">="
    }
    versions = newest | {"fsgan": "0.2.0", "tensorflow": "2.21.0"}
    assert run_install(monkeypatch, versions, ALL) == []
    assert "this notebook was written for v0.1.0" in capsys.readouterr().out


def test_an_address_is_installed_at_the_tag(monkeypatch):
    source = 'SOURCE = "git+https://example.com/fsgan"'
    monkeypatch.setitem(
        CODE, "parameters", CODE["parameters"].replace("SOURCE = None", source)
    )
    calls = run_install(monkeypatch, COLAB, ALL)
    assert calls[0] == ["--no-deps", "git+https://example.com/fsgan@v0.1.0"]


@pytest.mark.parametrize(
    ("versions", "colab", "sentence"),
    [
        ({"keras": "3.13.2"}, True, "this runtime has no TensorFlow"),
        (COLAB, True, "fsgan is not installed: set SOURCE"),
        (COLAB, False, "fsgan is not installed: set SOURCE"),
    ],
    ids=["a TPU", "nothing uploaded", "no Colab"],
)
def test_what_cannot_be_installed_is_said_in_a_sentence(
    monkeypatch, versions, colab, sentence
):
    with pytest.raises(RuntimeError, match=sentence):
        run_install(monkeypatch, versions, ALL, colab)


def test_an_old_python_is_named(monkeypatch):
    old = CODE["install-look"].replace("(3, 11)", "(99, 0)")
    monkeypatch.setitem(CODE, "install-look", old)
    with pytest.raises(RuntimeError, match="choose a newer runtime"):
        run_install(monkeypatch, COLAB, ["install-look"])


def test_footage_of_your_own_needs_consent():
    names = {"UPLOAD": False, "VIDEO_A": "a.mp4", "VIDEO_B": None, "CONSENT": False}
    with pytest.raises(ValueError, match="set CONSENT = True if everybody"):
        exec(CODE["consent"], names)
    exec(CODE["consent"], names | {"CONSENT": True})
    exec(CODE["consent"], names | {"VIDEO_A": None})  # the sample


def test_the_first_cell_says_what_is_allowed_and_asks_for_consent():
    for words in (
        "FAQ of Colab",
        "deepfakes",
        "Use only footage of people who agreed",
        "public domain",
        "colab-badge.svg",
    ):
        assert words in TEXT[0]


def test_the_file_is_valid_and_asks_colab_for_a_gpu():
    raw = json.loads(PATH.read_text(encoding="utf-8"))
    nbformat.validate(raw)
    assert (raw["nbformat"], raw["metadata"]["accelerator"]) == (4, "GPU")
    assert raw["metadata"]["kernelspec"]["name"] == "python3"
    assert "colab" in raw["metadata"]


def test_every_code_cell_is_short_compiles_and_has_no_outputs():
    cells = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    for cell in cells:
        ast.parse(TransformerManager().transform_cell(cell.source))
        assert len(cell.source.splitlines()) <= 25, cell.id
        assert not cell.outputs and cell.execution_count is None
    tagged = [c.id for c in cells if "parameters" in c.metadata.get("tags", [])]
    assert tagged == ["parameters"]
    assert cells[0].id == "parameters"


def test_the_tag_is_the_version_of_the_project():
    names = {}
    exec(CODE["parameters"], names)
    assert names["VERSION"] == f"v{importlib.metadata.version('fsgan')}"
