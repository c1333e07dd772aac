"""Found by every Python that a run with `quick_jobs` starts: `python -m scripts.X` becomes a fork of the job server.

The server has torch and open_clip imported, which takes most of a small job's time. This process waits for the fork and
ends with its exit code.
"""

import os
import sys

PLACE = os.environ.get("ANTIDOTE_TEST_JOBS")

if PLACE and sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].startswith("scripts."):
    import json
    import socket
    from pathlib import Path

    with socket.socket(socket.AF_UNIX) as server:
        server.connect(PLACE)
        ask = {"name": sys.orig_argv[2].removeprefix("scripts."), "arguments": sys.orig_argv[3:],
               "folder": str(Path.cwd()), "environment": dict(os.environ)}  # fmt: skip
        socket.send_fds(server, [b"."], [0, 1, 2])
        server.sendall(json.dumps(ask).encode())
        server.shutdown(socket.SHUT_WR)
        code = server.recv(1)
    os._exit(code[0] if code else 1)
