"""Video out, as pictures: numbered, in a folder of their own."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fsgan.media.video_formats import OUTPUT_SUFFIXES, PICTURE_SUFFIXES

_NUMBER = "%(?:0[1-9][0-9]*)?d"


@dataclass(frozen=True)
class SequencePath:
    """Where numbered pictures go, and how they are called."""

    folder: Path
    pattern: str = "%06d.png"  # with one number in it, as in C

    @classmethod
    def of(cls, path: str | Path) -> Self | None:
        """Read the path of an output.

        Args:
            path: a folder (a name without a suffix, or a folder that is there), or a
                pattern such as `frames/shot_%05d.webp`, counted from 0.

        Returns:
            The sequence, `None` where `path` names a single file.

        Raises:
            ValueError: a pattern has no folder, another suffix or no clear number.
        """
        path = Path(path)
        if "%" not in path.name:
            is_folder = path.is_dir() and path.suffix.lower() not in OUTPUT_SUFFIXES
            return cls(path) if is_folder or not path.suffix else None
        if not re.fullmatch(f"[^%]*{_NUMBER}[^%]*", path.name):
            raise ValueError(
                f"a pattern must hold one number such as %06d, got {path.name}"
            )
        if path.suffix.lower() not in PICTURE_SUFFIXES:
            raise ValueError(
                f"a pattern must end in {', '.join(PICTURE_SUFFIXES)}, got {path}"
            )
        if not path.parent.name:
            raise ValueError(
                f"{path} needs a folder of its own, such as frames/{path.name}"
            )
        return cls(path.parent, path.name)

    def name(self, index: int) -> str:
        """Return the name of a picture.

        Args:
            index: its number, from 0.

        Returns:
            Name within the folder.
        """
        return self.pattern % index

    def check_folder(self) -> None:
        """Make sure that the folder may be replaced.

        Raises:
            NotADirectoryError: it is a file.
            ValueError: it holds something other than pictures of this pattern.
        """
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise NotADirectoryError(
                f"{self.folder} is a file; give the name of a folder"
            )
        before, after = map(re.escape, re.split(_NUMBER, self.pattern))
        for entry in self.folder.iterdir():
            if not re.fullmatch(f"{before}[0-9]+{after}", entry.name):
                raise ValueError(
                    f"{self.folder} holds other things ({entry.name}) than pictures "
                    f"called {self.pattern}; give a folder of its own"
                )

    def take_name(self, pictures: Path, aside: Path) -> None:
        """Give a folder of pictures its name.

        Args:
            pictures: the folder, on the same disk.
            aside: where a folder of that name goes, to be removed.
        """
        if self.folder.exists():
            os.replace(self.folder, aside)
        os.replace(pictures, self.folder)
