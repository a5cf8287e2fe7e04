"""Weight files of other projects are found, refused when damaged, downloaded once."""

import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fsgan.models import weights
from fsgan.models.weights import check_weights, download_weights, find_weights

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


def test_without_a_known_sum_a_file_is_found_unchecked(project):
    path = put(project / "network.h5")
    assert find_weights("network.h5") == path


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


class Server(BaseHTTPRequestHandler):
    """Has one file, and one that breaks off in the middle."""

    def do_GET(self):
        found = self.path in ("/network.h5", "/broken.h5")
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 5 if self.path == "/broken.h5" else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server on this machine."""
    monkeypatch.delenv(weights.OFFLINE, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_downloaded_file_is_found_from_then_on(project, server):
    path = download_weights(f"{server}/network.h5", len(CONTENT))
    assert path == project / "network.h5"
    assert path.read_bytes() == CONTENT
    assert find_weights("network.h5", SHA256) == path
    assert list(project.iterdir()) == [path]


def test_the_working_folder_s_weights_are_downloaded_to_where_there_are_some(
    project, server
):
    Path("weights").mkdir()
    download_weights(f"{server}/network.h5", len(CONTENT))
    assert find_weights("network.h5", SHA256) == Path("weights/network.h5")


def test_a_missing_weights_folder_is_made_in_the_working_folder(project, server):
    project.rmdir()
    download_weights(f"{server}/network.h5", len(CONTENT))
    assert find_weights("network.h5", SHA256) == Path("weights/network.h5")


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("broken.h5", len(CONTENT), f"5 of {len(CONTENT)} bytes came"),
        ("network.h5", 1000, f"{len(CONTENT)} of 1000 bytes came"),
        ("other.h5", len(CONTENT), "Not Found"),
    ],
)
def test_what_is_not_the_file_is_not_kept(project, server, name, size, reason):
    url = f"{server}/{name}"
    with pytest.raises(FileNotFoundError) as caught:
        download_weights(url, size)
    assert str(caught.value) == (
        f"{name} is missing and could not be downloaded ({reason}): get it from {url} "
        f"and put it into {project}"
    )
    assert list(project.iterdir()) == []


def test_a_server_that_does_not_answer_is_given_up(project, monkeypatch):
    monkeypatch.delenv(weights.OFFLINE, raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/network.h5"
        with pytest.raises(FileNotFoundError, match="timed out"):
            download_weights(url, len(CONTENT), timeout=0.1)
    with pytest.raises(FileNotFoundError, match="refused"):
        download_weights(url, len(CONTENT))
    assert list(project.iterdir()) == []


def test_offline_nothing_is_asked_for(project, server, monkeypatch):
    monkeypatch.setenv("FSGAN_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"\(FSGAN_OFFLINE is set\): get it"):
        download_weights(f"{server}/network.h5", len(CONTENT))


def test_a_folder_that_cannot_be_made_is_named(project, server):
    project.rmdir()
    Path("weights").write_text("a file")
    with pytest.raises(FileNotFoundError, match="weights"):
        download_weights(f"{server}/network.h5", len(CONTENT))
