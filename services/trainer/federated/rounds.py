"""Rounds of a federation over Flower's grid: who is there, what each is asked, what comes of the answers."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from services.common.clock import Clock
from services.common.errors import InvalidInput, TemporaryError
from services.trainer.federated import secure, wire
from services.trainer.federated.coordinator import Coordinator
from services.trainer.federated.model import Answer

log = logging.getLogger(__name__)

TRIES = 3
"""Of a round of secure aggregation, each with the shops that are left."""

SHOW, LEARN = "query.show", "train.learn"
"""Types of the messages to shops; secure aggregation has Flower's own, `train`."""


@dataclass(frozen=True)
class Plan:
    """How a federation goes."""

    rounds: int
    """In all, those that are over counted."""
    messages: int
    """Of a shop's archive after which a round ends, in whole batches."""
    least: int = 1
    """Shops whose answers make a round."""
    wait_s: float = 600.0
    """For answers, and for shops to come."""
    secure: bool = False
    """Only sums of the answers are seen."""
    catalogue: tuple[str, ...] = ()
    """Items whose rows are summed too, of secure aggregation; those of no other leave a shop."""
    most: int = 20_000
    """Examples of a shop in a round that count, of secure aggregation: more are as many."""

    def __post_init__(self) -> None:
        """Raises InvalidInput."""
        for name in ("rounds", "messages", "least", "most"):
            value = getattr(self, name)
            if value < 1:
                raise InvalidInput(name, "out_of_range", "must be 1 or more")
        if self.wait_s <= 0:
            raise InvalidInput("wait_s", "out_of_range", "must be above 0")
        if self.secure and self.least < secure.LEAST:
            raise InvalidInput("least", "out_of_range", f"secure aggregation needs {secure.LEAST} shops at least")


@dataclass(frozen=True)
class Ended:
    """A round that is over."""

    round: int
    answered: Sequence[str]
    missing: Sequence[str]
    """Shops that were asked and did not answer, or answered with an error."""
    examples: int
    """Of all shops that answered."""
    figures: Mapping[str, Mapping[str, float]]
    """By shop: progressive validation, and its examples; none of secure rounds."""


@dataclass
class Members:
    """The shops that can be reached, by the number of their node; each is asked once who it is."""

    grid: Grid
    coordinator: Coordinator
    wait_s: float
    shops: dict[int, str] = field(default_factory=dict)
    _refused: set[int] = field(default_factory=set)

    def present(self, clock: Clock, least: int) -> dict[int, str]:
        """Shops by node. Raises TemporaryError when there are not `least` in time."""
        until = clock.now_us() + int(self.wait_s * 1e6)
        while True:
            here = self._known(set(self.grid.get_node_ids()))
            if len(here) >= least:
                return here
            if clock.now_us() >= until:
                raise TemporaryError(f"{len(here)} shops are there, {least} are needed")
            time.sleep(1.0)

    def _known(self, nodes: set[int]) -> dict[int, str]:
        self.shops = {node: shop for node, shop in self.shops.items() if node in nodes}
        new = sorted(nodes - set(self.shops) - self._refused)
        messages = [Message(RecordDict(), node, SHOW) for node in new]
        for message in ask(self.grid, messages, self.wait_s):
            self._meet(message)
        return dict(self.shops)

    def _meet(self, message: Message) -> None:
        node = message.metadata.src_node_id
        shown = wire.to_shown(message.content)
        reason = self.coordinator.refused(shown)
        if reason:
            log.warning("shop left out", extra={"shop": shown.shop, "reason": reason})
            self._refused.add(node)
            return
        # A shop that comes again has another node; two of one name would count its examples twice.
        self.shops = {n: shop for n, shop in self.shops.items() if shop != shown.shop} | {node: shown.shop}


def federate(
    grid: Grid, coordinator: Coordinator, plan: Plan, clock: Clock, report: Callable[[Ended], None] = lambda ended: None
) -> None:
    """Make the rounds that are left; at the end every shop takes the model of all over.

    Raises TemporaryError when too few shops answer.
    """
    members = Members(grid, coordinator, plan.wait_s)
    make = _summed if plan.secure else _averaged
    while coordinator.round < plan.rounds:
        report(make(members, plan, clock))
    settle(grid, coordinator, sorted(members.present(clock, plan.least)), plan.wait_s)


def _averaged(members: Members, plan: Plan, clock: Clock) -> Ended:
    shops = members.present(clock, plan.least)
    answers = learned(members.grid, members.coordinator, sorted(shops), plan)
    if len(answers) < plan.least:
        raise TemporaryError(f"{len(answers)} shops answered, {plan.least} are needed")
    members.coordinator.take(answers)
    figures = {answer.shop: {"examples": answer.examples, **answer.figures} for answer in answers}
    examples = sum(answer.examples for answer in answers)
    return _ended(members.coordinator.round, shops, sorted(figures), examples, figures)


def _summed(members: Members, plan: Plan, clock: Clock) -> Ended:
    coordinator = members.coordinator
    for _ in range(TRIES):
        shops = members.present(clock, plan.least)
        asked = coordinator.asked(plan.messages)
        found = secure.summed(members.grid, sorted(shops), asked, plan.catalogue, plan.most, plan.wait_s)
        if found is not None and len(found.answered) >= plan.least:
            coordinator.advance(found.weights, found.items, found.examples, found.log_us)
            answered = sorted(shops[node] for node in found.answered)
            return _ended(coordinator.round, shops, answered, found.examples, {})
        members.shops.clear()  # a shop that went before it had shared its keys stops the protocol: who is left?
    raise TemporaryError(f"secure aggregation came to no end in {TRIES} tries with {plan.least} shops or more")


def learned(grid: Grid, coordinator: Coordinator, nodes: Sequence[int], plan: Plan) -> list[Answer]:
    """The answers to the next round's question that came in time."""
    content = wire.of_asked(coordinator.asked(plan.messages))
    group = str(coordinator.round + 1)
    messages = [Message(content, node, LEARN, group_id=group, ttl=plan.wait_s) for node in nodes]
    return [wire.to_answer(message.content) for message in ask(grid, messages, plan.wait_s)]


def settle(grid: Grid, coordinator: Coordinator, nodes: Sequence[int], wait_s: float) -> None:
    """Let shops take the model of all over; one that is gone gets it when it comes again."""
    content = wire.of_asked(coordinator.asked(0))
    messages = [Message(content, node, LEARN, group_id="end", ttl=wait_s) for node in nodes]
    ask(grid, messages, wait_s)


def ask(grid: Grid, messages: Iterable[Message], wait_s: float) -> list[Message]:
    """Answers that are no errors, in the order of the nodes."""
    sent = list(messages)
    replies = list(grid.send_and_receive(sent, timeout=wait_s)) if sent else []
    for message in replies:
        if message.has_error():
            details: dict[str, Any] = {"node": message.metadata.src_node_id, "error": message.error.reason}
            log.warning("shop answered with an error", extra=details)
    good = [message for message in replies if not message.has_error()]
    return sorted(good, key=lambda message: message.metadata.src_node_id)


def _ended(
    number: int,
    shops: Mapping[int, str],
    answered: Sequence[str],
    examples: int,
    figures: Mapping[str, Mapping[str, float]],
) -> Ended:
    return Ended(number, answered, sorted(set(shops.values()) - set(answered)), examples, figures)
