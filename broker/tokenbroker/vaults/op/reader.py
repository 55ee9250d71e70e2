"""Reading many 1Password references in as few `op` calls as can be, whoever signs in.

Rules of this file:
1. All references are read by one `op inject`. A prompt storm is the worst fault there is: a failure that concerns
   everything ends the read, and no call follows it.
2. Only when 1Password answered, and named references that it cannot resolve, is the batch repeated without them: at
   most `MAX_ROUNDS` times. As the last resort each item is read alone, once.
3. Where each call costs a prompt (`frugal`) there are two calls at most: the batch, and the batch once more without
   what the first one named. What was wrong in the read before is left out of the first, and is the second if the
   first went well: so a few wrong references are found out read by read, and the good ones do not wait for that.
4. Where it is not known whether each call costs a prompt, a further call that took as long as a person does ends the
   read as if it were so.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Protocol

from tokenbroker.errors import SecretNotFound, VaultError
from tokenbroker.model import Secret
from tokenbroker.vaults.json_answer import LONG
from tokenbroker.vaults.op.errors import APP, garbled, general_error, judge, lacks_command
from tokenbroker.vaults.op.item import parse_item, pick
from tokenbroker.vaults.op.reference import OpReference, parse_reference
from tokenbroker.vaults.op.template import GarbledOutput, as_injected, build_template, parse_filled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from tokenbroker.model import SecretRef
    from tokenbroker.vaults.op.errors import Completed, Words

MAX_ROUNDS = 4  # batches after the first, each without the references that made the one before fail
ASKED = 3.0  # seconds: an authorized call takes 0.7 to 2, a person with Touch ID 5 to 9 and the call (contract 1.8)
_SAME = 0.7  # of the first call, which asked: under launchd an authorized call takes up to half of that

Answers = dict["SecretRef", "Secret | VaultError"]

log = logging.getLogger(__name__)


class OpCall(Protocol):
    """One run of `op`."""

    async def __call__(
        self, argv: Sequence[str], *, stdin: bytes | None = None, asked: Sequence[OpReference] = (), fresh: bool = False
    ) -> Completed:
        """Run `op` with `argv` and return how it ended; raises what stands in the way of running it.

        `asked` and `fresh` tell what the call is for: references, and whether they are read past `op`'s cache.
        """
        ...


class OpReader:
    """The reading of references by way of a `call`; it keeps no value between two reads."""

    def __init__(
        self,
        call: OpCall,
        *,
        words: Words = APP,
        frugal: bool = False,
        elapsed: Callable[[], float] | None = None,
        nonce: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        """Read through `call`; `words` puts its failures, `frugal` says that each call may be a prompt.

        `elapsed` is a clock in seconds by which calls that asked a person are told; `None`: nobody is ever asked.
        """
        self._call = call
        self._words = words
        self._frugal = frugal
        self._elapsed = elapsed
        self._nonce = nonce
        self._wrong: dict[SecretRef, VaultError] = {}
        """What the last frugal read found wrong."""

    async def read(self, refs: Collection[SecretRef], *, fresh: bool) -> Answers:
        """Read all of `refs`, as `ports.Vault` says; `fresh` goes past `op`'s own cache of items."""
        answers: Answers = {}
        waiting: list[OpReference] = []
        for ref in dict.fromkeys(refs):
            parsed = parse_reference(ref)
            if parsed is None:
                answers[ref] = SecretNotFound(
                    f"{ref}: not a reference that `op` can read", hint="write it as `op://VAULT/ITEM/FIELD`"
                )
            else:
                waiting.append(parsed)
        if self._frugal:
            return answers | await self._sparingly(waiting, fresh=fresh)
        first = 0.0
        for number in range(1 + MAX_ROUNDS):
            began = self._now()
            found = await self._inject(waiting, fresh=fresh) if waiting else {}
            answers |= found
            waiting = [one for one in waiting if one.ref not in found]
            took = self._now() - began
            if number == 0:
                first = took
            elif waiting and took > max(ASKED, _SAME * first):
                log.warning("1Password seems to ask at each call; `broker doctor op` finds out whether it does")
                return answers | {one.ref: _not_read(one.ref) for one in waiting}
            if not found:
                break
        return answers | (await self._each_item(waiting, fresh=fresh) if waiting else {})

    async def _sparingly(self, asked: Sequence[OpReference], *, fresh: bool) -> Answers:
        """Read in two calls at most (rule 3)."""
        first = [one for one in asked if one.ref not in self._wrong] or asked
        answers = await self._inject(first, fresh=fresh) if first else {}
        went_well = len(answers) == len(first)
        rest = [one for one in (asked if went_well else first) if one.ref not in answers]
        if rest and answers:
            try:
                answers |= await self._inject(rest, fresh=fresh)
            except VaultError:
                if not went_well:  # else the good ones are at hand, whatever became of those that were wrong before
                    raise
        unread = {one.ref: self._wrong.get(one.ref) or _not_read(one.ref) for one in asked if one.ref not in answers}
        self._wrong = {
            ref: value for ref, value in (answers | unread).items()
            if isinstance(value, VaultError) and (ref in answers or ref in self._wrong)
        }  # fmt: skip
        return answers | {ref: error.anew() for ref, error in unread.items()}

    def _now(self) -> float:
        return self._elapsed() if self._elapsed is not None else 0.0

    async def _inject(self, asked: Sequence[OpReference], *, fresh: bool) -> Answers:
        """Read all of `asked` in one call; return all values, or only the errors of those that made it fail."""
        refs = [one.ref for one in asked]
        nonce = self._nonce()
        template = build_template(refs, nonce)
        done = await self._call(["inject", *_cache(fresh)], stdin=template, asked=asked, fresh=fresh)
        if lacks_command(done):
            if self._frugal:
                raise general_error(done, self._words)
            return {}  # an `op` or a stand-in without it: item by item, then
        failed = judge(done, asked, self._words)
        if failed is not None:
            return dict(failed)
        try:
            values = parse_filled(done.stdout, refs, nonce)
        except GarbledOutput:
            raise garbled() from None
        return {ref: _secret(ref, value) for ref, value in values.items()}

    async def _each_item(self, asked: Sequence[OpReference], *, fresh: bool) -> Answers:
        """Read item after item: the last resort, when `op` does not say which reference is wrong or has no `inject`."""
        items: dict[tuple[str, str], list[OpReference]] = {}
        for one in asked:
            items.setdefault(one.item_key, []).append(one)
        log.warning("Reading 1Password items one by one, as op did not read them at once: %d", len(items))
        answers: Answers = {}
        for group in items.values():
            answers |= await self._item(group, fresh=fresh)
        return answers

    async def _item(self, group: Sequence[OpReference], *, fresh: bool) -> Answers:
        first = group[0]
        argv = ["item", "get", first.item, "--vault", first.vault, "--format", "json", *_cache(fresh)]
        done = await self._call(argv, asked=[first], fresh=fresh)
        failed = judge(done, group, self._words)
        if failed is not None:
            # One item was asked for, so whatever is wrong with it is wrong for all of its references.
            return {one.ref: failed.get(one.ref) or _unreadable(one.ref) for one in group}
        try:
            long = len(done.stdout) > LONG
            item = await asyncio.to_thread(parse_item, done.stdout) if long else parse_item(done.stdout)
        except GarbledOutput:
            raise garbled() from None
        return {one.ref: pick(item, one, clean=as_injected) or await self._alone(one, fresh=fresh) for one in group}

    async def _alone(self, one: OpReference, *, fresh: bool) -> Secret | VaultError:
        """Read what does not stand in an item's JSON: the content of a file, a key in another format."""
        done = await self._call(["read", "--no-newline", one.ref.uri, *_cache(fresh)], asked=[one], fresh=fresh)
        failed = judge(done, [one], self._words)
        if failed is not None:
            return failed.get(one.ref) or _unreadable(one.ref)
        try:
            return _secret(one.ref, done.stdout.decode() or None)
        except UnicodeDecodeError:
            return _unreadable(one.ref)


def _cache(fresh: bool) -> list[str]:  # noqa: FBT001  # the one fact this is about
    return ["--cache=false"] if fresh else []


def _secret(ref: SecretRef, value: str | None) -> Secret | VaultError:
    return _unreadable(ref) if value is None else Secret(as_injected(value))


def _unreadable(ref: SecretRef) -> VaultError:
    return SecretNotFound(
        f"{ref}: 1Password has nothing readable under this reference", hint=f'look at it with `op read "{ref}"`'
    )


def _not_read(ref: SecretRef) -> VaultError:
    return SecretNotFound(
        f"{ref}: not read, because other references are wrong and each further call would ask you again",
        hint="find the wrong ones with `broker doctor`, correct them, then run `broker unlock`",
    )
