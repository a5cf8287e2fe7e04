"""Content Credentials: a signed C2PA manifest inside a file, and reading it back.

Needs c2pa-python (the extra `provenance`), no internet. The signature shows that a file
was not changed since. Who signed it is known only with a certificate of one's own that
others trust; without one, each file is signed with a key that is thrown away, so that
nothing ties the files of one user together.
"""

import importlib.metadata
import io
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from fsgan.media.files import write_beside

try:
    import c2pa
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
except ImportError:
    c2pa = None

log = logging.getLogger(__name__)

SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/"
    "compositeWithTrainedAlgorithmicMedia"
)
STATEMENT = (
    "Synthetic media: faces in this file were replaced by a neural network (fsgan)."
)
# Files that C2PA has a place for; Matroska and WebM have none.
SIGNED_SUFFIXES = {".mp4", ".m4v", ".mov", ".jpg", ".jpeg", ".png", ".webp", ".avif"}

# IPTC's names for what is made by a model, or composed with such media.
_SYNTHETIC_TYPES = {
    "algorithmicMedia",
    "compositeSynthetic",
    "compositeWithTrainedAlgorithmicMedia",
    "trainedAlgorithmicMedia",
}
_ALGORITHMS = {  # C2PA's name for what a curve or a kind of key signs with
    "secp256r1": "es256",
    "secp384r1": "es384",
    "secp521r1": "es512",
    "RSAPrivateKey": "ps256",
    "Ed25519PrivateKey": "ed25519",
}
_SETTINGS = {  # nothing is fetched, and no thumbnail made, which is slow
    "core": {"backing_store_memory_threshold_in_mb": 32},
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {
        "verify_after_sign": False,
        "remote_manifest_fetch": False,
        "ocsp_fetch": False,
    },
}
_NOT_INSTALLED = "c2pa-python is not installed (pip install 'fsgan[provenance]')"


@dataclass(frozen=True)
class Credentials:
    """What the manifest of a file says, and whether it holds.

    Attributes:
        state: "Trusted", "Valid" (unchanged, by a signer not trusted) or "Invalid".
        signer: organisation and name in the certificate; proven only if "Trusted".
        title: name that the file was given.
        software: name and version of the program that made the manifest.
        source_types: IPTC's addresses of what came out, such as `SOURCE_TYPE`.
        problems: codes of the checks that failed, such as
            "signingCredential.untrusted" or "assertion.dataHash.mismatch".
    """

    state: str
    signer: str = ""
    title: str = ""
    software: str = ""
    source_types: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def synthetic(self) -> bool:
        """Whether the manifest says that the file is synthetic."""
        return any(map(is_synthetic, self.source_types))

    @property
    def tampered(self) -> bool:
        """Whether the file, or the manifest, was changed after it was signed."""
        of_signer = [code.startswith("signingCredential.") for code in self.problems]
        return self.state == "Invalid" and not (of_signer and all(of_signer))


def is_synthetic(source_type: str) -> bool:
    """Tells whether an IPTC digital source type, an address, is one of synthetic media.

    Source: IPTC Digital Source Type NewsCodes.
    """
    return source_type.rsplit("/", 1)[-1] in _SYNTHETIC_TYPES


def software() -> str:
    """Returns the name and the version of this package, parted by a space."""
    try:
        return f"fsgan {importlib.metadata.version('fsgan')}"
    except importlib.metadata.PackageNotFoundError:
        return "fsgan (not installed)"  # run from a bare checkout


def installed() -> bool:
    """Tells whether c2pa-python is there to sign files and to read signatures."""
    return c2pa is not None


def sign(
    path: str | Path,
    *,
    title: str | None = None,
    certificate: str | Path | None = None,
    private_key: str | Path | None = None,
) -> bool:
    """Signs a finished file, in place; nothing may change it after that.

    Args:
        path: the file.
        title: name of the file to note; None notes that of `path`.
        certificate: your own chain, PEM, the signer's first, issued by another one for
            e-mail protection or document signing; None makes one for this file alone.
        private_key: the key of its first certificate, PEM, without a password.

    Returns:
        Whether it was signed; if not, the log says why, once.

    Raises:
        FileNotFoundError: the file, the certificate or the key is missing.
        ValueError: the certificate or the key cannot be used, or the file is damaged.
    """
    path = Path(path)
    _check_file(path)
    kind = path.suffix.lower()
    if kind not in SIGNED_SUFFIXES:
        _log_unsigned(f"{kind} has no place for one")
        return False
    if not installed():
        _log_unsigned(_NOT_INSTALLED)
        return False
    if (certificate is None) != (private_key is None):
        raise ValueError("certificate and private_key must be given together")
    if certificate is None:
        chain, key = _make_certificate()
    else:
        chain, key = _load_certificate(Path(certificate), Path(private_key))
    with (
        write_beside(path) as temporary,
        open(path, "rb") as source,
        open(temporary, "w+b") as signed,
    ):
        _sign(source, signed, kind, title or path.name, chain, key)
    return True


