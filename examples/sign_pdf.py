"""Sign a PDF with a key in a token, with a time stamp if there is an authority, and verify it."""

import argparse

import tokenauth
from tokenauth import signing

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("pdf")
parser.add_argument("--uri", default="pkcs11:", help="of the token or the identity")
parser.add_argument("--tsa", help="URL of a time-stamping authority")
parser.add_argument("--trust", required=True, help="the CA's certificate")
options = parser.parse_args()

signed = f"{options.pdf}.signed.pdf"
place = signing.Visible(page=1, x=50, y=60, width=200, height=60)
signing.sign(options.pdf, options.uri, pin=tokenauth.prompt, tsa=options.tsa, visible=place, output=signed)

trust = signing.load_trust([options.trust], asks=True)  # whether certificates were revoked is asked where they say
for signature in signing.verify(signed, trust=trust).signatures:
    print(f"{signed}: {signature.status}, {signature.signer}, {signature.level}, {', '.join(signature.covers)}")
