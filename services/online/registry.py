"""Reads the feature repository's plan from Feast's registry, by name; no other module does.

The repository's Python files are never imported here: what `feast apply` stored is what counts.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml  # type: ignore[import-untyped]

from services.common.definitions import JOIN_COLUMNS, FeatureDefinition, define, hash8
from services.common.errors import InvalidInput, TemporaryError
from services.common.plans import CrossFeature, History, Plan, RankingPlan, ViewPlan, cross
from services.common.spec import FeatureRef
from services.online.inventory import Inventory, inventory
from services.online.light import light

with light():
    from feast import FeatureService, FeatureStore, FeatureView, StreamFeatureView
    from feast.errors import FeastError
    from feast.repo_config import RepoConfig

RANKING, RETRIEVAL = "ranking", "retrieval"
MARK = "_"
"""Fields that begin with it are written beside the features: `_pos`, `_clock`."""

_NUMBERS = frozenset({"INT32", "INT64", "FLOAT32", "FLOAT64", "BOOL"})
_VALUE_TYPES = {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}
_USER_KEYS = (("user_id",), ("session_id",), ("query",))
"""Whose features are the same for all candidates of a request."""


def load_plan(feature_repo: Path) -> Plan:
    """The plan as of now.

    Raises InvalidInput naming file, view and feature for a definition that cannot be computed or a feature service
    that is missing, TemporaryError when the registry cannot be read.
    """
    return PlanSource(feature_repo).load()


class PlanSource:
    """A registry that is read again and again: keeps the connection."""

    def __init__(self, feature_repo: Path) -> None:
        config = repo_config(feature_repo)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._store = FeatureStore(config=config)
        self._project = str(config.project)

    def load(self) -> Plan:
        """Like `load_plan`."""
        entities, streams, views = self._read()
        keys = {entity.name: entity.join_key for entity in entities}
        with _reading():
            services = {s.name: s for s in self._store.list_feature_services()}
        return build_plan(self._project, keys, streams, views, services)

    def inventory(self) -> Inventory:
        """What is applied, by name; empty when nothing is. Raises TemporaryError when the registry cannot be read."""
        entities, streams, views = self._read()
        return inventory(entities, [*streams, *views])

    def _read(self) -> tuple[list[Any], list[StreamFeatureView], list[FeatureView]]:
        with _reading():
            views = [v for v in self._store.list_feature_views() if not isinstance(v, StreamFeatureView)]
            return self._store.list_entities(), self._store.list_stream_feature_views(), views


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Feast calls stream views experimental at each reading
        try:
            yield
        except Exception as error:
            raise TemporaryError(f"the registry cannot be read: {error}") from error


def repo_config(feature_repo: Path, environment: Mapping[str, str] | None = None) -> RepoConfig:
    """Feast's configuration of a repository, with our defaults for the variables in feature_store.yaml.

    Raises InvalidInput naming the file when it is not there or says nothing that Feast can use.
    """
    values = with_defaults(os.environ if environment is None else environment)
    path = feature_repo / "feature_store.yaml"
    try:
        text = path.read_text()
        for name, value in values.items():
            text = text.replace(f"${{{name}}}", value)
        raw = yaml.safe_load(text)
        # We read at our own times; a refreshing thread each would be left behind.
        raw["registry"] |= {"cache_mode": "sync", "cache_ttl_seconds": 1}
        return RepoConfig(**raw, repo_path=feature_repo)
    except OSError as error:
        raise InvalidInput(str(path), "not_readable", str(error.strerror)) from error
    except (FeastError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InvalidInput(str(path), "not_a_feature_store", f"Feast cannot use it: {' '.join(reason)}") from error


def with_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that feature_store.yaml names: as set, or from FRESHRANK_STORE and FRESHRANK_REDIS_URL.

    >>> with_defaults({"FRESHRANK_REDIS_URL": "redis://:pw@r:7000/2"})["FRESHRANK_REDIS"]
    'r:7000,password=pw,db=2'
    """
    store = Path(environment.get("FRESHRANK_STORE") or "store").absolute()
    url = urlsplit(environment.get("FRESHRANK_REDIS_URL") or "redis://127.0.0.1:6379")
    parts = [f"{url.hostname}:{url.port or 6379}"]
    parts += [f"username={url.username}"] if url.username else []
    parts += [f"password={url.password}"] if url.password else []
    parts += [f"db={url.path[1:]}"] if url.path.strip("/") else []
    parts += _secure(environment) if url.scheme == "rediss" else []
    return {
        "FRESHRANK_REGISTRY": environment.get("FRESHRANK_REGISTRY") or f"sqlite:///{store}/registry.db",
        "FRESHRANK_REDIS": environment.get("FRESHRANK_REDIS") or ",".join(parts),
    }


