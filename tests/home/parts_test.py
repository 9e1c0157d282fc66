"""The parts of the emulated home that need no privileges: scenarios, and what the kernel's files say."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
from home import Run, ScenarioError, cgroup, load_scenario  # noqa: E402
from home.scenario import SCENARIOS, parse_bytes, parse_scenario  # noqa: E402


class Scenarios(unittest.TestCase):
    def test_every_field(self):
        scenario = parse_scenario({"device": [
            {"name": "a", "role": "head", "memory": "50 %", "cores": 1.5, "disk_mb_s": 500, "link_mbit_s": 100,
             "delay_ms": 2, "jitter_ms": 1, "loss_percent": 0.5},
            {"name": "b", "memory": "900 MiB"}]}, "test")
        a, b = scenario.devices
        self.assertEqual(a.memory_limit(1000), 500)
        self.assertEqual((a.cores, a.disk_bytes_per_s, a.link_bytes_per_s), (1.5, 500_000_000, 12_500_000))
        self.assertEqual((a.delay_ms, a.jitter_ms, a.loss_percent), (2, 1, 0.5))
        self.assertEqual(b.memory_limit(None), 943_718_400)
        self.assertEqual((b.role, b.cores, b.disk_bytes_per_s, b.link_bytes_per_s), ("worker", None, None, None))
        self.assertIs(scenario.head(), a)

    def test_sizes(self):
        for text, size in (("1 B", 1), ("2KB", 2000), ("2 KiB", 2048), ("1.5 GB", 1_500_000_000), ("1GiB", 1 << 30)):
            self.assertEqual(parse_bytes(text), size)
        for text in ("", "1", "-1 MB", "1 TB", "MB", "1e3 MB"):
            self.assertIsNone(parse_bytes(text))

    def test_a_share_needs_weights(self):
        scenario = parse_scenario({"device": [{"name": "a", "memory": "50 %"}]}, "test")
        with self.assertRaisesRegex(ScenarioError, "a: its memory is a share"):
            scenario.devices[0].memory_limit(None)

    def test_refusals_name_the_field(self):
        def device(**fields):
            return {"device": [{"name": "a", **fields}]}
        for table, message in (
                ({}, "1 to 16"), ({"device": []}, "1 to 16"), ({"device": [{"name": f"d{i}"} for i in range(17)]}, "1 to 16"),
                ({"devices": []}, "unknown devices"), (device(disk=3), "unknown disk"), (device(name="A b"), "name is 'A b'"),
                (device(name="../x"), "name is"), (device(memory="lots"), "memory is 'lots'"), (device(memory=5), "memory is 5"),
                (device(memory="0 %"), "memory is"), (device(memory="1 MiB"), "4 MiB"), (device(role="king"), "role is 'king'"),
                (device(cores=0), "cores is 0"), (device(cores=True), "cores is True"), (device(disk_mb_s="9"), "disk_mb_s"),
                (device(link_mbit_s=1e6), "link_mbit_s"), (device(delay_ms=-1), "delay_ms"), (device(loss_percent=99), "loss"),
                ({"device": [{"name": "a"}, {"name": "a"}]}, "same name"),
                ({"device": [{"name": "a", "role": "head"}, {"name": "b", "role": "head"}]}, "more than one")):
            with self.subTest(message), self.assertRaisesRegex(ScenarioError, message):
                parse_scenario(table, "test")

    def test_those_of_the_project(self):
        for name in os.listdir(SCENARIOS):
            scenario = load_scenario(name.removesuffix(".toml"))
            self.assertTrue(scenario.description, name)
        with self.assertRaisesRegex(ScenarioError, "there are: .*one-500"):
            load_scenario("no-such-home")


class KernelFiles(unittest.TestCase):
    def test_mount_points(self):
        text = ("30 25 0:26 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n"
                "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
                "32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
                "33 25 0:29 / /mnt/a\\040b rw - cgroup cgroup rw,blkio\n")
        self.assertEqual(cgroup.mount_points(text), {
            "memory": "/sys/fs/cgroup/memory", "cpu": "/sys/fs/cgroup/cpu,cpuacct",
            "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "blkio": "/mnt/a b"})

    def test_disk_bytes(self):
        text = "254:0 Read 4096\n254:0 Write 512\n254:0 Total 4608\n254:16 Read 77\nTotal 4685\n"
        self.assertEqual(cgroup.disk_bytes(text, "254:0", "Read"), 4096)
        self.assertEqual(cgroup.disk_bytes(text, "254:0", "Write"), 512)
        self.assertEqual(cgroup.disk_bytes(text, "254:16", "Read"), 77)
        self.assertEqual(cgroup.disk_bytes("Total 0\n", "254:0", "Read"), 0)

    def test_use_since(self):
        before = cgroup.Use(read_bytes=100, peak_memory_bytes=50, oom_kills=1)
        after = cgroup.Use(read_bytes=350, peak_memory_bytes=60, oom_kills=3, cpu_s=1.5)
        self.assertEqual(after.since(before), cgroup.Use(read_bytes=250, peak_memory_bytes=60, oom_kills=2, cpu_s=1.5))

    def test_samples(self):
        """The nearest to a time count."""
        run = Run(command=[], code=0, started=0, seconds=4, lines=[], errors="", use=cgroup.Use(), stolen_share=0,
                  other_share=0, samples=[(0.0, 0, 0, 9, 0), (1.0, 10, 1, 5, 0), (2.0, 30, 3, 7, 0), (3.0, 60, 3, 6, 0)])
        self.assertEqual(run.used_between(0.9, 2.8), (50, 2))
        self.assertEqual(run.most_anonymous_between(0.9, 2.8), 7)
        self.assertIsNone(run.most_anonymous_between(4, 5))


if __name__ == "__main__":
    unittest.main(verbosity=2)
