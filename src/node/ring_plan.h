// What a head decides before its ring starts: which layers go where, in how many rounds, and how many tokens
// are computed at once.
//
// Where everything fits, layers go in proportion to memory, in one round. Where it does not, devices stream
// (residency), and layers go where the slowest disk has least to read; then batches are smaller, because
// their buffers cost pins and layer-major prefill reads streamed bytes once whatever the batch, and the
// number of rounds is the best one by plan/rounds.h.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "model/model_file.h"
#include "plan/plan.h"
#include "plan/rounds.h"
#include "wire/messages.h"

namespace hearth::node {

// Most tokens computed at once, where the user does not say and everything fits, and where devices stream.
inline constexpr std::uint32_t kBatch = 512;
inline constexpr std::uint32_t kStreamingBatch = 128;
inline constexpr std::uint32_t kLeastBatch =
    32;  // where the buffers of larger ones leave nothing for weights
// Of a link whose time was not measured: Wi-Fi at home.
inline constexpr double kAssumedHopS = 0.003;
// Of a disk that could not be measured, where no other one could: a hard disk or a memory card.
inline constexpr std::uint64_t kAssumedDiskBytesPerS = 100'000'000;

struct RingDevice {
  std::string name;
  std::uint64_t memory_bytes = 0;
  // Asked only when it matters.
  std::function<plan::DeviceRates()> rates;
};

struct RingRequest {
  std::uint32_t n_ctx = 0;
  wire::KvType kv_type = wire::KvType::kF16;
  bool flash_attention = true;
  std::uint32_t max_outputs = 1;       // most rows of logits in one batch
  std::uint32_t n_ubatch = 0;          // 0: by memory
  std::uint32_t rounds = 0;            // 0: the best; with windows: as many as they need
  std::vector<std::uint32_t> windows;  // layers per round and device; empty: by memory
};

struct RingPlan {
  plan::Plan plan;
  std::uint32_t n_ubatch = 0;
  std::uint32_t rounds = 1;
  bool streams = false;  // some device does
  double period_s = 0;   // a token's, predicted; 0: nothing streams, or rates were not asked or not measured
};

// devices[0] is the head. kInvalidArgument: windows that do not fit the ring. kOutOfMemory: not even
// streaming has room, with the numbers of each device.
[[nodiscard]] Result<RingPlan> plan_ring(const model::ModelFile& model, const RingRequest& request,
                                         const std::vector<RingDevice>& devices);

}  // namespace hearth::node
