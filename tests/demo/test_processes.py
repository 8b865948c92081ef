"""The supervisor with real child processes: start, probe, fail, kill, restart, and nothing left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from services.common.errors import Conflict, DeadlineExceeded, NotFound, PermanentError
from services.demo.processes import Program, Supervisor
from services.demo.watcher import SHARED_MEMORY, remove_shared_memory

SLEEP = ("sleep", "600")


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path) as supervisor:
        yield supervisor


def shell(name: str, script: str, **options: object) -> Program:
    return Program(name, ("sh", "-c", script), **options)  # type: ignore[arg-type]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Look again and again; other processes move, so virtual time does not help."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"


def exists(path: Path) -> Callable[[], bool]:
    return path.exists


def gone(pid: int, seconds: float = 5.0) -> bool:
    """Wait for the end of a process that may not be our child; a zombie has ended."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        process.wait(seconds)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def test_a_program_is_ready_when_its_probe_says_so(supervisor: Supervisor, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    supervisor.start(shell("late", f"sleep 0.2; touch {mark}; sleep 600", ready=exists(mark)))
    assert 0.1 < supervisor.wait_ready("late") < 10
    assert supervisor.running("late")


def test_a_program_that_ends_before_it_is_ready_shows_its_last_words(supervisor: Supervisor) -> None:
    supervisor.start(shell("broken", "echo no such disk >&2; exit 3", ready=lambda: False))
    with pytest.raises(PermanentError, match=r"(?s)status 3 .*no such disk"):
        supervisor.wait_ready("broken")


def test_a_program_that_is_never_ready_shows_its_last_words(supervisor: Supervisor) -> None:
    supervisor.start(shell("slow", "echo thinking; sleep 600", ready=lambda: False, ready_seconds=0.3))
    with pytest.raises(DeadlineExceeded, match=r"(?s)slow is not ready after 0.3 s.*thinking"):
        supervisor.wait_ready("slow")


def test_what_cannot_be_executed_is_refused_by_name(supervisor: Supervisor) -> None:
    with pytest.raises(PermanentError, match=r"ghost cannot be started.*no-such-binary"):
        supervisor.start(Program("ghost", ("no-such-binary",)))


def test_one_name_runs_once(supervisor: Supervisor) -> None:
    supervisor.start(Program("one", SLEEP))
    with pytest.raises(Conflict):
        supervisor.start(Program("one", SLEEP))


def test_an_unknown_name_is_not_found(supervisor: Supervisor) -> None:
    with pytest.raises(NotFound):
        supervisor.stop("nobody")


def test_a_kill_takes_the_whole_group_and_a_restart_brings_it_back(supervisor: Supervisor) -> None:
    supervisor.start(shell("family", "sleep 600 & sleep 600"))
    first = supervisor.pid("family")
    until(lambda: len(supervisor.pids("family")) == 3)
    family = supervisor.pids("family")
    supervisor.kill("family")
    assert not supervisor.running("family")
    assert all(gone(pid) for pid in family)
    supervisor.restart("family")
    assert supervisor.pid("family") != first
    assert supervisor.running("family")


def test_what_a_program_leaves_behind_in_its_group_goes_with_it(supervisor: Supervisor, tmp_path: Path) -> None:
    left = tmp_path / "left"
    supervisor.start(shell("leaver", f"sleep 600 & echo $! > {left}"))
    until(lambda: not supervisor.running("leaver"))
    assert gone(int(left.read_text()))


def test_only_ends_that_nobody_asked_for_are_reported(supervisor: Supervisor) -> None:
    supervisor.start(Program("asked", SLEEP))
    supervisor.start(shell("tired", "exit 7"))
    supervisor.kill("asked")
    until(lambda: not supervisor.running("tired"))
    assert [(end.name, end.status) for end in supervisor.exits()] == [("tired", 7)]
    assert supervisor.exits() == []


