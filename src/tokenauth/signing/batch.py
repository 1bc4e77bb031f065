"""Sign many files with one login. One file's failure is that file's.

What concerns the key ends the batch: a PIN that was refused, a card that left.
"""

from __future__ import annotations

import queue
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenauth._records import Record
from tokenauth.errors import (
    IdentityNotFound,
    MechanismUnsupported,
    ModuleError,
    PinError,
    TokenAuthError,
    TokenNotFound,
    TokenRemoved,
)
from tokenauth.notices import notice
from tokenauth.signing.batch_planning import FAILED, SKIPPED
from tokenauth.signing.choice import signing_key
from tokenauth.signing.operations import check, perform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenauth.inventory.identity import Identity
    from tokenauth.pkcs11.keys import TokenKey
    from tokenauth.signing.batch_planning import Entry
    from tokenauth.signing.model import SigningKey
    from tokenauth.signing.operations import Task

__all__ = ["FAILED", "LEFT", "SIGNED", "SKIPPED", "Batch", "Outcome"]

#: What became of a file, besides :data:`SKIPPED` and :data:`FAILED`: it was signed, or not tried.
SIGNED, LEFT = "signed", "left"

#: Errors of the key: all that is left would fail alike, and might cost PIN tries.
_ENDS_ALL = (PinError, TokenRemoved, TokenNotFound, IdentityNotFound, ModuleError, MechanismUnsupported)


class Outcome(Record):
    """What became of one signed file.

    Args:
        files: what it is made of.
        status: :data:`SIGNED`, :data:`SKIPPED`, :data:`FAILED` or :data:`LEFT`.
        output: the signed file; None: there is none, or it was written to no file.
        content: the signed file itself, if it was written to no file.
        error: why it failed, or why it was left.
    """

    files: tuple[Path, ...]
    status: str
    output: Path | None = None
    content: bytes | None = None
    error: Exception | None = None

    @classmethod
    def of(cls, entry: Entry) -> Outcome:
        """Of one that is not to be made."""
        return cls(entry.files, entry.status, None if entry.error else entry.output, error=entry.error)


