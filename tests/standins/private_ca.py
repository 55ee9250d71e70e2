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
    """Its certificate is in `file`; `server(name)` gives what a server of that name needs.

    An `old` one knows nothing of what RFC 5280 §4.2.1.1-3 wants in a certificate, as those made by hand long ago.
    """

    def __init__(self, folder: Path, *, old: bool = False) -> None:
        self._folder = folder
        self._old = old
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Stand-in CA")])
        self.file = folder / "ca.pem"
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        made = self._builder(self._name, self._key.public_key(), issuer=self._name, signer=self._key).add_extension(
            constraints, critical=True
        )
        if not old:
            made = made.add_extension(_usage(authority=True), critical=True)
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
        issuer, signer = (self._name, self._key) if signed else (subject, key)
        builder = self._builder(subject, key.public_key(), issuer=issuer, signer=signer, ends=ends)
        if not self._old:
            builder = builder.add_extension(_usage(authority=False), critical=True)
        made = builder.add_extension(names, critical=False).sign(signer, hashes.SHA256())
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return made.public_bytes(Encoding.PEM).decode(), private.decode()

    def _builder(
        self, subject: x509.Name, key: Any, *, issuer: x509.Name, signer: Any, ends: dt.timedelta = DAY
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        plain = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + ends)
        )
        if self._old:
            return plain
        own, above = x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier
        return plain.add_extension(own.from_public_key(key), critical=False).add_extension(
            above.from_issuer_public_key(signer.public_key()), critical=False
        )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
