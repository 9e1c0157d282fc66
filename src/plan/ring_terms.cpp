#include "plan/ring_terms.h"

#include <algorithm>

#include "base/result.h"

namespace hearth::plan {
namespace {

bool slots_suffice(std::uint64_t streamed, std::uint64_t slots) {
  return streamed == 0 || slots >= kLeastSlots;
}

// Those that a device does not wait for hold what one visit uploads, and one more.
bool hold_a_visit(std::uint64_t uploaded, std::uint64_t slots, std::uint32_t rounds) {
  return uploaded == 0 || std::uint64_t{rounds} * slots >= uploaded + rounds;
}

std::uint64_t beyond(std::uint64_t streamed, std::uint64_t slots) {
  return streamed - std::min(streamed, slots);
}

// Units of weights that RAM would have to hold if nothing was streamed from the disk.
std::uint64_t ram_units(const RingTerms& terms, std::size_t device, const DeviceShare& share) {
  const std::uint64_t output = device == 0 ? terms.output_units : 0;
  if (terms.devices[device].unified) return std::uint64_t{terms.units} * share.layers() + output;
  return std::uint64_t{terms.units} * share.cpu_layers + output + share.uploaded;
}

}  // namespace

std::optional<std::uint64_t> RingTerms::units_in(std::uint64_t bytes, std::uint32_t n_layers) const {
  const std::uint64_t kv = kv_bytes * n_layers;
  if (kv > bytes) return std::nullopt;
  return (bytes - kv) * units / layer_bytes;
}

double stage_s(const RingTerms& terms, std::size_t device, const DeviceShare& share, std::uint32_t rounds) {
  const DeviceTerms& own = terms.devices[device];
  const double computing =
      own.cpu_s * share.cpu_layers + own.gpu_s * share.gpu_layers + (device == 0 ? terms.output_s : 0);
  if (share.every_round) {
    const std::uint64_t before_visits = rounds * (std::max(share.slots, std::uint64_t{1}) - 1);
    return std::max(computing, terms.units_s(own.disk_s, beyond(share.streamed, before_visits)));
  }
  return std::max({computing, terms.units_s(own.disk_s, beyond(share.streamed, share.slots)),
                   terms.units_s(own.upload_s, beyond(share.uploaded, share.gpu_slots))});
}

double chain_s(const RingTerms& terms, std::size_t device, const DeviceShare& share, std::uint32_t rounds) {
  if (share.layers() == 0 && device != 0) return 0;
  return stage_s(terms, device, share, rounds) +
         terms.devices[device].hop_s * (share.every_round ? rounds : 1);
}

double transfer_s(const RingTerms& terms, std::size_t device, const DeviceShare& share) {
  const DeviceTerms& own = terms.devices[device];
  return std::max(terms.units_s(own.disk_s, share.streamed), terms.units_s(own.upload_s, share.uploaded));
}

double period_s(const RingTerms& terms, std::span<const DeviceShare> shares, std::uint32_t rounds) {
  HEARTH_CHECK(shares.size() == terms.devices.size());
  double transfer = 0;
  const bool alone =
      std::ranges::all_of(shares.subspan(1), [](const DeviceShare& s) { return s.layers() == 0; });
  double chain = alone ? stage_s(terms, 0, shares[0], rounds) : chain_s(terms, 0, shares[0], rounds);
  for (std::size_t m = 0; m < shares.size(); ++m) {
    if (m > 0) chain += chain_s(terms, m, shares[m], rounds);
    transfer = std::max(transfer, transfer_s(terms, m, shares[m]));
  }
  return std::max(chain, transfer);
}

bool take_turns(std::span<const DeviceShare> shares) {
  return std::ranges::count_if(shares, &DeviceShare::every_round) != 1;
}

bool fits(const RingTerms& terms, std::size_t device, const DeviceShare& share, std::uint32_t rounds) {
  const DeviceTerms& own = terms.devices[device];
  if (share.every_round && share.layers() < rounds) return false;
  if (!slots_suffice(share.streamed, share.slots) || !slots_suffice(share.uploaded, share.gpu_slots))
    return false;
  if (share.every_round && !hold_a_visit(share.uploaded, share.gpu_slots, rounds)) return false;
  const std::uint64_t all = ram_units(terms, device, share);
  const auto ram = terms.units_in(own.ram_bytes, own.unified ? share.layers() : share.cpu_layers);
  if (!ram || share.streamed > all || all - share.streamed + share.slots > *ram) return false;
  if (own.unified) return share.uploaded == 0 && share.gpu_slots == 0;
  if (share.gpu_layers == 0) return share.uploaded == 0 && share.gpu_slots == 0;
  const std::uint64_t on_gpu = std::uint64_t{terms.units} * share.gpu_layers;
  const auto vram = terms.units_in(own.vram_bytes, share.gpu_layers);
  return vram && share.uploaded <= on_gpu && on_gpu - share.uploaded + share.gpu_slots <= *vram;
}

}  // namespace hearth::plan
