"""docker/, as far as it can be tried without a Docker engine."""

import http.server
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from ingester import __version__
from ingester.feed import loop
from ingester.record import recorder_service

DOCKER = Path(__file__).parents[1] / "docker"
ROOT = DOCKER.parent
RECORDERS = ["recorder-a", "recorder-b"]
SERVICES = ["questdb", *RECORDERS, "prometheus", "grafana"]
SMALL_MACHINE = 2 << 30


def stages():
    """The Dockerfile's instructions, stage by stage, as (keyword, rest) pairs."""
    text = re.sub(r"\\\n\s*", " ", (DOCKER / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    found = []
    for keyword, rest in lines:
        if keyword == "FROM":
            found.append([])
        found[-1].append((keyword, rest))
    return found


def compose():
    return yaml.safe_load((DOCKER / "compose.yml").read_text())


@pytest.fixture(params=SERVICES)
def service(request):
    return compose()["services"][request.param]


def run(command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


@pytest.mark.slow
def test_the_images_steps_give_a_working_program(tmp_path):
    build, final = stages()
    here = {path: tmp_path / path.strip("/") for path in ("/src", "/wheels", "/opt/ingester", "/data")}
    here["/src"].mkdir()
    for keyword, rest in build:
        if keyword == "COPY":
            *sources, target = rest.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    ignore = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, here["/src"] / target, ignore=ignore)
                else:
                    shutil.copy(ROOT / source, here["/src"] / target)
        elif keyword == "RUN":
            command = re.sub(r"(?<!\S)/(src|wheels|opt/build|opt/ingester|data)\b", rf"{tmp_path}/\1", rest)
            command = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", command)
            done = run(command, shell=True, cwd=here["/src"])
            assert done.returncode == 0, f"RUN {rest}\n{done.stdout}{done.stderr}"
    for path in (rest.split()[-2] for keyword, rest in final if keyword == "COPY"):
        assert here[path].is_dir()
    bin_folder = here["/opt/ingester"] / "bin"
    environment = {"PATH": f"{bin_folder}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    (entry,), arguments = (yaml.safe_load(rest) for keyword, rest in final if keyword in ("ENTRYPOINT", "CMD"))
    program = [str(bin_folder / entry)]
    version = run([*program, "--version"], env=environment, cwd=tmp_path)
    assert re.search(r"\d+\.\d+\.\d+", version.stdout), version.stderr
    helped = run([*program, arguments[0], "--help"], env=environment, cwd=tmp_path)
    assert helped.returncode == 0
    assert "--data-dir" in helped.stdout
    listed = (
        "from ingester.questdb import schema; print(len(schema.statements(5)), [name for name, _ in schema.views()])"
    )
    schema = run([str(bin_folder / "python"), "-c", listed], env=environment, cwd=tmp_path)
    assert schema.stdout.startswith("4 ["), schema.stderr
    assert "bars_1s" in schema.stdout
    assert run([str(bin_folder / "python"), "-m", "pip", "--version"], env=environment).returncode != 0


def test_the_image_runs_the_program_itself_as_an_ordinary_user():
    final = dict(stages()[-1])
    assert final["ENTRYPOINT"] == '["ingester"]'
    assert final["CMD"].startswith('["start"')
    assert final["USER"].split(":")[0] not in ("0", "root")
    assert final["VOLUME"] == "/data"
    assert "RUN" not in final


def test_images_are_pinned(service):
    sources = [rest.split()[0] for stage in stages() for keyword, rest in stage if keyword == "FROM"]
    for image in [*sources, service["image"]]:
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", image), image
        if not image.startswith(("ingester:", "questdb/")):  # our own is built here; QuestDB's: see compose.yml
            assert "@" in image, f"{image} has no digest"
    for recorder in RECORDERS:
        assert compose()["services"][recorder]["image"] == f"ingester:{__version__}"


def test_every_service_is_looked_at():
    assert list(compose()["services"]) == SERVICES


def test_the_build_sees_what_it_copies_and_nothing_else():
    context = compose()["services"]["recorder-a"]["build"]
    assert (DOCKER / context["context"]).resolve() == ROOT
    assert (ROOT / context["dockerfile"]).is_file()
    kept = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = {source for keyword, rest in stages()[0] if keyword == "COPY" for source in rest.split()[:-1]}
    assert kept == copied


def test_a_service_has_no_more_rights_than_it_needs(service):
    assert int(service["user"].split(":")[0]) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert not service.get("privileged")
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}


def test_a_service_tells_how_it_is(service):
    kind, program, *_ = service["healthcheck"]["test"]
    assert kind == "CMD"
    assert program in ("bash", "python", "wget")  # what is in the images
    assert set(service["healthcheck"]) == {"test", "interval", "timeout", "retries", "start_period"}


def test_a_machine_of_2_gib_carries_it_and_one_of_3_the_monitoring_too():
    sizes = {"m": 1 << 20, "g": 1 << 30}

    def limits(profiles):
        chosen = [each for each in compose()["services"].values() if each.get("profiles", []) in ([], profiles)]
        return sum(int(each["mem_limit"][:-1]) * sizes[each["mem_limit"][-1]] for each in chosen)

    system = 384 << 20
    assert limits([]) + system < SMALL_MACHINE
    assert SMALL_MACHINE < limits(["monitoring"]) + system < 3 << 30


def test_a_recorder_has_the_time_that_it_takes_to_end():
    longest = 2 * loop.GOODBYE_SECONDS + recorder_service.DRAIN_SECONDS + recorder_service.AUDIT_SECONDS
    for recorder in RECORDERS:
        assert compose()["services"][recorder]["stop_grace_period"] == "1m"
    assert longest < 60


def test_two_recorders_differ_in_name_and_place_alone():
    a, b = (compose()["services"][recorder] for recorder in RECORDERS)
    assert {key for key in a if a[key] != b[key]} == {"hostname", "volumes"}
    assert [each["hostname"] for each in (a, b)] == RECORDERS


def test_ports_are_open_to_this_machine_alone():
    ports = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert [port.split(":")[-1] for port in ports] == ["9000", "8812", "9090", "3000"]
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_is_named_is_defined():
    whole = compose()
    used, kept = set(), set()
    for service in whole["services"].values():
        used |= set(service.get("secrets", []))
        kept |= {volume.split(":")[0] for volume in service["volumes"]}
        assert set(service.get("depends_on", {})) <= set(whole["services"])
        for name, value in service.get("environment", {}).items():
            if name.endswith("_FILE"):
                assert value.removeprefix("/run/secrets/") in service["secrets"]
    assert used == set(whole["secrets"])
    assert {place for place in kept if not place.startswith("./")} == set(whole["volumes"])
    assert all(set(secret) == {"file"} for secret in whole["secrets"].values())


def test_what_is_mounted_from_here_is_here_and_only_read():
    mounts = [volume.split(":") for service in compose()["services"].values() for volume in service["volumes"]]
    here = {place: options for place, _, *options in mounts if place.startswith("./")}
    assert all(options == ["ro"] for options in here.values())
    assert len(here) >= 3
    assert all((DOCKER / place).exists() for place in here)


def test_no_password_stands_in_the_file(service):
    for name, value in service.get("environment", {}).items():
        if "PASSWORD" in name:
            assert name.endswith("_FILE")
            assert value.startswith("/run/secrets/")
    assert re.findall(r"https?://(\S+?)@", (DOCKER / "compose.yml").read_text()) == ["ingester"]  # the user alone


@pytest.fixture
def secrets(tmp_path):
    """The folder that README's command makes."""
    blocks = re.findall(r"```sh\n(.*?)```", (DOCKER / "README.md").read_text(), re.S)
    making = next(block for block in blocks if "openssl" in block)
    done = run(["sh", "-ec", making], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path / "secrets"


def test_the_passwords_are_made_by_one_command(secrets):
    files = {DOCKER / secret["file"] for secret in compose()["secrets"].values()}
    made = list(secrets.iterdir())
    assert {DOCKER / "secrets" / file.name for file in made} == files
    assert len({file.read_text() for file in made}) == 3
    assert all(re.fullmatch(r"\w{32,}\n", file.read_text()) for file in made)
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert all(file.stat().st_mode & 0o044 for file in made)


def test_the_recorder_waits_for_a_health_check_that_knows_a_live_server(questdb):
    services = compose()["services"]
    for recorder in RECORDERS:
        assert services[recorder]["depends_on"] == {"questdb": {"condition": "service_healthy"}}
    kind, *words = services["questdb"]["healthcheck"]["test"]
    assert kind == "CMD"
    url = urlsplit(questdb.endpoint.http_url)

    def check(port):
        assert "127.0.0.1/9000" in words[-1]
        return run([word.replace("$$", "$").replace("/9000", f"/{port}") for word in words]).returncode

    assert check(url.port) == 0
    assert check(1) != 0


def test_a_recorders_health_check_knows_200_from_all_else():
    """The very command, against an answer of each kind."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(self.server.status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    _, program, *words = compose()["services"]["recorder-a"]["healthcheck"]["test"]
    assert program == "python"
    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [word.replace(":9464/", f":{server.server_port}/") for word in words]
        for server.status, healthy in ((200, True), (503, False)):
            assert (run([sys.executable, *command]).returncode == 0) is healthy
        server.shutdown()
    assert run([sys.executable, *command]).returncode != 0  # nobody listens
