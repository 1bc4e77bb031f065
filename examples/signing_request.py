"""Write a certificate signing request for an identity's key: a renewal, for instance."""

import argparse

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

import tokenauth

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("uri")
options = parser.parse_args()

me = tokenauth.identity(options.uri, pin=tokenauth.prompt)
algorithm = None if isinstance(me.private_key, Ed25519PrivateKey) else hashes.SHA256()
request = x509.CertificateSigningRequestBuilder().subject_name(me.certificate.subject).sign(me.private_key, algorithm)
print(request.public_bytes(Encoding.PEM).decode(), end="")
