"""Who is let in, by what is remembered of keys."""

import asyncio
import hashlib
from http import HTTPStatus

import pytest

from api import access
from storage.api_keys import ApiKey

REAL = b"bp_" + b"a" * 12 + b"_" + b"x" * 43


def test_keys_that_are_not_there_lift_no_limit(monkeypatch):
    """A key over its rate stays refused, however many made-up keys are sent meanwhile."""
    monkeypatch.setattr(access, "_MOST_REMEMBERED", 4)
    key = ApiKey("a" * 12, hashlib.sha256(REAL).digest(), "slow", None, 1, None)
    gate = access.Gate({key.key_id: key}.get, lambda: True)

    async def ask():
        await gate.admit(REAL)
        for number in range(8):
            with pytest.raises(access.RefusedError) as refused:
                await gate.admit(b"bp_%012x_" % number + b"x" * 43)
            assert HTTPStatus.UNAUTHORIZED == refused.value.status
        with pytest.raises(access.RefusedError) as refused:
            await gate.admit(REAL)
        assert HTTPStatus.TOO_MANY_REQUESTS == refused.value.status

    asyncio.run(ask())
