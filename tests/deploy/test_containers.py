"""The image, the compose file and the Kubernetes objects fit the worker and each other."""

import re
from pathlib import Path
from typing import Any

import pytest
from deployment import DEPLOY, ROOT, SETTING_VARIABLES, load_yaml

from worker.settings import Settings

COMPOSE = load_yaml(ROOT / "docker-compose.yml")
SERVICES: dict[str, Any] = COMPOSE["services"]
K8S = {path.stem: load_yaml(path) for path in (DEPLOY / "k8s").glob("*.yaml")}
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def settings_of(environment: dict[str, Any]) -> Settings:
    """The worker's settings as a container would read them."""
    names = {name.removeprefix("KONER_").lower(): value for name, value in environment.items()}
    return Settings(**names)


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("service", ["topics", "worker"])
def test_the_workers_environment_in_compose_is_made_of_real_settings(service: str) -> None:
    environment = SERVICES[service]["environment"]
    assert set(environment) <= SETTING_VARIABLES
    assert settings_of(environment).bootstrap_servers == "kafka:19092"


def test_the_disruption_budget_is_of_the_pods_that_the_kustomization_labels() -> None:
    (labels,) = K8S["kustomization"]["labels"]
    assert labels["includeTemplates"]
    # kustomize adds its labels to a selector that is there, and makes none; without one no pod is meant.
    selected = K8S["poddisruptionbudget"]["spec"]["selector"]["matchLabels"]
    assert selected
    assert selected.items() <= labels["pairs"].items()


def test_the_configmap_is_made_of_real_settings() -> None:
    assert set(K8S["configmap"]["data"]) <= SETTING_VARIABLES
    settings_of(K8S["configmap"]["data"])


def test_variables_in_the_image_are_real_settings() -> None:
    assert set(re.findall(r"\bKONER_[A-Z_]+", DOCKERFILE)) <= SETTING_VARIABLES


def test_every_mounted_path_of_the_repository_exists() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    for mount in mounts:
        source = mount.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists(), mount
        else:
            assert source in COMPOSE["volumes"], mount


def test_compose_waits_for_each_thing_that_is_needed() -> None:
    assert SERVICES["topics"]["depends_on"]["kafka"]["condition"] == "service_healthy"
    assert SERVICES["worker"]["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    for service in SERVICES.values():
        for needed, rule in service.get("depends_on", {}).items():
            if rule["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[needed]


def test_no_port_is_open_to_other_machines() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(str(port).startswith("127.0.0.1:") for port in ports)


def test_kafka_advertises_every_listener_it_maps() -> None:
    kafka = SERVICES["kafka"]["environment"]
    listeners = {entry.split("://")[0] for entry in kafka["KAFKA_LISTENERS"].split(",")}
    mapped = {entry.split(":")[0] for entry in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")}
    advertised = {entry.split("://")[0] for entry in kafka["KAFKA_ADVERTISED_LISTENERS"].split(",")}
    assert listeners == mapped
    assert advertised == listeners - {kafka["KAFKA_CONTROLLER_LISTENER_NAMES"]}


def test_orchestrators_wait_longer_than_the_worker_needs_to_drain() -> None:
    worker = SERVICES["worker"]
    assert seconds(worker["stop_grace_period"]) > settings_of(worker["environment"]).grace_seconds
    pod = K8S["deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > settings_of(K8S["configmap"]["data"]).grace_seconds


def test_the_workers_pages_are_reachable_from_outside_its_container() -> None:
    assert settings_of(SERVICES["worker"]["environment"]).web_host == "0.0.0.0"
    assert settings_of(K8S["configmap"]["data"]).web_host == "0.0.0.0"


def test_prometheus_scrapes_the_worker_under_the_job_the_alerts_name() -> None:
    (scrape,) = load_yaml(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    (discovery,) = scrape["dns_sd_configs"]
    assert scrape["job_name"] == "koner"
    assert discovery["names"] == ["worker"]
    assert "worker" in SERVICES
    assert discovery["port"] == settings_of(SERVICES["worker"]["environment"]).web_port


def test_grafana_is_provisioned_with_the_source_and_the_dashboard() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = load_yaml(provisioning / "datasources" / "prometheus.yml")["datasources"]
    (provider,) = load_yaml(provisioning / "dashboards" / "koner.yml")["providers"]
    mounted = {
        Path(target): ROOT / source for source, target, *_ in (m.split(":") for m in SERVICES["grafana"]["volumes"])
    }
    assert source["url"] == "http://prometheus:9090"
    assert list(mounted[Path(provider["options"]["path"])].glob("*.json"))
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounted[home.parent] / home.name).is_file()


def test_probes_ask_the_pages_the_worker_serves() -> None:
    (container,) = K8S["deployment"]["spec"]["template"]["spec"]["containers"]
    port = settings_of(K8S["configmap"]["data"]).web_port
    assert {"name": "http", "containerPort": port} in container["ports"]
    paths = {
        probe: container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"startupProbe": "/health", "livenessProbe": "/health", "readinessProbe": "/ready"}
    assert "/health" in DOCKERFILE


def test_kubernetes_objects_name_each_other() -> None:
    kustomization = K8S["kustomization"]
    assert {Path(name).stem for name in kustomization["resources"]} == set(K8S) - {"kustomization"}
    (container,) = K8S["deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"][0]["configMapRef"]["name"] == K8S["configmap"]["metadata"]["name"]
    assert [image["name"] for image in kustomization["images"]] == [container["image"]]
    assert K8S["service"]["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]


def test_containers_do_not_run_as_root() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)
    assert user is not None
    context = K8S["deployment"]["spec"]["template"]["spec"]["securityContext"]
    assert context["runAsNonRoot"] is True
    assert (context["runAsUser"], context["runAsGroup"]) == (int(user[1]), int(user[2]))


def test_the_image_copies_only_what_the_build_context_lets_through() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]
    assert copied
    for name in copied:
        assert name in allowed
        assert (ROOT / name).exists()
    assert "-c constraints.txt" in DOCKERFILE
