"""Become another program, tied to the life of the process that started it.

    python -I -S launch.py --parent PID --orphan-signal 9 [--become capability|namespace …] [--reach PATH] -- COMMAND …

Run by path and without site packages, so that it costs some 20 ms. The signal is set last, because every change of
identity clears it. It is Linux's `PR_SET_PDEATHSIG`; elsewhere children outlive a runner that was killed with -9.
"""

import argparse
import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CLONE_NEWUSER = 0x10000000
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES = {"dac_override": 1, "dac_read_search": 2}

EXIT_CANNOT = 125


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def keep_one_capability(libc: ctypes.CDLL, name: str, uid: int, gid: int) -> None:
    """Become `uid` and keep one capability, also across exec.

    PostgreSQL asks access(2) about its own binary, and access(2) ignores the capabilities of any user but root
    unless the set-uid fix-up is switched off.
    """
    bit = 1 << CAPABILITIES[name]
    _check(libc.prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "securebits")
    _give_up_root(uid, gid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    _check(libc.capset(header, effective_permitted_inheritable), "capset")
    _check(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAPABILITIES[name], 0, 0), "ambient capability")


def enter_user_namespace(libc: ctypes.CDLL, uid: int, gid: int) -> None:
    """Stay the same user towards the machine, but be `uid` in the program's own eyes."""
    outside_uid, outside_gid = os.geteuid(), os.getegid()
    _check(libc.unshare(CLONE_NEWUSER), "user namespace")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {outside_uid} 1"),
        ("gid_map", f"{gid} {outside_gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _give_up_root(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def become(how: str, uid: int, gid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if how == "plain":
        _give_up_root(uid, gid)
    elif how == "namespace":
        enter_user_namespace(libc, uid, gid)
    else:
        keep_one_capability(libc, how, uid, gid)
    if sys.platform == "linux":
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def die_with(parent: int, signal_number: int) -> None:
    """Ask for a signal at the death of the parent's main thread. Exits if the parent is gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(EXIT_CANNOT)


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--parent", type=int, required=True, help="process id of the starter")
    parser.add_argument("--orphan-signal", type=int, required=True, help="signal number sent when the starter dies")
    parser.add_argument("--become", choices=["plain", *CAPABILITIES, "namespace"], help="way of giving up root")
    parser.add_argument("--uid", type=int, default=65534)
    parser.add_argument("--gid", type=int, default=65534)
    parser.add_argument("--reach", help="folder that must be readable before the command is tried")
    parser.add_argument("command", nargs="+")
    arguments = parser.parse_args()
    try:
        if arguments.become:
            become(arguments.become, arguments.uid, arguments.gid)
        if arguments.reach:
            os.listdir(arguments.reach)
        die_with(arguments.parent, arguments.orphan_signal)
        os.execvp(arguments.command[0], arguments.command)
    except OSError as error:
        print(f"cannot start {arguments.command[0]}: {error}", file=sys.stderr)
        sys.exit(EXIT_CANNOT)


if __name__ == "__main__":
    main()
