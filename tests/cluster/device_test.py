"""How a device computes: with its GPU (Vulkan in software here), and how it gives way to other programs."""

import glob
import os
import re
import unittest

from ring import MODEL, PATIENCE, Process, Ring, alone

QUESTION = ("-p", "Tell me a story about a fox and a lamp.")
EXIT_USAGE, EXIT_MEMORY = 2, 4

# ggml takes a software device only when it is told to; its cooperative matrices compute wrongly (docs/reference/gpu.md).
WITH_GPU = {"GGML_VK_VISIBLE_DEVICES": "0", "GGML_VK_DISABLE_COOPMAT": "1"}
WITHOUT_GPU = {"GGML_VK_VISIBLE_DEVICES": ""}


class Gpu(unittest.TestCase):
    def run_alone(self, *arguments, environment=None, code=0):
        process = Process(*arguments, environment=environment or WITH_GPU)
        self.addCleanup(process.end)
        self.assertEqual(process.wait(), code, process.err.text())
        return process

    def ask(self, *arguments, **options):
        return self.run_alone("run", "-m", MODEL, "-t", "1", "--temp", "0", "-c", "1024", "-v", *QUESTION, *arguments, **options)

    def test_devices_are_listed(self):
        for verb in ("run", "worker", "bench"):
            listed = self.run_alone(verb, "--list-devices").out.text()
            self.assertRegex(listed, r"^Vulkan0: .+, [0-9.]+ GB of [0-9.]+ GB free$")
        self.assertIn("no GPU", self.run_alone("run", "--list-devices", environment=WITHOUT_GPU).out.text())

    def test_alone(self):
        expected = alone(*QUESTION, "-n", "40")[1]
        for layers, own in (("all", 8), ("9", 8), ("5", 4), ("1", 0), ("auto", 8)):
            asked = self.ask("-ngl", layers, "-n", "40")
            self.assertEqual(asked.out.text(), expected)
            self.assertRegex(asked.err.text(), f"its GPU has +{own} of these layers and the output head: [0-9.]+ MB")
        self.assertNotIn("its GPU", self.ask("-ngl", "0").err.text())

    def test_in_a_ring(self):
        expected = alone(*QUESTION, "-n", "40")[1]
        with Ring(1) as ring:
            ring.add_worker("w2", environment=WITH_GPU)
            for head in (WITH_GPU, WITHOUT_GPU):
                run = ring.run(*QUESTION, "-n", "40", "-lw", "3,2,3", environment=head)
                self.assertEqual(run.wait(), 0, run.err.text())
                self.assertEqual(run.out.text(), expected)
                devices = re.findall(r"its GPU has +([0-9]+) of these layers", run.err.text())
                self.assertEqual(devices, ["3", "3"] if head is WITH_GPU else ["3"])

    def test_what_does_not_fit_is_said_before_anything_is_taken(self):
        refused = self.ask("-ngl", "all", "--gpu-memory", "20MiB", code=EXIT_MEMORY).err.text()
        self.assertRegex(refused, r"takes [0-9.]+ MB of its memory, 21.0 MB may be used; -ngl [1-8] would fit")
        fits = re.search(r"-ngl ([1-8]) would fit", refused)[1]
        self.ask("-ngl", fits, "--gpu-memory", "20MiB", "-n", "3")
        self.ask("-ngl", str(int(fits) + 1), "--gpu-memory", "20MiB", code=EXIT_MEMORY)
        self.assertNotIn("its GPU", self.ask("--gpu-memory", "1MiB", "-n", "3").err.text())

    def test_what_is_wrong_is_said(self):
        self.assertIn("there is no GPU 'CUDA0' here; there are: Vulkan0",
                      self.ask("--device", "CUDA0", code=EXIT_USAGE).err.text())
        self.assertIn("there is no GPU", self.ask("-ngl", "3", environment=WITHOUT_GPU, code=EXIT_USAGE).err.text())
        for layers in ("many", "0x10", "-1", "4294967296"):
            self.assertIn(f"expected a number of layers, auto or all, got '{layers}'",
                          self.ask(f"--gpu-layers={layers}", code=EXIT_USAGE).err.text())
        self.assertIn("--gpu-memory", self.ask("--gpu-memory", "lots", code=EXIT_USAGE).err.text())

    def test_keys_and_values_and_shifts(self):
        for flags in (("-ctk", "q8_0", "-ctv", "q8_0"), ("--no-flash-attn",), ("--no-flash-attn", "-ctk", "q8_0")):
            expected = self.ask("-ngl", "0", *flags, "-n", "24").out.text()
            asked = self.ask("-ngl", "all", *flags, "-n", "24")
            self.assertEqual(asked.out.text(), expected)
        self.assertIn("layers 0-7: computed by the processor, Vulkan0 has no MUL_MAT of q8_0 of these sizes", asked.err.text())
        self.assertIn("its GPU has 0 of these layers and the output head", re.sub(" +", " ", asked.err.text()))
        shifted = self.run_alone("run", "-m", MODEL, "-t", "1", "--temp", "0", "-c", "64", "-ngl", "5", "--context-shift",
                                 "--ignore-eos", "-n", "90", "-v", *QUESTION)
        self.assertRegex(shifted.err.text(), "context shifted [0-9]+ times?")


class Priority(unittest.TestCase):
    def niceness(self, process):
        """Of all its threads."""
        found = set()
        for path in glob.glob(f"/proc/{process.pid}/task/*/stat"):
            with open(path, encoding="utf-8") as stat:
                found.add(int(stat.read().rsplit(")", 1)[1].split()[16]))
        return found

    def test_other_programs_come_first(self):
        own = os.getpriority(os.PRIO_PROCESS, 0)
        with Ring(1) as ring:
            self.assertEqual(self.niceness(ring.workers[0]), {max(own, 5)})

    def test_normal(self):
        own = os.getpriority(os.PRIO_PROCESS, 0)
        with Ring(0) as ring:
            worker = ring.start("worker", "-m", MODEL, "--key", ring.head_key, "--allow", ring.head_public, "--prio", "normal")
            worker.out.wait_for("@", patience=PATIENCE)
            self.assertEqual(self.niceness(worker), {own})


if __name__ == "__main__":
    unittest.main()
