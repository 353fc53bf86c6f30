"""The key of a message: its header `flow_key`, or else its tenant, whose types are not trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from celery_postgres.errors import FlowError

MAX_KEY_LENGTH = 200
#: Stands for each key, in limits.
EACH = "*"
_NO_TENANT = (
    "a tenant_id that is a key, in a fair queue or of a unique task, is a text of at most "
    f"{MAX_KEY_LENGTH} characters, an integer or a UUID, not {{}}"
)


def flow_key(headers: Mapping[str, Any]) -> str:
    """The key of a message with these headers: `flow_key`, or else the tenant, or else an empty text.

    Raises:
        FlowError: it is no text that can be stored, or a longer one. The error does not quote it.
    """
    given = headers.get("flow_key")
    return tenant_of(headers) or "" if given is None else checked_key(given)


def readable_key(headers: Mapping[str, Any]) -> str:
    """The same of a message that is there already: an empty text if what would be its key is none."""
    try:
        return readable_tenant(headers) or "" if headers.get("flow_key") is None else flow_key(headers)
    except FlowError:
        return ""


def key_or_none(headers: Mapping[str, Any]) -> str | None:
    """The key; None if the tenant is to be the key and is none, which matters in a fair queue alone."""
    if headers.get("flow_key") is not None:
        return checked_own_key(headers["flow_key"])
    try:
        return tenant_of(headers) or ""
    except FlowError:
        return None


def tenant_of(headers: Mapping[str, Any]) -> str | None:
    """The tenant of a message with these headers, as a key: a UUID in its usual form, another text, a number as a text.

    Raises:
        FlowError: it is none of them, or longer than a key. The error does not quote it.
    """
    given = headers.get("tenant_id")
    if given is None or given == "":
        return None
    if isinstance(given, bool) or not isinstance(given, UUID | str | int):
        raise FlowError(_NO_TENANT.format(type(given).__name__))
    # Python refuses to write a number of more than 4,300 digits; this one has more digits than a key.
    if isinstance(given, int) and given.bit_length() > 4 * MAX_KEY_LENGTH:
        raise FlowError(_NO_TENANT.format("a longer one"))
    text = uuid_or_none(given) or str(given)
    if text_or_none(text) is None:
        raise FlowError(_NO_TENANT.format("a text that cannot be stored"))
    if text == EACH:
        raise FlowError(_NO_TENANT.format("`*`, which stands for each key"))
    if len(text) > MAX_KEY_LENGTH:
        raise FlowError(_NO_TENANT.format("a longer one"))
    return text


def readable_tenant(headers: Mapping[str, Any]) -> str | None:
    """The tenant of a message that is there already; None if it is none. Kombu writes a UUID as an object."""
    given = headers.get("tenant_id")
    if isinstance(given, dict) and given.get("__type__") == "uuid":
        value = given.get("__value__")
        given = value.get("hex") if isinstance(value, dict) else None
    try:
        return tenant_of({"tenant_id": given})
    except FlowError:
        return None


def checked_key(key: object) -> str:
    """The same key.

    Raises:
        FlowError: it is no text that can be stored, or has more than 200 characters. The error does not quote it.
    """
    if not isinstance(key, str):
        raise FlowError(f"a flow_key is a text of at most {MAX_KEY_LENGTH} characters, not {type(key).__name__}")
    if (fault := unstorable(key)) is not None:
        raise FlowError(f"a flow_key has {fault}, which PostgreSQL cannot store")
    if len(key) > MAX_KEY_LENGTH:
        raise FlowError(f"a flow_key has at most {MAX_KEY_LENGTH} characters; this one has {len(key)}")
    return key


def checked_own_key(key: object) -> str:
    """The same key of a message.

    Raises:
        FlowError: as above; or it is `*`, which stands for each key.
    """
    if key == EACH:
        raise FlowError("`*` is no key of a message: it stands for each key in `limits set --key '*'`")
    return checked_key(key)


def text_or_none(value: Any) -> str | None:
    """The value, if a text column can store it, and it is not empty; else None."""
    return value if isinstance(value, str) and value and unstorable(value) is None else None


def unstorable(text: str) -> str | None:
    """What no text column can store of it, in words; None if one can."""
    if "\0" in text:
        return "a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    return None


def uuid_or_none(value: Any) -> str | None:
    try:
        return str(UUID(str(value))) if value else None
    except ValueError:
        return None
