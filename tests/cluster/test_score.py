"""kube-score on what the chart renders: nothing is found but what is waived here, and every waiver is still needed."""

import json
import subprocess
from collections import defaultdict
from functools import cache

import pytest

from tests.cluster.examples import EXAMPLES, options
from tests.deploy.manifests import render, tool

pytestmark = pytest.mark.cluster

WAIVED = {
    "container-resources": "CPU has requests and no limits, which throttle who could use an idle core; memory has both",
    "container-image-pull-policy": "a digest or a fixed tag is pulled once; `image.pullPolicy` says otherwise",
    "container-ephemeral-storage-request-and-limit": "what is written goes to volumes that have a size",
    "networkpolicy-targets-pod": "policies of jobs that are off by default stay, closed, for the day they are on",
    "deployment-strategy": "trainer and publisher have one pod at a time by design: a lineage has one writer",
    "deployment-replicas": "the same",
    "deployment-has-host-podantiaffinity": "topologySpreadConstraints spread pods; kube-score does not look there",
    "statefulset-has-host-podantiaffinity": "the same",
}
"""Check of kube-score and why it does not hold here."""

GOOD = 10
"""Grade of a check that found nothing."""


@cache
def found(example: str) -> dict[str, set[str]]:
    """Names of objects by the check that found something in them."""
    text = render(*options(example))
    command = [tool("kube-score"), "score", "--output-format", "json", "--kubernetes-version", "v1.30", "-"]
    ended = subprocess.run(command, input=text, capture_output=True, text=True)
    assert ended.stdout, ended.stderr
    out: dict[str, set[str]] = defaultdict(set)
    for one in json.loads(ended.stdout):
        for check in one["checks"]:
            if check["grade"] < GOOD and not check["skipped"]:
                out[check["check"]["id"]].add(one["object_name"])
    return dict(out)


@pytest.mark.parametrize("example", EXAMPLES)
def test_nothing_is_found_but_what_is_waived(example: str) -> None:
    assert {check: names for check, names in found(example).items() if check not in WAIVED} == {}


def test_every_waiver_is_needed() -> None:
    assert set(WAIVED) == {check for example in EXAMPLES for check in found(example)}
