"""Freezing, forgetting, explaining: asked of a real server."""

import socket

import pytest
from freshrank.v1.models_pb2 import Freeze

from tests.cli.fakes import CHAMPION, Admin, run, serving


def test_a_freeze_keeps_what_was_frozen_before() -> None:
    admin = Admin(freeze=Freeze(learning=True))
    with serving(admin) as address:
        ended = run("freeze", "rows", "--admin", address, "--reason", "sale", "--actor", "ada", "--json")
    assert ended.code == 0
    assert ended.json == {"rows": True, "releases": False, "learning": True, "actor": "ada", "reason": "sale"}


def test_several_parts_are_unfrozen_at_once() -> None:
    admin = Admin(freeze=Freeze(rows=True, releases=True, learning=True))
    with serving(admin) as address:
        ended = run("unfreeze", "rows", "learning", "--admin", address)
    assert ended.code == 0
    assert (admin.freeze.rows, admin.freeze.releases, admin.freeze.learning) == (False, True, False)


def test_a_stop_of_the_row_gate_does_not_become_a_persons_freeze() -> None:
    admin = Admin(freeze=Freeze(rows=True, actor="row gate", reason="norms"))
    with serving(admin) as address:
        run("freeze", "learning", "--admin", address)
    assert not admin.asked[0].rows
    assert admin.asked[0].learning


def test_a_freeze_that_does_not_show_ends_with_one() -> None:
    with serving(Admin(stuck=True)) as address:
        ended = run("freeze", "releases", "--admin", address)
    assert ended.code == 1
    assert "does not show" in ended.err


def test_unfreezing_rows_that_the_gate_has_stopped_says_who_stopped_them() -> None:
    admin = Admin(freeze=Freeze(rows=True, actor="row gate", reason="norms grew"), stuck=True)
    with serving(admin) as address:
        ended = run("unfreeze", "rows", "--admin", address)
    assert ended.code == 1
    assert "row gate says 'norms grew'" in ended.err


def test_forget_says_where_the_wish_lies() -> None:
    admin = Admin()
    with serving(admin) as address:
        ended = run("forget", "user-1", "--yes", "--before", "2026-01-02T03:04:05Z", "--admin", address, "--json")
    assert ended.json == {"partition": 2, "offset": 77}
    assert (admin.asked[0].user_id, admin.asked[0].before_us) == ("user-1", 1_767_323_045_000_000)


def test_forget_asks_for_a_yes_where_nobody_can_answer() -> None:
    admin = Admin()
    with serving(admin) as address:
        ended = run("forget", "user-1", "--admin", address)
    assert (ended.code, admin.asked) == (2, [])
    assert "--yes" in ended.err


def test_explain_shows_what_moved_the_score() -> None:
    with serving() as address:
        ended = run("explain", "good", "hat", "--gateway", address)
        machine = run("explain", "good", "--gateway", address, "--json")
    assert "hat: 0.5000 (served 0.5000) by " + CHAMPION in ended.out
    assert "user_stats:clicks_1h\t3\t0.25\t40 ms" in ended.out
    assert machine.json["contributions"][0]["contribution"] == 0.25
    assert (machine.json["matched_words"], machine.json["categories"]) == (["hat"], {"hats": 0.75})


def test_a_bad_token_is_bad_input_and_names_the_field() -> None:
    with serving() as address:
        ended = run("explain", "nonsense", "--gateway", address)
    assert (ended.code, ended.err.strip()) == (2, "error: attribution_token: is not base64url")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("freeze", "rows", "--admin"), id="freeze"),
        pytest.param(("releases", "list", "--admin"), id="releases"),
        pytest.param(("forget", "user-1", "--yes", "--admin"), id="forget"),
        pytest.param(("explain", "good", "--gateway"), id="explain"),
    ],
)
def test_a_part_that_does_not_answer_ends_with_three_and_names_the_option(arguments: tuple[str, ...]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        ended = run(*arguments, f"127.0.0.1:{closed.getsockname()[1]}")
    assert ended.code == 3
    assert arguments[-1] in ended.err


def test_the_admin_token_is_sent_and_a_missing_one_is_bad_input() -> None:
    with serving(Admin(token="secret")) as address:
        assert run("releases", "list", "--admin", address, "--token", "secret").code == 0
        assert run("releases", "list", "--admin", address, env={"FRESHRANK_CLI_ADMIN_TOKEN": "secret"}).code == 0
        ended = run("releases", "list", "--admin", address)
    assert ended.code == 2
    assert "--token" in ended.err
