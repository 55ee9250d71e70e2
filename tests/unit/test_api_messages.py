"""An error on the wire."""

from __future__ import annotations

import json

import pytest

from tokenbroker.api.messages import error_response
from tokenbroker.errors import BrokerError, IssuerMisconfigured, IssuerUnavailable


@pytest.mark.parametrize("kind", [IssuerUnavailable, IssuerMisconfigured])
@pytest.mark.parametrize(
    ("wait", "told", "header"),
    [
        pytest.param(12.3456789, 12.3, "13", id="tenths in the body, whole seconds in the header"),
        pytest.param(60.0, 60.0, "60", id="a whole number"),
        pytest.param(0.0, 0.0, "0", id="at once"),
    ],
)
def test_how_long_to_wait_is_told_in_both_places(
    kind: type[BrokerError], wait: float, told: float, header: str
) -> None:
    """Also where the broker alone will try again, and nothing changes until a person does something."""
    response = error_response(kind("x", retry_after=wait), "id")
    assert json.loads(response.body)["retry_after"] == told
    assert response.headers == (("Retry-After", header),)


def test_nothing_is_told_where_nothing_is_known() -> None:
    response = error_response(IssuerMisconfigured("x"), "id")
    assert "retry_after" not in json.loads(response.body)
    assert response.headers == ()
