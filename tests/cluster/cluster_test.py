"""Real processes: the same text as one device, and what happens when a device dies, hangs, lies or is cut off."""

import contextlib
import fcntl
import glob
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import netns
from ring import HEARTH, MODEL, OTHER_MODEL, PATIENCE, Process, Ring, alone

QUESTION = ("-p", "Tell me a story about a fox and a lamp.")
# An answer that goes on until somebody ends it: the context is the only limit.
ENDLESS_FLAGS = ("--ignore-eos", "-n", "900", "--repeat-penalty", "1.1")
ENDLESS = (*QUESTION, *ENDLESS_FLAGS)

EXIT_USAGE, EXIT_MODEL, EXIT_RING, EXIT_INTERRUPTED = 2, 3, 5, 130

# Seconds within which every other side knows: a closed connection, and a peer that falls silent. Below the earliest a
# mere pause would count as death.
CLOSED = (0, 5)
SILENT = (4, 10)


def processes_with(setting):
    """Living processes that have this NAME=VALUE in their environment."""
    found = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
            with open(path, "rb") as environ:
                if setting.encode() in environ.read().split(b"\0"):
                    found.append(int(path.split("/")[2]))
    return found


def wait_until(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE} s: {what}")
        time.sleep(0.02)  # polls another process; the deadline decides


class SameText(unittest.TestCase):
    def same(self, n_workers, *arguments):
        expected = alone(*QUESTION)
        self.assertEqual(expected[0], 0, expected[2])
        with Ring(n_workers) as ring:
            head = ring.run(*QUESTION, *arguments)
            self.assertEqual(head.wait(), 0, head.err.text())
            self.assertEqual(head.out.text(), expected[1])

    def test_by_memory(self):
        self.same(3)

    def test_uneven_split(self):
        self.same(3, "-lw", "1,4,1,2")

    def test_two_rounds(self):
        self.same(3, "-lw", "1,1,1,1", "-k", "2")

    def test_head_without_layers(self):
        self.same(2, "-lw", "0,5,3")

    def test_a_second_head_after_the_first(self):
        expected = alone(*QUESTION)[1]
        with Ring(2) as ring:
            for _ in range(3):
                head = ring.run(*QUESTION)
                self.assertEqual(head.wait(), 0, head.err.text())
                self.assertEqual(head.out.text(), expected)


class Planned(unittest.TestCase):
    """What devices and links were measured to do, and the plan that is made from it."""

    def setUp(self):
        self.ring = Ring(2)
        self.addCleanup(self.ring.end)

    def json(self, verb, *arguments):
        head = self.ring.head(verb, "--json", *arguments)
        self.assertEqual(head.wait(), 0, head.err.text())
        return json.loads(head.out.text())

    def test_profile_of_a_ring(self):
        found = self.json("profile", "--name", "desk")
        self.assertEqual([device["name"] for device in found["devices"]], ["desk", "w1", "w2"])
        for device in found["devices"]:
            self.assertEqual([one["tokens"] for one in device["cpu"]][:2], [1, 2])
            self.assertTrue(all(one["rate"] > 0 for one in device["cpu"]))
        pairs = [(link["from"], link["to"]) for link in found["links"]]
        self.assertEqual(sorted(pairs), sorted(itertools.permutations(["desk", "w1", "w2"], 2)))
        self.assertTrue(all(0 < link["latency"] < PATIENCE for link in found["links"]))
        text = self.ring.head("profile")
        self.assertEqual(text.wait(), 0, text.err.text())
        self.assertRegex(text.out.text(), r"(?m)^w1 +\d.* ms")

    def test_a_saved_plan_is_made_again(self):
        saved = self.ring.path("home.json")
        made = self.json("plan", "-c", "1024", "--save", saved)
        done = subprocess.run([HEARTH, "plan", "-m", MODEL, "-c", "1024", "--what-if", saved, "--json"], capture_output=True,
                              text=True, timeout=PATIENCE)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout), made)

    def test_a_plan_by_hand_is_of_measured_links(self):
        head = self.ring.head("plan", "-c", "1024", "-lw", "2,1,1")
        self.assertEqual(head.wait(), 0, head.err.text())
        self.assertIn("the windows are yours", head.out.text())
        self.assertNotIn("assumed", head.out.text())

    def test_excluded_devices_have_no_layers(self):
        bench = self.json("bench", "-c", "1024", "--prompt-tokens", "8", "-n", "8", "-r", "1", "--exclude", "head", "--exclude", "w2")
        self.assertEqual(bench["layers"], [0, 8, 0])
        self.assertGreater(bench["predicted_tpot_s"], 0)


