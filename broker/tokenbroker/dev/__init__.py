"""Parts for development and the demonstration alone: an issuer and a protected API on loopback, without an account.

Nothing here is imported unless `serve --dev` or the demonstration asks; a real configuration never reaches it.
"""
