"""Rounds whose answers only their sum is seen of: Flower's SecAgg+ (Bell et al., 2020) around the same learning.

A shop c sends s_c · w_c and s_c, where s_c = min(examples, most) / most, masked by sums that cancel; the coordinator
learns Σ s_c · w_c and Σ s_c alone. Rows of items go the same way, for a catalogue that all have agreed on, each with
the share of examples that touched it: which keys a shop touched is then as hidden as their values. Without a catalogue
no row leaves its shop. What this hides from whom, and how well: docs/federated.md.
"""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.compat.common.recorddict_compat import fitres_to_recorddict, parameters_to_arrayrecord, recorddict_to_fitins
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD, Key
from flwr.serverapp import Grid
from numpy.typing import NDArray

from services.common.errors import InvalidInput
from services.common.ids import keys_of
from services.trainer.federated.model import Answer, Asked, Rows, Weights

log = logging.getLogger(__name__)

LEAST = 3
"""Of two shops each knows the other's answer: the sum less its own."""

RANGE = 8.0
"""Values are cut to ±RANGE before they are made whole numbers; rows are never longer."""

_MODULUS = 1 << 32
_SHARES_NEEDED = 0.6
"""Share of the shops without which no mask can be taken off, and never fewer than LEAST: no sum is of two."""

Floats = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class Summed:
    """What a secure round gives."""

    weights: Weights
    items: Rows
    examples: int
    log_us: int
    answered: Sequence[int]
    """Nodes."""


class _Proxy:
    def __init__(self, node_id: int) -> None:
        self.node_id, self.cid = node_id, str(node_id)


class _Nodes:
    """What the workflow asks of a strategy and of a client manager: whom to ask what, and what came of it."""

    def __init__(self, nodes: Sequence[int], question: FitIns) -> None:
        self._nodes, self._question = nodes, question
        self.sums: list[NDArray[Any]] = []
        self.answered: list[int] = []
        self.log_us = 0

    def num_available(self) -> int:
        return len(self._nodes)

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> list[tuple[_Proxy, FitIns]]:
        return [(_Proxy(node), self._question) for node in self._nodes]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[None, dict[str, Any]]:
        self.answered = sorted(proxy.node_id for proxy, _ in results)
        self.log_us = max(int(found.metrics["log_us"]) for _, found in results)
        self.sums = parameters_to_ndarrays(results[0][1].parameters)
        return None, {}


def summed(
    grid: Grid, nodes: Sequence[int], asked: Asked, catalogue: Sequence[str], most: int, wait_s: float
) -> Summed | None:
    """One try of a round with these nodes; None when too few went through with it.

    Raises InvalidInput when there are too few, or too many for sums of whole numbers.
    """
    if not LEAST <= len(nodes) <= 1024:
        raise InvalidInput("secure", "shops", f"{len(nodes)} shops; secure aggregation is for {LEAST} to 1,024")
    question = FitIns(ndarrays_to_parameters(_sent(asked, catalogue)), _config(asked, catalogue, most))
    asker = _Nodes(nodes, question)
    state = RecordDict({MAIN_CONFIGS_RECORD: ConfigRecord({Key.CURRENT_ROUND: asked.round})})
    state[MAIN_PARAMS_RECORD] = parameters_to_arrayrecord(question.parameters, keep_input=True)
    plain = Context(run_id=0, node_id=0, node_config={}, state=state, run_config={})
    workflow = SecAggPlusWorkflow(
        num_shares=1.0,
        reconstruction_threshold=max(LEAST, math.ceil(_SHARES_NEEDED * len(nodes))),
        max_weight=1.0,
        clipping_range=RANGE,
        quantization_range=_levels(len(nodes)),
        modulus_range=_MODULUS,
        timeout=wait_s,
    )
    workflow(grid, LegacyContext(plain, strategy=asker, client_manager=asker))
    return _read(asker, asked, catalogue, most) if asker.sums else None


