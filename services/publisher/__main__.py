"""Run the publisher: `python -m services.publisher`."""

import asyncio

from services.common import exits, logs
from services.common.settings import load_settings
from services.publisher.app import serve
from services.publisher.settings import PublisherSettings

if __name__ == "__main__":
    with exits.one_sentence():
        settings = load_settings(PublisherSettings)
        logs.configure("publisher", settings.log_level)
        asyncio.run(serve(settings))
