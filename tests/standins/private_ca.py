"""A certificate authority of a company's own, as stand-in servers may have one."""

from __future__ import annotations

import datetime as dt
import ssl
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

if TYPE_CHECKING:
    from pathlib import Path

DAY = dt.timedelta(days=1)


class PrivateCa:
    """Its certificate is in `file`; `server(name)` gives what a server of that name needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Stand-in CA")])
        self.file = folder / "ca.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        made = self._builder(self._name, self._key.public_key(), issuer=self._name).add_extension(
            constraints, critical=True
        )
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def server(self, name: str) -> ssl.SSLContext:
        """Return the context of a server with a certificate for `name`."""
        certificate, key = self.pair(name)
        public, private = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        public.write_text(certificate)
        private.write_text(key)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(public, private)
        return context

    def pair(self, name: str, *, key: Any = None, ends: dt.timedelta = DAY, signed: bool = True) -> tuple[str, str]:
        """Return a certificate for `name` and its key in PEM; `ends` is counted from now, `signed` is by this CA."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        builder = self._builder(subject, key.public_key(), issuer=self._name if signed else subject, ends=ends)
        made = builder.add_extension(names, critical=False).sign(self._key if signed else key, hashes.SHA256())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return made.public_bytes(Encoding.PEM).decode(), private.decode()

    def _builder(
        self, subject: x509.Name, key: Any, *, issuer: x509.Name, ends: dt.timedelta = DAY
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + ends)
        )
