"""Small files that ship with the package, and where other weights are found."""

import hashlib
import os
from pathlib import Path

from platformdirs import user_cache_path

FOLDERS = (
    Path("weights"),
    Path(__file__).parents[2] / "weights",
    user_cache_path("fsgan", appauthor=False) / "weights",
)
"""Searched in this order: `weights/` of the working folder, `weights/` of the project,
and the user's cache, into which downloads go."""


def asset(name: str) -> Path:
    """Finds a file that ships with the package.

    Args:
        name: Its path below `fsgan/assets`, such as `mtcnn/pnet.onnx`.

    Raises:
        FileNotFoundError: There is none of that name.
    """
    path = Path(__file__).parent / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: install fsgan again")
    return path


def render(template: str, **values: object) -> str:
    """Fills in one of the HTML templates that ship; values are escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)


def find_weights(name: str, sha256: str | None = None) -> Path | None:
    """Looks for a weight file and checks that it is whole.

    Args:
        name: Path of the file below `weights/`, as listed in `weights/README.md`.
        sha256: First hexadecimal digits of its SHA-256; None checks nothing.

    Returns:
        The file, or None where there is none.

    Raises:
        ValueError: The file is damaged or another one.
    """
    for folder in FOLDERS:
        path = folder / name
        if path.is_file():
            if sha256:
                check_weights(path, sha256)
            return path
    return None


def check_weights(path: Path, sha256: str) -> None:
    """Checks a weight file by the first hexadecimal digits of its SHA-256.

    Raises:
        ValueError: The file is damaged or another one.
    """
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise ValueError(
            f"{path} is damaged or not the expected file: its SHA-256 starts with "
            f"{found[: len(sha256)]}, not {sha256}; get it again as weights/README.md "
            "says"
        )


def download_weights(url: str, size: int, timeout: float = 5.0) -> Path:
    """Downloads a weight file once, into the user's cache.

    Args:
        url: Of the file, https.
        size: Of the file, bytes.
        timeout: Seconds that the server may take to answer, or to go on.

    Returns:
        The file.

    Raises:
        FileNotFoundError: There is no internet, the variable `FSGAN_OFFLINE` is set,
            the folder cannot be written to or what came is not the file.
    """
    import pooch

    def download(url: str, path: str, _) -> None:
        fetch = pooch.HTTPDownloader(
            progressbar=True, chunk_size=2**20, timeout=timeout
        )
        fetch(url, path, None)
        if (came := os.path.getsize(path)) != size:
            raise OSError(f"{came} of {size} bytes came")

    name, folder = url.rsplit("/", 1)[-1], FOLDERS[-1]
    try:
        if os.environ.get("FSGAN_OFFLINE"):
            raise OSError("FSGAN_OFFLINE is set")
        return Path(pooch.retrieve(url, None, name, folder, downloader=download))
    except OSError as error:
        # What requests says of a failed connection is a paragraph.
        failed = getattr(error, "response", error) is None
        reason = f"no connection to {url.split('/')[2]}" if failed else error
        raise FileNotFoundError(
            f"{name} is missing and could not be downloaded ({reason}): get it from "
            f"{url} and put it into {folder}"
        ) from error
