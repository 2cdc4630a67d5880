"""A private Slurm on this machine for tests: munge, controller and nodes, with all files in one folder.

`python tests/cluster/slurm.py` starts one and opens a shell in which `sbatch`, `squeue` and the other
commands use it. Nothing is written outside the folder, and no service manager is used. There is no
accounting; jobs that have ended are listed in `jobcomp.txt`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")  # of Debian
DAEMONS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch")
CLIENTS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
# Debian installs the daemons in folders that are not in the PATH of ordinary users.
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])

CONFIGURATION = """
ClusterName=bordure
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until its credential expires, by default two minutes
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
# jobcomp.txt lacks the requested resources; `scontrol show jobs` shows them for this time after a job ended
MinJobAge=3600
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobcomp.txt
MailProg=/bin/true
# no cgroups, which containers do not provide; memory is checked every second
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=30
SlurmdTimeout=6
ReturnToService=2
# use the size of nodes declared here, not that of the machine
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=n[1-{nodes}] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{node_ports}] \\
    CPUs=16 RealMemory=32000 Gres=gpu:1
PartitionName=cpu Nodes=ALL Default=YES DefaultTime=60 MaxTime=1-0 DefMemPerCPU=500
PartitionName=gpu Nodes=ALL DefaultTime=60 MaxTime=1-0 DefMemPerCPU=500
"""


def install() -> None:
    """Install missing Debian packages; exit with instructions if this user must not install packages."""
    if all(shutil.which(name, path=PATH) for name in DAEMONS):
        return
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    command = [*root, "apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    may = not root or subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    if not shutil.which("apt-get") or not may:
        sys.exit(
            f"error: Slurm is missing. As root on Debian or Ubuntu: apt-get install {' '.join(PACKAGES)}"
        )
    subprocess.run([*root, "apt-get", "update", "--quiet"], check=True)
    subprocess.run(command, check=True, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})


class Slurm:
    """A running cluster of `nodes` nodes n1, n2, ..., each with 16 cores, 32 GB and one simulated GPU.

    The path of `folder` must be short, since the path of a socket has at most 108 bytes. Commands use this
    cluster if they run with `environment`.
    """

    def __init__(self, folder: Path, nodes: int = 1) -> None:
        self.folder, self.nodes = folder, nodes
        self.daemons: dict[str, subprocess.Popen] = {}
        self.configuration = folder / "slurm.conf"
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.configuration),
            "PATH": f"{folder / 'bin'}{os.pathsep}{PATH}",
        }
        self._write()
        try:
            self._bring_up()
        except BaseException:
            self.stop()
            raise

    def _bring_up(self) -> None:
        folder = self.folder
        self._start(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={folder}/munge.key",
            f"--socket={folder}/munge.socket",
            f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log",
            f"--seed-file={folder}/munge.seed",
            "--origin=127.0.0.1",
        )
        wait_for((folder / "munge.socket").exists, 20, "munge")
        self.start_controller()
        for name in self.names:
            self.start_node(name)
        self.wait_for_idle_nodes()

    @property
    def names(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def _write(self) -> None:
        folder = self.folder
        for name in ("state", "bin", *(f"spool-{name}" for name in self.names)):
            (folder / name).mkdir(parents=True)
        subprocess.run(
            ["mungekey", "--create", f"--keyfile={folder}/munge.key"], check=True, env=self.environment
        )
        (folder / "gpu").symlink_to("/dev/null")
        (folder / "gres.conf").write_text(f"NodeName=n[1-{self.nodes}] Name=gpu File={folder}/gpu\n")
        (folder / "jobcomp.txt").touch()
        ports = free_ports(1 + self.nodes)
        self.configuration.write_text(
            CONFIGURATION.format(
                folder=folder,
                ports=ports,
                node_ports=",".join(map(str, ports[1:])),
                nodes=self.nodes,
                user=subprocess.check_output(["id", "-un"], text=True).strip(),
            )
        )
        # snakemake-executor-plugin-slurm-jobstep removes SLURM_CONF from the environment of srun
        for name in CLIENTS:
            script = folder / "bin" / name
            path = shlex.quote(shutil.which(name, path=PATH))
            script.write_text(
                f'#!/bin/sh\nSLURM_CONF={shlex.quote(str(self.configuration))} exec {path} "$@"\n'
            )
            script.chmod(0o755)

    def _start(self, daemon: str, *arguments: str, name: str = "") -> None:
        name = name or daemon
        with open(self.folder / f"{name}.out", "a") as out:
            self.daemons[name] = subprocess.Popen(
                [daemon, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def start_controller(self) -> None:
        self._start("slurmctld", "-D")
        wait_for(lambda: self.run("scontrol", "ping", check=False).returncode == 0, 30, "slurmctld")

    def stop_controller(self) -> None:
        """Kill the controller, as in a crash; its state is on disk."""
        end(self.daemons.pop("slurmctld"), signal.SIGKILL)

    def start_node(self, name: str) -> None:
        self._start("slurmd", "-D", "-N", name, name=name)

    def cut_power(self, name: str) -> None:
        """Kill a node and all jobs on it, as in a power failure."""
        end(self.daemons.pop(name), signal.SIGKILL)
        jobs = self.run("squeue", "--noheader", f"--nodelist={name}", "--format=%A").stdout.split()
        for pid in processes_of(jobs):
            with_pid(pid, signal.SIGKILL)

    def wait_for_idle_nodes(self) -> None:
        def idle() -> bool:
            answer = self.run("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N", check=False)
            return set(answer.stdout.split()) == set(self.names)

        wait_for(idle, 30, "idle nodes")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=check)

    def jobs(self, form: str = "%A", *options: str) -> list[str]:
        """Return the lines of squeue in the format `form`, for jobs that have not ended."""
        return self.run("squeue", "--noheader", f"--format={form}", *options).stdout.splitlines()

    def records(self) -> list[dict[str, str]]:
        """Return Slurm's record of each ended job: JobId, JobState and more (jobcomp/filetxt)."""
        lines = (self.folder / "jobcomp.txt").read_text().splitlines()
        return [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in lines]

    def stop(self) -> None:
        """Cancel all jobs and stop the daemons."""
        if "slurmctld" in self.daemons:
            self.run("scancel", "--user", str(os.geteuid()), check=False)
            with suppress(TimeoutError, subprocess.CalledProcessError):
                wait_for(lambda: not self.jobs(), 40, "jobs to end")
        for daemon in reversed(self.daemons.values()):
            end(daemon, signal.SIGTERM)
        self.daemons.clear()


