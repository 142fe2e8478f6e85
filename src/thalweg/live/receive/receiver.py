"""The process that receives: sockets and feeds -> the spool; it begins the scorer, and begins it again when it dies."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, final

from thalweg.errors import ConfigError, SinkError, SourceError
from thalweg.ingest.sources import FeedOptions, open_feed, pack_piece, unpack_piece
from thalweg.live.config import RunConfig
from thalweg.live.receive.polling import Feeding
from thalweg.live.receive.udp import UdpConfig, UdpListener
from thalweg.live.score.committed import Committed
from thalweg.live.score.process import CANNOT_BEGIN, UNHEARD, begin_scorer
from thalweg.live.spool.layout import MARK, PIECE, STOP
from thalweg.live.spool.writer import Place, SpoolWriter, segments
from thalweg.live.status import RECEIVER, SCORER, read_status, write_status
from thalweg.runtime.whole_file import whole_file
from thalweg.sinks import open_sinks
from thalweg.tally import Tally

if TYPE_CHECKING:
    from thalweg.ingest.feeds.feed import Feed, Piece

_MARK_S: Final = 0.25
_MARK_BYTES: Final = 4 << 20
_TICK_S: Final = 1.0
_POLL_MS: Final = 100
_TURNS: Final = 8
"""Times that a socket is emptied before the others; hundreds of datagrams each."""
_BACKOFF_S: Final = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0)
_STEADY_S: Final = 60.0
_AGAIN_S: Final = 0.5
_MAX_SOURCES: Final = 255

Tell = Callable[[dict[str, Any]], None]


@final
class Receiver:
    """One run: everything is opened and checked in the block's head, and let go at its end.

    Raises: ConfigError, SourceError, SinkError, where something cannot be meant, heard or written.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.folder = config.spool
        self.restarts = 0
        self.own = Tally()
        self.listeners: list[UdpListener] = []
        self.sockets: list[dict[str, Any]] = []
        self.feeding = Feeding(())
        self._unspooled: tuple[int, Piece] | None = None
        self._marked = (0.0, 0, 0)
        self._complained_at = -_STEADY_S
        self._stopping = False
        self._reload = False
        self._scorer: subprocess.Popen[str] | None = None
        self._started_at = 0.0
        self._retry_at: float | None = None
        self._failures = 0
        self._windows_before = 0
        self._begun = time.time()

    def run(self, tell: Tell = lambda _: None) -> int:
        """Receive until SIGTERM, SIGINT, or the end of all sources; then let the scorer finish.

        tell: given the status once a second. Returns: the exit code, 0 where everything that was heard is written.
        """
        os.umask(0o027)  # the scorer's, too: flows are nobody's business but the owner's and the group's
        with self._locked(), self._signals():
            self._check_outputs()
            self.config = replace(self.config, numbered=number_sources(self.folder, self.config.sources))
            self.spool = SpoolWriter(self.folder, self.config.queue)
            try:
                self._open_sources()
                self._start_scorer()
                self._receive(tell)
                self.feeding.stop()
                for listener in self.listeners:
                    listener.drain(self.spool)  # what the kernel has for us came before the stop
                self.spool.add(STOP, _now_us())
                return self._finish(tell)
            finally:
                self.feeding.close()
                for listener in self.listeners:
                    listener.close()
                self.spool.close()

    def _check_outputs(self) -> None:
        """Find a mistake in what was typed before anything is begun."""
        committed = Committed.load(self.folder)
        for address, sink in open_sinks(self.config.sinks).items():
            sink.open(committed.sinks.get(address))
            sink.close()

    def _open_sources(self) -> None:
        config = self.config
        options = FeedOptions(
            from_start=config.from_start, allow=config.allow, buffer_bytes=config.buffer_bytes, kafka=config.kafka
        )
        positions: dict[str, Any] | None = None
        feeds: list[tuple[int, Feed]] = []
        for address in config.sources:
            feed = open_feed(address, options)
            if isinstance(feed, UdpConfig):
                listener = UdpListener(feed)
                self.listeners.append(listener)
                told = {"address": f"udp://{feed.host}:{listener.port}", "buffer_bytes": listener.buffer_bytes}
                self.sockets.append(told)
            else:
                positions = last_positions(self.folder, config.numbered) if positions is None else positions
                feed.open(positions.get(address))
                feeds.append((config.numbered.index(address), feed))
        self.feeding = Feeding(feeds)

    def _receive(self, tell: Tell) -> None:
        waiting = select.poll()
        by_file = {listener.fileno(): listener for listener in self.listeners}
        for file in by_file:
            waiting.register(file, select.POLLIN)
        said_at = 0.0
        while not self._stopping:
            ready = waiting.poll(_POLL_MS)
            try:
                for file, _ in ready:
                    self._take_datagrams(by_file[file])
                self._take_pieces()
                self._mark()
            except SinkError as error:  # what comes meanwhile waits in the kernel, as far as there is room
                self._cannot_write(error)
            now = time.monotonic()
            if now - said_at > 1.0:
                said_at = now
                self._watch_scorer()
                tell(self.say())
            if not self.listeners and self.feeding.ended and self._unspooled is None:
                return

    def _mark(self) -> None:
        """End a batch: four times a second where something came, else once a second, and after a few MB."""
        at, num_bytes, num_entries = self._marked
        now, fresh = time.monotonic(), self.spool.num_entries > num_entries
        if now - at > (_MARK_S if fresh else _TICK_S) or self.spool.num_bytes - num_bytes > _MARK_BYTES:
            self.spool.add(MARK, _now_us())
            self._marked = now, self.spool.num_bytes, self.spool.num_entries

    def _cannot_write(self, error: SinkError) -> None:
        self.own.add("failed_writes", 1, str(error))
        if time.monotonic() - self._complained_at > _STEADY_S:
            self._complained_at = time.monotonic()
            print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201  # above the display, once a minute
        time.sleep(_AGAIN_S)

    def _take_datagrams(self, listener: UdpListener) -> None:
        """Take what the kernel has, within a bound: other sockets and the marks have their turn, too."""
        for _ in range(_TURNS):
            if not listener.receive(self.spool, _now_us()):
                return

    def _take_pieces(self) -> None:
        """Spool pieces while there is room: what a file or a broker keeps for us need not displace what it does not."""
        while self._unspooled is not None or self.feeding.has_pieces:
            if self.spool.waiting_bytes > self.config.queue.max_bytes // 4:
                return
            self._unspooled = self._unspooled or self.feeding.take()
            if self._unspooled is None:
                return
            number, piece = self._unspooled
            self.spool.add(PIECE, _now_us(), pack_piece(piece), number)
            self._unspooled = None
            for listener in self.listeners:
                self._take_datagrams(listener)

    # The scorer.

    def _start_scorer(self) -> None:
        try:
            self._scorer = begin_scorer(self.config)
        except OSError as error:  # no memory for another process now
            if self._scorer is None:
                raise SinkError(f"the scorer cannot be begun: {error.strerror}") from error
            self.own.add("failed_readings", 1, f"the scorer was not begun: {error.strerror}")
            self._retry_at = time.monotonic() + _BACKOFF_S[-1]
            return
        self._windows_before = self._windows_written()
        self._started_at = time.monotonic()
        self._retry_at = None

    def _watch_scorer(self) -> None:
        """Begin the scorer again where it died, later each time that it did so at once."""
        now = time.monotonic()
        if self._reload and self._scorer is not None and self._scorer.poll() is None:
            self._reload = False
            self._scorer.send_signal(signal.SIGHUP)
        if self._retry_at is not None:
            if now >= self._retry_at:
                self.restarts += 1
                self._start_scorer()
            return
        assert self._scorer is not None, "begun before"
        code = self._scorer.poll()
        if code is None:
            return
        if code == CANNOT_BEGIN and not self.restarts and now - self._started_at < _STEADY_S:
            raise ConfigError("the scorer could not begin; its message is above")
        if code == UNHEARD:
            self._stopping = True
            return
        # Killed from outside, it goes on at once; what dies again and again without a result waits longer each time.
        advanced = self._windows_written() > self._windows_before or now - self._started_at > _STEADY_S
        self._failures = 0 if advanced else self._failures + 1
        self._retry_at = now + _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]

    def _windows_written(self) -> int:
        return int((read_status(self.folder, SCORER) or {}).get("windows", 0))

    def _finish(self, tell: Tell) -> int:
        """Wait until everything is written; a second SIGTERM or Ctrl-C leaves the rest for the next run."""
        self._stopping = False
        assert self._scorer is not None, "begun before"
        if self._scorer.poll() not in (None, 0, UNHEARD):  # it has just died, or waits to be begun again
            self._start_scorer()
        while self._scorer.poll() is None and not self._stopping:
            with suppress(subprocess.TimeoutExpired):
                self._scorer.wait(0.1)
            tell(self.say())
        tell(self.say())
        if self._scorer.poll() is None:
            self._scorer.kill()
            self._scorer.wait()
            return 1
        return 0 if self._scorer.returncode in (0, UNHEARD) else 1

    # What it says.

    def say(self) -> dict[str, Any]:
        """Write this process's status, and return both processes'."""
        counts = Tally()
        counts.merge(self.own)
        for listener in self.listeners:
            counts.add("refused_datagrams", listener.num_refused)
            counts.add("unspooled_datagrams", listener.num_unspooled)
            with suppress(OSError):  # closed
                counts.add("kernel_drops", listener.kernel_drops)
        counts.merge(self.feeding.counts())
        told = {
            "pid": os.getpid(),
            "time": time.time(),
            "since": self._begun,
            "datagrams": sum(listener.num_datagrams for listener in self.listeners),
            "bytes": sum(listener.num_bytes for listener in self.listeners),
            "sockets": self.sockets,
            "spool_bytes": self.spool.waiting_bytes,
            "spool_max_bytes": self.config.queue.max_bytes,
            "dropped": self.spool.dropped,
            "restarts": self.restarts,
            "counts": counts.as_dict(),
        }
        with suppress(OSError):
            write_status(self.folder, RECEIVER, told)
        scorer = read_status(self.folder, SCORER)
        self.feeding.accept((scorer or {}).get("accepted", {}))
        return {"receiver": told, "scorer": scorer}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise SinkError(f"the spool {self.folder} cannot be written: {error.strerror}") from error
        with lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise SourceError(
                    f"another run uses the spool {self.folder}: stop it first, or give this one its own --spool"
                ) from None
            yield

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            del number, frame
            self._stopping = True

        def reload_(number: int, frame: FrameType | None) -> None:
            del number, frame
            self._reload = True

        before = {
            number: signal.signal(number, handler)
            for number, handler in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, reload_))
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def number_sources(folder: Path, sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return all sources that the spool has known, these among them; each keeps its number for ever.

    Raises: ConfigError, where there are too many; SinkError, where the folder cannot be written.
    """
    path = folder / "sources.json"
    try:
        known = list(json.loads(path.read_text())) if path.exists() else []
        numbered = (*known, *(address for address in sources if address not in known))
        if len(numbered) > _MAX_SOURCES:
            raise ConfigError(f"the spool {folder} has known {len(numbered)} sources: begin a new one")
        with whole_file(path) as partial:
            partial.write_text(json.dumps(numbered))
    except OSError as error:
        raise SinkError(f"the spool {folder} cannot be written: {error.strerror}") from error
    return numbered


def last_positions(folder: Path, sources: tuple[str, ...]) -> dict[str, Any]:
    """Return where each source goes on: after its last piece that was spooled, read or not."""
    from thalweg.live.score.snapshot import Snapshot
    from thalweg.live.spool.reader import unread  # large imports, which a socket alone does not need

    snapshot = Snapshot.load(folder)
    positions = {} if snapshot is None else dict(snapshot.positions)
    begin = Place(min(segments(folder), default=0), 0) if snapshot is None else snapshot.place
    for batch in unread(folder, begin):
        for entry in batch.entries[batch.entries["kind"] == PIECE]:
            at = int(entry["offset"])
            position, _ = unpack_piece(batch.data[at : at + int(entry["length"])].tobytes())
            positions[sources[int(entry["source"])]] = position
    return positions


def _now_us() -> int:
    return time.time_ns() // 1000
