"""What each option of the chart changes."""

import json
from pathlib import Path
from typing import Any

import yaml

from services.common.topics import TOPICS
from tests.deploy.manifests import Object, named, parse, pods, render, values, variables

DIGEST = "sha256:" + "4b" * 32


def chart(tmp_path: Path, **given: Any) -> list[Object]:
    """The objects with these values."""
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(given))
    return parse(render("-f", str(tmp_path / "values.yaml")))


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def first(objects: list[Object], component: str) -> Object:
    container: Object = dict(pods(objects))[component]["containers"][0]
    return container


def test_a_digest_beats_every_tag(tmp_path: Path) -> None:
    own = {"tag": "2.0", "digest": DIGEST}
    objects = chart(tmp_path, image={"tag": "1.9"}, services={"ingest": {"image": own}}, triton={"image": own})
    assert first(objects, "ingest")["image"] == f"freshrank-ingest@{DIGEST}"
    assert first(objects, "triton")["image"] == f"freshrank-triton@{DIGEST}"
    assert first(objects, "joiner")["image"] == "freshrank-joiner:1.9"


def test_a_job_runs_the_image_of_its_service(tmp_path: Path) -> None:
    objects = chart(tmp_path, services={"features": {"image": {"digest": DIGEST}}})
    assert first(objects, "apply-features")["image"] == first(objects, "features")["image"]


