"""Settings come from named variables, and a wrong one is named."""

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from services.common.errors import InvalidInput
from services.common.settings import ServiceSettings, load_settings


class Shop(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="FRESHRANK_SHOP_", frozen=True, extra="forbid")

    shelves: int = Field(3, ge=1, description="how many")
    names: list[str] = Field(default_factory=list, description="of the shelves")


def test_defaults_hold_where_nothing_is_set() -> None:
    settings = load_settings(Shop, {})
    assert (settings.shelves, settings.partitions, settings.names) == (3, 4, [])


def test_a_services_own_variable_goes_before_the_shared_one() -> None:
    shared = {"FRESHRANK_PARTITIONS": "8", "FRESHRANK_STORE": "here"}
    settings = load_settings(Shop, shared | {"FRESHRANK_SHOP_PARTITIONS": "16", "FRESHRANK_SHOP_NAMES": '["a"]'})
    assert (settings.partitions, str(settings.store), settings.names) == (16, "here", ["a"])


def test_what_is_given_goes_before_every_variable() -> None:
    assert load_settings(Shop, {"FRESHRANK_SHOP_SHELVES": "5"}, given={"shelves": 7}).shelves == 7


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHRANK_SHOP_SHELVES", "9")
    monkeypatch.setenv("FRESHRANK_PARTITIONS", "12")
    settings = load_settings(Shop)
    assert (settings.shelves, settings.partitions) == (9, 12)


def test_settings_do_not_change() -> None:
    settings = load_settings(Shop, {})
    with pytest.raises(ValidationError):
        settings.shelves = 4  # type: ignore[misc]


BAD = [
    ("FRESHRANK_SHOP_SHELFS", "4"),
    ("FRESHRANK_SHOP_", "4"),
    ("FRESHRANK_SHOP_SHELVES", "many"),
    ("FRESHRANK_SHOP_SHELVES", "0"),
    ("FRESHRANK_SHOP_SHELVES", "1.5"),
    ("FRESHRANK_SHOP_NAMES", "a, b"),
    ("FRESHRANK_SHOP_NAMES", '{"a": 1}'),
    ("FRESHRANK_SHOP_HTTP_PORT", "70000"),
    ("FRESHRANK_SHOP_HTTP_PORT", "-1"),
    ("FRESHRANK_SHOP_HTTP_HOST", ""),
    ("FRESHRANK_SHOP_PARTITIONS", "0"),
    ("FRESHRANK_SHOP_PARTITIONS", "5000"),
    ("FRESHRANK_PARTITIONS", "three"),
    ("FRESHRANK_SHOP_BOOTSTRAP", ""),
    ("FRESHRANK_SHOP_BOOTSTRAP", "kafka"),
    ("FRESHRANK_SHOP_BOOTSTRAP", "a:9092;b:9092"),
    ("FRESHRANK_BOOTSTRAP", "a:9092, b:9092"),
    ("FRESHRANK_REDIS_URL", "redis.shop:6379"),
    ("FRESHRANK_SHOP_LOG_LEVEL", "LOUD"),
    ("FRESHRANK_SHOP_LOG_LEVEL", "info"),
    ("FRESHRANK_OTLP_ENDPOINT", "http://collector:4317"),
]


@pytest.mark.parametrize(("name", "value"), [pytest.param(*case, id="=".join(case)) for case in BAD])
def test_a_bad_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_settings(Shop, {name: value})
    assert caught.value.field == name


def test_the_names_of_other_services_are_not_ours_to_judge() -> None:
    load_settings(Shop, {"FRESHRANK_OTHER_THING": "1", "PATH": "/bin"})


@pytest.mark.parametrize("value", ["a:9092", "a.b-c:9092,10.0.0.1:9093", "[::1]:9092"])
def test_good_addresses_are_taken(value: str) -> None:
    assert load_settings(Shop, {"FRESHRANK_BOOTSTRAP": value}).bootstrap == value
