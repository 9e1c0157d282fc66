#include <array>
#include <filesystem>
#include <format>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "base/os_process.h"
#include "base/units.h"
#include "cli/answer_printer.h"
#include "cli/chat.h"
#include "cli/console.h"
#include "cli/generate.h"
#include "cli/history_file.h"
#include "cli/verbs.h"
#include "compute/window.h"
#include "model/json_schema.h"
#include "model/stop_strings.h"

namespace hearth::cli {
namespace {

struct Flags {
  ModelFlags model;
  RingFlags ring;
  SamplingFlags sampling;
  std::optional<std::string> prompt;
  std::string file;
  std::string system;
  bool no_chat = false;
  std::string reasoning = "auto";
  std::vector<std::string> stops;
  std::optional<std::string> grammar, grammar_file, json_schema;
  bool no_history = false;
};

// More than any context holds; /dev/zero never ends.
constexpr std::size_t kMostText = std::size_t{64} << 20;

Result<std::string> read_all(std::istream& in, const std::string& what) {
  std::string text;
  for (std::array<char, 1 << 16> piece{}; in;) {
    in.read(piece.data(), piece.size());
    text.append(piece.data(), static_cast<std::size_t>(in.gcount()));
    if (text.size() > kMostText)
      return fail(ErrorCode::kInvalidArgument, "{} has more than {}; give less", what,
                  format_bytes(kMostText));
  }
  return text;
}

Result<std::string> read_file(const std::string& path, const char* what) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return fail(ErrorCode::kNotFound, "cannot read the {} {}", what, path);
  return read_all(in, std::format("the {} {}", what, path));
}

// The prompt from -p, -f or a pipe; none: a chat.
Result<std::optional<std::string>> prompt_text(const Flags& flags) {
  if (flags.prompt) return *flags.prompt;
  if (!flags.file.empty()) {
    HEARTH_TRY(std::string text, read_file(flags.file, "prompt file"));
    return text;
  }
  if (stdin_is_terminal()) return std::nullopt;
  HEARTH_TRY(std::string text, read_all(std::cin, "standard input"));
  if (text.empty())
    return fail(
        ErrorCode::kInvalidArgument,
        "there is no prompt: standard input is no terminal and has nothing; give one with -p, -f or a "
        "pipe");
  return text;
}

// What every answer must match; "": anything.
Result<std::string> grammar_of(const Flags& flags) {
  if (flags.grammar || flags.grammar_file) {
    std::string grammar = flags.grammar.value_or("");
    if (flags.grammar_file) {
      HEARTH_TRY(grammar, read_file(*flags.grammar_file, "grammar file"));
    }
    if (grammar.find_first_not_of(" \t\r\n") == std::string::npos)
      return fail(ErrorCode::kInvalidArgument, "{}: expected a grammar, got nothing",
                  flags.grammar ? "--grammar" : "--grammar-file");
    return grammar;
  }
  if (!flags.json_schema) return "";
  std::string schema = *flags.json_schema;
  if (schema.starts_with('@')) {
    HEARTH_TRY(schema, read_file(schema.substr(1), "schema file"));
  }
  auto grammar = model::grammar_of_json_schema(schema);
  if (!grammar) return fail(ErrorCode::kInvalidArgument, "--json-schema: {}", grammar.error().message);
  return grammar;
}

Result<ChatOptions> chat_options(const Flags& flags) {
  ChatOptions options;
  options.model = std::filesystem::path(flags.model.model).filename().string();
  options.start = {.conversation = {.system = flags.system, .thinking = {}, .turns = {}},
                   .sampling = flags.sampling};
  options.stops = flags.stops;
  HEARTH_TRY(options.grammar, grammar_of(flags));
  options.n_ctx = flags.ring.n_ctx;
  options.continues = flags.no_chat;
  options.divide = flags.reasoning == "auto";
  options.verbose = flags.ring.verbose;
  // Without a home there is nowhere to keep a history, which is no reason not to chat.
  if (!flags.no_history)
    if (const auto file = default_history_file()) options.history = *file;
  return options;
}

// One question, one answer.
int answer(node::HeadNode& head, const Prompter& prompter, const ChatOptions& options,
           const std::string& text) {
  Conversation talk = options.start.conversation;
  talk.turns.push_back({"user", text});
  const std::optional<bool> thinking = options.grammar.empty() ? std::nullopt : std::optional(false);
  auto prompt = options.continues ? prompter.raw(text) : prompter.chat(talk.messages(), thinking);
  if (!prompt) return report(prompt.error());
  const auto how = answer_options(options.start.sampling, options);
  if (!how) return report(how.error());
  AnswerPrinter printer(stdout_is_terminal());
  bool shown = false;
  const auto answered = generate_answer(head, prompter, std::move(*prompt), *how, [&](const auto& piece) {
    shown = true;
    return put(printer.show(piece));
  });
  if (answered || shown) (void)put(printer.end());  // finish_output() tells when it was not taken
  if (!answered) return report(answered.error());
  std::fprintf(stderr, "hearth: %s\n", describe(answered->done.timings).c_str());
  if (answered->done.reason == node::FinishReason::kContextFull) {
    std::fprintf(stderr, "hearth: %s\n",
                 context_is_full(options.n_ctx, options.start.sampling.context_shift).c_str());
    return kError;
  }
  if (answered->done.reason == node::FinishReason::kLength && !options.grammar.empty()) {
    std::fprintf(stderr, "hearth: the answer ended at the most tokens (-n) before it matched as a whole\n");
    return kError;
  }
  return answered->done.reason == node::FinishReason::kStopped && interrupts() > 0 ? kInterrupted : kOk;
}

int run(const Flags& flags) {
  flags.model.set_priority();
  const auto text = prompt_text(flags);
  if (!text) return report(text.error());
  auto chat_with = chat_options(flags);
  if (!chat_with) return report(chat_with.error());
  const auto stops = model::StopStrings::create(flags.stops);
  if (!stops) return report({stops.error().code, "--stop: " + stops.error().message});
  auto options = flags.ring.head_options(flags.model);
  if (!options) return report(options.error());
  auto key = flags.ring.key();
  if (!key) return report(key.error());
  count_interrupts();
  std::optional<Prompter> prompter;
  options->opened = [&](const model::ModelFile& model, const model::Tokenizer& tokenizer) -> Result<> {
    if (flags.sampling.context_shift) HEARTH_TRY_VOID(compute::Window::check_shift(model));
    HEARTH_TRY(prompter, Prompter::create(model, tokenizer, flags.no_chat));
    // A token that the model lacks, in a bias or a grammar, is said before weights are read.
    HEARTH_TRY(const AnswerOptions how, answer_options(flags.sampling, *chat_with));
    return model::Sampler::create(tokenizer, how.generate.sampling).transform([](const auto&) {});
  };
  std::unique_ptr<node::HeadNode> head;
  {
    ProgressBar bar;
    options->load_progress = [&bar](residency::LoadStage stage, std::uint64_t done, std::uint64_t total) {
      bar.update(name(stage), done, total);
    };
    auto started = node::HeadNode::start(*options, std::move(*key));
    if (!started) return report(started.error());
    head = std::move(*started);
  }
  if (flags.ring.verbose || !options->workers.empty())
    std::fprintf(stderr, "%s", describe(head->ring()).c_str());
  return *text ? answer(*head, *prompter, *chat_with, **text) : chat(*head, *prompter, std::move(*chat_with));
}

}  // namespace

