"""How Flower's processes are started: whom they may speak to, what they may not do, what they are told."""

import json
import tomllib
from pathlib import Path

import pytest

from services.common.errors import InvalidInput, TemporaryError
from services.trainer.federated import runtime, serving
from services.trainer.federated.apps import client, server, shop_of
from services.trainer.federated.runtime import Link, Tls


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_without_tls_loopback_is_spoken_to(host: str) -> None:
    assert "--insecure" in runtime.node_command(Link(host, 8100), {"shop": "one"})


@pytest.mark.parametrize("host", ["10.0.0.1", "shop.example", "0.0.0.0"])
def test_without_tls_no_other_machine_is(host: str) -> None:
    with pytest.raises(InvalidInput, match="tls"):
        Link(host, 8100)


def test_with_tls_nothing_goes_in_the_clear(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    command = runtime.node_command(Link("10.0.0.1", 8100, Tls(tmp_path / "ca.pem")), {"shop": "one"})
    assert "--insecure" not in command
    assert command[command.index("--root-certificates") + 1] == str(tmp_path / "ca.pem")
    with pytest.raises(InvalidInput, match="no file"):
        Link("10.0.0.1", 8100, Tls(tmp_path / "none.pem"))


def test_flower_calls_nobody(tmp_path: Path) -> None:
    variables = runtime.environment(tmp_path)
    assert variables["FLWR_TELEMETRY_ENABLED"] == "0"
    assert variables["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_the_bundle_names_what_there_is() -> None:
    bundle = tomllib.loads(runtime._bundle({"rounds": 3, "secure": False, "items": "a b", "wait": 1.5}))
    app = bundle["tool"]["flwr"]["app"]
    assert app["components"]["serverapp"].split(":") == ["services.trainer.federated.apps", "server"]
    assert app["config"] == {"rounds": 3, "secure": False, "items": "a b", "wait": 1.5}
    assert bundle["project"]["dependencies"] == []
    assert client is not None
    assert server is not None


def test_a_name_that_would_leave_its_place_is_refused() -> None:
    with pytest.raises(InvalidInput, match="shop"):
        runtime.node_command(Link("127.0.0.1", 8100), {"shop": 'one" store="/etc'})


def test_a_node_without_an_archive_says_so() -> None:
    from flwr.app import Context, RecordDict

    context = Context(run_id=1, node_id=2, node_config={"shop": "one"}, state=RecordDict(), run_config={})
    with pytest.raises(InvalidInput, match="examples"):
        shop_of(context)


def test_a_log_is_followed_to_the_last_word_of_its_own_run(tmp_path: Path) -> None:
    path, seen = tmp_path / "log", list[int]()
    lines = [{"ended": "other", "error": "x"}, {"round": 1}, {"round": 2}, {"ended": "mine", "round": 2}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"round"')
    last = runtime.follow(path, "mine", lambda: True, lambda line: seen.append(line["round"]))
    assert (seen, last["round"]) == ([1, 2], 2)
    assert serving.read(path)[1] == path.read_text().rindex("\n") + 1
    with pytest.raises(TemporaryError, match="x"):
        runtime.follow(path, "other", lambda: True, lambda line: None)


def test_a_plan_that_lacks_something_is_refused() -> None:
    with pytest.raises(InvalidInput, match="run-config"):
        serving.plan_of({"rounds": 3})
