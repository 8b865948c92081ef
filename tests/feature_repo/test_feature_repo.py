"""The feature repository as shipped, and repositories that must be refused with file, view and reason."""

import shutil
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from services.cli.app import build
from services.common.definitions import FUNCTIONS
from services.common.errors import InvalidInput, NotFound, TemporaryError
from services.common.plans import BUILTINS
from services.features import commands
from services.online.registry import load_plan
from services.online.repository import read_repository

SHIPPED = Path(__file__).parents[2] / "feature_repo"
ENTITIES = {
    ("user_id",), ("item_id",), ("user_id", "category"), ("session_id",),
    ("query",), ("query", "item_id"), ("query", "category"),
}  # fmt: skip


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped repository with a registry of its own."""
    monkeypatch.setenv("FRESHRANK_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("FRESHRANK_REGISTRY", raising=False)
    (tmp_path / "store").mkdir()
    shutil.copytree(SHIPPED, tmp_path / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "feature_repo"


def edit(repo: Path, file: str, old: str, new: str) -> None:
    """Replace a text that is there exactly once."""
    text = (repo / file).read_text()
    assert text.count(old) == 1, (file, old, text.count(old))
    (repo / file).write_text(text.replace(old, new))


def test_a_registry_in_postgresql_is_reached_for_with_its_driver(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("FRESHRANK_REGISTRY", f"postgresql+psycopg://shop:secret@127.0.0.1:{port}/feast")
        with pytest.raises(TemporaryError, match="psycopg.*onnection"):
            load_plan(repo)


def test_what_is_applied_is_what_services_read(repo: Path) -> None:
    changes = commands.apply(repo)
    plan = load_plan(repo)
    assert plan == read_repository(repo)
    assert {change.action for change in changes} == {"added"}
    assert commands.plan(repo) == []


def test_a_repository_mounted_from_a_config_map_is_read_like_any_other(repo: Path) -> None:
    plain = read_repository(repo)
    (repo / "..2026_11_23").mkdir()
    for path in [path for path in repo.iterdir() if path.is_file()]:
        path.rename(repo / "..2026_11_23" / path.name)
        path.symlink_to(f"..data/{path.name}")
    (repo / "..data").symlink_to("..2026_11_23")
    assert read_repository(repo) == plain
    commands.apply(repo)
    assert load_plan(repo) == plain


def test_there_are_enough_features_over_every_entity(repo: Path) -> None:
    plan = read_repository(repo)
    assert len(plan.definitions()) >= 25
    assert {view.join_keys for view in plan.views} == ENTITIES
    windows = {feature.window_us for feature in plan.definitions().values()}
    assert min(windows) == 5 * 60 * 1_000_000
    assert max(windows) == 30 * 24 * 3600 * 1_000_000
    assert set(FUNCTIONS) - {feature.function for feature in plan.definitions().values()} <= {"min"}
    # What compares vectors that a shop gives is declared by shops that give some.
    assert {cross.builtin for cross in plan.crosses} == set(BUILTINS) - {"vector_likeness"}


def test_what_is_the_same_for_all_candidates_goes_to_the_user_and_the_rest_to_the_item(repo: Path) -> None:
    ranking = read_repository(repo).ranking
    assert {ref.view for ref in ranking.user} == {"user_stats", "session_stats", "query_stats"}
    pairs = {"user_category_stats", "query_item_stats", "query_category_stats"}
    assert {ref.view for ref in ranking.item} == {"item_stats", "cross", *pairs}
    assert ranking.history.items == "user_stats:recent_items"


def test_a_changed_window_is_shown_and_gets_another_id(repo: Path) -> None:
    commands.apply(repo)
    before = load_plan(repo).feature("user_stats:clicks_1h")
    edit(repo, "views.py", 'count("clicks_1h", ONE_HOUR', 'count("clicks_1h", ONE_DAY')
    assert [(c.action, c.path) for c in commands.plan(repo)] == [
        ("changed", "user_stats:clicks_1h"),
        ("changed", "ranking"),
    ]
    commands.apply(repo)
    after = load_plan(repo).feature("user_stats:clicks_1h")
    assert (before.name, before.window_us * 24) == (after.name, after.window_us)
    assert before.id != after.id


def test_a_new_feature_of_a_view_that_is_served_whole_reaches_the_ranking(repo: Path) -> None:
    commands.apply(repo)
    count = 'count("item_carts_1d", ONE_DAY, "kind == \'add_to_cart\'"),'
    edit(repo, "views.py", count, count + '\n        count("item_likes_1d", ONE_DAY, "kind == \'like\'"),')
    assert ("added", "item_stats:item_likes_1d") in [(c.action, c.path) for c in commands.apply(repo)]
    assert "item_likes_1d" in [ref.name for ref in load_plan(repo).ranking.item]


def test_a_removed_feature_is_shown(repo: Path) -> None:
    commands.apply(repo)
    edit(repo, "views.py", '        count("item_carts_1d", ONE_DAY, "kind == \'add_to_cart\'"),\n', "")
    assert ("removed", "item_stats:item_carts_1d") in [(c.action, c.path) for c in commands.plan(repo)]


CARTS = '        count("item_carts_1d", ONE_DAY, "kind == \'add_to_cart\'"),\n'
SLOT, STRING = 'slot("item_row_f", item)', '["item_id"], value_type=ValueType.STRING'
SESSION = 'name="session", join_keys=["session_id"]'
LOSSES = [
    pytest.param("views.py", CARTS, "", "item_stats:item_carts_1d", id="a feature vanishes"),
    pytest.param("rows.py", SLOT, SLOT.replace("_f", "_g"), "view item_row_f", id="a view vanishes"),
    pytest.param("rows.py", SLOT, SLOT.replace("item)", "user)"), "view item_row_f", id="another key"),
    pytest.param(
        "entities.py", SESSION, SESSION.replace('"session"', '"visit"'), "entity session", id="an entity vanishes"
    ),
    pytest.param("entities.py", STRING, STRING.replace("STRING", "INT64"), "entity item", id="another type"),
]


@pytest.mark.parametrize(("file", "old", "new", "path"), LOSSES)
def test_a_change_that_loses_values_is_said_to(repo: Path, file: str, old: str, new: str, path: str) -> None:
    commands.apply(repo)
    edit(repo, file, old, new)
    assert path in {change.path for change in commands.plan(repo) if change.destructive}


def test_a_change_that_loses_nothing_is_not(repo: Path) -> None:
    assert {change.destructive for change in commands.plan(repo)} == {False}
    commands.apply(repo)
    edit(repo, "views.py", 'count("clicks_1h", ONE_HOUR', 'count("clicks_1h", ONE_DAY')
    assert {change.destructive for change in commands.plan(repo)} == {False}


def freshrank(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(build(), list(arguments))
    return found.exit_code, found.output


def test_a_destructive_change_is_refused_when_asked_to_and_nothing_is_changed(repo: Path) -> None:
    assert freshrank("features", "apply", "--repo", str(repo))[0] == 0
    edit(repo, "views.py", CARTS, "")
    for command in ("plan", "apply"):
        code, said = freshrank("features", command, "--fail-on-destructive", "--repo", str(repo))
        assert (code, "item_stats:item_carts_1d removed" in said) == (1, True)
    assert load_plan(repo).feature("item_stats:item_carts_1d").name == "item_carts_1d"
    assert freshrank("features", "apply", "--repo", str(repo))[0] == 0


_SEARCHES = '"searches_1h", ONE_HOUR, SEARCH'
BAD = [
    pytest.param(
        "views.py", '"std", "price"', '"median", "price"', "views.py: user_stats:std_price_30d", "unknown_function",
        id="unknown function",
    ),
    pytest.param(
        "views.py", '"std", "price"', '"std", "prise"', "views.py: user_stats:std_price_30d", "unknown_column",
        id="unknown column",
    ),
    pytest.param(
        "views.py", '"std", "price"', '"std", "item"', "views.py: user_stats:std_price_30d", "wrong_column",
        id="deviation of a text",
    ),
    pytest.param(
        "views.py", '"item", ONE_DAY, Int64, where=TOUCH),\n        feature("distinct_categories_7d"',
        '"item", ONE_DAY, String, where=TOUCH),\n        feature("distinct_categories_7d"',
        "views.py: user_stats:distinct_items_1d", "wrong_type", id="count as text",
    ),
    pytest.param(
        "views.py", _SEARCHES, '"searches_1h", ONE_HOUR, "kind = \'search\'"',
        "views.py: user_stats:searches_1h", "bad_filter", id="filter that cannot be read",
    ),
    pytest.param(
        "views.py", _SEARCHES, '"searches_1h", ONE_HOUR, "kind == \'serch\'"',
        "views.py: user_stats:searches_1h", "bad_filter", id="unknown kind in a filter",
    ),
    pytest.param(
        "views.py", _SEARCHES, '"searches_1h", ONE_HOUR, "__import__(\'os\')"', "views.py: user_stats:searches_1h",
        "unknown_column", id="code in a filter",
    ),
    pytest.param(
        "views.py", "ONE_HOUR = (HOUR, MINUTE)", "ONE_HOUR = (HOUR, 7 * MINUTE)", "views.py: item_stats:",
        "bad_window", id="window not a multiple of the slide",
    ),
    pytest.param(
        "views.py", "ONE_HOUR = (HOUR, MINUTE)", "ONE_HOUR = (HOUR, timedelta(seconds=1))", "views.py: item_stats:",
        "too_many_tiles", id="too many tiles",
    ),
    pytest.param(
        "views.py", "THIRTY_DAYS = (30 * DAY, DAY)", "THIRTY_DAYS = (60 * DAY, DAY)", "views.py: item_stats:",
        "window_too_long", id="window longer than log and archive",
    ),
    pytest.param(
        "views.py", 'where=TOUCH, n="5"', "where=TOUCH", "views.py: user_stats:top_categories", "missing_tag",
        id="n missing",
    ),
    pytest.param(
        "views.py", 'where=TOUCH, n="5"', 'where=TOUCH, n="many"', "views.py: user_stats:top_categories", "bad_tag",
        id="n not a number",
    ),
    pytest.param(
        "views.py", 'half_life="6h"', 'half_life="six hours"', "views.py: user_stats:decayed_clicks", "bad_duration",
        id="half-life not a duration",
    ),
    pytest.param(
        "views.py", 'half_life="6h"', 'halflife="6h"', "views.py: user_stats:decayed_clicks", "unknown_tag",
        id="misspelt tag",
    ),
    pytest.param(
        "views.py", '    "user_category_stats",\n    [user, category]', '    "user_category_stats",\n    [category]',
        "views.py: user_category_stats:", "wrong_entity", id="view by category alone",
    ),
    pytest.param(
        "views.py", "aggregations=[aggregation for aggregation, _ in features]",
        "aggregations=[aggregation for aggregation, _ in features[1:]]", "views.py: item_stats:", "missing_part",
        id="field without an aggregation",
    ),
    pytest.param(
        "cross.py", '"price_rank", "price_rank"', '"price_rank", "price_order"', "cross.py: cross:price_rank",
        "unknown_builtin", id="unknown built-in",
    ),
    pytest.param(
        "cross.py", 'list=RECENT, kind="click"', "list=RECENT", "cross.py: cross:recent_clicks", "missing_tag",
        id="built-in without its argument",
    ),
    pytest.param(
        "cross.py", 'SESSION = "user_stats:recent", "session_stats:session"',
        'SESSION = "user_stats:recent", "session_stats:visit"', "session_stats:visit_items", "unknown_feature",
        id="list that does not exist",
    ),
    pytest.param(
        "feature_services.py", '"history_kinds": "user_stats:recent_kinds",\n', "", "ranking", "missing_tag",
        id="history without kinds",
    ),
    pytest.param(
        "feature_services.py", '"decayed_clicks",\n', '"decayed_clicks", "last_category",\n',
        "user_stats:last_category", "not_a_number", id="text as input of the ranking",
    ),
    pytest.param(
        "feature_services.py", 'name="retrieval"', 'name="recall"', "retrieval", "missing_service",
        id="feature service missing",
    ),
    pytest.param("views.py", "MINUTE, HOUR, DAY =", "MINUTE, HOUR DAY =", "views.py:", "not_python", id="not Python"),
    pytest.param("views.py", "from sources import stream", "from sources import streams", "views.py:", "not_python",
                 id="import that fails"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "field", "reason"), BAD)
def test_a_bad_repository_is_refused_with_file_view_and_reason(
    repo: Path, file: str, old: str, new: str, field: str, reason: str
) -> None:
    edit(repo, file, old, new)
    with pytest.raises(InvalidInput) as refused:
        commands.apply(repo)
    assert refused.value.reason == reason
    assert refused.value.field.startswith(field)
    with pytest.raises(InvalidInput, match="FeatureService"):
        load_plan(repo)  # nothing was applied


def test_a_folder_without_feature_store_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="feature_store"):
        read_repository(tmp_path)
