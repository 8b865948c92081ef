"""Run the gateway: `python -m services.gateway`; with a role and its parent's pid, one of its child processes."""

import sys

from services.common import logs
from services.common.settings import load_settings
from services.gateway.app import run
from services.gateway.processes import die_with
from services.gateway.settings import GatewaySettings

if __name__ == "__main__":
    settings, role = load_settings(GatewaySettings), (sys.argv[1:] or ["serve"])[0]
    logs.configure("gateway", settings.log_level)
    if len(sys.argv) > 2:
        die_with(int(sys.argv[2]))
    run(settings, role)
