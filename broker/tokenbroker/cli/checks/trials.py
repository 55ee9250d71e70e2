"""What each client's issuer says when it is asked for a token, by the running daemon and on nobody's screen. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tokenbroker.claims import UNCOMPARED
from tokenbroker.cli.checks import Finding, fault, note, ok, onward
from tokenbroker.cli.text import span
from tokenbroker.trials import MOST

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHECKED: Final = {
    "signature": "its signature and claims are right",
    "introspection": "the issuer confirms what it holds",
    "claims": "its claims are right, its signature was not checked",
    "nothing": "it is opaque, so that only the API can tell what it holds",
}
_IN_PART: Final = {"signature": "its signature is right", "claims": "its signature was not checked"}
"""Instead, where a claim was to be compared and could not be."""
_BOUND: Final = {
    "dpop": "; it is bound to a key (DPoP): programs need a proof for each request, see docs/protocol.md",
    "certificate": "; it is bound to the client's certificate: a program without that certificate cannot use it",
}
_NOT_TRIED: Final = frozenset({
    "locked", "prompt_dismissed", "prompt_unanswered", "cooling_down",
    "vault_unavailable", "vault_not_installed", "secret_not_found", "secret_ambiguous",
})  # fmt: skip
"""Codes of the vault's errors, of which the findings about the vault tell everything."""


def check_trials(tried: list[dict[str, Any]], now: float) -> Iterator[Finding]:
    """Judge the answer of `POST /v1/try`."""
    for one in tried:
        token, problem = one["token"], one["problem"]
        who = f"client `{one['client']}`, profile `{token['profile']}`"
        if problem is None:
            yield ok("client", f"{who}: {_token(token, now)}")
        elif not _was_tried(one):
            yield note("client", f"{who}: not tried: {problem['message']}", onward(problem["hint"], "broker unlock"))
        else:
            again = f"; tried again in {span(token['retry_in'])}" if token["retry_in"] else ""
            otherwise = "broker unlock" if problem["code"] == "credential_rejected" else "broker status"
            hint = onward(problem["hint"], otherwise, then=", then `broker reload`")
            yield fault("client", f"{who}: {problem['message']}{again}", hint)
    if not tried:
        yield note("client", "no client was tried: no profile has one")
    if len(tried) >= MOST:
        yield note("client", f"at most {MOST} clients are tried at a time, in the order of their profiles")


def untold(tokens: list[dict[str, Any]], tried: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tokens of `GET /v1/status` without the errors that the trials tell already."""
    told = {_error(one["token"], one["problem"]) for one in tried if _was_tried(one)}
    return [{**one, "last_error": None} if _error(one, one["last_error"]) in told else one for one in tokens]


def _error(token: dict[str, Any], error: dict[str, Any] | None) -> tuple[str, str, str | None]:
    return token["client"], token["profile"], None if error is None else error["message"]


def _was_tried(one: dict[str, Any]) -> bool:
    """Tell whether a client was tried, or was not because its secrets cannot be had now."""
    return one["problem"] is None or one["problem"]["code"] not in _NOT_TRIED


def _token(token: dict[str, Any], now: float) -> str:
    scope = f"scope {token['scope']}" if token["scope"] else "no scope"
    checked, remarks = token["checked"], token["remarks"]
    whole = _CHECKED[checked]
    judged = _IN_PART.get(checked, whole) if any(UNCOMPARED in remark for remark in remarks) else whole
    text = f"a token with {scope}, {span(token['expires_at'] - now)} left"
    return "; ".join((text, judged, *remarks)) + _BOUND.get(token["bound_to"] or "", "")
