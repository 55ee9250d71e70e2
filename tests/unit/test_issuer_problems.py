"""What an issuer's refusal means."""

from __future__ import annotations

import json
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from tokenbroker.errors import (
    CredentialRejected,
    IssuerError,
    IssuerMisconfigured,
    IssuerNeedsPerson,
    IssuerThrottled,
    IssuerUnavailable,
)
from tokenbroker.issuers.exchange import Attempt, Reply
from tokenbroker.issuers.problems import refusal, retry_after
from tokenbroker.model import Instant, Secret

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT
POST = Attempt("main", "login.example.com", Instant(NOW, 5.0), auth="client_secret_post", scopes=("a", "b"))
SIGNED = replace(POST, auth="private_key_jwt")


def judge(
    status: int, body: Any = b"", attempt: Attempt = POST, *, oversize: bool = False, **headers: str
) -> IssuerError:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return refusal(Reply(status, named, content, oversize), attempt)


def as_keywords(headers: dict[str, str]) -> Any:
    """Return headers for `judge`, whose other keywords are no strings."""
    return headers


def entra(number: int, error: str = "invalid_client", **more: Any) -> dict[str, Any]:
    return {"error": error, "error_codes": [number], "error_description": f"AADSTS{number}: words", **more}


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        *(pytest.param(status, b"<html>", IssuerUnavailable, id=str(status)) for status in (408, 500, 502, 503, 504)),
        pytest.param(520, b"", IssuerUnavailable, id="a proxy's own 5xx"),
        pytest.param(503, {"error": "invalid_client"}, IssuerUnavailable, id="503 whatever the body"),
        pytest.param(429, b"Too Many Requests", IssuerThrottled, id="429 in plain text, Entra"),
        pytest.param(429, b"", IssuerThrottled, id="429 with nothing"),
        pytest.param(400, {"error": "temporarily_unavailable"}, IssuerUnavailable, id="temporarily_unavailable"),
        pytest.param(400, {"error": "server_error"}, IssuerUnavailable, id="server_error"),
        pytest.param(400, {"error": "slow_down"}, IssuerUnavailable, id="slow_down"),
        pytest.param(401, {"error": "invalid_client"}, CredentialRejected, id="401 invalid_client"),
        pytest.param(400, {"error": "invalid_client"}, CredentialRejected, id="400 invalid_client"),
        pytest.param(401, {"error": "unauthorized_client"}, CredentialRejected, id="401 unauthorized_client, Keycloak"),
        pytest.param(401, {"error": "access_denied"}, CredentialRejected, id="401 access_denied, Auth0"),
        pytest.param(401, b"<html>", CredentialRejected, id="401 with a web page"),
        pytest.param(401, b"", CredentialRejected, id="401 with nothing"),
        pytest.param(403, b"", CredentialRejected, id="403 with an empty body, glewlwyd"),
        pytest.param(403, b" \r\n", CredentialRejected, id="403 with a blank body"),
        pytest.param(401, entra(7000215), CredentialRejected, id="Entra wrong secret"),
        pytest.param(400, entra(700027, "invalid_request"), CredentialRejected, id="Entra bad assertion signature"),
        pytest.param(401, entra(7000222), IssuerNeedsPerson, id="Entra expired secret, though with 401"),
        pytest.param(400, entra(700016, "unauthorized_client"), IssuerNeedsPerson, id="Entra app not in the tenant"),
        pytest.param(
            401,
            {"error": "invalid_client", "error_description": "AADSTS7000222: x"},
            IssuerNeedsPerson,
            id="Entra code in the words alone",
        ),
        pytest.param(403, {"error": "access_denied"}, IssuerNeedsPerson, id="access_denied"),
        pytest.param(403, b"<html>blocked</html>", IssuerMisconfigured, id="403 with a web page"),
        pytest.param(400, {"error": "unauthorized_client"}, IssuerMisconfigured, id="400 unauthorized_client"),
        pytest.param(400, {"error": "invalid_grant"}, IssuerMisconfigured, id="invalid_grant without an assertion"),
        *(
            pytest.param(400, {"error": code}, IssuerMisconfigured, id=code)
            for code in (
                "invalid_scope",
                "scope_invalid",
                "invalid_target",
                "unsupported_grant_type",
                "invalid_request",
                "use_dpop_nonce",
                "something_new",
            )
        ),
        pytest.param(400, b"", IssuerMisconfigured, id="400 with nothing"),
        pytest.param(400, [1], IssuerMisconfigured, id="400 with a list"),
        pytest.param(404, b"<html>", IssuerMisconfigured, id="404"),
        pytest.param(405, b"", IssuerMisconfigured, id="405"),
        *(pytest.param(status, b"", IssuerMisconfigured, id=str(status)) for status in (301, 302, 303, 307, 308)),
        pytest.param(204, b"", IssuerMisconfigured, id="204"),
    ],
)
def test_class_of_a_refusal(status: int, body: Any, kind: type[IssuerError]) -> None:
    error = judge(status, body)
    assert type(error) is kind
    assert "issuer `main` (login.example.com)" in error.message
    assert not error.message.endswith(".")


