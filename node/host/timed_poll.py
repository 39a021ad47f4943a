"""Wait for sockets until an instant, to the microsecond and for any number of descriptors.

``epoll`` counts its timeouts in whole milliseconds and ``select`` takes no descriptor above 1,023. So the
instant is a descriptor too: a timer of the kernel that ``epoll`` watches. Linux only.
"""

import ctypes
import os
import select
import struct

from node.core.units import NS_PER_S

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_TIMER_SPEC = struct.Struct("@llll")
"""Seconds and nanoseconds of the interval, here none, and of the instant."""


class TimedPoll:
    """Readiness of descriptors and one instant of the monotonic clock."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = ctypes.create_string_buffer(_TIMER_SPEC.size)
        self._armed_ns = 0  # 0: the timer is not set, or has gone off
        self._poll = select.epoll()
        # Edge-triggered: to set the timer anew also clears it, so that it need not be read.
        self._poll.register(self._timer, select.EPOLLIN | select.EPOLLET)

    def watch(self, descriptor: int) -> None:
        """Begin to watch a descriptor for reading."""
        self._poll.register(descriptor, select.EPOLLIN)

    def watch_writing(self, descriptor: int, wanted: bool) -> None:
        """Watch a descriptor, watched already, for writing too, or no longer."""
        self._poll.modify(descriptor, select.EPOLLIN | (select.EPOLLOUT if wanted else 0))

    def forget(self, descriptor: int) -> None:
        """Watch it no longer; to be called before it is closed."""
        self._poll.unregister(descriptor)

    def wait(self, instant_ns: int | None) -> list[tuple[int, int]]:
        """Wait until a descriptor is ready or the instant has come.

        Args:
            instant_ns: Of the monotonic clock, > 0; may have passed. None: wait for descriptors alone.

        Returns:
            (descriptor, mask of ``select.EPOLL*``) of those that are ready, in no order to rely on.
        """
        wanted = 0 if instant_ns is None else instant_ns
        if wanted != self._armed_ns:
            _TIMER_SPEC.pack_into(self._spec, 0, 0, 0, wanted // NS_PER_S, wanted % NS_PER_S)
            self._libc.timerfd_settime(self._timer, _TFD_TIMER_ABSTIME, self._spec, None)
            self._armed_ns = wanted
        ready = []
        for descriptor, mask in self._poll.poll():
            if descriptor == self._timer:
                self._armed_ns = 0
            else:
                ready.append((descriptor, mask))
        return ready

    def close(self) -> None:
        """Give the descriptors back."""
        self._poll.close()
        os.close(self._timer)
