"""A Slurm of one node in a folder of its own: munge, controller and node daemon, two GPUs that are none.

It claims more cores and memory than the machine has, so that jobs can ask for what profiles/slurm says. Needs the
Debian packages of PACKAGES; no systemd, no database, nothing under /etc. As root, `install` fetches the packages.

    python tests/cluster/slurm.py install
    python tests/cluster/slurm.py start FOLDER      # then: export SLURM_CONF=FOLDER/slurm.conf PATH=FOLDER/bin:$PATH
    python tests/cluster/slurm.py stop FOLDER
"""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
GPUS = ("/dev/null", "/dev/zero")  # any device file will do: nothing here keeps a job off a device
DAEMONS = ("slurmd", "slurmctld", "munged")  # in the order in which they are stopped
SYSTEM = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
# squeue has to know finished jobs until Snakemake has asked for them.
MinJobAge=3600
# A job that is told to stop has this many seconds to save its work.
KillWait=30
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=256000 Gres=gpu:2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


class Slurm:
    """The daemons of one folder.

    Attributes:
        folder: holds configuration, state and logs.
        environment: what Slurm's commands, and Snakemake, need to find it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        path = os.pathsep.join([str(self.folder / "bin"), SYSTEM])
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf"), "PATH": path}

    def start(self) -> None:
        """Configure and start everything; return when the node takes jobs.

        Raises:
            RuntimeError: what went wrong, with the daemons' last words.
        """
        self._configure()
        try:
            self._daemon(
                "munged", f"--socket={self.folder}/munge.socket", f"--key-file={self.folder}/munge.key",
                f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
                f"--seed-file={self.folder}/munge.seed", "--num-threads=2",
                "--force",  # pytest keeps others out of its folders, which munged takes for a fault
            )  # fmt: skip
            self.start_controller()
            self._daemon("slurmd", "-f", f"{self.folder}/slurm.conf")
            self._until_idle()
        except BaseException:
            self.stop()
            raise

    def start_controller(self) -> None:
        self._daemon("slurmctld", "-f", f"{self.folder}/slurm.conf")

    def kill_controller(self) -> None:
        """Kill the controller with no chance to save anything."""
        pid = self._pid("slurmctld")
        os.kill(pid, signal.SIGKILL)
        self._gone(pid)

    def stop(self) -> None:
        """Cancel all jobs and stop the daemons; what does not stop is killed."""
        if self._pid("slurmctld") and self._pid("slurmd"):
            with suppress(subprocess.TimeoutExpired):
                self.call("scancel", "--user", getpass.getuser(), check=False, timeout=10)
                self._until_empty(10)
        for daemon in DAEMONS:
            if pid := self._pid(daemon):
                os.kill(pid, signal.SIGTERM)
                if not self._gone(pid):
                    os.kill(pid, signal.SIGKILL)
                    self._gone(pid)
        for pid in self._left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _left(self) -> list[int]:
        """Return what jobs left behind: without control groups, Slurm loses sight of some processes that it ends."""
        found, mark = [], f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
        return found

    def call(self, *command: str, check: bool = True, timeout: float = 60) -> str:
        """Run one of Slurm's commands; return what it printed."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, text=True, timeout=timeout, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}")
        return done.stdout

    def jobs(self) -> list[dict[str, str]]:
        """Return every job that the controller knows, with its id, comment (Snakemake's rule), and what it asked for."""
        fields = {
            "id": "JobID", "comment": "Comment", "state": "State", "limit": "TimeLimit", "gpus": "tres-per-job",
            "cpus": "NumCPUs", "memory": "MinMemory",
        }  # fmt: skip
        wanted = ",".join(f"{field}:|" for field in fields.values())
        output = self.call("squeue", "--all", "--states=all", "--noheader", "--Format", wanted)
        return [dict(zip(fields, line.split("|"), strict=False)) for line in output.splitlines()]

    def _configure(self) -> None:
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        host = socket.gethostname().split(".")[0]
        controller_port, node_port = _free_ports(2)
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(
                host=host, user=getpass.getuser(), folder=self.folder, controller_port=controller_port,
                node_port=node_port,
            )
        )  # fmt: skip
        # The jobs compute on the CPU: Slurm does not name them GPUs that torch could not use.
        devices = [f"NodeName={host} Name=gpu Flags=no_gpu_env File={device}\n" for device in GPUS]
        (self.folder / "gres.conf").write_text("".join(devices))
        # Snakemake's plugin takes the environment's SLURM_CONF away from the srun that it starts in a job.
        srun = self.folder / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)

    def _daemon(self, name: str, *arguments: str) -> None:
        """Start a daemon, which goes to the background by itself."""
        path = shutil.which(name, path=SYSTEM)
        if path is None:
            raise RuntimeError(f"{name} is not installed")
        with (self.folder / f"{name}.out").open("w") as output:
            done = subprocess.run([path, *arguments], env={**os.environ, **self.environment}, check=False,
                                  stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=60)  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{name} did not start: {self._last_words()}")

    def _pid(self, daemon: str) -> int | None:
        """Return the process of a daemon that runs."""
        with suppress(OSError, ValueError):
            pid = int((self.folder / f"{daemon}.pid").read_text())
            if Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip() == daemon:
                return pid
        return None

    def _gone(self, pid: int, seconds: float = 10) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z":
                    return True
            except OSError:
                return True
            time.sleep(0.05)
        return False

    def _until_idle(self, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while "idle" not in (state := self.call("sinfo", "--noheader", "--format=%T", check=False)).split():
            if time.monotonic() > end:
                raise RuntimeError(f"the node does not become idle but is {state!r}: {self._last_words()}")
            time.sleep(0.2)

    def _until_empty(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.call("squeue", "--noheader", check=False, timeout=10).strip() and time.monotonic() < end:
            time.sleep(0.2)

    def _last_words(self) -> str:
        files = [file for end in ("out", "log") for file in sorted(self.folder.glob(f"*.{end}"))]
        return "\n".join(line for file in files for line in file.read_text(errors="replace").splitlines()[-5:])


def missing() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=SYSTEM) is None]


def install() -> str | None:
    """Install what is missing; return why that cannot be done, or None."""
    if not missing():
        return None
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        return f"{', '.join(missing())}: not installed, and only root on Debian or Ubuntu can do it here"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run([apt, "-qq", *arguments], env=environment, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=600, check=False)  # fmt: skip
    if missing():
        last = (done.stdout.strip().splitlines() or ["no message"])[-1]
        return f"{', '.join(missing())}: apt-get install {' '.join(PACKAGES)} failed: {last}"
    return None


def _free_ports(count: int) -> list[int]:
    with_ports = [socket.socket() for _ in range(count)]
    for one in with_ports:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in with_ports]
    for one in with_ports:
        one.close()
    return ports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["install", "start", "stop"])
    parser.add_argument("folder", type=Path, nargs="?")
    options = parser.parse_args()
    if options.action == "install":
        sys.exit(install())
    if options.folder is None:
        parser.error(f"{options.action} needs a folder")
    slurm = Slurm(options.folder)
    try:
        slurm.start() if options.action == "start" else slurm.stop()
    except RuntimeError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
