import subprocess
import sys

import numpy as np
import pytest

from fsgan import images
from fsgan.__main__ import main
from fsgan.certificates import certificate_path
from fsgan.content_credentials import sign
from fsgan.provenance import image_xmp

GRAY = np.full((16, 24, 3), 128, np.uint8)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Names of a marked, a plain, a changed and an unreadable picture, and of none."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path)
    images.write_image("marked.png", GRAY, xmp=image_xmp())
    sign("marked.png")
    images.write_image("plain.png", GRAY)
    data = bytearray((tmp_path / "marked.png").read_bytes())
    data[data.index(b"IDAT") + 6] ^= 1
    (tmp_path / "changed.png").write_bytes(data)
    (tmp_path / "text.png").write_text("words")


@pytest.mark.parametrize(
    ("names", "status"),
    [
        (["marked.png"], 0),
        (["marked.png", "marked.png"], 0),
        (["marked.png", "plain.png"], 1),
        (["plain.png", "changed.png", "marked.png"], 2),
        (["text.png", "marked.png"], 2),
        (["missing.png", "plain.png"], 2),
    ],
)
def test_the_worst_file_gives_the_status(files, names, status):
    assert main(["verify", *names]) == status


def test_every_file_gets_a_block_or_a_sentence(files, capsys):
    main(["verify", "marked.png", "missing.png", "plain.png"])
    out, error = capsys.readouterr()
    blocks = out.strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["marked.png", "plain.png"]
    assert blocks[0].endswith("says that it is synthetic")
    assert error == "missing.png is not there or not a file; check the name\n"


def test_signers_can_be_trusted(files, capsys):
    root = str(certificate_path())
    assert main(["verify", "--trusted", root, "marked.png"]) == 0
    assert "Trusted" in capsys.readouterr().out
    assert main(["verify", "--trusted", "missing.pem", "marked.png"]) == 2


@pytest.mark.parametrize("arguments", [[], ["verify"], ["swap", "marked.png"]])
def test_wrong_usage_is_told(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: python -m fsgan" in capsys.readouterr().err


def test_the_package_runs_as_a_program_and_starts_no_network(files):
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "fsgan", "verify", "plain.png"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert run.stdout.startswith("plain.png\n  metadata     none\n")
    for heavy in ("tensorflow", "keras", "torch", "jax"):
        assert f" {heavy}\n" not in run.stderr
