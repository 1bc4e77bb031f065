"""PKCS#11 URIs under random texts and values."""

from __future__ import annotations

import string
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tokenauth.errors import InvalidURI
from tokenauth.uri import LibraryInfo, ObjectInfo, SlotInfo, TokenInfo, TokenURI

QUERY_FIELDS = ("pin_source", "pin_value", "module_name", "module_path", "vendor_query")
NAMES = [name.replace("_", "-") for name in TokenURI.__slots__]
# What no other part of a URI or of an error can contain by chance.
SECRETS = st.text("QZXJ", min_size=8, max_size=16)


def text_of(size: int) -> st.SearchStrategy[str]:
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
    return st.text(characters, max_size=size).filter(lambda value: len(value.encode()) <= size)


def vendor() -> st.SearchStrategy[list[tuple[str, bytes]]]:
    names = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=8)
    pairs = st.tuples(names.filter(lambda name: name.lower() not in NAMES), st.binary(max_size=6))
    return st.lists(pairs, max_size=4, unique_by=lambda pair: pair[0])


VALUES: dict[str, st.SearchStrategy[Any]] = {
    "library_manufacturer": text_of(32),
    "library_description": text_of(32),
    "library_version": st.tuples(st.integers(0, 255), st.integers(0, 255)),
    "slot_manufacturer": text_of(32),
    "slot_description": text_of(64),
    "slot_id": st.integers(0, 2**64 - 1),
    "token": text_of(32),
    "manufacturer": text_of(32),
    "model": text_of(16),
    "serial": text_of(16),
    "id": st.binary(max_size=40),
    "object": text_of(60),
    "type": st.sampled_from(["cert", "data", "private", "public", "secret-key"]),
    "pin_source": text_of(60),
    "pin_value": text_of(20),
    "module_name": text_of(20),
    "module_path": text_of(40).map(lambda path: "/" + path),
    "vendor_path": vendor(),
    "vendor_query": vendor(),
}
URIS = (
    st.fixed_dictionaries({}, optional=VALUES)
    .filter(lambda values: not {"pin_source", "pin_value"} <= values.keys())
    .map(lambda values: TokenURI(**values))
)
# Texts that come near to URIs, so that every branch of the reader is met.
ESCAPES = st.sampled_from(
    ["%41", "%00", "%ff", "%C3%A1", "%", "%4", "%zz", " ", "\n", "é", "\ud800", "#", "/", "?", "|"]
)
NEAR_VALUES = st.lists(ESCAPES | st.text(max_size=4) | st.sampled_from(["1.2", "cert", "/x", "7"]), max_size=4).map(
    "".join
)
NEAR_PAIRS = st.tuples(st.sampled_from([*NAMES, "x-a", "TOKEN", "Pin-Value", "", "a b"]), NEAR_VALUES).map("=".join)
NEAR_URIS = st.tuples(
    st.sampled_from(["pkcs11:", "PKCS11:", "pkc s11:", "pkcs11", ""]),
    st.lists(NEAR_PAIRS, max_size=3).map(";".join),
    st.sampled_from(["", "?", "??"]),
    st.lists(NEAR_PAIRS, max_size=3).map("&".join),
).map("".join)


@given(st.text() | NEAR_URIS | st.text(string.printable).map("pkcs11:".__add__))
@example("pkcs11:slot-id=" + "9" * 5000)
@example("pkcs11:library-version=" + "9" * 5000)
@example("pkcs11:slot-id=\u0661")
def test_any_text_is_a_uri_or_invalid(text: str) -> None:
    for read in (TokenURI.parse, TokenURI.from_user):
        try:
            uri = read(text)
        except InvalidURI:
            continue
        canonical = uri.to_string(reveal_pin=True)
        assert canonical.isascii()
        assert TokenURI.parse(canonical) == uri
        assert TokenURI.parse(canonical).to_string(reveal_pin=True) == canonical


@given(URIS)
def test_round_trip(uri: TokenURI) -> None:
    assert TokenURI.parse(uri.to_string(reveal_pin=True)) == uri
    shown = TokenURI.parse(str(uri))
    assert shown == uri.replace(pin_value=None)
    assert hash(shown) == hash(uri.replace(pin_value=None))
    assert shown.matches() is not bool(uri.vendor_path)


@given(URIS, VALUES["pin_value"], VALUES["pin_value"])
def test_what_is_shown_does_not_depend_on_the_pin(uri: TokenURI, pin: str, other: str) -> None:
    one, two = (uri.replace(pin_source=None, pin_value=value) for value in (pin, other))
    assert str(one) == str(two)
    assert repr(one) == repr(two)
    assert (one.to_string(reveal_pin=True) == two.to_string(reveal_pin=True)) is (one == two) is (pin == other)
    assert one.without_pin() == two.without_pin() == uri.without_pin()


@given(SECRETS, NEAR_VALUES, st.lists(NEAR_PAIRS, max_size=2), st.sampled_from("?;&"))
def test_pin_is_in_no_error(secret: str, junk: str, others: list[str], separator: str) -> None:
    # Nothing that separates attributes: what follows it is another attribute, and no longer part of the PIN.
    junk = junk.translate(str.maketrans("", "", "&;?=QZXJ"))
    text = "pkcs11:" + ";".join(others) + separator + "pin-value=" + junk + secret + junk
    try:
        uri = TokenURI.parse(text)
    except InvalidURI as error:
        shown = f"{error} {error!r} {error.args} {vars(error)}"
    else:
        shown = f"{uri} {uri!r}"
    assert secret not in shown


@given(URIS)
def test_a_uri_matches_what_it_was_made_of(uri: TokenURI) -> None:
    uri = uri.replace(vendor_path=())
    pad = "".ljust
    assert uri.matches(
        library=LibraryInfo(
            (uri.library_manufacturer or "").ljust(32),
            (uri.library_description or "").ljust(32, "\0"),
            uri.library_version or (0, 0),
        ),
        slot=SlotInfo(uri.slot_id or 0, uri.slot_description or pad(64), uri.slot_manufacturer or pad(32)),
        token=TokenInfo(
            (uri.token or "").ljust(32), uri.manufacturer or "", (uri.model or "").ljust(16, "\0"), uri.serial or ""
        ),
        obj=ObjectInfo(uri.object, uri.id, uri.type or "data"),
    )


@given(VALUES["id"], VALUES["id"], VALUES["object"], VALUES["object"])
def test_objects_match_exactly(one: bytes, other: bytes, label: str, other_label: str) -> None:
    assert TokenURI(id=one).matches_object(ObjectInfo("x", other, "cert")) is (one == other)
    if label.isascii() and other_label.isascii():
        assert TokenURI(object=label).matches_object(ObjectInfo(other_label, b"", "cert")) is (label == other_label)
