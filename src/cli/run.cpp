#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <string>

#include "base/os_process.h"
#include "cli/console.h"
#include "cli/generate.h"
#include "cli/verbs.h"
#include "compute/window.h"
#include "model/chat_template.h"

namespace hearth::cli {
namespace {

struct Flags {
  ModelFlags model;
  RingFlags ring;
  SamplingFlags sampling;
  std::optional<std::string> prompt;
  std::string file;
  bool raw = false;
  std::string system;
};

Result<std::string> read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return fail(ErrorCode::kNotFound, "cannot read the prompt file {}", path);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

// The prompt from -p, -f or a pipe; none: a chat.
Result<std::optional<std::string>> prompt_text(const Flags& flags) {
  if (flags.prompt) return *flags.prompt;
  if (!flags.file.empty()) {
    HEARTH_TRY(std::string text, read_file(flags.file));
    return text;
  }
  if (stdin_is_terminal()) return std::nullopt;
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  if (text.empty())
    return fail(
        ErrorCode::kInvalidArgument,
        "there is no prompt: standard input is no terminal and has nothing; give one with -p, -f or a "
        "pipe");
  return text;
}

void say_context_is_full(const Flags& flags) {
  std::fprintf(stderr, "hearth: the context of %u tokens is full; ask for a larger one (-c)%s\n",
               flags.ring.n_ctx,
               flags.sampling.context_shift ? " or keep less of the prompt (--keep)"
                                            : ", or discard the oldest half then (--context-shift)");
}

// One question, one answer.
int answer(node::HeadNode& head, const Prompter& prompter, const Flags& flags, const std::string& text) {
  std::vector<model::ChatMessage> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  messages.push_back({"user", text});
  auto tokens = flags.raw ? prompter.raw(text) : prompter.chat(messages);
  if (!tokens) return report(tokens.error());
  const auto done = generate_text(head, std::move(*tokens), flags.sampling.options(),
                                  [](const std::string& piece) { return put(piece); });
  if (!done) return report(done.error());
  (void)put("\n");  // finish_output() tells when it was not taken
  std::fprintf(stderr, "hearth: %s\n", describe(done->timings).c_str());
  if (done->reason == node::FinishReason::kContextFull) {
    say_context_is_full(flags);
    return kError;
  }
  return done->reason == node::FinishReason::kStopped && interrupts() > 0 ? kInterrupted : kOk;
}

// Not a reason to lose a conversation: it is too long for the context, or no UTF-8.
bool is_about_the_question(const Error& error) {
  return error.code == ErrorCode::kInvalidArgument;
}

// A conversation on a terminal. Ctrl-C ends an answer, twice the program.
int chat(node::HeadNode& head, const Prompter& prompter, const Flags& flags) {
  std::vector<model::ChatMessage> messages;
  if (!flags.system.empty()) messages.push_back({"system", flags.system});
  std::fprintf(stderr, "Chat with %s. An empty line or Ctrl-D ends it, Ctrl-C ends an answer.\n",
               flags.model.model.c_str());
  while (true) {
    std::fprintf(stderr, "> ");
    const auto line = read_terminal_line();
    if (!line || line->empty()) return interrupts() > 0 ? kInterrupted : kOk;
    messages.push_back({"user", *line});
    std::string text;
    const auto done = prompter.chat(messages).and_then([&](std::vector<model::Token> tokens) {
      auto answered =
          generate_text(head, std::move(tokens), flags.sampling.options(), [&text](const std::string& piece) {
            text += piece;
            return put(piece);
          });
      (void)put("\n");
      return answered;
    });
    if (!put({})) return kError;
    if (!done && is_about_the_question(done.error())) {
      std::fprintf(stderr, "hearth: %s; the question is left out, the conversation goes on\n",
                   done.error().message.c_str());
      messages.pop_back();
      continue;
    }
    if (!done) return report(done.error());
    clear_interrupts();
    if (done->reason == node::FinishReason::kContextFull) say_context_is_full(flags);
    messages.push_back({"assistant", text});
    if (flags.ring.verbose) std::fprintf(stderr, "hearth: %s\n", describe(done->timings).c_str());
  }
}

int run(const Flags& flags) {
  const auto text = prompt_text(flags);
  if (!text) return report(text.error());
  if (!*text && flags.raw)
    return report({ErrorCode::kInvalidArgument, "--raw continues a text: give one with -p, -f or a pipe"});
  auto options = flags.ring.head_options(flags.model);
  if (!options) return report(options.error());
  auto key = flags.ring.key();
  if (!key) return report(key.error());
  count_interrupts();
  std::optional<Prompter> prompter;
  options->opened = [&](const model::ModelFile& model, const model::Tokenizer& tokenizer) -> Result<> {
    if (flags.sampling.context_shift) HEARTH_TRY_VOID(compute::Window::check_shift(model));
    HEARTH_TRY(prompter, Prompter::create(model, tokenizer, flags.raw));
    return {};
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
  return *text ? answer(*head, *prompter, flags, **text) : chat(*head, *prompter, flags);
}

}  // namespace

void add_run(CLI::App& app, int& exit) {
  auto* verb = app.add_subcommand("run", "answer a prompt, or chat on a terminal; alone or with workers");
  const auto flags = std::make_shared<Flags>();
  flags->model.add(*verb);
  verb->add_option("-p,--prompt", flags->prompt,
                   "the prompt (default: a pipe on standard input, else a chat)");
  verb->add_option("-f,--file", flags->file, "file with the prompt")
      ->check(CLI::ExistingFile)
      ->excludes("--prompt");
  verb->add_option("--system", flags->system, "system message");
  verb->add_flag("--raw", flags->raw,
                 "continue the prompt's text as it is, without the model's chat template")
      ->excludes("--system");
  flags->sampling.add(*verb);
  flags->ring.add(*verb);
  verb->footer(
      "The text goes to standard output, everything else to standard error.\n"
      "Examples:\n"
      "  hearth run -m model.gguf -p 'Who are you?'\n"
      "  hearth run -m model.gguf --key head.key --worker KEY@192.168.1.7:7700 --temp 0 -f question.txt");
  verb->callback([flags, &exit] { exit = run(*flags); });
}

}  // namespace hearth::cli