def test_oversize_403_is_not_an_empty_one() -> None:
    assert type(judge(403, oversize=True)) is IssuerMisconfigured


def test_invalid_grant_rejects_an_assertion() -> None:
    """With an assertion, `invalid_grant` speaks of the assertion (Google)."""
    assert type(judge(400, {"error": "invalid_grant"}, SIGNED)) is CredentialRejected


@pytest.mark.parametrize(
    ("date", "kind", "says"),
    [
        pytest.param("Fri, 15 Jan 2027 08:00:30 GMT", CredentialRejected, "invalid_client", id="clocks agree"),
        pytest.param("Fri, 15 Jan 2027 07:50:00 GMT", IssuerNeedsPerson, "600 s ahead", id="our clock is ahead"),
        pytest.param("Fri, 15 Jan 2027 08:10:00 GMT", IssuerNeedsPerson, "600 s behind", id="our clock is behind"),
        pytest.param("yesterday", CredentialRejected, "invalid_client", id="no date to compare"),
    ],
)
def test_a_wrong_clock_is_named_when_an_assertion_is_refused(date: str, kind: type[IssuerError], says: str) -> None:
    error = judge(401, {"error": "invalid_client"}, SIGNED, date=date)
    assert type(error) is kind
    assert says in error.message


def test_the_clock_does_not_matter_to_a_secret() -> None:
    assert type(judge(401, b"", date="Fri, 15 Jan 2027 07:00:00 GMT")) is CredentialRejected


@pytest.mark.parametrize(
    ("quota", "kind", "wait"),
    [
        pytest.param("b=per_hour;q=10;r=0;t=3540", IssuerNeedsPerson, 3540, id="used up for an hour"),
        pytest.param("b=per_hour;q=10;r=3;t=9,b=per_day;q=99;r=0;t=80000", IssuerNeedsPerson, 3600, id="for the day"),
        pytest.param("b=per_hour;q=10;r=0;t=30", IssuerThrottled, 60, id="back in half a minute"),
        pytest.param("b=per_hour;q=10;r=7;t=3540", IssuerThrottled, 60, id="some left"),
        pytest.param("b=per_hour;r=0;;t=", IssuerThrottled, 60, id="junk"),
    ],
)
@pytest.mark.parametrize("scope", ["client", "organization"])
def test_a_used_up_quota_needs_a_person(scope: str, quota: str, kind: type[IssuerError], wait: float) -> None:
    reply = Reply(429, {f"auth0-{scope}-quota-limit": quota, "retry-after": "60"}, b"")
    error = refusal(reply, POST)
    assert (type(error), error.retry_after) == (kind, wait)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("60", 60, id="seconds"),
        pytest.param("0", 0, id="zero"),
        pytest.param("86400", 3600, id="a day is cut to an hour"),
        pytest.param("9" * 5000, 3600, id="thousands of digits are cut to an hour"),
        pytest.param("Fri, 15 Jan 2027 08:02:00 GMT", 120, id="a date"),
        pytest.param("Fri, 15 Jan 2027 07:00:00 GMT", 0, id="a date gone by"),
        pytest.param("Sat, 15 Jan 2028 08:00:00 GMT", 3600, id="a date next year is cut to an hour"),
        pytest.param("soon", None, id="junk"),
        pytest.param("-5", None, id="a negative number"),
        pytest.param("1.5", None, id="a fraction"),
        pytest.param("", None, id="nothing"),
        pytest.param("Fri, 15 Jan 99999 08:00:00 GMT", None, id="a year beyond counting"),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == seconds