class Fault(unittest.TestCase):
    """What is promised whenever a device is lost."""

    def running(self, ring, **options):
        """A head in the middle of a long answer."""
        head = ring.run(*ENDLESS, **options)
        head.out.wait_for_text(".{20}")
        return head

    def device(self, ring, index):
        """How messages name a device; 0 is the head."""
        if index == 0:
            return r"\bhead \([\d.]+:\d+\)"
        return re.escape(f"w{index} ({ring.addresses[index - 1].split('@')[1]})")

    def one_report(self, who, process, device, since, within):
        """One line says which device is lost, in time. Call it when the process has nothing more to say."""
        lines = [line for line in process.err.since(since)
                 if re.search(device, line[1]) and not re.search(": debug: |said goodbye", line[1])]
        self.assertEqual(len(lines), 1, f"{who} on {device}:\n{process.err.text()}")
        took = lines[0][0] - since
        print(f"{who} knew after {took:.2f} s: {lines[0][1]}")
        self.assertGreaterEqual(took, within[0], f"{who}: a false alarm")
        self.assertLessEqual(took, within[1], f"{who}: too late")

    def head_ends(self, head, device, since, within=(0, PATIENCE)):
        """Exit code and one message, nothing else."""
        self.assertEqual(head.wait(), EXIT_RING, head.err.text())
        self.one_report("head", head, device, since, within)
        self.assertEqual(len(head.err.since(since)), 1, head.err.text())

    def worker_waits(self, worker, since, within=(0, PATIENCE)):
        """It has freed the plan and waits for a head."""
        worker.err.wait_for(r"epoch \d+ is freed", after=since)
        at, _ = worker.err.wait_for("waiting for a head", after=since)
        self.assertLessEqual(at - since, within[1], worker.err.text())

    def others_know(self, ring, head, lost, since, within):
        """Every side but the lost one reports it; 0 is the head."""
        device = self.device(ring, lost)
        if lost != 0:
            self.head_ends(head, device, since, within)
        for index, worker in enumerate(ring.workers, 1):
            if index != lost:
                self.worker_waits(worker, since, within)
                self.one_report(f"w{index}", worker, device, since, within)

    def usable(self, ring, addresses, **options):
        """A new head gets the answer of one device."""
        head = ring.run(*QUESTION, addresses=addresses, **options)
        self.assertEqual(head.wait(), 0, head.err.text())
        self.assertEqual(head.out.text(), alone(*QUESTION)[1])

    def usable_without(self, ring, lost):
        self.usable(ring, [address for index, address in enumerate(ring.addresses, 1) if index != lost])


