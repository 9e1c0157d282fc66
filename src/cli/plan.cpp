#include <algorithm>
#include <cstdio>
#include <format>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/units.h"
#include "cli/console.h"
#include "cli/device_file.h"
#include "cli/plan_report.h"
#include "cli/verbs.h"
#include "node/model_profile.h"
#include "plan/planner.h"

namespace hearth::cli {
namespace {

struct Flags {
  std::string model;
  std::string what_if;
  std::uint32_t n_ctx = 4096;
  std::uint32_t n_ubatch = 0;
  std::string kv_type = "f16";
  std::string windows;
  std::uint32_t rounds = 0;
  std::vector<std::string> exclude;
  std::vector<std::string> memory;      // NAME=SIZE
  std::vector<std::string> gpu_memory;  // NAME=SIZE
  bool gpus = false;
  std::uint32_t users = 1;
  std::uint32_t prompt_tokens = 512;
  double max_ttft_s = 0;  // 0: any
  bool json = false;
};

Result<std::size_t> device_named(const DeviceFile& file, std::string_view flag, std::string_view name) {
  const auto at = std::ranges::find(file.devices, name, &plan::DeviceProfile::name);
  if (at != file.devices.end()) return static_cast<std::size_t>(at - file.devices.begin());
  std::string names;
  for (const plan::DeviceProfile& device : file.devices) names += (names.empty() ? "" : ", ") + device.name;
  return fail(ErrorCode::kInvalidArgument, "{} names '{}'; the devices are {}", flag, name, names);
}

// "NAME=SIZE" of each.
Result<> set_sizes(DeviceFile& file, std::string_view flag, const std::vector<std::string>& given, auto set) {
  for (const std::string& one : given) {
    const auto equals = one.rfind('=');
    if (equals == std::string::npos)
      return fail(ErrorCode::kInvalidArgument, "{} '{}' is not NAME=SIZE", flag, one);
    HEARTH_TRY(const std::size_t m, device_named(file, flag, std::string_view(one).substr(0, equals)));
    HEARTH_TRY(const std::uint64_t bytes, parse_bytes(std::string_view(one).substr(equals + 1)));
    HEARTH_TRY_VOID(set(file.devices[m], bytes));
  }
  return {};
}

Result<DeviceFile> devices_of(const Flags& flags) {
  HEARTH_TRY(DeviceFile file, read_device_file(flags.what_if));
  HEARTH_TRY_VOID(set_sizes(file, "--memory", flags.memory,
                            [](plan::DeviceProfile& device, std::uint64_t bytes) -> Result<> {
                              device.memory_bytes = bytes;
                              return {};
                            }));
  HEARTH_TRY_VOID(set_sizes(file, "--gpu-mem", flags.gpu_memory,
                            [](plan::DeviceProfile& device, std::uint64_t bytes) -> Result<> {
                              if (!device.gpu || device.gpu->unified)
                                return fail(ErrorCode::kInvalidArgument,
                                            "--gpu-mem: {} has no GPU with memory of its own", device.name);
                              device.gpu->memory_bytes = bytes;
                              return {};
                            }));
  return file;
}

Result<plan::PlanRequest> request_of(const Flags& flags, const DeviceFile& file) {
  plan::PlanRequest request = {.traffic = {.users = flags.users, .prompt_tokens = flags.prompt_tokens},
                               .rounds = flags.rounds};
  if (!flags.windows.empty()) {
    HEARTH_TRY(request.windows, parse_windows(flags.windows));
  }
  if (!flags.exclude.empty()) request.excluded.resize(file.devices.size(), false);
  for (const std::string& name : flags.exclude) {
    HEARTH_TRY(const std::size_t m, device_named(file, "--exclude", name));
    request.excluded[m] = true;
  }
  request.gpus = flags.gpus;
  if (flags.max_ttft_s > 0) request.max_ttft_s = flags.max_ttft_s;
  return request;
}

// All rates of a ring times a factor.
plan::RingProfile scaled(plan::RingProfile ring, double factor) {
  const auto scale = [&](plan::ComputeProfile& of) {
    for (plan::PassRate& pass : of.passes) pass.bytes_per_s *= factor;
  };
  for (plan::DeviceProfile& device : ring.devices) {
    scale(device.cpu);
    device.disk_bytes_per_s *= factor;
    if (!device.gpu) continue;
    scale(device.gpu->compute);
    device.gpu->upload_bytes_per_s *= factor;
  }
  for (auto& row : ring.links)
    for (plan::LinkProfile& link : row) {
      link.latency_s /= factor;
      link.bytes_per_s *= factor;
    }
  return ring;
}

std::string tpot_text(const Result<plan::Proposal>& made) {
  return made ? std::format("{:.0f}", made->prediction.period_s * 1e3) : std::string("none");
}

// A row for each described model, with what others were measured to take.
int print_table(const Flags& flags, const DeviceFile& file, const plan::PlanRequest& request,
                const node::ModelRequest& of_model) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::string text = std::format("{:<24}{:>8}{:>8}{:>10}", "ms a token", "weights", "rounds", "predicted");
  if (file.vary > 0)
    text += std::format("{:>10}{:>10}", std::format("rates {:+.0f}%", -file.vary * 100),
                        std::format("{:+.0f}%", file.vary * 100));
  text += "  layers by device (on its GPU); published\n";
  for (const DescribedModel& model : file.models) {
    const plan::RingProfile ring = {.model = node::model_profile(model.params, model.sizes, of_model),
                                    .devices = file.devices,
                                    .links = file.links};
    const auto made = plan::propose(ring, request);
    if (!made && made.error().code == ErrorCode::kInvalidArgument) return report(made.error());
    nlohmann::ordered_json row = {{"model", model.params.name}};
    text += std::format("{:<24}{:>8}", model.params.name, format_bytes(ring.model.weight_bytes()));
    if (made) {
      row["plan"] = to_json(PlanReport{ring, request, *made, {}});
      text += std::format("{:>8}{:>10}", made->rounds, tpot_text(made));
    } else {
      row["error"] = made.error().message;
      text += std::format("{:>8}{:>10}", "-", "none");
    }
    if (file.vary > 0) {
      for (const double factor : {1 - file.vary, 1 + file.vary}) {
        const auto other = plan::propose(scaled(ring, factor), request);
        text += std::format("{:>10}", tpot_text(other));
        row[std::format("tpot_s_at_rates_{:+.0f}_percent", (factor - 1) * 100)] =
            other ? nlohmann::ordered_json(other->prediction.period_s) : nlohmann::ordered_json(nullptr);
      }
    }
    text += "  ";
    for (std::size_t m = 0; made && m < file.devices.size(); ++m) {
      const plan::DeviceUse& use = made->prediction.devices[m];
      text += std::format("{}{}", m == 0 ? "" : " ", use.n_layers);
      if (use.n_gpu_layers > 0) text += std::format("({})", use.n_gpu_layers);
    }
    text += ";";
    for (const auto& [name, s] : model.published) {
      text += std::format(" {} {:.0f}", name, s * 1e3);
      row["published_tpot_s"][name] = s;
    }
    text += '\n';
    rows.push_back(std::move(row));
  }
  const std::string json = rows.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  (void)put(flags.json ? json : text);
  return kOk;
}

int run(const Flags& flags) {
  const auto file = devices_of(flags);
  if (!file) return report(file.error());
  const auto request = request_of(flags, *file);
  if (!request) return report(request.error());
  const node::ModelRequest of_model = {
      .n_ctx = flags.n_ctx,
      .kv_type = flags.kv_type == "f32" ? wire::KvType::kF32 : wire::KvType::kF16,
      .n_ubatch = flags.n_ubatch,
      .n_devices = file->devices.size()};
  if (flags.model.empty()) {
    if (file->models.empty())
      return report({ErrorCode::kInvalidArgument,
                     std::format("{} describes no models: name a model file with -m", flags.what_if)});
    return print_table(flags, *file, *request, of_model);
  }
  const auto model = model::ModelFile::open(flags.model);
  if (!model) return report(model.error());
  const plan::RingProfile ring = {
      .model = node::model_profile(*model, of_model), .devices = file->devices, .links = file->links};
  const auto made = plan::propose(ring, *request);
  if (!made) return report(made.error());
  const auto alternatives = plan::alternatives(ring, *request, *made);
  const PlanReport whole = {ring, *request, *made, alternatives};
  (void)put(flags.json ? to_json(whole).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                       : describe(whole));
  return kOk;
}

}  // namespace

