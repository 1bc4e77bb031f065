"""Serve one HTTPS request with a key in a token; it demands no certificate of the client."""

import argparse
import http.server

import tokenauth

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("uri", help="the server's identity, such as pkcs11:token=dev;object=server")
parser.add_argument("--port", type=int, default=0)
options = parser.parse_args()

context = tokenauth.create_context(options.uri, pin=tokenauth.prompt, server_side=True)
with http.server.HTTPServer(("127.0.0.1", options.port), http.server.SimpleHTTPRequestHandler) as server:
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(f"https://localhost:{server.server_port}/", flush=True)
    server.handle_request()