class Batch:
    """Signed files that are to be made with one key.

    The first is made in the caller's thread. Once it is there, the login is done, and several are made at a time; but
    not with a key that asks for the PIN each time.

    Args:
        entries: what is to be made.
        identity: who signs.
        jobs: how many are made at a time.
        pss: as in :func:`tokenauth.signing.sign`.
        told: is given each outcome as soon as it is known, in the thread that calls :meth:`run`.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        identity: Identity,
        *,
        jobs: int = 1,
        pss: bool | None = None,
        told: Callable[[Outcome], object] = lambda _: None,
    ) -> None:
        self._entries = list(entries)
        self._todo = [number for number, entry in enumerate(self._entries) if entry.task is not None]
        self._keys = _Keys(identity, pss)
        self._jobs = jobs
        self._told = told
        self._outcomes: dict[int, Outcome] = {}
        self._stop = threading.Event()
        self._fatal: Exception | None = None

    @property
    def asks_each_time(self) -> bool:
        """The key wants the PIN for each signature, as far as that is known."""
        return self._keys.asks_each_time

    @property
    def outcomes(self) -> list[Outcome]:
        """What is known so far, in the order of the entries."""
        return [self._outcomes[number] for number in sorted(self._outcomes)]

    def run(self) -> list[Outcome]:
        """Make them all, as far as that can be done.

        Returns:
            An outcome for each entry, in their order.

        Raises:
            LevelNotReached: a time stamp or revocation data can not be had; nothing was signed.
            TokenAuthError: the certificate is not good; nothing was signed.
            KeyboardInterrupt: Ctrl-C. No file is half-written, and there is an outcome for each entry.
        """
        for number, entry in enumerate(self._entries):
            if entry.task is None:
                self._settle(number, Outcome.of(entry))
                self._told(self._outcomes[number])
        try:
            self._check_all()
            self._sign_all()
        except KeyboardInterrupt:
            self._fatal = TokenAuthError("it was interrupted")
            raise
        finally:
            self._leave_the_rest()
        return self.outcomes

    def _check_all(self) -> None:
        """What concerns all files once, and then each file; no PIN is asked for."""
        ready = []
        for position, number in enumerate(self._todo):
            task = self._task(number)
            if not position:
                self._keys.prepare(task, self._what())
                check(task._replace(documents=(), output=None), self._keys.shared)
            try:
                check(task._replace(level="b-b"), self._keys.shared)
            except (TokenAuthError, OSError) as error:
                self._settle(number, Outcome(self._entries[number].files, FAILED, error=error))
                self._told(self._outcomes[number])
            else:
                ready.append(number)
        self._todo = ready

    def _what(self) -> str:
        """What the PIN is asked for, in words."""
        if len(self._todo) == 1:
            return f"to sign {_names(self._entries[self._todo[0]].files)}"
        return f"to sign {len(self._todo)} files"

    def _sign_all(self) -> None:
        self._announce(len(self._todo))
        for position, number in enumerate(self._todo):
            knew = self.asks_each_time
            self._make(number, self._reason(position))
            self._told(self._outcomes[number])
            if self._stop.is_set():
                return
            if self._outcomes[number].status != SIGNED:
                continue
            rest = self._todo[position + 1 :]
            if self.asks_each_time and not knew:
                self._announce(len(rest), " more")
            if self._jobs > 1 and rest and not self.asks_each_time:
                self._sign_in_threads(rest)
                return

    def _announce(self, count: int, more: str = "") -> None:
        if self.asks_each_time and count > 1:
            notice(f"{count}{more} signatures, the card asks for the PIN each time")

    def _reason(self, position: int) -> str:
        files = _names(self._entries[self._todo[position]].files)
        return f"to sign {files}" + (f" ({position + 1} of {len(self._todo)})" if len(self._todo) > 1 else "")

    def _sign_in_threads(self, numbers: list[int]) -> None:
        """Each thread takes the next file, with a session of the token's of its own, until none is left."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        made: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        for number in numbers:
            waiting.put(number)

        def work() -> None:
            with suppress(queue.Empty):
                while not self._stop.is_set():
                    number = waiting.get_nowait()
                    self._make(number)
                    made.put(number)
            made.put(None)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self._jobs, len(numbers)))]
        for thread in threads:
            thread.start()
        try:
            self._receive(made, len(threads))
        except BaseException:  # Ctrl-C, or nobody listens any more
            self._stop.set()
            for thread in threads:  # what is being signed is finished; a second Ctrl-C does not wait for it
                thread.join()
            raise

    def _receive(self, made: queue.SimpleQueue[int | None], running: int) -> None:
        while running:
            number = made.get()
            if number is None:
                running -= 1
            else:
                self._told(self._outcomes[number])

    def _make(self, number: int, reason: str = "") -> None:
        """Make one signed file."""
        files = self._entries[number].files
        try:
            made = perform(self._task(number), self._keys.for_one(reason))
        except Exception as error:  # noqa: BLE001 - whatever a file brings about, the others are signed
            _forget_variables(error)
            if isinstance(error, _ENDS_ALL):
                self._fatal = self._fatal or error
                self._stop.set()
            self._settle(number, Outcome(files, FAILED, error=error))
            return
        is_path = isinstance(made, Path)
        self._settle(number, Outcome(files, SIGNED, made if is_path else None, None if is_path else made))  # type: ignore[arg-type]

    def _task(self, number: int) -> Task:
        task = self._entries[number].task
        assert task is not None  # noqa: S101 - those without are not to be made
        return task

    def _settle(self, number: int, outcome: Outcome) -> None:
        self._outcomes[number] = outcome

    def _leave_the_rest(self) -> None:
        for number, entry in enumerate(self._entries):
            self._outcomes.setdefault(number, Outcome(entry.files, LEFT, error=self._fatal))


class _Keys:
    """The one key, for which each login and each signature can say what it is for."""

    def __init__(self, identity: Identity, pss: bool | None) -> None:
        self._identity = identity
        self._pss = pss
        self._extra: tuple[Any, ...] = ()
        self._known = identity.asks_each_time
        self.shared: SigningKey
        self._token_key: TokenKey | None = None

    def prepare(self, task: Task, reason: str) -> None:
        """Make the key that all use, unless it asks each time."""
        self._extra = (*task.means.extra, *task.means.trust)
        self.shared, self._token_key = self._made(reason)

    def for_one(self, reason: str) -> SigningKey:
        """The key for one signature.

        Args:
            reason: what it is for, in words.
        """
        return self._made(reason)[0] if self.asks_each_time and reason else self.shared

    @property
    def asks_each_time(self) -> bool:
        """Whether the PIN is asked for each time; many tokens show it only after the login."""
        if self._token_key is not None and self._token_key.ready:
            self._known = self._token_key.prepare().always_authenticate
        return bool(self._known)

    def _made(self, reason: str) -> tuple[SigningKey, TokenKey]:
        from tokenauth.pkcs11.private_keys import private_key, shape_of

        public_key = self._identity.certificate.public_key()
        credentials = self._identity.credentials._replace(reason=reason)
        token_key = self._identity.token_key(shape_of(public_key), credentials)
        key = private_key(token_key, public_key)
        return signing_key(self._identity, extra=self._extra, pss=self._pss, private_key=key), token_key


def _forget_variables(error: BaseException | None) -> None:
    """Let the files go that the frames of an error, which is kept, and of those before it hold."""
    import traceback

    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _names(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"{len(files)} files"
