"""Weight files of other projects: found, checked, downloaded once."""

import hashlib
import os
import shutil
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from tqdm.auto import tqdm

from fsgan.media.images import write_beside

FOLDERS = (Path("weights"), Path(__file__).parents[2] / "weights")
"""Searched in this order: `weights/` of the working folder, then of the project."""
OFFLINE = "FSGAN_OFFLINE"
"""The environment variable that, set to anything, keeps downloads from being tried."""


def find_weights(name: str, sha256: str | None = None) -> Path | None:
    """Looks for a weight file and checks that it is whole.

    Args:
        name: path of the file below `weights/`, as listed in `weights/README.md`.
        sha256: first hexadecimal digits of its SHA-256, at least 8; None where it is
            not known, and the reader of the file has to check it.

    Returns:
        The file, or None where there is none.

    Raises:
        ValueError: the file is damaged or another one.
    """
    for folder in FOLDERS:
        path = folder / name
        if path.is_file():
            if sha256:
                check_weights(path, sha256)
            return path
    return None


def check_weights(path: Path, sha256: str) -> None:
    """Checks that a weight file is the one it should be.

    Args:
        path: the file.
        sha256: first hexadecimal digits of its SHA-256.

    Raises:
        ValueError: the file is damaged or another one.
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
    """Downloads a weight file into the first of `FOLDERS` that is there.

    Where none is, `weights/` of the working folder is made. The file gets its name when
    it is complete; without internet the attempt ends within seconds.

    Args:
        url: of the file, https.
        size: of the file, bytes.
        timeout: seconds that the server may take to answer, or to go on.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is no internet, the variable `FSGAN_OFFLINE` is set,
            the folder cannot be written to or what came is not the file; the sentence
            says where to put it by hand.
    """
    folder = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])
    path = folder / url.rsplit("/", 1)[-1]
    try:
        if os.environ.get(OFFLINE):
            raise OSError(f"{OFFLINE} is set")
        with write_beside(path) as unfinished:
            with (
                urlopen(url, timeout=timeout) as answer,
                open(unfinished, "wb") as file,
                tqdm.wrapattr(file, "write", total=size, desc=path.name) as progress,
            ):
                shutil.copyfileobj(answer, progress)
            if unfinished.stat().st_size != size:
                raise OSError(f"{unfinished.stat().st_size} of {size} bytes came")
    except (OSError, HTTPException) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        raise FileNotFoundError(
            f"{path.name} is missing and could not be downloaded "
            f"({getattr(error, 'reason', error)}): get it from {url} and put it into "
            f"{folder.resolve()}"
        ) from error
    return path
