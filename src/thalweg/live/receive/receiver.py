"""The process that receives: sockets and feeds -> the spool. It starts the scorer, and restarts it when it dies."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from types import FrameType
from typing import Any, Final, final

from thalweg.errors import ConfigError, SinkError, SourceError
from thalweg.ingest.feeds.feed import Feed, Piece, Position, pack_piece
from thalweg.ingest.sources import UdpConfig, open_feed
from thalweg.live.config import RunConfig
from thalweg.live.receive.polling import FeedPoller
from thalweg.live.receive.udp import UdpListener
from thalweg.live.score.committed import Committed
from thalweg.live.score.process import CANNOT_START, CANNOT_WRITE, OUTPUT_CLOSED, ScorerTask, start_scorer
from thalweg.live.spool.folder import SpoolPosition, segments
from thalweg.live.spool.layout import MARK, PIECE, STOP
from thalweg.live.spool.reserve import free_bytes, give_up_reserve, is_full, keep_reserve
from thalweg.live.spool.writer import SpoolWriter
from thalweg.live.status import RECEIVER, SCORER, read_status, write_status
from thalweg.live.suspects import note_death
from thalweg.runtime.terminal import print_on_stderr
from thalweg.runtime.whole_file import whole_file
from thalweg.sinks import open_sinks
from thalweg.tally import Tally

_MARK_S: Final = 0.25
_MARK_BYTES: Final = 4 << 20
_TICK_S: Final = 1.0
_POLL_MS: Final = 100
_MAX_CALLS: Final = 8
"""Calls that take datagrams from one socket before the next one's turn; hundreds of datagrams each."""
_BACKOFF_S: Final = (0.0, 1.0, 2.0, 5.0, 15.0, 30.0)
_STEADY_S: Final = 60.0
_RETRY_S: Final = 0.5
_MAX_SOURCES: Final = 255
_MAX_RESTARTS: Final = 8
"""Restarts of the scorer after the stop: enough to set aside what kills it."""

Report = Callable[[dict[str, Any]], None]


