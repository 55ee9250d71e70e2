"""Judge whether a person is near a process: from what started it, and from its terminal.

Rules of this file:
1. PURE: facts in, verdict and one line of reason out.
2. What a program says of itself (arguments, environment) is not even an argument here.
3. This tells honest programs apart; it is no defence. A process of the same user can name itself `code` or open a
   pseudo-terminal. What it would gain is a prompt, which a person answers.
4. An unattended starter beats a terminal, wherever in the chain either is: `cron → script → sh` has a terminal and
   nobody before it. Where that is wrong for somebody, the rule's `treat_as` says so.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from tokenbroker.model import AgentType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from tokenbroker.peers.process import Process

NAME_LIMITS: Final = (15, 16)  # bytes that Linux (TASK_COMM_LEN - 1) and macOS (MAXCOMLEN) keep of a name


class Role(StrEnum):
    """What a known program says about whether a person is near; the value is how the evidence words it."""

    STARTER = "an unattended starter"
    IDE = "an IDE"
    TERMINAL = "a terminal"
    AGENT = "an agent"
    LOGIN = "a login"


def _lines(text: str) -> frozenset[str]:
    return frozenset(line.strip() for line in text.splitlines() if line.strip())


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# They run what they are told at a time, whether or not anybody is there.
SCHEDULERS: Final = _words("cron crond anacron fcron dcron cronie supercronic atd atrun")

# GitHub, Azure, GitLab, Buildkite, Jenkins, Gitea, Forgejo, CircleCI, …; some of them give their steps a terminal.
CI_RUNNERS: Final = _words("""
    runner.listener runner.worker agent.listener agent.worker gitlab-runner gitlab-runner-helper buildkite-agent
    jenkins jenkins-agent act_runner forgejo-runner circleci circleci-agent circleci-runner woodpecker-agent
    drone-runner-exec teamcity-agent
""")

# They have a window, or an editor's screen, that a person looks at.
IDES: Final = _words("""
    code code-insiders code-oss codium vscodium code-server code-tunnel cursor windsurf zed zed-editor zeditor
    idea idea64 pycharm pycharm64 goland goland64 webstorm webstorm64 clion clion64 rubymine phpstorm rider rustrover
    datagrip dataspell fleet studio studio64 remote-dev-server xcode emacs emacs-gtk nvim neovide nvim-qt gvim
    sublime_text kate eclipse positron trae kiro antigravity
""")

# A person opened them; a multiplexer outlives the terminal that it was started from.
TERMINALS: Final = _words("""
    tmux screen zellij terminal iterm2 ghostty kitty alacritty wezterm wezterm-gui wezterm-mux-server
    gnome-terminal-server kgx ptyxis ptyxis-agent konsole xfce4-terminal tilix terminator xterm foot rio warp
    warp-terminal hyper
""")

# They work beside a person, unless a service runs them: then the service decides.
AGENTS: Final = _words("claude codex gemini opencode cursor-agent copilot goose aider amp crush droid qwen")

# With a terminal they are a person's login, though a service started them.
LOGINS: Final = _words("sshd sshd-session sshd-auth dropbear mosh-server login")

# Folders of programs whose own name says nothing: `node` of a remote server, `Electron` in a macOS bundle.
IDE_FOLDERS: Final = _lines("""
    .vscode-server
    .vscode-server-insiders
    .cursor-server
    .windsurf-server
    .zed_server
    code-server
    visual studio code.app
    visual studio code - insiders.app
    vscodium.app
    cursor.app
    windsurf.app
    zed.app
    xcode.app
    intellij idea.app
    intellij idea ce.app
    pycharm.app
    pycharm ce.app
    goland.app
    webstorm.app
    clion.app
    rubymine.app
    phpstorm.app
    rider.app
    rustrover.app
    datagrip.app
    android studio.app
    emacs.app
    macvim.app
    claude.app
    codex.app
""")
# `iterm2`: ~/Library/Application Support/iTerm2/iTermServer-3.5.0, whose own name changes with its version.
TERMINAL_FOLDERS: Final = _lines("""
    terminal.app
    iterm.app
    iterm2
    ghostty.app
    kitty.app
    alacritty.app
    wezterm.app
    warp.app
    hyper.app
