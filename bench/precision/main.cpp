// What a coarser KV cache and coarser links change in a model's next tokens, and the bytes they save: KL
// divergence and top-1 agreement against f16 keys and values and f32 links, position by position on a text of
// the model's own, and what encoding a chunk of a prompt takes.
//
// The ring is one of executors in this process; frames are the real ones.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <format>
#include <print>
#include <random>

#include <CLI/CLI.hpp>

#include "support/precision.h"
#include "support/record.h"
#include "wire/hidden.h"

namespace hearth::bench {
namespace {

using wire::HiddenEncoding;
using wire::KvType;

struct Options {
  std::string model = HEARTH_SOURCE_DIR "/models/ember-q8_0.gguf";
  std::uint32_t n_devices = 4;
  std::size_t n_positions = 1000, n_prompt = 256;
  std::uint32_t n_ubatch = 128;
  std::string results = HEARTH_SOURCE_DIR "/bench/results/precision.jsonl";
  bool no_record = false;
};

struct Variant {
  std::string kv_k, kv_v, links;
  wire::KvTypes kv;
  HiddenEncoding hidden = HiddenEncoding::kF32;
  bool hidden_always = false;
  std::uint32_t n_ubatch = 0;  // 0: as the reference
};

Variant variant(KvType k, KvType v, std::string links) {
  Variant made = {.kv_k = std::string(wire::traits(k).name),
                  .kv_v = std::string(wire::traits(v).name),
                  .links = links,
                  .kv = {k, v}};
  if (links == "q8_0") made.hidden = HiddenEncoding::kQ8Scaled;
  if (links == "f16" || links == "auto") made.hidden = HiddenEncoding::kF16Scaled;
  made.hidden_always = links == "q8_0" || links == "f16";
  return made;
}

std::vector<Variant> variants() {
  constexpr KvType kF16 = KvType::kF16, kQ8 = KvType::kQ8_0;
  std::vector<Variant> all = {variant(kF16, kF16, "f32")};
  all.back().n_ubatch = 64;  // what other chunks alone change
  all.push_back(variant(kQ8, kQ8, "f32"));
  all.push_back(variant(kQ8, kF16, "f32"));
  all.push_back(variant(kF16, kQ8, "f32"));
  all.push_back(variant(KvType::kQ4_0, KvType::kQ4_0, "f32"));
  all.push_back(variant(kF16, kF16, "auto"));
  all.push_back(variant(kF16, kF16, "f16"));
  all.push_back(variant(kF16, kF16, "q8_0"));
  all.push_back(variant(kQ8, kQ8, "auto"));
  all.push_back(variant(kQ8, kQ8, "q8_0"));
  return all;
}

std::string now_utc() {
  return std::format("{:%FT%TZ}", std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()));
}

// Milliseconds to encode and to decode 512 rows of 4,096 values with outliers, the medians of 21.
nlohmann::ordered_json measure_codec() {
  constexpr std::size_t kRows = 512, kEmbd = 4096, kTimes = 21;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> rows(kRows * kEmbd), back(rows.size());
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = normal(random) * (i % 1000 == 0 ? 1e5F : 1.0F);
  const auto ms = [](auto work) {
    std::vector<double> times;
    for (std::size_t i = 0; i < kTimes; ++i) {
      const auto start = std::chrono::steady_clock::now();
      work();
      times.push_back(
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    std::ranges::sort(times);
    return times[kTimes / 2];
  };
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  std::println("512 rows of 4,096 values      bytes  encode, ms  decode, ms  at 20 MB/s, ms");
  for (const auto& [name, encoding] :
       {std::pair("f32", HiddenEncoding::kF32), std::pair("f16", HiddenEncoding::kF16Scaled),
        std::pair("q8_0", HiddenEncoding::kQ8Scaled)}) {
    std::vector<std::uint8_t> bytes;
    const double encode_ms = ms([&] {
      bytes.clear();
      HEARTH_CHECK(wire::encode_hidden(encoding, rows, kEmbd, bytes).has_value());
    });
    const double decode_ms =
        ms([&] { HEARTH_CHECK(wire::decode_hidden(encoding, bytes, kEmbd, back).has_value()); });
    const double link_ms = static_cast<double>(bytes.size()) / 20e6 * 1e3;
    std::println("{:<22}{:>13}{:>12.2f}{:>12.2f}{:>16.0f}", name, bytes.size(), encode_ms, decode_ms,
                 link_ms);
    all.push_back(
        {{"links", name}, {"bytes", bytes.size()}, {"encode_ms", encode_ms}, {"decode_ms", decode_ms}});
  }
  return all;
}

Result<> run(const Options& options, const std::vector<std::string>& arguments) {
  nlohmann::ordered_json record = {{"time", now_utc()},
                                   {"bench", "precision"},
                                   {"commit", commit(HEARTH_SOURCE_DIR)},
                                   {"command", command_line(arguments)},
                                   {"machine", machine()}};
  HEARTH_TRY(const std::string hash, file_hash(options.model));
  record["model"] = {{"file", std::filesystem::path(options.model).filename().string()},
                     {"bytes", std::filesystem::file_size(options.model)},
                     {"blake3", hash}};
  record["devices"] = options.n_devices;
  record["positions"] = options.n_positions;
  record["prompt_positions"] = options.n_prompt;
  record["ubatch"] = options.n_ubatch;
  record["codec"] = measure_codec();

  HEARTH_TRY(const auto text, testing::stories(options.model, options.n_positions));
  const auto n_ctx = static_cast<std::uint32_t>(options.n_positions);
  const engine::EpochOptions exact = {.n_ctx = n_ctx, .n_ubatch = options.n_ubatch};
  HEARTH_TRY(const testing::PrecisionRun reference,
             testing::read_text(options.model, options.n_devices, exact, text, options.n_prompt));
  std::println(
      "{} positions of {}, {} devices; against f16 keys and values, f32 links: {:.0f} bytes a token, {:.0f} "
      "a "
      "prompt position",
      options.n_positions, options.model, options.n_devices, reference.bytes_per_decode_token,
      reference.bytes_per_prompt_token);
  std::println(
      "keys  values  links  batch   KL mean    KL most   same top  bytes/token  bytes/prompt position");
  record["reference"] = {{"bytes_per_token", reference.bytes_per_decode_token},
                         {"bytes_per_prompt_position", reference.bytes_per_prompt_token}};
  nlohmann::ordered_json& rows = record["variants"] = nlohmann::ordered_json::array();
  for (const Variant& one : variants()) {
    engine::EpochOptions epoch = exact;
    epoch.kv_type = one.kv;
    epoch.hidden = one.hidden;
    epoch.hidden_always = one.hidden_always;
    if (one.n_ubatch != 0) epoch.n_ubatch = one.n_ubatch;
    HEARTH_TRY(const testing::PrecisionRun made,
               testing::read_text(options.model, options.n_devices, epoch, text, options.n_prompt));
    const testing::Divergence d = testing::divergence(reference.rows, made.rows);
    std::println("{:<6}{:<8}{:<7}{:>5}{:>10.2e}{:>11.2e}{:>11}{:>13.0f}{:>14.0f}", one.kv_k, one.kv_v,
                 one.links, epoch.n_ubatch, d.mean, d.most, d.n_same_top, made.bytes_per_decode_token,
                 made.bytes_per_prompt_token);
    rows.push_back({{"keys", one.kv_k},
                    {"values", one.kv_v},
                    {"links", one.links},
                    {"ubatch", epoch.n_ubatch},
                    {"kl_mean", d.mean},
                    {"kl_most", d.most},
                    {"same_top", d.n_same_top},
                    {"bytes_per_token", made.bytes_per_decode_token},
                    {"bytes_per_prompt_position", made.bytes_per_prompt_token}});
  }
  return options.no_record ? Result<>() : append_line(options.results, record);
}

int main_of(int argc, char** argv) {
  Options options;
  CLI::App app{
      "What coarser keys, values and links change in a model's next tokens, and the bytes they save.\n"
      "Example: precision -m models/ember-q4_k_m.gguf",
      "precision"};
  app.add_option("-m,--model", options.model, "ember, in any type: the text is its own")
      ->check(CLI::ExistingFile)
      ->capture_default_str();
  app.add_option("--devices", options.n_devices, "in the ring")
      ->check(CLI::Range(1, 8))
      ->capture_default_str();
  app.add_option("--positions", options.n_positions, "of the text")
      ->check(CLI::Range(16, 1000))
      ->capture_default_str();
  app.add_option("--prompt", options.n_prompt, "of these as a prompt, the others one by one")
      ->check(CLI::Range(1, 999))
      ->capture_default_str();
  app.add_option("--results", options.results, "file that gets a line")->capture_default_str();
  app.add_flag("--no-record", options.no_record, "print only");
  CLI11_PARSE(app, argc, argv);
  if (options.n_prompt >= options.n_positions) {
    std::println(stderr, "precision: the prompt takes all {} positions", options.n_positions);
    return 2;
  }
  const Result<> done = run(options, {argv, argv + argc});
  if (done) return 0;
  std::println(stderr, "precision: {}", done.error().message);
  return 1;
}

}  // namespace
}  // namespace hearth::bench

int main(int argc, char** argv) {
  try {
    return hearth::bench::main_of(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "precision: %s\n", e.what());
    return 1;
  }
}
