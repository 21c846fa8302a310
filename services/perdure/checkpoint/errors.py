"""The error tree of the notebook.

::

    NotebookError
    ├── Fenced              another owner goes on with the run; this one must stop
    ├── NotSerialisable     a value of the state or of a write cannot be stored; also a TypeError and a ValueError
    ├── InvalidId           a thread id, namespace or checkpoint id cannot be part of a key
    ├── UnsafeSerializer    the serializer would unpickle
    ├── Damaged             what is stored is not whole
    │   ├── SegmentMissing      a segment that a checkpoint names is not there
    │   ├── SegmentCorrupt      a segment's bytes do not match its digest
    │   └── UnknownFormat       written by a newer version
    ├── StoreRefused        the database refused, and waiting does not cure it
    ├── WrongThread         a synchronous call on the thread of the event loop that would have to serve it
    └── Closed              the saver is closed, or its event loop is

``retryable`` says whether the same call by the same caller may succeed later without anyone changing anything. An
unreachable database is no error here: the saver waits for it.
"""

from __future__ import annotations

from perdure.chassis.errors import PerdureError


class NotebookError(PerdureError):
    """Base of all errors that the notebook raises on purpose."""

    retryable = False


class Fenced(NotebookError):
    """Another owner has taken over the run: the sequence number is occupied by a document that is not ours."""

    def __init__(self, thread_id: str, run_id: str, epoch: int, seq: int) -> None:
        super().__init__(
            f"run {run_id} of thread {thread_id} has another owner: sequence number {seq} is taken. "
            f"The owner with epoch {epoch} must stop; no checkpoint of it is kept from here on."
        )
        self.thread_id = thread_id
        self.run_id = run_id
        self.epoch = epoch
        self.seq = seq


class NotSerialisable(NotebookError, TypeError, ValueError):
    """A value cannot be stored.

    Serializers raise ``TypeError`` or ``ValueError``; programs that catch them with another saver catch this as well.
    The serializer's own exception is the ``__cause__``.

    Attributes:
        ns: The checkpoint namespace: empty for the graph itself, ``node:task`` and so on for a subgraph.
        channel: The channel, or the key of the state.
        node: Who wrote the value, several separated by ``, ``; ``None`` where that is not known.

    """

    def __init__(
        self,
        *,
        thread_id: str,
        channel: str,
        value_type: str,
        detail: str,
        task_id: str | None = None,
        node: str | None = None,
        ns: str = "",
    ) -> None:
        source = f" returned by node {node!r}" if node else ""
        super().__init__(
            f"the value of channel {channel!r}{source} in thread {thread_id} cannot be stored: {detail} "
            f"(a {value_type}). "
            "Keep only plain data, dataclasses, pydantic models and messages in the state; put "
            "connections and functions "
            "into the config or an UntrackedValue channel."
        )
        self.thread_id = thread_id
        self.channel = channel
        self.value_type = value_type
        self.detail = detail
        self.task_id = task_id
        self.node = node
        self.ns = ns


class InvalidId(NotebookError):
    """An id cannot be part of a key."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__(
            f"{name} {value!r} cannot be stored: it must be text without the unit separator (U+001F), "
            "and not empty for a thread"
        )
        self.name = name
        self.value = value


class UnsafeSerializer(NotebookError):
    """The serializer would unpickle what it reads."""

    def __init__(self) -> None:
        super().__init__(
            "the notebook never unpickles: pass a serializer without pickle_fallback, for example JsonPlusSerializer()"
        )


class Damaged(NotebookError):
    """What is stored is not whole."""


class SegmentMissing(Damaged):
    """A segment that a checkpoint names is not there."""

    def __init__(self, thread_id: str, digest: str) -> None:
        super().__init__(
            f"thread {thread_id}: segment {digest} is missing. It was deleted by something other than "
            "the notebook, or a backup "
            "was restored in part. Restore the collection whole, or go back to a checkpoint that does not need it."
        )
        self.thread_id = thread_id
        self.digest = digest


class SegmentCorrupt(Damaged):
    """A segment's bytes do not match its digest."""

    def __init__(self, thread_id: str, digest: str, detail: str) -> None:
        super().__init__(
            f"thread {thread_id}: segment {digest} is corrupt ({detail}). Check the database's disks, "
            "then restore the collection "
            "from a backup, or go back to a checkpoint that does not need it."
        )
        self.thread_id = thread_id
        self.digest = digest
        self.detail = detail


class UnknownFormat(Damaged):
    """A document was written by a newer version of Perdure."""

    def __init__(self, thread_id: str, checkpoint_id: str, found: object) -> None:
        super().__init__(
            f"checkpoint {checkpoint_id} of thread {thread_id} has format {found!r}, which this version "
            "cannot read: upgrade Perdure"
        )
        self.thread_id = thread_id
        self.checkpoint_id = checkpoint_id
        self.found = found


class StoreRefused(NotebookError):
    """The database refused a write, and waiting does not cure it."""

    def __init__(self, thread_id: str, detail: str) -> None:
        super().__init__(f"thread {thread_id}: the database refused the write: {detail}")
        self.thread_id = thread_id
        self.detail = detail


class WrongThread(NotebookError):
    """A synchronous call on the thread of the event loop that would have to serve it."""

    def __init__(self, method: str) -> None:
        super().__init__(
            f"{method}() was called on the thread of the event loop that serves this saver and would "
            "wait for itself for ever: "
            f"await a{method}() there, call {method}() from another thread, or open the saver with "
            '"with PerdureSaver.from_conn_string(...)", which gives it an event loop of its own'
        )
        self.method = method


class Closed(NotebookError):
    """The saver is closed, or the event loop that it belongs to is."""

    def __init__(self) -> None:
        super().__init__("this saver is closed (or its event loop is): open a new one")
