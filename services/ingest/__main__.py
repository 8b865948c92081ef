"""Run ingest: `python -m services.ingest`."""

import asyncio

from services.common import exits, logs
from services.common.settings import load_settings
from services.ingest.app import serve
from services.ingest.settings import IngestSettings

if __name__ == "__main__":
    with exits.one_sentence():
        settings = load_settings(IngestSettings)
        logs.configure("ingest", settings.log_level)
        asyncio.run(serve(settings))
