"""What `broker-token --help` prints. Written by hand; README.md of the client holds a copy."""

from __future__ import annotations

from typing import Final

HELP: Final = """\
usage: broker-token PROFILE [options]
       broker-token --audience URL [options]
       broker-token --list [--json]

Print one valid access token from the local credential broker, and nothing else.

options:
  --format FORMAT    token (default), header, headers-json, env or json
  --json             the same as --format json: the broker's whole answer
  --env NAME         variable that --format env exports (default ACCESS_TOKEN)
  --min-ttl SECONDS  the token must be valid this much longer (default 60)
  --scope SCOPE      ask for some of the profile's scopes only; may be repeated
  --audience URL     choose the profile by the API it is for
  --as autonomous    be treated as a program with nobody near
  --no-prompt        fail at once rather than prompt a person
  --rejected         an API refused the current token: drop it, print a new one
  --reason TEXT      why, for the person who is asked and for the audit trail
  --list             list the profiles and what you may have
  --socket PATH      the broker's socket
  --timeout SECONDS  how long to wait in all (default 9.5; 90 at a terminal)
  --version          print the version
  --help             print this text

exit codes:
  0   the token was printed
  1   failed
  2   the command line cannot be understood
  3   no broker is listening
  4   denied, by a rule or by a person
  5   locked, and nobody may be or was prompted
  6   no token is valid for as long as --min-ttl asks
  75  try again later, or --rejected was said too often to drop the token

environment:
  BROKER_SOCKET          path of the broker's socket
  BROKER_INTERACTION     never: as --no-prompt
  GCM_INTERACTIVE        0: as --no-prompt
  CLAUDE_HELPER_CONTEXT  background or scheduled-task: as --no-prompt

examples:
  curl -H "Authorization: Bearer $(broker-token search)" https://search.example.com/
  broker-token search --format header | curl -H @- https://search.example.com/
  eval "$(broker-token search --format env --env SEARCH_BEARER)"
  broker-token search --as autonomous --min-ttl 1800
"""
