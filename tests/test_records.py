"""Records are named tuples, but for what it costs to define one."""

from __future__ import annotations

import pickle

import pytest

from tokenauth.pin import PinRequest
from tokenauth.uri import TokenInfo


def test_it_is_what_a_named_tuple_is():
    request = PinRequest("dev", tries="low")
    assert request == ("dev", "", "", "low", False, False)
    assert request.token == "dev"
    assert request._replace(token="other") == PinRequest("other", tries="low")
    assert request._asdict() == dict(zip(PinRequest._fields, request, strict=True))
    assert pickle.loads(pickle.dumps(request)) == request
    assert {request: 1}[PinRequest("dev", tries="low")] == 1
    token, *_ = request
    assert token == "dev"
    with pytest.raises(AttributeError):
        setattr(request, "token", "x")  # noqa: B010 - type checkers see that it is frozen


def test_repr_names_the_fields():
    assert repr(TokenInfo("a", "b", "c", "d")) == "TokenInfo(label='a', manufacturer='b', model='c', serial='d')"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((), {}),
        (("a",), {}),
        (("a", "b", "c", "d", "e"), {}),
        (("a", "b", "c"), {"label": "x"}),
        (("a", "b"), {"no": 1}),
    ],
)
def test_wrong_arguments_are_type_errors(values, named):
    with pytest.raises(TypeError, match="TokenInfo"):
        TokenInfo(*values, **named)
