// Rules of a Prepare: is it a plan that can run, who am I in it, who sends to whom.
//
// Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/device_key.h"
#include "base/result.h"
#include "plan/plan.h"
#include "wire/messages.h"

namespace hearth::engine {

// kProtocol, naming field, expected and got: epoch 0; no members, a key or name twice; no steps, a step of no
// member, an empty, overlapping or missing layer range, steps that do not end at n_layer; n_ctx or n_ubatch 0
// or over the limits of wire.
[[nodiscard]] Result<> validate_prepare(const wire::Prepare& plan);

// The index of `key` among the members; nothing when it is none.
[[nodiscard]] std::optional<std::uint16_t> member_index(const wire::Prepare& plan, const DeviceKey& key);

// The other devices that `device` sends frames to, and that send frames to it; ascending, without itself.
// The head sends to the device of step 0, the device of the last step to the head.
[[nodiscard]] std::vector<std::uint16_t> receivers_of(const wire::Prepare& plan, std::uint16_t device);
[[nodiscard]] std::vector<std::uint16_t> senders_to(const wire::Prepare& plan, std::uint16_t device);

// How many batches a ring of so many steps wants at once: one for each step keeps every device busy while a
// prompt comes in, one more hides the way back to the head. More than 16 only wait.
[[nodiscard]] std::uint32_t batches_to_keep_busy(std::size_t n_steps);

// One line for logs: "layers 0-7, 16-23 of 32 (context 4096)".
[[nodiscard]] std::string describe_device(const wire::Prepare& plan, std::uint16_t device);

// What a plan means beyond its layers.
struct EpochOptions {
  std::uint32_t n_ctx = 4096;
  std::uint32_t n_ubatch = 512;
  std::uint16_t n_seq = 1;  // most sequences at a time
  wire::KvTypes kv_type = {};
  wire::HiddenEncoding hidden = wire::HiddenEncoding::kF32;
  bool hidden_always = false;  // also in frames so small that they would carry f32
  bool repack = true;
  bool flash_attention = true;
};

// The message that carries `plan`; members[i] is plan.devices[i]. Passes validate_prepare or is
// kInvalidArgument.
[[nodiscard]] Result<wire::Prepare> make_prepare(std::uint32_t epoch, const wire::ModelId& model,
                                                 const plan::Plan& plan, const EpochOptions& options,
                                                 std::vector<wire::Member> members);

}  // namespace hearth::engine
