"""`python -m service send CONNECTION`: a correctly signed sample event to a running server, to try a setup.

The connection is configured as for the server, in the environment. The same sample sent twice is a duplicate; with
another amount or currency it is a conflict. Exit status: 0 if it was taken, 1 if it was refused or needs a person.
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence

from service import connections
from service.adapters import standard_webhooks
from service.adapters.adapter import CannotSignError
from service.adapters.payload import UnusableError
from service.environment import SettingsError
from service.settings import Settings

TIMEOUT = 10
"""Seconds."""
GOOD = {"applied", "queued", "duplicate", "parked"}
"""Outcomes that need nobody."""


def run(settings: Settings, arguments: Sequence[str]) -> int:
    """Send the sample and print the answer; the process's exit status. Raises SettingsError."""
    parser = argparse.ArgumentParser(prog="python -m service send", description=__doc__)
    parser.add_argument("connection", help="payments, or a provider's connection, such as stripe")
    parser.add_argument("--invoice", default="1", help="id or reference of the invoice (default 1)")
    parser.add_argument("--amount", type=int, default=5000, help="in the provider's minor units (default 5000)")
    parser.add_argument("--currency", default="USD", help="default USD")
    parser.add_argument("--queue", action="store_true", help="to /webhooks/…, not to /webhooks-sync/…")
    parser.add_argument("--url", default=f"http://{settings.host}:{settings.port}", help="of the server (%(default)s)")
    wanted = parser.parse_args(arguments)
    try:
        body, headers = sample(settings, wanted.connection, wanted.invoice, wanted.amount, wanted.currency)
    except ValueError:
        parser.error(f"--invoice: our own JSON names an invoice by its id, an integer, not {wanted.invoice}")
    path = f"{'webhooks' if wanted.queue else 'webhooks-sync'}/{wanted.connection}"
    request = urllib.request.Request(  # noqa: S310 - the user's own server
        f"{wanted.url}/{path}", body, {"Content-Type": "application/json"} | dict(headers)
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            said = answer.read().decode().strip()
            print(answer.status, said)
            return 0 if _is_good(said) else 1
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().strip())
        return 1
    except OSError as error:
        sys.exit(f"No answer from {wanted.url} ({error}). Start the server, or say where it is with --url.")


def _is_good(said: str) -> bool:
    """Whether all of a provider's endpoint's outcomes are; the other answers name none, and their status says it."""
    try:
        outcomes = json.loads(said).get("outcomes", ["applied"])
    except ValueError:  # [accepted]
        return True
    return bool(outcomes) and GOOD.issuperset(outcomes)


def sample(
    settings: Settings, connection: str, invoice: str, amount: int, currency: str
) -> tuple[bytes, Mapping[str, str]]:
    """The body of a sample event and the headers that make it authentic. Raises SettingsError."""
    now = time.time()
    if connection == "payments":
        name = f"sample_{invoice}"
        event = {"event_id": name, "invoice_id": int(invoice), "amount": amount, "currency": currency}
        body = json.dumps(event).encode()
        if not settings.webhook_secrets:
            return body, {}
        return body, standard_webhooks.SCHEME.headers(settings.webhook_secrets[0], body, now, name)
    adapter = connections.named(settings.connections, connection)
    try:
        body = adapter.sample(invoice, amount, currency)
        return body, adapter.sign(body, now)
    except CannotSignError:
        raise SettingsError(f"Only the sender can sign for {connection}; README's section on it says more.") from None
    except UnusableError as error:
        raise SettingsError(f"--amount or --currency: {error}.") from None
