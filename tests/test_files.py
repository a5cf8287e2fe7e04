import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsgan.data import extract
from fsgan.media.files import (
    check_output,
    full_disk_named,
    write_beside,
    write_json,
)
from fsgan.media.images import image_size, read_image, write_image
from fsgan.media.reader import probe
from fsgan.models.checkpoint import read_keras2_weights
from fsgan.validation import read_json

LONGEST = "n" * 251 + ".png"  # bytes, of a name


def names_in(folder):
    return sorted(path.name for path in folder.rglob("*"))


def killed(code, *arguments):
    """Runs code in a process that kills itself."""
    head = "import os, signal, sys\nfrom pathlib import Path\nimport numpy as np\n"
    head += "from fsgan.media.files import write_beside\n"
    head += "from fsgan.media.writer import VideoWriter\n"
    end = "\n        os.kill(os.getpid(), signal.SIGKILL)"
    run = subprocess.run([sys.executable, "-c", head + code + end, *arguments])
    assert run.returncode == -9


def test_nothing_half_written_is_left_when_writing_fails(tmp_path):
    path = tmp_path / "card.png"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), write_beside(path) as temporary:
        assert temporary.suffix == ".png"
        assert names_in(tmp_path)[0] == ".unfinished"
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"before"


def test_a_folder_made_for_nothing_is_removed(tmp_path):
    with pytest.raises(KeyboardInterrupt), write_beside(tmp_path / "new" / "a.txt"):
        raise KeyboardInterrupt
    assert names_in(tmp_path) == []


def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path):
    write_image(tmp_path / LONGEST, np.zeros((2, 2, 3), np.uint8))
    assert names_in(tmp_path) == [LONGEST]


@pytest.mark.skipif(os.name == "nt", reason="has no such permissions")
def test_a_file_gets_the_usual_permissions(tmp_path):
    (tmp_path / "usual").touch()
    write_json(tmp_path / "a.json", {})
    modes = [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()]
    assert modes[0] == modes[1]


BESIDE = """
with write_beside(sys.argv[1]) as path:
    with open(path, "w") as file:
        file.write("half")"""
FILM = """
with VideoWriter(sys.argv[1], 64, 48, 25) as writer:
    for _ in range(2):
        writer.write(np.zeros((48, 64, 3), np.uint8))"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no locks of this kind")
@pytest.mark.parametrize(("name", "code"), [("a.txt", BESIDE), ("a.mp4", FILM)])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, name, code):
    killed(code, str(tmp_path / name))
    assert ".unfinished" in names_in(tmp_path)
    write_json(tmp_path / "b.json", {})
    assert names_in(tmp_path) == ["b.json"]


def test_what_others_are_writing_and_foreign_files_stay(tmp_path):
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / ".unfinished" / "mine.txt").write_text("mine")
    with write_beside(tmp_path / "a.json") as path:
        path.write_text("half")
        write_json(tmp_path / "b.json", {})
        assert path.read_text() == "half"
    assert names_in(tmp_path) == [".unfinished", "a.json", "b.json", "mine.txt"]


def test_many_write_into_one_folder_at_once(tmp_path):
    def write(name):
        for index in range(30):
            write_json(tmp_path / f"{name}{index}.json", {})

    threads = [threading.Thread(target=write, args=name) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names_in(tmp_path)) == 120


def test_a_full_disk_is_one_sentence_with_its_number(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(OSError, match=r"a\.json cannot .* full; make room") as raised,
        full_disk_named(tmp_path / "a.json"),
    ):
        raise full
    assert raised.value.errno == errno.ENOSPC
    with (
        pytest.raises(OSError, match="the disk is full"),
        write_beside(tmp_path / "a.json"),
    ):
        raise full
    with pytest.raises(KeyError), full_disk_named(tmp_path):
        raise KeyError


def impossible(folder, what):
    """Names an output that cannot be."""
    (folder / "file").touch()
    if what == "pipe":
        os.mkfifo(folder / "pipe")
    if what == "loop":
        (folder / "loop").symlink_to("loop")
    names = {
        "longer": "n" * 252 + ".png",
        "bytes": os.fsdecode(b"caf\xe9.png"),
        "below a file": "file/new/a.png",
        "loop": "loop/a.png",
    }
    return folder / names.get(what, what)


@pytest.mark.parametrize("name", ["", ".", "..", "folder/.."])
def test_an_output_has_a_name_of_its_own(name):
    with pytest.raises(ValueError, match="is no name of its own: give one"):
        check_output(Path(name))


OUTPUTS = {
    "longer": "too long a name by 1 bytes",
    "bytes": "is not UTF-8: rename it",
    "below a file": "file is no folder; choose another",
    "loop": "loop is no folder; choose another",
    "pipe": "pipe is a pipe or a device",
}


@pytest.mark.skipif(sys.platform == "win32", reason="knows no pipes of this kind")
@pytest.mark.parametrize("what", OUTPUTS)
def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path, what):
    path = impossible(tmp_path, what)
    before = names_in(tmp_path)
    with pytest.raises((OSError, ValueError), match=OUTPUTS[what]):
        check_output(path)
    with pytest.raises((OSError, ValueError), match=OUTPUTS[what]), write_beside(path):
        pytest.fail("the work began")
    assert names_in(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="knows no pipes of this kind")
@pytest.mark.parametrize(
    "read",
    [
        read_image,
        image_size,
        probe,
        lambda path: read_json(path, dict, "delete it"),
        read_keras2_weights,
        lambda path: next(extract._sampled_frames(path, 1, None, None, [])),
    ],
)
@pytest.mark.parametrize("name", ["pipe.mp4", "loop.png", "caf\udce9.png"])
def test_what_is_no_file_is_refused_in_a_sentence(tmp_path, read, name):
    if name == "pipe.mp4":
        os.mkfifo(tmp_path / name)
    elif name == "loop.png":
        (tmp_path / name).symlink_to(name)
    else:
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    says = "is a pipe or a device|does not exist; check the name|is not UTF-8"
    with pytest.raises((OSError, ValueError), match=says):
        read(tmp_path / name)
