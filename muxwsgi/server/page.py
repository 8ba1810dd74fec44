"""`SharedPage`: memory that a master, its workers and its other children share. It has the state of each worker, and its counters.

The master makes it before the first fork, so all its children see all of it. It is memory without a file, so nothing is left behind, and
a master that is started again (also by `exec`) begins with zeros. Imports no gevent.

The page has one entry for each worker process, 16 KiB each. The first entry is the page's own. Memory that is not written is not used. All
words have 64 bits. A cache line has 8 of them, and each line has one writer, so no write is slowed down by another process:

    words                   of a worker's entry                                          of the first entry
    0 to 7      line 0      written by the master: pid, generation (0: the entry is      version, entries that were ever used
                            free), number of the worker, state, time of the start
    8 to 15     line 1      written by the worker: time of the heartbeat, connections    -
                            now, whether it accepts, connections accepted so far
    16 to 31    lines 2, 3  written by the worker, once: `BINDS` words for the binds     the same, of the workers
                            on which it takes over connections                           of a new master
    32 to 39    line 4      written by the worker: sequence                              sequence
    40 to 1043              first copy of the counters: how many words, CRC-32, words    the same: sums of workers
    1044 to 2047            second copy of the counters                                  that have ended

Times are `time.monotonic_ns`, which is the same in all processes of a machine.

**Counters.** Their layout is the caller's: `Entry.write(words)`, `Entry.read() -> words`. There are two copies, and the lowest bit of the
sequence says which one is valid. `write` fills the other copy and then increments the sequence. So a worker that is killed in the middle of
a write leaves the copy before whole. A reader copies the words, and reads again if the sequence has changed meanwhile, or if the CRC-32 is
wrong, as it may be on processors that reorder the writes.

**Sums.** When a worker has ended, the master adds its words to those of the first entry, and frees the entry (`retire`). So the sums of
`totals` never decrease. Gauges (the caller says which words are gauges) are not added. The version is odd while the master changes which
entries are in use. A reader of all entries begins again if the version has changed.
"""

import errno
import logging
import mmap
from array import array
from collections.abc import Iterable, Sequence
from enum import Enum
from time import monotonic_ns
from zlib import crc32

__all__ = ["ACCEPTED", "ACCEPTS", "BINDS", "CONNECTIONS", "WORDS", "Entry", "SharedPage", "State"]

log = logging.getLogger("muxwsgi.error")

#: Words of an entry.
_ENTRY = 2048

#: Entries for workers, at most: 1024 workers while a reload runs. They take 32 MiB of address space, and memory only if they are written.
ENTRIES = 2047

#: Counters of a worker, at most.
WORDS = 1002

#: Binds of which an entry has a word.
BINDS = 16

# Line 0
_PID, _GENERATION, _NUMBER, _STATE, _STARTED = range(5)
_VERSION, _EVER_USED = range(2)  # of the first entry
# Line 1
_LINE = 8
_HEARTBEAT, _CONNECTIONS, _ACCEPTS, _ACCEPTED = range(_LINE, _LINE + 4)

#: Words of `Entry.line`.
CONNECTIONS, ACCEPTS, ACCEPTED = _CONNECTIONS - _LINE, _ACCEPTS - _LINE, _ACCEPTED - _LINE

# Lines 2 and 3
_BINDS = 16
# Line 4
_SEQUENCE = 32

_COPIES = 40
_COPY = 2 + WORDS

#: Attempts to read. A writer writes about once a second, so a second attempt is rare. A page that stays unreadable was destroyed.
_ATTEMPTS = 1000

_MASK = 2**64 - 1


class State(Enum):
    """The state of a worker."""

    BOOTING = "booting"
    SERVING = "serving"
    LEAVING = "leaving"  #: it serves until another worker is ready in its slot
    BLOCKED = "blocked"  #: its event loop is blocked, and another worker starts in its slot
    RETIRING = "retiring"  #: it ends, and others serve instead
    ENDING = "ending"


_STATES = list(State)


