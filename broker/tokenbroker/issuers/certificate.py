"""The certificate that a client shows in the TLS handshake (RFC 8705), from the vault and never on disk.

Rules of this file:
1. No clock: the moment is an argument. Its only I/O are pipes: Python has OpenSSL read from file names alone.
2. The key is in a pipe for as long as OpenSSL takes to read it; both ends are closed whatever happens.
"""

from __future__ import annotations

import datetime as dt
import os
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokenbroker.errors import CredentialRejected, IssuerMisconfigured, IssuerNeedsPerson, IssuerUnavailable
from tokenbroker.issuers import keyfiles
from tokenbroker.issuers.keys import needed, unusable
from tokenbroker.model import Secret
from tokenbroker.trust import trusting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tokenbroker.config import IssuerConfig
    from tokenbroker.issuers.authentication import Occasion
    from tokenbroker.model import Credentials

PIPE: Final = 16 * 1024  # bytes that a pipe takes without a reader on macOS; Linux takes four times as many
METHODS: Final = frozenset({"tls_client_auth", "self_signed_tls_client_auth"})  # RFC 8705 §2
"""The methods by which a client shows its certificate."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """What the client shows in a handshake, and what it proves it with; both PEM."""

    chain: Secret
    key: Secret


def client_certificate(credentials: Credentials, occasion: Occasion) -> ClientCertificate:
    """Return the certificate and key of `credentials`, fit for a handshake; takes a millisecond.

    Raises `IssuerMisconfigured` for what is missing, cannot be read or does not belong together, `CredentialRejected`
    for an expired certificate, because the vault may have a new one by now.
    """
    config = occasion.config
    certificate = needed(credentials.certificate, "certificate", credentials, config)
    key = needed(credentials.private_key, "private_key", credentials, config)
    try:
        chain = keyfiles.chain(certificate.reveal())
        private = keyfiles.read(key.reveal()).private
        own = keyfiles.check_pair(private, chain[0])
    except keyfiles.Unusable as error:
        problem = unusable(error, config)
    else:
        # With a certificate that it knows itself, an issuer need not care about dates (RFC 8705 §2.2).
        if credentials.auth == "tls_client_auth":
            _check_dates(own, occasion)
        return ClientCertificate(Secret("".join(map(ssl.DER_cert_to_PEM_cert, chain))), Secret(_pem(private)))
    raise problem


def context(certificate: ClientCertificate, config: IssuerConfig) -> ssl.SSLContext:
    """Return a TLS context that trusts whom `config` does, and shows `certificate`. Blocks; call it in a thread.

    Raises `IssuerMisconfigured` for a certificate that OpenSSL will not have, and `OSError` for an unusable `ca_file`.
    """
    made = trusting(config.ca_file)
    with _readable(certificate.chain, config) as chain, _readable(certificate.key, config) as key:
        try:
            made.load_cert_chain(chain, key, password="")
        except OSError:  # `SSLError` is one, and an errno of a moment ago may stand in its place
            pass
        else:
            return made
    raise IssuerMisconfigured(
        f"issuer `{config.name}`: OpenSSL does not take the client's certificate with this key",
        hint="look at it with `openssl x509 -noout -text`: an RSA key under 2048 bits or a SHA-1 signature is too weak",
    )


@contextmanager
def _readable(content: Secret, config: IssuerConfig) -> Iterator[str]:
    """Give `content` a file name for as long as the block runs: the reading end of a pipe that it already is in.

    Of no process but this one: its descriptors are not inherited.
    """
    octets = content.reveal().encode()
    if len(octets) > PIPE:
        raise IssuerMisconfigured(
            f"issuer `{config.name}`: the client's certificate or key is over {PIPE // 1024} KiB",
            hint="leave the client's own certificate and the intermediate ones; the issuer has the root",
        )
    reading, writing = os.pipe()
    try:
        try:
            os.set_blocking(writing, False)  # a user who has many pipes open gets small ones (Linux)
            written = os.write(writing, octets)
        finally:
            os.close(writing)
        if written != len(octets):
            raise IssuerUnavailable(f"issuer `{config.name}`: no pipe is large enough now for the client's certificate")
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


def _check_dates(certificate: Any, occasion: Occasion) -> None:
    now = dt.datetime.fromtimestamp(occasion.now, dt.UTC)
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    where = f"issuer `{occasion.config.name}`: the client's certificate"
    if now > ends:
        raise CredentialRejected(
            f"{where} expired on {ends:%Y-%m-%d %H:%M} UTC",
            hint="have a new one made for this client, put it in the vault, then `broker unlock`",
        )
    if now < begins:
        raise IssuerNeedsPerson(
            f"{where} is valid only from {begins:%Y-%m-%d %H:%M} UTC, and it is {now:%Y-%m-%d %H:%M}",
            hint="check this machine's clock",
        )


def _pem(private: Any) -> str:
    from cryptography.hazmat.primitives import serialization as to  # noqa: PLC0415  # late, as in `keyfiles`

    pem: bytes = private.private_bytes(to.Encoding.PEM, to.PrivateFormat.PKCS8, to.NoEncryption())
    return pem.decode()
