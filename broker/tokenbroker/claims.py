"""What came back is checked before it is served: a token for someone else, or for something else, is refused.

Rules of this file:
1. Pure. What a token holds was read from a JWT, or told by the issuer; `IssuerAnswer.checked` says how sure that is.
   A token of which nothing is known has nothing to compare, and is taken as it is.
2. A claim that differs is refused, with both values. One that is absent is refused only where the configuration says
   where it has to be: issuers leave out what they find obvious.
3. What a token holds counts more than what the answer beside it says: the API reads the token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tokenbroker.errors import TokenMismatch
from tokenbroker.model import Checked
from tokenbroker.scrub import scrub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tokenbroker.config import ClientConfig, IssuerConfig
    from tokenbroker.model import IssuerAnswer, Secret, TokenKey

SCOPE_CLAIMS: Final = ("scope", "scp", "permissions", "roles")  # issuers differ; contracts name all four
CLIENT_CLAIMS: Final = ("client_id", "azp", "appid", "cid")  # RFC 9068 §2.2, OIDC Core §2, Entra v1, Okta
TOLERANCE: Final = 60.0  # seconds by which a token may begin after it was issued
ANY: Final = "any"
SHOWN: Final = 100  # characters of a value that reach a person
WHATEVER_IS_GRANTED: Final = "/.default"  # Entra: the end of a scope that stands for all the roles of an application
IMPLIED: Final = frozenset({"metadata:read"})  # which GitHub adds to every permission
UNCOMPARED: Final = "could not be compared"
"""Words that each remark has which tells of a claim that was to be compared."""
_COMPARED_GRANTS: Final = frozenset({"client_credentials", "token-exchange"})


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked beside the `TokenKey`, and by whom."""

    client_id: str | None = None
    """As the issuer knows it; `None`: not to be compared."""
    organization: str | None = None
    """Id (`org_…`) or name of the organization that was asked for."""
    grant: str = "client_credentials"
    hidden: Sequence[Secret] = ()
    """What must not be shown if the issuer repeats it."""


def granted_scopes(answer: IssuerAnswer, key: TokenKey, absent: Literal["as_asked", "none"]) -> tuple[str, ...]:
    """Return what was granted: what the token holds and the answer grants.

    RFC 6749 §5.1 defines an absent `scope` as "as requested", which some issuers also send when they granted nothing;
    `absent` says what it means when the token, whose claims are known, is silent too.
    `permissions` and `roles` alone say nothing against an answer: they need not be all there is.
    """
    within = _scopes_in(answer.claims or {}, SCOPE_CLAIMS)
    if answer.scope is None:
        silent = () if absent == "none" and answer.claims is not None else key.scopes
        return silent if within is None else within
    if within is None or _scopes_in(answer.claims or {}, SCOPE_CLAIMS[:2]) is None:
        return answer.scope
    # Entra's `scp` has short names for what was granted by whole ones.
    return tuple(each for each in answer.scope if each in within or each.rpartition("/")[2] in within)


def bound_to(answer: IssuerAnswer) -> Literal["dpop", "certificate"] | None:
    """Return the kind of key without which the token is of no use (RFC 7800 §3.1), as far as can be told."""
    confirmation = _confirmation(answer)
    if answer.proof_key is not None or "jkt" in confirmation:
        return "dpop"
    return "certificate" if "x5t#S256" in confirmation else None


def jti(answer: IssuerAnswer, hidden: Sequence[Secret] = ()) -> str | None:
    """Return the issuer's own name for the token (RFC 7519 §4.1.7), fit to be written to a log.

    Some issuers name an opaque token by its own text: that is no name.
    """
    name = (answer.claims or {}).get("jti")
    return _shown(name, (answer.access_token, *hidden)) if isinstance(name, str) else None


def check(
    answer: IssuerAnswer,
    key: TokenKey,
    client: ClientConfig,
    issuer: IssuerConfig,
    asked: Asked = Asked(),
) -> tuple[str, ...]:
    """Compare what the token holds with what was asked; return the granted scopes.

    Raises `TokenMismatch` naming what was asked and what came.
    """
    _Check(answer, answer.claims or {}, key, client, issuer, asked).all()
    granted = granted_scopes(answer, key, issuer.absent_scope)
    missing = [scope for scope in key.scopes if scope not in granted and not scope.endswith(WHATEVER_IS_GRANTED)]
    if missing and (issuer.granted_scopes == "exact" or (issuer.granted_scopes == "subset" and not granted)):
        hidden = (answer.access_token, *asked.hidden)
        otherwise = answer.scope is not None and set(missing) <= set(answer.scope)
        raise TokenMismatch(
            f"issuer `{issuer.name}` did not grant scope {' '.join(missing)} to client `{client.name}`; "
            f"it granted {_shown(' '.join(granted), hidden) or 'none'}"
            + (", although its answer says otherwise" if otherwise else ""),
            hint=f"grant it at the issuer, or remove it from [profiles.{key.profile}] scopes",
        )
    return granted


