"""hearth plan --what-if as people and scripts call it."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

HEARTH = os.environ["HEARTH_PROGRAM"]
MODEL = os.path.join(os.environ["HEARTH_MODELS"], "ember-q4_k_m.gguf")
EXAMPLES = pathlib.Path(os.environ["HEARTH_MODELS"]).parent / "examples"
PATIENCE = 120
EXIT_USAGE, EXIT_MODEL, EXIT_MEMORY = 2, 3, 4

# 20 layers of 12 * 1000^2 weights at 8 bits are 240 MB; the output head takes 10 MB.
SHAPE = {"name": "twenty", "layers": 20, "width": 1000, "feed_forward": 2666, "heads": 10, "kv_heads": 10,
         "head_width": 100, "vocabulary": 10000, "bits_per_weight": 8}


def device(name, memory, **others):
    return {"name": name, "memory": memory, "cpu": "10 GB/s", "disk": "1 GB/s", **others}


class Plan(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="hearth-test-")
        self.addCleanup(folder.cleanup)
        self.file = pathlib.Path(folder.name) / "home.json"

    def run_plan(self, *arguments, code=0):
        done = subprocess.run([HEARTH, "plan", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def write(self, devices, **others):
        self.file.write_text(json.dumps({"devices": devices, "models": [SHAPE], **others}))

    def one(self, *arguments):
        return json.loads(self.run_plan("--what-if", str(self.file), "--json", "-c", "256", *arguments).stdout)

    def refused(self, *arguments, code=EXIT_MODEL):
        return self.run_plan("--what-if", str(self.file), "-c", "256", *arguments, code=code).stderr

    def test_types_of_keys_and_values_that_heads_do_not_allow(self):
        self.write([device("a", "1 GB")])
        self.assertIn("twenty: the keys of this model have 100 values a head, q8_0 stores blocks of 32; use -ctk f16",
                      self.refused("-ctk", "q8_0"))
        self.assertIn("need flash attention", self.refused("-ctv", "q8_0", "--no-flash-attn", code=EXIT_USAGE))

    def test_windows_of_each_visit(self):
        self.write([device("a", "1 GB"), device("b", "1 GB")])
        plan = self.one("-lw", "5,3/4,0/0,8")
        self.assertEqual([d["layers"] for d in plan["devices"]], [9, 11])
        self.assertEqual(plan["rounds"], 3)
        self.assertIn("8 + 4 = 12 layers, expected the model's 20", self.refused("-lw", "5,3/4,0", code=EXIT_USAGE))
        self.assertIn("1 windows in round 2, expected 2", self.refused("-lw", "5,3/12", code=EXIT_USAGE))

    def test_what_fits_one_device_takes_its_computing(self):
        self.write([device("a", "1 GB"), device("b", "1 GB")])
        plan = self.one()
        self.assertEqual([d["layers"] for d in plan["devices"]], [20, 0])
        # 20 layers of (4 * 1000 * 1000 + 3 * 1000 * 2666) bytes and 10 MB at 10 GB/s.
        self.assertAlmostEqual(plan["tpot_s"], (20 * 11.998e6 + 10e6) / 10e9, delta=1e-6)
        self.assertIsNone(plan["ttft_s"])  # a rate for one token says nothing of prompts

    def test_memory_forces_the_second(self):
        slow_link = {"latency": "5 ms", "rate": "8 Mbit/s"}
        self.write([device("a", "160 MB", disk="1 MB/s"), device("b", "1 GB", disk="1 MB/s")], link=slow_link)
        plan = self.one()
        self.assertGreater(plan["devices"][1]["layers"], 0)
        # 4,000 bytes at 1 MB/s and 5 ms, there and back.
        self.assertAlmostEqual(plan["tpot_s"], (20 * 11.998e6 + 10e6) / 10e9 + 2 * 0.009, delta=1e-4)
        # A link of one direction may be given alone.
        self.write([device("a", "160 MB", disk="1 MB/s"), device("b", "1 GB", disk="1 MB/s")], link=slow_link,
                   links=[{"from": "b", "to": "a", "latency": 0, "rate": "8 Gbit/s"}])
        self.assertAlmostEqual(self.one()["tpot_s"], (20 * 11.998e6 + 10e6) / 10e9 + 0.009, delta=1e-4)

    def test_flags_change_what_the_file_says(self):
        self.write([device("a", "1 GB"), device("b", "1 GB")])
        self.assertEqual([d["layers"] for d in self.one("--exclude", "a")["devices"]], [0, 20])
        self.assertEqual([d["layers"] for d in self.one("-lw", "2,8")["devices"]], [4, 16])
        self.assertEqual(self.one("--rounds", "2", "--memory", "a=160MB", "--memory", "b=160MB")["rounds"], 2)
        self.assertTrue(self.one("--memory", "a=100MB", "--memory", "b=100MB")["devices"][0]["streamed_bytes_per_token"])
        self.assertIn("the devices are a, b", self.refused("--exclude", "c", code=EXIT_USAGE))
        self.assertIn("is not NAME=SIZE", self.refused("--memory", "1GB", code=EXIT_USAGE))
        self.assertIn("a has no GPU", self.refused("--gpu-mem", "a=1GB", code=EXIT_USAGE))
        self.assertIn("names 1 devices, the ring has 2", self.refused("-lw", "20", code=EXIT_USAGE))
        self.assertIn("b is excluded (--exclude) and has a window of 10", self.refused("-lw", "10,10", "--exclude", "b", code=EXIT_USAGE))
        self.assertIn("every device is excluded", self.refused("--exclude", "a", "--exclude", "b", code=EXIT_USAGE))
        self.assertIn("a token of each of 64 users is more than a batch of 32", self.refused("--users", "64", "-ub", "32", code=EXIT_USAGE))
        self.assertIn("a token of each of 64 users is more than a batch of 32",
                      self.refused("-lw", "10,10", "--users", "64", "-ub", "32", code=EXIT_USAGE))
        self.assertIn("is not known", self.refused("--max-ttft", "1"))

    def test_what_is_not_known_of_users_is_said(self):
        self.write([device("a", "1 GB")])
        self.assertIn("how long a takes for 4 tokens at once is not known", self.text("--users", "4"))
        self.write([{**device("a", "1 GB"), "cpu": [{"tokens": 1, "rate": "10 GB/s"}, {"tokens": 4, "rate": "9 GB/s"}]}])
        self.assertNotIn("not known", self.text("--users", "4"))

    def text(self, *flags):
        done = self.run_plan("--what-if", str(self.file), *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_gpus_are_planned_on_request(self):
        gpu = {"name": "G", "memory": "200 MB", "compute": "100 GB/s", "upload": "5 GB/s"}
        self.write([device("a", "1 GB", gpu=gpu)])
        self.assertEqual(self.one()["devices"][0]["gpu_layers"], 0)
        self.assertTrue(self.one()["runnable"])
        self.assertGreater(self.one("--gpus")["devices"][0]["gpu_layers"], 5)
        self.assertFalse(self.one("--gpus")["runnable"])
        self.assertIn("which plans of a real ring do not count on yet", self.text("--gpus"))
        self.assertLess(self.one("--gpus", "--gpu-mem", "a=50MB")["devices"][0]["gpu_layers"], 4)

    def test_what_is_wrong_is_said_with_its_place(self):
        good = device("a", "1 GB")
        for devices, others, message in [
                ([], {}, "home.json.devices: expected a list of devices"),
                ([{**good, "memory": "lots"}], {}, "home.json.devices[0].memory: 'lots'"),
                ([{**good, "memory": -1}], {}, "home.json.devices[0].memory: expected a number up to"),
                ([{**good, "cpu": "10 GB"}], {}, "home.json.devices[0].cpu: '10 GB' is no rate"),
                ([{**good, "cpu": [{"tokens": 2, "rate": 1}, {"tokens": 1, "rate": 1}]}], {}, "by ascending tokens"),
                ([{**good, "cpus": 1}], {}, "home.json.devices[0]: unknown member 'cpus'"),
                ([good, good], {}, "there is a device 'a' already"),
                ([{"name": "a"}], {}, "home.json.devices[0].memory is missing"),
                ([good], {"link": {"latency": "3", "rate": 1}}, "home.json.link.latency: '3' is no duration"),
                ([good], {"links": [{"from": "x", "to": "a", "latency": 0, "rate": 1}]}, "there is no device 'x'"),
                ([good], {"models": [{**SHAPE, "layers": 0}]}, "home.json.models[0].layers: expected a whole number"),
                ([good], {"vary_rates": 2}, "home.json.vary_rates: expected a number"),
                ([{**good, "cpu": 1e-300}], {}, "home.json.devices[0].cpu: expected a rate from 1"),
                ([{**good, "name": "a\x1b[31m"}], {}, "home.json.devices[0].name: expected at most 64 bytes of printable"),
                ([good], {"models": [{**SHAPE, "layers": 1025}]}, "expected a whole number from 1 to 1024")]:
            self.write(devices, **others)
            with self.subTest(message=message):
                self.assertIn(message, self.refused())
        self.write([good], models=[{**SHAPE, "published": {"\x1b[2J": 1}}])
        self.assertIn("home.json.models[0].published: expected at most 64 bytes of printable", self.refused())
        # Deeper than any stack.
        self.file.write_text('{"devices": [' + "[" * 1_000_000 + "]" * 1_000_000 + "]}")
        self.assertIn("home.json.devices[0]: expected an object, got an array", self.refused())
        self.file.write_text("{\"devices\": [")
        self.assertIn("home.json is no JSON", self.refused())
        self.write([good], models=[])
        self.assertIn("describes no models", self.refused(code=EXIT_USAGE))

    def test_what_does_not_fit_says_what_is_missing(self):
        self.write([device("a", "3 MB"), device("b", "3 MB")])
        # 8 MiB of slots and some 4 MiB of buffers are more than anybody has.
        message = self.refused(code=EXIT_MEMORY)
        self.assertIn("a, the head, lends 3.0 MB and needs", message)
        self.assertIn("b lends 3.0 MB and needs", message)
        self.assertIn("(lacks ", message)
        self.assertRegex(message, r"MB more, lent by a, would do \(--memory\)")
        self.assertIn("the KV cache of 0 of 20 layers, 1.0 MB each", message)  # 256 * 2 * 1000 * 2 bytes

    def test_a_weak_device(self):
        weak = device("weak", "300 MB", cpu="1 GB/s", disk="100 MB/s")
        link = {"latency": "10 ms", "rate": "10 Mbit/s"}
        self.write([device("strong", "300 MB"), weak], link=link)
        text = self.run_plan("--what-if", str(self.file), "-c", "256").stdout
        self.assertRegex(text, r"weak has no layers: with one a token would take \d+\S* ms \(\+\d+ %\)")
        # 20 layers have 1 MB of KV cache each; 35 MB less buffers and slots hold that of some.
        self.write([device("strong", "35 MB", disk="50 MB/s"), {**weak, "memory": "60 MB"}], link=link)
        text = self.run_plan("--what-if", str(self.file), "-c", "256").stdout
        self.assertRegex(text, "weak is needed: the others do not hold the model without it|without weak a token would take")

    def test_the_examples(self):
        done = self.run_plan("-m", MODEL, "--what-if", str(EXAMPLES / "two-laptops.json"))
        self.assertIn("kitchen has no layers: with one a token would take", done.stdout)
        done = self.run_plan("--what-if", str(EXAMPLES / "two-laptops.json"))
        self.assertIn("Llama-3 8B: 32 layers", done.stdout)
        self.assertIn("without kitchen a token would take", done.stdout)
        rows = json.loads(self.run_plan("--what-if", str(EXAMPLES / "paper-cluster.json"), "--json").stdout)
        seventy, = [row for row in rows if row["model"] == "Llama-3 70B"]
        self.assertEqual(sum(d["layers"] for d in seventy["plan"]["devices"]), 80)
        self.assertGreater(seventy["tpot_s_at_rates_-20_percent"], seventy["tpot_s_at_rates_+20_percent"])
        self.assertEqual(seventy["published_tpot_s"]["prima"], 0.674)


if __name__ == "__main__":
    unittest.main()
