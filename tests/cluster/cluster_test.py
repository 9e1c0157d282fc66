"""Real processes on loopback: the same text as one device, and what happens when a device dies, hangs or lies."""

import os
import signal
import socket
import subprocess
import time
import unittest

from ring import HEARTH, MODEL, OTHER_MODEL, PATIENCE, Process, Ring, alone

QUESTION = ("-p", "Tell me a story about a fox and a lamp.")
# An answer that goes on until somebody ends it: the context is the only limit.
ENDLESS = (*QUESTION, "--ignore-eos", "-n", "900", "--repeat-penalty", "1.1")

EXIT_USAGE, EXIT_MODEL, EXIT_RING, EXIT_INTERRUPTED = 2, 3, 5, 130


def descendants(pid):
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(child) for child in children]


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


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


class Death(unittest.TestCase):
    def running(self, ring):
        """A head in the middle of a long answer."""
        head = ring.run(*ENDLESS)
        head.err.wait_for("ring of")
        return head

    def usable(self, ring, addresses):
        head = ring.run("-p", "Who are you?", addresses=addresses)
        self.assertEqual(head.wait(), 0, head.err.text())
        self.assertIn("Ember", head.out.text())

    def test_killed_worker(self):
        with Ring(3) as ring:
            head = self.running(ring)
            killed = time.monotonic()
            ring.workers[1].signal(signal.SIGKILL)
            code = head.wait()
            print(f"head knew after {time.monotonic() - killed:.2f} s")
            self.assertEqual(code, EXIT_RING, head.err.text())
            self.assertIn("w2", head.err.text().splitlines()[-1])
            for worker in (ring.workers[0], ring.workers[2]):
                worker.err.wait_for("waiting for a head", after=killed)
            self.usable(ring, [ring.addresses[0], ring.addresses[2]])

    def test_stopped_worker(self):
        with Ring(3) as ring:
            head = self.running(ring)
            stopped = time.monotonic()
            ring.workers[1].signal(signal.SIGSTOP)
            code = head.wait()
            print(f"head knew after {time.monotonic() - stopped:.2f} s")
            self.assertEqual(code, EXIT_RING, head.err.text())
            self.assertIn("w2", head.err.text().splitlines()[-1])
            ring.workers[1].signal(signal.SIGCONT)
            for worker in ring.workers:
                worker.err.wait_for("waiting for a head", after=stopped)
            self.usable(ring, ring.addresses)

    def test_killed_head(self):
        with Ring(3) as ring:
            head = self.running(ring)
            killed = time.monotonic()
            head.signal(signal.SIGKILL)
            head.wait()
            for worker in ring.workers:
                at, _ = worker.err.wait_for("waiting for a head", after=killed)
                print(f"a worker knew after {at - killed:.2f} s")
            self.usable(ring, ring.addresses)

    def test_stopped_head(self):
        with Ring(2) as ring:
            head = self.running(ring)
            stopped = time.monotonic()
            head.signal(signal.SIGSTOP)
            for worker in ring.workers:
                at, _ = worker.err.wait_for("waiting for a head", after=stopped)
                print(f"a worker knew after {at - stopped:.2f} s")
            head.signal(signal.SIGCONT)
            self.assertEqual(head.wait(), EXIT_RING, head.err.text())
            self.usable(ring, ring.addresses)

    def test_interrupted_head(self):
        with Ring(2) as ring:
            head = self.running(ring)
            interrupted = time.monotonic()
            head.signal(signal.SIGINT)
            self.assertEqual(head.wait(), EXIT_INTERRUPTED, head.err.text())
            for worker in ring.workers:
                worker.err.wait_for("waiting for a head", after=interrupted)
            self.usable(ring, ring.addresses)

    def test_busy_machine_is_no_alarm(self):
        hogs = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2)]
        try:
            with Ring(3) as ring:
                head = ring.run(*QUESTION, "--ignore-eos", "-n", "200")
                self.assertEqual(head.wait(2 * PATIENCE), 0, head.err.text())
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()


class Trust(unittest.TestCase):
    def test_head_that_is_not_allowed(self):
        with Ring(1) as ring:
            stranger = ring.path("stranger.key")
            ring.keygen(stranger)
            head = ring.run("-p", "hi", key=stranger)
            self.assertEqual(head.wait(), EXIT_RING, head.err.text())
            self.assertIn("allow", head.err.text().splitlines()[-1])
            self.assertEqual(head.out.text(), "")

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
        self.assertEqual(demo.wait(), 0, demo.err.text())
        self.assertIn("The ring's text equals one device's.", demo.out.text())
        self.assertIn("Molly", demo.out.text())
        demo.end()

    def children_end(self, number):
        demo = Process("demo", "-n", "100000", "-v")
        try:
            demo.err.wait_for("worker|waiting|head")
            wait_until(lambda: len(descendants(demo.pid)) == 3, "three workers")
            children = descendants(demo.pid)
            demo.signal(number)
            demo.wait()
            for child in children:
                wait_until(lambda child=child: not is_running(child), f"the end of child {child}")
        finally:
            demo.end()

    def test_children_end_with_an_interrupted_demo(self):
        self.children_end(signal.SIGINT)

    def test_children_end_with_a_killed_demo(self):
        self.children_end(signal.SIGKILL)


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
        self.check(1, "/no/such/file.gguf", "run", "-m", "/no/such/file.gguf", "-p", "hi")
        self.check(EXIT_MODEL, "magic", "show", HEARTH)
        self.check(EXIT_USAGE, "hearth keygen", "run", "-m", MODEL, "-p", "hi", "--worker", "0" * 64 + "@127.0.0.1:7")
        self.check(EXIT_USAGE, "--layer-window", "run", "-m", MODEL, "-p", "hi", "-lw", "1,x")
        self.check(EXIT_USAGE, "8", "run", "-m", MODEL, "-p", "hi", "-lw", "3")
        self.check(EXIT_USAGE, "--memory", "run", "-m", MODEL, "-p", "hi", "--memory", "lots")
        self.check(EXIT_USAGE, "prompt", "run", "-m", MODEL, "--raw", "-p", "hello " * 600, "-c", "64")

    def test_too_little_memory(self):
        with Ring(1) as ring:
            head = ring.run("-p", "hi", "--memory", "1MiB", addresses=[])
            self.assertEqual(head.wait(), 4, head.err.text())


if __name__ == "__main__":
    unittest.main(verbosity=2)
