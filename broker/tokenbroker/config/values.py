"""Parsers of the values with a syntax of their own: durations, URLs, scopes, secret references.

Pure. None of them shows what it found: a URL can hold a password, and a secret can stand where a reference belongs.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from tokenbroker.config.fields import Problem, choice, did_you_mean, either, expected, kind, shown, text
from tokenbroker.model import AgentType, SecretRef

if TYPE_CHECKING:
    from collections.abc import Callable

DAY: Final = 86400.0
MAX_DURATION: Final = 366 * DAY  # seconds; longer is `never`, or a slip
_DURATION: Final = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?", re.ASCII)
_UNITS: Final = (DAY, 3600.0, 60.0, 1.0)

_URI_CHARACTERS: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")  # RFC 3986 §2
_ABSOLUTE_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^#]+")  # RFC 3986 §4.3
TOKEN_TYPES: Final = ("access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt")  # RFC 8693 §3
_PERMISSION: Final = re.compile(r"[a-z][a-z_]{0,63}:(?:read|write|admin)")
_SCOPE_TOKEN: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §3.3
_VSCHARS: Final = re.compile(r"[\x20-\x7e]+")  # RFC 6749 appendix A.1


def duration(value: object) -> float:
    """Parse `"12h"`, `"1h30m"` or a number of seconds; more than nothing, at most 366 days."""
    what = 'a duration such as "12h", "1h30m" or a number of seconds'
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise expected(what, kind(value))
    if isinstance(value, str):
        found = _DURATION.fullmatch(value)
        if found is None or not value:
            raise expected(what, shown(value))
        seconds: float = sum(int(n) * unit for n, unit in zip(found.groups(default="0"), _UNITS, strict=True))
    else:
        seconds = value
    # Compared before it is converted: a TOML integer can be too large for a float, and NaN compares false.
    if not 0 < seconds <= MAX_DURATION:
        raise expected("a duration of more than nothing and at most 366d", "one outside of that")
    return float(seconds)


def duration_up_to(longest: str) -> Callable[[object], float]:
    """Make a parser of a duration of at most `longest`, which is one too."""
    most = duration(longest)

    def parse(value: object) -> float:
        if (seconds := duration(value)) > most:
            raise expected(f"a duration of at most {longest}", "a longer one")
        return seconds

    return parse


def duration_or_never(value: object) -> float | None:
    """Parse a duration, or `"never"` as `None`."""
    return None if value == "never" else duration(value)


def absolute_path(value: object) -> str:
    """Parse the absolute path of a file."""
    path = text(value)
    if not path.startswith("/"):
        raise expected("an absolute path", "one that does not begin with `/`")
    return path


def issuer_url(value: object) -> str:
    """Parse an issuer identifier: an https URL without query and fragment (RFC 8414 §2)."""
    url = token_url(value)
    if "?" in url:
        raise expected("a URL without a query (RFC 8414 §2)", "one with a query")
    return url


def slashed_url(value: object) -> str:
    """Parse an issuer identifier that ends with a slash, as it stands in `iss` and `aud`."""
    url = issuer_url(value)
    if not url.endswith("/"):
        raise expected("a URL that ends with `/`", "one without", hint=f'write url = "{url}/"')
    return url


def token_url(value: object) -> str:
    """Parse the URL of an endpoint: https, or http on a loopback host; without fragment (RFC 6749 §3.2)."""
    url, parts = _url(value)
    if "#" in url:
        raise expected("a URL without a fragment", "one with a fragment")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise expected(
            "an https URL",
            "plain http to a host that is not loopback",
            hint="begin it with https://; http is for 127.0.0.0/8, ::1 and localhost only",
        )
    return url


def service_url(value: object) -> str:
    """Parse the address of a server: https, or http on a loopback host; a path is its base."""
    url = token_url(value)
    if "?" in url:
        raise expected("an address without a query", "one with a query")
    return url.rstrip("/")


def proxy_url(value: object) -> str:
    """Parse the URL of an HTTP proxy, to which plain http is usual: what passes through is TLS."""
    url, parts = _url(
        value,
        userinfo="remove `proxy`, and set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT, percent-encoded, in the "
        "environment of `broker serve`: this file holds no password",
    )
    if parts.path not in {"", "/"} or "?" in url or "#" in url:
        raise expected("a proxy as scheme, host and port", "a URL with more than that")
    return url


def is_loopback(host: str) -> bool:
    """Tell whether `host` is 127.0.0.0/8, ::1 or localhost."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address in ipaddress.ip_network("127.0.0.0/8") or address == ipaddress.ip_address("::1")


