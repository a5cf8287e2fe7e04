"""Content Credentials: a signed C2PA manifest inside a result, and reading it back.

Needs c2pa-python (the extra `provenance`) and no internet. The signature shows that a
file was not changed since; who signed it is known only with a certificate that others
trust, which the self-made one is not.
"""

import io
import json
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

from PIL import Image

from fsgan.media.certificates import load_certificate, read_chain, self_made_certificate
from fsgan.media.images import write_beside
from fsgan.media.provenance import (
    SOURCE_TYPE,
    STATEMENT,
    says_synthetic,
    video_metadata,
)

logger = logging.getLogger(__name__)

SIGNED_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".gif", ".jpg", ".jpeg", ".png", ".webp", ".avif"}
)
"""Files that C2PA has a place for; Matroska and WebM have none."""
# Nothing is fetched, and no thumbnail is made: it would cost more than all the rest.
_SETTINGS = {
    "core": {"backing_store_memory_threshold_in_mb": 32},  # else 512
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {
        "verify_after_sign": False,
        "remote_manifest_fetch": False,
        "ocsp_fetch": False,
    },
}


@dataclass(frozen=True)
class Credentials:
    """What the manifest of a file says, and whether it holds.

    Attributes:
        state: "Trusted", "Valid" (the file is as it was signed, by somebody who is on
            no list of trusted ones) or "Invalid".
        signer: organisation and name in the certificate; anybody can write anything
            there unless the state is "Trusted".
        title: name that the file was given.
        software: that made the manifest, with its version.
        actions: what was done, such as "c2pa.edited".
        source_types: IPTC's addresses of what came out, such as
            `provenance.SOURCE_TYPE`.
        problems: names of the checks that failed, such as
            "signingCredential.untrusted" or "assertion.dataHash.mismatch".
    """

    state: str
    signer: str = ""
    title: str = ""
    software: str = ""
    actions: tuple[str, ...] = ()
    source_types: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def synthetic(self) -> bool:
        """Whether the manifest says that the file is synthetic."""
        return any(
            says_synthetic({"DigitalSourceType": kind}) for kind in self.source_types
        )

    @property
    def tampered(self) -> bool:
        """Whether the file, or the manifest, was changed after it was signed."""
        of_signer = [it.startswith("signingCredential.") for it in self.problems]
        return self.state == "Invalid" and not (of_signer and all(of_signer))


def installed() -> bool:
    """Tell whether c2pa-python is installed.

    Returns:
        Whether files can be signed and credentials read.
    """
    return _c2pa() is not None


