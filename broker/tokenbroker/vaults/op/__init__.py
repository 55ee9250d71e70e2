"""1Password through the `op` program: the desktop app, and service accounts."""