""")


def _by_name(names: Iterable[str], role: Role) -> dict[str, Role]:
    return {name[:limit]: role for name in names for limit in (len(name), *NAME_LIMITS)}


ROLES: Final[Mapping[str, Role]] = (
    _by_name(SCHEDULERS | CI_RUNNERS, Role.STARTER)
    | _by_name(IDES, Role.IDE)
    | _by_name(TERMINALS, Role.TERMINAL)
    | _by_name(AGENTS, Role.AGENT)
    | _by_name(LOGINS, Role.LOGIN)
)
FOLDER_ROLES: Final[Mapping[str, Role]] = dict.fromkeys(IDE_FOLDERS, Role.IDE) | dict.fromkeys(
    TERMINAL_FOLDERS, Role.TERMINAL
)
HOSTS: Final = frozenset({Role.IDE, Role.TERMINAL, Role.AGENT})

DESKTOP_UNITS: Final = ("app-", "dbus-")  # units of the desktop: systemd's DESKTOP_ENVIRONMENTS.md
DESKTOP_SLICE: Final = "session.slice"

NOTHING: Final = "no terminal and no known IDE among its ancestors"


def judge(process: Process, ancestors: Sequence[Process], cgroup: str | None) -> tuple[AgentType, str]:
    """Return the `AgentType` and the one line that says why.

    `ancestors` are nearest first; `cgroup` is the text of /proc/PID/cgroup, `None` where there is none.
    """
    chain = (process, *ancestors)
    known = [(candidate, role) for candidate in chain if (role := role_of(candidate)) is not None]
    for candidate, role in known:
        if role is Role.STARTER:
            return AgentType.AUTONOMOUS, f"started by {_label(candidate)}"
    job = _job(chain, cgroup)
    if job is not None and not _attended({role for _, role in known}, process.tty):
        return AgentType.AUTONOMOUS, f"run by {job}"
    if process.tty is not None:
        return AgentType.INTERACTIVE, f"terminal {process.tty}"
    for candidate, role in known:
        if role in HOSTS:
            return AgentType.INTERACTIVE, f"program of {role}: {_label(candidate)}"
    return AgentType.AUTONOMOUS, NOTHING


def role_of(process: Process) -> Role | None:
    """Return what is known of the program: by the kernel's name, by its file, by the folders it lies in.

    The kernel's name of a tmux server is `tmux: server`.
    """
    role = ROLES.get(process.name.casefold().partition(":")[0])
    if role is not None or process.exe is None:
        return role
    *folders, file = process.exe.casefold().split("/")
    return ROLES.get(file) or next((FOLDER_ROLES[folder] for folder in folders if folder in FOLDER_ROLES), None)


def service_of(cgroup: str) -> str | None:
    """Return the service in which /proc/PID/cgroup puts a process, or `None` if it is none that runs unattended.

    A scope (a login, a terminal's tab, a container) is no service, nor is what the desktop itself started.
    """
    paths: dict[str, str] = {}
    for line in cgroup.splitlines():
        _id, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths[controllers] = path
    # cgroups(7): "" is version 2; where systemd still uses version 1, its own hierarchy says it, and "" is "/".
    parts = f"{paths.get('', '')}{paths.get('name=systemd', '')}".split("/")
    unit = next((part for part in reversed(parts) if part.endswith((".service", ".scope"))), "")
    if not unit.endswith(".service") or unit.startswith(("user@", *DESKTOP_UNITS)) or DESKTOP_SLICE in parts:
        return None
    return unit


def _job(chain: Sequence[Process], cgroup: str | None) -> str | None:
    """Return what runs the chain as a job of its own: a systemd service, a launchd job.

    A service whose main process itself has a terminal was given it by a person (`systemd-run --pty`, a getty).
    On macOS every program is launchd's, so a terminal below it, though of an unknown program, is believed.
    """
    top = _outermost(chain)
    if top.tty is not None:
        return None
    service = service_of(cgroup) if cgroup is not None else None
    if service is not None:
        return f"the service {service}"
    if chain[-1].name == "launchd" and chain[0].tty is None and ".app/" not in (top.exe or ""):
        return f"launchd: {_label(top)}"
    return None


def _outermost(chain: Sequence[Process]) -> Process:
    """Return the last process below pid 1 or a user's systemd."""
    top = chain[0]
    for process in chain[1:]:
        if process.pid == 1 or process.name == "systemd":
            break
        top = process
    return top


def _attended(roles: set[Role], tty: str | None) -> bool:
    """Tell whether a person is near in spite of a service: its program is an editor or multiplexer, or a login."""
    return bool(roles & {Role.IDE, Role.TERMINAL}) or (tty is not None and Role.LOGIN in roles)


def _label(process: Process) -> str:
    return f"{process.name} (pid {process.pid})"