void add_run(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("run", "answer a prompt, or chat on a terminal; alone or with workers");
  const auto flags = std::make_shared<Flags>();
  flags->model.add(*verb);
  flags->model.add_computing(*verb);
  verb->add_option("-p,--prompt", flags->prompt,
                   "the prompt (default: a pipe on standard input, else a chat)");
  verb->add_option("-f,--file", flags->file, "file with the prompt")
      ->check(CLI::ExistingFile)
      ->excludes("--prompt");
  verb->add_option("--system,--system-prompt", flags->system, "system message");
  verb->add_flag(
          "--no-chat,--raw", flags->no_chat,
          "continue text as it is, without the model's chat template; on a terminal, what is typed and "
          "what is generated become one text")
      ->excludes("--system");
  verb->add_option("-r,--stop,--reverse-prompt", flags->stops,
                   "end an answer before this text; may be repeated")
      ->allow_extra_args(false);
  verb->add_option("--reasoning-format", flags->reasoning,
                   "auto: reasoning is dimmed on a terminal and left out elsewhere; none: the text as it was "
                   "generated")
      ->check(CLI::IsMember({"auto", "none"}))
      ->capture_default_str();
  verb->add_flag("--no-history", flags->no_history, "do not keep what is typed in a chat");
  auto* schema = verb->add_option("-j,--json-schema", flags->json_schema,
                                  "JSON schema that answers match, or @FILE; {} for any JSON");
  auto* grammar =
      verb->add_option("--grammar", flags->grammar, "GBNF grammar that answers match")->excludes(schema);
  verb->add_option("--grammar-file", flags->grammar_file, "file with the grammar")
      ->check(CLI::ExistingFile)
      ->excludes(schema)
      ->excludes(grammar);
  flags->sampling.add(*verb);
  flags->ring.add(*verb);
  verb->footer(
      "The text goes to standard output, everything else to standard error.\n"
      "Examples:\n"
      "  hearth run -m model.gguf -p 'Who are you?'\n"
      "  hearth run -m model.gguf -p 'A person as JSON:' --json-schema @person.json\n"
      "  hearth run -m model.gguf --key head.key --worker KEY@192.168.1.7:7700 --temp 0 -f question.txt");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
