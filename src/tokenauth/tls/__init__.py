"""TLS with a key that stays in a token: the OpenSSL binding, the provider, the choice of identity, the contexts."""
