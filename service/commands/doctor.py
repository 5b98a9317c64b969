"""`doctor`: what may be wrong with an installation, and what to do about each finding."""

from argparse import Namespace
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias

from service.commands.look import problems
from service.commands.terminal import ExitStatus
from service.database import RejectedError, Session, UnavailableError
from service.operations import OperatorSession
from service.text import printable

CLOCKS = 5.0
"""Seconds that the clocks of machine and database may differ: some of a signature's 300 are for the way."""
ECHO = 2.0
"""Seconds in which our own NOTIFY has to come back."""
DEAD_ROWS = 100_000
"""Rows of the queue that vacuum has not removed; a claim reads past all of them."""

Level: TypeAlias = Literal["ok", "note", "BAD"]


class Finding(NamedTuple):
    """One thing looked at; `todo` says what to do where it is not as it should be."""

    level: Level
    what: str
    todo: str = ""


class Doctor:
    """The checks of one installation: `server` has the login of server and listener, `operator` the operator's."""

    def __init__(self, server: Session, operator: OperatorSession, options: Namespace):
        self.server = server
        self.operator = operator
        self.settings = options.settings
        self.embedded = self.settings.database_url is None

    def checks(self) -> list[Callable[[], Awaitable[list[Finding]]]]:
        """All of them, in the order in which they make sense."""
        return [
            self.endpoints, self.migrations, self.logins, self.schema, self.clock, self.pooler, self.notify,
            self.durability, self.queue, self.state, self.books,
        ]  # fmt: skip

    async def reach(self) -> list[Finding]:
        """Which of the two cannot log in."""
        found = []
        name = "OPERATOR_DATABASE_URL" if self.settings.operator_database_url else "DATABASE_URL"
        for setting, session in {"DATABASE_URL": self.server, name: self.operator}.items():
            try:
                await session.connection()
            except (UnavailableError, RejectedError) as error:
                todo = "Does the server run? Does the URL name its host, database, login and password?"
                found.append(Finding("BAD", f"{setting}: cannot log in ({error})", todo))
        return found

    async def endpoints(self) -> list[Finding]:
        """What the settings switch on."""
        found = [
            Finding("ok", f"connection {one.connection}: {type(one).__name__}, {one.mode}")
            for one in self.settings.connections
        ]
        if self.settings.webhook_secrets:
            return [*found, Finding("ok", f"plain endpoints: signed, {len(self.settings.webhook_secrets)} secrets")]
        todo = "Set WEBHOOK_SECRETS as for the server, unless they are to be off (or unsigned, on this machine only)."
        return [*found, Finding("note", "plain endpoints: no WEBHOOK_SECRETS in this environment", todo)]

    async def migrations(self) -> list[Finding]:
        """Whether the schema is new enough."""
        if (reason := await self.operator.unready()) is not None:
            return [Finding("BAD", f"migrations: {reason}", "Do what it says, then ask again.")]
        return [Finding("ok", "migrations: up to date")]

    async def logins(self) -> list[Finding]:
        """Who logs in, and what each may do more than it needs."""
        if self.settings.operator_database_url is None:
            return await self._login("DATABASE_URL", self.operator, {"operator"}, {"server", "listener"})
        return [
            *await self._login("DATABASE_URL", self.server, {"server", "listener"}),
            *await self._login("OPERATOR_DATABASE_URL", self.operator, {"operator"}),
        ]

    async def _login(
        self, setting: str, session: Session, wanted: set[str], also: AbstractSet[str] = frozenset()
    ) -> list[Finding]:
        """Findings about a login that needs one of the roles `wanted`, and may have the others too."""
        rows = await session.fetch(_LOGIN)
        if not rows:
            todo = "Does search_path in the URL name the schema? Is the login a member of one of its roles?"
            return [Finding("BAD", f"{setting}: the login sees no payment tables", todo)]
        [(login, prefix, superuser, owns, roles)] = rows
        who = f"{setting}: login {printable(login)}"
        if superuser or owns:
            power = "a superuser" if superuser else "a member of the owner"
            if self.embedded:
                return [Finding("note", f"{who} is {power}, as the embedded PostgreSQL has it: for one machine only")]
            todo = f"Use a login of its own: create role NAME login in role {prefix}{max(wanted)}"
            return [Finding("BAD", f"{who} is {power}: no limit holds for it", todo)]
        member = f"{who} is a member of {', '.join(roles) or 'none of our roles'}"
        if not wanted & set(roles):
            need = " or ".join(f"grant {prefix}{role} to {printable(login)}" for role in sorted(wanted))
            return [Finding("BAD", member, f"{need}; or name another login.")]
        if unneeded := sorted(set(roles) - wanted - also):
            todo = f"Give each program a login of its own: revoke {', '.join(prefix + one for one in unneeded)}"
            return [Finding("note", f"{member}: more than it needs", f"{todo} from {printable(login)}")]
        return [Finding("ok", member)]

    async def schema(self) -> list[Finding]:
        """Whether somebody could plant an operator that runs with the owner's rights."""
        return [
            Finding(
                "BAD",
                f"schema: {row['grantee']} may create objects in it",
                f"revoke create on schema {row['schema']} from {row['grantee']}",
            )
            for row in await self.operator.fetch(_STRANGERS)
        ] or [Finding("ok", "schema: nobody but the owner may create objects in it")]

    async def clock(self) -> list[Finding]:
        """Signatures are judged by this machine's clock, retries by the database's."""
        before = datetime.now(UTC)
        [(there,)] = await self.operator.fetch("select clock_timestamp()")
        off = (there - before - (datetime.now(UTC) - before) / 2).total_seconds()
        if abs(off) > CLOCKS:
            return [Finding("BAD", f"clocks: the database's is {off:+.1f} s off this machine's", "Run NTP on both.")]
        return [Finding("ok", f"clocks: {abs(off):.1f} s apart")]

    async def pooler(self) -> list[Finding]:
        """Whether a pooler in transaction mode stands between."""
        await self.server.connection()
        if self.server.pooled:
            todo = "Well for servers. Give listeners a direct connection: through the pooler they only poll."
            return [Finding("note", "DATABASE_URL goes through a pooler in transaction mode", todo)]
        return [Finding("ok", "DATABASE_URL goes to PostgreSQL directly")]

    async def notify(self) -> list[Finding]:
        """Whether LISTEN hears NOTIFY."""
        if self.operator.pooled:
            return [Finding("note", "NOTIFY: not tried, a pooler in transaction mode stands between")]
        seconds = await self.operator.notify_seconds(ECHO)
        if seconds is None:
            todo = "Events wait for the next poll. Is there a pooler, or a proxy, that keeps messages back?"
            return [Finding("BAD", f"NOTIFY: it did not come back within {ECHO:g} s", todo)]
        return [Finding("ok", f"NOTIFY: back in {1000 * seconds:.1f} ms")]

    async def durability(self) -> list[Finding]:
        """Whether what is acknowledged survives a crash, and the loss of the machine."""
        [row] = await self.server.fetch(_DURABILITY)
        found = []
        if row["standby"]:
            found.append(
                Finding("BAD", "the database is a standby: nothing can be stored", "Name the primary in the URL.")
            )
        for name in ("fsync", "full_page_writes"):
            if row[name] == "off":
                todo = f"alter system set {name} = on; select pg_reload_conf()"
                found.append(Finding("BAD", f"{name} is off: a crash of the machine can corrupt the ledger", todo))
        if row["synchronous_commit"] == "off":
            todo = "Set synchronous_commit = on for the server's login: a 2xx is a promise."
            found.append(Finding("BAD", "synchronous_commit is off: a crash loses events that were acknowledged", todo))
        if not row["synchronous_standby_names"]:
            todo = "For a failover without a lost event set up a synchronous standby (synchronous_standby_names)."
            found.append(Finding("note", "replication: no synchronous standby", todo))
        elif not row["standbys"]:
            todo = "Bring the standby back, or take it out of synchronous_standby_names: every commit waits for it."
            found.append(Finding("BAD", "replication: synchronous_standby_names is set, and no standby is there", todo))
        elif row["synchronous_commit"] == "local":
            todo = "Set synchronous_commit = on (or remote_apply)."
            found.append(Finding("BAD", "synchronous_commit is local: no commit waits for the standby", todo))
        if any(finding.level == "BAD" for finding in found):
            return found
        return [Finding("ok", f"commits: synchronous_commit {row['synchronous_commit']}, fsync on"), *found]

    async def queue(self) -> list[Finding]:
        """Whether vacuum keeps the queue short."""
        [row] = await self.operator.fetch(_QUEUE)
        if row["autovacuum"] == "off" or row["track_counts"] == "off":
            todo = "alter system set autovacuum = on, track_counts = on; without it every claim becomes slower."
            return [Finding("BAD", "autovacuum is off", todo)]
        if row["dead_rows"] > DEAD_ROWS:
            todo = (
                "End the oldest transaction: select pid, xact_start, query from pg_stat_activity order by xact_start;"
            )
            return [Finding("BAD", f"queue: {row['dead_rows']:,} rows wait for vacuum, {row['size']}", todo)]
        return [Finding("ok", f"queue: {row['size']}, {row['dead_rows']:,} rows wait for vacuum")]

    async def state(self) -> list[Finding]:
        """What status() says, and whether one listener is on watch."""
        state = await self.operator.status()
        found = [Finding("BAD", problem) for problem in problems(state, self.settings.poll_interval)]
        alive = [row for row in state["listeners"] if row["alive"]]
        if alive and not any(row["watching"] for row in alive):
            todo = "Give one of them a direct connection, without a pooler."
            found.append(Finding("BAD", f"listeners: {len(alive)} alive and none on watch: they only poll", todo))
        elif alive:
            found.append(Finding("ok", f"listeners: {len(alive)} alive, one on watch"))
        return found

    async def books(self) -> list[Finding]:
        """Whether the sums are the ledger's, and every event is in exactly one place."""
        [(wrong, lost)] = await self.operator.fetch(_BOOKS)
        todo = "Somebody went round the functions. Find out who before mending it: select * from {}();"
        return [
            Finding("BAD", f"books: {wrong} invoices differ from the ledger", todo.format("invoice_discrepancies"))
            if wrong else Finding("ok", "books: every invoice's sums are what the ledger adds up to"),
            Finding("BAD", f"books: {lost} events are in no place or in two", todo.format("misplaced_events"))
            if lost else Finding("ok", "books: every event is in exactly one place"),
        ]  # fmt: skip