class Entry:
    """The part of the page that is about one worker process. Made by `SharedPage`."""

    __slots__ = ("_at", "_words", "index")

    def __init__(self, words: memoryview, index: int) -> None:
        self.index = index
        self._words = words
        self._at = index * _ENTRY

    # Written by the master

    @property
    def pid(self) -> int:
        """The process id; 0 until the master has forked it."""
        return self._words[self._at + _PID]

    @pid.setter
    def pid(self, pid: int) -> None:
        self._words[self._at + _PID] = pid

    @property
    def generation(self) -> int:
        """The generation of workers that it belongs to, from 1 on; 0 if the entry is free."""
        return self._words[self._at + _GENERATION]

    @property
    def number(self) -> int:
        """The number of the worker, from 0 on. A worker and the one that replaces it have the same number."""
        return self._words[self._at + _NUMBER]

    @property
    def state(self) -> State:
        """Its state, as the master sees it."""
        return _STATES[self._words[self._at + _STATE]]

    @state.setter
    def state(self, state: State) -> None:
        self._words[self._at + _STATE] = _STATES.index(state)

    @property
    def started(self) -> float:
        """When the master started it (`monotonic`)."""
        return self._words[self._at + _STARTED] / 1e9

    # Written by the worker

    @property
    def heartbeat(self) -> float | None:
        """When its event loop last ran (`monotonic`), to a second; None before it is ready."""
        return self._words[self._at + _HEARTBEAT] / 1e9 or None

    def beat(self) -> None:
        """Write the time, because the event loop runs."""
        self._words[self._at + _HEARTBEAT] = monotonic_ns()

    @property
    def connections(self) -> int:
        """Connections that it serves now."""
        return self._words[self._at + _CONNECTIONS]

    @connections.setter
    def connections(self, number: int) -> None:
        self._words[self._at + _CONNECTIONS] = number

    @property
    def accepts(self) -> bool:
        """Whether it accepts connections now. False before it is ready, while it has `max_connections`, and once it drains."""
        return self._words[self._at + _ACCEPTS] != 0

    @accepts.setter
    def accepts(self, accepts: bool) -> None:
        self._words[self._at + _ACCEPTS] = accepts

    @property
    def accepted(self) -> int:
        """Connections that it has accepted so far."""
        return self._words[self._at + _ACCEPTED]

    @accepted.setter
    def accepted(self, number: int) -> None:
        self._words[self._at + _ACCEPTED] = number

    @property
    def line(self) -> memoryview:
        """The line that the worker writes, for code that looks often."""
        return self._words[self._at + _LINE : self._at + _LINE + 8]

    @property
    def binds(self) -> frozenset[int]:
        """A word, not 0, for each bind on which it takes over connections of workers that end."""
        at = self._at + _BINDS
        return frozenset(self._words[at : at + BINDS]) - {0}

    @binds.setter
    def binds(self, binds: Iterable[int]) -> None:
        """Only the first `BINDS` of them are kept."""
        kept = list(binds)[:BINDS]
        at = self._at + _BINDS
        self._words[at : at + BINDS] = array("Q", kept + [0] * (BINDS - len(kept)))

    def write(self, words: Sequence[int]) -> None:
        """Replace the counters. Only the worker calls this. Raises `ValueError` for more than `WORDS` of them, and `OverflowError` for a
        number below 0, or from 2**64 on; then the counters before stay."""
        if len(words) > WORDS:
            raise ValueError(f"{len(words)} counters: the page has room for {WORDS}")
        whole = array("Q", [len(words), 0])
        whole.extend(array("Q", words))
        whole[1] = crc32(memoryview(whole)[2:])
        sequence = self._words[self._at + _SEQUENCE] + 1 & _MASK
        at = self._copy(sequence)
        self._words[at : at + len(whole)] = whole
        self._words[self._at + _SEQUENCE] = sequence

    def read(self) -> list[int] | None:
        """The counters that the last `write` wrote, all of them from the same write; empty before the first. None if they are destroyed,
        because code in some process has written over them."""
        for _ in range(_ATTEMPTS):
            sequence = self._words[self._at + _SEQUENCE]
            if sequence == 0:
                return []
            at = self._copy(sequence)
            number, checksum = self._words[at], self._words[at + 1]
            if number <= WORDS:
                # One copy in C, and the sequence at once: between them the writer may finish one write. To read word by word takes longer
                # than a write, so that a writer that never rests would win each time.
                data = self._words[at + 2 : at + 2 + number].tobytes()
                if self._words[self._at + _SEQUENCE] == sequence and crc32(data) == checksum:
                    return memoryview(data).cast("Q").tolist()
        return None

    def _copy(self, sequence: int) -> int:
        return self._at + _COPIES + (sequence & 1) * _COPY

    # Used by the page

    def _begin(self, number: int, generation: int) -> None:
        self._words[self._at : self._at + _SEQUENCE + 1] = array("Q", bytes(8 * (_SEQUENCE + 1)))
        self._words[self._at + _NUMBER] = number
        self._words[self._at + _STARTED] = monotonic_ns()
        self._words[self._at + _GENERATION] = generation

    def _end(self) -> None:
        self._words[self._at + _GENERATION] = 0
        self._words[self._at + _ACCEPTS] = 0