@pytest.mark.parametrize("ours", [NOW, NOW - 3000, NOW + 3000])
def test_a_date_to_try_again_is_by_the_issuers_clock(ours: float) -> None:
    """Ours may be wrong either way; without the answer's `Date` it is all there is."""
    when = {"retry-after": formatdate(NOW + 60, usegmt=True)}
    assert retry_after({**when, "date": formatdate(NOW, usegmt=True)}, ours) == 60
    assert retry_after(when, NOW) == 60


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(b"", "refused the client: 401 with an empty answer", id="nothing"),
        pytest.param(b"<html>", "refused the client: 401 without an OAuth error, a web page", id="a web page"),
        pytest.param(b"no", "refused the client: 401 without an OAuth error", id="words"),
    ],
)
def test_a_refusal_without_a_reason_tells_its_status(body: bytes, told: str) -> None:
    assert judge(401, body).message.endswith(told)


def test_a_401_refuses_the_credential_whatever_it_says_of_dpop() -> None:
    """Contract: 401, any body. The code of RFC 9449 alone is about proofs; words are a hint."""
    words = {"error": "invalid_client", "error_description": "no DPoP proof"}
    error = judge(401, words)
    assert type(error) is CredentialRejected
    assert error.hint is not None
    assert "dpop = true" in error.hint
    assert "rotated" in error.hint
    assert type(judge(400, {"error": "invalid_request", "error_description": "no DPoP proof"})) is IssuerMisconfigured
    assert type(judge(401, {"error": "invalid_dpop_proof"})) is IssuerMisconfigured


def test_a_byte_order_mark_is_ignored() -> None:
    """RFC 8259 §8.1."""
    assert "invalid_scope" in judge(400, b'\xef\xbb\xbf{"error": "invalid_scope"}').message


def test_retry_after_reaches_the_error() -> None:
    assert judge(429, b"Too Many Requests", retry_after="60").retry_after == 60


@pytest.mark.parametrize(
    ("attempt", "code", "hint"),
    [
        pytest.param(POST, "invalid_scope", "asked: a b", id="scopes are named"),
        pytest.param(
            replace(POST, audience="https://api"),
            "invalid_target",
            "check audience = 'https://api'",
            id="audience is named",
        ),
        pytest.param(
            replace(POST, resource="https://api"),
            "invalid_target",
            "check resource = 'https://api'",
            id="resource is named",
        ),
        pytest.param(
            replace(POST, other_encoding="raw"),
            "invalid_request",
            'try basic_encoding = "raw" in [issuers.main]',
            id="encoding",
        ),
        pytest.param(
            replace(POST, other_encoding="rfc6749"),
            "invalid_client",
            'try basic_encoding = "rfc6749"',
            id="rejected encoding",
        ),
        pytest.param(POST, "invalid_client", "client_secret refers to may have been rotated", id="rotated secret"),
        pytest.param(SIGNED, "invalid_client", "private_key refers to may have been rotated", id="rotated key"),
        pytest.param(POST, "unsupported_grant_type", "[issuers.main]", id="grant type"),
        pytest.param(POST, "invalid_request", "broker doctor", id="no target was asked"),
    ],
)
def test_the_hint_says_where_to_look(attempt: Attempt, code: str, hint: str) -> None:
    error = judge(400, {"error": code}, attempt)
    assert hint in str(error.hint)
    assert f": {code}" in error.message


def test_an_errors_words_are_made_fit_to_show() -> None:
    """The description is cut, put on one line, and loses control characters and anything like a JWT."""
    words = "\x1b[31mbad\n secret and eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln " + "x" * 500
    error = judge(400, {"error": "invalid_request", "error_description": words})
    assert "invalid_request ([31mbad secret and … xxx" in error.message
    assert len(error.message) < 300
    assert error.message.isprintable()


def test_a_secret_that_is_part_of_a_registered_code_hides_no_code() -> None:
    """Else the same refusal would be of another class; the code tells nothing of the secret."""
    error = judge(400, {"error": "invalid_client"}, replace(POST, secrets=(Secret("client"),)))
    assert type(error) is CredentialRejected
    assert "invalid_client" in error.message


