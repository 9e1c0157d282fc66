#include <algorithm>
#include <chrono>
#include <cstdio>
#include <format>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/os_file.h"
#include "base/os_process.h"
#include "base/units.h"
#include "cli/console.h"
#include "cli/device_file.h"
#include "cli/plan_report.h"
#include "cli/verbs.h"
#include "compute/kv_storage.h"
#include "node/model_profile.h"
#include "plan/exact_solver.h"
#include "plan/milp_solver.h"
#include "plan/planner.h"

namespace hearth::cli {
namespace {

struct Flags {
  ModelFlags model;
  RingFlags ring;
  std::string what_if;
  std::vector<std::string> memory;      // SIZE of this device; with --what-if NAME=SIZE
  std::vector<std::string> gpu_memory;  // NAME=SIZE
  bool gpus = false;
  bool context_given = false;
  std::string save;
  bool confirm = false;
  bool json = false;
};

Result<std::size_t> device_named(const DeviceFile& file, std::string_view flag, std::string_view name) {
  const auto at = std::ranges::find(file.devices, name, &plan::DeviceProfile::name);
  if (at == file.devices.end())
    return fail(ErrorCode::kInvalidArgument, "{} names '{}', which is no device of the file", flag, name);
  return static_cast<std::size_t>(at - file.devices.begin());
}

// "NAME=SIZE" of each.
Result<> set_sizes(DeviceFile& file, std::string_view flag, const std::vector<std::string>& given, auto set) {
  for (const std::string& one : given) {
    const auto equals = one.rfind('=');
    if (equals == std::string::npos)
      return fail(ErrorCode::kInvalidArgument, "{} '{}' is not NAME=SIZE", flag, one);
    HEARTH_TRY(const std::size_t m, device_named(file, flag, std::string_view(one).substr(0, equals)));
    HEARTH_TRY(const std::uint64_t bytes, parse_bytes(std::string_view(one).substr(equals + 1)));
    if (static_cast<double>(bytes) > kMostAmount)
      return fail(ErrorCode::kInvalidArgument, "{} '{}' is more than {} bytes", flag, one, kMostAmount);
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
  plan::PlanRequest request = {
      .traffic = {.users = flags.ring.users, .prompt_tokens = flags.ring.prompt_tokens},
      .rounds = flags.ring.rounds,
      .gpus = flags.gpus || file.gpus};
  if (!flags.ring.windows.empty()) {
    HEARTH_TRY(LayerWindows by_hand, parse_windows(flags.ring.windows));
    request.windows = std::move(by_hand.layers);
    request.n_window_rounds = by_hand.n_rounds;
  }
  HEARTH_TRY(request.excluded,
             plan::named({.model = {}, .devices = file.devices, .links = {}}, flags.ring.excluded));
  if (flags.ring.max_ttft_s > 0) request.max_ttft_s = flags.ring.max_ttft_s;
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

// What the same plan would take if weights were left to a page cache that is told what comes next.
std::optional<double> page_cache_s(const plan::RingProfile& ring, const plan::PlanRequest& request,
                                   const plan::Proposal& made) {
  const auto read = plan::predict(ring, request.traffic, ring.model.batch_of(made.n_ubatch), made.plan,
                                  made.gpu_layers, plan::ReadAhead::kWindow);
  if (!read) return std::nullopt;
  return read->period_s;
}

Result<> check_kv(const model::HyperParams& params, const node::ModelRequest& request) {
  auto can = compute::KvStorage::check(params, request.kv_type, request.flash_attention);
  if (!can && can.error().code == ErrorCode::kUnsupported)
    return fail(can.error().code, "{}: {}", params.name, can.error().message);
  return can;
}

// A row for each described model, with what others were measured to take.
int print_table(const Flags& flags, const DeviceFile& file, const plan::PlanRequest& request,
                const node::ModelRequest& of_model) {
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  std::string text = std::format("{:<24}{:>8}{:>8}{:>11}{:>12}", "ms a token", "weights", "rounds",
                                 "predicted", "page cache");
  if (file.vary > 0)
    text += std::format("{:>12}{:>12}", std::format("rates {:+.0f}%", -file.vary * 100),
                        std::format("{:+.0f}%", file.vary * 100));
  text += "  layers by device (on its GPU); published\n";
  for (const DescribedModel& model : file.models) {
    if (const auto can = check_kv(model.params, of_model); !can) return report(can.error());
    const plan::RingProfile ring = {.model = node::model_profile(model.params, model.sizes, of_model),
                                    .devices = file.devices,
                                    .links = file.links,
                                    .links_known = file.links_known};
    const auto made = plan::propose(ring, request);
    if (!made && made.error().code == ErrorCode::kInvalidArgument) return report(made.error());
    nlohmann::ordered_json row = {{"model", model.params.name}};
    text += std::format("{:<24}{:>8}", model.params.name, format_bytes(ring.model.weight_bytes()));
    if (made) {
      row["plan"] = to_json(PlanReport{ring, request, *made, {}});
      text += std::format("{:>8}{:>11}", made->rounds, tpot_text(made));
      const auto page_cache = page_cache_s(ring, request, *made);
      text += std::format("{:>12}", page_cache ? std::format("{:.0f}", *page_cache * 1e3) : "none");
      if (page_cache) row["page_cache_tpot_s"] = *page_cache;
    } else {
      row["error"] = made.error().message;
      text += std::format("{:>8}{:>11}{:>12}", "-", "none", "none");
    }
    if (file.vary > 0) {
      for (const double factor : {1 - file.vary, 1 + file.vary}) {
        const auto other = plan::propose(scaled(ring, factor), request);
        text += std::format("{:>12}", tpot_text(other));
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
  const auto has_gpu = [](const plan::DeviceProfile& device) { return device.gpu.has_value(); };
  if (std::ranges::any_of(file.devices, has_gpu))
    text += request.gpus ? std::format("{}\n", kGpusAreToCome)
                         : "without the GPUs that the file has: --gpus plans with them\n";
  (void)put(flags.json ? json : text);
  return kOk;
}

// Both solvers on what the plan was made from.
std::string confirmed(const plan::Proposal& proposal) {
  if (!proposal.optimum) return "no solver made this plan: there is nothing to confirm\n";
  const auto& [terms, rounds, limits, period_s] = *proposal.optimum;
  const auto exact = plan::solve_exactly(terms, rounds, limits);
  const auto start = std::chrono::steady_clock::now();
  const auto milp = plan::solve_milp(terms, rounds, limits);
  const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::string text =
      std::format("for mean layers, {} round{}: dynamic program {}", rounds, rounds == 1 ? "" : "s",
                  exact ? std::format("{:.6f} s", exact->period_s) : "infeasible");
  if (!milp) return text + std::format("; HiGHS: {}\n", milp.error().message);
  return text + std::format("; HiGHS {}, gap {:.4f} %{}, in {:.2f} s\n",
                            milp->solution ? std::format("{:.6f} s", milp->solution->period_s) : "infeasible",
                            milp->gap * 100, milp->proven ? "" : " (not proven)", took);
}

int print_plan(const Flags& flags, const plan::RingProfile& ring, const plan::PlanRequest& request,
               const plan::Proposal& proposal) {
  const auto alternatives = plan::alternatives(ring, request, proposal);
  if (request.is_cancelled())
    return report({ErrorCode::kCancelled, "interrupted while other plans were compared"});
  const PlanReport whole = {ring, request, proposal, alternatives};
  (void)put(flags.json ? to_json(whole).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                       : describe(whole));
  if (flags.confirm) {
    std::fflush(stdout);  // the solver's library may end the process
    std::fprintf(stderr, "%s", confirmed(proposal).c_str());
  }
  return kOk;
}

int print_plan_for(const Flags& flags, const plan::RingProfile& ring, const plan::PlanRequest& request) {
  const auto made = plan::propose(ring, request);
  return made ? print_plan(flags, ring, request, *made) : report(made.error());
}

int plan_for_file(const Flags& flags) {
  const auto file = devices_of(flags);
  if (!file) return report(file.error());
  const auto request = request_of(flags, *file);
  if (!request) return report(request.error());
  const std::uint32_t n_ctx = flags.context_given || file->n_ctx == 0 ? flags.ring.n_ctx : file->n_ctx;
  const node::ModelRequest of_model = {.n_ctx = n_ctx,
                                       .kv_type = flags.ring.kv_type(),
                                       .flash_attention = !flags.ring.no_flash_attention,
                                       .n_ubatch = std::min(flags.ring.n_ubatch, n_ctx),
                                       .n_devices = file->devices.size(),
                                       .hidden = flags.ring.hidden().first,
                                       .hidden_always = flags.ring.hidden().second};
  if (flags.model.model.empty()) {
    if (file->models.empty())
      return report({ErrorCode::kInvalidArgument,
                     std::format("{} describes no models: name a model file with -m", flags.what_if)});
    if (file->models.size() > 1 && flags.confirm)
      return report({ErrorCode::kInvalidArgument, "--confirm is for one model: name it with -m"});
    if (file->models.size() > 1) return print_table(flags, *file, *request, of_model);
    const DescribedModel& model = file->models.front();
    if (const auto can = check_kv(model.params, of_model); !can) return report(can.error());
    return print_plan_for(flags,
                          {.model = node::model_profile(model.params, model.sizes, of_model),
                           .devices = file->devices,
                           .links = file->links,
                           .links_known = file->links_known},
                          *request);
  }
  const auto model = model::ModelFile::open(flags.model.model);
  if (!model) return report(model.error());
  if (const auto can = check_kv(model->params(), of_model); !can) return report(can.error());
  return print_plan_for(flags,
                        {.model = node::model_profile(*model, of_model),
                         .devices = file->devices,
                         .links = file->links,
                         .links_known = file->links_known},
                        *request);
}

// This device and its workers, which are measured and not loaded.
int plan_for_ring(Flags flags) {
  if (flags.model.model.empty())
    return report(
        {ErrorCode::kInvalidArgument, "name a model file with -m, or a file of devices with --what-if"});
  if (flags.memory.size() > 1 || !flags.gpu_memory.empty())
    return report(
        {ErrorCode::kInvalidArgument,
         "without --what-if --memory is this device's, once, and each worker has its own; --gpu-mem is for "
         "--what-if"});
  if (!flags.memory.empty()) flags.model.memory = flags.memory.front();
  auto options = flags.ring.head_options(flags.model);
  if (!options) return report(options.error());
  options->gpu.n_layers = 0;  // nothing is computed
  auto key = flags.ring.key();
  if (!key) return report(key.error());
  count_interrupts();
  bool planned = false;
  int exit = kOk;
  options->planned = [&](const plan::RingProfile& ring, const plan::PlanRequest& request,
                         const plan::Proposal& proposal) -> Result<> {
    planned = true;
    exit = print_plan(flags, ring, request, proposal);
    if (!flags.save.empty()) {
      const std::string text =
          devices_json(ring).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
      if (const auto saved = replace_file(flags.save, std::vector<std::uint8_t>(text.begin(), text.end()));
          !saved)
        exit = report(saved.error());
    }
    return fail(ErrorCode::kCancelled, "a plan was asked for, not a ring");
  };
  const auto started = node::HeadNode::start(*options, std::move(*key));
  if (!planned && !started) return report(started.error());
  return exit;
}

int run(const Flags& flags) {
  return flags.what_if.empty() ? plan_for_ring(flags) : plan_for_file(flags);
}

}  // namespace

void add_plan(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("plan", "which device runs which layers, how fast, and why");
  const auto flags = std::make_shared<Flags>();
  flags->model.add(*verb);
  verb->get_option("--model")->required(false);
  flags->ring.add(*verb);
  verb->remove_option(verb->get_option("--memory"));
  verb->add_option("--memory", flags->memory,
                   "what this device lends; with --what-if NAME=SIZE, and may be repeated")
      ->type_name("SIZE");
  verb->add_option("--what-if", flags->what_if,
                   "plan for the devices of a file instead (docs/reference/devices.md)")
      ->type_name("FILE.json")
      ->check(CLI::ExistingFile);
  verb->add_option("--gpu-mem", flags->gpu_memory,
                   "with --what-if, what may be used of a GPU's memory; may be repeated")
      ->type_name("NAME=SIZE");
  verb->add_flag("--gpus", flags->gpus,
                 "with --what-if, plan layers on GPUs too (plans of a real ring do not count on them yet: "
                 "this is what it "
                 "would do)")
      ->needs("--what-if");
  verb->add_option("--save", flags->save, "write the measured devices and links to a file for --what-if")
      ->type_name("FILE.json")
      ->excludes("--what-if");
  verb->add_flag("--confirm", flags->confirm,
                 "solve it with HiGHS too (up to 10 s) and show both optima and the gap");
  verb->add_flag("--json", flags->json, "as JSON, with all numbers; bytes and seconds");
  verb->footer(
      "Without --what-if this device and its --worker devices are measured, and nothing is loaded. Without "
      "-m the\n"
      "models that the file describes are planned: one as any other, several as a table of a line each.\n"
      "Examples:\n"
      "  hearth plan -m model.gguf --key head.key --worker KEY@192.168.1.7:7700\n"
      "  hearth plan -m model.gguf --what-if examples/two-laptops.json\n"
      "  hearth plan --what-if examples/paper-cluster.json");
  verb->callback([flags, verb, &exit] {
    flags->context_given = verb->count("--ctx-size") > 0;
    exit = run(*flags);
  });
}

}  // namespace hearth::cli
