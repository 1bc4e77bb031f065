"""Everything a test needs to use a token key for real: a certificate authority, a TLS server and software tokens."""
