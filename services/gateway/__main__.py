"""Run the gateway: `python -m services.gateway`; with a role and its parent's pid, one of its child processes."""

import sys

from services.common import exits, logs
from services.common.settings import load_settings
from services.gateway.processes import start
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    with exits.one_sentence():
        settings = load_settings(GatewaySettings)
        logs.configure("gateway", settings.log_level)
        start(settings, sys.argv[1:])
