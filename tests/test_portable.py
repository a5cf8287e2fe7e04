"""What Windows and macOS lack or do otherwise, as far as it can be had here."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import fsgan
from fsgan.media.images import write_image

STAGES = """
import sys
import warnings
from dataclasses import replace
from multiprocessing import get_context

sys.modules["fcntl"] = None
warnings.filterwarnings("error", category=EncodingWarning, module="fsgan")

import fsgan

if __name__ == "__main__":
    for person, clip in zip("ab", fsgan.make_sample_clips("clips", seconds=0.4)):
        fsgan.extract_faces(clip, f"faces/{person}")
    with get_context("spawn").Pool(1) as pool:
        masks = [(f"faces/{person}", f"masks/{person}") for person in "ab"]
        pool.starmap(fsgan.make_masks, masks)
    model, settings = fsgan.recipe("quick", 64, "lite")
    settings = replace(settings, iterations=2, batch_size=2, preview_every=1)
    folders = {"masks_a": "masks/a", "masks_b": "masks/b"}
    faces = "faces/a", "faces/b"
    fsgan.train(*faces, "model", model=model, settings=settings, **folders)
    print(fsgan.convert_video("clips/a.mp4", "swap.mp4", "model"))
    print(fsgan.verify("swap.mp4"))
    print(fsgan.evaluate("clips/a.mp4", "swap.mp4", *faces, "seen", model="model"))
    print(fsgan.review("clips/a.mp4", "swap.mp4", "model"))
"""


@pytest.mark.slow
def test_without_fcntl_by_spawn_and_in_an_ascii_locale(tmp_path):
    script = tmp_path / "stages.py"
    script.write_text(STAGES, encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", script],
        cwd=tmp_path,
        env=os.environ | ascii_only | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert "says that it is synthetic" in done.stdout.decode("ascii")
    assert (tmp_path / "seen" / "report.html").is_file()
    hidden = [path.name for path in tmp_path.rglob(".*")]
    assert hidden == [".unfinished"] * len(hidden)  # emptied where there are locks


def test_everything_public_goes_to_another_process():
    for name in fsgan.__all__:
        value = getattr(fsgan, name)
        if callable(value):
            assert pickle.loads(pickle.dumps(value)) is value


def test_names_that_differ_in_case_only_are_one_file(tmp_path, portrait):
    """As on Windows and macOS."""
    first, second = tmp_path / "1" / "A.png", tmp_path / "2" / "a.png"
    for path in (first, second):
        write_image(path, portrait)
    fsgan.extract_faces(first, tmp_path / "faces")
    kept = sorted((tmp_path / "faces").iterdir())
    with pytest.raises(ValueError, match="already holds"):
        fsgan.extract_faces(second, tmp_path / "faces")
    assert sorted((tmp_path / "faces").iterdir()) == kept
    sources = [Path(tmp_path, name) for name in ("A.mp4", "a.mov")]
    with pytest.raises(ValueError, match="would both be written to"):
        fsgan.convert_videos(sources, tmp_path / "out", tmp_path / "model")