def _secure(environment: Mapping[str, str]) -> list[str]:
    named = {"ssl_ca_certs": "CA", "ssl_certfile": "CERT", "ssl_keyfile": "KEY"}
    found = {option: environment.get(f"FRESHRANK_REDIS_{name}") for option, name in named.items()}
    return ["ssl=true", *(f"{option}={Path(path).absolute()}" for option, path in found.items() if path)]


def build_plan(
    project: str,
    join_keys: Mapping[str, str],
    streams: Sequence[StreamFeatureView],
    views: Sequence[FeatureView],
    services: Mapping[str, FeatureService],
) -> Plan:
    """Check and take apart what a registry, or a repository that was parsed, holds. Raises InvalidInput.

    `join_keys`: of each entity.
    """
    plans = tuple(_view_plan(stream, join_keys) for stream in sorted(streams, key=lambda s: s.name))
    crossed = [_cross(view, field) for view in views for field in view.features if "builtin" in field.tags]
    crosses = tuple(sorted(crossed, key=lambda c: (c.view, c.name)))
    known = {f"{v.name}:{f.name}": f for v in plans for f in v.features}
    _check_ids([*known.values(), *crosses])
    ranking = _ranking(_service(services, RANKING), known, {f"{c.view}:{c.name}": c for c in crosses})
    retrieval = _history(_service(services, RETRIEVAL), known)
    return Plan(project, plans, ranking, retrieval, crosses)


def _view_plan(view: StreamFeatureView, join_keys: Mapping[str, str]) -> ViewPlan:
    file = _file_of(view)
    keys = tuple(join_keys.get(entity, entity) for entity in view.entities)
    fields = {f.name: f for f in view.features if not f.name.startswith(MARK) and f.name not in keys}
    aggregations = {a.resolved_name(a.time_window): a for a in view.aggregations}
    for name in sorted(set(fields) ^ set(aggregations)):
        lacks = "aggregation" if name in fields else "field in the schema"
        raise InvalidInput(f"{file}{view.name}:{name}", "missing_part", f"there is no {lacks} of this name")
    return ViewPlan(
        view.name, keys, tuple(_define(view, keys, aggregations[name], fields[name]) for name in sorted(fields))
    )


def _define(view: StreamFeatureView, keys: tuple[str, ...], aggregation: Any, field: Any) -> FeatureDefinition:
    tags = {name: value for name, value in field.tags.items() if not name.startswith("feast:")}
    try:
        return define(
            view.name,
            keys,
            field.name,
            aggregation.function,
            aggregation.column,
            _microseconds(aggregation.time_window),
            _microseconds(aggregation.slide_interval),
            value_type_of(field),
            tags,
        )
    except InvalidInput as error:
        raise InvalidInput(f"{_file_of(view)}{error.field}", error.reason, error.detail) from error


def _cross(view: FeatureView, field: Any) -> CrossFeature:
    try:
        return cross(view.name, field.name, field.tags)
    except InvalidInput as error:
        raise InvalidInput(f"{_file_of(view)}{error.field}", error.reason, error.detail) from error