def sign(
    path: str | Path,
    *,
    title: str | None = None,
    certificate: str | Path | None = None,
    private_key: str | Path | None = None,
) -> bool:
    """Sign a finished file, in place; nothing may change it after that.

    Takes as much memory as the file is large, 500 MB at most.

    The manifest says that faces were replaced by a trained model. Without a certificate
    of your own the file is signed with a self-made one (`certificates`) that names
    nobody. All files of one user share it, which shows that they come from one user:
    delete `certificates.certificate_path()` to get another.

    Args:
        path: the file; `SIGNED_SUFFIXES` have a place for a signature.
        title: name of the file to note; None notes that of `path`.
        certificate: your own chain, PEM, the signer's first, which must be issued by
            another one and have the extended key usage e-mail protection or document
            signing.
        private_key: the key of its first certificate, PEM, without a password.

    Returns:
        Whether the file was signed; without c2pa-python, or where the format has no
        place for a signature, it is left as it is and the log says so once.

    Raises:
        FileNotFoundError: the file, the certificate or the key is missing.
        ValueError: the certificate or the key cannot be used, or the file is damaged.
        OSError: the folder cannot be written to.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there or not a file; check the name")
    kind = path.suffix.lower()
    if kind not in SIGNED_SUFFIXES or not installed():
        place = f"{kind} has no place for one"
        missing = "c2pa-python is not installed (the extra provenance)"
        _say_unsigned(missing if kind in SIGNED_SUFFIXES else place)
        return False
    if certificate is None and private_key is None:
        chain, key = self_made_certificate()
    elif certificate is None or private_key is None:
        raise ValueError("certificate and private_key must be given together")
    else:
        chain, key = load_certificate(certificate, private_key)
    with (
        write_beside(path) as temporary,
        open(path, "rb") as source,
        open(temporary, "w+b") as signed,
    ):
        _sign(source, signed, kind, title or path.name, chain, key)
    return True


def check_certificate(certificate: str | Path, private_key: str | Path) -> None:
    """See whether a certificate of your own can sign, before work is begun with it.

    Args:
        certificate: chain, PEM, as `sign` takes it.
        private_key: its key, PEM.

    Raises:
        FileNotFoundError: the certificate or the key is missing.
        ValueError: they cannot be read, do not belong together, are not valid today or
            are not made for C2PA.
        ImportError: c2pa-python is not installed.
    """
    if not installed():
        raise ImportError(
            "a certificate is of use with c2pa-python only: pip install "
            "'fsgan[provenance]'"
        )
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    picture.seek(0)
    chain, key = load_certificate(certificate, private_key)
    _sign(picture, io.BytesIO(), ".png", str(certificate), chain, key)


def read_credentials(
    path: str | Path, *, trusted: str | Path | None = None
) -> Credentials | None:
    """Read the manifest of a file and check it.

    Args:
        path: the file.
        trusted: root certificates to trust, PEM; None trusts nobody.

    Returns:
        What it says; None if there is none, or c2pa-python is not `installed`.

    Raises:
        FileNotFoundError: the file, or `trusted`, is missing.
        ValueError: the file is damaged, or `trusted` holds no certificate.
    """
    c2pa, path = _c2pa(), Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there or not a file; check the name")
    if c2pa is None:
        return None
    settings = _SETTINGS
    if trusted is not None:
        roots, _ = read_chain(trusted)
        settings = _SETTINGS | {"trust": {"user_anchors": roots.decode()}}
    with c2pa.Context.from_dict(settings) as context:
        try:
            reader = c2pa.Reader.try_create(str(path), context=context)
        except c2pa.C2paError.NotSupported:
            return None
        except c2pa.C2paError as error:
            unreadable = isinstance(error, c2pa.C2paError.Io)
            if unreadable or "asset could not be parsed" in str(error):
                raise ValueError(f"{path} is damaged: {error}") from error
            # What was signed is no longer a manifest.
            return Credentials("Invalid", problems=(str(error),))
        if reader is None:
            return None
        with reader:
            return _credentials(json.loads(reader.json()))


def _sign(
    source: BinaryIO, signed: BinaryIO, kind: str, title: str, chain: bytes, key: bytes
) -> None:
    """Copies a file of a kind, such as ".mp4", with a manifest in it."""
    c2pa = _c2pa()
    name, version = video_metadata()["software"].split(" ", 1)
    action = {
        "action": "c2pa.edited",
        "digitalSourceType": SOURCE_TYPE,
        "description": STATEMENT,
    }
    manifest = {
        "claim_generator_info": [{"name": name, "version": version}],
        "title": title,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
    }
    info = c2pa.C2paSignerInfo(_algorithm(key), chain, key, None)  # no time-stamp
    try:
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Context.from_dict(_SETTINGS) as context,
            c2pa.Builder(manifest, context) as builder,
        ):
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            builder.sign(signer, kind[1:], source, signed)
    except c2pa.C2paError as error:
        raise ValueError(f"{title}: no signature could be made: {error}") from error


def _algorithm(key: bytes) -> str:
    """The algorithm of C2PA that fits a private key."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    private = load_pem_private_key(key, password=None)
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in curves:
        return curves[private.curve.name]
    raise ValueError("private_key must be of RSA, Ed25519, or P-256, P-384 or P-521")


def _c2pa() -> ModuleType | None:
    try:
        import c2pa
    except ImportError:
        return None
    return c2pa


@cache
def _say_unsigned(reason: str) -> None:
    logger.info("results carry no signature: %s", reason)


def _credentials(store: dict) -> Credentials:
    manifest = store["manifests"][store["active_manifest"]]
    signature = manifest.get("signature_info", {})
    actions = [
        action
        for assertion in manifest.get("assertions", [])
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"].get("actions", [])
    ]
    makers = manifest.get("claim_generator_info", [{}])
    names = (signature.get("issuer"), signature.get("common_name"))
    return Credentials(
        state=store["validation_state"],
        signer=", ".join(filter(None, names)),
        title=manifest.get("title", ""),
        software=" ".join(filter(None, map(makers[0].get, ("name", "version")))),
        actions=tuple(action["action"] for action in actions),
        source_types=tuple(
            action["digitalSourceType"]
            for action in actions
            if "digitalSourceType" in action
        ),
        problems=tuple(
            problem["code"] for problem in store.get("validation_status", [])
        ),
    )