class SharedPage:
    """The entries of all workers. Made by the master, before it forks."""

    def __init__(self, gauges: Iterable[int] = (), entries: int = ENTRIES) -> None:
        """`gauges` are the indices of the words that are no sums. `entries` is how many processes there may be at once. Raises `OSError` if
        no memory is left."""
        self._gauges = frozenset(gauges)
        self._entries = entries
        self._map = mmap.mmap(-1, (1 + entries) * _ENTRY * 8)
        self._words = memoryview(self._map).cast("Q")
        self._retired = Entry(self._words, 0)

    def close(self) -> None:
        """Give up the memory in this process. No `Entry` may be used after it."""
        self._words.release()
        self._map.close()

    # In the master

    def take(self, number: int, generation: int) -> Entry:
        """A free entry, for worker `number` of `generation` (1 or more). Its counters are empty. Raises `OSError` if none is free."""
        for index in range(1, self._entries + 1):
            entry = Entry(self._words, index)
            if not entry.generation:
                self._words[_VERSION] += 1
                entry._begin(number, generation)
                self._words[_EVER_USED] = max(self._words[_EVER_USED], index)
                self._words[_VERSION] += 1
                return entry
        raise OSError(errno.ENOMEM, f"there are {self._entries} workers already")

    def retire(self, entry: Entry) -> None:
        """Add the counters of a worker that has ended to the sums, and free its entry."""
        last = entry.read()
        if last is None:
            log.error("worker %d has destroyed its counters: they are not in the sums", entry.pid)
            last = []
        counters = [0 if index in self._gauges else word for index, word in enumerate(last)]
        self._words[_VERSION] += 1
        if counters:
            self._retired.write(_added(self._retired.read() or [], counters))
        entry._end()
        self._words[_VERSION] += 1

    @property
    def followers(self) -> frozenset[int]:
        """A word for each bind on which the workers of a new master take over connections. Written by the master."""
        return self._retired.binds

    @followers.setter
    def followers(self, binds: Iterable[int]) -> None:
        self._retired.binds = binds

    # In every process

    def entry(self, index: int) -> Entry:
        """The entry with this index."""
        return Entry(self._words, index)

    def common_binds(self, besides: int | None = None) -> frozenset[int]:
        """The binds on which all workers that accept take over connections, since any of them may be the one that does. The entry with the
        index `besides` does not count."""
        binds = [entry.binds for entry in self.entries() if entry.index != besides and entry.accepts]
        return frozenset.intersection(*binds) if binds else frozenset()

    @property
    def version(self) -> int:
        """A number that changes when entries are taken or freed."""
        return self._words[_VERSION]

    @property
    def head(self) -> memoryview:
        """The first line, for code that looks often: its first word is the version."""
        return self._words[:8]

    def entries(self) -> list[Entry]:
        """The entries that are in use."""
        all_of_them = (Entry(self._words, index) for index in range(1, self._words[_EVER_USED] + 1))
        return [entry for entry in all_of_them if entry.generation]

    def totals(self) -> list[int]:
        """The counters of all workers, added up, with those of workers that have ended. Gauges are of the workers that live. A number that
        does not fit into 64 bits begins again at 0."""
        found: list[int] = []
        for _ in range(_ATTEMPTS):
            version = self._words[_VERSION]
            found = self._retired.read() or []
            for entry in self.entries():
                found = _added(found, entry.read() or [])
            if version % 2 == 0 and self._words[_VERSION] == version:
                break
        return found  # after so many attempts, the master was killed in the middle of a change


def _added(some: list[int], others: list[int]) -> list[int]:
    if len(some) < len(others):
        some, others = others, some
    return [one + other & _MASK for one, other in zip(some, others, strict=False)] + some[len(others) :]