def test_an_error_code_that_echoes_the_secret_is_not_shown() -> None:
    error = judge(400, {"error": "hunter2-hunter2"}, replace(POST, secrets=(Secret("hunter2-hunter2"),)))
    assert "hunter2" not in error.message


def test_trace_id_is_passed_on() -> None:
    """Entra's support asks for it."""
    trace = "255d1aef-8c98-452f-ac51-23d051240864"
    assert judge(400, entra(50049, trace_id=trace)).message.endswith(f"trace_id {trace}")
    assert "trace_id" not in judge(400, entra(50049, trace_id="\x1b[31m")).message


def test_the_body_is_never_quoted() -> None:
    assert "boom" not in str(judge(500, b"<html>boom</html>")) + str(judge(404, b"boom"))


CORRELATION = "fe37af96-abe7-4dc4-b99e-949bb6cc9f87"
TRACE = "255d1aef-8c98-452f-ac51-23d051240864"


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "says"),
    [
        pytest.param(
            401,
            {"error": "unauthorized_client", "error_description": "Invalid client or Invalid client credentials"},
            {},
            CredentialRejected,
            "unauthorized_client (Invalid client or Invalid client credentials)",
            id="Keycloak: a wrong secret",
        ),
        pytest.param(403, b"", {}, CredentialRejected, "403 with an empty answer", id="glewlwyd: a wrong secret"),
        pytest.param(
            401,
            entra(
                7000215,
                error_description="AADSTS7000215: Invalid client secret provided. Ensure the secret being sent is the "
                f"client secret value.\r\nTrace ID: {TRACE}\r\nCorrelation ID: {CORRELATION}\r\n"
                "Timestamp: 2026-11-24 17:00:00Z",
                trace_id=TRACE,
                correlation_id=CORRELATION,
            ),
            {"x-ms-request-id": TRACE},
            CredentialRejected,
            f"is the client secret value), trace_id {TRACE}",
            id="Entra: a wrong secret",
        ),
        pytest.param(
            400,
            entra(90002, "invalid_request"),
            {},
            IssuerMisconfigured,
            "invalid_request (AADSTS90002: words)",
            id="Entra: no such tenant",
        ),
        pytest.param(
            429, b"Too Many Requests", {"retry_after": "60"}, IssuerThrottled, "now: 429", id="Entra: throttled"
        ),
        pytest.param(
            401,
            {"error": "access_denied", "error_description": "Unauthorized"},
            {},
            CredentialRejected,
            "access_denied (Unauthorized)",
            id="Auth0: a wrong secret",
        ),
        pytest.param(
            403,
            {
                "error": "access_denied",
                "error_description": 'Client is not authorized to access "https://api". You need to create a '
                '"client-grant" associated to this API.',
            },
            {"cf_ray": "8f1a2b3c4d5e6f70-FRA"},
            IssuerNeedsPerson,
            "associated to this API), cf-ray 8f1a2b3c4d5e6f70-FRA",
            id="Auth0: not authorised for the API",
        ),
        pytest.param(
            403,
            {
                "error": "unauthorized_client",
                "error_description": "Grant type 'client_credentials' not allowed for the client.",
            },
            {},
            IssuerMisconfigured,
            "Grant type 'client_credentials' not allowed",
            id="Auth0: the grant is not allowed",
        ),
        pytest.param(
            401,
            {
                "errorCode": "invalid_client",
                "errorSummary": "Invalid value for 'client_id' parameter.",
                "errorLink": "invalid_client",
                "errorId": "oaeFDV3HiAQQJa14IFaDmC",
                "errorCauses": [],
            },
            {"x_okta_request_id": "aBcDeFgHiJ"},
            CredentialRejected,
            "invalid_client (Invalid value for 'client_id' parameter), errorId oaeFDV3HiAQQJa14IFaDmC",
            id="Okta: no such client",
        ),
        pytest.param(
            400,
            {
                "error": "invalid_scope",
                "error_description": "One or more scopes are not configured for the authorization server resource.",
            },
            {"x_okta_request_id": "aBcDeFgHiJ"},
            IssuerMisconfigured,
            "server resource), x-okta-request-id aBcDeFgHiJ",
            id="Okta: an unknown scope",
        ),
        pytest.param(
            400,
            {"error": "access_denied", "error_description": "Policy evaluation failed for this request"},
            {},
            IssuerNeedsPerson,
            "Policy evaluation failed",
            id="Okta: no policy allows it",
        ),
        pytest.param(
            429,
            {"errorCode": "E0000047", "errorSummary": "API call exceeded rate limit due to too many requests."},
            {"x_rate_limit_remaining": "0", "x_rate_limit_reset": f"{NOW + 40:.0f}"},
            IssuerThrottled,
            "429 E0000047 (API call exceeded rate limit",
            id="Okta: throttled",
        ),
        pytest.param(
            400,
            {"error": "invalid_client"},
            {"x_amzn_requestid": CORRELATION},
            CredentialRejected,
            f"the client: invalid_client, x-amzn-requestid {CORRELATION}",
            id="Cognito: a wrong secret",
        ),
        pytest.param(
            403,
            {"message": "Forbidden"},
            {"x_amzn_requestid": CORRELATION},
            IssuerMisconfigured,
            "(Forbidden)",
            id="Cognito: its gateway",
        ),
        pytest.param(
            401,
            {
                "id": "1",
                "error": "invalid_client",
                "error_description": "Request denied: Unsupported authentication method",
                "correlationId": CORRELATION,
            },
            {},
            CredentialRejected,
            f"Unsupported authentication method), correlationId {CORRELATION}",
            id="PingOne: another method",
        ),
        pytest.param(
            401,
            {"error": "invalid_client", "error_description": "Invalid client secret."},
            {"x_request_id": "req_01HXYZ"},
            CredentialRejected,
            "Invalid client secret), x-request-id req_01HXYZ",
            id="WorkOS: a wrong secret",
        ),
        pytest.param(
            401,
            {
                "status_code": 401,
                "request_id": "request-id-test-b05c992f",
                "error_type": "unauthorized_credentials",
                "error_message": "Unauthorized credentials.",
                "error_url": "https://stytch.com/docs/api/errors/401",
            },
            {},
            CredentialRejected,
            "unauthorized_credentials (Unauthorized credentials), request_id request-id-test-b05c992f",
            id="Stytch: a wrong secret",
        ),
        pytest.param(
            400,
            {"errorCode": "E011003", "errorDescription": "Request is invalid", "errorMessage": "The scope is missing"},
            {},
            IssuerMisconfigured,
            "E011003 (Request is invalid)",
            id="Descope: a wrong request",
        ),
        pytest.param(
            401,
            {"errorCode": "E061005", "errorDescription": "Invalid client credentials"},
            {},
            CredentialRejected,
            "E061005 (Invalid client credentials)",
            id="Descope: a wrong secret",
        ),
        pytest.param(
            403,
            {"error": {"code": 403, "message": "Token Service API has not been used", "status": "PERMISSION_DENIED"}},
            {},
            IssuerMisconfigured,
            "PERMISSION_DENIED (Token Service API has not been used)",
            id="Google: an API that is off",
        ),
        pytest.param(
            403,
            {"message": "API rate limit exceeded"},
            {"x_ratelimit_remaining": "0", "x_ratelimit_reset": f"{NOW + 90:.0f}"},
            IssuerThrottled,
            "API rate limit exceeded",
            id="403 that means throttled, GitHub",
        ),
        pytest.param(
            400,
            {"type": "about:blank", "title": "Bad Request", "detail": "grant_type is missing"},
            {},
            IssuerMisconfigured,
            "(grant_type is missing)",
            id="RFC 9457",
        ),
        pytest.param(511, b"<html>", {}, IssuerUnavailable, "wants somebody to sign in first", id="a captive portal"),
    ],
)
def test_what_products_really_say(
    status: int, body: Any, headers: dict[str, str], kind: type[IssuerError], says: str
) -> None:
    """The class comes from the evidence, and the words reach the person."""
    error = judge(status, body, replace(POST, audience="https://api"), **as_keywords(headers))
    assert type(error) is kind
    assert says in error.message
    assert error.message.isprintable()