def _file_of(view: FeatureView) -> str:
    return f"{view.tags['file']}: " if "file" in view.tags else ""


def _microseconds(delta: Any) -> int:
    return round(delta.total_seconds() * 1_000_000) if delta else 0


def value_type_of(field: Any) -> str:
    """Name of the value's type as `services.online.encode.Kind` has it."""
    name = str(field.dtype.to_value_type().name)
    base, _, tail = name.partition("_LIST")
    return _VALUE_TYPES.get(base, base) + ("_LIST" if "_LIST" in name else tail)


def _check_ids(features: Sequence[FeatureDefinition | CrossFeature]) -> None:
    seen: dict[int, str] = {}
    for feature in features:
        path = f"{feature.view}:{feature.name}"
        if feature.id in seen:
            raise InvalidInput(path, "same_id", f"has the id of {seen[feature.id]} by chance; change its name")
        seen[feature.id] = path


def _service(services: Mapping[str, FeatureService], name: str) -> FeatureService:
    if name not in services:
        raise InvalidInput(name, "missing_service", f"there is no FeatureService {name!r}")
    return services[name]


def _ranking(
    service: FeatureService, known: Mapping[str, FeatureDefinition], crosses: Mapping[str, CrossFeature]
) -> RankingPlan:
    user: list[FeatureRef] = []
    item: list[FeatureRef] = []
    used: list[CrossFeature] = []
    for path in _paths(service):
        if path in crosses:
            used.append(crosses[path])
            item.append(crosses[path].ref)
            continue
        feature = _known(service, known, path)
        if feature.value_type not in _NUMBERS:
            raise InvalidInput(path, "not_a_number", f"FeatureService {service.name} takes numbers and history only")
        (user if feature.join_keys in _USER_KEYS else item).append(feature.ref)
    history = _history(service, known)
    arrays = [*history_paths(history), *(path for c in used for path in c.arrays)]
    for path in arrays:
        _known(service, known, path)
    content = [[ref.id for ref in (*user, *item)], history_paths(history)]
    return RankingPlan(
        f"{service.name}@{hash8(content)}", tuple(user), tuple(item), history, tuple(used), tuple(dict.fromkeys(arrays))
    )


def _paths(service: FeatureService) -> list[str]:
    """Views in the service's order, features by name within: Feast itself forgets the order of a view's fields."""
    return [
        f"{projection.name}:{name}"
        for projection in service.feature_view_projections
        for name in sorted(field.name for field in projection.features)
        if not name.startswith(MARK) and name not in JOIN_COLUMNS
    ]


def _known(service: FeatureService, known: Mapping[str, FeatureDefinition], path: str) -> FeatureDefinition:
    if path not in known:
        raise InvalidInput(path, "unknown_feature", f"FeatureService {service.name} names it, but no view computes it")
    return known[path]


def history_paths(history: History) -> list[str]:
    """The three array features of a history."""
    return [history.items, history.kinds, history.times]


def _history(service: FeatureService, known: Mapping[str, FeatureDefinition]) -> History:
    try:
        paths = [service.tags[tag] for tag in ("history_items", "history_kinds", "history_times")]
    except KeyError as error:
        raise InvalidInput(service.name, "missing_tag", f"FeatureService needs the tag {error}") from error
    lists = [_known(service, known, path) for path in paths]
    wanted = ("STRING_LIST", "INT64_LIST", "INT64_LIST")
    for feature, value_type in zip(lists, wanted, strict=True):
        if feature.value_type != value_type:
            raise InvalidInput(f"{feature.view}:{feature.name}", "wrong_type", f"history needs {value_type}")
    if len({(f.view, f.n, f.where, f.window_us, f.slide_us, f.function) for f in lists}) != 1:
        raise InvalidInput(service.name, "not_parallel", f"{', '.join(paths)} need one view, n, filter and window")
    return History(*paths)
