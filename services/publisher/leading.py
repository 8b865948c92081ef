"""Which leadership the settings ask for, and how it is kept."""

import asyncio
import socket
import uuid

from services.common.errors import TemporaryError
from services.publisher.arms.court import state_folder
from services.publisher.lock import FileLock, Leadership
from services.publisher.loop import Loops
from services.publisher.meters import Meters
from services.publisher.settings import PublisherSettings


def leadership_of(settings: PublisherSettings) -> Leadership:
    """The Lease or the lock of the settings' arm."""
    if settings.leadership == "lease":
        from services.publisher.kubernetes import lease

        # A process of its own: after a restart in the same pod, what the old one knew is gone.
        identity = f"{settings.identity or socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        name = settings.lease or f"freshrank-publisher-{settings.arm}"
        return lease(settings.namespace, name, identity, settings.lease_s)
    return FileLock(state_folder(settings.store, settings.arm) / "lock")


async def renew(leadership: Leadership, loops: Loops, meters: Meters, every_s: float) -> None:
    """Try to lead, and to go on leading, until the loops stop; they fail when another one leads."""
    while not loops.stopped.is_set():
        meters.holds(leader=await asyncio.to_thread(leadership.acquire))
        if leadership.lost():
            loops.fail(TemporaryError("another publisher leads now"))
        await asyncio.to_thread(loops.stopped.wait, every_s)
