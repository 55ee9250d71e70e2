"""Certificates for mutual TLS (RFC 8705): an authority, a server, clients that it signed or that sign themselves."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.standins.second_issuer import jose

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """A certificate with its key; `file` holds both as PEM, key first."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    file: Path

    @property
    def thumbprint(self) -> str:
        return jose.x5t_s256(self.certificate)

    @property
    def subject(self) -> str:
        return self.certificate.subject.rfc4514_string()

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def context(self, ca_file: Path) -> ssl.SSLContext:
        """Return a client's context that trusts `ca_file` and presents this certificate."""
        context = ssl.create_default_context(cafile=ca_file)
        context.load_cert_chain(self.file)
        return context


class Authority:
    """Signs servers and clients; files go to `folder`, the authority's own certificate is `ca_file`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self.root = self._make("CN=Second issuer CA", [], None)
        self.ca_file = folder / "second-ca.pem"
        self.ca_file.write_text(self.root.certificate_pem)

    def client(self, subject: str = "CN=agent,O=Example", san: Sequence[x509.GeneralName] = ()) -> Identity:
        """Return a client's certificate, signed by this authority. `subject` as RFC 4514 writes it."""
        return self._make(subject, san, self.root)

    def self_signed(self, subject: str = "CN=agent,O=Example") -> Identity:
        """Return a client's certificate that no authority stands behind."""
        return self._make(subject, [], None)

    def server_context(self, client_certificates: Sequence[x509.Certificate], *, ask: bool) -> ssl.SSLContext:
        """Return a server's context; with `ask` it takes a client certificate if there is one.

        OpenSSL verifies in the handshake, so that a certificate that signed itself is taken only if it is
        among `client_certificates`.
        """
        san = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._make("CN=localhost", san, self.root).file)
        if ask:
            context.verify_mode = ssl.CERT_OPTIONAL
            trusted = [self.root.certificate, *client_certificates]
            context.load_verify_locations(cadata="".join(one.public_bytes(Encoding.PEM).decode() for one in trusted))
        return context

    def _make(self, subject: str, san: Sequence[x509.GeneralName], signer: Identity | None) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        name, now = x509.Name.from_rfc4514_string(subject), dt.datetime.now(dt.UTC)
        public, signing = key.public_key(), signer.key if signer else key
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(signer.certificate.subject if signer else name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()),
                critical=False,
            )
        )
        if signer is None:
            builder = builder.add_extension(_usage(), critical=True)
        if san:
            builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
        made = builder.sign(signing, hashes.SHA256())
        self._count += 1
        identity = Identity(made, key, self._folder / f"second-{self._count}.pem")
        identity.file.touch(mode=0o600)
        identity.file.write_text(identity.key_pem + identity.certificate_pem)
        return identity


def _usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
