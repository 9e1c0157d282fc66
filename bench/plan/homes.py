"""The homes that plans are tried on: emulated devices of this machine. Memory is in shares of the weights."""

GIGABIT = {"link_mbit_s": 1000}
WIFI = {"link_mbit_s": 300, "delay_ms": 2, "jitter_ms": 1}
SLOW_WIFI = {"link_mbit_s": 50, "delay_ms": 5, "jitter_ms": 2}


def device(name, memory, cores, disk, link=None):
    return {"name": name, "memory": f"{memory} %", "cores": cores, "disk_mb_s": disk, **(link or GIGABIT)}


# name: (what it is, devices, the first is the head)
ACCURACY = {
    "roomy-pair": ("two devices, all fits one", [device("a", 150, 1, 500), device("b", 150, 0.5, 500)]),
    "joint-trio": ("three of different speed, all fits together only", [
        device("a", 50, 1, 500), device("b", 50, 0.5, 300), device("c", 50, 0.3, 300)]),
    "wifi-trio": ("three on Wi-Fi, all fits together only", [
        device("a", 50, 0.6, 300, WIFI), device("b", 50, 0.6, 300, WIFI), device("c", 50, 0.6, 300, WIFI)]),
    "ssd-alone": ("one device, 50 % memory, 500 MB/s", [device("a", 50, 1, 500)]),
    "pair-70": ("two devices, 70 % together, 300 MB/s", [device("a", 35, 1, 300), device("b", 35, 1, 300)]),
    "four-60": ("four devices, 60 % together, 150 MB/s", [device(name, 15, 0.5, 150) for name in "abcd"]),
    "slow-links": ("two devices, 80 %, 50 Mbit/s with 5 ms", [
        device("a", 40, 1, 200, SLOW_WIFI), device("b", 40, 1, 200, SLOW_WIFI)]),
    "uneven-50": ("three unequal devices, 51 %, 100 to 400 MB/s", [
        device("a", 25, 1, 400), device("b", 13, 0.5, 200, WIFI), device("c", 13, 0.5, 100, WIFI)]),
    "pair-30": ("two devices, 30 % together, 200 and 400 MB/s", [device("a", 17, 1, 400), device("b", 13, 1, 200)]),
}

BASELINES = {
    "fast-and-weak": ("a fast device that holds nearly all, a weak one behind a slow link", [
        device("a", 130, 1, 500), device("weak", 130, 0.1, 100, SLOW_WIFI)]),
    "speeds": ("three with the same memory and different speeds", [
        device("a", 70, 1, 300), device("b", 70, 0.5, 300), device("c", 70, 0.2, 300)]),
    "disks": ("the same memory, disks of 50, 200 and 400 MB/s, 60 % together", [
        device("a", 20, 0.6, 200), device("b", 20, 0.6, 50), device("c", 20, 0.6, 400)]),
    "memories": ("memory of 50, 20 and 13 %, the same disks", [
        device("a", 20, 0.6, 200), device("b", 50, 0.6, 200), device("c", 13, 0.6, 200)]),
    "mixed-wifi": ("unequal in all, on Wi-Fi, 78 % together", [
        device("a", 40, 1, 400, WIFI), device("b", 25, 0.5, 200, WIFI), device("c", 13, 0.3, 100, SLOW_WIFI)]),
    "slow-head": ("a slow head with little memory, two strong workers", [
        device("a", 25, 0.3, 150, WIFI), device("b", 60, 0.8, 300), device("c", 60, 0.8, 300)]),
}
