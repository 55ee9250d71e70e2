"""Issuers, clients and profiles of the configuration: presets, and what each grant and authentication needs."""

from __future__ import annotations

import re

import pytest

from tests.unit.config_documents import client, refusal
from tokenbroker.config.issuers import AUTHS, GRANTS
from tokenbroker.config.presets import PRESETS
from tokenbroker.config.text import parse

KEY = 'private_key = "op://V/I/key"'
SECRET = 'client_secret = "op://V/I/f"'
CERTIFICATE = 'certificate = "op://V/I/certificate"'
SCOPES = {"entra": "api://x/.default", "zitadel": "openid", "github-app": "contents:read"}


def document(issuer: str = "", own: str = SECRET, profile: str = "") -> str:
    """Return a document with one issuer, one client of it and one profile."""
    text = client("op://V/I/f").replace('client_secret = "op://V/I/f"', own)
    return f'{text.replace("[issuers.i]", f"[issuers.i]{chr(10)}{issuer}")}\n[profiles.p]\nclients = ["c"]\n{profile}'


def preset_document(preset: str, profile: str) -> str:
    """Return a document with one client at an issuer of this preset, with the keys that it needs."""
    own = {"google": KEY, "github-app": f'{KEY}\ninstallation = "42"'}.get(preset, SECRET)
    text = document(f'preset = "{preset}"', own, profile)
    return text.replace("https://i.example", "https://i.example/") if PRESETS[preset].url_ends_with_slash else text


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_used(preset: str) -> None:
    """Each preset's defaults are the issuer's, and a profile that satisfies it is taken."""
    profile = f'audience = "a"\nscopes = ["{SCOPES.get(preset, "read")}"]'
    issuer = parse(preset_document(preset, profile)).issuers["i"]
    defaults = PRESETS[preset].defaults()
    assert {name: getattr(issuer, name) for name in defaults} == defaults


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_shows_what_its_addresses_look_like(preset: str) -> None:
    """The hint for a missing address is one that fits, and is refused or replaced as it stands nowhere real."""
    assert re.fullmatch(r"https://[^ ]+", PRESETS[preset].url_example)


def test_what_an_issuer_says_wins_over_its_preset() -> None:
    """A preset gives defaults, never more."""
    document = client("op://V/I/f").replace(
        "[issuers.i]\n", '[issuers.i]\npreset = "okta"\nauth = "client_secret_post"\nbasic_encoding = "raw"\n'
    )
    issuer = parse(document).issuers["i"]
    assert (issuer.auth, issuer.basic_encoding) == ("client_secret_post", "raw")


@pytest.mark.parametrize(
    ("preset", "profile", "key"),
    [
        pytest.param("auth0", 'scopes = ["a"]', "audience", id="auth0 without audience gives an opaque token"),
        pytest.param("okta", 'audience = "a"', "scopes", id="okta wants a scope"),
        pytest.param("entra", "", "scopes", id="entra wants a scope"),
        pytest.param("entra", 'scopes = ["api://x/read"]', "scopes", id="entra wants .default"),
        pytest.param("entra", 'scopes = ["a/.default", "b/.default"]', "scopes", id="entra takes one resource"),
        pytest.param("zitadel", 'scopes = ["read"]', "scopes", id="zitadel wants openid"),
    ],
)
def test_presets_insist(preset: str, profile: str, key: str) -> None:
    """A profile that the issuer would refuse is refused before it is asked."""
    message = refusal(preset_document(preset, profile)).message
    assert f": profiles.p.{key}: " in message
    assert f"preset `{preset}`" in message


def test_a_preset_knows_claims_that_never_fail_to_come() -> None:
    """Auth0 puts the organization that was asked for into each token; where it puts the owner is the user's choice."""
    issuer = parse(preset_document("auth0", 'audience = "a"')).issuers["i"]
    assert issuer.claims == {"org_id": "org_id"}
    more = preset_document("auth0", 'audience = "a"').replace(
        "[clients", 'claims = { owner = "https://x/o" }\n[clients'
    )
    assert parse(more).issuers["i"].claims == {"org_id": "org_id", "owner": "https://x/o"}


@pytest.mark.parametrize(
    ("preset", "url", "token_endpoint"),
    [
        pytest.param("google", None, "https://oauth2.googleapis.com/token", id="google"),
        pytest.param("github-app", "https://api.github.com", None, id="github"),
    ],
)
def test_a_product_with_one_address_needs_none(preset: str, url: str | None, token_endpoint: str | None) -> None:
    """Where all users of a product go to the same place, it is the preset's; an address in the file wins whole."""
    text = preset_document(preset, f'scopes = ["{SCOPES.get(preset, "read")}"]')
    issuer = parse(text.replace('url = "https://i.example"\n', "")).issuers["i"]
    assert (issuer.url, issuer.token_endpoint) == (url, token_endpoint)
    assert parse(text).issuers["i"].token_endpoint is None


