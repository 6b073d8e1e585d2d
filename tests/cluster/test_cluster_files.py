"""The files of cluster/, each against the validator or schema of the tool that reads it, all offline.

Ray's own validators for aws.yaml and runtime_env.yaml, botocore's model of EC2, the IAM actions and resources that
policy-sentry lists, Kubernetes' strict schemas, the Compose specification, MLflow's command line. KubeRay publishes no
package with its own schemas: for what is KubeRay's in kuberay.yaml, the fields it may have are written down here.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import botocore.session
import botocore.validate
import kubernetes_validate
import pytest
import yaml
from policy_sentry.querying.actions import get_action_data
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]*>")
AWS = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
KUBERAY = list(yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text()))
COMPOSE = yaml.safe_load((CLUSTER / "mlflow.compose.yaml").read_text())
RUNTIME_ENV = yaml.safe_load((CLUSTER / "runtime_env.yaml").read_text())

# Fields of KubeRay's v1 types (ray-operator/apis/ray/v1) that kuberay.yaml uses, and their types.
GROUP = {"rayStartParams": dict, "template": dict}
WORKERS = {**GROUP, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}
AUTOSCALER = {"idleTimeoutSeconds": int, "upscalingMode": str}
RAY_CLUSTER = {
    "rayVersion": str,
    "authOptions": dict,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "headGroupSpec": dict,
    "workerGroupSpecs": list,
}
RAY_JOB = {"clusterSelector": dict, "submissionMode": str, "entrypoint": str, "runtimeEnvYAML": str}


def named(kind):
    (found,) = [document for document in KUBERAY if document["kind"] == kind]
    return found


def check_fields(found, allowed):
    assert found.keys() <= allowed.keys()
    for name, value in found.items():
        assert type(value) is allowed[name], name


def locked(package):
    """The version of a package in requirements.lock."""
    return re.search(rf"^{package}==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]


def test_every_placeholder_is_explained():
    files = [path for path in CLUSTER.iterdir() if path.name != "README.md"]
    used = {name for path in files for name in PLACEHOLDER.findall(path.read_text())}
    readme = (CLUSTER / "README.md").read_text()
    assert set(re.findall(rf"^\| `({PLACEHOLDER.pattern})` \|", readme, re.MULTILINE)) == used
    assert all(f"`{path.name}`" in readme for path in files)


def test_versions_are_the_locked_ones():
    ray, mlflow_version = locked("ray"), locked("mlflow")
    assert f"FROM rayproject/ray:{ray}-" in (CLUSTER / "Dockerfile").read_text()
    assert named("RayCluster")["spec"]["rayVersion"] == ray
    assert f'"mlflow=={mlflow_version}"' in COMPOSE["services"]["mlflow"]["build"]["dockerfile_inline"]


# --- ray up ---------------------------------------------------------------------------------------------------


def test_ray_takes_the_cluster():
    validate_config(prepare_config(AWS))
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(prepare_config({**AWS, "max_worker": 8}))


@pytest.mark.parametrize("kind", ["head", "gpu"])
def test_ec2_takes_the_nodes(kind):
    node = dict(AWS["available_node_types"][kind]["node_config"])
    node["SubnetId"] = node.pop("SubnetIds")[0]  # as Ray does
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    report = botocore.validate.ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
    assert not report.has_errors(), report.generate_report()


def test_the_head_computes_nothing_and_workers_are_on_spot():
    types = AWS["available_node_types"]
    assert not any(types["head"]["resources"].values())
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["gpu"]["min_workers"] == 0
    (start,) = [command for command in AWS["head_start_ray_commands"] if "--head" in command]
    assert {"--num-cpus=0", "--num-gpus=0", "--dashboard-host=127.0.0.1", "RAY_AUTH_MODE=token"} <= set(start.split())


@pytest.mark.parametrize(
    "name", ["initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"], ids=str
)
def test_commands_are_shell(name):
    for command in AWS[name]:
        subprocess.run(["bash", "-n", "-c", PLACEHOLDER.sub("x", command)], check=True)


# --- IAM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iam-head.json", "iam-data.json"])
def test_policies_name_actions_and_resources_that_exist(name):
    """Each action exists and can be limited to the resources it is given for; "*" stands where it cannot."""
    policy = json.loads((CLUSTER / name).read_text())
    assert policy["Version"] == "2012-10-17"
    for statement in policy["Statement"]:
        actions, resources = ([one] if isinstance(one, str) else one for one in map(statement.get, KEYS))
        for action in actions:
            service, _, verb = action.partition(":")
            rows = get_action_data(service, verb)
            assert rows, f"there is no action {action}"
            formats = {row["resource_arn_format"] for row in rows[service]} - {"*"}
            assert bool(formats) == (resources != ["*"]), action
            for resource in resources:
                assert resource == "*" or any(fits(resource, form) for form in formats), (action, resource)


KEYS = ("Action", "Resource")


def fits(resource, form):
    pattern = re.sub(r"\\\$\\\{\w+\\\}", "[^:]+", re.escape(form))
    return re.fullmatch(pattern, resource) is not None


# --- Kubernetes -----------------------------------------------------------------------------------------------


def test_kuberay_takes_cluster_and_job():
    for kind, allowed in (("RayCluster", RAY_CLUSTER), ("RayJob", RAY_JOB)):
        assert named(kind)["apiVersion"] == "ray.io/v1"
        check_fields(named(kind)["spec"], allowed)
    spec = named("RayCluster")["spec"]
    check_fields(spec["autoscalerOptions"], AUTOSCALER)
    check_fields(spec["headGroupSpec"], GROUP)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups[1:]:
        check_fields(group, WORKERS)
    for group in groups:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        mounted = {mount["name"] for mount in pod["spec"]["containers"][0].get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod["spec"].get("volumes", [])}


def test_the_kubernetes_head_computes_nothing_and_workers_come_when_needed():
    spec = named("RayCluster")["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [0]
    selector = named("RayJob")["spec"]["clusterSelector"]
    assert selector == {"ray.io/cluster": named("RayCluster")["metadata"]["name"]}


# --- jobs and MLflow ------------------------------------------------------------------------------------------


def test_ray_takes_the_runtime_environment():
    assert RuntimeEnv(**RUNTIME_ENV).env_vars() == RUNTIME_ENV["env_vars"]
    assert yaml.safe_load(named("RayJob")["spec"]["runtimeEnvYAML"]) == RUNTIME_ENV


def test_compose_takes_the_tracking_server():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(CLUSTER / "mlflow.compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_mlflow_takes_its_options():
    (command,) = COMPOSE["services"]["mlflow"]["command"]
    subprocess.run(["sh", "-n", "-c", PLACEHOLDER.sub("x", command).replace("$$", "$")], check=True)
    told = subprocess.run([sys.executable, "-m", "mlflow", "server", "--help"], capture_output=True, text=True)
    known = set(re.findall(r"--[a-z-]+", told.stdout))
    given = set(re.findall(r"--[a-z-]+", command.partition("mlflow server")[2]))
    assert "--allowed-hosts" in given
    assert given <= known


def test_no_file_holds_a_secret_or_names_a_host():
    for path in CLUSTER.iterdir():
        text = path.read_text()
        assert not re.search(r"AKIA[0-9A-Z]{16}|://[^/\s:$]+:[^$\s<@][^\s@]*@", text), path
        assert "nodeName" not in text, path
        assert "kubernetes.io/hostname" not in text, path
