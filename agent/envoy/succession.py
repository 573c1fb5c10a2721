"""One Envoy after another: what the launcher decides. Events in, instructions out. Standard library only.

    current     serves                        successor   hot restart under way: current still serves
    elders      replaced, drain their connections until the current one ends them (--parent-shutdown-time-s)

A crash of the current process begins a new line with epoch 0 and shared memory of its own. Elders and a successor of a
crashed process are ended: nobody else would tell them to.
"""

from dataclasses import dataclass, replace

DELAYS = (0.0, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds before the n-th restart in a row. The first is at once: traffic is down."""
HEALTHY_SECONDS = 60.0
"""A process that lived this long failed for a new reason: delays begin anew."""
KILL_SECONDS = 5.0
"""From SIGTERM to SIGKILL."""
LEAVE_SECONDS = 3.0
"""Before a drain, Envoy serves on for so long: the agent sees what is coming within a second, and has callers told."""


@dataclass(frozen=True)
class Process:
    pid: int
    epoch: int
    since: float
    live: bool = False


# Events. Times are of any clock that never goes back.
@dataclass(frozen=True)
class Began:
    """First event. What still runs from an earlier launcher, the newest last."""

    adopted: tuple[Process, ...] = ()
    restarts: int = 0
    """Unplanned ones so far."""


@dataclass(frozen=True)
class Spawned:
    process: Process


@dataclass(frozen=True)
class BecameLive:
    pid: int


@dataclass(frozen=True)
class Exited:
    pid: int


@dataclass(frozen=True)
class RestartAsked:
    pass


@dataclass(frozen=True)
class StopAsked:
    """A second one, or drain_seconds 0, stops at once."""

    drain_seconds: float
    leave_seconds: float = 0.0
    """Nobody has told callers yet."""


@dataclass(frozen=True)
class Idle:
    """No connection is left."""


@dataclass(frozen=True)
class Tick:
    pass


Event = Began | Spawned | BecameLive | Exited | RestartAsked | StopAsked | Idle | Tick


# Instructions.
@dataclass(frozen=True)
class Spawn:
    epoch: int
    """0 begins a new line."""


@dataclass(frozen=True)
class ClearInitializing:
    """A process died between attaching to the line's shared memory and being live, and left it marked as busy."""


@dataclass(frozen=True)
class Drain:
    """Tell Envoy to close its listeners gracefully."""


@dataclass(frozen=True)
class End:
    pid: int
    hard: bool = False


@dataclass(frozen=True)
class Quit:
    pass


Instruction = Spawn | ClearInitializing | Drain | End | Quit


@dataclass(frozen=True)
class State:
    current: Process | None = None
    successor: Process | None = None
    elders: tuple[Process, ...] = ()
    failures: int = 0
    restarts: int = 0
    refused_restarts: int = 0
    restart_wanted: bool = False
    spawn_at: float | None = None
    """When to spawn after a failure: a successor if there is a current process, else a new line."""
    stopping: str = ""
    """leaving, then draining, then ending."""
    deadline: float | None = None
    drain_seconds: float = 0.0
    """For the drain that follows `leaving`."""

    @property
    def processes(self) -> tuple[Process, ...]:
        return (*self.elders, *(p for p in (self.current, self.successor) if p))

    @property
    def phase(self) -> str:
        if self.stopping:
            return "draining" if self.processes else "stopped"
        if self.current is None:
            return "waiting"
        if self.successor is not None:
            return "handover"
        return "live" if self.current.live else "starting"


Step = tuple[State, tuple[Instruction, ...]]


def handle(state: State, event: Event, now: float) -> Step:  # noqa: PLR0911 - a table: one row for each event
    match event:
        case Began(adopted, restarts):
            return _begin(replace(state, restarts=restarts), adopted)
        case Spawned(process) if process.epoch and state.current:
            return replace(state, successor=process), ()
        case Spawned(process):
            return replace(state, current=process), ()
        case BecameLive(pid):
            return _live(state, pid, now)
        case Exited(pid):
            return _exited(state, pid, now)
        case RestartAsked():
            return _next(replace(state, restart_wanted=not state.stopping))
        case StopAsked(seconds, leave):
            return _stop(state, seconds, leave, now)
        case Idle():
            return _end(state, now) if state.stopping == "draining" else (state, ())
        case Tick():
            return _tick(state, now)


def _begin(state: State, adopted: tuple[Process, ...]) -> Step:
    if not adopted:
        return state, (Spawn(0),)
    return replace(state, current=adopted[-1], elders=adopted[:-1]), ()


def _next(state: State) -> Step:
    """Begin a wanted hot restart if one can begin now."""
    free = not state.stopping and state.successor is None and state.spawn_at is None
    if not (state.restart_wanted and free and state.current and state.current.live):
        return state, ()
    return replace(state, restart_wanted=False), (Spawn(state.current.epoch + 1),)


def _live(state: State, pid: int, now: float) -> Step:
    if state.successor and state.successor.pid == pid:
        elders = (*state.elders, state.current) if state.current else state.elders
        process = replace(state.successor, live=True, since=now)
        return _next(replace(state, current=process, successor=None, elders=elders, failures=0))
    if state.current and state.current.pid == pid:
        return _next(replace(state, current=replace(state.current, live=True)))
    return state, ()


def _exited(state: State, pid: int, now: float) -> Step:
    if state.current and state.current.pid == pid:
        return _fallen(state, now)
    if state.successor and state.successor.pid == pid:
        # The current one serves on, but its admin socket is closed already: it must be replaced.
        state = replace(state, successor=None, refused_restarts=state.refused_restarts + 1)
        return _later(state, now, ClearInitializing())
    state = replace(state, elders=tuple(e for e in state.elders if e.pid != pid))
    return _quit_if_done(state)


def _fallen(state: State, now: float) -> Step:
    assert state.current is not None
    if now - state.current.since > HEALTHY_SECONDS:
        state = replace(state, failures=0)
    orphans = (*state.elders, *((state.successor,) if state.successor else ()))
    if state.stopping:
        return _quit_if_done(replace(state, current=None))
    # Orphans are forgotten: what they still do is their own end.
    state = replace(state, current=None, successor=None, elders=(), restarts=state.restarts + 1, restart_wanted=False)
    return _later(state, now, *(End(p.pid, hard=True) for p in orphans))


def _later(state: State, now: float, *instructions: Instruction) -> Step:
    if state.stopping:
        return _quit_if_done(state)
    delay = DELAYS[min(state.failures, len(DELAYS) - 1)]
    state = replace(state, failures=state.failures + 1, spawn_at=now + delay)
    state, spawn = _tick(state, now)
    return state, (*instructions, *spawn)


def _tick(state: State, now: float) -> Step:
    if state.stopping and state.deadline is not None and now >= state.deadline:
        if state.stopping == "leaving":
            return _drain(state, state.drain_seconds, now)
        if state.stopping == "draining":
            return _end(state, now)
        return replace(state, deadline=now + KILL_SECONDS), tuple(End(p.pid, hard=True) for p in state.processes)
    if state.spawn_at is not None and now >= state.spawn_at:
        epoch = state.current.epoch + 1 if state.current else 0
        return replace(state, spawn_at=None), (Spawn(epoch),)
    return state, ()


def _stop(state: State, seconds: float, leave: float, now: float) -> Step:
    if state.stopping or seconds <= 0 or not (state.current and state.current.live):
        return _end(state, now)
    if leave > 0:
        return replace(state, stopping="leaving", deadline=now + leave, drain_seconds=seconds, spawn_at=None), ()
    return _drain(state, seconds, now)


def _drain(state: State, seconds: float, now: float) -> Step:
    instructions: list[Instruction] = [Drain()]
    if state.successor:
        instructions.append(End(state.successor.pid, hard=True))
    state = replace(state, stopping="draining", deadline=now + seconds, spawn_at=None)
    return state, tuple(instructions)


def _end(state: State, now: float) -> Step:
    state = replace(state, stopping="ending", deadline=now + KILL_SECONDS, spawn_at=None)
    if not state.processes:
        return state, (Quit(),)
    return state, tuple(End(p.pid) for p in state.processes)


def _quit_if_done(state: State) -> Step:
    return state, (Quit(),) if state.stopping and not state.processes else ()
