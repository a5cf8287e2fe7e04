"""Certificates to sign with: your own, or one made here once.

Needs cryptography, which c2pa-python brings (the extra `provenance`).
"""

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fsgan.media.images import write_beside

if TYPE_CHECKING:
    from cryptography import x509

logger = logging.getLogger(__name__)

_ORGANISATION = "fsgan, self-made certificate"
_YEARS = 10  # that a self-made certificate is good for: an expired one is no proof


def certificate_path() -> Path:
    """Name the file that holds the self-made certificate and its key.

    Returns:
        `fsgan/certificate.pem` in the user's folder of settings, on Linux below
        `$XDG_CONFIG_HOME` or `~/.config`.
    """
    from platformdirs import user_config_path

    return user_config_path("fsgan") / "certificate.pem"


def self_made_certificate() -> tuple[bytes, bytes]:
    """Read the self-made certificate; make it where none is of use.

    It names nobody. Only the user can read the file. Where the folder cannot be written
    to, the certificate serves for this once, and the log says so.

    Returns:
        The chain and its key, PEM.
    """
    path = certificate_path()
    if path.is_file():
        try:
            return load_certificate(path, path)
        except ValueError as error:
            logger.info("a new certificate is made: %s", error)
    chain, key = _make()
    try:
        with write_beside(path) as temporary:
            temporary.chmod(0o600)
            temporary.write_bytes(key + chain)
        logger.info("a certificate to sign results with was made: %s", path)
    except OSError as error:
        logger.warning("the certificate serves for this once: %s", error)
    return chain, key


def load_certificate(
    certificate: str | Path, private_key: str | Path
) -> tuple[bytes, bytes]:
    """Read a chain of certificates and its key.

    Args:
        certificate: chain, PEM, the signer's first; other PEM blocks are passed over.
        private_key: key of its first certificate, PEM, without a password; it may be
            the same file.

    Returns:
        The chain and the key, PEM.

    Raises:
        FileNotFoundError: one of the files is missing.
        ValueError: a file cannot be read, the first certificate is not valid today, or
            the key is not its key.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate, private_key = Path(certificate), Path(private_key)
    pem, signer = read_chain(certificate)
    if not private_key.is_file():
        raise FileNotFoundError(f"{private_key} is not there; check the name")
    try:
        key = load_pem_private_key(private_key.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"{private_key} holds no key that can be read; give a PEM file without a "
            "password"
        ) from error
    if key.public_key() != signer.public_key():
        raise ValueError(
            f"{private_key} is not the key of {certificate}; give the two that belong "
            "together"
        )
    first, last = signer.not_valid_before_utc, signer.not_valid_after_utc
    if not first <= datetime.now(UTC) <= last:
        raise ValueError(
            f"{certificate} is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d} only; "
            "renew it"
        )
    return pem, _pem(key)


def read_chain(path: str | Path) -> "tuple[bytes, x509.Certificate]":
    """Read certificates.

    Args:
        path: PEM file; what else is in it is passed over.

    Returns:
        The certificates, PEM, and the first of them.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: it holds no certificate.
    """
    from cryptography import x509

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; check the name")
    try:
        chain = x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"{path} holds no certificate that can be read; give a PEM file"
        ) from error
    return b"".join(map(_pem, chain)), chain[0]


def _pem(item: object) -> bytes:
    """A certificate or a private key as PEM."""
    from cryptography.hazmat.primitives import serialization

    encoding = serialization.Encoding.PEM
    if not hasattr(item, "private_bytes"):
        return item.public_bytes(encoding)
    return item.private_bytes(
        encoding,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _make() -> tuple[bytes, bytes]:
    """A new chain and its key, PEM: C2PA refuses certificates that sign themselves."""
    from cryptography.hazmat.primitives.asymmetric import ec

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _issue("root", root_key, root_key)
    leaf = _issue("signer", key, root_key)
    return _pem(leaf) + _pem(root), _pem(key)


def _issue(name: str, key: object, root_key: object) -> object:
    """A certificate in the form that C2PA's profile asks for."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def named(common_name: str) -> x509.Name:
        organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION)
        return x509.Name(
            [organisation, x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        )

    is_root = key is root_key
    unused = ("content_commitment", "key_encipherment", "data_encipherment")
    unused += ("key_agreement", "encipher_only", "decipher_only")
    usage = x509.KeyUsage(
        digital_signature=not is_root,
        key_cert_sign=is_root,
        crl_sign=is_root,
        **dict.fromkeys(unused, False),
    )
    own, issuer = key.public_key(), root_key.public_key()
    extensions = [
        (x509.BasicConstraints(ca=is_root, path_length=None), True),
        (usage, True),
        (x509.SubjectKeyIdentifier.from_public_key(own), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer), False),
    ]
    if not is_root:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        extensions.append((purpose, False))
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .issuer_name(named("root"))
        .subject_name(named(name))
        .public_key(own)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * _YEARS))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(root_key, hashes.SHA256())
