"""A 1Password Connect server."""
