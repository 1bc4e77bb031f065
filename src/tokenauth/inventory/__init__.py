"""Identities: certificates on tokens, each with its private key and its chain; found without a login."""