@final
class Receiver:
    """One run of `thalweg run` or `collect`.

    `run` raises ConfigError, SourceError or SinkError if a setting is wrong, or a source or sink cannot be opened.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.folder = config.spool.folder
        self.sources: tuple[str, ...] = ()
        self.restarts = 0
        self.own = Tally()
        self.listeners: list[UdpListener] = []
        self.sockets: list[dict[str, Any]] = []
        self.poller = FeedPoller(())
        self._unspooled: tuple[int, Piece] | None = None
        self._marked = (0.0, 0, 0)
        self._warned_at = -_STEADY_S
        self._stopping = False
        self._reload = False
        self._scorer: subprocess.Popen[str] | None = None
        self._scorer_started_at = 0.0
        self._retry_at: float | None = None
        self._failures = 0
        self._windows_before = 0
        self._since = time.time()

    def run(self, report: Report = lambda _: None) -> int:
        """Receive until SIGTERM, SIGINT, or the end of all sources; then wait for the scorer to finish.

        report: called with the status once a second. Returns the exit code, 0 if everything received is written.
        """
        os.umask(0o027)  # the scorer's, too: only the owner and the group may read flows
        with self._locked(), self._signals():
            self._check_outputs()
            self.sources = number_sources(self.folder, self.config.addresses)
            self.spool = SpoolWriter(self.folder, self.config.spool)
            keep_reserve(self.folder, self.config.spool.bytes_in_reserve)
            self._compare_with_disk()
            try:
                self._open_sources()
                self._start_scorer()
                self._receive(report)
                self.poller.stop()
                self._stop()
                return self._finish(report)
            finally:
                self.poller.close()
                for listener in self.listeners:
                    listener.close()
                self.spool.close()
                with suppress(OSError):
                    give_up_reserve(self.folder)

    def _check_outputs(self) -> None:
        """Open and close the sinks once: a wrong one is reported before anything is received."""
        committed = Committed.load(self.folder)
        for address, sink in open_sinks([sink.address for sink in self.config.sink]).items():
            try:
                sink.open(committed.sinks.get(address))
            except SinkError as error:
                if not is_full(error.__cause__):
                    raise
                self._cannot_write(error)  # meanwhile the spool takes what comes
            sink.close()

    def _compare_with_disk(self) -> None:
        room = free_bytes(self.folder) + self.spool.waiting_bytes
        if room < self.config.spool.max_bytes:
            print_on_stderr(
                f"warning: the spool {self.folder} may grow to {self.config.spool.max_bytes / 1e9:,.1f} GB, but its "
                f"disk has room for {room / 1e9:,.1f} GB: give a smaller --spool-gb; on a full disk, the oldest data "
                "is dropped"
            )

    def _open_sources(self) -> None:
        positions: dict[str, Position] | None = None
        feeds: list[tuple[int, Feed]] = []
        for source in self.config.source:
            if isinstance(source, UdpConfig):
                listener = UdpListener(source)
                self.listeners.append(listener)
                address = f"udp://{source.host}:{listener.port}"
                self.sockets.append({"address": address, "buffer_bytes": listener.buffer_bytes})
            else:
                positions = last_positions(self.folder, self.sources) if positions is None else positions
                feed = open_feed(source)
                feed.open(positions.get(source.address))
                feeds.append((self.sources.index(source.address), feed))
        self.poller = FeedPoller(feeds)

    def _receive(self, report: Report) -> None:
        waiting = select.poll()
        by_file = {listener.fileno(): listener for listener in self.listeners}
        for file in by_file:
            waiting.register(file, select.POLLIN)
        reported_at = 0.0
        while not self._stopping:
            ready = waiting.poll(_POLL_MS)
            try:
                for file, _ in ready:
                    self._take_datagrams(by_file[file])
                self._take_pieces()
                self._mark()
            except SinkError as error:  # meanwhile datagrams wait in the kernel, as far as there is room
                self._cannot_write(error)
            now = time.monotonic()
            if now - reported_at > _TICK_S:
                reported_at = now
                self._watch_scorer()
                report(self.update_status())
            if not self.listeners and self.poller.ended and self._unspooled is None:
                return

    def _stop(self) -> None:
        """Take what the kernel already holds, which came before the stop, and mark the stop."""
        for listener in self.listeners:
            try:
                listener.drain(self.spool)
            except SinkError as error:
                self._cannot_write(error)
        try:
            self.spool.add(STOP, _now_us())
        except SinkError:
            give_up_reserve(self.folder)
            self.spool.add(STOP, _now_us())

    def _mark(self) -> None:
        """End a batch: four times a second if something came, else once a second, and after a few MB."""
        at, num_bytes, num_entries = self._marked
        now, fresh = time.monotonic(), self.spool.num_entries > num_entries
        if now - at > (_MARK_S if fresh else _TICK_S) or self.spool.num_bytes - num_bytes > _MARK_BYTES:
            self.spool.add(MARK, _now_us())
            self._marked = now, self.spool.num_bytes, self.spool.num_entries

    def _cannot_write(self, error: SinkError) -> None:
        self.own.add("failed_writes", 1, str(error))
        if time.monotonic() - self._warned_at > _STEADY_S:
            self._warned_at = time.monotonic()
            print_on_stderr(f"error: {error}")
        time.sleep(_RETRY_S)

    def _take_datagrams(self, listener: UdpListener) -> None:
        """Take what the kernel holds, within a bound: other sockets and the marks must have their turn."""
        for _ in range(_MAX_CALLS):
            if not listener.receive(self.spool, _now_us()):
                return

    def _take_pieces(self) -> None:
        """Spool pieces while there is room: files and brokers keep theirs, so they must not displace datagrams."""
        while self._unspooled is not None or self.poller.has_pieces:
            if self.spool.waiting_bytes > self.config.spool.max_bytes // 4:
                return
            self._unspooled = self._unspooled or self.poller.take()
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
            self._scorer = start_scorer(ScorerTask(config=self.config, sources=self.sources))
        except OSError as error:  # no memory for another process now
            if self._scorer is None:
                raise SinkError(f"the scorer cannot be started: {error.strerror}") from error
            self.own.add("failed_readings", 1, f"the scorer was not started: {error.strerror}")
            self._retry_at = time.monotonic() + _BACKOFF_S[-1]
            return
        self._windows_before = self._windows_written()
        self._scorer_started_at = time.monotonic()
        self._retry_at = None

    def _watch_scorer(self) -> None:
        """Restart the scorer if it died, after a longer pause each time that it died at once."""
        now = time.monotonic()
        if self._reload and self._scorer is not None and self._scorer.poll() is None:
            self._reload = False
            self._scorer.send_signal(signal.SIGHUP)
        if self._retry_at is not None:
            if now >= self._retry_at:
                self.restarts += 1
                self._start_scorer()
            return
        assert self._scorer is not None, "started before"
        code = self._scorer.poll()
        if code is None:
            return
        if code == CANNOT_START and not self.restarts and now - self._scorer_started_at < _STEADY_S:
            raise ConfigError("the scorer could not start; its message is above")
        if code == OUTPUT_CLOSED:
            self._stopping = True
            return
        self._note_death()
        # If it was killed from outside, it is restarted at once; if it dies again without a result, the pause grows.
        advanced = self._windows_written() > self._windows_before or now - self._scorer_started_at > _STEADY_S
        self._failures = 0 if advanced else self._failures + 1
        self._retry_at = now + _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]

    def _note_death(self) -> bool:
        """Note where the scorer died. Returns false if it ended by itself."""
        assert self._scorer is not None, "started before"
        code = self._scorer.returncode
        if code in (None, 0, OUTPUT_CLOSED, CANNOT_START, CANNOT_WRITE):
            return False
        with suppress(OSError):  # without room for a note, it may die there once more
            note_death(self.folder, self._scorer.pid, code)
        return True

    def _windows_written(self) -> int:
        return int((read_status(self.folder, SCORER) or {}).get("windows", 0))

    def _finish(self, report: Report) -> int:
        """Wait until everything is written; a second SIGTERM or Ctrl-C leaves the rest to the next run."""
        self._stopping = False
        assert self._scorer is not None, "started before"
        restarts = 0
        while not self._stopping:
            code = self._scorer.poll()
            if code is None:
                with suppress(subprocess.TimeoutExpired):
                    self._scorer.wait(0.1)
            elif code in (0, OUTPUT_CLOSED) or restarts == _MAX_RESTARTS:
                break
            elif self._note_death() or not restarts:  # it has just died, or waits for its restart
                restarts += 1
                self.restarts += 1
                self._start_scorer()
            else:
                break
            report(self.update_status())
        report(self.update_status())
        if self._scorer.poll() is None:
            self._scorer.kill()
            self._scorer.wait()
            return 1
        return 0 if self._scorer.returncode in (0, OUTPUT_CLOSED) else 1

    # Its status.

    def update_status(self) -> dict[str, Any]:
        """Write this process's status. Returns the status of this process and of the scorer."""
        counts = Tally()
        counts.merge(self.own)
        for listener in self.listeners:
            counts.add("refused_datagrams", listener.num_refused)
            counts.add("unspooled_datagrams", listener.num_unspooled)
            with suppress(OSError):  # closed
                counts.add("kernel_drops", listener.kernel_drops)
        counts.merge(self.poller.counts())
        status = {
            "pid": os.getpid(),
            "time": time.time(),
            "since": self._since,
            "datagrams": sum(listener.num_datagrams for listener in self.listeners),
            "bytes": sum(listener.num_bytes for listener in self.listeners),
            "sockets": self.sockets,
            "spool_bytes": self.spool.waiting_bytes,
            "spool_max_bytes": self.config.spool.max_bytes,
            "dropped": self.spool.dropped,
            "restarts": self.restarts,
            "counts": counts.as_dict(),
        }
        with suppress(OSError):
            status["spool_free_bytes"] = free_bytes(self.folder)
            write_status(self.folder, RECEIVER, status)
        scorer = read_status(self.folder, SCORER)
        self.poller.acknowledge((scorer or {}).get("accepted", {}))
        return {"receiver": status, "scorer": scorer}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise SinkError(f"the spool {self.folder} cannot be written: {error.strerror}") from error
        try:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                raise SourceError(
                    f"another run uses the spool {self.folder}: stop it first, or give this one its own --spool"
                ) from None
            yield
        finally:
            os.close(lock)

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
    """Return all sources that the spool has ever had, these among them; a source's index is its number for ever.

    Raises ConfigError if there are too many, and SinkError if the folder cannot be written.
    """
    path = folder / "sources.json"
    try:
        known = list(json.loads(path.read_text())) if path.exists() else []
        numbered = (*known, *(address for address in sources if address not in known))
        if len(numbered) > _MAX_SOURCES:
            raise ConfigError(f"the spool {folder} has had {len(numbered)} sources: start with another --spool")
        if list(numbered) != known:  # else a full disk is no reason not to start
            with whole_file(path) as partial:
                partial.write_text(json.dumps(numbered))
    except OSError as error:
        raise SinkError(f"the spool {folder} cannot be written: {error.strerror}") from error
    return numbered


def last_positions(folder: Path, sources: Sequence[str]) -> dict[str, Position]:
    """Return the position of each source after its last piece in the spool, whether the piece was read or not."""
    from thalweg.live.score.snapshot import Snapshot
    from thalweg.live.spool.reader import unread  # large imports, which sockets alone do not need

    snapshot = Snapshot.load(folder)
    positions: dict[str, Position] = {} if snapshot is None else dict(snapshot.positions)
    start = SpoolPosition(min(segments(folder), default=0), 0) if snapshot is None else snapshot.position
    for batch in unread(folder, start):
        positions |= {sources[one.source]: one.piece.position for one in batch.pieces()}
    return positions


def _now_us() -> int:
    return time.time_ns() // 1000
