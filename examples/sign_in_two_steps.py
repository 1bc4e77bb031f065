"""Sign in two steps, as a web application does: a server prepares, a card elsewhere signs, the server completes."""

import argparse

import tokenauth
from tokenauth import signing

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("file")
parser.add_argument("--uri", default="pkcs11:", help="of the token or the identity")
options = parser.parse_args()

# The browser sends the certificate and its issuers; here they are read from the card.
signer = signing.find_signer(options.uri, pin=tokenauth.prompt)

# The server. It keeps `prepared.state` to itself until the signature comes.
prepared = signing.prepare(options.file, signer.certificate, chain=signer.chain)

# The browser: the card signs the message. Many cards want `prepared.digest` instead.
signature = signing.signing_key(signer).sign(prepared.to_sign)

# The server again.
print(signing.complete(prepared, signature, output=f"{options.file}.signed"))