class Death(Fault):
    def test_killed_worker(self):
        for lost in (1, 2, 3):
            with self.subTest(worker=lost), Ring(3) as ring:
                head = self.running(ring)
                killed = time.monotonic()
                ring.workers[lost - 1].signal(signal.SIGKILL)
                self.others_know(ring, head, lost, killed, CLOSED)
                self.usable_without(ring, lost)

    def test_killed_head(self):
        with Ring(3) as ring:
            head = self.running(ring)
            killed = time.monotonic()
            head.signal(signal.SIGKILL)
            self.others_know(ring, head, 0, killed, CLOSED)
            self.usable(ring, ring.addresses[:2])
            self.usable(ring, ring.addresses)

    def test_stopped_worker(self):
        # One ring for each place, all at the same time: the silence takes its seconds only once.
        with contextlib.ExitStack() as stack:
            rings = {lost: stack.enter_context(Ring(3)) for lost in (1, 2, 3)}
            stopped = {}
            for lost, ring in rings.items():
                head = self.running(ring)
                stopped[lost] = (head, time.monotonic())
                ring.workers[lost - 1].signal(signal.SIGSTOP)
            for lost, ring in rings.items():
                head, since = stopped[lost]
                self.others_know(ring, head, lost, since, SILENT)
            for lost, ring in rings.items():
                self.usable_without(ring, lost)
                continued = time.monotonic()
                ring.workers[lost - 1].signal(signal.SIGCONT)
                self.worker_waits(ring.workers[lost - 1], continued)
                self.usable(ring, ring.addresses)

    def test_stopped_head(self):
        with Ring(3) as ring:
            head = self.running(ring)
            stopped = time.monotonic()
            head.signal(signal.SIGSTOP)
            self.others_know(ring, head, 0, stopped, SILENT)
            self.usable(ring, ring.addresses[:2])
            continued = time.monotonic()
            head.signal(signal.SIGCONT)
            self.head_ends(head, r"\bw[123] \(127\.0\.0\.1:\d+\)", continued)
            self.usable(ring, ring.addresses)

    def test_interrupted_worker(self):
        with Ring(3) as ring:
            head = self.running(ring)
            interrupted = time.monotonic()
            ring.workers[1].signal(signal.SIGINT)
            self.others_know(ring, head, 2, interrupted, CLOSED)
            self.assertEqual(ring.workers[1].wait(), 0, ring.workers[1].err.text())
            self.usable_without(ring, 2)

    def test_interrupted_head(self):
        with Ring(2) as ring:
            head = self.running(ring)
            interrupted = time.monotonic()
            head.signal(signal.SIGINT)
            self.assertEqual(head.wait(), EXIT_INTERRUPTED, head.err.text())
            for worker in ring.workers:
                self.worker_waits(worker, interrupted)
                self.assertNotRegex("\n".join(line for _, line in worker.err.since(interrupted)), "error|warning")
            self.usable(ring, ring.addresses)

    def test_busy_machine_is_no_alarm(self):
        hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2 * len(os.sched_getaffinity(0)))]
        try:
            with Ring(3) as ring:
                head = ring.run(*QUESTION, "--ignore-eos", "-n", "900")
                self.assertEqual(head.wait(2 * PATIENCE), 0, head.err.text())
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()


class Link(Fault):
    """The head and w1 in one network, w2 in another; between them a cable that is pulled during an answer."""

    def setUp(self):
        if reason := netns.why_not():
            print(f"Skipped\n{reason}")
            self.skipTest(reason)

    def pulled(self, end):
        with netns.Cable() as cable, Ring(0) as ring:
            ring.add_worker("w1", listen=cable.NEAR_ADDRESS, inside=cable.near)
            far = ring.add_worker("w2", listen=cable.FAR_ADDRESS, inside=cable.far)
            head = self.running(ring, inside=cable.near)
            pulled = time.monotonic()
            end(cable).set_up("cable", False)
            self.others_know(ring, head, 2, pulled, SILENT)
            self.worker_waits(far, pulled, SILENT)
            self.one_report("w2", far, self.device(ring, 0), pulled, SILENT)  # it may miss w1 before, too
            end(cable).set_up("cable", True)
            self.usable(ring, ring.addresses, inside=cable.near)

    def test_short_break_is_no_alarm(self):
        with netns.Cable() as cable, Ring(0) as ring:
            ring.add_worker("w1", listen=cable.FAR_ADDRESS, inside=cable.far)
            head = ring.run(*QUESTION, inside=cable.near)
            head.out.wait_for_text(".{20}")
            cable.far.set_up("cable", False)
            time.sleep(2)  # the length of the break, nothing is waited for
            cable.far.set_up("cable", True)
            self.assertEqual(head.wait(), 0, head.err.text())
            self.assertEqual(head.out.text(), alone(*QUESTION)[1])

    def test_down_at_the_head(self):
        self.pulled(lambda cable: cable.near)

    def test_down_at_the_worker(self):
        self.pulled(lambda cable: cable.far)


