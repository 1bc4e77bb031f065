"""A virtual PIV card (NIST SP 800-73-4) in a real pcscd.

pcscd's driver ``vpcd`` (package vsmartcard-vpcd) takes its card from a TCP connection, so everything above the card is
real: pcscd, libpcsclite, and whatever PKCS#11 module or tool talks to them. `tests.support.piv.stack` starts it all,
`tests.support.piv.fixtures` has the fixtures.
"""
