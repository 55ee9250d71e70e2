"""A stand-in for 1Password's `op` CLI 2.40.0, written from section 8 of the project's 1Password contract.

Rules of this package:
1. It speaks as `op` was recorded to speak; where nobody knows, the state has a switch for either answer.
2. It runs under `python -I -S` and imports the standard library only, late where a module is heavy: a test makes
   many calls, and `typing` and `pathlib` would be a third of each.
3. Nothing here knows of tokenbroker.
"""