class Interrupt(unittest.TestCase):
    """Ctrl-C without a ring: the first one ends the answer, the second one the program."""

    @contextlib.contextmanager
    def process(self, *arguments, n_ctx=1024, **options):
        process = Process("run", "-m", MODEL, "-t", "1", "--temp", "0", "-c", str(n_ctx), "-v", *arguments, **options)
        try:
            yield process
        finally:
            process.end()

    def interrupt(self, process):
        """Sends SIGINT and waits until it has reached the program, so that the next one counts for itself."""
        process.signal(signal.SIGINT)

        def is_pending():
            with open(f"/proc/{process.pid}/status") as status:
                pending = re.findall(r"^(?:SigPnd|ShdPnd):\s*([0-9a-f]+)", status.read(), re.MULTILINE)
            return any(int(mask, 16) >> (signal.SIGINT - 1) & 1 for mask in pending)

        wait_until(lambda: not is_pending(), "the delivery of SIGINT")

    def test_ends_an_answer(self):
        with self.process(*ENDLESS) as process:
            process.out.wait_for_text(".")
            process.signal(signal.SIGINT)
            self.assertEqual(process.wait(), EXIT_INTERRUPTED, process.err.text())
            self.assertNotIn("error", process.err.text())

    def test_second_one_ends_the_program(self):
        # Nobody reads the text and the pipe is full: the program cannot finish on its own after the first one.
        reader, writer = os.pipe()
        try:
            os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)))
            with self.process(*ENDLESS, stdout=writer) as process:
                process.err.wait_for("ring of 1 device")
                self.interrupt(process)
                self.assertIsNone(process.popen.poll(), "the full pipe did not hold the program")
                process.signal(signal.SIGINT)
                self.assertEqual(process.wait(), EXIT_INTERRUPTED)
        finally:
            os.close(reader)
            os.close(writer)

    def test_ends_an_answer_of_a_chat(self):
        keyboard, terminal = os.openpty()
        try:
            with self.process(*ENDLESS_FLAGS, stdin=terminal) as process:
                for n_prompts in (1, 2):
                    process.err.wait_for_text("> .*" * n_prompts)
                    before = len(process.out.text())
                    os.write(keyboard, b"Tell me a story.\n")
                    process.out.wait_for_text(f".{{{before + 2}}}")
                    process.signal(signal.SIGINT)
                process.err.wait_for_text("> .*" * 3)
                os.write(keyboard, b"\x04")  # Ctrl-D
                self.assertEqual(process.wait(), 0, process.err.text())
        finally:
            os.close(keyboard)
            os.close(terminal)

    def test_a_question_that_cannot_be_asked_does_not_end_a_chat(self):
        keyboard, terminal = os.openpty()
        try:
            with self.process("-n", "4", stdin=terminal, n_ctx=64) as process:
                process.err.wait_for_text("> ")
                os.write(keyboard, b"word " * 100 + b"\n")
                process.err.wait_for(r"the context 64;.*the question is left out")
                process.err.wait_for_text("> .*" * 2)
                os.write(keyboard, b"caf\xe9\n")
                process.err.wait_for(r"UTF-8.*the question is left out")
                process.err.wait_for_text("> .*" * 3)
                os.write(keyboard, b"Hi\n")
                process.err.wait_for_text("> .*" * 4)
                process.out.wait_for_text(r"\S")
                os.write(keyboard, b"\x04")  # Ctrl-D
                self.assertEqual(process.wait(), 0, process.err.text())
        finally:
            os.close(keyboard)
            os.close(terminal)


