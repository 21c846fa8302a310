"""deploy/kubernetes: the manifests follow Kubernetes' schemas, say only what settings read, and permit what the grants permit."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from perdure.chassis.environment import holds_secret
from perdure.chassis.settings import ServiceSettings
from perdure.local.services import available_services
from perdure.schemas.grants import SERVICES

ROOT = Path(__file__).resolve().parents[2]
ITEMS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "perdure.yaml").read_text())["items"]
SCHEMAS: dict[str, Any] = json.loads((Path(__file__).parent / "third_party" / "kubernetes-1.34.json").read_text())
NAMED = {f"{item['kind']}/{item['metadata']['name']}": item for item in ITEMS}
PODS = {
    item["metadata"]["labels"]["app"]: item["spec"]["template"]
    for item in ITEMS
    if item["kind"] in ("Deployment", "Job")
}
SHARED: dict[str, str] = NAMED["ConfigMap/perdure"]["data"]
SECRETS = "/run/perdure/secrets/"
EVERYBODYS = {"perdure-ca"}


def container(app: str) -> dict[str, Any]:
    (found,) = PODS[app]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


def variables(app: str) -> dict[str, str]:
    """What a container is started with."""
    return SHARED | {one["name"]: one["value"] for one in container(app)["env"]}


def settings_of(app: str) -> type[ServiceSettings]:
    command = container(app)["command"]
    module = command[2] if command[:2] == ["python", "-m"] else "perdure.chassis"
    found = [
        one
        for one in vars(importlib.import_module(f"{module}.settings")).values()
        if isinstance(one, type) and issubclass(one, ServiceSettings)
    ]
    return max(found, key=lambda one: len(one.__mro__))


def permitted(port: int) -> set[str]:
    """The apps that a rule lets out to a port."""
    found: set[str] = set()
    for item in ITEMS:
        if item["kind"] == "NetworkPolicy" and any(
            one["port"] == port for rule in item["spec"].get("egress", ()) for one in rule["ports"]
        ):
            chosen = item["spec"]["podSelector"]
            found |= {chosen["matchLabels"]["app"]} if "matchLabels" in chosen else set()
            found |= {app for one in chosen.get("matchExpressions", ()) for app in one["values"]}
    return found


@pytest.mark.parametrize("name", NAMED)
def test_it_follows_the_schema_of_kubernetes(name: str) -> None:
    validator = jsonschema.Draft202012Validator({**SCHEMAS, "$ref": f"#/$defs/{NAMED[name]['kind']}"})
    assert [f"{one.json_path}: {one.message}" for one in validator.iter_errors(NAMED[name])] == []


def test_every_service_is_there() -> None:
    started = {container(app)["command"][2].removeprefix("perdure.") for app in PODS if app != "operator"}
    assert started == set(available_services())
    for app in PODS:
        assert app in SERVICES, "pods are named as the users that the grants are printed for"


@pytest.mark.parametrize("app", PODS)
def test_every_variable_is_a_setting_and_every_secret_a_file(app: str) -> None:
    fields = settings_of(app).model_fields
    for variable, value in variables(app).items():
        name = variable.removeprefix("PERDURE_").lower()
        if value.startswith(SECRETS):
            assert holds_secret(fields[name.removesuffix("_file")].annotation), f"{variable} is no secret"
        else:
            assert name in fields, f"{app}: nothing reads {variable}"
            assert not holds_secret(fields[name].annotation), (
                f"{app}: {variable} is a secret and stands in the manifest"
            )


@pytest.mark.parametrize("app", PODS)
def test_a_pod_has_its_own_secret_and_no_other(app: str) -> None:
    volumes = PODS[app]["spec"]["volumes"]
    secrets = {one["secret"]["secretName"] for one in volumes if "secret" in one}
    assert secrets == {f"perdure-{app}"} | ({"perdure-gateway-tls"} if app == "gateway" else set())
    assert {one["configMap"]["name"] for one in volumes if "configMap" in one} == EVERYBODYS
    mounted = {one["name"] for one in container(app)["volumeMounts"]}
    assert mounted == {one["name"] for one in volumes}
    assert variables(app)["PERDURE_KAFKA_SASL_USERNAME"] == app


@pytest.mark.parametrize("app", PODS)
def test_a_pod_runs_without_rights(app: str) -> None:
    pod = PODS[app]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001, "the user of the image"
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(app)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [one["name"] for one in pod["volumes"] if "emptyDir" in one] == ["tmp"]
    assert "memory" in container(app)["resources"]["limits"]


def test_the_network_permits_what_the_grants_permit() -> None:
    uses_mongodb = {app for app in PODS if app != "operator" and SERVICES[app].collections}
    uses_opensearch = {app for app in PODS if app != "operator" and SERVICES[app].indices}
    assert permitted(9093) == set(PODS)
    assert permitted(27017) == uses_mongodb
    assert permitted(9200) == uses_opensearch
    for app in PODS:
        assert ("PERDURE_MONGODB_URI_FILE" in variables(app)) == (app in uses_mongodb)
        assert ("PERDURE_OPENSEARCH_URL_FILE" in variables(app)) == (app in uses_opensearch)
    nothing = NAMED["NetworkPolicy/nothing-else"]["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_secrets_reach_the_services_that_use_them_and_no_other() -> None:
    having = {
        secret: {app for app in PODS if f"{secret}_FILE" in variables(app)}
        for secret in (
            "PERDURE_LINK_SECRET",
            "PERDURE_SIGNING_SECRET",
            "PERDURE_ENCRYPTION_KEYS",
            "PERDURE_ARCHIVE_OPTIONS",
        )
    }
    assert having == {
        "PERDURE_LINK_SECRET": {"gateway", "notifier"},
        "PERDURE_SIGNING_SECRET": {"agent-step", "validator", "scheduler"},
        "PERDURE_ENCRYPTION_KEYS": {app for app in PODS if app != "operator" and SERVICES[app].collections},
        "PERDURE_ARCHIVE_OPTIONS": {"scheduler"},
    }


def test_the_gateway_speaks_tls_and_asks_who_calls() -> None:
    gateway = variables("gateway")
    assert gateway["PERDURE_AUTH"] == "keys"
    assert {"PERDURE_GATEWAY_TLS_CERT_FILE", "PERDURE_GATEWAY_TLS_KEY_FILE"} <= gateway.keys()
    health = int(SHARED["PERDURE_HEALTH_PORT"])
    assert {
        container(app)[probe]["httpGet"]["port"]
        for app in PODS
        if app != "operator"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe")
    } == {health}
    assert SHARED["PERDURE_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
