"""The 1Password app through its SDK, in a process of its own."""
