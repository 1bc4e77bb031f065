"""What a token costs a TLS client: CPU time and rate of handshakes, beside a key file and another package.

    python benchmarks/handshake.py [--seconds S] [--threads N]

All contenders run in turn, in the same process and against the same nginx, so that the machine's drift hits them
alike. Overhead is what a handshake with a token costs above the same handshake with a key file, once the signature
itself is taken out of both: the file key's software signature (by the same libcrypto), and the token's bare
C_SignInit and C_Sign. What is left is the price of getting from OpenSSL to the token and back.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import socket
import ssl
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

import tokenauth
from tests.support.nginx import Nginx, NginxOptions
from tokenauth.pkcs11.mechanisms import Payload, SignatureScheme, ways
from tokenauth.testing import Authority, SoftToken
from tokenauth.tls.openssl.library import openssl

KEYS: dict[str, tuple[Callable[[], Any], str]] = {
    "rsa2048": (lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), "pss"),
    "p256": (lambda: ec.generate_private_key(ec.SECP256R1()), "ecdsa"),
}
TO_BE_SIGNED = bytes(130)  # what TLS 1.3 signs: 64 blanks, a name, a hash


def file_pair(authority: Authority, key_type: str, directory: Path) -> tuple[Path, bytes]:
    """A PEM file with certificate and key, and the key's DER."""
    key = KEYS[key_type][0]()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "file")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    path = directory / f"{key_type}.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(authority.issue(request).public_bytes(Encoding.PEM) + pem)
    return path, key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def cpu_per_call(function, seconds: float) -> float:
    """Microseconds of this process's CPU time per call."""
    calls, start = 0, time.process_time()
    while time.process_time() - start < seconds:
        function()
        calls += 1
    return (time.process_time() - start) / calls * 1e6


def software_signature(key_der: bytes, *, pss: bool):
    """A function that signs with a key in memory, by the libcrypto that the ssl module uses."""
    lib = openssl()._libraries[0]
    for name in ("d2i_AutoPrivateKey", "EVP_MD_CTX_new", "EVP_sha256"):
        getattr(lib, name).restype = ctypes.c_void_p
    position = ctypes.c_void_p(ctypes.cast(ctypes.c_char_p(key_der), ctypes.c_void_p).value)
    key = ctypes.c_void_p(lib.d2i_AutoPrivateKey(None, ctypes.byref(position), ctypes.c_long(len(key_der))))
    digest = ctypes.c_void_p(lib.EVP_sha256())
    room = ctypes.create_string_buffer(512)

    def sign() -> None:
        context = ctypes.c_void_p(lib.EVP_MD_CTX_new())
        pkey_context, length = ctypes.c_void_p(), ctypes.c_size_t(512)
        assert lib.EVP_DigestSignInit(context, ctypes.byref(pkey_context), digest, None, key) == 1
        if pss:
            assert lib.EVP_PKEY_CTX_set_rsa_padding(pkey_context, 6) == 1
        assert lib.EVP_DigestSign(context, room, ctypes.byref(length), TO_BE_SIGNED, ctypes.c_size_t(130)) == 1
        lib.EVP_MD_CTX_free(context)

    return sign


def token_signature(identity: tokenauth.Identity, padding: str):
    """A function that makes the token's bare signature: C_SignInit and C_Sign."""
    key = identity.private_key._key
    found = key.prepare()
    scheme, payload = SignatureScheme(padding, "sha256"), Payload(TO_BE_SIGNED)
    way = ways(scheme, key.shape, key.token.mechanisms(), payload)[0]
    prepared = way.prepare(scheme, key.shape, payload)
    cryptoki = key.token.cryptoki
    with key.token.session("measuring") as handle:
        pass

    def sign() -> None:
        cryptoki.sign_init(handle, way.mechanism, found.handle)
        cryptoki.sign(handle, prepared)

    return sign


def handshaker(context: ssl.SSLContext, port: int):
    def handshake() -> None:
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname="localhost"),
        ):
            pass

    return handshake


