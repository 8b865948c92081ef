"""Run features: `python -m services.features`."""

import asyncio

from services.common import exits, logs
from services.common.settings import load_settings
from services.features.app import serve
from services.features.settings import FeaturesSettings

if __name__ == "__main__":
    with exits.one_sentence():
        settings = load_settings(FeaturesSettings)
        logs.configure("features", settings.log_level)
        asyncio.run(serve(settings))