def resource(value: object) -> str:
    """Parse a resource indicator: an absolute URI without a fragment (RFC 8707 §2)."""
    uri = text(value)
    if not _URI_CHARACTERS.fullmatch(uri) or not _ABSOLUTE_URI.fullmatch(uri):
        raise expected("an absolute URI without a fragment (RFC 8707 §2)", "another string")
    return uri


def agent_type(value: object) -> AgentType:
    """Parse `interactive` or `autonomous`."""
    return AgentType(choice(*AgentType)(value))


def token_type(value: object) -> str:
    """Parse the type of a token in an exchange: a short name of RFC 8693 §3, or an absolute URI."""
    found = text(value)
    if found in TOKEN_TYPES:
        return found
    if ":" not in found:
        raise expected(f"{either(TOKEN_TYPES)}, or a URI", shown(found), hint=did_you_mean(found, TOKEN_TYPES))
    return resource(found)


def permission(value: object) -> str:
    """Parse a permission of a GitHub App, which stands where scopes do."""
    found = scope(value)
    if not _PERMISSION.fullmatch(found):
        raise expected(
            "a permission and its level, such as contents:read", shown(found), hint="levels are read, write and admin"
        )
    return found


def scope(value: object) -> str:
    """Parse one scope (RFC 6749 §3.3)."""
    if not isinstance(value, str):
        raise expected("a string", kind(value))
    if not _SCOPE_TOKEN.fullmatch(value):
        raise expected(
            'one scope of printable ASCII without spaces, `"` and `\\` (RFC 6749 §3.3)',
            "other characters" if value else "an empty string",
            hint='give each scope a string of its own, such as ["orders:read", "orders:write"]',
        )
    return value


@dataclass(frozen=True, slots=True)
class _Scheme:
    """How references of one backend are written."""

    example: str
    pattern: re.Pattern[str]
    rule: str
    hint: str


_OP_NAME: Final = r"[A-Za-z0-9\-_. ]*[A-Za-z0-9\-_.][A-Za-z0-9\-_. ]*"
_OP_QUERY: Final = r"(?:\?(?:attribute=(?:value|type|id|purpose|otp|totp|content|size|name)|ssh-format=openssh))?"

_SCHEMES: Final = {
    "op": _Scheme(
        example="op://Vault/Item/field",
        pattern=re.compile(rf"op://{_OP_NAME}/{_OP_NAME}(?:/{_OP_NAME}){{1,2}}{_OP_QUERY}"),
        rule="op://vault/item/[section/]field of letters, digits, `-`, `_`, `.` and spaces",
        hint="a vault, item or field with other characters in its name goes by its id, "
        "which `op item get ITEM --format json` shows",
    ),
    "keyring": _Scheme(
        example="keyring://SERVICE/USERNAME",
        pattern=re.compile(r"keyring://[^/]+/[^/]+"),
        rule="keyring://SERVICE/USERNAME with one `/` between the two",
        hint="store it under names without `/`: `keyring set SERVICE USERNAME`",
    ),
    "dev": _Scheme(
        example="dev://item/field",
        pattern=re.compile(rf"dev://{_OP_NAME}/{_OP_NAME}"),
        rule="dev://item/field",
        hint="see the references that `broker serve --dev` prints",
    ),
}
_ANY_SCHEME: Final = re.compile(rf"({'|'.join(_SCHEMES)})://", re.IGNORECASE)


