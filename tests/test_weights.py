"""Weight files of other projects are found, and refused when damaged."""

import hashlib
from pathlib import Path

import pytest

from fsgan import weights
from fsgan.weights import check_weights, find_weights

CONTENT = b"weights of a network"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The weights folder of a project that is elsewhere than the working folder."""
    folder = tmp_path / "project" / "weights"
    folder.mkdir(parents=True)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(weights, "FOLDERS", (weights.FOLDERS[0], folder))
    return folder


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_folders_are_the_working_folder_s_and_the_project_s():
    root = Path(__file__).resolve().parents[1]
    assert weights.FOLDERS[0] == Path("weights")
    assert weights.FOLDERS[1].resolve() == root / "weights"


def test_a_missing_file_is_none(project):
    assert find_weights("network.h5", SHA256) is None


def test_a_file_of_the_project_is_found(project):
    path = put(project / "hub" / "network.h5")
    assert find_weights("hub/network.h5", SHA256) == path


def test_the_working_folder_comes_first(project):
    put(project / "network.h5", b"another")
    put(Path("weights/network.h5"))
    assert find_weights("network.h5", SHA256) == Path("weights/network.h5")


def test_the_first_digits_of_the_sum_suffice(project):
    path = put(project / "network.h5")
    assert find_weights("network.h5", SHA256[:10]) == path


def test_a_folder_of_that_name_is_not_a_file(project):
    (project / "network.h5").mkdir()
    assert find_weights("network.h5", SHA256) is None


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"."])
def test_a_damaged_file_is_refused_by_name_with_both_sums(project, content):
    path = put(project / "network.h5", content)
    found = hashlib.sha256(content).hexdigest()[:10]
    with pytest.raises(
        ValueError, match=f"starts with {found}, not {SHA256[:10]}"
    ) as e:
        find_weights("network.h5", SHA256[:10])
    assert str(e.value).startswith(f"{path} is damaged or not the expected file")
    assert "weights/README.md" in str(e.value)


def test_the_right_file_passes_the_check(tmp_path):
    check_weights(put(tmp_path / "a"), SHA256)
