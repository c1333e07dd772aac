"""Runs the jobs of a workflow as forks of one process that has imported what all of them import (forked/sitecustomize.py).

The argument is the socket that jobs are asked for at: folder, environment, standard input and outputs come from whoever
asks, who gets the exit code. Ends with its standard input. A job here ends by itself alone: tests that kill jobs start real
ones.
"""

import json
import os
import select
import signal
import socket
import sys

import driver


def answer(connection):
    """Run the job that is asked for, in this process, and end with it."""
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    asked = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    values = json.loads(asked)
    driver.enter(values["folder"], values["environment"])
    code = driver._run(values["name"], values["arguments"], None)
    connection.sendall(bytes([code]))
    os._exit(code)


def serve(place):
    driver.prepare("jobs")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if not os.fork():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                answer(connection)
            connection.close()


if __name__ == "__main__":
    serve(sys.argv[1])