def test_a_stream_s_name_in_its_group_is_its_pod_s() -> None:
    objects = parse(render())
    streams = {s["metadata"]["labels"]["app.kubernetes.io/component"] for s in of_kind(objects, "StatefulSet").values()}
    assert streams == {"ingest", "features", "joiner", "triton"}
    for name in streams - {"triton"}:
        (entry,) = [e for e in first(objects, name)["env"] if e["name"] == f"FRESHRANK_{name.upper()}_INSTANCE"]
        assert entry["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_only_the_publisher_has_a_token_and_for_two_things() -> None:
    objects = parse(render())
    tokens = {name for name, spec in pods(objects) if spec["automountServiceAccountToken"]}
    assert tokens == {"publisher"}
    assert dict(pods(objects))["publisher"]["serviceAccountName"] == "freshrank-publisher"
    (role,) = of_kind(objects, "Role").values()
    assert {
        r: set(rule["verbs"]) for rule in role["rules"] for r in rule["resources"] if "resourceNames" not in rule
    } == {
        "endpointslices": {"get", "list", "watch"},
        "leases": {"create"},
    }
    (binding,) = of_kind(objects, "RoleBinding").values()
    assert [s["name"] for s in binding["subjects"]] == ["freshrank-publisher"]


def test_a_budget_keeps_one_pod_away_at_most_unless_it_says_how_many_stay(tmp_path: Path) -> None:
    objects = chart(tmp_path, services={"gateway": {"replicas": 3, "podDisruptionBudget": {"minAvailable": 2}}})
    budgets = of_kind(objects, "PodDisruptionBudget")
    assert budgets["freshrank-ingest"]["spec"]["maxUnavailable"] == 1
    assert budgets["freshrank-gateway"]["spec"]["minAvailable"] == 2
    assert "maxUnavailable" not in budgets["freshrank-gateway"]["spec"]
    selected = {name.removeprefix("freshrank-") for name in budgets}
    assert selected == {*values()["services"], "triton"}


def test_a_scaled_workload_says_no_number_of_pods(tmp_path: Path) -> None:
    scaled = {"autoscaling": {"type": "hpa", "min": 2, "max": 4}}
    objects = chart(tmp_path, services={"gateway": scaled, "features": scaled}, triton=scaled)
    scalers = of_kind(objects, "HorizontalPodAutoscaler")
    assert set(scalers) == {"freshrank-gateway", "freshrank-features", "freshrank-triton"}
    for name, scaler in scalers.items():
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in named(objects, target["kind"], target["name"])["spec"], name
    (metric,) = scalers["freshrank-triton"]["spec"]["metrics"]
    assert metric["pods"]["metric"] == {"name": "nv_inference_pending_request_count"}


def test_keda_scales_streams_by_the_topics_they_read_as_a_group(tmp_path: Path) -> None:
    scaled = {"autoscaling": {"type": "keda", "min": 1, "max": 4}}
    objects = chart(tmp_path, services={name: scaled for name in ("ingest", "features", "joiner")})
    read = {
        (trigger["metadata"]["consumerGroup"], trigger["metadata"]["topic"])
        for scaler in of_kind(objects, "ScaledObject").values()
        for trigger in scaler["spec"]["triggers"]
    }
    groups = {(s, t.name) for t in TOPICS if not t.single for s in t.consumers if s in ("ingest", "features", "joiner")}
    assert read == groups - {("ingest", "item_updates")}  # which each pod reads for itself


def test_keda_asks_kafka_with_the_credentials_of_the_services(tmp_path: Path) -> None:
    objects = chart(
        tmp_path,
        kafka={"sasl": {"username": "shop", "existingSecret": "password"}},
        tls={"kafka": {"enabled": True, "existingSecret": "authority"}},
        services={"ingest": {"autoscaling": {"type": "keda"}}},
    )
    (access,) = of_kind(objects, "TriggerAuthentication").values()
    given = {entry["parameter"]: entry["name"] for entry in access["spec"]["secretTargetRef"]}
    assert given == {"ca": "authority", "password": "password"}
    (trigger,) = named(objects, "ScaledObject", "freshrank-ingest")["spec"]["triggers"]
    assert (trigger["metadata"]["tls"], trigger["metadata"]["sasl"]) == ("enable", "scram_sha512")


def test_one_value_gives_trainer_and_triton_gpus_and_models_a_place_on_them(tmp_path: Path) -> None:
    objects = chart(tmp_path, gpu={"enabled": True, "count": 2})
    specs = dict(pods(objects))
    gpus = {n: s["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for n, s in specs.items()}
    assert {name: count for name, count in gpus.items() if count} == {"trainer": "2", "triton": "2"}
    assert specs["trainer"]["tolerations"][0]["key"] == specs["triton"]["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert variables(objects, first(objects, "publisher"))["FRESHRANK_PUBLISHER_INSTANCE_KIND"] == "KIND_GPU"


def test_models_stay_on_the_cpu_where_triton_has_no_gpu(tmp_path: Path) -> None:
    objects = chart(tmp_path, gpu={"enabled": True}, triton={"gpu": False})
    assert "FRESHRANK_PUBLISHER_INSTANCE_KIND" not in variables(objects, first(objects, "publisher"))


def test_an_arm_has_a_trainer_and_a_publisher_of_its_own(tmp_path: Path) -> None:
    objects = chart(
        tmp_path,
        arms={"towers": {"slots": "cd", "settings": {"model": "two_tower"}}},
        services={"trainer": {"settings": {"seed": 7}}},
    )
    trainer = variables(objects, first(objects, "trainer-towers"))
    publisher = variables(objects, first(objects, "publisher-towers"))
    assert (trainer["FRESHRANK_TRAINER_ARM"], trainer["FRESHRANK_TRAINER_MODEL"]) == ("towers", "two_tower")
    assert trainer["FRESHRANK_TRAINER_SEED"] == "7"
    assert (publisher["FRESHRANK_PUBLISHER_ARM"], publisher["FRESHRANK_PUBLISHER_SLOTS"]) == ("towers", "cd")
    assert "FRESHRANK_TRAINER_MODEL" not in variables(objects, first(objects, "trainer"))
    (role,) = of_kind(objects, "Role").values()
    leases = ["freshrank-publisher-main", "freshrank-publisher-towers"]
    assert role["rules"][-1]["resourceNames"] == leases
    main = variables(objects, first(objects, "publisher"))
    assert [main["FRESHRANK_PUBLISHER_LEASE"], publisher["FRESHRANK_PUBLISHER_LEASE"]] == leases


def test_no_workload_selects_the_pods_of_another(tmp_path: Path) -> None:
    objects = chart(tmp_path, arms={"towers": {"slots": "cd"}})
    sets = [o for o in objects if o["kind"] in ("Deployment", "StatefulSet")]
    selectors = [json.dumps(o["spec"]["selector"]["matchLabels"], sort_keys=True) for o in sets]
    assert len(set(selectors)) == len(sets) == 9


def test_the_text_encoder_learns_in_a_pod_of_its_own(tmp_path: Path) -> None:
    given = {"enabled": True, "settings": {"text_pairs": 200}}
    objects = chart(tmp_path, textEncoder=given, services={"trainer": {"settings": {"seed": 7}}}, gpu={"enabled": True})
    container = first(objects, "text-encoder")
    assert container["command"] == ["python", "-m", "services.trainer", "text"]
    found = variables(objects, container)
    assert found["FRESHRANK_TRAINER_TEXT_PAIRS"] == "200"
    assert found["FRESHRANK_TRAINER_TEXT_MODEL"] == "default"
    assert "FRESHRANK_TRAINER_SEED" not in found
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert first(objects, "trainer")["command"] == ["python", "-m", "services.trainer"]


def test_a_train_job_takes_the_place_of_the_trainer(tmp_path: Path) -> None:
    objects = chart(
        tmp_path, distributed={"enabled": True, "nodes": 2, "processes": 4}, arms={"towers": {"slots": "cd"}}
    )
    assert {name for name in of_kind(objects, "Deployment") if "trainer" in name} == {"freshrank-trainer-towers"}
    (runtime,) = of_kind(objects, "TrainingRuntime").values()
    assert runtime["spec"]["mlPolicy"] == {"numNodes": 2, "torch": {"numProcPerNode": 4}}
    (job,) = of_kind(objects, "TrainJob").values()
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    container = first(objects, "train")
    assert container["name"] == "node"
    assert [*container["command"], *container["args"][:2]] == [
        "torchrun", "-m", "services.trainer.distributed", "--examples", "/srv/freshrank/store/arms/main/examples",
    ]  # fmt: skip


def test_the_maintenance_policy_is_looked_at_with_the_trainer_s_settings(tmp_path: Path) -> None:
    objects = chart(tmp_path, maintenance={"enabled": True}, services={"trainer": {"settings": {"seed": 7}}})
    container = first(objects, "maintenance")
    command = ["python", "-m", "services.cli", "retrain", "retrained", "--of", "main", "--if-asked"]
    assert container["command"] == command
    assert variables(objects, container)["FRESHRANK_TRAINER_SEED"] == "7"


def test_strimzi_makes_every_topic_as_the_services_want_it(tmp_path: Path) -> None:
    objects = chart(tmp_path, strimzi={"enabled": True}, kafka={"partitions": 6})
    made = {o["spec"]["topicName"]: o["spec"] for o in of_kind(objects, "KafkaTopic").values()}
    wanted = {topic.name: (1 if topic.single else 6, topic.config) for topic in TOPICS}
    assert {name: (spec["partitions"], spec["config"]) for name, spec in made.items()} == wanted
    assert "create-topics" not in dict(pods(objects))
    (user,) = of_kind(objects, "KafkaUser").values()
    allowed = {acl["resource"]["name"] for acl in user["spec"]["authorization"]["acls"]}
    assert allowed >= {topic.name for topic in TOPICS} | {"ingest", "features", "joiner"}


def test_services_reach_strimzi_s_kafka_with_their_certificate(tmp_path: Path) -> None:
    objects = chart(tmp_path, strimzi={"enabled": True})
    given = variables(objects, first(objects, "joiner"))
    assert given["FRESHRANK_BOOTSTRAP"] == "freshrank-kafka-kafka-bootstrap:9093"
    assert given["FRESHRANK_KAFKA_KEY"] == "/srv/freshrank/tls/kafka/tls.key"
    (volume,) = [v for v in dict(pods(objects))["joiner"]["volumes"] if v["name"] == "tls-kafka"]
    secrets = [source["secret"]["name"] for source in volume["projected"]["sources"]]
    assert secrets == ["freshrank-kafka-cluster-ca-cert", "freshrank-kafka-user"]


def test_settings_can_be_numbers_beyond_a_million(tmp_path: Path) -> None:
    objects = chart(tmp_path, arms={"big": {"slots": "ef", "settings": {"max_rows": 40_000_000}}})
    assert variables(objects, first(objects, "trainer-big"))["FRESHRANK_TRAINER_MAX_ROWS"] == "40000000"


RESHARD = {"reshard": {"enabled": True, "partitions": 6}}


def test_streams_have_no_pods_and_no_scaler_while_partitions_are_added(tmp_path: Path) -> None:
    scaled = {name: {"autoscaling": {"type": "keda", "max": 4}} for name in ("ingest", "features", "joiner", "gateway")}
    objects = chart(tmp_path, jobs=RESHARD, services=scaled)
    replicas = {o["metadata"]["name"]: o["spec"].get("replicas") for o in of_kind(objects, "StatefulSet").values()}
    assert {f"freshrank-{name}": 0 for name in ("ingest", "features", "joiner")}.items() <= replicas.items()
    assert list(of_kind(objects, "ScaledObject")) == ["freshrank-gateway"]
    container = first(objects, "reshard")
    assert container["command"][2:] == ["services.cli", "reshard", "--partitions", "6"]
    assert variables(objects, container)["FRESHRANK_PARTITIONS"] == "4"
    assert container["image"] == first(objects, "features")["image"]
    (store,) = [mount for mount in container["volumeMounts"] if mount["name"] == "store"]
    assert not store["readOnly"]


def test_item_updates_keeps_the_partitions_it_was_made_with(tmp_path: Path) -> None:
    kafka = {"partitions": 6, "itemUpdatesPartitions": 4}
    topics = of_kind(chart(tmp_path, kafka=kafka, strimzi={"enabled": True}, jobs={}), "KafkaTopic").values()
    found = {topic["spec"]["topicName"]: topic["spec"]["partitions"] for topic in topics}
    assert found == {t.name: 1 if t.single else 4 if t.fixed else 6 for t in TOPICS}
