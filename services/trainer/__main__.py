"""Run the trainer: `python -m services.trainer`; with `text` after it, the worker of the text encoder."""

import sys

from services.common import exits, logs
from services.common.settings import load_settings
from services.trainer.app import start
from services.trainer.settings import TrainerSettings

if __name__ == "__main__":
    with exits.one_sentence():
        settings = load_settings(TrainerSettings)
        logs.configure("trainer", settings.log_level)
        start(settings, sys.argv[1:])
