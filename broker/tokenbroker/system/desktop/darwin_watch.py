"""The helper process in which macOS tells of sleep and of the locked screen.

Apple delivers distributed notifications to the main thread and to no other (documentation of
NSDistributedNotificationCenter), through a run loop of Core Foundation; the daemon's main thread runs asyncio. So this
program's main thread runs that loop, and a fault in a foreign library ends this program and not the daemon.

Standard library only; started as `python -I -S darwin_watch.py IOKIT COREFOUNDATION EVENT…`, the libraries as paths.
Written to Apple's headers: IOKit/pwr_mgt/IOPMLib.h, IOKit/IOMessage.h, CoreFoundation/CFNotificationCenter.h,
CFRunLoop.h, CFString.h. Lines of text, both ways: it writes `ready`, or `failed` and why; then `sleep N` and
`screen_lock` as they happen. The daemon sends each back when it has handled it: before it lets the machine sleep, this
program waits for that very `sleep N`, `BOUND` seconds at most. When stdin closes, it ends.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:  # the module itself would cost a tenth of the start
    from typing import Any

BOUND = 5.0  # seconds; the system itself would wait 30 (IOPMLib.h)

# IOKit/IOMessage.h: iokit_common_msg(x) is err_system(0x38) | err_sub(0) | x.
CAN_SYSTEM_SLEEP = 0xE0000270
SYSTEM_WILL_SLEEP = 0xE0000280

UTF8 = 0x08000100  # kCFStringEncodingUTF8
DELIVER_IMMEDIATELY = 4  # kCFNotificationSuspensionBehaviorDeliverImmediately
SCREEN_IS_LOCKED = b"com.apple.screenIsLocked"  # posted by loginwindow; in no header, but since Mac OS X 10.5

_POINTER = ctypes.c_void_p
_PORT = ctypes.c_uint32  # mach_port_t, io_object_t, io_service_t, io_connect_t
# void (*IOServiceInterestCallback)(void *refcon, io_service_t service, uint32_t messageType, void *messageArgument)
INTEREST = ctypes.CFUNCTYPE(None, _POINTER, _PORT, ctypes.c_uint32, _POINTER)
# void (*CFNotificationCallback)(center, void *observer, CFStringRef name, const void *object, CFDictionaryRef info)
NOTIFIED = ctypes.CFUNCTYPE(None, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER)

# Without these ctypes takes every result for an int and cuts pointers in half.
IOKIT: dict[str, tuple[Any, list[Any]]] = {
    "IORegisterForSystemPower": (_PORT, [_POINTER, ctypes.POINTER(_POINTER), INTEREST, ctypes.POINTER(_PORT)]),
    "IONotificationPortGetRunLoopSource": (_POINTER, [_POINTER]),
    "IOAllowPowerChange": (ctypes.c_int, [_PORT, ctypes.c_ssize_t]),
}
COREFOUNDATION: dict[str, tuple[Any, list[Any]]] = {
    "CFRunLoopGetCurrent": (_POINTER, []),
    "CFRunLoopAddSource": (None, [_POINTER, _POINTER, _POINTER]),
    "CFRunLoopRun": (None, []),
    "CFStringCreateWithCString": (_POINTER, [_POINTER, ctypes.c_char_p, ctypes.c_uint32]),
    "CFNotificationCenterGetDistributedCenter": (_POINTER, []),
    "CFNotificationCenterAddObserver": (
        None, [_POINTER, _POINTER, NOTIFIED, _POINTER, _POINTER, ctypes.c_ssize_t]
    ),
}  # fmt: skip


def load(path: str, functions: dict[str, tuple[Any, list[Any]]]) -> Any:
    """Load a library and declare `functions` of it. Raises OSError or AttributeError."""
    library = ctypes.CDLL(path)
    for name, (result, arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Watch:
    """Tells the daemon; keeps the callbacks alive that the system holds."""

    def __init__(self, iokit: Any, corefoundation: Any) -> None:
        """Use the loaded libraries."""
        self._iokit = iokit
        self._cf = corefoundation
        self._sleeps = 0
        self._handled = threading.Event()
        self._root = 0
        self._port = _POINTER()
        self._notifier = _PORT()
        self._on_power = INTEREST(self._power)
        self._on_lock = NOTIFIED(self._locked)

    def sleep(self) -> None:
        """Register for the system's power. Raises OSError."""
        self._root = self._iokit.IORegisterForSystemPower(
            None, ctypes.byref(self._port), self._on_power, ctypes.byref(self._notifier)
        )
        if not self._root:  # MACH_PORT_NULL
            raise OSError("the system does not tell of its power")
        source = self._iokit.IONotificationPortGetRunLoopSource(self._port)
        mode = _POINTER.in_dll(self._cf, "kCFRunLoopDefaultMode")
        self._cf.CFRunLoopAddSource(self._cf.CFRunLoopGetCurrent(), source, mode)

    def screen_lock(self) -> None:
        """Register for the locked screen. Raises OSError."""
        center = self._cf.CFNotificationCenterGetDistributedCenter()
        name = self._cf.CFStringCreateWithCString(None, SCREEN_IS_LOCKED, UTF8)
        if not center or not name:
            raise OSError("there is no distributed notification center")
        observer = ctypes.addressof(self._notifier)  # any address that is ours names this observer
        self._cf.CFNotificationCenterAddObserver(center, observer, self._on_lock, name, None, DELIVER_IMMEDIATELY)

    def run(self) -> None:
        """Run the loop of this thread, which must be the main one. Returns if there is nothing to wait for."""
        self._cf.CFRunLoopRun()

    def listen(self) -> None:
        """Take the daemon's answers, until it hangs up, which ends the process."""
        with open(0, "rb", closefd=False) as answers:
            for line in answers:
                if line.decode().strip() == f"sleep {self._sleeps}":  # not the late answer to an earlier one
                    self._handled.set()
        os._exit(0)  # the main thread is in a foreign loop

    def _power(self, _refcon: int | None, _service: int, message: int, argument: int | None) -> None:
        if message == SYSTEM_WILL_SLEEP:
            self._handled.clear()
            self._sleeps += 1
            tell(f"sleep {self._sleeps}")
            self._handled.wait(BOUND)
        if message in {SYSTEM_WILL_SLEEP, CAN_SYSTEM_SLEEP}:
            self._iokit.IOAllowPowerChange(self._root, argument or 0)

    def _locked(self, *_arguments: int | None) -> None:
        tell("screen_lock")


def tell(line: str) -> None:
    """Write one line to the daemon, or end if it is gone."""
    try:
        os.write(1, f"{line}\n".encode())
    except OSError:
        os._exit(0)


def main(iokit: str, corefoundation: str, *events: str) -> None:
    """Register for `events` (`sleep`, `screen_lock`) and tell of them."""
    try:
        watch = Watch(load(iokit, IOKIT), load(corefoundation, COREFOUNDATION))
        for event in events:
            {"sleep": watch.sleep, "screen_lock": watch.screen_lock}[event]()
    except (OSError, AttributeError, ValueError) as error:
        tell(f"failed {error}")
        return
    threading.Thread(target=watch.listen, daemon=True).start()
    tell("ready")
    watch.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