def processes_of(jobs: list[str]) -> list[int]:
    """Return the processes of these jobs, found by environment variables, and their slurmstepd daemons."""
    wanted = {f"SLURM_JOB_ID={job}".encode() for job in jobs} | {
        f"SLURM_JOBID={job}".encode() for job in jobs
    }
    steps = tuple(f"slurmstepd: [{job}." for job in jobs)
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = set((folder / "environ").read_bytes().split(b"\0"))
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if environment & wanted or (steps and command.startswith(steps)):
            found.append(int(folder.name))
    return found


def with_pid(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def end(daemon: subprocess.Popen, number: signal.Signals) -> None:
    daemon.send_signal(number)
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [listening.getsockname()[1] for listening in sockets]
    for listening in sockets:
        listening.close()
    return ports


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Check every 0.1 s until `condition` returns true; raise TimeoutError about `what` after `seconds`."""
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError(f"no {what} within {seconds:g} s")
        time.sleep(0.1)


if __name__ == "__main__":
    install()
    slurm = Slurm(Path(tempfile.mkdtemp(prefix="slurm-")), nodes=2)
    try:
        subprocess.run([os.environ.get("SHELL", "/bin/sh")], env=slurm.environment, check=False)
    finally:
        slurm.stop()
        shutil.rmtree(slurm.folder)
