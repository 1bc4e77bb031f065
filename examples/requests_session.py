"""Ask a service with requests."""

import argparse

import tokenauth

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url")
parser.add_argument("--uri", default="pkcs11:")
parser.add_argument("--cafile")
options = parser.parse_args()

session = tokenauth.Session(options.uri, pin=tokenauth.prompt, verify=options.cafile or True)
answer = session.get(options.url)
answer.raise_for_status()
print(answer.text)