def test_a_program_that_ignores_sigterm_is_killed_after_its_grace(supervisor: Supervisor, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    script = f"trap '' TERM; touch {mark}; while :; do sleep 1; done"
    supervisor.start(shell("stubborn", script, ready=exists(mark), grace_seconds=0.3))
    supervisor.wait_ready("stubborn")
    supervisor.stop("stubborn")
    assert not supervisor.running("stubborn")


def test_a_frozen_program_still_hears_sigterm(supervisor: Supervisor, tmp_path: Path) -> None:
    mark, said = tmp_path / "mark", tmp_path / "said"
    script = f"trap 'echo bye > {said}; exit' TERM; touch {mark}; while :; do sleep 0.05; done"
    supervisor.start(shell("frozen", script, ready=exists(mark)))
    supervisor.wait_ready("frozen")
    supervisor.kill("frozen", signal.SIGSTOP)
    supervisor.stop("frozen")
    assert said.read_text() == "bye\n"


@pytest.mark.parametrize(("policy", "number"), [("other", 0), ("batch", 3), ("idle", 5)])
def test_programs_are_weighed_against_each_other_by_their_policies(
    supervisor: Supervisor, policy: str, number: int
) -> None:
    pid = supervisor.start(Program("one", SLEEP, policy=policy))  # type: ignore[arg-type]
    assert os.sched_getscheduler(pid) == number
    # Sessions are weighed first where the kernel groups by them: policies say something only within one. Who calls
    # the programs is in it too, or its calls would wait for the slices of programs that give way to nobody else.
    assert os.getsid(pid) == os.getsid(0)
    # What a terminal sends, such as Ctrl-C, goes to its foreground group: neither the watcher nor a program is in it.
    watcher = psutil.Process(pid).ppid()
    assert (os.getpgid(pid), os.getpgid(watcher)) == (pid, watcher)


def test_programs_are_as_nice_as_they_are_asked_to_be(supervisor: Supervisor) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    plain = supervisor.start(Program("plain", SLEEP))
    nice = supervisor.start(Program("nice", SLEEP, niceness=5))
    assert os.getpriority(os.PRIO_PROCESS, plain) == before
    assert os.getpriority(os.PRIO_PROCESS, nice) == min(19, before + 5)


def test_stopping_goes_backwards(tmp_path: Path) -> None:
    order, script = tmp_path / "order", "trap 'echo {0} >> {1}; exit' TERM; touch {2}; while :; do sleep 0.02; done"
    with Supervisor(tmp_path) as supervisor:
        for name in ("first", "second", "third"):
            mark = tmp_path / name
            supervisor.start(shell(name, script.format(name, order, mark), ready=exists(mark)))
            supervisor.wait_ready(name)
    assert order.read_text().split() == ["third", "second", "first"]


def test_usage_counts_every_process_of_a_program(supervisor: Supervisor) -> None:
    supervisor.start(shell("busy", "sleep 600 & while :; do :; done"))
    until(lambda: len(supervisor.pids("busy")) == 2)
    before = supervisor.usage()["busy"].cpu_seconds
    until(lambda: supervisor.usage()["busy"].cpu_seconds > before + 0.05)
    usage = supervisor.usage()["busy"]
    assert usage.processes == 2
    assert 0 < usage.pss_bytes <= usage.rss_bytes
    assert {"watcher", "supervisor"} <= supervisor.usage().keys()


def test_shared_memory_goes_with_its_program(supervisor: Supervisor) -> None:
    prefix = supervisor.shared_memory("server")
    supervisor.start(shell("server", f"touch /dev/shm/{prefix}1; sleep 600", shared_memory=prefix))
    until((SHARED_MEMORY / f"{prefix}1").exists)
    supervisor.kill("server")
    assert list(SHARED_MEMORY.glob(f"{prefix}*")) == []


def test_foreign_shared_memory_is_never_removed() -> None:
    mine = SHARED_MEMORY / f"another-{os.getpid()}"
    mine.touch()
    try:
        remove_shared_memory("another-")
        assert mine.exists()
    finally:
        mine.unlink()


OWNER = textwrap.dedent(
    """
    import sys, pathlib
    from services.demo.processes import Program, Supervisor
    supervisor = Supervisor(pathlib.Path(sys.argv[1]))
    prefix = supervisor.shared_memory("server")
    # A grandchild in a session of its own whose parent has gone: no process group and no parent leads to it.
    script = f"touch /dev/shm/{prefix}1; setsid sh -c 'sleep 600 & echo $! >&3' & sleep 600 & sleep 600"
    pids = pathlib.Path(sys.argv[1], "escaped")
    supervisor.start(Program("server", ("sh", "-c", f"exec 3>{pids}; {script}"), shared_memory=prefix,
                             ready=lambda: pids.exists() and pids.read_text().endswith(chr(10))))
    supervisor.wait_ready("server")
    while len(supervisor.pids("server")) < 3:
        pass
    print(supervisor._watcher.pid, prefix, pids.read_text().strip(), *supervisor.pids("server"), flush=True)
    sys.stdin.read()
    """
)


@pytest.mark.parametrize("victim", ["owner", "watcher"])
def test_nothing_outlives_a_sigkill(tmp_path: Path, victim: str) -> None:
    command = [sys.executable, "-c", OWNER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        watcher, prefix, escaped, *family = owner.stdout.readline().split()
        assert list(SHARED_MEMORY.glob(f"{prefix}*"))
        os.kill(owner.pid if victim == "owner" else int(watcher), signal.SIGKILL)
        assert all(gone(int(pid)) for pid in family)
        if victim == "owner":
            assert gone(int(escaped))
            assert gone(int(watcher))
        else:
            # Without the watcher nothing leads to a process that has left its group: the one thing that needs both.
            os.kill(int(escaped), signal.SIGKILL)
        until(lambda: not list(SHARED_MEMORY.glob(f"{prefix}*")))
        owner.kill()


def test_ctrl_c_in_the_terminal_reaches_only_the_owner(supervisor: Supervisor) -> None:
    supervisor.start(Program("server", SLEEP))
    groups = {os.getpgid(supervisor.pid("server")), os.getpgid(psutil.Process(supervisor.pid("server")).ppid())}
    assert os.getpgid(0) not in groups
