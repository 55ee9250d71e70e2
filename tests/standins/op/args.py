"""Command lines: global flags anywhere, one subcommand, its flags and its arguments (contract §1.1).

Errors are cobra's: `unknown command`, `unknown flag`, `flag needs an argument`.
"""

from __future__ import annotations

from tests.standins.op.output import OpError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BOOL, TEXT = "bool", "text"

GLOBAL_FLAGS = {
    "account": TEXT,
    "cache": BOOL,
    "config": TEXT,
    "debug": BOOL,
    "encoding": TEXT,
    "format": TEXT,
    "help": BOOL,
    "iso-timestamps": BOOL,
    "no-color": BOOL,
    "session": TEXT,
    "version": BOOL,
}
GLOBAL_SHORT = {"h": "help", "v": "version"}

COMMANDS: Mapping[str, Mapping[str, str]] = {
    "account list": {},
    "account get": {},
    "user get": {"me": BOOL},
    "whoami": {},
    "signin": {"raw": BOOL, "force": BOOL},
    "signout": {"all": BOOL, "forget": BOOL},
    "vault list": {"group": TEXT, "user": TEXT},
    "vault get": {},
    "item list": {"vault": TEXT, "categories": TEXT, "tags": TEXT, "include-archive": BOOL, "favorite": BOOL},
    "item get": {
        "vault": TEXT,
        "fields": TEXT,
        "reveal": BOOL,
        "otp": BOOL,
        "share-link": BOOL,
        "include-archive": BOOL,
    },
    "read": {"no-newline": BOOL, "out-file": TEXT, "file-mode": TEXT, "force": BOOL},
    "inject": {"in-file": TEXT, "out-file": TEXT, "file-mode": TEXT, "force": BOOL},
    "run": {"env-file": TEXT, "no-masking": BOOL},
    "service-account ratelimit": {},
    "daemon": {},
}
SHORT = {"n": "no-newline", "o": "out-file", "f": "force", "i": "in-file"}
ALIASES = {"ls": "list", "accounts": "account"}
GROUPS = {name.split()[0] for name in COMMANDS if " " in name}


class Parsed:
    """One understood command line."""

    def __init__(self, command: str, args: list[str], flags: dict[str, str]) -> None:
        """Keep the subcommand's full name (`item get`; empty for none), its arguments, and its flags.

        Flags are long name → text; a set boolean is `true`.
        """
        self.command = command
        self.args = args
        self.flags = flags

    def on(self, flag: str, *, default: bool = False) -> bool:
        """Tell whether a boolean flag is set."""
        return self.flags.get(flag, "true" if default else "false").lower() in {"true", "1", "t"}


def parse(argv: Sequence[str]) -> Parsed:
    """Understand `argv` (without the program's name). Raises `OpError` in cobra's words."""
    line = _Line(argv)
    line.split()
    command = _command(line.words)
    known = {*GLOBAL_FLAGS, *COMMANDS.get(command, {})}
    for name, spelled in line.spelled.items():
        if name not in known:
            raise OpError(f"unknown {spelled}", bare=True)
    return Parsed(command, line.words[len(command.split()) :] + line.queue, line.flags)


def _command(words: Sequence[str]) -> str:
    if not words:
        return ""
    first = ALIASES.get(words[0], words[0])
    if first in COMMANDS:
        return first
    if first not in GROUPS:
        raise OpError(f'unknown command "{words[0]}" for "op"', bare=True)
    second = ALIASES.get(words[1], words[1]) if len(words) > 1 else ""
    if f"{first} {second}" not in COMMANDS:
        raise OpError(f'unknown command "{second}" for "op {first}"', bare=True)
    return f"{first} {second}"


class _Line:
    """A command line being taken apart."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.queue = list(argv)
        self.words: list[str] = []
        self.flags: dict[str, str] = {}
        self.spelled: dict[str, str] = {}
        """How each flag was written, for the error if the command does not know it."""
        self.kinds = dict(GLOBAL_FLAGS)
        for own in COMMANDS.values():
            self.kinds.update(own)

    def split(self) -> None:
        """Sort everything before `--` into words and flags; what stands after it stays in the queue."""
        while self.queue:
            word = self.queue.pop(0)
            if word == "--":
                return
            if word.startswith("--"):
                name, equals, value = word[2:].partition("=")
                self._take(name, f"flag: --{name}", value if equals else None)
            elif word.startswith("-") and word != "-":
                self._short(word[1:])
            else:
                self.words.append(word)

    def _short(self, whole: str) -> None:
        letters = whole
        while letters:
            letter, letters = letters[0], letters[1:]
            name = (SHORT | GLOBAL_SHORT).get(letter, "")
            value = None
            if self.kinds.get(name) == TEXT and letters:
                value, letters = letters.removeprefix("="), ""
            self._take(name, f"shorthand flag: {letter!r} in -{whole}", value)

    def _take(self, name: str, spelled: str, value: str | None) -> None:
        kind = self.kinds.get(name)
        if kind is None:
            raise OpError(f"unknown {spelled}", bare=True)
        if value is None and kind == TEXT:
            if not self.queue:
                raise OpError(f"flag needs an argument: --{name}", bare=True)
            value = self.queue.pop(0)
        self.flags[name] = "true" if value is None else value
        self.spelled[name] = spelled
