"""Every example of the chart renders to objects that the API knows, restricted pods, and settings that exist."""

import re
from collections.abc import Iterator
from functools import cache

import pytest

from docs.generate import SERVICES, settings_of
from services.common.settings import load_settings
from services.gateway.settings import GatewaySettings
from services.publisher.settings import PublisherSettings
from services.trainer.settings import TrainerSettings
from tests.deploy.manifests import CHART, Object, containers, parse, pod_template, pods, render, variables
from tests.deploy.test_objects import KINDS, OF_OPERATORS, understood

EXAMPLES = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))


@cache
def rendered(example: str) -> list[Object]:
    return parse(render("-f", str(CHART / "examples" / f"{example}.yaml"), "--namespace", "shop"))


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_object_is_one_that_the_api_or_an_operator_knows(example: str) -> None:
    for thing in rendered(example):
        if thing["kind"] in KINDS:
            assert understood(thing) == thing
        else:
            assert OF_OPERATORS[thing["kind"]] == thing["apiVersion"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_pod_is_restricted(example: str) -> None:
    for name, spec in pods(rendered(example)):
        pod = spec["securityContext"]
        assert (pod["runAsNonRoot"], pod["seccompProfile"]) == (True, {"type": "RuntimeDefault"}), name
        assert {key for volume in spec["volumes"] for key in volume} - {"name"} <= ALLOWED, name
        for container in containers(spec):
            assert container["securityContext"] == RESTRICTED, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name


ALLOWED = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_object_is_named_after_the_release_and_once(example: str) -> None:
    names = [(o["kind"], o["metadata"]["name"]) for o in rendered(example)]
    assert len(names) == len(set(names))
    assert [name for _, name in names if not name.startswith("freshrank")] == []
    assert [name for _, name in names if len(name) > 63] == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_variable_is_given_once_and_refers_to_those_before_it(example: str) -> None:
    for name, spec in pods(rendered(example)):
        for container in containers(spec):
            seen: list[str] = []
            for entry in container.get("env", []):
                assert entry["name"] not in seen, name
                assert set(re.findall(r"\$\((\w+)\)", entry.get("value", ""))) <= set(seen), name
                seen.append(entry["name"])


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_variable_of_a_service_is_one_that_it_reads(example: str) -> None:
    objects = rendered(example)
    for name, service, container in of_services(objects):
        prefix = f"FRESHRANK_{service.upper()}_"
        known = {f"{prefix}{field.upper()}" for field in settings_of(service).model_fields}
        given = {variable for variable in variables(objects, container) if variable.startswith(prefix)}
        assert given - known == set(), name


FROM_SECRETS = {
    "FRESHRANK_REDIS_URL": "redis://redis:6379",
    "FRESHRANK_TOKEN_KEYS": "1:" + "ab" * 16,
    "FRESHRANK_REGISTRY": "postgresql://registry/feast",
    "FRESHRANK_GATEWAY_ADMIN_TOKEN": "s3cret",
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_service_takes_the_values_it_is_given(example: str) -> None:
    """But for those of files that a cluster mounts."""
    objects = rendered(example)
    for _, service, container in of_services(objects):
        given = {name: FROM_SECRETS.get(name, value) for name, value in variables(objects, container).items()}
        here = {name: value for name, value in given.items() if value and not value.startswith("/srv/freshrank/")}
        known = {name: value for name, value in here.items() if name != "FRESHRANK_KAFKA_USERNAME"}  # goes with a file
        settings = load_settings(settings_of(service), known)
        assert settings.model_dump().keys() >= {"http_port", "bootstrap"}


def test_search_is_set_like_everything_else() -> None:
    objects = rendered("search")
    found = {name: variables(objects, container) for name, _, container in of_services(objects)}
    gateway = load_settings(GatewaySettings, search_of(found["gateway"], "GATEWAY"))
    assert (gateway.item_vectors, gateway.search_rerank, gateway.search_language) == ({"image": 512}, 20, "german")
    publisher = load_settings(PublisherSettings, search_of(found["publisher"], "PUBLISHER"))
    assert (publisher.relevance_ndcg, publisher.text_ndcg) == (0.005, 0.005)
    learner = load_settings(TrainerSettings, search_of(found["text-encoder"], "TRAINER"))
    assert (learner.text_model, learner.text_way) == ("default", "lora(8), replay(2000)")


def search_of(given: dict[str, str], service: str) -> dict[str, str]:
    """A service's own variables of search."""
    own = (f"FRESHRANK_{service}_{part}" for part in ("SEARCH", "ITEM_V", "SIMILAR", "QUERY", "RELEVANCE", "TEXT"))
    prefixes = tuple(own)
    return {name: value for name, value in given.items() if name.startswith(prefixes)}


def of_services(objects: list[Object]) -> Iterator[tuple[str, str, Object]]:
    """Component, service and container of what runs a service."""
    for name, spec in pods(objects):
        for container in spec["containers"]:
            for module in (word.removeprefix("services.") for word in container["command"]):
                if module in SERVICES:
                    yield name, module, container


@pytest.mark.parametrize("example", EXAMPLES)
def test_selectors_choose_the_pods_they_stand_beside(example: str) -> None:
    for thing in rendered(example):
        template = pod_template(thing)
        if template is not None and "selector" in thing["spec"]:
            assert thing["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