def asked_of(message: Message, catalogue: Sequence[str]) -> tuple[Asked, int]:
    """What a message of the protocol asks, and the most examples that count. Raises InvalidInput."""
    question = recorddict_to_fitins(message.content, keep_input=True)
    config, arrays = question.config, parameters_to_ndarrays(question.parameters)
    if config["catalogue"] != _digest(catalogue):
        raise InvalidInput("items", "other", "the catalogue of this shop is not that of the coordinator")
    names = str(config["names"]).split("\n")
    weights = dict(zip(names, arrays, strict=False))
    rows, squares, seen = arrays[len(names) :]
    known = np.flatnonzero(seen > 0)
    ids = [catalogue[int(k)] for k in known]
    items = Rows(ids, rows[known], squares[known], seen[known], np.zeros(len(known), np.int64))
    return Asked(int(config["round"]), int(config["messages"]), weights, items), int(config["most"])


def of_answer(answer: Answer, catalogue: Sequence[str], most: int) -> RecordDict:
    """What the protocol masks: nothing else of an answer is in it but the log's time."""
    share = min(answer.examples, most) / most
    dim, n = answer.items.rows.shape[1], len(catalogue)
    rows, roots, touched = np.zeros((n, dim)), np.zeros(n), np.zeros(n)
    keys, ours = keys_of(catalogue), keys_of(answer.items.ids)
    place, mine = (found.astype(np.int64) for found in np.intersect1d(keys, ours, return_indices=True)[1:])
    touched[place] = np.minimum(answer.items.touched[mine], most) / most
    rows[place] = answer.items.rows[mine] * touched[place, None]
    roots[place] = np.log1p(answer.items.squares[mine]) * touched[place]
    dense = [answer.weights[name] * np.float64(share) for name in sorted(answer.weights)]
    values = [*dense, np.array([share]), rows, roots, touched]
    if cut := sum(int((np.abs(value) > RANGE).sum()) for value in values):
        log.warning("values cut for secure aggregation", extra={"values": cut, "range": RANGE})
    answered = FitRes(Status(Code.OK, ""), ndarrays_to_parameters(values), 1, {"log_us": answer.log_us})
    return fitres_to_recorddict(answered, keep_input=False)


def _sent(asked: Asked, catalogue: Sequence[str]) -> list[NDArray[Any]]:
    """Weights by name, then rows, squares and sightings in the order of the catalogue; not seen: no row."""
    dim, n = asked.items.rows.shape[1], len(catalogue)
    rows, squares, seen = np.zeros((n, dim), np.float32), np.zeros(n, np.float32), np.zeros(n, np.int64)
    place, ours = np.intersect1d(keys_of(catalogue), keys_of(asked.items.ids), return_indices=True)[1:]
    rows[place], squares[place] = asked.items.rows[ours], asked.items.squares[ours]
    seen[place] = np.maximum(asked.items.seen_us[ours], 1)
    return [*(asked.weights[name] for name in sorted(asked.weights)), rows, squares, seen]


def _config(asked: Asked, catalogue: Sequence[str], most: int) -> dict[str, Any]:
    names = "\n".join(sorted(asked.weights))
    plain = {"round": asked.round, "messages": asked.messages, "most": most}
    return plain | {"names": names, "catalogue": _digest(catalogue)}


def _read(asker: _Nodes, asked: Asked, catalogue: Sequence[str], most: int) -> Summed:
    """Means from the workflow's: each array over the shops that answered, so quotients of two of them."""
    names = sorted(asked.weights)
    share, rows, roots, touched = asker.sums[len(names) :]
    examples = float(share[0]) * len(asker.answered) * most
    weights = asked.weights
    if examples > 0.5:
        means: Mapping[str, NDArray[Any]] = dict(zip(names, asker.sums, strict=False))
        weights = {name: (means[name] / share[0]).astype(np.float32) for name in names}
    known = np.flatnonzero(touched * len(asker.answered) * most > 0.5)
    items = Rows(
        [catalogue[int(k)] for k in known],
        (rows[known] / touched[known, None]).astype(np.float32),
        np.maximum(np.expm1(roots[known] / touched[known]), 0).astype(np.float32),
        np.full(len(known), asker.log_us, np.int64),
        np.ones(len(known), np.int64),
    )
    return Summed(weights, items, round(examples), asker.log_us, asker.answered)


def _levels(shops: int) -> int:
    """Whole numbers that a value becomes one of: as many as the sum of all shops has room for."""
    return 1 << min(30, (_MODULUS // (shops + 1)).bit_length() - 1)


def _digest(catalogue: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(catalogue).encode()).hexdigest()
