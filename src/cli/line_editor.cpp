#include "cli/line_editor.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <optional>
#include <string_view>

#include <histedit.h>

#include "base/os_process.h"
#include "cli/history_file.h"
#include "model/tokenizer.h"

namespace hearth::cli {
namespace {

constexpr std::string_view kPasteBegin = "\x1b[200~", kPasteEnd = "\x1b[201~";
constexpr wchar_t kQuoteNext = 0x16;  // Ctrl-V: the next character is text
// How long the rest of a key's bytes may take, which a terminal sends at once.
constexpr std::chrono::milliseconds kRestOfKey{50};

std::wstring to_wide(std::string_view text) {
  std::wstring wide;
  for (std::size_t i = 0; i < text.size();) {
    auto value = static_cast<std::uint32_t>(static_cast<unsigned char>(text[i++]));
    if (value >= 0x80) value &= value >= 0xF0 ? 0x07U : value >= 0xE0 ? 0x0FU : 0x1FU;
    while (i < text.size() && (static_cast<unsigned char>(text[i]) & 0xC0U) == 0x80)
      value = value << 6U | (static_cast<unsigned char>(text[i++]) & 0x3FU);
    wide += static_cast<wchar_t>(value);
  }
  return wide;
}

std::string to_utf8(std::wstring_view wide) {
  std::string text;
  for (const wchar_t wide_char : wide) {
    const auto c = static_cast<std::uint32_t>(wide_char);
    const auto put = [&text](std::uint32_t byte) { text += static_cast<char>(byte); };
    if (c < 0x80) {
      put(c);
    } else if (c < 0x800) {
      put(0xC0U | c >> 6U), put(0x80U | (c & 0x3FU));
    } else if (c < 0x10000) {
      put(0xE0U | c >> 12U), put(0x80U | (c >> 6U & 0x3FU)), put(0x80U | (c & 0x3FU));
    } else {
      put(0xF0U | c >> 18U), put(0x80U | (c >> 12U & 0x3FU)), put(0x80U | (c >> 6U & 0x3FU)),
          put(0x80U | (c & 0x3FU));
    }
  }
  return text;
}

// What is typed, byte by byte; keeps what comes before it is asked for.
class Typed {
 public:
  using End = LineEditor::End;

  std::expected<char, End> next() {
    if (!bytes_.empty() || fill(std::nullopt)) {
      const char byte = bytes_.front();
      bytes_.erase(0, 1);
      return byte;
    }
    return std::unexpected(end_);
  }
  // Takes `text` if it comes next; waits a moment for the rest of it.
  bool take(std::string_view text) {
    while (bytes_.size() < text.size() && text.starts_with(bytes_))
      if (!fill(kRestOfKey)) break;
    if (!bytes_.starts_with(text)) return false;
    bytes_.erase(0, text.size());
    return true;
  }

 private:
  bool fill(std::optional<std::chrono::milliseconds> timeout) {
    std::array<char, 4096> read{};
    const InputWait waited = wait_for_input(timeout);
    if (waited == InputWait::kTimeout) return false;
    end_ = waited == InputWait::kInterrupted && !termination_asked() ? End::kInterrupted : End::kEnd;
    if (waited == InputWait::kInterrupted) return false;
    const std::size_t n = read_input(read);
    bytes_.append(read.data(), n);
    return n > 0;
  }
  std::string bytes_;
  End end_ = End::kEnd;
};

}  // namespace

struct LineEditor::Impl {
  Typed typed;
  model::Utf8Stream utf8;
  std::deque<wchar_t> waiting;  // characters for libedit
  bool in_paste = false;
  std::optional<End> end;  // why the line that is read ends
  std::wstring prompt;
  EditLine* editor = nullptr;  // null: plain lines
  HistoryW* history = nullptr;

  ~Impl() {
    if (editor == nullptr) return;
    el_end(editor);
    history_wend(history);
  }

  static Impl& of(EditLine* editor) {
    void* self = nullptr;
    el_wget(editor, EL_CLIENTDATA, &self);
    return *static_cast<Impl*>(self);
  }
  static wchar_t* prompt_of(EditLine* editor) { return of(editor).prompt.data(); }
  static int read_char(EditLine* editor, wchar_t* out) {
    Impl& self = of(editor);
    while (self.waiting.empty())
      if (!self.fill()) return -1;
    *out = self.waiting.front();
    self.waiting.pop_front();
    return 1;
  }
  static unsigned char interrupt(EditLine* editor, wint_t) {
    of(editor).end = End::kInterrupted;
    return CC_EOF;
  }
  static unsigned char suspend(EditLine* editor, wint_t) {
    el_wset(editor, EL_PREP_TERM, 0);
    suspend_self();
    el_wset(editor, EL_PREP_TERM, 1);
    return CC_REDISPLAY;
  }

