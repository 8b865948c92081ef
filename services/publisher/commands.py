"""What people ask for: promote, roll back, freeze. Each command takes effect once, or is refused with a reason."""

import logging
from typing import Protocol

from freshrank.v1.models_pb2 import Command
from google.protobuf.message import DecodeError

from services.common.errors import PermanentError
from services.publisher.audit import Audit
from services.publisher.book import Switches

logger = logging.getLogger(__name__)


class Obeys(Protocol):
    """Who carries them out; see `release.Releases`."""

    def promote(self, release: str, actor: str, now_us: int) -> None:
        """Route to a held release."""

    def rollback(self, release: str, actor: str, reason: str, now_us: int) -> None:
        """Back to a release."""

    def freeze(self, switches: Switches, now_us: int) -> None:
        """Turn the switch."""


def obey(value: bytes | None, to: Obeys, audit: Audit, now_us: int) -> None:
    """Carry out one record of topic commands.

    What cannot be done is written to the audit record and done with. Raises TemporaryError: the same record again.
    """
    try:
        command = Command.FromString(value or b"")
        _carry_out(command, to, now_us)
    except DecodeError as error:
        audit.add(now_us, "command_refused", reason=f"not a command: {error}")
    except PermanentError as error:
        kind = command.WhichOneof("command") or "nothing"
        logger.warning("command refused", extra={"command": kind, "error": str(error)})
        audit.add(now_us, "command_refused", command=kind, command_id=command.command_id, reason=str(error))


def _carry_out(command: Command, to: Obeys, now_us: int) -> None:
    match command.WhichOneof("command"):
        case "promote":
            to.promote(command.promote.release, command.promote.actor, now_us)
        case "rollback":
            asked = command.rollback
            reason = asked.reason or f"asked for by {asked.actor or 'a person'}"
            to.rollback(asked.release, asked.actor, reason, now_us)
        case "freeze":
            f = command.freeze
            to.freeze(Switches(f.rows, f.releases, f.learning, f.actor, f.reason), now_us)
        case _:
            raise PermanentError("the command asks for nothing")
