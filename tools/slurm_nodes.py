"""A real SLURM of two nodes on this one machine, for tests and CI: start, stop, kill-node NAME.

Needs root and Debian's packages.

Jobs do not inherit SLURM_CONF, so the configuration lies in SLURM's own folder. One that is not ours is never touched.
Exits with 3 and one line that gives the reason where SLURM cannot start.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

NODES = ("bv1", "bv2")
PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]
)  # daemons lie where a user's PATH may not lead
PLACE, STATE, MUNGE = Path("/etc/slurm"), Path("/var/lib/bertvision-slurm"), Path("/run/munge")
OURS = "# bertvision: two nodes on one machine, for tests"
IMPOSSIBLE = 3

# Timeouts are short, so that a lost node is noticed in seconds; cred_expire is also how long a requeued job waits.
# A job of the partition `urgent` takes its node from one of `main`, which is cancelled: the harder kind of pre-emption.
CONF = """{ours}
ClusterName=bertvision
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort=16817
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/%n.log
StateSaveLocation={state}/state
SlurmdSpoolDir={state}/%n
AuthType=auth/munge
AuthInfo=cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
ReturnToService=2
SlurmdTimeout=6
KillWait=2
MinJobAge=300
{nodes}
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes={names} MaxTime=INFINITE PriorityTier=2 State=UP
"""
CGROUP = (
    OURS
    + """
CgroupPlugin=cgroup/v1
ConstrainCores=no
ConstrainDevices=no
ConstrainRAMSpace=no
ConstrainSwapSpace=no
"""
)


class Impossible(Exception):
    """Why there can be no SLURM here."""


def call(*command, env=None, **more):
    """Run a command, found in PATH; `env` comes on top of our own environment, `more` goes to subprocess.run."""
    return subprocess.run(
        [str(c) for c in command],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": PATH, **(env or {})},
        **more,
    )


def install():
    if all(shutil.which(c, path=PATH) for c in ("slurmctld", "slurmd", "sbatch", "munged")):
        return
    if not shutil.which("apt-get", path=PATH):
        raise Impossible("slurm-wlm and munge are not installed and there is no apt-get")
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    call("apt-get", "update", env=env)
    done = call("apt-get", "install", "-y", "--no-install-recommends", "slurm-wlm", "munge", env=env)
    if done.returncode:
        raise Impossible(
            f"apt-get cannot install slurm-wlm and munge: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
        )


def configure():
    """Write the two files, unless somebody else's are there."""
    for name in ("slurm.conf", "cgroup.conf"):
        path = PLACE / name
        if path.exists() and not path.read_text().startswith(OURS):
            raise Impossible(f"{path} is there and not ours; it is left alone")
    for folder in (PLACE, STATE / "state", *(STATE / n for n in NODES)):
        folder.mkdir(parents=True, exist_ok=True)
    host = socket.gethostname().split(".")[0]
    nodes = "\n".join(
        f"NodeName={n} NodeHostname={host} NodeAddr=127.0.0.1 Port={16818 + i} CPUs=1 RealMemory=64000 State=UNKNOWN"
        for i, n in enumerate(NODES)
    )
    (PLACE / "slurm.conf").write_text(
        CONF.format(ours=OURS, host=host, state=STATE, nodes=nodes, names=",".join(NODES))
    )
    (PLACE / "cgroup.conf").write_text(CGROUP)


def start_munge():
    if call("munge", "-n").returncode == 0:
        return
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        key.write_bytes(os.urandom(1024))
        shutil.chown(key, "munge", "munge")
        key.chmod(0o400)
    for folder in (MUNGE, Path("/var/log/munge"), Path("/var/lib/munge")):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, "munge", "munge")
    MUNGE.chmod(0o755)
    done = call("munged", user="munge", group="munge", extra_groups=[])
    if done.returncode:
        raise Impossible(f"munged does not start: {done.stderr.strip()}")
    (STATE / "munge-is-ours").touch()


def alive(name):
    """The process of one of our daemons, by its pid file."""
    try:
        process = psutil.Process(int((STATE / f"{name}.pid").read_text()))
    except (OSError, ValueError, psutil.Error):
        return None
    return process if process.name().startswith("slurm") and process.status() != psutil.STATUS_ZOMBIE else None


def start_node(name):
    if alive(name):
        return
    done = call("slurmd", "-N", name)
    if done.returncode:
        raise Impossible(f"slurmd -N {name} does not start: {done.stderr.strip()}")


def states():
    lines = call("sinfo", "-h", "-N", "-o", "%N %t").stdout.split("\n")
    return dict(line.split() for line in lines if line.strip())


def ready():
    """Whether both nodes take jobs; a `*` behind a state means that the node does not answer."""
    return all(alive(n) for n in ("slurmctld", *NODES)) and all(
        states().get(n) in ("idle", "mix", "alloc") for n in NODES
    )


def start(patience=60):
    """Start what is not running, and wait until both nodes are there."""
    if ready():
        return
    if os.name != "posix" or os.geteuid() != 0:
        raise Impossible("only root can start the daemons of SLURM")
    install()
    configure()
    start_munge()
    if not alive("slurmctld"):
        done = call("slurmctld", "-i")
        if done.returncode:
            raise Impossible(f"slurmctld does not start: {done.stderr.strip()}")
    for name in NODES:
        start_node(name)
    end = time.monotonic() + patience
    while not ready():
        if time.monotonic() > end:
            raise Impossible(f"the nodes are not ready after {patience} s: {states()}; see {STATE}")
        time.sleep(0.3)


def on_node(name):
    """The daemon of a node, the stepd's of its jobs, and all that its jobs have started."""
    found = {alive(name)} - {None}
    for process in psutil.process_iter():
        try:
            inside = process.environ().get("SLURMD_NODENAME") == name
        except psutil.Error:
            continue
        if inside:
            found |= {process, *(p for p in process.parents() if p.name().startswith("slurmstepd"))}
    return found


def kill_node(name):
    """What a power cut would do: SIGKILL for the daemon and its jobs at once."""
    found = on_node(name)
    for process in found:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.Error:
            pass
    return len(found)


def stop():
    """End our daemons and jobs; take the configuration away, if it is ours."""
    for name in NODES:
        kill_node(name)
    if controller := alive("slurmctld"):
        controller.kill()
    if (STATE / "munge-is-ours").exists():
        call("munged", "--stop")
    for name in ("slurm.conf", "cgroup.conf"):
        path = PLACE / name
        if path.exists() and path.read_text().startswith(OURS):
            path.unlink()
    shutil.rmtree(STATE, ignore_errors=True)


def main(argv):
    command, *names = argv or ["?"]
    if (
        command not in ("start", "stop", "kill-node")
        or (command == "kill-node") != (len(names) == 1)
        or set(names) - set(NODES)
    ):
        print(f"usage: slurm_nodes.py start | stop | kill-node {'|'.join(NODES)}", file=sys.stderr)
        return 2
    try:
        told = {"start": start, "stop": stop, "kill-node": kill_node}[command](*names)
    except Impossible as e:
        print(f"no SLURM here: {e}")
        return IMPOSSIBLE
    print(
        f"{told} processes killed"
        if command == "kill-node"
        else " ".join(f"{n}={s}" for n, s in states().items())
        if command == "start"
        else "stopped"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
