"""Runs a command that cannot use userfaultfd, as containers are kept from it: `confined.py COMMAND ARGUMENT..`."""

import ctypes
import errno
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
USERFAULTFD = {"x86_64": 323, "aarch64": 282}[platform.machine()]
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM

# Classic BPF over `struct seccomp_data`, whose first word is the call's number.
FILTER = b"".join(
    struct.pack("HBBI", *line)
    for line in [
        (0x20, 0, 0, 0),  # load the number
        (0x15, 0, 1, USERFAULTFD),  # if it is another one, pass over the next line
        (0x06, 0, 0, REFUSE),
        (0x06, 0, 0, ALLOW),
    ]
)

libc = ctypes.CDLL(None, use_errno=True)
lines = ctypes.create_string_buffer(FILTER)
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(FILTER) // 8, ctypes.addressof(lines)))
# Root may filter without promising that nothing gains rights; others have to promise.
if os.geteuid() != 0:
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) != 0:
    sys.exit(f"no filter of system calls: {os.strerror(ctypes.get_errno())}")
# Asked for in the mode that every process may use.
if libc.syscall(USERFAULTFD, 1) != -1 or ctypes.get_errno() != errno.EPERM:
    sys.exit("the filter of system calls does not work")
os.execvp(sys.argv[1], sys.argv[1:])