def check_certificate(certificate: str | Path, private_key: str | Path) -> None:
    """Checks that a certificate and its key, as `sign` takes them, can sign.

    Raises:
        ImportError: c2pa-python is not installed.
        FileNotFoundError: the certificate or the key is missing.
        ValueError: they cannot sign, and why.
    """
    if not installed():
        raise ImportError(f"a certificate cannot sign: {_NOT_INSTALLED}")
    chain, key = _load_certificate(Path(certificate), Path(private_key))
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "PNG")
    picture.seek(0)
    _sign(picture, io.BytesIO(), ".png", str(certificate), chain, key)


def read_credentials(
    path: str | Path, *, trusted: str | Path | None = None
) -> Credentials | None:
    """Reads the manifest of a file and checks it.

    Args:
        path: the file.
        trusted: root certificates to trust, PEM; None trusts nobody.

    Returns:
        What it says; None: there is none, or c2pa-python is not `installed`.

    Raises:
        FileNotFoundError: the file, or `trusted`, is missing.
        ValueError: the file is damaged, or `trusted` holds no certificate.
    """
    path, settings = Path(path), _SETTINGS
    _check_file(path)
    if not installed():
        return None
    if trusted is not None:
        roots = b"".join(map(_pem, _read_chain(Path(trusted))))
        settings = settings | {"trust": {"user_anchors": roots.decode()}}
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
            return _parse(json.loads(reader.json()))


def _sign(
    source: BinaryIO, signed: BinaryIO, kind: str, title: str, chain: bytes, key: Any
) -> None:
    """Copies a file of a kind, such as ".mp4", with a manifest in it."""
    kind_of_key = key.curve.name if hasattr(key, "curve") else type(key).__name__
    if kind_of_key not in _ALGORITHMS:
        raise ValueError("private_key must be RSA, Ed25519, P-256, P-384 or P-521")
    name, version = software().split(" ", 1)
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
    info = c2pa.C2paSignerInfo(_ALGORITHMS[kind_of_key], chain, _pem(key), None)
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


def _parse(store: dict) -> Credentials:
    manifest = store["manifests"][store["active_manifest"]]
    signature = manifest.get("signature_info", {})
    maker = manifest.get("claim_generator_info", [{}])[0]
    kinds = (
        action.get("digitalSourceType")
        for assertion in manifest.get("assertions", [])
        if assertion["label"].startswith("c2pa.actions")
        for action in assertion["data"].get("actions", [])
    )
    return Credentials(
        state=store["validation_state"],
        signer=", ".join(filter(None, map(signature.get, ("issuer", "common_name")))),
        title=manifest.get("title", ""),
        software=" ".join(filter(None, map(maker.get, ("name", "version")))),
        source_types=tuple(filter(None, kinds)),
        problems=tuple(it["code"] for it in store.get("validation_status", [])),
    )


def _make_certificate() -> tuple[bytes, Any]:
    """Makes a certificate for one file that names nobody, PEM, and its key."""
    issuer_name, subject_name = (
        x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "fsgan"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        for name in ("nobody", "key made for this file")
    )
    # C2PA refuses certificates that sign themselves: a second key issues it.
    key, issuer = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = x509.KeyUsage(True, *[False] * 8)  # digital signatures, nothing else
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .issuer_name(issuer_name)
        .subject_name(subject_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))  # an expired one is no proof
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(purpose, critical=False)
        .add_extension(authority, critical=False)
        .sign(issuer, hashes.SHA256())
    )
    return _pem(certificate), key


def _load_certificate(certificate: Path, private_key: Path) -> tuple[bytes, Any]:
    """Reads a chain of certificates, PEM, and the key of the first."""
    chain = _read_chain(certificate)
    _check_file(private_key)
    try:
        key = serialization.load_pem_private_key(private_key.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"{private_key} holds no key; give a PEM file without a password"
        ) from error
    if key.public_key() != chain[0].public_key():
        raise ValueError(f"{private_key} is not the key of {certificate}")
    first, last = chain[0].not_valid_before_utc, chain[0].not_valid_after_utc
    if not first <= datetime.now(UTC) <= last:
        raise ValueError(
            f"{certificate} is valid from {first.date()} to {last.date()}: renew it"
        )
    return b"".join(map(_pem, chain)), key


def _read_chain(path: Path) -> "list[x509.Certificate]":
    """Reads the certificates of a PEM file; what else is in it is passed over."""
    _check_file(path)
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} holds no certificate; give a PEM file") from error


def _pem(item: Any) -> bytes:
    """A certificate or a private key as PEM."""
    pem = serialization.Encoding.PEM
    if not hasattr(item, "private_bytes"):
        return item.public_bytes(pem)
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return item.private_bytes(pem, pkcs8, plain)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there or not a file; check the name")


@cache
def _log_unsigned(reason: str) -> None:
    log.info("results carry no signature: %s", reason)
