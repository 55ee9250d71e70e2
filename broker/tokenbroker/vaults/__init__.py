"""Adapters behind `ports.Vault`, one file per place where secrets are kept."""
