"""The explorer's haste: changes that come faster than they can be drawn become one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Soon:
    """Calls a function a moment later, once for all requests that have come until then.

    It draws what the controls say *then*, so the last change wins, and a slider that moves on is
    followed and not waited for. Without a running event loop, as in a plain script, it calls at
    once.

    Args:
        call: what to do.
        delay: the moment, in seconds.

    Example:
        >>> calls = []
        >>> Soon(lambda: calls.append("drawn"))()
        >>> calls
        ['drawn']
    """

    def __init__(self, call: Callable[[], None], delay: float = 0.02) -> None:
        self.delay = delay
        self._call = call
        self._waiting: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        """Ask for a call."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._call()
            return
        if self._waiting is None:
            # Messages that queued up while the last picture was drawn are all read before this.
            self._waiting = loop.call_later(self.delay, self.now)

    def now(self) -> None:
        """Call now; a request that waits is thereby met."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._call()
