#include "cli/plan_report.h"

#include <algorithm>
#include <cmath>
#include <format>
#include <iterator>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/units.h"
#include "wire/text.h"

namespace hearth::cli {
namespace {

// Less than this is not worth saying.
constexpr double kWorthSaying = 0.02;
// How many things that would help are named, the best first.
constexpr std::size_t kMostHelp = 4;
constexpr std::size_t kMostName = 128;  // bytes of a model's name, which is anybody's text

bool uses_gpus(const plan::Proposal& made) {
  return std::ranges::any_of(made.prediction.devices,
                             [](const plan::DeviceUse& use) { return use.n_gpu_layers > 0; });
}

std::string ranges_of(const plan::Plan& plan, std::uint16_t device) {
  std::string text;
  for (const std::uint16_t step : plan.steps_of(device)) {
    const plan::LayerRange range = plan.steps[step].layers;
    std::format_to(std::back_inserter(text), "{}{}", text.empty() ? "" : ",", range.begin);
    if (range.size() > 1) std::format_to(std::back_inserter(text), "-{}", range.end - 1);
  }
  return text;
}

std::string seconds_text(double s) {
  return s < 1 ? std::format("{:.3g} ms", s * 1e3) : std::format("{:.3g} s", s);
}

std::string change(double from, double to) {
  return std::format("{} ({}{:.0f} %)", seconds_text(to), to < from ? "-" : "+",
                     std::abs(to / from - 1) * 100);
}

std::string limit_text(const PlanReport& report) {
  const plan::Prediction& made = report.proposal.prediction;
  const std::string& name = report.ring.devices[made.limited_by].name;
  switch (made.limit) {
    case plan::Limit::kDisk:
      return std::format("the disk of {} limits it", name);
    case plan::Limit::kLink:
      return "the links limit it";
    case plan::Limit::kComputing:
      return std::format("computing limits it, most of it on {}", name);
  }
  return "";
}

constexpr const char* kLimits[] = {"computing", "disk", "link"};

const char* of_device(const plan::DeviceUse& use) {
  return use.n_visits == 0 ? "left out" : kLimits[static_cast<int>(use.limit)];
}

// What it takes of what it lends.
std::string memory_text(const plan::DeviceProfile& device, const plan::DeviceUse& use) {
  const std::uint64_t all = use.buffer_bytes + use.kv_bytes + use.weight_bytes - use.gpu_weight_bytes;
  return std::format("{} of {}", format_bytes(std::min(all, device.memory_bytes)),
                     format_bytes(device.memory_bytes));
}

std::vector<std::pair<double, std::string>> what_would_help(const PlanReport& report) {
  const double now = report.proposal.prediction.period_s;
  std::vector<std::pair<double, std::string>> all;
  for (std::size_t m = 0; m < report.alternatives.size(); ++m) {
    const plan::Alternatives& other = report.alternatives[m];
    const std::string& name = report.ring.devices[m].name;
    const auto consider = [&](const std::optional<double>& s, std::string what) {
      if (s && *s < (1 - kWorthSaying) * now) all.emplace_back(*s, std::move(what));
    };
    consider(other.with_more_memory_s, std::format("{} more memory on {}", "1 GiB", name));
    consider(other.with_faster_disk_s, std::format("a disk twice as fast in {}", name));
    consider(other.with_faster_links_s, std::format("links of {} twice as fast", name));
  }
  std::ranges::sort(all);
  if (all.size() > kMostHelp) all.resize(kMostHelp);
  return all;
}

}  // namespace

std::string describe(const PlanReport& report) {
  const plan::Proposal& made = report.proposal;
  const plan::Prediction& predicted = made.prediction;
  const plan::ModelProfile& model = report.ring.model;
  const std::uint32_t users = report.request.traffic.users;
  const auto in_ring =
      std::ranges::count_if(predicted.devices, [](const auto& use) { return use.n_visits > 0; });
  std::string text;
  const auto line = std::back_inserter(text);
  std::format_to(line, "{}: {} layers, {} of weights, KV cache {}\n",
                 model.name.empty() ? "model" : wire::to_printable(model.name, kMostName), model.n_layer(),
                 format_bytes(model.weight_bytes()), format_bytes(model.kv_bytes * model.n_layer()));
  std::format_to(line, "{} of {} device{}, {} round{}: {} a token, {:.3g} tokens/s{}{}\n", in_ring,
                 predicted.devices.size(), predicted.devices.size() == 1 ? "" : "s", made.rounds,
                 made.rounds == 1 ? "" : "s", seconds_text(predicted.period_s), users / predicted.period_s,
                 users > 1 ? std::format(" for {} users", users) : "",
                 std::isfinite(predicted.ttft_s)
                     ? std::format("; first token of a prompt of {} after {}",
                                   report.request.traffic.prompt_tokens, seconds_text(predicted.ttft_s))
                     : "");
  std::format_to(line, "{}\n", limit_text(report));
  if (made.any_assumed())
    std::format_to(line, "not all of it was measured ({}): these times are guesses\n",
                   made.links_assumed && in_ring > 1 ? "links are assumed" : "rates are assumed, see below");
  if (uses_gpus(made)) std::format_to(line, "{}\n", kGpusAreToCome);
  for (std::size_t m = 0; users > 1 && m < predicted.devices.size(); ++m) {
    const auto& passes = report.ring.devices[m].cpu.passes;
    if (predicted.devices[m].n_visits > 0 && !passes.empty() && passes.back().n_tokens < users)
      std::format_to(line,
                     "how long {} takes for {} tokens at once is not known: in proportion to the tokens is "
                     "assumed, it is less\n",
                     report.ring.devices[m].name, users);
  }
  text += '\n';
  std::size_t width = 8;
  for (const plan::DeviceProfile& device : report.ring.devices) width = std::max(width, device.name.size());
  std::format_to(line, "{:<{}}  {:>6} {:>4}  {:>17}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {}\n", "device",
                 width, "layers", "GPU", "memory", "streamed", "computes", "disk", "waits", "passes on",
                 "limit");
  for (std::uint16_t m = 0; m < predicted.devices.size(); ++m) {
    const plan::DeviceUse& use = predicted.devices[m];
    std::format_to(line, "{:<{}}  {:>6} {:>4}  {:>17}  {:>9}  {:>9}  {:>9}  {:>9}  {:>9}  {}{}\n",
                   report.ring.devices[m].name, width, use.n_layers, use.n_gpu_layers,
                   use.n_visits == 0 ? "" : memory_text(report.ring.devices[m], use),
                   format_bytes(use.streamed_bytes), seconds_text(use.computing_s), seconds_text(use.disk_s),
                   seconds_text(use.waiting_s), seconds_text(use.hops_s), of_device(use),
                   m < made.assumed.size() && made.assumed[m] ? ", assumed rates" : "");
  }
  text += '\n';
  for (std::uint16_t m = 0; m < predicted.devices.size(); ++m)
    if (predicted.devices[m].n_layers > 0)
      std::format_to(line, "{:<{}}  layers {}\n", report.ring.devices[m].name, width,
                     ranges_of(made.plan, m));
  if (!report.request.windows.empty())
    return text + "the windows are yours; without --layer-window the best are found\n";
  for (std::size_t m = 0; m < report.alternatives.size(); ++m) {
    const plan::Alternatives& other = report.alternatives[m];
    const std::string& name = report.ring.devices[m].name;
    if (predicted.devices[m].n_layers == 0) {
      if (report.request.excludes(m))
        std::format_to(line, "{} has no layers: you excluded it\n", name);
      else if (other.with_it_s && std::isinf(*other.with_it_s))
        std::format_to(line, "{} has no layers: with one the first token would come too late\n", name);
      else if (other.with_it_s)
        std::format_to(line, "{} has no layers: with one a token would take {}{}\n", name,
                       change(predicted.period_s, *other.with_it_s),
                       *other.with_it_s < predicted.period_s ? ", not worth another device" : "");
      else
        std::format_to(line, "{} has no layers: its memory does not hold one\n", name);
    } else if (m > 0 && !other.without_it_s) {
      std::format_to(line, "{} is needed: the others do not hold the model without it\n", name);
    } else if (m > 0 && std::isinf(*other.without_it_s)) {
      std::format_to(line, "{} is needed: without it the first token would come too late\n", name);
    } else if (m > 0 && *other.without_it_s > (1 + kWorthSaying) * predicted.period_s) {
      std::format_to(line, "without {} a token would take {}\n", name,
                     change(predicted.period_s, *other.without_it_s));
    }
  }
  for (const auto& [s, what] : what_would_help(report))
    std::format_to(line, "{}: {} a token\n", what, change(predicted.period_s, s));
  return text;
}

nlohmann::ordered_json to_json(const PlanReport& report) {
  const plan::Proposal& made = report.proposal;
  const plan::Prediction& predicted = made.prediction;
  nlohmann::ordered_json j = {
      {"model", report.ring.model.name},
      {"n_layer", made.plan.n_layer},
      {"rounds", made.rounds},
      {"batch_tokens", made.n_ubatch},
      {"users", report.request.traffic.users},
      {"tpot_s", predicted.period_s},
      {"ttft_s", std::isfinite(predicted.ttft_s) ? nlohmann::ordered_json(predicted.ttft_s)
                                                 : nlohmann::ordered_json(nullptr)},
      {"prompt_tokens", report.request.traffic.prompt_tokens},
      {"solver_s",
       made.optimum ? nlohmann::ordered_json(made.optimum->period_s) : nlohmann::ordered_json(nullptr)},
      {"limit",
       {{"kind", kLimits[static_cast<int>(predicted.limit)]},
        {"device", predicted.limit == plan::Limit::kLink ? nlohmann::ordered_json(nullptr)
                                                         : nlohmann::ordered_json(predicted.limited_by)}}},
      {"assumed_rates", made.any_assumed()},
      {"runnable", !uses_gpus(made)}};
  auto& steps = j["steps"] = nlohmann::ordered_json::array();
  for (const plan::Step& step : made.plan.steps)
    steps.push_back({{"device", step.device}, {"begin", step.layers.begin}, {"end", step.layers.end}});
  auto& devices = j["devices"] = nlohmann::ordered_json::array();
  for (std::size_t m = 0; m < predicted.devices.size(); ++m) {
    const plan::DeviceUse& use = predicted.devices[m];
    nlohmann::ordered_json device = {{"name", report.ring.devices[m].name},
                                     {"layers", use.n_layers},
                                     {"gpu_layers", use.n_gpu_layers},
                                     {"visits", use.n_visits},
                                     {"limit", of_device(use)},
                                     {"memory_bytes", report.ring.devices[m].memory_bytes},
                                     {"weight_bytes", use.weight_bytes},
                                     {"gpu_weight_bytes", use.gpu_weight_bytes},
                                     {"kv_bytes", use.kv_bytes},
                                     {"buffer_bytes", use.buffer_bytes},
                                     {"streamed_bytes_per_token", use.streamed_bytes},
                                     {"slot_bytes", use.slot_bytes},
                                     {"computing_s", use.computing_s},
                                     {"waiting_s", use.waiting_s},
                                     {"disk_s", use.disk_s},
                                     {"hops_s", use.hops_s}};
    if (m < report.alternatives.size()) {
      const plan::Alternatives& other = report.alternatives[m];
      const auto add = [&](const char* key, const std::optional<double>& s) {
        if (s && std::isfinite(*s)) device[key] = *s;
      };
      add("with_it_s", other.with_it_s);
      add("without_it_s", other.without_it_s);
      add("with_more_memory_s", other.with_more_memory_s);
      add("with_faster_disk_s", other.with_faster_disk_s);
      add("with_faster_links_s", other.with_faster_links_s);
    }
    devices.push_back(std::move(device));
  }
  return j;
}

}  // namespace hearth::cli
