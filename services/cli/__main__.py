"""The `freshrank` command."""

from services.cli.app import build


def main() -> None:
    """Run it; exit codes are those of `services.common.exits`."""
    build()()


if __name__ == "__main__":
    main()
