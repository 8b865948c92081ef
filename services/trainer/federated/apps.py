"""The two apps that Flower's runtime starts: `server` in the middle, `client` at each shop.

Where a shop's archive and checkpoints lie is in the configuration of its node, what a federation is in that of the run;
how is learned is in the variables FRESHRANK_TRAINER_ of each process. What needs torch is imported when a message does:
most messages of secure aggregation do not.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Context, Message
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

if TYPE_CHECKING:
    from services.trainer.federated.shop import Shop

MakeShop = Callable[[Context], "Shop"]
ReadItems = Callable[[Context], Sequence[str]]


def client_app(make: MakeShop, items: ReadItems) -> ClientApp:
    """The app of shops; `make` opens the one that a node is, `items` reads its catalogue for secure rounds."""
    from services.trainer.federated import wire

    app = ClientApp()

    @app.query("show")  # type: ignore[untyped-decorator]
    def show(message: Message, context: Context) -> Message:
        return Message(wire.of_shown(make(context).show()), reply_to=message)

    @app.train("learn")  # type: ignore[untyped-decorator]
    def learn(message: Message, context: Context) -> Message:
        return Message(wire.of_answer(make(context).learn(wire.to_asked(message.content))), reply_to=message)

    @app.train(mods=[secaggplus_mod])  # type: ignore[untyped-decorator]
    def learn_in_secret(message: Message, context: Context) -> Message:
        from services.trainer.federated import secure

        catalogue = items(context)
        asked, most = secure.asked_of(message, catalogue)
        return Message(secure.of_answer(make(context).learn(asked), catalogue, most), reply_to=message)

    return app


def shop_of(context: Context) -> "Shop":
    """The shop that a node's configuration names. Raises InvalidInput."""
    from services.common.settings import load_settings
    from services.trainer.federated.shop import Place, Shop
    from services.trainer.settings import TrainerSettings

    config = context.node_config
    given = {name: config[name] for name in ("store", "arm") if name in config}
    settings = load_settings(TrainerSettings, given=given)
    messages = int(config.get("messages", 0))
    return Shop(Place(_named(config, "shop"), Path(_named(config, "examples")), settings, messages))


def items_of(context: Context) -> Sequence[str]:
    """The catalogue that a node's configuration names; empty without one. Raises InvalidInput."""
    from services.trainer.privacy.catalogue import read_items

    path = context.node_config.get("items")
    return read_items(Path(str(path))) if path else ()


def _named(config: Mapping[str, Any], name: str) -> str:
    from services.common.errors import InvalidInput

    value = config.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInput(name, "missing", "the node's configuration does not say it")
    return value


client = client_app(shop_of, items_of)
server = ServerApp()


@server.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Make the rounds that the run's configuration asks for."""
    from services.trainer.federated.serving import serve

    serve(grid, context.run_config)