def test_a_missing_address_is_asked_for_by_the_example_of_the_preset() -> None:
    """Whoever leaves the URL out is shown what it looks like for their product."""
    error = refusal(preset_document("keycloak", "").replace('url = "https://i.example"\n', ""))
    assert error.hint == 'add url = "https://HOST/realms/REALM"'


NEEDS = {
    "client_secret_post": SECRET,
    "client_secret_basic": SECRET,
    "client_secret_jwt": SECRET,
    "private_key_jwt": KEY,
    "tls_client_auth": f"{CERTIFICATE}\n{KEY}",
    "self_signed_tls_client_auth": f"{CERTIFICATE}\n{KEY}",
}


@pytest.mark.parametrize("auth", NEEDS)
def test_every_authentication_can_be_used(auth: str) -> None:
    """Each method is taken with the keys that it needs, on the issuer or on the client."""
    assert parse(document(f'auth = "{auth}"', NEEDS[auth])).issuers["i"].auth == auth
    assert parse(document("", f'{NEEDS[auth]}\nauth = "{auth}"')).clients["c"].auth == auth
    assert set(NEEDS) | {"none"} == set(AUTHS)


@pytest.mark.parametrize(
    ("own", "key", "message", "hint"),
    [
        pytest.param(
            KEY,
            "client_secret",
            "required by auth `client_secret_post`",
            'set auth = "private_key_jwt" on the client',
            id="a key for a secret",
        ),
        pytest.param(
            f"{CERTIFICATE}\n{KEY}",
            "client_secret",
            "required by auth `client_secret_post`",
            'set auth = "self_signed_tls_client_auth" on the client',
            id="a certificate for a secret",
        ),
        pytest.param(
            f'{SECRET}\nauth = "private_key_jwt"',
            "private_key",
            "required by auth `private_key_jwt`",
            'add the key `private_key` with a reference, or set auth = "client_secret_post" on the client',
            id="a secret for the key that somebody asked for",
        ),
        pytest.param(
            f'{KEY}\nauth = "tls_client_auth"',
            "certificate",
            "required by auth `tls_client_auth`",
            "add the key `certificate` with a reference",
            id="a key without its certificate",
        ),
        pytest.param(
            f"{SECRET}\n{CERTIFICATE}",
            "certificate",
            "auth `client_secret_post` has no use for it",
            "remove `certificate`, or change `auth`",
            id="a certificate that is not sent",
        ),
        pytest.param(
            f'{KEY}\ngrant = "github-app"',
            "grant",
            "all clients of an issuer speak GitHub's language, or none",
            'use preset = "github-app"',
            id="an app at another issuer",
        ),
        pytest.param(
            f'{SECRET}\ngrant = "jwt-bearer"',
            "private_key",
            "required by grant `jwt-bearer`",
            "add the key `private_key` with a reference",
            id="an assertion without a key",
        ),
        pytest.param(
            f'{SECRET}\nauth = "none"',
            "auth",
            "grant `client_credentials` needs a client that authenticates",
            "set another `auth`",
            id="nobody who authenticates",
        ),
        pytest.param(
            f'{SECRET}\ngrant = "token-exchange"',
            "subject_profile",
            "required by grant `token-exchange`",
            "name the profile whose token is exchanged, or set `subject_token` to a reference",
            id="an exchange of nothing",
        ),
        pytest.param(
            f'{SECRET}\ngrant = "token-exchange"\nsubject_profile = "p"\nsubject_token = "op://V/I/t"',
            "subject_profile",
            "expected either `subject_token` or `subject_profile`, found both",
            "remove one of them",
            id="an exchange of two subjects",
        ),
        pytest.param(
            f'{SECRET}\nsubject_profile = "p"',
            "subject_profile",
            "grant `client_credentials` has no use for it",
            'remove `subject_profile`, or set grant = "token-exchange"',
            id="a subject without an exchange",
        ),
        pytest.param(
            f'{SECRET}\ninstallation = "1"',
            "installation",
            "grant `client_credentials` has no use for it",
            'remove `installation`, or set grant = "github-app"',
            id="an installation without GitHub",
        ),
        pytest.param(
            f'{SECRET}\ngrant = "token-exchange"\nsubject_profile = "p"\nsubject_token_type = "acces_token"',
            "subject_token_type",
            "expected access_token, refresh_token, id_token, saml1, saml2 or jwt, or a URI",
            "did you mean `access_token`?",
            id="a token type that is none",
        ),
    ],
)
def test_a_client_has_what_its_grant_and_authentication_need(own: str, key: str, message: str, hint: str) -> None:
    """What is missing, and what nothing reads, is refused with the way out."""
    error = refusal(document("", own))
    assert f": clients.c.{key}: {message}" in error.message
    assert error.hint == hint


