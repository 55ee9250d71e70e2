"""The parts of a 1Password secret reference: `op://VAULT/ITEM/[SECTION/]FIELD[?attribute=NAME]`.

PURE. Names are compared without regard to case, as `op` does. Nothing here is secret.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenbroker.model import SecretRef

# What `op` accepts in a reference; other characters need the id in place of the name. The query is ours to interpret
# only in the last resort, so it is merely kept.
_REFERENCE = re.compile(
    r"op://(?P<vault>[\w. -]+)/(?P<item>[\w. -]+)/(?:(?P<section>[\w. -]+)/)?(?P<field>[\w. -]+)"
    r"(?:\?(?P<query>[\w=&-]+))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class OpReference:
    """One reference in its parts."""

    ref: SecretRef
    vault: str
    item: str
    section: str | None
    field: str
    query: str | None = None

    @property
    def item_key(self) -> tuple[str, str]:
        """What two references of one item have in common: vault and item, in lower case."""
        return self.vault.casefold(), self.item.casefold()


def parse_reference(ref: SecretRef) -> OpReference | None:
    """Take `ref` apart; `None` when it is not a reference that `op` could read."""
    match = _REFERENCE.fullmatch(ref.uri)
    if match is None:
        return None
    return OpReference(ref, match["vault"], match["item"], match["section"], match["field"], match["query"])
