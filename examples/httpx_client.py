"""Ask a service with httpx."""

import argparse

import httpx

import tokenauth

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url")
parser.add_argument("--uri", default="pkcs11:")
parser.add_argument("--cafile")
options = parser.parse_args()

context = tokenauth.create_context(options.uri, pin=tokenauth.prompt, cafile=options.cafile)
with httpx.Client(verify=context) as client:
    print(client.get(options.url).raise_for_status().text)
