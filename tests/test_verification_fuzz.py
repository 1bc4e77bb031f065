"""Whatever is given: a report that is not VALID, or a clean error; in time."""

from __future__ import annotations

import functools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.signed_files import FORMATS, made, pki, verified
from tests.test_verification_tampering import SAME
from tokenauth.errors import TokenAuthError
from tokenauth.signing.refusals import DocumentError
from tokenauth.signing.verification import load_trust, verify

LIMITED = settings(deadline=5000, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADS = (
    b"%PDF-1.7\n",
    b"PK\x03\x04",
    b"<?xml version='1.0'?>",
    b"<a>",
    b"eyJhbGci",
    b"0\x82\x01\x00\x06\x09*\x86H\x86\xf7",
)


@functools.cache
def good(name: str) -> bytes:
    return made(name, pki().keys["p256"])


@LIMITED
@given(st.sampled_from(HEADS), st.binary(max_size=400))
def test_garbage_behind_a_good_beginning(head, rest):
    try:
        report = verify(head + rest, trust=pki().trust)
    except TokenAuthError:
        return
    assert report.status != "valid"


def splices(length: int):
    """Pieces to replace: where, how much, with what."""
    place = st.integers(0, length)
    return st.lists(st.tuples(place, st.integers(0, 40), st.binary(max_size=40)), min_size=1, max_size=4)


@pytest.mark.parametrize("name", FORMATS)
@LIMITED
@given(data=st.data())
def test_a_signed_file_with_pieces_replaced(name, data):
    before = good(name)
    changed = before
    for place, length, piece in data.draw(splices(len(before))):
        changed = changed[:place] + piece + changed[place + length :]
    try:
        report = verified(name, changed)
    except TokenAuthError:
        return
    if report.status == "valid" and changed != before:
        same = SAME.get(FORMATS[name].module)
        told = any("white space behind" in words for words in report.signatures[0].covers)
        assert told or changed.rstrip(b"\r\n") == before or (same is not None and same(before, changed))


@pytest.mark.parametrize("name", FORMATS)
@LIMITED
@given(data=st.data())
def test_pieces_of_a_signed_file_in_another_order(name, data):
    before = good(name)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(before)), min_size=1, max_size=5)))
    pieces = [before[start:end] for start, end in zip([0, *cuts], [*cuts, len(before)], strict=True)]
    changed = b"".join(data.draw(st.permutations(pieces)))
    try:
        report = verified(name, changed)
    except TokenAuthError:
        return
    assert report.status != "valid" or changed == before


@LIMITED
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"-----BEGIN CERTIFICATE-----\n", b"<", b"-----BEGIN X509 CRL-----\n"]),
)
def test_trust_that_is_garbage(tmp_path, content, head):
    file = tmp_path / "trust"
    file.write_bytes(head + content)
    try:
        trust = load_trust([file])
    except DocumentError:
        return
    assert not trust.anchors
