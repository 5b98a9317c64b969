"""The providers' connections: out of `<ADAPTER>_…` variables, and of the TOML file that CONNECTIONS_FILE names.

STRIPE_WEBHOOK_SECRETS switches on a connection that is named stripe as its adapter. Several of one adapter are tables:

    [stripe-eu]
    adapter = "stripe"
    webhook_secrets = ["whsec_…"]    # or webhook_secrets_file = "/run/secrets/stripe-eu"
    mode = "test"
    invoice = ["/data/object/metadata/order"]
"""

import importlib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.adapters.adapter import Adapter
from service.environment import SettingsError, explained, secret_file, variable

ADAPTERS = {
    "adyen": "Adyen",
    "braintree": "Braintree",
    "checkout": "Checkout",
    "coinbase": "Coinbase",
    "generic": "Generic",
    "gocardless": "GoCardless",
    "lemonsqueezy": "LemonSqueezy",
    "mollie": "Mollie",
    "paddle": "Paddle",
    "paypal": "PayPal",
    "paystack": "Paystack",
    "razorpay": "Razorpay",
    "shopify": "Shopify",
    "square": "Square",
    "standard_webhooks": "StandardWebhooks",
    "stripe": "Stripe",
}
"""Each adapter's module under service.adapters, and its class there."""
RESERVED = ("direct", "operator", "payments")
"""Our own connection's name, and its endpoint's."""


def load(environment: Mapping[str, str]) -> tuple[Adapter, ...]:
    """The connections that are configured. Raises SettingsError naming every bad setting."""
    connections = [*_of_variables(environment), *_of_file(environment.get("CONNECTIONS_FILE"))]
    names = [connection.connection for connection in connections]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(f"CONNECTIONS_FILE: [{name}] is configured by variables too. Rename or remove one.")
    return tuple(connections)


def named(connections: Iterable[Adapter], name: str) -> Adapter:
    """The connection of this name. Raises SettingsError where it is not configured."""
    names = ["payments"]
    for connection in connections:
        if connection.connection == name:
            return connection
        names.append(connection.connection)
    known = ", ".join(names)
    raise SettingsError(f"{name} is not configured here. Set its secrets as for the server. Configured: {known}.")


def adapter(name: str) -> type[Adapter]:
    """The class of an adapter; its module, and what that needs, is imported now."""
    found: type[Adapter] = getattr(importlib.import_module(f"service.adapters.{name}"), ADAPTERS[name])
    return found


def _of_variables(environment: Mapping[str, str]) -> list[Adapter]:
    connections = []
    for name in ADAPTERS:
        prefix = f"{name.upper()}_"
        if not any(key.startswith(prefix) for key in environment):
            continue
        if f"{prefix}WEBHOOK_SECRET" in environment and f"{prefix}WEBHOOK_SECRETS" not in environment:
            raise SettingsError(f"{prefix}WEBHOOK_SECRET is not read. Call it {prefix}WEBHOOK_SECRETS.")
        model = adapter(name)
        values = {field: variable(environment, prefix + field.upper()) for field in model.model_fields}
        given = {field: value for field, value in values.items() if value is not None and field != "connection"}
        if "webhook_secrets" in given or any(model.model_fields[field].is_required() for field in given):
            try:
                connections.append(model.model_validate({"connection": name} | given))
            except ValidationError as error:
                raise explained(error, prefix) from None
    return connections


def _of_file(file: str | None) -> list[Adapter]:
    if file is None:
        return []
    try:
        tables = tomllib.loads(Path(file).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"CONNECTIONS_FILE names {file}, which cannot be read: {error}.") from error
    return [_of_table(name, table) for name, table in tables.items()]


def _of_table(name: str, table: Any) -> Adapter:
    place = f"CONNECTIONS_FILE: [{name}] "
    if name in RESERVED:
        raise SettingsError(f"{place}is a name of our own endpoints. Choose another.")
    if not isinstance(table, dict) or table.get("adapter") not in ADAPTERS:
        raise SettingsError(f"{place}adapter: expected one of {', '.join(sorted(ADAPTERS))}.")
    model = adapter(table["adapter"])
    values = {"connection": name}
    for key, value in table.items():
        field = key.removesuffix("_file")
        if key.endswith("_file") and field in model.model_fields:
            values[field] = secret_file(place + key, str(value))
        elif key != "adapter":
            values[key] = value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explained(error, place, upper=False) from None