_BACKEND_SCHEME: Final = {"service-account": "op", "connect": "op", "sdk": "op"}
"""Backends whose references are written as those of another."""
_CREDENTIAL: Final = re.compile(
    r"keyring://[^/\s]+/[^/\s]+|systemd://[A-Za-z0-9_-][A-Za-z0-9._-]*|fd://(?:[3-9]|[1-9]\d{1,3})"
)
_SHORTEST_REFERENCE: Final = 3  # names: vault, item, field
_LONGEST_GLOB: Final = 512  # characters


def credential(value: object) -> str:
    """Parse the place of a vault's own access token, which never stands in a file that we read."""
    if not isinstance(value, str):
        raise expected("where the token is, such as keyring://tokenbroker/service-account", kind(value))
    if not _CREDENTIAL.fullmatch(value):
        raise Problem(
            "expected keyring://SERVICE/USERNAME, systemd://NAME or fd://N, found another value, which is not shown",
            hint="put the token into the keyring with `keyring set tokenbroker service-account`, and write"
            ' credential = "keyring://tokenbroker/service-account"',
        )
    return value


def otp_pattern(value: object) -> str:
    """Parse a secret reference, or a glob over one, in a rule for one-time passwords."""
    pattern = text(value)
    names = pattern.removeprefix("op://").count("/") + 1
    can_match = names >= _SHORTEST_REFERENCE or "*" in pattern
    if not pattern.startswith("op://") or len(pattern) > _LONGEST_GLOB or not can_match:
        raise expected("a reference such as op://Vault/Item/one-time password, or a glob over one", shown(value))
    return pattern.removesuffix("?attribute=otp")


def secret_reference(backend: str | None) -> Callable[[object], SecretRef]:
    """Make a parser of references to `backend`; `None`, when the backend is itself at fault, takes those of any."""
    backend = _BACKEND_SCHEME.get(backend or "", backend)
    example = _SCHEMES[backend or "op"].example

    def parse(value: object) -> SecretRef:
        if not isinstance(value, str):
            raise expected(f"a reference such as {example}", kind(value))
        scheme = _ANY_SCHEME.match(value)
        if scheme is None:
            raise Problem(
                f"found a literal value, which is not shown; expected a reference such as {example}",
                hint="keep the secret in the vault, write its reference here, and rotate what stood in this file",
            )
        return _reference(value, scheme[1], backend)

    return parse


def client_id(backend: str | None) -> Callable[[object], str | SecretRef]:
    """Make a parser of a client identifier, literal or by reference."""
    as_reference = secret_reference(backend)

    def parse(value: object) -> str | SecretRef:
        if isinstance(value, str) and _ANY_SCHEME.match(value):
            return as_reference(value)
        literal = text(value)
        if not _VSCHARS.fullmatch(literal):
            raise expected("a client id of printable ASCII (RFC 6749 appendix A.1)", "other characters")
        return literal

    return parse


def _reference(value: str, found: str, backend: str | None) -> SecretRef:
    if backend is not None and found.lower() != backend:
        raise expected(
            f"a reference such as {_SCHEMES[backend].example}, which backend `{backend}` reads",
            f"one that begins with {found.lower()}://",
            hint="change the reference, or `backend` in [vault]",
        )
    scheme = _SCHEMES[found.lower()]
    if not value.isprintable() or not scheme.pattern.fullmatch(value):
        raise expected(scheme.rule, "another form", hint=scheme.hint)
    return SecretRef(value)


def _url(value: object, *, userinfo: str | None = None) -> tuple[str, SplitResult]:
    """Split an http or https URL with a host and without user information. Control characters never get in.

    `userinfo` is the hint where there is some.
    """
    url = text(value)
    if not _URI_CHARACTERS.fullmatch(url):
        raise expected("a URL", "a string with characters that a URL cannot have")
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port != 0
    except ValueError:
        raise expected("a URL", "one with a wrong host or port") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not port_is_valid:
        raise expected("an http or https URL with a host", "another form")
    if "@" in parts.netloc:
        raise expected("a URL without user information", "one with it, which is not shown", hint=userinfo)
    return url, parts
