"""PKCS#11 URIs: the cases of data/uri_cases.toml, the builder, and what may be seen of a PIN."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import time
import tomllib
import traceback
from pathlib import Path
from typing import Any

import pytest

from tokenauth import errors
from tokenauth.errors import InvalidURI
from tokenauth.uri import LibraryInfo, ObjectInfo, SlotInfo, TokenInfo, TokenURI

CASES: dict[str, list[dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("data").joinpath("uri_cases.toml").read_text(encoding="utf-8")
)
PACKAGE = Path(errors.__file__).parent
SECRET = "s3cret-Pin"


def of(kind: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", CASES[kind], ids=lambda case: str(case.get("uri", case.get("uris")))[:70])


def attributes(uri: TokenURI) -> dict[str, Any]:
    """The attributes that ``uri`` has, in the notation of the data file."""
    found = {name: getattr(uri, name) for name in TokenURI.__slots__}
    found["id"] = found["id"] and found["id"].hex() if found["id"] != b"" else ""
    found["library_version"] = found["library_version"] and [*found["library_version"]]
    for name in ("vendor_path", "vendor_query"):
        found[name] = [[key, value.hex()] for key, value in found[name]] or None
    return {name: value for name, value in found.items() if value is not None}


@of("valid")
def test_valid(case: dict[str, Any]) -> None:
    uri = TokenURI.parse(case["uri"])
    assert attributes(uri) == case["is"]


@of("valid")
def test_canonical_form(case: dict[str, Any]) -> None:
    uri = TokenURI.parse(case["uri"])
    canonical = uri.to_string(reveal_pin=True)
    assert canonical == case.get("canonical", case["uri"])
    assert TokenURI.parse(canonical) == uri


@of("invalid")
def test_invalid(case: dict[str, Any]) -> None:
    with pytest.raises(InvalidURI) as caught:
        TokenURI.parse(case["uri"])
    for part in case["says"]:
        assert part in str(caught.value)


@of("match")
def test_match(case: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "library": LibraryInfo(**{"manufacturer": "", "description": "", **case["library"]})
        if "library" in case
        else None,
        "slot": SlotInfo(**{"description": "", "manufacturer": "", **case["slot"]}) if "slot" in case else None,
        "token": TokenInfo(**{"label": "", "manufacturer": "", "model": "", "serial": "", **case["token"]})
        if "token" in case
        else None,
        "obj": ObjectInfo(**{"label": None, "id": None, **case["obj"]}) if "obj" in case else None,
    }
    if given["library"]:
        given["library"] = given["library"]._replace(version=tuple(given["library"].version))
    if given["obj"] and given["obj"].id is not None:
        given["obj"] = given["obj"]._replace(id=bytes.fromhex(given["obj"].id))
    uri = TokenURI.parse(case["uri"])
    assert uri.matches(**given) is case["matches"]
    methods = {
        "library": uri.matches_library,
        "slot": uri.matches_slot,
        "token": uri.matches_token,
        "obj": uri.matches_object,
    }
    each = [methods[group](info) for group, info in given.items() if info is not None]  # type: ignore[operator]
    assert all(each) is case["matches"]


def test_unrecognised_path_attribute_matches_nothing_at_all() -> None:
    assert TokenURI.parse("pkcs11:").matches()
    assert not TokenURI.parse("pkcs11:vendor=x").matches()


@of("equal")
def test_equality(case: dict[str, Any]) -> None:
    one, other = map(TokenURI.parse, case["uris"])
    assert (one == other) is case["equal"]
    assert (len({one, other}) == 1) is case["equal"]


def test_a_uri_is_not_its_text() -> None:
    assert TokenURI.parse("pkcs11:") != "pkcs11:"


# ---------------------------------------------------------------- what a person gives


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("dev", TokenURI(token="dev")),
        ("My Token", TokenURI(token="My Token")),
        ("100%", TokenURI(token="100%")),
        ("pkcs11", TokenURI(token="pkcs11")),
        ("Müller", TokenURI(token="Müller")),
        ("pkcs11:", TokenURI()),
        (" PKCS11:token=dev\n", TokenURI(token="dev")),
        ("pkcs11:token=dev;object=client", TokenURI(token="dev", object="client")),
    ],
)
def test_from_user(text: str, uri: TokenURI) -> None:
    assert TokenURI.from_user(text) == uri


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        (" \t\n", "empty"),
        ("pkcs11:dev", "name=value"),
        ("x" * 33, "32 bytes"),
        ("a\0b", "NUL"),
        ("\udcff", "UTF-8"),
        ("pkcs1:?pin-value=1", "not a PKCS#11 URI"),
    ],
)
def test_from_user_refuses(text: str, part: str) -> None:
    with pytest.raises(InvalidURI, match=part) as caught:
        TokenURI.from_user(text)
    assert "pin-value" not in str(caught.value)


# ---------------------------------------------------------------- builder


def test_built_uri_is_written_in_order_and_escaped() -> None:
    uri = TokenURI(type="cert", object="a;b", id=b"\x01k", token="dév", library_version=(2, 6), module_path="/x y.so")
    assert (
        str(uri) == "pkcs11:library-version=2.6;token=d%C3%A9v;id=%01%6B;object=a%3Bb;type=cert?module-path=/x%20y.so"
    )
    assert TokenURI.parse(str(uri)) == uri


def test_builder_drops_padding() -> None:
    uri = TokenURI(token="dev".ljust(32), model="SLB9672".ljust(16, "\0"), object="key\0", serial=" " * 16)
    assert str(uri) == "pkcs11:token=dev;model=SLB9672;serial=;object=key"


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("token", "x" * 33),
        ("token", "é" * 17),
        ("slot_description", "x" * 65),
        ("serial", "x" * 17),
        ("object", "a\0b"),
        ("object", "\ud800"),
        ("type", "certificate"),
        ("library_version", (1, 256)),
        ("library_version", (-1, 0)),
        ("library_version", (1,)),
        ("library_version", ("1", "2")),
        ("slot_id", -1),
        ("slot_id", 2**64),
        ("module_path", "libx.so"),
        ("vendor_path", [("token", b"x")]),
        ("vendor_path", [("PIN-VALUE", b"x")]),
        ("vendor_path", [("a b", b"x")]),
        ("vendor_path", [("a", b"x"), ("a", b"y")]),
    ],
)
def test_builder_refuses_values(attribute: str, value: object) -> None:
    arguments: Any = {attribute: value}
    with pytest.raises(InvalidURI):
        TokenURI(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"id": "01"},
        {"token": b"dev"},
        {"slot_id": "1"},
        {"library_version": "1.2"},
        {"label": "x"},
        {"pin_value": 1234},
        {"vendor_query": [("a", "text")]},
    ],
)
def test_builder_refuses_types(arguments: Any) -> None:
    with pytest.raises(TypeError):
        TokenURI(**arguments)


def test_builder_and_replace_refuse_two_pins() -> None:
    with pytest.raises(InvalidURI, match="both"):
        TokenURI(pin_source="file:/x", pin_value="1")
    with pytest.raises(InvalidURI, match="both"):
        TokenURI(pin_source="file:/x").replace(pin_value="1")


def test_replace_and_without_pin() -> None:
    uri = TokenURI(token="dev", object="client", pin_value=SECRET, vendor_query=[("a", b"1")])
    changed = uri.replace(object=None, id=b"\x02")
    assert changed == TokenURI(token="dev", id=b"\x02", pin_value=SECRET, vendor_query=[("a", b"1")])
    assert uri.without_pin() == TokenURI(token="dev", object="client", vendor_query=[("a", b"1")])
    assert TokenURI(pin_source="file:/x").without_pin() == TokenURI()


def test_it_does_not_change() -> None:
    uri = TokenURI(token="dev")
    with pytest.raises(AttributeError):
        uri.token = "x"
    with pytest.raises(AttributeError):
        del uri.token
    with pytest.raises(AttributeError):
        uri.extra = 1
    assert uri == TokenURI(token="dev")


def test_copies_and_pickles() -> None:
    uri = TokenURI(token="dev", pin_value=SECRET)
    assert copy.copy(uri) == copy.deepcopy(uri) == uri
    plain = uri.without_pin().replace(vendor_path=[("a", b"\0")])
    assert pickle.loads(pickle.dumps(plain)) == plain
    with pytest.raises(TypeError, match="without_pin"):
        pickle.dumps(uri)


# ---------------------------------------------------------------- the PIN


def test_only_reveal_pin_shows_the_pin() -> None:
    uri = TokenURI(token="dev", pin_value=SECRET)
    assert str(uri) == f"{uri}" == uri.to_string() == "pkcs11:token=dev"
    assert repr(uri) == "TokenURI(token='dev', pin_value=<hidden>)"
    assert uri.to_string(reveal_pin=True) == f"pkcs11:token=dev?pin-value={SECRET}"


def everything_shown(error: BaseException) -> str:
    """The traceback with the local variables of every frame of the package, and all the error holds."""
    shown = [repr(error.args), repr(vars(error)), repr(error.__cause__), repr(error.__context__)]
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    for frame in report.stack:
        if PACKAGE in Path(frame.filename).parents:
            shown += [frame.name, *(frame.locals or {}).values()]
    return "\n".join([*shown, str(error)])


@pytest.mark.parametrize(
    "text",
    [
        f"pkcs11:?pin-value={SECRET}%",
        f"pkcs11:?pin-value={SECRET}%FF",
        f"pkcs11:?pin-value={SECRET}%00",
        f"pkcs11:?pin-value={SECRET} {SECRET}",
        f"pkcs11:?pin-value={SECRET}é",
        f"pkcs11:?pin-value={SECRET}&{SECRET}",
        f"pkcs11:?pin-value={SECRET}&pin-value={SECRET}",
        f"pkcs11:?pin-value={SECRET}&pin-source={SECRET}",
        f"pkcs11:?pin-value={SECRET}&module-path=relative",
        f"pkcs11:pin-value={SECRET}",
        f"pkcs11:?PIN-VALUE={SECRET}#",
        f"pkcs11:token=%?pin-value={SECRET}",
        f"pkcs12:?pin-value={SECRET}",
        f"pkcs11:token=dev&pin-value={SECRET}",
        f"pkcs11:token=dev?pin-source=file:/x?pin-value={SECRET}",
        f"pkcs11:token=dev?module-name=x;pin-value={SECRET}",
        f"pkcs11:?pin-value={SECRET}&a=" + "x" * 65536,
    ],
)
def test_errors_hold_no_pin(text: str) -> None:
    for read in (TokenURI.parse, TokenURI.from_user):
        with pytest.raises(InvalidURI) as caught:
            read(text)
        assert SECRET not in everything_shown(caught.value)


@pytest.mark.parametrize("other", [{"token": "x" * 33}, {"id": "text"}, {"pin_source": "file:/x"}, {"nonsense": 1}])
def test_builder_errors_hold_no_pin(other: Any) -> None:
    for build in (TokenURI, TokenURI(token="dev").replace, TokenURI(pin_value=SECRET).replace):
        with pytest.raises((InvalidURI, TypeError)) as caught:
            build(pin_value=SECRET, **other)
        assert SECRET not in everything_shown(caught.value)


# ---------------------------------------------------------------- limits and cost


def test_a_long_text_is_refused() -> None:
    assert TokenURI.parse("pkcs11:object=" + "x" * (65536 - 14)).object
    with pytest.raises(InvalidURI, match="65536"):
        TokenURI.parse("pkcs11:object=" + "x" * (65536 - 13))


@pytest.mark.parametrize(
    "unit",
    [";", "&", "=", "%", "% ", " ", "%41", "%00", "?", "a=&", "a=;", "9", "\n", "é", "pkcs11:", "%2 0", "\udc80", ":"],
)
@pytest.mark.parametrize("start", ["", "pkcs11:", "pkcs11:object=", "pkcs11:id=", "pkcs11:?pin-value=", "pkcs11:?a="])
def test_time_is_bounded(start: str, unit: str) -> None:
    text = start + unit * ((65536 - len(start)) // len(unit))
    shown = ""
    began = time.process_time()
    try:
        TokenURI.parse(text)
    except InvalidURI as error:
        shown = str(error)
    assert len(shown) < 300
    assert time.process_time() - began < 1  # measured: at most 0.06 s


def test_import_is_cheap() -> None:
    code = (
        "import sys, tokenauth.errors; before = {*sys.modules}; import tokenauth.uri; print(*{*sys.modules} - before)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ["_records", "uri", "uri.attributes", "uri.matching", "uri.syntax", "uri.uri"]
    assert sorted(result.stdout.split()) == [f"tokenauth.{module}" for module in modules]