class Trust(unittest.TestCase):
    def test_head_that_is_not_allowed(self):
        with Ring(1) as ring:
            stranger = ring.path("stranger.key")
            ring.keygen(stranger)
            head = ring.run("-p", "hi", key=stranger)
            self.assertEqual(head.wait(), EXIT_RING, head.err.text())
            self.assertIn("allow", head.err.text().splitlines()[-1])
            self.assertEqual(head.out.text(), "")

    def test_a_second_head_is_told_who_is_served(self):
        with Ring(0) as ring:
            other = ring.path("other.key")
            ring.add_worker("w1", allow=[ring.keygen(other)])
            first = ring.run(*ENDLESS)
            first.out.wait_for_text(".")
            second = ring.run("-p", "hi", key=other)
            self.assertEqual(second.wait(), EXIT_RING, second.err.text())
            self.assertIn("works for", second.err.text().splitlines()[-1])
            before = len(first.out.text())
            first.out.wait_for_text(f"(?s).{{{before + 20}}}")  # goes on
            first.signal(signal.SIGINT)
            self.assertEqual(first.wait(), EXIT_INTERRUPTED, first.err.text())

    def test_worker_with_another_key_than_expected(self):
        with Ring(1) as ring:
            wrong = ring.keygen(ring.path("wrong.key")) + ring.addresses[0][64:]
            head = ring.run("-p", "hi", addresses=[wrong])
            self.assertEqual(head.wait(), EXIT_RING, head.err.text())

    def test_no_worker_there(self):
        with Ring(0) as ring:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            key = ring.keygen(ring.path("nobody.key"))
            head = ring.run("-p", "hi", addresses=[f"{key}@127.0.0.1:{port}"])
            self.assertEqual(head.wait(), EXIT_RING, head.err.text())
            self.assertIn(f"127.0.0.1:{port}", head.err.text().splitlines()[-1])

    def test_another_model(self):
        with Ring(1, model=OTHER_MODEL) as ring:
            head = ring.run("-p", "hi", model=MODEL)
            self.assertEqual(head.wait(), EXIT_MODEL, head.err.text())
            self.assertIn("w1", head.err.text().splitlines()[-1])

    def test_garbage_on_the_ports_during_an_answer(self):
        expected = alone(*QUESTION)[1]
        with Ring(2) as ring:
            head = ring.run(*QUESTION)
            for address in ring.addresses:
                port = int(address.rsplit(":", 1)[1])
                for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, bytes(range(256)) * 16,
                                b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00NULL" + b"\x00" * 48,
                                b"\x02" + b"\x7f" + b"\xff" * 7):
                    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as stranger:
                        stranger.sendall(garbage)
            self.assertEqual(head.wait(), 0, head.err.text())
            self.assertEqual(head.out.text(), expected)


class Demo(unittest.TestCase):
    def test_text_equals_one_device(self):
        demo = Process("demo")
        try:
            self.assertEqual(demo.wait(), 0, demo.err.text())
            self.assertIn("The ring's text equals one device's.", demo.out.text())
            self.assertIn("Molly", demo.out.text())
        finally:
            demo.end()

    @contextlib.contextmanager
    def ended_by(self, number):
        """A demo that is ended during its answer; yields its exit code and its own folder for temporary files."""
        with tempfile.TemporaryDirectory(prefix="hearth-test-") as folder:
            demo = Process("demo", "-n", "900", environment={"TMPDIR": folder})
            try:
                demo.out.wait_for_text(r"> [^\n]*\n\n.")
                self.assertEqual(len(processes_with(f"TMPDIR={folder}")), 4)
                demo.signal(number)
                code = demo.wait()
                wait_until(lambda: not processes_with(f"TMPDIR={folder}"), "the end of every process of the demo")
                yield code, folder
            finally:
                demo.end()

    def test_nothing_is_left_by_an_interrupted_demo(self):
        with self.ended_by(signal.SIGINT) as (code, folder):
            self.assertEqual(code, EXIT_INTERRUPTED)
            self.assertEqual(os.listdir(folder), [])

    def test_nothing_is_left_by_a_killed_demo(self):
        with self.ended_by(signal.SIGKILL) as (code, folder):
            self.assertEqual(code, -signal.SIGKILL)
            self.assertEqual(os.listdir(folder), [])


