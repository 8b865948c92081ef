"""Records on the wrong partition: sent on to their user's, each exactly once."""

from freshrank.v1.events_pb2 import Forwarded, Inbound

from services.common.ids import partition_of


class Router:
    """Where records belong, and what has been taken from where."""

    def __init__(self, partition: int, partitions: int) -> None:
        self._partition = partition
        self._partitions = partitions
        self._taken: dict[int, tuple[int, int]] = {}

    def is_home(self, user: str) -> bool:
        """Whether a user's records belong on this partition; nobody's may stay where they are."""
        return not user or partition_of(user, self._partitions) == self._partition

    def forward(self, inbound: Inbound, user: str, offset: int, index: int, hops: int = 0) -> tuple[int, bytes, bytes]:
        """Partition, key and value of the record that carries `inbound` to its user's partition."""
        carried = Forwarded(partition=self._partition, offset=offset, index=index, inbound=inbound, hops=hops)
        value = Inbound(forwarded=carried, received_us=inbound.received_us).SerializeToString()
        return partition_of(user, self._partitions), user.encode(), value

    def take(self, carried: Forwarded) -> bool:
        """Whether a forwarded record is new: an owner that starts again sends its last ones again, in order."""
        place = (carried.offset, carried.index)
        if place <= self._taken.get(carried.partition, (-1, -1)):
            return False
        self._taken[carried.partition] = place
        return True

    def to_json(self) -> list[list[int]]:
        """Plain data for a snapshot."""
        return [[origin, offset, index] for origin, (offset, index) in sorted(self._taken.items())]

    def restore(self, taken: list[list[int]]) -> None:
        """Take over what `to_json` gave."""
        self._taken = {origin: (offset, index) for origin, offset, index in taken}
