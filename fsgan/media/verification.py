"""What a file says about its origin: its marks, its signature and its sidecar."""

from dataclasses import dataclass, field
from pathlib import Path

from fsgan.media.content_credentials import Credentials, installed, read_credentials
from fsgan.media.images import list_images
from fsgan.media.provenance import (
    SOURCE_TYPE,
    read_marks,
    read_sidecar,
    says_synthetic,
    sidecar_path,
)


@dataclass(frozen=True)
class Verification:
    """What `verify` found; as text, a block of lines that ends with a verdict.

    Attributes:
        path: the file or folder.
        marks: its metadata, as `provenance.read_marks` returns them.
        credentials: its signed manifest; None: there is none, or nobody looked.
        credentials_read: whether c2pa-python was there to look.
        sidecar: the record beside it; empty if there is none.
        sidecar_matches: whether the record is of this very file.
    """

    path: Path
    marks: dict[str, str]
    credentials: Credentials | None = None
    credentials_read: bool = True
    sidecar: dict = field(default_factory=dict)
    sidecar_matches: bool = False

    @property
    def synthetic(self) -> bool:
        """Whether marks, manifest or record say that it is synthetic."""
        signed = self.credentials is not None and self.credentials.synthetic
        return signed or says_synthetic(self.marks) or says_synthetic(self.sidecar)

    @property
    def tampered(self) -> bool:
        """Whether it was changed since it was signed, or since the record was made."""
        signed = self.credentials is not None and self.credentials.tampered
        return signed or (bool(self.sidecar) and not self.sidecar_matches)

    @property
    def verdict(self) -> str:
        """What to make of it, one sentence."""
        if self.synthetic and self.tampered:
            return "says that it is synthetic, and was changed after it said so"
        if self.tampered:
            return "was changed after it was signed"
        if self.synthetic:
            return "says that it is synthetic"
        return "carries no mark: this does not mean that it is genuine"

    def __str__(self) -> str:
        """Returns the block of lines."""
        lines = [str(self.path), *map("  {}".format, self._findings())]
        return "\n".join([*lines, f"  verdict      {self.verdict}"])

    def _findings(self) -> list[str]:
        marks = [f"{name}: {_short(text)}" for name, text in self.marks.items()]
        found = [("metadata", mark) for mark in marks or ["none"]]
        found += [("credentials", line) for line in self._signature()]
        if not self.sidecar:
            found.append(("sidecar", "none"))
        else:
            source = self.sidecar.get("source") or "an unnamed source"
            matches = "matches" if self.sidecar_matches else "DOES NOT match this file"
            name = sidecar_path(self.path).name
            found.append(("sidecar", f"{name} {matches}; made of {source}"))
        return [f"{part:<12} {line}" for part, line in found]

    def _signature(self) -> list[str]:
        signed = self.credentials
        if not self.credentials_read:
            return ["not looked for: c2pa-python is not installed (extra provenance)"]
        if signed is None:
            return ["none"]
        trust = {
            "Trusted": "unchanged since it was signed, by somebody trusted",
            "Valid": "unchanged since it was signed; nobody vouches for the signer",
        }
        lines = [f"{signed.state}: {trust.get(signed.state, 'does not hold')}"]
        lines += [f"signed by: {signed.signer}"] if signed.signer else []
        lines += [f"software: {signed.software}"] if signed.software else []
        lines += [f"title: {signed.title}"] if signed.title else []
        lines += [f"actions: {', '.join(signed.actions)}"] if signed.actions else []
        kinds = map(_short, signed.source_types)
        lines += [f"DigitalSourceType: {kind}" for kind in kinds]
        label = "failed" if signed.state == "Invalid" else "note"
        return lines + [f"{label}: {problem}" for problem in signed.problems]


def verify(path: str | Path, *, trusted: str | Path | None = None) -> Verification:
    """Reads all that a file says about its origin.

    Args:
        path: picture, video, or folder of pictures.
        trusted: root certificates to trust, PEM; None trusts nobody.

    Returns:
        What was found. Of the signatures of a folder, that of the first picture that
        was tampered with; else None if a picture has none; else that of the first.

    Raises:
        FileNotFoundError: nothing is at `path`, the folder holds no picture, or
            `trusted` is missing.
        ValueError: the file is neither a picture nor a video, or its sidecar is
            damaged.
    """
    path = Path(path)
    marks = read_marks(path)
    files = list_images(path) if path.is_dir() else [path]
    credentials = [read_credentials(file, trusted=trusted) for file in files]
    record, matches = read_sidecar(path) or ({}, False)
    return Verification(
        path,
        marks,
        min(credentials, key=_severity),
        installed(),
        record,
        matches,
    )


def _short(text: str) -> str:
    """The last word of IPTC's long addresses."""
    return text.removeprefix(SOURCE_TYPE.rpartition("/")[0] + "/")


def _severity(credentials: Credentials | None) -> int:
    """The worst comes first."""
    if credentials is None:
        return 1
    return 0 if credentials.tampered else 2