class Usage(unittest.TestCase):
    def check(self, code, message, *arguments):
        done = subprocess.run([HEARTH, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(message, done.stderr)
        self.assertEqual(done.stdout, "")

    def test_errors(self):
        self.check(EXIT_USAGE, "--model is required", "run", "-p", "hi")
        self.check(EXIT_USAGE, "no-such-flag", "run", "-m", MODEL, "--no-such-flag")
        self.check(EXIT_USAGE, "/no/such/file.gguf", "run", "-m", "/no/such/file.gguf", "-p", "hi")
        self.check(EXIT_MODEL, "magic", "show", HEARTH)
        self.check(EXIT_USAGE, "hearth keygen", "run", "-m", MODEL, "-p", "hi", "--worker", "0" * 64 + "@127.0.0.1:7")
        self.check(EXIT_USAGE, "--layer-window", "run", "-m", MODEL, "-p", "hi", "-lw", "1,x")
        self.check(EXIT_USAGE, "8", "run", "-m", MODEL, "-p", "hi", "-lw", "3", "--rounds", "2")
        self.check(EXIT_USAGE, "expected 1 to 128 or auto, got '0'", "run", "-m", MODEL, "-p", "hi", "--rounds", "0")
        self.check(EXIT_USAGE, "expected 1 to 8192 or auto, got 'x'", "run", "-m", MODEL, "-p", "hi", "-ub", "x")
        self.check(EXIT_USAGE, "excludes", "run", "-m", MODEL, "-p", "hi", "-f", MODEL)
        self.check(EXIT_USAGE, "excludes", "run", "-m", MODEL, "-p", "hi", "--raw", "--system", "be brief")
        self.check(EXIT_USAGE, "directory", "run", "-m", MODEL, "-f", "/tmp")
        self.check(EXIT_USAGE, "--memory", "run", "-m", MODEL, "-p", "hi", "--memory", "lots")
        self.check(EXIT_USAGE, "prompt", "run", "-m", MODEL, "--raw", "-p", "hello " * 600, "-c", "64")

    def test_wrong_verbs_and_values(self):
        self.check(EXIT_USAGE, "no verb 'bogus'", "bogus")
        self.check(EXIT_USAGE, "port 0", "run", "-m", MODEL, "-p", "hi", "--worker", "ab" * 32 + "@127.0.0.1:0")
        self.check(EXIT_USAGE, "in 1 round, asked for were 2", "run", "-m", MODEL, "-p", "hi", "-lw", "99", "-k", "2")
        for count in ("0", "-2", "16777217", "5x"):
            self.check(EXIT_USAGE, "is no number of tokens", "run", "-m", MODEL, "-p", "hi", f"--predict={count}")
        self.check(EXIT_USAGE, "there is no prompt", "run", "-m", MODEL)  # standard input is /dev/null
        self.check(EXIT_USAGE, "the prompt file /dev/zero has more than 67.1 MB", "run", "-m", MODEL, "-f", "/dev/zero")

    def test_output_that_is_not_taken(self):
        answer = ("run", "-m", MODEL, "-p", "hi", "-n", "4", "-t", "1")
        for arguments in (answer, ("show", MODEL), ("cache", "ls"), ("--help",)):
            with open("/dev/full", "w") as full:
                done = subprocess.run([HEARTH, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertIn("standard output took only a part", done.stderr)
        # A reader that has seen enough ends the answer.
        reader, writer = os.pipe()
        process = Process("run", "-m", MODEL, "-t", "1", "-c", "1024", *ENDLESS, stdout=writer)
        try:
            os.close(writer)
            os.read(reader, 5)
            os.close(reader)
            self.assertEqual(process.wait(), 1, process.err.text())
            self.assertNotIn("standard output", process.err.text())
        finally:
            process.end()
        # Closed ones are nobody else's descriptors.
        done = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", HEARTH, *answer], timeout=PATIENCE)
        self.assertEqual(done.returncode, 0)

    def test_too_little_memory(self):
        with Ring(1) as ring:
            head = ring.run("-p", "hi", "--memory", "1MiB", addresses=[])
            self.assertEqual(head.wait(), 4, head.err.text())
        self.check(4, "hearth needs 50.3 MB at least", "run", "-m", MODEL, "-p", "hi", "--memory", "34MB")


if __name__ == "__main__":
    unittest.main(verbosity=2)