@pytest.mark.parametrize(
    ("words", "kind"),
    [("Invalid JWT Signature.", CredentialRejected), ("Invalid grant: account not found", CredentialRejected)],
)
def test_google_refuses_an_assertion(words: str, kind: type[IssuerError]) -> None:
    attempt = replace(POST, auth="none", grant="jwt-bearer")
    error = judge(400, {"error": "invalid_grant", "error_description": words}, attempt)
    assert type(error) is kind
    assert words.rstrip(".") in error.message
    behind = judge(400, {"error": "invalid_grant"}, attempt, date="Fri, 15 Jan 2027 08:10:00 GMT")
    assert type(behind) is IssuerNeedsPerson
    assert "600 s behind" in behind.message


def test_how_to_be_let_at_an_api_is_told() -> None:
    error = judge(403, {"error": "access_denied"}, replace(POST, audience="https://api"))
    assert "authorise this application for the API 'https://api'" in str(error.hint)
    assert "Auth0" in str(error.hint)


def test_an_id_stands_once_in_the_message() -> None:
    """Not again from a header, nor when the words have it."""
    message = judge(
        400,
        {"error": "x", "error_description": f"see {CORRELATION}", "correlation_id": CORRELATION},
        x_request_id=CORRELATION,
    ).message
    assert message.count(CORRELATION) == 1


