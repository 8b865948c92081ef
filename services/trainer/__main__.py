"""Run the trainer: `python -m services.trainer`."""

from services.common import exits, logs
from services.common.settings import load_settings
from services.trainer.app import serve
from services.trainer.settings import TrainerSettings

if __name__ == "__main__":
    with exits.one_sentence():
        settings = load_settings(TrainerSettings)
        logs.configure("trainer", settings.log_level)
        serve(settings)
