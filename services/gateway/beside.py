"""The process beside the workers: it writes the item table, and reads the feature repository for them.

Feast and its registry stay out of the processes that answer: they are large, and reading them stops a worker for
longer than an answer may take.
"""

import logging
import signal
import threading
from pathlib import Path

from services.common.errors import FreshrankError
from services.gateway import kafka, plan_file
from services.gateway.given import slot_of
from services.gateway.settings import GatewaySettings
from services.online.light import light

logger = logging.getLogger(__name__)

RETRY_S = 1.0


def table_folder(settings: GatewaySettings) -> Path:
    """Where the item table lies."""
    return settings.table_dir or settings.store / "table"


def plan_path(settings: GatewaySettings) -> Path:
    """Where the plan lies: beside the table, which is removed when it belongs to another log."""
    folder = table_folder(settings)
    return folder.with_name(f"{folder.name}-plan.json")


def words_folder(settings: GatewaySettings) -> Path:
    """Where the index of words lies."""
    folder = table_folder(settings)
    return folder.with_name(f"{folder.name}-words")


def vectors_folder(settings: GatewaySettings) -> Path:
    """Where the index of vectors of texts lies."""
    folder = table_folder(settings)
    return folder.with_name(f"{folder.name}-vectors")


def run(settings: GatewaySettings) -> None:
    """Write table and plan until SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_write_plan, args=(settings, stop), name="plan", daemon=True).start()
    folders = kafka.Folders(table_folder(settings), words_folder(settings), vectors_folder(settings))
    given = [slot_of(name) for name in settings.item_vectors]
    kafka.write_table(settings.kafka, folders, settings.search_language, stop, given)


def _write_plan(settings: GatewaySettings, stop: threading.Event) -> None:
    with light():
        from services.online.registry import PlanSource
    path, written, source = plan_path(settings), "", None
    while not stop.is_set():
        try:
            source = source or PlanSource(settings.feature_repo)
            plan = source.load()
            if plan.version != written:
                plan_file.write(path, plan)
                written = plan.version
            stop.wait(settings.plan_seconds)
        except FreshrankError as error:
            logger.warning("the feature repository's plan cannot be used", extra={"error": str(error)})
            stop.wait(settings.plan_seconds if written else RETRY_S)
        except Exception:
            logger.exception("the feature repository cannot be read")
            stop.wait(settings.plan_seconds if written else RETRY_S)
