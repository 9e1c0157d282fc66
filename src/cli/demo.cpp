#include <chrono>
#include <cstdio>
#include <filesystem>
#include <format>
#include <memory>
#include <string>
#include <vector>

#include "base/os_process.h"
#include "cli/console.h"
#include "cli/generate.h"
#include "cli/verbs.h"

namespace hearth::cli {
namespace {

constexpr std::chrono::milliseconds kWorkerStart{30'000};

struct Flags {
  std::string model;
  std::string prompt = "Tell me a story about a fox and a lamp.";
  std::uint32_t devices = 4;
  std::uint32_t rounds = 2;
  std::string windows;  // empty: even
  std::uint32_t n_threads = 1;
  std::int64_t max_tokens = 320;
  bool verbose = false;
};

// models/ember-q8_0.gguf beside the program's checkout or installation.
std::string shipped_model() {
  for (auto folder = own_program().parent_path(); folder.has_relative_path(); folder = folder.parent_path())
    for (const char* at : {"models", "share/hearth/models"})
      if (auto path = folder / at / "ember-q8_0.gguf"; std::filesystem::exists(path)) return path.string();
  return "";
}

// Greedy, so that two runs can be compared word for word.
Result<Answer> ask(node::HeadNode& head, const Flags& flags, bool print) {
  HEARTH_TRY(const Prompter prompter, Prompter::create(head.model(), head.tokenizer(), false));
  const std::vector<model::ChatMessage> messages = {{"user", flags.prompt}};
  HEARTH_TRY(auto prompt, prompter.chat(messages));
  AnswerOptions options;
  options.generate.sampling.temperature = 0;
  options.generate.max_tokens = flags.max_tokens;
  options.divide = false;
  HEARTH_TRY(auto answer, generate_answer(head, prompter, std::move(prompt), options,
                                          [&](const auto& piece) { return !print || put(piece.text); }));
  if (print) std::printf("\n");
  return answer;
}

struct Ring {
  std::vector<Child> children;
  std::unique_ptr<node::HeadNode> head;
};

node::HeadNodeOptions head_options(const Flags& flags) {
  node::HeadNodeOptions options;
  options.model_path = flags.model;
  options.n_threads = flags.n_threads;
  options.epoch.n_ctx = 1024;
  options.gpu.n_layers = 0;  // all processes would share one
  const auto least = flags.verbose ? engine::LogLevel::kDebug : engine::LogLevel::kWarning;
  options.log = [least](engine::LogLevel level, const std::string& text) { print_log(level, text, least); };
  options.interrupted = [] { return interrupts() > 0; };
  return options;
}

// Starts the workers as processes of their own, with keys of their own, and leads them.
Result<Ring> start_ring(const Flags& flags) {
  Ring ring;
  HEARTH_TRY(auto key, net::KeyPair::generate());
  node::HeadNodeOptions options = head_options(flags);
  // A model of 8 MB is fastest on one device, and so it would be planned: the demo is to show the ring.
  HEARTH_TRY(const model::ModelFile model, model::ModelFile::open(flags.model));
  if (!flags.windows.empty()) {
    HEARTH_TRY(LayerWindows by_hand, parse_windows(flags.windows));
    options.windows = std::move(by_hand.layers);
    options.n_window_rounds = by_hand.n_rounds;
  }
  const std::uint32_t n_layer = model.params().n_layer;
  const std::uint32_t per_round = (n_layer + flags.rounds - 1) / flags.rounds;
  for (std::uint32_t m = 0; m < flags.devices && flags.windows.empty(); ++m)
    options.windows.push_back((m + 1) * per_round / flags.devices - m * per_round / flags.devices);
  for (std::uint32_t i = 1; i < flags.devices; ++i) {
    const std::string name = std::format("worker-{}", i);
    HEARTH_TRY(const auto worker_key, net::KeyPair::generate());
    // Closed here before the next worker starts: each inherits its own key only.
    HEARTH_TRY(const auto key_file, net::UnnamedKeyFile::make(worker_key));
    std::vector<std::string> arguments = {own_program().string(),
                                          "worker",
                                          "-m",
                                          flags.model,
                                          "--key",
                                          key_file.path(),
                                          "--allow",
                                          key.public_key().hex(),
                                          "--name",
                                          name,
                                          "-t",
                                          std::to_string(flags.n_threads),
                                          "-ngl",
                                          "0"};
    if (flags.verbose)
      arguments.push_back("-v");
    else
      arguments.push_back("-q");
    HEARTH_TRY(Child child, Child::spawn(arguments));
    ring.children.push_back(std::move(child));
  }
  for (Child& child : ring.children) {
    auto line = child.read_line(kWorkerStart);
    if (!line) return fail(line.error().code, "a worker of the demo did not start: {}", line.error().message);
    HEARTH_TRY(auto address, parse_worker(*line));
    options.workers.push_back(std::move(address));
  }
  HEARTH_TRY(ring.head, node::HeadNode::start(options, std::move(key)));
  return ring;
}

int run(Flags flags) {
  if (flags.model.empty()) flags.model = shipped_model();
  if (flags.model.empty()) {
    std::fprintf(
        stderr,
        "hearth: the shipped model models/ember-q8_0.gguf is not beside the program; name one with -m\n");
    return kUsage;
  }
  count_interrupts();
  std::fprintf(stderr, "Starting %u processes that know each other only by keys and encrypted links ...\n",
               flags.devices);
  auto ring = start_ring(flags);
  if (!ring) return report(ring.error());
  std::printf("%s\n> %s\n\n", describe(ring->head->ring()).c_str(), flags.prompt.c_str());
  const auto answer = ask(*ring->head, flags, true);
  if (!answer) return report(answer.error());
  std::printf("\nring:       %s\n", describe(answer->done.timings).c_str());
  if (answer->done.reason == node::FinishReason::kStopped) return kInterrupted;
  ring->head.reset();
  ring->children.clear();

  auto key = net::KeyPair::generate();
  if (!key) return report(key.error());
  auto alone = node::HeadNode::start(head_options(flags), std::move(*key));
  if (!alone) return report(alone.error());
  const auto reference = ask(**alone, flags, false);
  if (!reference) return report(reference.error());
  if (reference->done.reason == node::FinishReason::kStopped) return kInterrupted;
  std::printf("one device: %s\n", describe(reference->done.timings).c_str());
  const bool same = reference->text == answer->text;
  std::printf("The ring's text %s one device's.\n", same ? "equals" : "DIFFERS from");
  if (!same) std::printf("One device said:\n%s\n", reference->text.c_str());
  return same ? kOk : kError;
}

}  // namespace

void add_demo(CLI::App& app, int& exit) {
  auto* verb =
      app.add_subcommand("demo", "a ring of local processes on the small shipped model; nothing else needed");
  const auto flags = std::make_shared<Flags>();
  verb->add_option("-m,--model", flags->model, "another model (default: the shipped ember)")
      ->type_name("FILE.gguf");
  verb->add_option("-p,--prompt", flags->prompt, "what to ask")->capture_default_str();
  verb->add_option("-n,--predict", flags->max_tokens, "most tokens to generate")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  verb->add_option("--devices", flags->devices, "processes in the ring")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  verb->add_option("-k,--rounds", flags->rounds, "times a token passes each device")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  verb->add_option("--layer-window", flags->windows,
                   "layers of each device in a round, or in each one, e.g. 2,1,0/0,1,1/1,0,2 (default: even)")
      ->type_name("N,N,...[/N,N,...]")
      ->excludes("--rounds");
  verb->add_option("-t,--threads", flags->n_threads, "compute threads of each process")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  verb->add_flag("-v,--verbose", flags->verbose, "log what happens");
  verb->footer(
      "Prints the ring, the answer as it is generated, the speed, and whether one device says the same.\n"
      "Examples:\n"
      "  hearth demo -p 'Who are you?'\n"
      "  hearth demo --devices 3 -lw 2,1,0/0,1,1/1,0,2");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
