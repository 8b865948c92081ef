"""Releases: listed, compared, promoted, rolled back."""

import pytest

from tests.cli.fakes import CHAMPION, HELD, PREVIOUS, Admin, run, serving


def test_the_list_is_newest_first_and_fit_for_pipes() -> None:
    with serving() as address:
        lines = run("releases", "list", "--admin", address).out.splitlines()
    assert lines[0] == "# Releases"
    assert lines[1].startswith("release\tstate\t")
    assert [line.split("\t")[:2] for line in lines[2:]] == [
        [HELD, "held"],
        [CHAMPION, "champion"],
        [PREVIOUS, "previous"],
    ]


def test_a_release_is_shown_with_figures_before_and_after() -> None:
    with serving() as address:
        found = run("releases", "show", CHAMPION, "--admin", address, "--json").json
        people = run("releases", "show", CHAMPION, "--admin", address).out
    assert (found["before"], found["after"]["auc"]) == ({"auc": 0.7}, pytest.approx(0.709))
    assert "auc\t0.7\t0.709" in people
    assert "impressions\t500" in people


def test_two_releases_are_compared_figure_by_figure() -> None:
    with serving() as address:
        found = run("releases", "diff", PREVIOUS, HELD, "--admin", address, "--json").json
    assert found["figures"]["auc"] == {
        "a_before": 0.7,
        "a_after": pytest.approx(0.708),
        "b_before": 0.7,
        "b_after": pytest.approx(0.710),
        "difference": pytest.approx(0.002),
    }
    assert found["figures"]["log_loss"]["difference"] is None


def test_a_release_that_is_not_there_is_bad_input() -> None:
    with serving() as address:
        ended = run("releases", "diff", CHAMPION, "r1", "--admin", address)
    assert (ended.code, ended.err.strip()) == (2, "error: B: there is no release 'r1'")


def test_promoting_names_who_asked_and_answers_that_it_serves() -> None:
    admin = Admin()
    with serving(admin) as address:
        ended = run("releases", "promote", HELD, "--actor", "ada", "--admin", address, "--json")
    assert (ended.code, ended.json["state"], admin.asked[0].actor) == (0, "champion", "ada")


def test_a_promotion_that_does_not_show_ends_with_one() -> None:
    with serving(Admin(stuck=True)) as address:
        ended = run("releases", "promote", HELD, "--admin", address)
    assert ended.code == 1
    assert "does not serve (yet)" in ended.err


def test_rolling_back_goes_to_the_previous_release_when_none_is_named() -> None:
    admin = Admin()
    with serving(admin) as address:
        ended = run("releases", "rollback", "--reason", "wrong prices", "--admin", address, "--json")
    assert (ended.code, ended.json["release"]) == (0, PREVIOUS)
    assert admin.asked[0].reason == "wrong prices"


def test_a_rollback_that_changes_nothing_ends_with_one() -> None:
    with serving(Admin(stuck=True)) as address:
        ended = run("releases", "rollback", "--admin", address)
    assert ended.code == 1
    assert f"{CHAMPION} still serves" in ended.err
