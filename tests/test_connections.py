"""Connections out of the environment and of a TOML file; what is wrong stops the start and names the setting."""

import asyncio
import re
import sys
from pathlib import Path
from subprocess import run

import aiohttp
import pytest

from service import send
from service.connections import load
from service.environment import SettingsError
from service.settings import from_environment
from tests.http_service import Process

SECRET = "whsec_of_stripe"


def test_a_secret_switches_on_a_connection_named_as_its_adapter() -> None:
    [stripe] = load(
        {"STRIPE_WEBHOOK_SECRETS": f"{SECRET}, whsec_second", "STRIPE_MODE": "test", "STRIPE_API_KEY": "sk"}
    )
    assert (stripe.connection, stripe.mode, stripe.webhook_secrets) == ("stripe", "test", (SECRET, "whsec_second"))
    assert SECRET not in repr(stripe)
    assert load({"STRIPE_API_KEY": "of something else", "STRIPE_MODE": "test"}) == ()


def test_several_connections_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    (tmp_path / "connections.toml").write_text(f"""
        [stripe-eu]
        adapter = "stripe"
        webhook_secrets_file = "{tmp_path}/secret"
        invoice = ["/data/object/metadata/order"]
        invoice_is = "reference"

        [stripe-test]
        adapter = "stripe"
        webhook_secrets = ["whsec_of_test"]
        mode = "test"
    """)
    found = load({"CONNECTIONS_FILE": str(tmp_path / "connections.toml"), "STRIPE_WEBHOOK_SECRETS": SECRET})
    assert [(one.connection, one.mode, one.invoice_is) for one in found] == [
        ("stripe", "live", "id"),
        ("stripe-eu", "live", "reference"),
        ("stripe-test", "test", "id"),
    ]
    assert found[1].webhook_secrets == (SECRET,)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"STRIPE_WEBHOOK_SECRETS": ""}, "STRIPE_WEBHOOK_SECRETS: a secret has at least 8 characters"),
        ({"STRIPE_WEBHOOK_SECRETS": f"{SECRET},"}, "STRIPE_WEBHOOK_SECRETS: a secret has at least 8 characters"),
        ({"STRIPE_WEBHOOK_SECRETS": SECRET, "STRIPE_MODE": "prod"}, "STRIPE_MODE: Input should be 'live' or 'test'"),
        ({"STRIPE_WEBHOOK_SECRETS": SECRET, "STRIPE_INVOICE": "id"}, "STRIPE_INVOICE: expected JSON pointers"),
        (
            {"STRIPE_WEBHOOK_SECRETS_FILE": "/nowhere"},
            "STRIPE_WEBHOOK_SECRETS_FILE names /nowhere, which cannot be read",
        ),
        ({"CONNECTIONS_FILE": "/nowhere"}, "CONNECTIONS_FILE names /nowhere, which cannot be read"),
    ],
)
def test_a_bad_variable_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)) as error:
        load(environment)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("x = 1", "[x] adapter: expected one of"),
        ("[x]\nadapter = 'nobody'", "[x] adapter: expected one of"),
        ("[payments]\nadapter = 'stripe'", "[payments] is a name of our own endpoints"),
        ("[x]\nadapter = 'stripe'", "[x] webhook_secrets: Field required"),
        ("[x]\nadapter = 'stripe'\nwebhook_secrets = []", "[x] webhook_secrets: "),
        ("[x]\nadapter = 'stripe'\nwebhook_secret = ['a']", "[x] webhook_secret: Extra inputs are not permitted"),
        ("[X]\nadapter = 'stripe'\nwebhook_secrets = ['whsec_of_x']", "[X] connection: "),
        ("[x", "which cannot be read"),
        ("[stripe]\nadapter = 'stripe'\nwebhook_secrets = ['whsec_of_x']", "[stripe] is configured by variables too"),
    ],
)
def test_a_bad_table_is_named(tmp_path: Path, toml: str, message: str) -> None:
    file = tmp_path / "connections.toml"
    file.write_text(toml)
    with pytest.raises(SettingsError, match=re.escape(message)):
        load({"CONNECTIONS_FILE": str(file), "STRIPE_WEBHOOK_SECRETS": SECRET})


def test_importing_the_service_imports_no_adapter_that_is_not_configured() -> None:
    code = "import service.server, service.listener, sys; print(*sys.modules)"
    modules = run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "service.server" in modules
    assert not {"service.adapters.stripe", "cryptography"} & set(modules)


async def test_send_tries_a_running_server(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    server = Process("service.server", database_url, STRIPE_WEBHOOK_SECRETS=SECRET)
    async with aiohttp.ClientSession() as session:
        client = await server.up(session)
    settings = from_environment({"STRIPE_WEBHOOK_SECRETS": SECRET, "PORT": str(client.port)})
    assert await asyncio.to_thread(send.run, settings, ["stripe", "--invoice", "INV-1"]) == 0
    assert capsys.readouterr().out == '200 {"outcomes": ["parked"]}\n'
    assert await asyncio.to_thread(send.run, settings, ["stripe", "--invoice", "INV-1", "--amount", "7"]) == 1
    assert capsys.readouterr().out == '200 {"outcomes": ["conflict"]}\n'
    wrong = from_environment({"STRIPE_WEBHOOK_SECRETS": "whsec_another", "PORT": str(client.port)})
    assert await asyncio.to_thread(send.run, wrong, ["stripe"]) == 1
    with pytest.raises(SettingsError, match="adyen is not configured here"):
        send.run(settings, ["adyen"])
    with pytest.raises(SystemExit):
        send.run(settings, ["payments", "--invoice", "INV-1"])
    assert "an integer, not INV-1" in capsys.readouterr().err
    status, said = await server.end()
    assert status == 0
    assert SECRET not in said
    with pytest.raises(SystemExit, match="No answer from"):
        send.run(settings, ["stripe"])


def test_one_secret_is_named_as_several_are() -> None:
    with pytest.raises(SettingsError, match="Call it STRIPE_WEBHOOK_SECRETS"):
        from_environment({"STRIPE_WEBHOOK_SECRET": SECRET})
