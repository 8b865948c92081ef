"""Run the joiner: `python -m services.joiner`."""

import asyncio

from services.common import exits, logs
from services.common.settings import load_settings
from services.joiner.app import serve
from services.joiner.settings import JoinerSettings

if __name__ == "__main__":
    with exits.one_sentence():
        settings = load_settings(JoinerSettings)
        logs.configure("joiner", settings.log_level)
        asyncio.run(serve(settings))
