"""Where a vault's own access token comes from: never a path."""
