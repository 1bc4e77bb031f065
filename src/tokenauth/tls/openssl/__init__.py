"""The OpenSSL that Python uses, as far as TLS with a token's key needs it: the only part of TLS that knows ctypes."""
