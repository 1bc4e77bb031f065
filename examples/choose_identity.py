"""Let the user choose when several identities suit the server."""

import argparse

import tokenauth

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("url")
parser.add_argument("--uri", default="pkcs11:")
parser.add_argument("--cafile")
options = parser.parse_args()


def choose(identities: list[tokenauth.Identity], request: tokenauth.CertificateRequest) -> tokenauth.Identity:
    """Ask on the terminal."""
    print(f"{request.host} accepts:")
    for number, identity in enumerate(identities, 1):
        print(f"  {number}. {identity.certificate.subject.rfc4514_string()} on {identity.token.label}")
    return identities[int(input("which? ")) - 1]


session = tokenauth.Session(options.uri, pin=tokenauth.prompt, verify=options.cafile or True, choose=choose)
print(session.get(options.url).text)
