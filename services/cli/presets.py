"""Settings of usual worked examples, by name."""

from services.cli import output
from services.cli.options import Json


def presets(as_json: Json = False) -> None:
    """List the presets: what each reproduces, what it applies to, and what it sets."""
    from dataclasses import asdict

    from services.trainer.presets import PRESETS

    columns = ("preset", "for", "example", "settings", "remark")
    rows = [[name, each.to, each.example, each.text, each.remark] for name, each in PRESETS.items()]
    output.show({name: asdict(each) for name, each in PRESETS.items()}, as_json, output.Table("Presets", columns, rows))
