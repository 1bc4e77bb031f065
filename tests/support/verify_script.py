"""A program that verifies one file and does nothing else: ``FILE TRUST``; prints status and level of its signature."""

import sys

from tokenauth.signing import load_trust, verify

report = verify(sys.argv[1], trust=load_trust([sys.argv[2]], online=True))
(one,) = report.signatures
print(report.status, one.level, one.reason)