def rate(handshake, threads: int, seconds: float) -> float:
    """Handshakes per second of so many threads."""
    counts, stop = [0] * threads, time.monotonic() + seconds

    def work(index: int) -> None:
        while time.monotonic() < stop:
            handshake()
            counts[index] += 1

    workers = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    start = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(counts) / (time.monotonic() - start)


def contexts(token: SoftToken, identity: tokenauth.Identity, pair: Path, cafile: str) -> dict[str, ssl.SSLContext]:
    made = {
        "file key": ssl.create_default_context(cafile=cafile),
        "tokenauth": tokenauth.create_context(identity.uri, pin=token.pin, cafile=cafile, reuse_sessions=False),
    }
    made["file key"].load_cert_chain(pair)
    try:
        import sslcontext
    except ImportError:
        print("(sslcontext is not installed: pip install 'tokenauth[bench]' to measure it too)")
        return made
    from sslcontext.backends import PKCS11Backend

    made["sslcontext"] = ssl.create_default_context(cafile=cafile)
    backend = PKCS11Backend(token.module, pin=lambda _request: token.pin)
    sslcontext.load_identity(made["sslcontext"], backend.find_identity(label=identity.label))
    return made


def measure(token: SoftToken, key_type: str, options: argparse.Namespace) -> None:
    identity = token.add_identity(f"bench-{key_type}", key_type=key_type)
    with tempfile.TemporaryDirectory() as directory:
        pair, key_der = file_pair(token.ca, key_type, Path(directory))
        with Nginx(token.ca, Path(directory), NginxOptions(tls="TLSv1.3")) as server:
            made = contexts(token, identity, pair, server.cafile)
            run = {name: handshaker(context, server.port) for name, context in made.items()}
            software = software_signature(key_der, pss=KEYS[key_type][1] == "pss")
            hardware = token_signature(identity, KEYS[key_type][1])
            rows: dict[str, list[float]] = {name: [] for name in (*run, "software", "C_Sign")}
            rates: dict[str, list[float]] = {name: [] for name in run}
            for _ in range(options.rounds):
                for name, handshake in run.items():
                    handshake()
                    rows[name].append(cpu_per_call(handshake, options.seconds))
                rows["software"].append(cpu_per_call(software, options.seconds / 3))
                rows["C_Sign"].append(cpu_per_call(hardware, options.seconds / 3))
                for name, handshake in run.items():
                    rates[name].append(rate(handshake, options.threads, options.seconds * 2))
    report(key_type, rows, rates, options.threads)


def report(key_type: str, rows: dict[str, list[float]], rates: dict[str, list[float]], threads: int) -> None:
    """Medians over the rounds; differences and ratios are taken within each round first."""
    print(
        f"\n{key_type}: software signature {statistics.median(rows['software']):.0f} us CPU, "
        f"token's C_SignInit + C_Sign {statistics.median(rows['C_Sign']):.0f} us CPU"
    )
    print(f"  {'':12} {'CPU/handshake':>14} {'overhead':>10} {f'{threads} threads':>12} {'of file key':>12}")
    for name in rates:
        rounds = zip(rows[name], rows["file key"], rows["software"], rows["C_Sign"], strict=True)
        overhead = statistics.median(cpu - (file - soft + token) for cpu, file, soft, token in rounds)
        ratio = statistics.median(a / b for a, b in zip(rates[name], rates["file key"], strict=True))
        print(
            f"  {name:12} {statistics.median(rows[name]):11.0f} us "
            + (f"{overhead:7.0f} us" if name != "file key" else f"{'-':>10}")
            + f" {statistics.median(rates[name]):10.0f}/s {ratio:12.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--keys", nargs="*", default=list(KEYS))
    options = parser.parse_args()
    print(
        f"Python {sys.version.split()[0]}, {ssl.OPENSSL_VERSION}, {os.cpu_count()} CPUs, TLS 1.3, nginx, no resumption"
    )
    with SoftToken(key_type=None) as token:
        for key_type in options.keys:
            measure(token, key_type, options)


if __name__ == "__main__":
    main()
