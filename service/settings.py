"""What the environment says, read once at start, checked, and frozen.

Each field is the environment variable of the same name in capitals. A secret may stand in a file instead, which
`<NAME>_FILE` names. Secrets and the database's URL never show in a repr, a log line or an error.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from service import connections
from service.adapters.adapter import Adapter
from service.adapters.signatures import decoded
from service.adapters.standard_webhooks import SECRET_BYTES
from service.database import each_host
from service.environment import SettingsError, explained, variable

MAKE_A_SECRET = """python3 -c "import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""""  # noqa: S105


def _webhook_secret(text: str) -> bytes:
    """The key of a `whsec_…` secret. Raises ValueError, which does not repeat the secret."""
    prefix, _, encoded = text.strip().partition("_")
    key = decoded(encoded) if prefix == "whsec" else b""
    if not SECRET_BYTES[0] <= len(key) <= SECRET_BYTES[1]:
        raise ValueError(
            "each secret is whsec_ and the base64 of 24 to 64 random bytes, several are separated by commas. "
            f"Make one: {MAKE_A_SECRET}"
        )
    return key


def _webhook_secrets(value: object) -> object:
    return tuple(map(_webhook_secret, value.split(","))) if isinstance(value, str) else value


class OperatorToken(NamedTuple):
    """Who may use the console, and whether to act there; of the token only its SHA-256 is kept."""

    name: str
    digest: bytes
    may_act: bool


_OPERATOR_TOKEN = re.compile(r"(?P<name>[\w.@-]{1,63}):(?P<token>[!-9;-~]{24,255})(?P<read>:read)?", re.ASCII)


def _operator_tokens(value: object) -> object:
    """The tokens of a text. Raises ValueError, which does not repeat them."""
    if not isinstance(value, str):
        return value
    found = [_OPERATOR_TOKEN.fullmatch(part.strip()) for part in value.split(",")]
    tokens = [
        OperatorToken(one["name"], hashlib.sha256(one["token"].encode()).digest(), not one["read"])
        for one in found
        if one is not None
    ]
    if len({one.name for one in tokens}) < len(found) or len({one.digest for one in tokens}) < len(found):
        raise ValueError(
            "expected name:token, or name:token:read for one that may only look, several separated by commas. A token "
            "is 24 to 255 characters without a colon; each name and each token once. "
            """Make one: python3 -c "import secrets; print(secrets.token_urlsafe(32))\""""
        )
    return tuple(tokens)


class Settings(BaseModel):
    """The settings of every process; each takes those it needs."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    database_url: str | None = Field(default=None, repr=False)
    operator_database_url: str | None = Field(default=None, repr=False)
    """The same database by a login of the operator role, for command line and console; by default DATABASE_URL."""
    data_dir: Path = Path(".data")
    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    admin_host: str = "127.0.0.1"
    admin_port: int = Field(default=8081, ge=0, le=65535)
    operator_tokens: Annotated[tuple[OperatorToken, ...], BeforeValidator(_operator_tokens)] = Field(
        default=(), repr=False
    )
    webhook_secrets: Annotated[tuple[bytes, ...], BeforeValidator(_webhook_secrets)] = Field(default=(), repr=False)
    allow_unsigned: bool = False
    request_deadline: float = Field(default=4, gt=0, le=60)
    """Seconds after which a request that is not committed is answered 503."""
    poll_interval: float = Field(default=5, gt=0, le=3600)
    """Seconds between two looks at the queue when no NOTIFY comes."""
    batch_size: int = Field(default=500, ge=1, le=10_000)
    """Events that the listener claims at once."""
    max_attempts: int = Field(default=10, ge=1, le=100)
    park_days: int = Field(default=30, ge=1, le=3650)
    log_format: Literal["text", "json"] = "text"
    connections: tuple[Adapter, ...] = ()
    """The providers whose webhooks we take; see service.connections."""

    @field_validator("database_url", "operator_database_url")
    @classmethod
    def _check_database_url(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("postgres://", "postgresql://")):
            raise ValueError("expected a URL: postgresql://user@host:5432/payments")
        try:
            _ = [urlsplit(one).port for one in each_host(url or "")]
        except ValueError:
            raise ValueError(
                "it is no URL, or its port is none; in a password write / # ? @ : [ ] as %2F %23 %3F %40 %3A %5B %5D"
            ) from None
        return url

    @property
    def required_database_url(self) -> str:
        """The database's URL. Raises SettingsError where there is none."""
        if self.database_url is None:
            raise SettingsError(
                "DATABASE_URL is not set. Set it to postgresql://user@host:5432/payments, "
                "or run python -m service, which brings a PostgreSQL of its own."
            )
        return self.database_url

    @property
    def required_operator_database_url(self) -> str:
        """The database's URL with the operator's login. Raises SettingsError where there is none."""
        return self.operator_database_url or self.required_database_url


def from_environment(environment: Mapping[str, str], **defaults: Any) -> Settings:
    """The settings of `environment`; `defaults` hold where it is silent.

    Raises SettingsError naming every bad variable.
    """
    values = {field: variable(environment, field.upper()) for field in Settings.model_fields}
    given = {field: value for field, value in values.items() if value is not None}
    try:
        return Settings(**(defaults | given | {"connections": connections.load(environment)}))
    except ValidationError as error:
        raise explained(error) from None
