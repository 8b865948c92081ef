"""What a federation is worth to its shops, without a network: against each alone, and against one learner of all data.

Every list is judged by its shop's learner before it is learned, as everywhere (`evaluation.judge`). All ways see a
shop's lists in the same order and have a release at the end of each round; the learner of all takes the shops' messages
in turn, by how far each archive is. Differences are of the same lists.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from services.common.clock import WallClock
from services.common.errors import InvalidInput
from services.trainer import scores
from services.trainer.archive import ArchiveSource
from services.trainer.evaluation import figures
from services.trainer.evaluation.figures import Figure, JudgedList
from services.trainer.evaluation.judge import Judge
from services.trainer.evaluation.rehearsal import Trial
from services.trainer.examples import Batch, Example
from services.trainer.factory import learner_of
from services.trainer.federated.apps import client_app
from services.trainer.federated.coordinator import Coordinator
from services.trainer.federated.grid import LocalGrid
from services.trainer.federated.rounds import Ended, Plan, federate
from services.trainer.federated.shop import Place, Shop, batch_of, spec_of
from services.trainer.groups import Floats, Group
from services.trainer.settings import TrainerSettings

ALONE, CENTRAL = "alone", "central"
_PARTITIONS = 1_000
"""Partition p of shop k is k · this + p to the learner of all."""

Lists = dict[str, list[list[JudgedList]]]
"""By shop, then by round: lists that were closed in it."""
Poll = Callable[[], Batch | None]
Report = Callable[[str, int], None]
"""Is told of a way, and of a round of it that is over."""


@dataclass(frozen=True)
class Federation(Trial):
    """A trial of a federation."""

    server_rate: float = 1.0
    """See `Coordinator`."""


@dataclass(frozen=True)
class Options:
    """How a study is made."""

    rounds: int = 20
    tail: float = 0.5
    """Share of the rounds that is judged, the newest."""

    def __post_init__(self) -> None:
        """Raises InvalidInput."""
        if self.rounds < 1:
            raise InvalidInput("rounds", "out_of_range", "must be 1 or more")
        if not 0 < self.tail <= 1:
            raise InvalidInput("tail", "out_of_range", "must be above 0, up to 1")

    def messages(self, source: ArchiveSource) -> int:
        """Of an archive in a round."""
        return math.ceil(source.messages / self.rounds)


class Watch:
    """Judges what a learner is about to learn."""

    def __init__(self) -> None:
        self._judge = Judge()

    def appeared(self, group: Group, scores: Floats, now_us: int) -> None:
        """See `Watcher`."""
        self._judge.appeared(group, scores)

    def closed(self, example: Example) -> None:
        """See `Watcher`."""
        self._judge.closed(example)

    def take(self) -> list[JudgedList]:
        """Lists closed since the last call."""
        found, self._judge.lists = self._judge.lists, []
        return found


class Together:
    """Several archives as one, in turn by how far each is."""

    def __init__(self, paths: Sequence[Path], batches: Sequence[int]) -> None:
        """`batches`: messages in a batch of each."""
        self._sources = [ArchiveSource(path, batch) for path, batch in zip(paths, batches, strict=True)]
        self._taken = [0] * len(paths)

    def poll(self) -> Batch | None:
        """The next batch, of one archive."""
        behind = [k for k, source in enumerate(self._sources) if not source.done]
        if not behind:
            return None
        k = min(behind, key=lambda k: self._taken[k] / self._sources[k].messages)
        batch = self._sources[k].poll()
        assert batch is not None
        self._taken[k] += sum(end - start for start, end in batch.ranges.values())
        shift = k * _PARTITIONS
        return replace(
            batch,
            ranges={shift + p: between for p, between in batch.ranges.items()},
            messages={shift + p: messages for p, messages in batch.messages.items()},
            offsets={shift + p: offsets for p, offsets in batch.offsets.items()},
        )


def study(
    shops: Mapping[str, Path],
    trials: Sequence[Federation],
    options: Options,
    folder: Path,
    report: Report = lambda way, number: None,
) -> dict[str, Any]:
    """Results by way: `alone` and `central` under the first trial's settings, and every trial as a federation.

    `folder` is for what shops and the middle keep, and is empty or not there. Raises InvalidInput.
    """
    if not shops:
        raise InvalidInput("shops", "none", "a federation has one shop at least")
    if folder.exists() and any(folder.iterdir()):
        raise InvalidInput("folder", "not_empty", f"{folder} holds something")
    torch.set_num_threads(1)
    first = trials[0].settings()
    found: dict[str, Lists] = {ALONE: {}}
    for shop, path in shops.items():
        messages = options.messages(ArchiveSource(path))
        source = ArchiveSource(path, batch_of(messages))
        found[ALONE][shop] = list(_learned(first, source, source.poll, messages, options))
        report(ALONE, options.rounds * len(found[ALONE]))
    found[CENTRAL] = _central(shops, first, found[ALONE], options, report)
    for number, trial in enumerate(trials):
        found[trial.name] = _federated(shops, trial, options, folder / str(number), report)
    return described(found, options)


def described(found: Mapping[str, Lists], options: Options) -> dict[str, Any]:
    """Figures of each way over the lists that all ways judged."""
    common = _common(found)
    first = options.rounds - max(1, round(options.rounds * options.tail))
    tails = {way: {shop: list(chain(*of[first:])) for shop, of in lists.items()} for way, lists in common.items()}
    base = tails[ALONE]
    return {
        way: {
            **_figures(list(chain(*shops.values())), list(chain(*base.values()))),
            "shops": {shop: _figures(lists, base[shop]) for shop, lists in shops.items()},
            "rounds": [_round(list(chain(*(of[k] for of in common[way].values())))) for k in range(options.rounds)],
        }
        for way, shops in tails.items()
    }


def _learned(
    settings: TrainerSettings, source: ArchiveSource, poll: Poll, messages: int, options: Options
) -> Iterator[list[JudgedList]]:
    """One learner without a federation; the lists of each round."""
    learner, watch = learner_of(settings, spec_of(source, settings), None), Watch()
    learner.watcher = watch
    for _ in range(options.rounds):
        left = messages
        while left > 0 and (batch := poll()) is not None:
            learner.apply(batch)
            left -= sum(end - start for start, end in batch.ranges.values())
        learner.released()
        yield watch.take()


def _central(
    shops: Mapping[str, Path], settings: TrainerSettings, alone: Lists, options: Options, report: Report
) -> Lists:
    owner = {each.impression_id: shop for shop, of in alone.items() for each in chain(*of)}
    source = ArchiveSource(next(iter(shops.values())))
    messages = [options.messages(ArchiveSource(path)) for path in shops.values()]
    together = Together(list(shops.values()), list(map(batch_of, messages)))
    out: Lists = {shop: [] for shop in shops}
    for number, lists in enumerate(_learned(settings, source, together.poll, sum(messages), options), 1):
        for shop, of in out.items():
            of.append([each for each in lists if owner.get(each.impression_id) == shop])
        report(CENTRAL, number)
    return out


def _federated(shops: Mapping[str, Path], trial: Federation, options: Options, folder: Path, report: Report) -> Lists:
    settings = partial(_placed, trial.settings(), folder)
    watches = {shop: Watch() for shop in shops}
    places = {
        shop: Place(shop, path, settings(f"shops/{shop}"), options.messages(ArchiveSource(path)))
        for shop, path in shops.items()
    }
    out: Lists = {shop: [] for shop in shops}

    def over(ended: Ended) -> None:
        for shop, watch in watches.items():
            out[shop].append(watch.take())
        report(trial.name, ended.round)

    app = client_app(lambda context: _opened(places, watches, str(context.node_config["shop"])), lambda context: ())
    grid = LocalGrid(app, {number: {"shop": shop} for number, shop in enumerate(shops, 2)})
    plan = Plan(options.rounds, max(place.messages for place in places.values()), least=len(shops))
    federate(grid, Coordinator(settings("middle"), rate=trial.server_rate), plan, WallClock(), over)
    return out


def _opened(places: Mapping[str, Place], watches: Mapping[str, Watch], shop: str) -> Shop:
    return Shop(places[shop], watcher=watches[shop])


def _placed(settings: TrainerSettings, folder: Path, name: str) -> TrainerSettings:
    return settings.model_copy(update={"store": folder / name})


def _common(found: Mapping[str, Lists]) -> dict[str, Lists]:
    """The lists that all ways judged, in the order and the rounds of `alone`."""
    by_id = {way: {e.impression_id: e for of in lists.values() for e in chain(*of)} for way, lists in found.items()}
    shared = set.intersection(*(set(known) for known in by_id.values()))
    return {
        way: {
            shop: [[known[e.impression_id] for e in lists if e.impression_id in shared] for lists in of]
            for shop, of in found[ALONE].items()
        }
        for way, known in by_id.items()
    }


def _figures(lists: Sequence[JudgedList], base: Sequence[JudgedList] | None = None) -> dict[str, Any]:
    """AUC, MRR and log-loss; with `base`, how much better the MRR is than that of the same lists there."""
    ours = figures.table(lists)
    out = {name: _plain(figures.mean(ours[name])) for name in ("mrr", "log_loss")}
    out |= {"auc": _plain(figures.pooled_auc(lists))}
    if base is not None:
        out["mrr_difference"] = _plain(figures.mean(ours["mrr"] - figures.table(base)["mrr"]))
    return out


def _round(lists: Sequence[JudgedList]) -> dict[str, float | None]:
    """AUC and MRR of a round, without intervals."""
    labels, flat = figures.flattened(lists)
    found = {"auc": scores.auc(labels, flat), "mrr": figures.mean(figures.table(lists)["mrr"]).value}
    return {name: None if value != value else value for name, value in found.items()}


def _plain(figure: Figure) -> dict[str, float | None]:
    return {name: None if value != value else value for name, value in asdict(figure).items()}
