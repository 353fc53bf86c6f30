"""The Helm chart: rendered by Helm's own engine, held to Kubernetes' schemas and to what the guides say.

`.ci/chart` installs the engine and the schemas, which no lock has, and runs these.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from environment.sources import CHECKOUT

CHART = CHECKOUT / "ops/helm/celery-postgres"
EXAMPLE = CHECKOUT / "examples/deployment"
LEAST: dict[str, Any] = {
    "app": "mine",
    "image": {"repository": "registry.example/mine"},
    "database": {"secret": {"name": "database"}},
}
ALL: dict[str, Any] = {
    **LEAST,
    "workers": {
        "mail": {
            "queues": ["mail", "o'hara"],
            "pool": "threads",
            "longestTask": 60,
            "autoscaling": {"enabled": True, "secret": {"name": "watcher"}},
        },
        "reports": {
            "autoscaling": {"enabled": True},
            "nodeSelector": {"disk": "fast"},
            "extraArguments": ["--beat=no"],
        },
    },
    "migrations": {"command": ["celery-migrate"], "secret": {"name": "owner"}},
    "nodeSelector": {"disk": "slow"},
    "tolerations": [{"key": "batch", "operator": "Exists"}],
    "console": {
        "enabled": True,
        "allowedHosts": ["tasks.example"],
        "trustedProxies": ["10.0.0.0/24", "10.1.0.5"],
        "envFrom": [{"secretRef": {"name": "keys"}}],
    },
    "front": {"enabled": True, "command": ["celery-front"], "envFrom": [{"secretRef": {"name": "keys"}}]},
    "env": [{"name": "ENVIRONMENT", "value": "production"}],
    "podAnnotations": {"a": "b"},
}
#: The oldest Kubernetes of Chart.yaml, and a newer one.
VERSIONS = ("1.27", "1.34")
LoadYaml = Callable[[Path], Any]


def needed(name: str) -> Any:
    """A package that .ci/chart installs."""
    if os.environ.get("SKELDIR_REQUIRE_HELM"):
        return __import__(name)
    return pytest.importorskip(name, reason=".ci/chart installs it, and runs these")


def rendered(
    values: dict[str, Any], tmp_path: Path, load_yaml: LoadYaml, name: str = "demo"
) -> dict[tuple[str, str], Any]:
    """The objects by kind and name."""
    helm = needed("helm_python")
    found: dict[tuple[str, str], Any] = {}
    for file, text in helm.Chart.load(str(CHART)).render(values, name=name).items():
        for index, document in enumerate(re.split(r"^---$", text, flags=re.MULTILINE)):
            if file.endswith(".yaml") and document.strip():
                path = tmp_path / f"{Path(file).name}-{index}"
                path.write_text(document)
                one = load_yaml(path)
                found[one["kind"], one["metadata"]["name"]] = one
    return found


@pytest.mark.parametrize("values", [LEAST, ALL, "the guide's"], ids=["least", "all", "guide"])
def test_helm_finds_nothing_to_complain_of(values: dict[str, Any] | str, load_yaml: LoadYaml) -> None:
    values = load_yaml(EXAMPLE / "values.yaml") if isinstance(values, str) else values
    report = needed("helm_python").lint(str(CHART), values, strict=True)
    assert [one for one in report["messages"] if "icon is recommended" not in one["error"]] == []
    assert report["errors"] == []


@pytest.mark.parametrize("values", [LEAST, ALL], ids=["least", "all"])
def test_every_object_follows_kubernetes_schema(values: dict[str, Any], tmp_path: Path, load_yaml: LoadYaml) -> None:
    schemas = needed("kubernetes_validate")
    for (kind, _), found in rendered(values, tmp_path, load_yaml).items():
        for version in VERSIONS:
            if kind not in ("ScaledObject", "TriggerAuthentication"):
                schemas.validate(json.loads(json.dumps(found)), version, strict=True)


def test_every_pod_may_do_little(tmp_path: Path, load_yaml: LoadYaml) -> None:
    objects = rendered(ALL, tmp_path, load_yaml)
    pods = [found["spec"]["template"]["spec"] for found in objects.values() if "template" in found["spec"]]
    assert len(pods) == 7
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert pod["tolerations"] == ALL["tolerations"]
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            url, *_ = container["env"]
            assert set(url["valueFrom"]) == {"secretKeyRef"}
            assert {"name": "ENVIRONMENT", "value": "production"} in container["env"]
    disks = [pod["nodeSelector"]["disk"] for pod in pods]
    assert (disks.count("fast"), disks.count("slow")) == (1, 6), "a worker's own comes first"


def test_the_console_gets_its_hosts_and_proxies(tmp_path: Path, load_yaml: LoadYaml) -> None:
    deployment = rendered(ALL, tmp_path, load_yaml)["Deployment", "demo-console"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    proxies = ["--trusted-proxy", "10.0.0.0/24", "--trusted-proxy", "10.1.0.5"]
    assert container["command"][-6:] == ["--allowed-host", "tasks.example", *proxies]


def test_migrations_run_before_as_the_owner_of_the_tables(tmp_path: Path, load_yaml: LoadYaml) -> None:
    job = rendered(ALL, tmp_path, load_yaml)["Job", "demo-migrate"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (migrate,) = job["spec"]["template"]["spec"]["initContainers"]
    (grant,) = job["spec"]["template"]["spec"]["containers"]
    assert migrate["command"] == ["celery-migrate"]
    assert grant["command"] == ["python", "-m", "celery_postgres", "roles", "--run"]
    for container in (migrate, grant):
        assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "owner", "key": "url"}
        # Not the workers' URL, which may be in a secret of envFrom.
        assert container["env"][-1] == {"name": "CELERY_BROKER_URL", "value": "$(DATABASE_URL)"}
    # One login for everything needs no roles, and other roles are not ours to grant.
    for values in (LEAST, {**LEAST, "migrations": {"secret": {"name": "owner"}, "grant": []}}):
        job = rendered(values, tmp_path, load_yaml)["Job", "demo-migrate"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["name"] == "migrate"
        assert "initContainers" not in job["spec"]["template"]["spec"]


def test_long_names_stay_different(tmp_path: Path, load_yaml: LoadYaml) -> None:
    workers = {"default": None, "gone": None, "b" * 29 + "1": {}, "b" * 29 + "2": {"concurrency": 2_000_000}}
    found = rendered({**LEAST, "workers": workers}, tmp_path, load_yaml, "a" * 53)
    names = [name for kind, name in found if kind == "Deployment"]
    assert len(names) == 3
    assert {len(name) for name in names} == {58, 62}, "the beat's, and two that were cut"
    pods = [one["spec"]["template"]["spec"] for one in found.values() if "template" in one["spec"]]
    assert any("2000000" in pod["containers"][0]["command"] for pod in pods)


def test_keda_scales_by_the_age_of_the_workers_own_queues(tmp_path: Path, load_yaml: LoadYaml) -> None:
    objects = rendered(ALL, tmp_path, load_yaml)
    assert "replicas" not in objects["Deployment", "demo-worker-mail"]["spec"]
    (trigger,) = objects["ScaledObject", "demo-worker-mail"]["spec"]["triggers"]
    assert trigger["metadata"]["query"].rstrip().endswith("WHERE queue.name IN ('mail', 'o''hara')")
    names = {
        name: objects["TriggerAuthentication", name]["spec"]["secretTargetRef"][0]["name"]
        for name in ("demo-worker-mail", "demo-worker-reports")
    }
    assert names == {"demo-worker-mail": "watcher", "demo-worker-reports": "database"}
    (trigger,) = objects["ScaledObject", "demo-worker-reports"]["spec"]["triggers"]
    assert trigger["metadata"]["query"].rstrip().endswith("IN ('celery')")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"app": ""}, "app is not set"),
        ({"image": {"repository": ""}}, "image.repository is not set"),
        ({"database": {"secret": {"name": ""}}}, "database.secret.name is not set"),
        ({"workers": {"a": {"pool": "process"}}}, "/workers/a/pool"),
        ({"workers": {"a": {"concurency": 2}}}, "concurency"),
        ({"workers": {"A b": {}}}, "A b"),
        ({"readyFile": "/var/ready"}, "readyFile"),
        ({"image": {"repository": "mine", "tag": 1.10}}, "/image/tag"),
        ({"front": {"enabled": True}}, "front.command is not set"),
        ({"console": {"enabled": True}}, "console.envFrom is not set"),
        ({"workers": {"a": {"queues": ["a,b"]}}}, "/workers/a/queues/0"),
        ({"workers": {"a": {"autoscaling": {"enabled": True, "minReplicas": 11}}}}, "minReplicas is greater than"),
    ],
)
def test_a_wrong_value_is_named(change: dict[str, Any], message: str) -> None:
    helm = needed("helm_python")
    chart = helm.Chart.load(str(CHART))
    with pytest.raises(helm.HelmError) as refused:
        chart.render({**LEAST, **change}, name="demo")
    assert message in str(refused.value)


# -- what more than one file says


def test_the_chart_waits_probes_and_starts_as_the_examples_do(load_yaml: LoadYaml) -> None:
    values = load_yaml(CHART / "values.yaml")
    worker = values["workerDefaults"]
    words = (EXAMPLE / "kubernetes.yaml").read_text()
    assert f"terminationGracePeriodSeconds: {worker['longestTask'] + 15}\n" in words
    assert f'command: ["test", "-f", "{values["readyFile"]}"]' in words
    assert f'"--pool", "{worker["pool"]}", "--concurrency", "{worker["concurrency"]}"' in words
    assert f'READY_FILE", "{values["readyFile"]}"' in (EXAMPLE / "mine.py").read_text()
    compose = load_yaml(EXAMPLE / "compose.yaml")["services"]["worker"]
    assert compose["healthcheck"]["test"] == ["CMD", "test", "-f", values["readyFile"]]
    assert compose["stop_grace_period"] == f"{(worker['longestTask'] + 15) // 60}m"


def test_the_chart_the_image_and_the_module_say_the_same(load_yaml: LoadYaml) -> None:
    values = load_yaml(CHART / "values.yaml")
    image = (CHECKOUT / "nix/image.nix").read_text()
    assert f'"CELERY_WORKER_FILE={values["readyFile"]}"' in image
    assert f'"{values["metrics"]["port"]}/tcp"' in image
    assert f'"{values["front"]["port"]}/tcp"' in image
    options = (CHECKOUT / "nix/module/options.nix").read_text()
    assert f"default = {values['workerDefaults']['longestTask']};" in options
    assert f"default = {values['console']['port']};" in options
    assert "secondsAfterTheLongestTask = 15;" in (CHECKOUT / "nix/words.nix").read_text()
    migrate = " ".join(f'"{word}"' for word in values["migrations"]["command"])
    for text in (image, options):
        assert migrate in re.sub(r"\s+", " ", text)
    targets = load_yaml(CHECKOUT / "ops/prometheus/prometheus.yml")["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == [f"127.0.0.1:{values['metrics']['port']}"]
