"""Load by HTTP: wrk sends events with ids of their own and says how many were answered, and how soon."""

import asyncio
import base64
import json
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from service import connections
from tests.benchmarks.report import progress

SCRIPT = Path(__file__).with_suffix(".lua")
SYNC, QUEUE, STRIPE = "/webhooks-sync/payments", "/webhooks/payments", "/webhooks/stripe"
SECRET = "whsec_" + base64.b64encode(b"of the benchmark, of 32 bytes...").decode()
SIGNED_SIZE = 3000
"""Bytes of a signed event; one of Stripe's has about so many."""
MOST_SIGNED = 8000
"""Signed events that one run may want a second; they are made before its clock starts."""
ENVIRONMENT = {"ALLOW_UNSIGNED": "true", "STRIPE_WEBHOOK_SECRETS": SECRET}
"""Settings of a server that takes what wrk() sends; with WEBHOOK_SECRETS too, only what is signed."""


@dataclass(frozen=True)
class Answers:
    """Answers of one run: how many, how many a second, and the percentiles of their latency in ms."""

    number: int
    rate: float
    p50: float
    p99: float
    p999: float


async def wrk(
    port: int,
    path: str,
    connections: int,
    seconds: float,
    invoices: int,
    *,
    pause_ms: float = 0,
    mixed: bool = False,
    signed: bool = False,
) -> Answers:
    """Send from so many connections, each waiting for its answer and then `pause_ms` on average.

    With `mixed` the path is left to the script. Of `signed` events, as Stripe's always are, each has SIGNED_SIZE bytes;
    others have 70. Raises SystemExit where more than one request in a hundred broke off or was refused (of the mixed
    ones some are meant to be).
    """
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("wrk is not installed. Install it (Debian: apt-get install wrk).")
    with tempfile.NamedTemporaryFile() as events:
        what = "mixed" if mixed else "plain"
        if signed or path == STRIPE:
            what = events.name
            sign_events(
                Path(what), "stripe" if path == STRIPE else "standard_webhooks", round(MOST_SIGNED * seconds), invoices
            )
        command = [program, "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout=10s", "-s", str(SCRIPT)]
        command += [
            f"http://127.0.0.1:{port}{path}",
            "--",
            f"b{time.time_ns()}",
            str(invoices),
            f"{pause_ms:.0f}",
            what,
        ]
        run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    number, duration, p50, p99, p999, refused, broken = map(int, run.stdout.rpartition("measured ")[2].split())
    if failed := broken + (0 if mixed else refused):
        progress(f"{refused} events were refused, {broken} connections broke")
        if failed > number / 100:
            raise SystemExit(f"Too many failed to go on: {run.stdout}")
    return Answers(number, number / duration * 1e6, p50 / 1e3, p99 / 1e3, p999 / 1e3)


def sign_events(file: Path, sender: str, number: int, invoices: int) -> None:
    """Write so many events of an adapter, signed, as wrk.lua reads them."""
    adapter = connections.adapter(sender).model_validate({"connection": sender, "webhook_secrets": [SECRET]})
    event, invoice = b"EVENT" + b"0" * 20, b"987654321"
    sample = json.loads(adapter.sample(invoice.decode(), 1, "USD"))
    lines = sample.get("data", {}).get("object", sample)["lines"] = []
    while len(json.dumps(sample)) < SIGNED_SIZE:
        lines.append({"object": "line_item", "id": f"li_{secrets.token_hex(12)}", "currency": "usd", "discount": None})
    whole = re.sub(rb"(\w+_)?sample_" + invoice, event, json.dumps(sample).encode())
    now = time.time()
    with file.open("wb") as out:
        for _ in range(number):
            body = whole.replace(event, b"evt_" + secrets.token_hex(12).encode())
            body = body.replace(invoice, b"%d" % (secrets.randbelow(invoices) + 1))
            headers = [part.encode() for header in adapter.sign(body, now).items() for part in header]
            out.write(b"\t".join([*headers, body]) + b"\n")


async def pause_for(
    share: float, port: int, path: str, connections: int, invoices: int, *, mixed: bool = False
) -> float:
    """The pause in ms with which so many connections send about `share` of the most that is answered."""
    most = await wrk(port, path, connections, 3, invoices, mixed=mixed)
    turn = 1000 * connections / (share * most.rate)
    pause = turn - most.p50 / 2
    tried = await wrk(port, path, connections, 3, invoices, pause_ms=pause, mixed=mixed)
    return max(0, pause + turn - 1000 * connections / tried.rate)