async def doctor(session: OperatorSession, options: Namespace) -> ExitStatus:
    """Look at everything, and say what to do."""
    async with Session(options.server_url, "payment_webhooks doctor") as server:
        one = Doctor(server, session, options)
        if unreachable := await one.reach():
            for finding in unreachable:
                _print(finding)
            return ExitStatus.UNREACHABLE
        worst = ExitStatus.DONE
        for check in one.checks():
            try:
                findings = await check()
            except RejectedError as error:
                what = f"{check.__name__}: could not be looked at ({error})"
                findings = [Finding("BAD", what, "Mend what is BAD above, then ask again.")]
            for finding in findings:
                _print(finding)
                if finding.level == "BAD":
                    worst = ExitStatus.NEEDS_A_PERSON
    return worst


def _print(finding: Finding) -> None:
    print(f"{finding.level:<5} {finding.what}" + (f"\n      {finding.todo}" if finding.todo else ""))


_LOGIN = """
    select session_user::text as login, i.prefix, r.rolsuper, pg_has_role(session_user, i.owner, 'member') as owns,
           array(select n from unnest(array['server', 'listener', 'biller', 'operator', 'reader']) n
                 where pg_has_role(session_user, to_regrole(quote_ident(i.prefix || n)), 'usage')) as roles
    from (select c.relowner as owner, regexp_replace(pg_get_userbyid(c.relowner), 'owner$', '') as prefix
          from pg_class c where c.oid = to_regclass('payments')) i
    join pg_roles r on r.rolname = session_user
"""
_STRANGERS = """
    select n.nspname as schema, coalesce(nullif(a.grantee, 0)::regrole::text, 'PUBLIC') as grantee
    from pg_class c join pg_namespace n on n.oid = c.relnamespace, aclexplode(n.nspacl) a
    where c.oid = 'payments'::regclass and a.privilege_type = 'CREATE' and a.grantee not in (n.nspowner, c.relowner)
"""
_DURABILITY = """
    select pg_is_in_recovery() as standby, (select count(*) from pg_stat_replication) as standbys,
           current_setting('fsync') as fsync, current_setting('full_page_writes') as full_page_writes,
           current_setting('synchronous_commit') as synchronous_commit,
           current_setting('synchronous_standby_names') as synchronous_standby_names
"""
_QUEUE = """
    select n_dead_tup as dead_rows, pg_size_pretty(pg_total_relation_size(relid)) as size,
           current_setting('autovacuum') as autovacuum, current_setting('track_counts') as track_counts
    from pg_stat_user_tables where relid = 'payment_queue'::regclass
"""
_BOOKS = """
    select (select count(*) from invoice_discrepancies()),
           -- posted ahead of the queue: the listener removes the other row in a moment
           (select count(*) from misplaced_events() where places not in ('{posted,queued}', '{parked,posted}'))
"""
