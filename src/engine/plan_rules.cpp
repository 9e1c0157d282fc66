#include "engine/plan_rules.h"

#include <algorithm>
#include <format>
#include <set>
#include <string_view>
#include <utility>

#include "wire/limits.h"

namespace hearth::engine {

namespace {

Result<> check_members(const wire::Prepare& plan) {
  if (plan.members.empty() || plan.members.size() > wire::kMaxMembers)
    return fail(ErrorCode::kProtocol, "the plan has {} members, expected 1 to {}", plan.members.size(),
                wire::kMaxMembers);
  std::set<DeviceKey> keys;
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < plan.members.size(); ++i) {
    const wire::Member& member = plan.members[i];
    if (!keys.insert(member.key).second)
      return fail(ErrorCode::kProtocol, "the plan names the key {} twice, the second time for {}",
                  member.key.short_hex(), member.name);
    if (!names.insert(member.name).second)
      return fail(ErrorCode::kProtocol, "the plan has two members called {}", member.name);
    // The head's address is the one its Hello gave.
    if (i > 0 &&
        (member.address.host.empty() || member.address.control_port == 0 || member.address.data_port == 0))
      return fail(ErrorCode::kProtocol, "the plan says that {} is at \"{}\" ports {} and {}", member.name,
                  member.address.host, member.address.control_port, member.address.data_port);
  }
  return {};
}

Result<> check_steps(const wire::Prepare& plan) {
  if (plan.steps.empty() || plan.steps.size() > wire::kMaxSteps)
    return fail(ErrorCode::kProtocol, "the plan has {} steps, expected 1 to {}", plan.steps.size(),
                wire::kMaxSteps);
  std::uint32_t next_layer = 0;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const wire::StepSpec& step = plan.steps[i];
    if (step.device >= plan.members.size())
      return fail(ErrorCode::kProtocol, "step {} of the plan is on device {}, there are {}", i, step.device,
                  plan.members.size());
    if (step.layer_begin != next_layer || step.layer_end <= step.layer_begin || step.layer_end > plan.n_layer)
      return fail(ErrorCode::kProtocol,
                  "step {} of the plan is layers [{}, {}), expected it to begin at {} of {}", i,
                  step.layer_begin, step.layer_end, next_layer, plan.n_layer);
    next_layer = step.layer_end;
  }
  if (next_layer != plan.n_layer)
    return fail(ErrorCode::kProtocol, "the steps of the plan end at layer {}, the model has {}", next_layer,
                plan.n_layer);
  return {};
}

// The device that works on step i; the output stage, after the last, is the head's.
std::uint16_t device_of(const wire::Prepare& plan, std::size_t step) {
  return step < plan.steps.size() ? plan.steps[step].device : std::uint16_t{0};
}

}  // namespace

Result<> validate_prepare(const wire::Prepare& plan) {
  if (plan.epoch == 0) return fail(ErrorCode::kProtocol, "the plan has epoch 0, epochs begin at 1");
  if (plan.n_layer == 0 || plan.n_layer > wire::kMaxLayers)
    return fail(ErrorCode::kProtocol, "the plan has {} layers, expected 1 to {}", plan.n_layer,
                wire::kMaxLayers);
  if (plan.n_ctx == 0 || plan.n_ctx > wire::kMaxContext)
    return fail(ErrorCode::kProtocol, "the plan has a context of {}, expected 1 to {}", plan.n_ctx,
                wire::kMaxContext);
  if (plan.n_ubatch == 0 || plan.n_ubatch > wire::kMaxBatchTokens)
    return fail(ErrorCode::kProtocol, "the plan has batches of {} tokens, expected 1 to {}", plan.n_ubatch,
                wire::kMaxBatchTokens);
  HEARTH_TRY_VOID(check_members(plan));
  return check_steps(plan);
}

std::optional<std::uint16_t> member_index(const wire::Prepare& plan, const DeviceKey& key) {
  const auto found = std::ranges::find(plan.members, key, &wire::Member::key);
  if (found == plan.members.end()) return std::nullopt;
  return static_cast<std::uint16_t>(found - plan.members.begin());
}

std::vector<std::uint16_t> receivers_of(const wire::Prepare& plan, std::uint16_t device) {
  std::set<std::uint16_t> to;
  if (device == 0) to.insert(device_of(plan, 0));
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    if (plan.steps[i].device == device) to.insert(device_of(plan, i + 1));
  to.erase(device);
  return {to.begin(), to.end()};
}

std::vector<std::uint16_t> senders_to(const wire::Prepare& plan, std::uint16_t device) {
  std::set<std::uint16_t> from;
  if (device_of(plan, 0) == device) from.insert(0);
  for (std::size_t i = 0; i < plan.steps.size(); ++i)
    if (device_of(plan, i + 1) == device) from.insert(plan.steps[i].device);
  from.erase(device);
  return {from.begin(), from.end()};
}

std::uint32_t batches_to_keep_busy(std::size_t n_steps) {
  return static_cast<std::uint32_t>(std::clamp<std::size_t>(n_steps + 1, 2, 16));
}

std::string describe_device(const wire::Prepare& plan, std::uint16_t device) {
  std::string layers;
  for (const wire::StepSpec& step : plan.steps) {
    if (step.device != device) continue;
    if (!layers.empty()) layers += ", ";
    layers += step.layer_end - step.layer_begin == 1
                  ? std::format("{}", step.layer_begin)
                  : std::format("{}-{}", step.layer_begin, step.layer_end - 1);
  }
  return std::format("{} of {} (context {})", layers.empty() ? "no layers" : "layers " + layers, plan.n_layer,
                     plan.n_ctx);
}

Result<wire::Prepare> make_prepare(std::uint32_t epoch, const wire::ModelId& model, const plan::Plan& plan,
                                   const EpochOptions& options, std::vector<wire::Member> members) {
  wire::Prepare message{.epoch = epoch,
                        .model = model,
                        .n_layer = plan.n_layer,
                        .n_ctx = options.n_ctx,
                        .n_ubatch = options.n_ubatch,
                        .n_seq = options.n_seq,
                        .kv_type = options.kv_type,
                        .hidden = options.hidden,
                        .hidden_always = options.hidden_always,
                        .repack = options.repack,
                        .flash_attention = options.flash_attention,
                        .members = std::move(members),
                        .steps = {}};
  for (const plan::Step& step : plan.steps)
    message.steps.push_back(
        {.device = step.device, .layer_begin = step.layers.begin, .layer_end = step.layers.end});
  if (auto valid = validate_prepare(message); !valid)
    return fail(ErrorCode::kInvalidArgument, "{}", valid.error().message);
  return message;
}

}  // namespace hearth::engine