def remarks(
    answer: IssuerAnswer, key: TokenKey, client: ClientConfig, issuer: IssuerConfig, asked: Asked = Asked()
) -> tuple[str, ...]:
    """Return what `check` let pass and a person may want to know: claims that are not there, scopes nobody asked for.

    A token of which nothing is known has no such claims: that it is opaque says it all.
    """
    looked = _Check(answer, answer.claims or {}, key, client, issuer, asked)
    return tuple(remark for remark in (looked.absent(), looked.by_another_name(), looked.unasked()) if remark)


@dataclass(frozen=True, slots=True)
class _Check:
    """The comparison of one token. What differs raises `TokenMismatch`."""

    answer: IssuerAnswer
    claims: Mapping[str, Any]
    key: TokenKey
    client: ClientConfig
    issuer: IssuerConfig
    asked: Asked

    def all(self) -> None:
        self.times()
        self.made_by()
        self.audience()
        self.made_for()
        self.placed("owner", self.client.owner)
        self.placed("agent_type", str(self.client.agent_type))
        self.organization()
        self.binding()

    def times(self) -> None:
        """Compare times with each other, on the issuer's clock alone: ours may be wrong (RFC 7519 §4.1.4-6)."""
        expiry, begin, issued = (finite(self.claims.get(name)) for name in ("exp", "nbf", "iat"))
        hint = f"see the clock and the token lifetimes of issuer `{self.issuer.name}`"
        if issued is not None and expiry is not None and expiry <= issued:
            self.refuse(f"the token's exp {expiry:.0f} is not after its iat {issued:.0f}", hint)
        if issued is not None and begin is not None and begin > issued + TOLERANCE:
            self.refuse(f"the token was issued at {issued:.0f} and is not valid before {begin:.0f} (nbf)", hint)
        if begin is not None and expiry is not None and expiry <= begin:
            self.refuse(f"the token's exp {expiry:.0f} is not after its nbf {begin:.0f}", hint)

    def made_by(self) -> None:
        wanted = self.issuer.token_issuer or self.answer.issuer
        found = self.claims.get("iss")
        if wanted is None or wanted in (ANY, found):
            return
        if found is None:
            told = self.answer.claims is None or self.answer.checked is Checked.INTROSPECTION
            if told or self.issuer.token_issuer is None:
                return  # RFC 7662 §2.2 leaves it out at will
        self.refuse(
            f"the token's issuer (iss) is {self.shown(found)}, expected was {wanted}",
            f"correct url in [issuers.{self.issuer.name}], or set token_issuer there if that is right",
        )

    def audience(self) -> None:
        wanted = self.key.audience if self.key.audience is not None else self.key.resource
        found = self.claims.get("aud")
        if wanted is None or found is None:
            return
        listed = [found] if isinstance(found, str) else found
        if isinstance(listed, list) and wanted in listed:
            return
        shown = ", ".join(map(self.shown, listed[:5])) if isinstance(listed, list) else "something that is no audience"
        self.refuse(
            f"the token's audience is {shown or 'an empty list'}, asked was {wanted}",
            f"check audience or resource in [profiles.{self.key.profile}], and the API's identifier at the issuer",
        )

    def made_for(self) -> None:
        """Compare every claim that names the client. Other grants may name another: who a key file is of."""
        wanted = self.asked.client_id
        if wanted is None or self.asked.grant not in _COMPARED_GRANTS:
            return
        for name in CLIENT_CLAIMS:
            found = self.claims.get(name)
            if isinstance(found, str) and found != wanted:
                self.refuse(
                    f"the token was made for another client: its {name} is {self.shown(found)}, "
                    f"client `{self.client.name}` is {self.shown(wanted)}",
                    f"correct client_id in [clients.{self.client.name}], or the client at issuer `{self.issuer.name}`",
                )

    def placed(self, name: str, wanted: str) -> None:
        """Compare one of our claims. Absent is accepted unless the configuration says where it must be."""
        claim = self.issuer.claims.get(name, name)
        found = self.claims.get(claim)
        if found == wanted or (found is None and (name not in self.issuer.claims or self.answer.claims is None)):
            return
        self.refuse(
            f"the token's claim {claim} is {self.shown(found)}, client `{self.client.name}` has {name} {wanted}",
            f"correct {name} in [clients.{self.client.name}], or the claim at issuer `{self.issuer.name}`",
        )

    def organization(self) -> None:
        """Compare the organization: an id with `org_id`, a name with `org_name` or where the configuration says.

        An id cannot be compared with a name. Absent is accepted unless the configuration says where it must be.
        """
        wanted = self.asked.organization
        if wanted is None or self.answer.claims is None:
            return
        placed = "org_id" in self.issuer.claims
        by_name = self.by_name(wanted)
        claim = "org_name" if by_name else self.issuer.claims.get("org_id", "org_id")
        found = self.claims.get(claim)
        incomparable = not placed and not by_name and (found is None or not wanted.startswith("org_"))
        if found == wanted or incomparable:
            return
        self.refuse(
            f"the token's organization ({claim}) is {self.shown(found)}, asked was {wanted}",
            f"correct organization in [profiles.{self.key.profile}] or [issuers.{self.issuer.name}]",
        )

    def binding(self) -> None:
        """Refuse a token that is bound to a key nobody here has; the adapter compares it with a key of ours."""
        confirmed = _confirmation(self.answer).get("jkt")
        if confirmed is None or self.answer.proof_key is not None:
            return
        self.refuse(
            f"the token is bound to the DPoP key {self.shown(confirmed)} (cnf.jkt), asked was one bound to none",
            f"set dpop = true in [clients.{self.client.name}], or turn DPoP off for the client at the issuer",
        )

    def absent(self) -> str | None:
        """Name the claims that were to be compared and are not there."""
        wanted = [self.issuer.claims.get(name, name) for name in ("owner", "agent_type")]
        if self.key.audience is not None or self.key.resource is not None:
            wanted.insert(0, "aud")
        if self.asked.organization is not None and not self.by_name(self.asked.organization):
            wanted.append(self.issuer.claims.get("org_id", "org_id"))
        names = [name for name in wanted if self.claims.get(name) is None]
        if not names or self.answer.claims is None:
            return None
        return f"it has no claim {', '.join(names)}, which {UNCOMPARED}"

    def by_another_name(self) -> str | None:
        """Tell of an organization of which the token has the id and the configuration the name."""
        wanted, found = self.asked.organization, self.claims.get("org_id")
        if wanted is None or found is None or wanted.startswith("org_") or self.by_name(wanted):
            return None
        if "org_id" in self.issuer.claims:  # compared as it is
            return None
        return f"its org_id {self.shown(found)} {UNCOMPARED} with the name {wanted}"

    def unasked(self) -> str | None:
        """Name the scopes beyond those that were asked for; who asks for none, or for all, gets what there is."""
        asked = self.key.scopes
        if not asked or any(scope.endswith(WHATEVER_IS_GRANTED) for scope in asked):
            return None
        held = _scopes_in(self.claims, SCOPE_CLAIMS[:2]) or ()
        found = {*granted_scopes(self.answer, self.key, self.issuer.absent_scope), *held}
        more = found.difference(asked, IMPLIED, (scope.rpartition("/")[2] for scope in asked))
        return f"it has scope {self.shown(' '.join(sorted(more)))}, which was not asked for" if more else None

    def by_name(self, organization: str) -> bool:
        """Tell whether an organization is to be compared by its name."""
        return not organization.startswith("org_") and "org_name" in self.claims

    def shown(self, value: object) -> str:
        return "absent" if value is None else _shown(value, (self.answer.access_token, *self.asked.hidden))

    def refuse(self, message: str, hint: str) -> None:
        raise TokenMismatch(message, hint=hint)


def _confirmation(answer: IssuerAnswer) -> Mapping[str, Any]:
    confirmation = (answer.claims or {}).get("cnf")
    return confirmation if isinstance(confirmation, dict) else {}


def _shown(value: object, hidden: Sequence[Secret] = ()) -> str:
    """Show a claim's value: shortened, without secrets, and unable to write control characters to a terminal or log."""
    return scrub(str(value), hidden, SHOWN)


def finite(value: object) -> float | None:
    """Return a JSON number that a time can be; `None` for anything else. Some issuers write floats."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _scopes_in(claims: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...] | None:
    found: set[str] = set()
    known = False
    for name in names:
        value = claims.get(name)
        if isinstance(value, str):
            value = value.split()
        if isinstance(value, list):
            known = True
            found.update(item for item in value if isinstance(item, str))
    return tuple(sorted(found)) if known else None
