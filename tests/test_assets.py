import gc
import hashlib
import socket
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import platformdirs
import pytest

from fsgan import assets
from fsgan.assets import asset, download_weights, find_weights

CONTENT = b"weights of a network"
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, ...]:
    """`weights` of the working folder, those of a project elsewhere, and a cache."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    folders = (Path("weights"), tmp_path / "project", tmp_path / "cache")
    monkeypatch.setattr(assets, "FOLDERS", folders)
    return folders


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_weights_are_those_of_the_working_folder_the_project_or_one_cache():
    work, project, cache = assets.FOLDERS
    assert work == Path("weights")
    assert project.resolve() == Path(__file__).resolve().parents[1] / "weights"
    assert cache.is_relative_to(platformdirs.user_cache_dir("fsgan", appauthor=False))


def test_the_first_folder_that_has_the_file_counts(folders):
    (folders[0] / "hub" / "network.h5").mkdir(parents=True)  # not a file
    assert find_weights("hub/network.h5", SHA256) is None
    (folders[0] / "hub" / "network.h5").rmdir()
    for folder in reversed(folders):
        path = put(folder / "hub" / "network.h5")
        assert find_weights("hub/network.h5", SHA256[:10]) == path
    path.write_bytes(b"unchecked without a sum")
    assert find_weights("hub/network.h5") == path


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"."])
def test_a_damaged_file_is_refused_by_name_with_both_sums(folders, content):
    put(folders[1] / "network.h5", content)
    found = hashlib.sha256(content).hexdigest()[:10]
    message = rf"network\.h5 is damaged .* starts with {found}, not {SHA256[:10]}; get"
    with pytest.raises(ValueError, match=message):
        find_weights("network.h5", SHA256[:10])


def test_a_missing_asset_says_that_the_installation_is_incomplete():
    assert asset("__init__.py") == Path(assets.__file__)
    with pytest.raises(FileNotFoundError, match=r"no\.onnx is missing: install fsgan"):
        asset("no.onnx")


class Server(BaseHTTPRequestHandler):
    """Has one file, and one that breaks off in the middle."""

    def do_GET(self):
        found = self.path in ("/network.h5", "/broken.h5")
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(SIZE))
        self.end_headers()
        self.wfile.write(CONTENT[: 5 if self.path == "/broken.h5" else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """The address of a server on this machine."""
    monkeypatch.delenv("FSGAN_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "*")
    with HTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()
    with warnings.catch_warnings():  # pooch leaves a broken connection to the collector
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_a_downloaded_file_is_found_in_the_cache_from_then_on(folders, server):
    path = download_weights(f"{server}/network.h5", SIZE)
    assert path == folders[-1] / "network.h5"
    assert find_weights("network.h5", SHA256) == path
    assert list(folders[-1].iterdir()) == [path]
    assert list(Path().iterdir()) == []  # nothing in the working folder


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("broken.h5", SIZE, "no connection to 127"),
        ("network.h5", 1000, f"{SIZE} of 1000 bytes came"),
        ("other.h5", SIZE, "Not Found"),
    ],
)
def test_what_is_not_the_file_is_not_kept(folders, server, name, size, reason):
    with pytest.raises(FileNotFoundError, match=reason) as caught:
        download_weights(f"{server}/{name}", size)
    message = str(caught.value)
    assert message.startswith(f"{name} is missing and could not be downloaded (")
    assert message.endswith(
        f"get it from {server}/{name} and put it into {folders[-1]}"
    )
    assert list(folders[-1].iterdir()) == []


def test_a_server_that_does_not_answer_is_given_up(folders, server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(FileNotFoundError, match=rf"\(no connection to {host}\)"):
            download_weights(f"http://{host}/network.h5", SIZE, timeout=0.1)
    with pytest.raises(FileNotFoundError, match=rf"\(no connection to {host}\)"):
        download_weights(f"http://{host}/network.h5", SIZE)


def test_offline_nothing_is_asked_for(folders, server, monkeypatch):
    monkeypatch.setenv("FSGAN_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match=r"\(FSGAN_OFFLINE is set\): get it"):
        download_weights(f"{server}/network.h5", SIZE)


def test_a_folder_that_cannot_be_made_is_named(folders, server):
    put(folders[-1], b"a file")
    with pytest.raises(FileNotFoundError, match=rf"put it into {folders[-1]}"):
        download_weights(f"{server}/network.h5", SIZE)
