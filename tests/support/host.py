"""A process of its own that holds a SoftHSM token and a server, for tests of programs that look at all tokens.

SoftHSM's tokens belong to a process and those that it starts, so the tokens of other tests do not show there.
It writes what it holds as one line of JSON, and ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import sys

from tokenauth.testing import MTLSServer, SoftToken


def main() -> None:
    with SoftToken("dev") as token:
        token.add_identity("server", purposes=("tls-server",), names=("localhost",))
        with MTLSServer(token.ca) as server:
            held = {
                "url": server.url,
                "pin": token.pin,
                "module": token.module,
                "ca": token.ca.pem.decode(),
                "configuration": os.environ["SOFTHSM2_CONF"],
            }
            print(json.dumps(held), flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    main()
