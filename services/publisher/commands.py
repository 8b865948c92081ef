"""What people ask for: promote, roll back, freeze. Each command takes effect once, or is refused with a reason."""

import logging
from typing import Protocol

from freshrank.v1.models_pb2 import Command, PromoteArmRequest, StartTrialRequest, StopTrialRequest
from google.protobuf.message import DecodeError

from services.common.arms import MAIN, arm_of
from services.common.errors import PermanentError
from services.publisher.audit import Audit
from services.publisher.book import Switches

logger = logging.getLogger(__name__)


class Obeys(Protocol):
    """Who carries out what concerns one arm's releases; see `release.Releases`."""

    @property
    def arm(self) -> str:
        """Which arm it is."""
        ...

    def promote(self, release: str, actor: str, now_us: int) -> None:
        """Route to a held release."""

    def rollback(self, release: str, actor: str, reason: str, now_us: int) -> None:
        """Back to a release."""

    def freeze(self, switches: Switches, now_us: int) -> None:
        """Turn the switch."""


class Refers(Protocol):
    """Who carries out what is between arms; see `arms.referee.Referee`."""

    def start(self, asked: StartTrialRequest, now_us: int) -> None:
        """Begin a trial."""

    def stop(self, asked: StopTrialRequest, now_us: int) -> None:
        """End it."""

    def promote(self, asked: PromoteArmRequest, now_us: int) -> None:
        """Make an arm the incumbent."""


class Encodes(Protocol):
    """Who carries out what concerns text encoders and rerankers; see `encoders.models.TextModels`."""

    def rollback(self, actor: str, reason: str, reranker: bool = False) -> None:
        """Back to the encoder, or the reranker, before, soon."""


def obey(
    value: bytes | None,
    to: Obeys,
    audit: Audit,
    now_us: int,
    referee: Refers | None = None,
    encoders: Encodes | None = None,
) -> None:
    """Carry out one record of topic commands, if it is ours: each arm's publisher reads all of them.

    `referee`, `encoders`: of the publisher that has them. What cannot be done is written to the audit record and done
    with. Raises TemporaryError: the same record again.
    """
    try:
        command = Command.FromString(value or b"")
        if not _between_arms(command, referee, now_us) and not _of_encoders(command, encoders):
            _carry_out(command, to, now_us)
    except DecodeError as error:
        audit.add(now_us, "command_refused", reason=f"not a command: {error}")
    except PermanentError as error:
        kind = command.WhichOneof("command") or "nothing"
        logger.warning("command refused", extra={"command": kind, "error": str(error)})
        audit.add(now_us, "command_refused", command=kind, command_id=command.command_id, reason=str(error))


def _between_arms(command: Command, referee: Refers | None, now_us: int) -> bool:
    """Carry out what concerns several arms; False when it is something else."""
    kind = command.WhichOneof("command")
    if kind not in ("start_trial", "stop_trial", "promote_arm"):
        return False
    if referee is None:
        return True
    if kind == "start_trial":
        referee.start(command.start_trial, now_us)
    elif kind == "stop_trial":
        referee.stop(command.stop_trial, now_us)
    else:
        referee.promote(command.promote_arm, now_us)
    return True


def _of_encoders(command: Command, encoders: Encodes | None) -> bool:
    if command.WhichOneof("command") != "rollback_encoder":
        return False
    if encoders is not None:
        asked = command.rollback_encoder
        encoders.rollback(asked.actor, asked.reason or f"asked for by {asked.actor or 'a person'}", asked.reranker)
    return True


def _carry_out(command: Command, to: Obeys, now_us: int) -> None:
    if _arm(command) not in ("", to.arm):
        return
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


def _arm(command: Command) -> str:
    """The arm a command is about; empty for all of them, and for what is no release (refused by whoever reads it)."""
    match command.WhichOneof("command"):
        case "promote":
            return arm_of(command.promote.release)
        case "rollback":
            return arm_of(command.rollback.release) if command.rollback.release else command.rollback.arm or MAIN
        case _:
            return ""