def test_the_grant_decides_how_a_client_authenticates_that_does_not_say() -> None:
    """An assertion proves by itself who asks, so a client with one sends no secret, unless it is told to."""
    config = parse(document('auth = "client_secret_basic"', f'{KEY}\ngrant = "jwt-bearer"'))
    assert config.clients["c"].auth == "none"
    both = parse(document("", f'{KEY}\n{SECRET}\ngrant = "jwt-bearer"\nauth = "client_secret_post"'))
    assert both.clients["c"].auth == "client_secret_post"
    on_issuer = parse(document('grant = "jwt-bearer"', KEY))
    assert (on_issuer.issuers["i"].auth, on_issuer.clients["c"].auth) == ("none", None)
    back = parse(document('preset = "google"', f'{SECRET}\ngrant = "client_credentials"', 'scopes = ["s"]'))
    assert back.clients["c"].auth == "client_secret_post"


NO_CERTIFICATE = (
    "add `certificate` with the reference of the certificate, which is that of `private_key` where one PEM text holds "
    "both"
)


@pytest.mark.parametrize("header", ["x5t", "x5t#S256"])
@pytest.mark.parametrize("more", ['auth = "private_key_jwt"', 'grant = "jwt-bearer"'])
def test_a_thumbprint_needs_a_certificate(header: str, more: str) -> None:
    """Without one the assertion would name no key, and the issuer refuse it in its own words."""
    error = refusal(document(f'assertion_header = "{header}"', f"{KEY}\n{more}"))
    assert f": clients.c.certificate: required by assertion_header `{header}` of issuer `i`, and not" in error.message
    assert error.hint == NO_CERTIFICATE
    for named in (CERTIFICATE, 'key_id = "thumbprint"'):
        assert parse(document(f'assertion_header = "{header}"', f"{KEY}\n{more}\n{named}")).clients["c"].private_key


def test_a_thumbprint_is_nothing_to_who_signs_nothing() -> None:
    """Entra's clients with a secret, and certificates that are shown and not named."""
    scopes = 'scopes = ["api://x/.default"]'
    assert parse(document('preset = "entra"', SECRET, scopes)).clients["c"].certificate is None
    assert refusal(document('preset = "entra"', f'{KEY}\nauth = "private_key_jwt"', scopes)).hint == NO_CERTIFICATE


@pytest.mark.parametrize("grant", ["urn:ietf:params:oauth:grant-type:jwt-bearer", "jwt-bearer"])
def test_a_grant_goes_by_its_name_or_by_what_is_sent(grant: str) -> None:
    """People find the URN in the documentation of their issuer."""
    assert parse(document(f'grant = "{grant}"', KEY)).issuers["i"].grant == "jwt-bearer"
    assert "jwt-bearer" in GRANTS


@pytest.mark.parametrize(
    ("line", "key", "message"),
    [
        ('assertion_ttl = "10s"', "assertion_ttl", "expected a duration between 30s and 1h, found a shorter one"),
        ('assertion_ttl = "2h"', "assertion_ttl", "expected a duration between 30s and 1h, found a longer one"),
        ('timeout = "61s"', "timeout", "expected a duration of at most 60s, found a longer one"),
        ('max_ttl = "25h"', "max_ttl", "expected a duration of at most 24h, found a longer one"),
        ('extra_params = { client_x = "x" }', "extra_params.client_x", "a parameter that the broker sends itself"),
        ('extra_params = { requested_token_type = "x" }', "extra_params.requested_token_type", "a parameter that the"),
        ('revoke_on = ["unlock"]', "revoke_on[0]", "expected revoke, lock or shutdown, found `unlock`"),
        ("quota_floor = 2", "quota_floor", "expected a number from 0 to 1, found another"),
        ("quota_floor = true", "quota_floor", "expected a number from 0 to 1, found a boolean"),
        ('signature = "no"', "signature", "expected auto, require or ignore, found `no`"),
        ('introspection_endpoint = "http://i.example/x"', "introspection_endpoint", "expected an https URL"),
        ('extra_params = { subject_token = "x" }', "extra_params.subject_token", "a parameter that the broker sends"),
    ],
)
def test_what_an_issuer_cannot_be_told(line: str, key: str, message: str) -> None:
    """Each is refused at its key."""
    assert f": issuers.i.{key}: {message}" in refusal(document(line)).message


