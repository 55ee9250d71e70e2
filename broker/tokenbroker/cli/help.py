"""What `broker --help` says."""

from __future__ import annotations

from typing import Final

DESCRIPTION: Final = """\
Hand short-lived OAuth tokens to local programs; client secrets stay in the vault and, while it is
unlocked, in the broker's memory. Programs ask with `broker-token` or over the Unix socket."""

EPILOG: Final = """\
files:
  config.toml      the configuration, in the platform's folder; BROKER_CONFIG overrides
  broker.sock      the socket that programs ask; BROKER_SOCKET overrides
  admin/admin.sock what these verbs speak to, in the folder of the first; BROKER_ADMIN_SOCKET overrides

exit status:
  0 done   1 failed   2 usage   3 no broker is listening   4 denied or refused by a person   5 locked
  75 try again later

examples:
  broker init --preset auth0         write a first configuration
  broker serve                       run in the foreground
  broker unlock                      open the vault now: one prompt
  broker sessions --watch            see who is using what
  broker revoke --profile billing    serve its present token no more
"""

PRESET_NAMES: Final = (
    "auth0", "okta", "entra", "keycloak", "cognito", "pingone", "google", "github-app", "zitadel", "workos", "stytch",
    "descope", "hydra", "oidc",
)  # fmt: skip
"""The presets, which are not imported for a help text."""

VERBS: Final = {
    "serve": (
        "run the daemon in the foreground",
        (
            "Run the daemon in the foreground; systemd and launchd run this. SIGTERM ends it after the requests in "
            "flight, SIGHUP reads the configuration again and keeps the old one if the new one is wrong."
        ),
    ),
    "init": (
        "write a first configuration",
        (
            "Ask for an issuer, a client and a profile, and write a configuration. It holds references such as "
            "op://Vault/Item/field, never secrets. With --preset it asks only what that product needs."
        ),
    ),
    "status": (
        "show vault, issuers and tokens",
        "Show the state of the vault, the issuers and the tokens. Never prompts, never shows a token.",
    ),
    "sessions": (
        "show who is using what",
        (
            "Show each program that was given tokens, with the time that they have left. Never prompts, never shows "
            "a token. A program that has ended stays listed while a token that it was given lives; the table has the "
            "ten that ended last, --json has all."
        ),
    ),
    "unlock": (
        "open the vault now",
        (
            "Open the vault now, with one prompt, and read every secret that the configuration refers to. Ends a "
            "cool-down and tries again what was failing."
        ),
    ),
    "lock": (
        "forget every secret and token now",
        "Forget every secret and token now. The next program that asks, if a person is near it, causes a prompt.",
    ),
    "revoke": (
        "serve a session's or a profile's tokens no more",
        (
            "Serve a session no more, or drop the present tokens of a profile or of all, and have their issuers revoke "
            "them (RFC 7009) where they can. Says what could not be revoked, and for how long APIs accept it still. An "
            "API that does not ask the issuer accepts a token until it expires. The exit status is 1 when an issuer "
            "could not be told."
        ),
    ),
    "otp": (
        "print a one-time password of an item",
        (
            "Print the present one-time password of an item in the vault, if a [[rules]] entry with `otp` allows it to "
            "this program. It is read anew each time and kept nowhere, so the vault may ask each time."
        ),
    ),
    "reload": (
        "read the configuration again",
        "Read the configuration again, as SIGHUP does. A wrong file is refused and the old configuration stays.",
    ),
    "doctor": (
        "check everything and name the next command for each fault",
        (
            "Check configuration, vault, references, sockets and daemon, and name the next command for each fault. "
            "A running daemon that has its secrets also asks each client's issuer for one token, which later serves "
            "programs, and tells what the issuer said and how far the token could be checked. "
            "Never prompts, except that --read reads every reference through the daemon, and that `broker doctor op` "
            "finds out, with you at the screen, when 1Password asks: it tells what will happen before it begins."
        ),
    ),
}
