"""`freshrank import`: from a shop's past to a first release."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli import output
from services.cli.options import ADMIN, KAFKA, PROBES, Json, connected
from services.common.errors import InvalidInput
from services.common.exits import NOT_AS_WANTED

if TYPE_CHECKING:
    from services.cli.history.catalogue import Catalogue
    from services.cli.history.events import History
    from services.cli.settings import CliSettings

KNOWN_S = 20.0
"""Longest wait for ingest to know the catalogue."""

Files = Annotated[list[Path], typer.Option(help="Parquet or CSV with user, item, kind, time; may be repeated.")]


@connected("gateway", *ADMIN, *KAFKA, *PROBES)
def bring(
    settings: "CliSettings",
    catalogue: Annotated[Path, typer.Option(help="Parquet or CSV with item, title, categories, brand, price, stock.")],
    interactions: Files,
    columns: Annotated[
        list[str] | None, typer.Option("--map", help="ours=theirs of the interactions, such as user=customer_id.")
    ] = None,
    catalogue_columns: Annotated[
        list[str] | None, typer.Option("--map-catalogue", help="The same of the catalogue, such as item=sku.")
    ] = None,
    kinds: Annotated[list[str] | None, typer.Option("--kinds", help="theirs=ours, such as detail=view.")] = None,
    kind: Annotated[str, typer.Option(help="Kind of files without that column, such as purchase.")] = "",
    negatives: Annotated[int, typer.Option(min=1, max=200, help="Other items in each made impression.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the draw of those items.")] = 7,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for a release; 0 = do not wait.")] = 900.0,
    check: Annotated[bool, typer.Option("--check", help="Read and check the files, and do nothing else.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Although the log holds newer records.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a shop's history in: catalogue, interactions, and wait for the first release learned from them.

    For a system that has seen no traffic, with the ticks of ingest set to "log". Ends with 1 when no release came.
    """
    shelf, past = _read(catalogue, interactions, columns or [], catalogue_columns or [], kinds or [], kind)
    found: dict[str, Any] = {"items": len(shelf), "interactions": len(past)}
    if not check:
        found |= _imported(settings, shelf, past, negatives, seed, wait, force)
    output.show(found, as_json, output.facts("Checked" if check else "Imported", found))
    if found.get("release") == "" and wait:
        output.say(f"no release was routed within {wait:.0f} s; `freshrank status` shows how far every stage is")
        raise typer.Exit(NOT_AS_WANTED)


def _read(
    catalogue: Path,
    interactions: Sequence[Path],
    columns: Sequence[str],
    catalogue_columns: Sequence[str],
    kinds: Sequence[str],
    kind: str,
) -> "tuple[Catalogue, History]":
    from services.cli.history import catalogue as items
    from services.cli.history import events
    from services.cli.history.files import mapping_of
    from services.common.clock import WallClock

    now_us = WallClock().now_us()
    of_items = mapping_of("--map-catalogue", catalogue_columns, items.COLUMNS)
    of_events = mapping_of("--map", columns, events.COLUMNS)
    with output.progress("reading") as bar:
        shelf = items.read_catalogue(catalogue, of_items, now_us)
        bar.at(len(shelf), "rows")
        past = events.read_history(interactions, of_events, events.words_of(kinds), kind, now_us)
        bar.at(len(shelf) + len(past), "rows")
    return shelf, past


def _imported(
    settings: "CliSettings", shelf: "Catalogue", past: "History", negatives: int, seed: int, wait: float, force: bool
) -> dict[str, Any]:
    from services.cli.history.impressions import Rules, Synthesis
    from services.cli.history.write import refuse_newer, write
    from services.common.clock import WallClock
    from services.common.tokens import Tokens

    if not settings.token_keys:
        raise InvalidInput("FRESHRANK_TOKEN_KEYS", "missing_setting", "must be given, as gateway and joiner have it")
    made = Synthesis(Rules(negatives), Tokens.parse(settings.token_keys), shelf.contents(), seed)
    if not force:
        refuse_newer(settings.kafka, past.first_us)
    system = System(settings)
    before = system.champion() if wait else ""
    _stock(settings, system, shelf)
    with output.progress("interactions", len(past)) as bar:
        written = write(settings.kafka, past, made, WallClock().now_us(), bar)
        bar.at(len(past))
    _remark(made.counts)
    names = ("events", "impressions", "positives", "clicks", "unknown_items")
    found: dict[str, Any] = {name: made.counts[name] for name in names}
    found |= {"records": written.records, "from": _day(past.first_us), "to": _day(past.last_us)}
    return {**found, **_release(system, before, wait)}


def _stock(settings: "CliSettings", system: "System", shelf: "Catalogue") -> None:
    from services.cli.grpc import shop

    with shop(settings) as api, output.progress("catalogue", len(shelf)) as bar:
        done = 0
        for call in shelf.calls():
            try:
                api.upsert(call)
            except InvalidInput as error:
                raise shelf.blame(error, done) from error
            done += len(call)
            bar.at(done)
    # Ingest stamps categories from the catalogue, so it has to know it before the first event comes.
    if not system.knows(len(shelf), KNOWN_S):
        output.say(f"ingest does not show {len(shelf):,} items; if it is running, early rows lack their category")


def _remark(counts: Mapping[str, int]) -> None:
    if not counts["clicks"]:
        output.say(
            "the history has no clicks: the click head learns nothing and the gate has nothing to judge by, "
            "unless FRESHRANK_JOINER_HEADS lets another kind count as one, such as click=CLICK,PURCHASE@10m"
        )
    if counts["unknown_items"]:
        output.say(f"{counts['unknown_items']:,} interactions are with items that the catalogue does not hold")


def _release(system: "System", before: str, wait: float) -> dict[str, Any]:
    if not wait:
        return {}
    from time import monotonic, sleep

    from services.cli.history.write import wait_for_release

    began = monotonic()
    with output.progress("first release") as bar:
        release = wait_for_release(system, before, wait, bar, sleep)
    return {"release": release, "release_after_s": round(monotonic() - began, 1)}


def _day(time_us: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="seconds")


class System:
    """The running system, as far as an import asks it."""

    def __init__(self, settings: "CliSettings") -> None:
        self._settings = settings

    def champion(self) -> str:
        """The release that serves; empty = none."""
        from services.cli.grpc import operator

        with operator(self._settings) as api:
            return str(api.status().champion)

    def lag(self) -> str:
        """Records each service is behind, by its own word; empty when no probe server is known."""
        from services.cli.probes import ask_all

        asked = ask_all(self._settings.urls(), metrics=False)
        behind = {name: sum(int(p.positions.get("lag", 0)) for p in each) for name, each in asked.items()}
        return " ".join(f"{name} {lag:,}" for name, lag in behind.items() if lag)

    def knows(self, items: int, timeout_s: float) -> bool:
        """Wait until ingest holds so many items; False when it does not say so in time, or cannot be asked."""
        from time import monotonic, sleep

        from services.cli.figures import gauge
        from services.cli.probes import ask

        ends = monotonic() + timeout_s
        urls = self._settings.urls().get("ingest", [])
        while urls:
            if all(gauge(ask(url).metrics, "freshrank_ingest_catalogue_items") >= items for url in urls):
                return True
            if monotonic() >= ends:
                break
            sleep(0.2)
        return False
