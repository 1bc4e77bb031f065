"""Ask a service with nothing but the standard library."""

import argparse
import urllib.request

import tokenauth

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url")
parser.add_argument("--uri", default="pkcs11:")
parser.add_argument("--cafile")
options = parser.parse_args()

context = tokenauth.create_context(options.uri, pin=tokenauth.prompt, cafile=options.cafile)
with urllib.request.urlopen(options.url, context=context) as answer:
    print(answer.read().decode())