@pytest.mark.parametrize("line", ['timeout = "60s"', 'max_ttl = "24h"', 'assertion_ttl = "1h"'])
def test_the_longest_of_each_is_taken(line: str) -> None:
    parse(document(line))


def test_auth0s_identifier_ends_with_a_slash() -> None:
    """Without it no `iss` of a token and no `aud` of an assertion would be right: the hint has the right one."""
    text = preset_document("auth0", 'audience = "a"')
    error = refusal(text.replace("https://i.example/", "https://i.example"))
    assert ": issuers.i.url: expected a URL that ends with `/`, found one without" in error.message
    assert error.hint == 'write url = "https://i.example/"'


def test_auth0_takes_no_assertion_of_more_than_five_minutes() -> None:
    """Contract, table of issuers: Auth0 refuses longer ones."""
    text = preset_document("auth0", 'audience = "a"')
    assert parse(text.replace("[clients", 'assertion_ttl = "5m"\n[clients')).issuers["i"].assertion_ttl == 300
    error = refusal(text.replace("[clients", 'assertion_ttl = "6m"\n[clients'))
    assert ": issuers.i.assertion_ttl: expected a duration between 30s and 5m, found a longer one" in error.message


def test_signatures_cannot_be_required_where_there_are_no_keys() -> None:
    """Else every token would be refused."""
    text = document('signature = "require"').replace('url = "', 'token_endpoint = "')
    assert ": issuers.i.signature: required, and there are no keys to check it with" in refusal(text).message
    assert parse(text.replace("[clients", 'jwks_uri = "https://i.example/keys"\n[clients')).issuers["i"].jwks_uri


def test_when_tokens_are_revoked_is_a_list_without_repeats() -> None:
    """By default only a person revokes; an empty list means never."""
    assert parse(document()).issuers["i"].revoke_on == ("revoke",)
    assert parse(document('revoke_on = ["lock", "shutdown", "lock"]')).issuers["i"].revoke_on == ("lock", "shutdown")
    assert parse(document("revoke_on = []")).issuers["i"].revoke_on == ()


EXCHANGES = """
[clients.x]
issuer = "i"
agent_type = "autonomous"
owner = "o"
client_id = "x"
client_secret = "op://V/I/f"
grant = "token-exchange"
subject_profile = "{subject}"
actor_profile = "p"
[profiles.q]
clients = ["x"]
"""


def test_a_profile_may_exchange_the_token_of_another() -> None:
    """The names are kept; the profiles' tokens are had when they are needed."""
    made = parse(document() + EXCHANGES.format(subject="p")).clients["x"]
    assert (made.subject_profile, made.actor_profile, made.subject_token_type) == ("p", "p", "access_token")


def test_no_token_is_exchanged_for_itself() -> None:
    """By whatever detour: else two fetches would wait for each other."""
    error = refusal(document() + EXCHANGES.format(subject="q"))
    assert "profiles.q: its token would be exchanged for itself: q → q" in error.message


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ('scopes = ["contents"]', "profiles.p.scopes[0]: expected a permission and its level, such as contents:read"),
        ('scopes = ["contents:all"]', "profiles.p.scopes[0]: expected a permission and its level"),
    ],
)
def test_permissions_of_a_github_app_stand_where_scopes_do(profile: str, message: str) -> None:
    """One that GitHub cannot understand is refused before it is asked."""
    assert message in refusal(preset_document("github-app", profile)).message
    good = parse(preset_document("github-app", 'scopes = ["contents:read"]\nrepositories = ["a", "b"]'))
    assert good.profiles["p"].repositories == ("a", "b")


def test_only_github_has_repositories() -> None:
    """Elsewhere the line would confine nothing."""
    assert (
        "profiles.p.repositories: issuer `i` has no repositories"
        in refusal(document(profile='repositories = ["a"]')).message
    )


@pytest.mark.parametrize("number", ["42", '"42"'])
def test_the_number_of_an_installation_may_stand_without_quotes(number: str) -> None:
    """It is a number, after all; anything else is not."""
    text = preset_document("github-app", "").replace('"42"', number)
    assert parse(text).clients["c"].installation == "42"
    error = refusal(text.replace(number, '"my-org"'))
    assert "clients.c.installation: expected the number of an installation" in error.message
