#include "cli/chat.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <expected>
#include <format>
#include <utility>

#include "base/os_process.h"
#include "base/text.h"
#include "cli/answer_printer.h"
#include "cli/console.h"
#include "cli/history_file.h"
#include "cli/line_editor.h"
#include "cli/typed_message.h"
#include "compute/window.h"

namespace hearth::cli {
namespace {

constexpr const char* kHelp =
    "  /set                 show all settings\n"
    "  /set NAME VALUE      change one, e.g. /set temp 0.5\n"
    "  /set system TEXT     the system message; none without TEXT\n"
    "  /set think on|off    whether the model reasons first, where it can be told\n"
    "  /clear               begin anew; settings stay\n"
    "  /regen               another answer in place of the last one\n"
    "  /save FILE           keep the conversation\n"
    "  /load FILE           go on with one that was kept\n"
    "  /bye                 end; also /exit and Ctrl-D\n"
    "A line that ends with \\ goes on in the next one, \"\"\" begins and ends a text of several lines.\n"
    "Arrow keys and Ctrl-R find what was typed before. Ctrl-C ends an answer or gives up a line.\n";

void note(const std::string& text) {
  std::fprintf(stderr, "%s\n", text.c_str());
}
void note_error(const Error& error) {
  std::fprintf(stderr, "hearth: %s\n", error.message.c_str());
}

// Not a reason to lose a conversation: it is too long for the context, no UTF-8, a setting that cannot be.
bool is_about_the_question(const Error& error) {
  return error.code == ErrorCode::kInvalidArgument;
}

class Chat {
 public:
  Chat(node::HeadNode& head, const Prompter& prompter, ChatOptions options)
      : head_(head), prompter_(prompter), options_(std::move(options)) {
    talk_ = options_.start.conversation;
    sampling_ = options_.start.sampling;
    load_history();
  }

  int run() {
    note(std::format("{} with {}. /? for help, Ctrl-D or /bye to end, Ctrl-C ends an answer.",
                     options_.continues ? "Text" : "Chat", options_.model));
    while (true) {
      const auto message = read_message();
      if (!message) return message.error();
      if (message->text().empty()) continue;
      remember(message->as_typed());
      if (message->is_command()) {
        if (!command(parse_command(message->text()))) return exit_;
      } else {
        ask(message->text());
      }
      if (!put({})) return kError;  // nobody hears the answers
      clear_interrupts();
    }
  }

 private:
  using End = LineEditor::End;

  // A message of one line or more; the exit code where there is none any more.
  std::expected<TypedMessage, int> read_message() {
    TypedMessage message;
    bool interrupted = false;
    while (true) {
      const auto line = editor_.read(message.started() ? ". " : "> ");
      if (line) {
        interrupted = false;
        if (message.add(*line)) return message;
        continue;
      }
      if (line.error() == End::kEnd) return std::unexpected(termination_asked() ? kInterrupted : exit_);
      clear_interrupts();
      if (interrupted) return std::unexpected(kInterrupted);
      interrupted = true;
      message = {};
      note("(Ctrl-C again, Ctrl-D or /bye to end)");
    }
  }

  void load_history() {
    if (!options_.history) return;
    const auto entries = cli::load_history(*options_.history);
    if (entries)
      for (const std::string& entry : *entries) editor_.remember(entry);
    else
      give_up_history(entries.error());
  }
  void remember(const std::string& text) {
    editor_.remember(text);
    if (!options_.history) return;
    if (const auto added = append_history(*options_.history, text); !added) give_up_history(added.error());
  }
  void give_up_history(const Error& error) {
    note_error({error.code, std::format("{}; what is typed is not kept (--no-history)", error.message)});
    options_.history.reset();
  }

  void ask(const std::string& text) {
    talk_.turns.push_back({"user", text});
    if (answer()) return;
    talk_.turns.pop_back();
  }

  // Adds the model's answer to what was said; false: there is none, and what was said is as before.
  bool answer() {
    auto done = generate();
    if (!done) {
      const bool goes_on = is_about_the_question(done.error());
      note_error(goes_on
                     ? Error{done.error().code,
                             done.error().message + "; the question is left out, the conversation goes on"}
                     : done.error());
      if (goes_on) return false;
      // The ring is gone, what was said need not be.
      exit_ = exit_code(done.error().code);
      note("/save FILE keeps the conversation, /bye ends");
      return false;
    }
    if (done->done.reason == node::FinishReason::kContextFull)
      note(std::format("hearth: {}, or begin anew (/clear)",
                       context_is_full(options_.n_ctx, sampling_.context_shift)));
    if (options_.verbose) note(std::format("hearth: {}", describe(done->done.timings)));
    talk_.turns.push_back({"assistant", std::move(done->text), std::move(done->reasoning)});
    exit_ = kOk;
    return true;
  }

  Result<Answer> generate() {
    HEARTH_TRY(const AnswerOptions options, answer_options(sampling_, options_));
    const std::optional<bool> thinking = options_.grammar.empty() ? talk_.thinking : std::optional(false);
    auto prompt =
        options_.continues ? prompter_.raw(talk_.joined()) : prompter_.chat(talk_.messages(), thinking);
    if (!prompt) return pass(std::move(prompt));
    AnswerPrinter printer(stdout_is_terminal());
    bool shown = false;
    auto done = generate_answer(head_, prompter_, std::move(*prompt), options, [&](const auto& piece) {
      shown = true;
      return put(printer.show(piece));
    });
    // Bright again, also when the ring died in the middle of a thought.
    if (done || shown) (void)put(printer.end());
    return done;
  }

