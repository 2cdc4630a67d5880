"""Test a file system without locks, as some network file systems: `flock` fails with ENOLCK."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

from tests.soak.project import Project, Reference
from tests.soak.rows import Row

FLOCK = {"x86_64": 73, "aarch64": 32}  # number of the system call
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of the kernel's packet filter language
ALLOW, REFUSE = 0x7FFF0000, 0x00050000


def refuse_locks() -> None:
    """Make every `flock` of this process and its children fail with "No locks available".

    The kernel returns this error (seccomp), as it does for a network file system without a lock manager.
    """
    instructions = [
        (LOAD_NUMBER, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, FLOCK[platform.machine()]),
        (RETURN, 0, 0, REFUSE | errno.ENOLCK),
        (RETURN, 0, 0, ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in instructions))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(instructions), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for arguments in ((NO_NEW_PRIVILEGES, 1, 0, 0, 0), (SECCOMP, FILTER, ctypes.byref(program), 0, 0)):
        if prctl(*arguments):
            raise OSError(ctypes.get_errno(), "the kernel accepts no filter of system calls")


@cache
def possible() -> str:
    """Return why locks cannot be refused here; empty if they can."""
    trial = (
        "import fcntl, tests.soak.locks as locks; locks.refuse_locks()\n"
        "try: fcntl.flock(open('/dev/null'), fcntl.LOCK_SH)\n"
        "except OSError as error: print(error.errno)"
    )
    answer = subprocess.run([sys.executable, "-c", trial], capture_output=True, text=True, check=False)
    if answer.stdout.strip() == str(errno.ENOLCK):
        return ""
    return f"the kernel cannot refuse locks here ({answer.stderr.strip()[-200:]})"


def soak(project: Project, reference: Reference) -> Iterator[Row]:
    """Do a whole run without locks."""
    if reason := possible():
        yield Row("no locks on the file system", 0, 0, left_out=reason)
        return
    project.clear()
    answer = project.start(before=refuse_locks).wait()
    wrong = []
    if answer.status != 0:
        wrong.append(answer.output[-3000:])
    elif different := reference.differences(project):
        wrong.append(f"differs from an undisturbed run: {', '.join(different)}")
    yield Row("no locks on the file system (ENOLCK)", 1, int(not wrong), {}, wrong)