@pytest.mark.parametrize("value", ["hunter2-hunter2", "\x1b[31mred", "x" * 500, "a b"])
def test_an_id_that_is_not_fit_to_show_is_left_out(value: str) -> None:
    attempt = replace(POST, secrets=(Secret("hunter2-hunter2"),))
    message = judge(401, {"error": "invalid_client", "request_id": value}, attempt, x_request_id=value).message
    assert message.endswith("invalid_client")


@pytest.mark.parametrize("member", ["error_message", "errorDescription", "errorSummary", "detail", "message"])
def test_words_of_other_shapes_are_scrubbed_too(member: str) -> None:
    attempt = replace(POST, secrets=(Secret("hunter2-hunter2"),))
    message = judge(400, {member: "no hunter2-hunter2 here " + "y" * 500}, attempt).message
    assert message.endswith("(…)")
    assert len(message) < 330


def test_a_refusal_carries_what_it_says_of_quotas() -> None:
    assert judge(429, b"", auth0_client_quota_limit="b=per_hour;q=10;r=3;t=9").quotas[0].remaining == 3


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        pytest.param({"x_rate_limit_reset": f"{NOW + 40:.0f}"}, 40, id="Okta's time"),
        pytest.param({"x_rate_limit_reset": f"{NOW + 9999:.0f}"}, 3600, id="at most an hour"),
        pytest.param({"retry_after": "5", "x_rate_limit_reset": f"{NOW + 40:.0f}"}, 5, id="Retry-After wins"),
        pytest.param({}, None, id="nothing said"),
    ],
)
def test_how_long_a_throttled_client_waits(headers: dict[str, str], wait: float | None) -> None:
    assert judge(429, b"", **as_keywords(headers)).retry_after == wait


def test_a_403_that_names_a_time_is_no_refusal() -> None:
    """It is how some issuers throttle; without one an empty 403 is a refused credential."""
    told = judge(403, b"", retry_after="5")
    assert (type(told), told.retry_after) == (IssuerThrottled, 5)


def test_a_redirect_names_its_host_and_nothing_else_of_it() -> None:
    message = judge(302, b"", location="https://portal.hotel.example/login?secret=1").message
    assert "redirect (302) to portal.hotel.example, which" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("location", "hint"),
    [
        pytest.param("https://portal.example/", "sign in to the network if it asks for that", id="another host"),
        pytest.param("https://login.example.com/t/", "set token_endpoint in [issuers.main] to", id="the same host"),
        pytest.param("/t/", "set token_endpoint in [issuers.main] to the final address", id="no host"),
    ],
)
def test_nobody_is_told_to_write_a_portals_address(location: str, hint: str) -> None:
    """A redirect to another host is more often the network's than the issuer's."""
    assert str(judge(307, b"", location=location).hint).startswith(hint)


def test_xml_is_no_web_page() -> None:
    """Object stores refuse so; no portal does."""
    assert "web page" not in judge(403, b"<?xml version='1.0'?><Error/>").message


def test_a_web_page_in_place_of_a_refusal_is_named() -> None:
    error = judge(403, b"<html>blocked</html>")
    assert "a web page" in error.message
    assert "company's proxy" in str(error.hint)
