"""Become what PostgreSQL accepts, tie our life to the caller's, then become PostgreSQL.

Run as a script by `service.embedded`:

    embedded_launch.py CALLER IDENTITY COMMAND...

CALLER is the process id of the caller. IDENTITY is `self`, `namespace` (root becomes an ordinary user inside a user
namespace of its own, and stays the owner of its files outside) or `UID:GID` (root drops to that user for good).
A small process of its own, because code between fork and exec in a process with threads may deadlock.
"""

import ctypes
import os
import pwd
import signal
import sys

PR_SET_PDEATHSIG = 1
CLONE_NEWUSER = 0x10000000
NO_NAMESPACE = 78
"""Exit status: this system lets us have no user namespace."""


def write(path: str, text: str) -> None:
    """Write a control file of /proc in one call, as the kernel wants it."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def enter_namespace() -> None:
    """Appear to ourselves as an ordinary user; the kernel still sees the same owner on every file.

    initdb looks its user up by name, so the number has to be a listed one.
    """
    user = next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)
    uid, gid = os.geteuid(), os.getegid()  # read now: inside, before the mapping, they say "nobody"
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    write("/proc/self/setgroups", "deny")  # the kernel wants this before it lets us map a group
    write("/proc/self/uid_map", f"{user.pw_uid} {uid} 1")
    write("/proc/self/gid_map", f"{user.pw_gid} {gid} 1")


def main(caller: int, identity: str, command: list[str]) -> None:
    """Change identity, then exec the command; return only by an exit."""
    if identity == "namespace":
        try:
            enter_namespace()
        except (AttributeError, OSError, StopIteration) as error:
            print(f"no user namespace: {error!r}", file=sys.stderr)
            sys.exit(NO_NAMESPACE)
    elif identity != "self":
        uid, gid = map(int, identity.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    if sys.platform == "linux":  # elsewhere only stop() ends the server
        # After the change of identity, which clears it. SIGINT is PostgreSQL's fast shutdown.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != caller:  # it ended before we asked to be told
        sys.exit("the caller has ended")
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]} as user {os.geteuid()}: {error.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
