"""`broker` on a machine where the 1Password app is a stand-in: `python serve_beside_app.py LIBRARY serve …`.

The SDK looks for the app's library in system folders only, and a configuration must not be able to name another.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

from tokenbroker import cli
from tokenbroker.vaults.sdk import vault as sdk

if __name__ == "__main__":
    sdk.SdkVault = functools.partial(sdk.SdkVault, library=Path(sys.argv[1]))  # type: ignore[assignment, misc]
    sys.exit(cli.main(sys.argv[2:]))
