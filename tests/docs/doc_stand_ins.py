"""What the documentation names and a test machine does not have, and what is run instead: the whole list.

Everything else in a block runs as it is written. A stand-in is the real thing of another kind (a camera over the
network for one on USB, sshd on this machine for a board's, a file for a card), options at the end of the documented
line, or, where there is no other way, an exemption: the line is then only read, `edge-centernet` by its own parser.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class StandIn:
    """For the calls of `program` whose arguments match `when`; all that match apply.

    add: goes to the end of the documented line. replace: pattern of a word -> what stands for it. instead: another
    program with the same arguments. env: more environment. live: it runs until it is stopped, which is once it gave
    results.
    ends: (exit status, what it must say) where it cannot succeed here. exempt: not run. {NAMES} are filled in by the
    sandbox.
    """

    program: str
    when: str
    why: str
    add: tuple[str, ...] = ()
    replace: dict[str, str] = field(default_factory=dict)
    instead: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    live: bool = False
    ends: tuple[int, str] | None = None
    exempt: bool = False


EDGE = "edge-centernet"
# A smaller network, fewer steps: what is documented is the command, not how long it takes.
_SHORT = (
    "--threads", "2", "--set", "size=64", "--set", "early_side=64", "--set", "batch_size=4", "--set", "workers=0",
    "--set", "eval_every=0", "--set", "amp=off", "--set", "epochs=1",
    "--set", "qat_epochs=0",
)  # fmt: skip

STAND_INS = (
    # -- cameras and what listens to them
    StandIn(EDGE, r"^detect .*--camera", "without an end of its own", live=True),
    StandIn(EDGE, r"^detect (?!.*--fourcc).*--camera (0|csi)\b", "no camera: a person who walks, over HTTP",
            ("--camera", "{camera}")),
    StandIn(EDGE, r"^detect .*--fourcc", "only a V4L2 camera takes a pixel format: up to its absence",
            ("--camera", "/dev/video99"), ends=(2, "/dev/video99")),
    StandIn(EDGE, r"^detect .*gst:", "PyPI's OpenCV has no GStreamer, and says so", ends=(2, "GStreamer")),
    StandIn(EDGE, r"^detect .*--serve 8080", "the port may be taken", ("--serve", "127.0.0.1:{port}")),
    StandIn(EDGE, r"^detect .*--mqtt mqtt://anna@broker\.lan/", "a mosquitto on this machine",
            ("--mqtt", "mqtt://anna@127.0.0.1:{broker_port}/house/front-door"),
            env={"EDGE_CENTERNET_MQTT_PASSWORD": "{broker_password}"}),
    StandIn("mosquitto_pub", "", "the same mosquitto; the documented password is `...`",
            ("-h", "127.0.0.1", "-p", "{broker_port}", "-P", "{broker_password}")),
    # -- training: small sets, a pass each
    StandIn(EDGE, r"^train (?!.*--weights)", "from the smaller shipped model", ("--weights", "centernet-nano-256")),
    StandIn(EDGE, r"^train ", "a pass in float instead of many, on a small set", _SHORT),
    StandIn("torchrun", "", "two processes, a pass on a small set; `...` is the reader's data set",
            (*_SHORT, "--weights", "centernet-nano-256"), {"4": "2", r"\.\.\.": "instances_train.json"},
            env={"PYTHONSAFEPATH": "1"}),
    StandIn("python", r"scripts/release_model\.py (?!.*--out)", "beside the package, not into it",
            ("--out", "released")),
    StandIn("python", r"scripts/get_cards\.py", "a small set of the same form", ("--source", "{cards}")),
    StandIn(EDGE, r"^bench (?!--compare)", "a second of one engine", ("--runtime", "tflite", "--threads", "1",
            "--duration", "1", "--model", "centernet-nano-256")),
    StandIn(EDGE, r"^bundle .*cards\.tflite", "a pass over four photos learns nothing that the check could find",
            replace={r"converted/cards\.tflite": "{model}"}),
    # -- boards: an sshd on this machine, a folder as the board's root
    StandIn(EDGE, r"^deploy pi@", "this machine's sshd, logged in to as who runs the tests; a folder is its root",
            ("--root", "{board}"), {"pi@raspberrypi.local": "{user}@raspberrypi.local"}),
    StandIn(EDGE, r"^deploy USER@JETSON", "as above; USER@JETSON is the reader's",
            ("--root", "{board}"), {"USER@JETSON": "{user}@raspberrypi.local"}),
    StandIn(EDGE, r"^deploy .*--bundle", "the board is this machine: a bundle for it",
            replace={r"dist/edge-centernet-\S+\.tar": "{bundle}"}),
    StandIn(EDGE, r"^deploy .*--model mine\.tflite", "the board is a PC, which runs OpenVINO",
            replace={r"mine\.tflite": "mine.xml"}),
    StandIn("python3", r"\binstall setup ", "a folder is the board's root", ("--root", "{board_by_hand}")),
    StandIn("python3", r"^/boot/firmware/", "the first start of a card: scripts/test_devices.sh boots one",
            exempt=True),
    # -- cards
    StandIn(EDGE, r"^flash \S+ /dev/sdb", "a file stands for the card reader", replace={"/dev/sdb": "card.img"}),
    StandIn(EDGE, r"^flash --jetson", "no Jetson on USB: it says so, after it looked at NVIDIA's folder",
            ends=(2, "expected a Jetson in recovery mode on USB, none is there")),
    # -- installing: pip looks everything up and installs nothing over what is tested
    StandIn("pip", r"^install ", "finds all of it installed; nothing is changed",
            ("--dry-run", "--no-index", "--no-build-isolation")),
    StandIn("pip", r"^download .*pypi\.jetson-ai-lab\.io", "NVIDIA's packages, hundreds of megabytes", exempt=True),
    StandIn("python3", r"^-m venv .*\.venv$", "beside the environment that is tested",
            replace={r"\.venv": ".venv-made"}),
    StandIn("apt-get", r"^install ", "simulated", ("--simulate",)),
    StandIn("apt", r"^install .*picamera2", "in Raspberry Pi OS only", exempt=True),
    StandIn("apt", r"^install .*nvidia", "in NVIDIA's package sources only", exempt=True),
    StandIn("apt", r"^update$", "prints what it would fetch", ("--print-uris",), instead=("apt-get",)),
    # -- what only a board has
    StandIn("rpicam-hello", "", "a Raspberry Pi's camera", exempt=True),
    StandIn("nvpmodel", "", "a Jetson's power modes", exempt=True),
    StandIn("/opt/edge-centernet/current/venv/bin/edge-centernet", "", "builds a TensorRT engine on a Jetson's GPU",
            exempt=True),
    # -- the repository's own long runs
    StandIn("scripts/test", "", "what runs these tests; .ci/run ends with it (tests/test_docs.py)", exempt=True),
    StandIn("scripts/check", "", "runs the quick tests, this one among them", exempt=True),
    StandIn("pre-commit", "", "as it is, in a repository of git that holds the page's folder"),
    StandIn("scripts/test_decoder_targets.sh", "--install", "installs system packages; .ci/run does it", exempt=True),
    StandIn("scripts/test_decoder_targets.sh", "^$", "stage by stage in tests/decoder/test_decoder_targets.py",
            exempt=True),
    StandIn("scripts/fuzz_decoder.sh", "600", "a second of it", replace={"600": "1"}),
    StandIn("pytest", "-m cross", "collected: those tests are run beside this one", ("--collect-only", "-q"),
            env={"PYTEST_ADDOPTS": "--rootdir={root} -c {root}/setup.cfg {root}/tests"}),
    StandIn("scripts/test_devices.sh", "--install --all", "two hours of emulated boards; tests/boards is short",
            exempt=True),
    StandIn("scripts/devices/boot.py", "", "boots an emulated board for minutes: tests/boards/test_boards.py does",
            exempt=True),
)  # fmt: skip

# Programs that blocks may call as they are; what is missing on this machine fails the block that calls it.
PLAIN = (
    "cat", "cc", "chmod", "cmake", "cp", "cut", "echo", "git", "grep", "head", "install", "ls", "mkdir", "mv",
    "pkg-config", "rm", "sed", "sort", "tail", "tar", "touch", "true", "unzip", "wc",
)  # fmt: skip


# In the machine with a systemd of its own: pattern -> what is run there, for what has no end.
ON_BOARD = {r"(journalctl [^\n]* -f)\b": r"timeout 5 \1 || [ $? = 124 ]"}


@dataclass(frozen=True)
class Case:
    """How one block is run where it is not simply run: it is the one of `page` that has the text `has`.

    slow: over five seconds. after: text of the block of that page (or PAGE::TEXT) that must have run before.
    needs: what the machine must have, else the test is skipped with the reason. where: "here", or "board" (a machine
    with a systemd of its own).
    """

    page: str
    has: str
    slow: bool = True
    after: str = ""
    needs: tuple[str, ...] = ()
    where: str = "here"


CASES = (
    Case("README.md", "python3 -m venv"),
    Case("README.md", "edge-centernet detect --camera 0"),
    Case("README.md", "edge-centernet deploy", needs=("root", "sshd", "wheels")),
    Case("README.md", "edge-centernet convert --int8"),
    Case("README.md", "edge-centernet train"),
    Case("README.md", "edge-centernet import"),
    Case("CONTRIBUTING.md", "pre-commit install", needs=("git", "pre-commit")),
    Case("CONTRIBUTING.md", "check_numbers"),
    Case("CONTRIBUTING.md", "release.py", needs=("git",)),
    Case("docs/bench.md", "--json before.json"),
    Case("docs/bench.md", "--compare", after="--json before.json"),
    Case("docs/calibration.md", "--target all --out converted"),
    Case("docs/calibration.md", "--accuracy-budget"),
    Case("docs/calibration.md", "edge-centernet verify"),
    Case("docs/cameras.md", "--fourcc"),
    Case("docs/cameras.md", "rpicam-hello"),
    Case("docs/data.md", "--json check.json", slow=False),
    Case("docs/decoder-targets.md", "--install", needs=("clang",)),
    Case("docs/decoder.md", "fuzz_decoder", needs=("clang",)),
    Case("docs/decoder.md", "cmake -S", needs=("cmake", "pkg-config")),
    Case("docs/deploy.md", "edge-centernet deploy pi@raspberrypi.local\n", needs=("root", "sshd", "wheels")),
    Case("docs/deploy.md", "--status\n", after="edge-centernet deploy pi@raspberrypi.local\n",
         needs=("root", "sshd", "wheels")),
    Case("docs/deploy.md", "edge-centernet bundle", needs=("wheels",)),
    Case("docs/deploy.md", "local --bundle dist/", needs=("root", "sshd", "wheels")),
    Case("docs/deploy.md", "install setup", needs=("root", "wheels")),
    Case("docs/deploy.md", "--inventory hosts", after="--status\n",
         needs=("root", "sshd", "wheels", "ansible-playbook")),
    Case("docs/devices.md", "edge-centernet deploy", needs=("root", "sshd", "wheels")),
    Case("docs/doctor.md", "edge-centernet doctor --quick"),
    Case("docs/doctor.md", "python3 -c"),
    Case("docs/flash.md", "/dev/sdb"),
    Case("docs/frigate.md", "edge-centernet export-frigate"),
    Case("docs/home-assistant.md", "edge-centernet detect", needs=("mosquitto",)),
    Case("docs/home-assistant.md", "mosquitto_pub", needs=("mosquitto", "mosquitto_pub")),
    Case("docs/image.md", "edge-centernet image", needs=("wheels", "mcopy", "mke2fs", "xz")),
    Case("docs/import.md", "edge-centernet import"),
    Case("docs/import.md", "backbone=resnet18"),
    Case("docs/jetson.md", "pip download", needs=("wheels",)),
    Case("docs/jetson.md", "edge-centernet deploy", needs=("root", "sshd", "wheels")),
    Case("docs/jetson.md", "systemctl restart", after="docs/service.md::python3 -m venv",
         needs=("container", "wheels"), where="board"),
    Case("docs/live-page.md", "--track"),
    Case("docs/live-page.md", "--blur"),
    Case("docs/scores.md", "epochs=0", after="docs/training.md::edge-centernet data check instances_train.json"),
    Case("docs/service.md", "python3 -m venv", needs=("container", "wheels"), where="board"),
    Case("docs/service.md", "EDGE_CENTERNET_TOKEN=", slow=False),
    Case("docs/service.md", "systemctl enable", after="python3 -m venv", needs=("container", "wheels"), where="board"),
    Case("docs/tracking.md", "--presence"),
    Case("docs/training.md", "edge-centernet data check instances_train.json"),
    Case("docs/training.md", "torchrun"),
    Case("docs/training.md", "runs/first"),
    Case("docs/training.md", "runs/nano"),
    Case("docs/training.md", "runs/r18"),
    Case("docs/models/centernet-mbv2-320.md", "runs/first"),
    Case("docs/models/centernet-nano-256.md", "runs/nano"),
    Case("docs/models/centernet-r18.md", "runs/r18"),
    Case("docs/tutorial.md", "python3 -m venv"),
    Case("docs/tutorial.md", "data check", after="get_cards.py"),
    Case("docs/tutorial.md", "edge-centernet train", after="get_cards.py"),
    Case("docs/tutorial.md", "edge-centernet convert", after="edge-centernet train"),
    Case("docs/tutorial.md", "edge-centernet detect", after="edge-centernet convert"),
    Case("docs/tutorial.md", "edge-centernet bundle", after="edge-centernet detect", needs=("wheels",)),
    Case("docs/tutorial.md", "edge-centernet deploy", needs=("root", "sshd", "wheels")),
)  # fmt: skip
