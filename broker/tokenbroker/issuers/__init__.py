"""Adapters behind the Issuer port: how a client authenticates, where the endpoint is, what an answer means."""
