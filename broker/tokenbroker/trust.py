"""Whom a TLS connection trusts; the same with every version of Python."""

from __future__ import annotations

import ssl


def trusting(ca_file: str | None) -> ssl.SSLContext:
    """Return a client's context that trusts the system's authorities, or what is in `ca_file` alone.

    Takes tens of milliseconds, so call it in a thread. Raises `OSError` for an unusable file.
    """
    made = ssl.create_default_context(cafile=ca_file)
    if ca_file is not None:
        # Since 3.13 that asks for RFC 5280 to the letter, which private authorities are often too old for, and takes
        # whatever is in the file for trusted: an intermediate authority, or the server's own certificate.
        made.verify_flags = (made.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN) & ~ssl.VERIFY_X509_STRICT
    return made