  bool fill();
  void start();
  std::expected<std::string, End> edited();
  std::expected<std::string, End> plain();
};

// Makes characters of the next bytes.
bool LineEditor::Impl::fill() {
  const auto byte = typed.next();
  if (!byte) {
    end = byte.error();
    return false;
  }
  if (*byte == kPasteBegin[0] && typed.take((in_paste ? kPasteEnd : kPasteBegin).substr(1))) {
    in_paste = !in_paste;
    return true;
  }
  for (const wchar_t c : to_wide(utf8.push(std::string_view(&*byte, 1)))) {
    const bool is_control = c < 0x20 || c == 0x7F;
    if (in_paste && is_control) {
      if (c != L'\r' && c != L'\n' && c != L'\t') continue;
      waiting.push_back(kQuoteNext);
    }
    waiting.push_back(in_paste && c == L'\r' ? L'\n' : c);
  }
  return true;
}

void LineEditor::Impl::start() {
  use_utf8_locale();  // libedit reads and writes characters by it
  editor = el_init("hearth", stdin, stderr, stderr);
  if (editor == nullptr) return;
  history = history_winit();
  HistEventW event{};
  history_w(history, &event, H_SETSIZE, static_cast<int>(kHistoryEntries));
  history_w(history, &event, H_SETUNIQUE, 1);
  el_wset(editor, EL_CLIENTDATA, this);
  el_wset(editor, EL_EDITOR, L"emacs");
  el_wset(editor, EL_SIGNAL, 0);
  el_wset(editor, EL_PROMPT, &Impl::prompt_of);
  el_wset(editor, EL_GETCFN, &Impl::read_char);
  el_wset(editor, EL_HIST, history_w, history);
  // Keys come as characters, so that none of them can end the program while the terminal is set for editing.
  el_wset(editor, EL_SETTY, L"-d", L"-isig", nullptr);
  el_wset(editor, EL_ADDFN, L"hearth-interrupt", L"give up the line", &Impl::interrupt);
  el_wset(editor, EL_ADDFN, L"hearth-suspend", L"stop the program", &Impl::suspend);
  static constexpr std::pair<const wchar_t*, const wchar_t*> kKeys[] = {
      {L"^C", L"hearth-interrupt"},   {L"^Z", L"hearth-suspend"},          {L"^R", L"em-inc-search-prev"},
      {L"^V", L"ed-quoted-insert"},   {L"\\e[3~", L"ed-delete-next-char"}, {L"\\e[1~", L"ed-move-to-beg"},
      {L"\\e[4~", L"ed-move-to-end"}, {L"\\e[H", L"ed-move-to-beg"},       {L"\\e[F", L"ed-move-to-end"},
      {L"\\e[1;5C", L"em-next-word"}, {L"\\e[1;5D", L"ed-prev-word"},
  };
  for (const auto& [key, command] : kKeys) el_wset(editor, EL_BIND, key, command, nullptr);
}

std::expected<std::string, LineEditor::End> LineEditor::Impl::edited() {
  el_resize(editor);
  // Before the prompt is seen: what is typed then is shown once, by the editor.
  el_wset(editor, EL_PREP_TERM, 1);
  std::fputs("\x1b[?2004h", stderr);  // the terminal marks what is pasted
  int n = 0;
  const wchar_t* line = el_wgets(editor, &n);
  std::fputs("\x1b[?2004l", stderr);
  if (line == nullptr || n <= 0) {
    in_paste = false;
    waiting.clear();
    std::fputs(end == End::kInterrupted ? "^C\n" : "\n", stderr);
    return std::unexpected(end.value_or(End::kEnd));
  }
  std::wstring_view text(line, static_cast<std::size_t>(n));
  if (text.ends_with(L'\n')) text.remove_suffix(1);
  return to_utf8(text);
}

std::expected<std::string, LineEditor::End> LineEditor::Impl::plain() {
  std::fputs(to_utf8(prompt).c_str(), stderr);
  std::string line;
  while (true) {
    const auto byte = typed.next();
    if (!byte && !line.empty() && byte.error() == End::kEnd) return line;
    if (!byte) return std::unexpected(byte.error());
    if (*byte == '\n') return line;
    line += *byte;
  }
}

LineEditor::LineEditor() : impl_(std::make_unique<Impl>()) {
  const char* terminal = std::getenv("TERM");
  const bool moves = terminal != nullptr && *terminal != '\0' && std::string_view(terminal) != "dumb";
  if (stderr_is_terminal() && moves) impl_->start();
}

LineEditor::~LineEditor() = default;

std::expected<std::string, LineEditor::End> LineEditor::read(const std::string& prompt) {
  impl_->prompt = to_wide(prompt);
  impl_->end.reset();
  return impl_->editor != nullptr ? impl_->edited() : impl_->plain();
}

void LineEditor::remember(const std::string& text) {
  if (impl_->editor == nullptr) return;
  HistEventW event{};
  history_w(impl_->history, &event, H_ENTER, to_wide(text).c_str());
}

}  // namespace hearth::cli
