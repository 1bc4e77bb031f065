"""Write a JSON web token that is signed by a key in a token, with its certificate in the header (RFC 7515)."""

import argparse
import base64
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

import tokenauth

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("uri")
parser.add_argument("--audience", default="https://service.example/")
options = parser.parse_args()

me = tokenauth.identity(options.uri, pin=tokenauth.prompt)
key = me.private_key
if isinstance(key, rsa.RSAPrivateKey):
    algorithm = "PS256"
elif isinstance(key, ec.EllipticCurvePrivateKey):
    algorithm = {256: "ES256", 384: "ES384", 521: "ES512"}[key.key_size]
else:
    algorithm = "EdDSA"

certificates = [base64.b64encode(link.public_bytes(Encoding.DER)).decode() for link in (me.certificate, *me.chain)]
claims = {"sub": me.certificate.subject.rfc4514_string(), "aud": options.audience, "exp": int(time.time()) + 300}
print(jwt.encode(claims, key, algorithm=algorithm, headers={"x5c": certificates}))