void add_plan(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("plan", "which device would run which layers, how fast, and why");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("-m,--model", flags->model,
                   "GGUF model file; without one, the models that the file describes")
      ->check(CLI::ExistingFile);
  verb->add_option("--what-if", flags->what_if, "file of devices, as docs/reference/devices.md describes it")
      ->required()
      ->check(CLI::ExistingFile);
  verb->add_option("-c,--ctx-size", flags->n_ctx, "tokens of context")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  verb->add_option("--ubatch-size", flags->n_ubatch,
                   "-ub: tokens computed at once, at most (default: the plan chooses)")
      ->check(CLI::Range(1, 1 << 16));
  verb->add_option("--cache-type-k", flags->kv_type, "-ctk: of the KV cache")
      ->check(CLI::IsMember({"f16", "f32"}))
      ->capture_default_str();
  verb->add_option("--layer-window", flags->windows,
                   "-lw: layers of each device in a round, e.g. 8,8,4 (default: the best)");
  verb->add_option("--rounds", flags->rounds, "times a token passes each device (default: the best)")
      ->check(CLI::Range(1, 4096));
  verb->add_option("--exclude", flags->exclude, "device that gets no layers; may be repeated");
  verb->add_option("--memory", flags->memory, "NAME=SIZE: what a device lends; may be repeated");
  verb->add_option("--gpu-mem", flags->gpu_memory,
                   "NAME=SIZE: what may be used of a GPU's memory; may be repeated");
  verb->add_flag("--gpus", flags->gpus,
                 "plan layers on GPUs too (hearth does not compute on GPUs yet: this is what it would do)");
  verb->add_option("--users", flags->users, "texts generated at the same time")
      ->check(CLI::Range(1, 512))
      ->capture_default_str();
  verb->add_option("--prompt-tokens", flags->prompt_tokens,
                   "of the prompt that the time to the first token is for")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--max-ttft", flags->max_ttft_s, "seconds to the first token, at most")
      ->check(CLI::PositiveNumber);
  verb->add_flag("--json", flags->json, "as JSON, with all numbers; bytes and seconds");
  verb->footer(
      "Example: hearth plan -m model.gguf --what-if examples/two-laptops.json\n"
      "         hearth plan --what-if examples/paper-cluster.json --gpus");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