  // False: the end.
  bool command(const Command& given) {
    const std::string& name = given.name;
    if (name == "bye" || name == "exit" || name == "quit") return false;
    if (name == "?" || name == "help") {
      std::fputs(kHelp, stderr);
    } else if (name == "set") {
      report_on(set(given.rest));
    } else if (name == "clear") {
      talk_.turns.clear();
      note("The conversation begins anew.");
    } else if (name == "regen") {
      regenerate();
    } else if (name == "save") {
      report_on(save(given.rest));
    } else if (name == "load") {
      report_on(load(given.rest));
    } else {
      note(std::format("hearth: there is no command {}; /? lists them, a space before it sends it as text",
                       quote("/" + name, 40)));
    }
    return true;
  }

  static void report_on(const Result<>& done) {
    if (!done) note_error(done.error());
  }

  void regenerate() {
    if (talk_.turns.empty()) return note("hearth: there is no answer yet");
    std::optional<Turn> old;
    if (talk_.turns.back().role == "assistant") {
      old = std::move(talk_.turns.back());
      talk_.turns.pop_back();
    }
    if (!answer() && old) talk_.turns.push_back(std::move(*old));
  }

  Result<> set(std::string_view text) {
    const std::string name = take_word(text);
    if (name.empty()) return show_settings();
    if (name == "parameter") return set(text);  // as in ollama
    if (name == "system") {
      if (options_.continues)
        return fail(ErrorCode::kInvalidArgument, "a text without roles has no system message");
      talk_.system = text;
      return {};
    }
    if (name == "think") {
      if (!prompter_.has_thinking_switch())
        return fail(ErrorCode::kInvalidArgument, "the model's chat template has no switch for reasoning");
      if (text != "on" && text != "off")
        return fail(ErrorCode::kInvalidArgument, "think: expected on or off, got {}", quote(text, 40));
      talk_.thinking = text == "on";
      return {};
    }
    SamplingFlags changed = sampling_;
    HEARTH_TRY_VOID(changed.set(name, text));
    return take(std::move(changed));
  }

  Result<> take(SamplingFlags changed) {
    if (changed.context_shift) HEARTH_TRY_VOID(compute::Window::check_shift(head_.model()));
    sampling_ = std::move(changed);
    return {};
  }

  Result<> show_settings() const {
    for (const auto& [name, value] : sampling_.values())
      note(std::format("  {:<20} {}", name, value.empty() ? "(default)" : value));
    if (!options_.continues)
      note(std::format("  {:<20} {}", "system",
                       talk_.system.empty() ? "(none)" : safe_for_terminal(talk_.system)));
    if (prompter_.has_thinking_switch())
      note(std::format("  {:<20} {}", "think",
                       !talk_.thinking   ? "(as the model does)"
                       : *talk_.thinking ? "on"
                                         : "off"));
    return {};
  }

  Result<> save(const std::string& path) const {
    if (path.empty()) return fail(ErrorCode::kInvalidArgument, "/save needs the name of a file");
    std::error_code ignored;
    const bool was_there = std::filesystem::exists(path, ignored);
    if (was_there &&
        (!std::filesystem::is_regular_file(path, ignored) || !load_conversation(path, sampling_)))
      return fail(ErrorCode::kInvalidArgument,
                  "{} is there and holds no conversation; choose another name, or remove it first",
                  safe_for_terminal(path));
    // What a link names is replaced, not the link.
    const std::string target = was_there ? std::filesystem::canonical(path, ignored).string() : path;
    HEARTH_TRY_VOID(save_conversation(target, {talk_, sampling_}, options_.model));
    note(std::format("{} {}.", was_there ? "Replaced" : "Saved as", safe_for_terminal(path)));
    return {};
  }

  Result<> load(const std::string& path) {
    if (path.empty()) return fail(ErrorCode::kInvalidArgument, "/load needs the name of a file");
    HEARTH_TRY(SavedConversation loaded, load_conversation(path, sampling_));
    HEARTH_TRY_VOID(take(std::move(loaded.sampling)));
    talk_ = std::move(loaded.conversation);
    note(std::format("Loaded {} message{}.", talk_.turns.size(), talk_.turns.size() == 1 ? "" : "s"));
    // A question without answer: the next thing typed would be the second one.
    const auto ends_with_question = [&] { return !talk_.turns.empty() && talk_.turns.back().role == "user"; };
    if (ends_with_question()) regenerate();
    if (ends_with_question()) talk_.turns.pop_back();  // it was left out
    return {};
  }

  node::HeadNode& head_;
  const Prompter& prompter_;
  ChatOptions options_;
  LineEditor editor_;
  Conversation talk_;
  SamplingFlags sampling_;
  int exit_ = kOk;
};

}  // namespace

Result<AnswerOptions> answer_options(const SamplingFlags& sampling, const ChatOptions& options) {
  AnswerOptions answer;
  HEARTH_TRY(answer.generate, sampling.options(options.n_ctx));
  answer.generate.sampling.grammar = options.grammar;
  answer.stops = options.stops;
  answer.divide = options.divide && !options.continues && options.grammar.empty();
  return answer;
}

int chat(node::HeadNode& head, const Prompter& prompter, ChatOptions options) {
  return Chat(head, prompter, std::move(options)).run();
}

}  // namespace hearth::cli
