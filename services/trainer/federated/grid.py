"""Flower's grid in one process: messages go to a client app by a call, in the order of the nodes.

What a study learns is so what a network would: the same app, the same records, the same rounds. Messages are copied,
as they are on their way through a wire.
"""

import copy
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

log = logging.getLogger(__name__)

_MIDDLE = 1
"""Number of the node that asks, as Flower has it."""

_RAISED = 0
"""Code of the error that stands for an exception of the app."""


class LocalGrid(Grid):  # type: ignore[misc]
    """Nodes of one client app, each with a configuration and a state of its own."""

    def __init__(self, app: ClientApp, nodes: Mapping[int, dict[str, Any]]) -> None:
        """`nodes`: configuration by number, from 2."""
        # Messages take their sender from here; Flower's runtime sets it in a process of its own.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, _MIDDLE, 0
        self._app = app
        self._contexts = {
            number: Context(run_id=1, node_id=number, node_config=config, state=RecordDict(), run_config={})
            for number, config in nodes.items()
        }
        self._replies: dict[str, Message] = {}
        self._sent = 0

    def set_run(self, run: Any) -> None:
        """There is one."""

    @property
    def run(self) -> Any:
        """There is one."""
        return None

    def create_message(self, *arguments: Any, **named: Any) -> Message:
        """Messages are made by their constructor."""
        return Message(*arguments, **named)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return sorted(self._contexts)

    def leave(self, node: int) -> None:
        """Take a node away."""
        del self._contexts[node]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Have the apps answer; a node that is not there never does."""
        names = []
        for message in sorted(messages, key=lambda message: message.metadata.dst_node_id):
            self._sent += 1
            name = str(self._sent)
            names.append(name)
            if message.metadata.dst_node_id in self._contexts:
                self._replies[name] = self._answered(copy.deepcopy(message), name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Answers that there are."""
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Both."""
        return self.pull_messages(self.push_messages(messages))

    def _answered(self, message: Message, name: str) -> Message:
        message.metadata.__dict__["_message_id"] = name
        try:
            return copy.deepcopy(self._app(message, self._contexts[message.metadata.dst_node_id]))
        except Exception as error:  # what Flower's runtime makes of it
            log.warning("client app raised", exc_info=error)
            return Message(Error(_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)
