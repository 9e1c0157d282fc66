#include <algorithm>
#include <cstdio>
#include <format>
#include <memory>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/os_memory.h"
#include "base/os_process.h"
#include "cli/console.h"
#include "cli/generate.h"
#include "cli/verbs.h"

namespace hearth::cli {
namespace {

struct Flags {
  ModelFlags model;
  RingFlags ring;
  std::uint32_t n_prompt = 512;
  std::uint32_t n_generate = 64;
  std::uint32_t repetitions = 5;
  bool json = false;
  bool each_token = false;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

// Of this device: what of the weights is where, and what each token reads. `lent`: --memory, 0 without.
nlohmann::ordered_json residency_json(const node::ExecutorCounters& counters, std::uint64_t weight_bytes,
                                      std::uint64_t lent) {
  const ProcessMemory memory = process_memory();
  const std::uint64_t slots = counters.slots_bytes, budget = counters.weight_budget_bytes;
  return {
      {"weight_bytes", weight_bytes},
      {"pinned_bytes", counters.pinned_bytes.load()},
      {"slot_bytes", slots},
      {"streamed_bytes_per_token", counters.streamed_bytes_per_pass.load()},
      {"read_bytes", counters.read_bytes.load()},
      {"disk_wait_s", static_cast<double>(counters.disk_wait_ns) * 1e-9},
      {"anonymous_bytes", memory.anonymous},
      {"budget_bytes", budget},
      {"fixed_bytes", lent > budget ? lent - budget : memory.anonymous - std::min(memory.anonymous, slots)},
      {"major_faults", memory.major_faults}};
}

// A line as soon as it is there: whoever reads it knows when.
void print_token(const node::ExecutorCounters& counters, std::uint32_t run, model::Token token) {
  const nlohmann::ordered_json line = {{"event", "token"},
                                       {"run", run},
                                       {"token", token},
                                       {"pinned_bytes", counters.pinned_bytes.load()},
                                       {"read_bytes", counters.read_bytes.load()}};
  std::printf("%s\n", line.dump().c_str());
  std::fflush(stdout);
}

// By device.
std::vector<std::uint32_t> layers_of(const plan::Plan& plan) {
  std::vector<std::uint32_t> layers;
  for (std::uint16_t m = 0; m < plan.devices.size(); ++m) layers.push_back(plan.layers_of(m));
  return layers;
}

int run(const Flags& flags) {
  flags.model.set_priority();
  auto options = flags.ring.head_options(flags.model);
  if (!options) return report(options.error());
  // The last token generated is not put into the ring again.
  if (std::uint64_t{flags.n_prompt} + flags.n_generate > std::uint64_t{flags.ring.n_ctx} + 1)
    return report(
        {ErrorCode::kInvalidArgument,
         std::format(
             "{} prompt tokens and {} generated ones do not fit a context of {}; ask for a larger one (-c)",
             flags.n_prompt, flags.n_generate, flags.ring.n_ctx)});
  options->traffic.prompt_tokens = flags.n_prompt;
  auto key = flags.ring.key();
  if (!key) return report(key.error());
  count_interrupts();
  const auto head = node::HeadNode::start(*options, std::move(*key));
  if (!head) return report(head.error());
  node::HeadNode& h = **head;
  std::fprintf(stderr, "%s", describe(h.ring()).c_str());

  // Any tokens do: the work does not depend on which they are.
  std::vector<model::Token> prompt(flags.n_prompt);
  for (std::size_t i = 0; i < prompt.size(); ++i)
    prompt[i] = static_cast<model::Token>((i * 7919 + 17) % h.model().params().n_vocab);
  node::GenerateOptions generate_options;
  generate_options.sampling.temperature = 0;
  generate_options.max_tokens = flags.n_generate;
  generate_options.ignore_end = true;
  std::vector<double> prefill, decode;
  double elapsed = 0;                                          // of all runs, the warm-up too
  for (std::uint32_t i = 0; i < flags.repetitions + 1; ++i) {  // the first warms up and is not counted
    const auto done = generate(h, prompt, generate_options, [&](model::Token token) {
      if (flags.each_token) print_token(h.counters(), i, token);
      return true;
    });
    if (!done) return report(done.error());
    if (done->reason == node::FinishReason::kStopped) return kInterrupted;
    elapsed += std::chrono::duration<double>(done->timings.prompt + done->timings.decode).count();
    if (i == 0) continue;
    prefill.push_back(std::chrono::duration<double>(done->timings.prompt).count());
    decode.push_back(std::chrono::duration<double>(done->timings.decode).count() /
                     (done->timings.n_generated - 1));
  }
  std::uint64_t bytes = h.model().segment_bytes(model::SegmentId::output());
  for (std::uint32_t il = 0; il < h.model().params().n_layer; ++il)
    bytes += h.model().segment_bytes(model::SegmentId::of_layer(il));
  const double ttft = median(prefill), tpot = median(decode);
  if (flags.json) {
    nlohmann::ordered_json j = {
        {"model", flags.model.model},
        {"n_prompt", flags.n_prompt},
        {"n_generate", flags.n_generate},
        {"threads", flags.model.threads()},
        {"devices", h.ring().plan.devices.size()},
        {"rounds", h.ring().rounds},
        {"layers", layers_of(h.ring().plan)},
        {"predicted_tpot_s", h.ring().predicted_s},
        {"predicted_ttft_s", h.ring().predicted_ttft_s},
        {"ttft_s", ttft},
        {"tpot_s", tpot},
        {"ttft_s_all", prefill},
        {"tpot_s_all", decode},
        {"elapsed_s", elapsed},
        {"head_compute_s", static_cast<double>(h.counters().compute_ns) * 1e-9},
        {"weight_bytes_per_token", bytes},
        {"weight_bytes_per_s", static_cast<double>(bytes) / tpot},
        {"residency", residency_json(h.counters(), bytes, flags.model.memory_bytes().value_or(0))}};
    std::printf("%s\n", j.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace).c_str());
    return kOk;
  }
  std::printf("prefill %u tokens: %.1f ms, %.1f tokens/s\n", flags.n_prompt, ttft * 1e3,
              flags.n_prompt / ttft);
  std::printf("decode: %.2f ms a token, %.1f tokens/s, weights read at %.1f GB/s\n", tpot * 1e3, 1 / tpot,
              static_cast<double>(bytes) / tpot / 1e9);
  std::printf("medians of %u runs; least and most: prefill %.1f-%.1f ms, decode %.2f-%.2f ms\n",
              flags.repetitions, std::ranges::min(prefill) * 1e3, std::ranges::max(prefill) * 1e3,
              std::ranges::min(decode) * 1e3, std::ranges::max(decode) * 1e3);
  return kOk;
}

}  // namespace

void add_bench(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("bench", "measure prefill and decode, alone or with workers");
  const auto flags = std::make_shared<Flags>();
  flags->model.add(*verb);
  flags->model.add_computing(*verb);
  verb->add_option("--prompt-tokens", flags->n_prompt, "length of the prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("-n,--predict", flags->n_generate, "tokens to generate")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  verb->add_option("-r,--repetitions", flags->repetitions, "runs that count")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  verb->add_flag("--json", flags->json, "every run, as JSON");
  verb->add_flag("--each-token", flags->each_token,
                 "a line of JSON for each token as it comes, run 0 warms up");
  flags->ring.add(*verb);
  verb->footer("Example: hearth bench -m model.gguf --prompt-tokens 128 -r 10");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
