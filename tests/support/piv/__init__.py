"""A virtual PIV card (NIST SP 800-73-4) in a real pcscd.

pcscd's driver ``vpcd`` (package vsmartcard-vpcd) takes its card from a TCP connection, so everything above the card is
real: pcscd, libpcsclite, and whatever PKCS#11 module or tool talks to them.

    def test_one_signature(piv):                      # a pcscd with a card, see `fixtures`
        piv.run("tokenauth", "get", ...)              # a program in the environment of that pcscd
        assert piv.card.counters.signatures == {"9A": 1}
        piv.card.remove()                             # it is back, and as it was, for the next test

From below to above: ``tlv`` and ``apdu`` are the language; ``keys``, ``objects``, ``references`` and ``admin`` the
parts of ``card``, as ``profile`` wants it; ``vpcd`` is the reader; ``host`` the process of cards and pcscd, apart from
the tests; ``handle`` and ``stack`` are the tests' side of it.

OpenSC's module starts threads, and keeps its connection to pcscd: let programs load it (``stack.run``,
``stack.python``), not the tests' own process, unless that is what a test is about.
"""
