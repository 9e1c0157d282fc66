#include <algorithm>
#include <atomic>
#include <cerrno>
#include <deque>
#include <format>
#include <list>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/direct_reader.h"
#include "base/os_file.h"
#include "base/os_pages.h"
#include "base/read_queue.h"

namespace hearth {
namespace {

// Suits every disk and file system that does not tell; packs and buffers are made for it.
constexpr std::size_t kDefaultAlignment = 4096;
// Results of "not now" and "interrupted" in a row before a request counts as failed.
constexpr unsigned kMaxRetries = 1000;
// Requests that must prove that their pages are absent before direct reading is trusted for good.
constexpr unsigned kProofs = 4;
// Requests that may try to: mincore says nothing about files of other users, and asking costs some
// microseconds.
constexpr unsigned kMaxTries = 256;
// Longer waits would overflow a deadline.
constexpr std::chrono::nanoseconds kMaxWait = std::chrono::hours{24};

std::string reason(int error) {
  return std::generic_category().message(error);
}

class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  [[nodiscard]] int get() const { return value_; }

 private:
  int value_ = -1;
};

struct DirectFile {
  Descriptor descriptor;  // -1 where the file system refuses direct reads
  std::size_t alignment = kDefaultAlignment;
};

Result<DirectFile> open_direct(const InputFile& file) {
  DirectFile direct;
#ifdef O_DIRECT
  Descriptor descriptor(open(file.path().c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECT));
  if (descriptor.get() < 0) return direct;
  struct stat opened{}, expected{};
  if (fstat(descriptor.get(), &opened) != 0 || fstat(file.descriptor(), &expected) != 0)
    return fail(ErrorCode::kIo, "{}: cannot look at the open file: {}", file.path().string(), reason(errno));
  if (opened.st_dev != expected.st_dev || opened.st_ino != expected.st_ino)
    return fail(ErrorCode::kIo, "{}: was replaced by another file while it was opened; try again",
                file.path().string());
#ifdef STATX_DIOALIGN
  struct statx info{};
  if (statx(descriptor.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0) {
    if (info.stx_dio_offset_align == 0) return direct;  // not for this file, whatever open() says
    const std::size_t alignment = std::max<std::size_t>(info.stx_dio_offset_align, info.stx_dio_mem_align);
    if (alignment > kDefaultAlignment) return direct;  // whoever reads aligns to no more
    direct.alignment = alignment;
  }
#endif
  direct.descriptor = std::move(descriptor);
#else
  static_cast<void>(file);
#endif
  return direct;
}

}  // namespace

struct DirectReader::State {
  // A read that was submitted and is not complete.
  struct Active {
    Read read;
    std::size_t want_bytes = 0;
    std::size_t cut_bytes = 0;  // handed to pieces so far
    unsigned in_flight = 0;     // pieces
    std::optional<Error> error;
  };
  // One request's worth of a read. `done_bytes` grows where the system reads less than it was asked for.
  struct Piece {
    std::list<Active>::iterator owner;
    std::uint64_t offset = 0;
    std::span<std::uint8_t> into;
    std::size_t want_bytes = 0;
    std::size_t done_bytes = 0;
    unsigned retries = 0;
    bool direct = false;      // how it was asked for the last time
    bool was_absent = false;  // its pages were, before it was read: it can prove something
  };

  State(InputFile opened_file, Options opened_options)
      : file(std::move(opened_file)), options(std::move(opened_options)) {}

  void fill();
  void ask(std::size_t slot);
  void take(const ReadQueue::Done& done);
  void finish_piece(std::size_t slot, std::optional<Error> error);
  void complete_if_done(std::list<Active>::iterator read);
  bool absent(const Piece& piece) const;
  void judge(const Piece& piece);
  void drop_behind(std::uint64_t offset, std::size_t bytes) const;
  [[nodiscard]] Error error_of(const Piece& piece, std::int64_t result) const;

  InputFile file;  // buffered
  Options options;
  Descriptor direct_file;
  std::size_t alignment = kDefaultAlignment;
  Method method = Method::kThreads;
  std::atomic<Caching> caching{Caching::kDropBehind};
  std::atomic<std::uint64_t> bytes_read{0};
  unsigned proofs = 0;
  unsigned tries = 0;

  std::list<Active> active;  // in the order of submit()
  std::list<Active>::iterator next_to_cut = active.end();
  std::vector<Piece> pieces;  // by slot; the slot is the request's tag
  std::vector<std::size_t> free_slots;
  std::deque<ReadQueue::Done> injected;  // results of requests that were not made
  std::deque<Completion> completions;
  std::vector<ReadQueue::Done> done;
  std::unique_ptr<ReadQueue> queue;  // last: destroyed first, while what it writes to is still there
};

// Cuts reads into pieces until the queue is full.
void DirectReader::State::fill() {
  while (!free_slots.empty() && next_to_cut != active.end()) {
    Active& read = *next_to_cut;
    if (read.cut_bytes >= read.want_bytes) {  // cut, or given up
      ++next_to_cut;
      continue;
    }
    const bool prove = caching == Caching::kUnverified && tries < kMaxTries;
    // What somebody read or wrote before says nothing about us: out with it, or no piece is a proof. The
    // whole read at once, because a large folio is dropped only as a whole.
    if (prove && read.cut_bytes == 0) drop_behind(read.read.offset, read.read.into.size());
    const std::size_t slot = free_slots.back();
    free_slots.pop_back();
    const std::size_t left = read.want_bytes - read.cut_bytes;
    const std::size_t whole = (left + alignment - 1) / alignment * alignment;
    Piece& piece = pieces[slot];
    piece = {.owner = next_to_cut,
             .offset = read.read.offset + read.cut_bytes,
             .into = read.read.into.subspan(read.cut_bytes, std::min(options.request_bytes, whole)),
             .want_bytes = std::min(options.request_bytes, left)};
    read.cut_bytes += piece.want_bytes;
    ++read.in_flight;
    if (prove) {
      ++tries;
      piece.was_absent = absent(piece);
    }
    ask(slot);
  }
}

void DirectReader::State::ask(std::size_t slot) {
  Piece& piece = pieces[slot];
  const std::uint64_t offset = piece.offset + piece.done_bytes;
  if (options.inject)
    if (const std::optional<int> error = options.inject(offset)) {
      injected.push_back({.tag = slot, .result = -*error});
      return;
    }
  // A short read that ends inside a block is the end of the file or a file system's freedom; the buffered
  // descriptor tells which.
  piece.direct = caching != Caching::kDropBehind && offset % alignment == 0;
  queue->push({.tag = slot,
               .descriptor = piece.direct ? direct_file.get() : file.descriptor(),
               .offset = offset,
               .into = piece.into.subspan(piece.done_bytes)});
}

void DirectReader::State::take(const ReadQueue::Done& result) {
  Piece& piece = pieces[result.tag];
  if (result.result > 0) {
    piece.retries = 0;
    piece.done_bytes += static_cast<std::size_t>(result.result);
    bytes_read += static_cast<std::uint64_t>(result.result);
  }
  if (piece.done_bytes >= piece.want_bytes) return finish_piece(result.tag, std::nullopt);
  if (piece.owner->error) return finish_piece(result.tag, std::nullopt);  // given up: not continued
  if (result.result > 0) return ask(result.tag);
  if ((result.result == -EINTR || result.result == -EAGAIN) && ++piece.retries < kMaxRetries)
    return ask(result.tag);
  if (result.result == -EINVAL && piece.direct) {
    caching = Caching::kDropBehind;  // O_DIRECT could be opened, but not used
    return ask(result.tag);
  }
  finish_piece(result.tag, error_of(piece, result.result));
}

void DirectReader::State::finish_piece(std::size_t slot, std::optional<Error> error) {
  Piece& piece = pieces[slot];
  if (!error && piece.direct && piece.was_absent && caching == Caching::kUnverified) judge(piece);
  if (!piece.direct || caching == Caching::kDropBehind) drop_behind(piece.offset, piece.into.size());
  Active& read = *piece.owner;
  --read.in_flight;
  if (error && !read.error) {
    read.error = std::move(error);
    read.cut_bytes = read.want_bytes;  // its other requests are not made any more
  }
  free_slots.push_back(slot);
  complete_if_done(piece.owner);
}

void DirectReader::State::complete_if_done(std::list<Active>::iterator read) {
  if (read->in_flight > 0 || read->cut_bytes < read->want_bytes) return;
  // Large folios that somebody else left: no single piece covers them.
  if (caching == Caching::kDropBehind) drop_behind(read->read.offset, read->read.into.size());
  completions.push_back({.id = read->read.id, .error = std::move(read->error)});
  if (next_to_cut == read) ++next_to_cut;
  active.erase(read);
}

// Whether no page of the piece is in the page cache.
bool DirectReader::State::absent(const Piece& piece) const {
  if (piece.offset >= file.size()) return false;
  const auto mapped = MappedFile::map(file, piece.offset,
                                      std::min<std::uint64_t>(piece.want_bytes, file.size() - piece.offset));
  if (!mapped) return false;
  const auto resident = resident_pages(mapped->bytes());
  return resident && *resident == 0;
}

void DirectReader::State::judge(const Piece& piece) {
  const auto mapped = MappedFile::map(file, piece.offset,
                                      std::min<std::uint64_t>(piece.want_bytes, file.size() - piece.offset));
  if (!mapped) return;
  const auto resident = resident_pages(mapped->bytes());
  if (!resident) return;
  // A few pages may have been read by another program meanwhile, e.g. at the edges by its read-ahead.
  if (*resident > count_pages(mapped->bytes()) / 2)
    caching = Caching::kDropBehind;
  else if (*resident == 0 && ++proofs == kProofs)
    caching = Caching::kDirect;
}

void DirectReader::State::drop_behind(std::uint64_t offset, std::size_t bytes) const {
  posix_fadvise(file.descriptor(), static_cast<off_t>(offset), static_cast<off_t>(bytes),
                POSIX_FADV_DONTNEED);
}

Error DirectReader::State::error_of(const Piece& piece, std::int64_t result) const {
  if (result < 0)
    return {ErrorCode::kIo,
            std::format("{}: byte {}: expected {} bytes, got {}: {}; check the disk", file.path().string(),
                        piece.offset, piece.want_bytes, piece.done_bytes, reason(static_cast<int>(-result)))};
  return {ErrorCode::kIo,
          std::format("{}: byte {}: expected {} bytes, got {}: the file ends there (it had {} bytes "
                      "when it was opened)",
                      file.path().string(), piece.offset, piece.want_bytes, piece.done_bytes, file.size())};
}

Result<DirectReader> DirectReader::open(const std::filesystem::path& path, Options options) {
  std::unique_ptr<ReadQueue> queue;
  Method method = Method::kUring;
  HEARTH_CHECK(options.queue_depth >= 1 && options.queue_depth <= kMaxQueueDepth);
  if (options.method != Method::kThreads) {
    auto uring = make_uring_queue(options.queue_depth);
    if (uring)
      queue = *std::move(uring);
    else if (options.method == Method::kUring)
      return pass(std::move(uring));
  }
  if (!queue) {
    method = Method::kThreads;
    HEARTH_TRY(queue, make_thread_queue(options.queue_depth));
  }
  HEARTH_TRY(DirectReader reader, open(path, std::move(options), std::move(queue)));
  reader.state_->method = method;
  return reader;
}

Result<DirectReader> DirectReader::open(const std::filesystem::path& path, Options options,
                                        std::unique_ptr<ReadQueue> queue) {
  HEARTH_CHECK(options.queue_depth >= 1 && options.queue_depth <= kMaxQueueDepth);
  HEARTH_TRY(InputFile file, InputFile::open(path));
  auto state = std::make_unique<State>(std::move(file), std::move(options));
  if (state->options.allow_direct) {
    HEARTH_TRY(DirectFile direct, open_direct(state->file));
    state->alignment = direct.alignment;
    if (direct.descriptor.get() >= 0) state->caching = Caching::kUnverified;
    state->direct_file = std::move(direct.descriptor);
  }
  std::size_t& request_bytes = state->options.request_bytes;
  HEARTH_CHECK(request_bytes > 0 && request_bytes <= kMaxRequestBytes);
  request_bytes = (request_bytes + state->alignment - 1) / state->alignment * state->alignment;
  // Where pages are read through the cache, not those around them.
  posix_fadvise(state->file.descriptor(), 0, 0, POSIX_FADV_RANDOM);
  state->pieces.resize(state->options.queue_depth);
  for (std::size_t slot = state->pieces.size(); slot-- > 0;) state->free_slots.push_back(slot);
  state->queue = std::move(queue);
  return DirectReader(std::move(state));
}

DirectReader::DirectReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
DirectReader::DirectReader(DirectReader&& other) noexcept = default;
DirectReader& DirectReader::operator=(DirectReader&& other) noexcept = default;
DirectReader::~DirectReader() = default;

void DirectReader::submit(const Read& read) {
  State& state = *state_;
  const std::size_t want = read.want_bytes == 0 ? read.into.size() : read.want_bytes;
  HEARTH_CHECK(!read.into.empty() && want <= read.into.size());
  HEARTH_CHECK(read.offset % state.alignment == 0 && read.into.size() % state.alignment == 0 &&
                   reinterpret_cast<std::uintptr_t>(read.into.data()) % state.alignment == 0,
               "a read must be aligned");
  state.active.push_back({.read = read, .want_bytes = want, .cut_bytes = 0, .in_flight = 0, .error = {}});
  if (state.next_to_cut == state.active.end()) state.next_to_cut = std::prev(state.active.end());
  state.fill();
  // What cannot be started now is started, or reported, by wait().
  static_cast<void>(state.queue->start());
}

Result<std::optional<DirectReader::Completion>> DirectReader::wait(std::chrono::nanoseconds timeout) {
  State& state = *state_;
  const auto deadline = std::chrono::steady_clock::now() + std::min(timeout, kMaxWait);
  bool over = false;
  while (true) {
    state.fill();
    while (!state.injected.empty()) {
      const ReadQueue::Done result = state.injected.front();
      state.injected.pop_front();
      state.take(result);
      state.fill();
    }
    if (over || !state.completions.empty()) {
      HEARTH_TRY_VOID(state.queue->start());
      if (state.completions.empty()) return std::nullopt;
      Completion completion = std::move(state.completions.front());
      state.completions.pop_front();
      return completion;
    }
    state.done.clear();
    const auto left = std::max(deadline - std::chrono::steady_clock::now(), std::chrono::nanoseconds{0});
    HEARTH_TRY(const bool woken, state.queue->wait(left, state.done));
    for (const ReadQueue::Done& result : state.done) state.take(result);
    over = woken || state.done.empty() || std::chrono::steady_clock::now() >= deadline;
  }
}

void DirectReader::wake() {
  state_->queue->wake();
}

void DirectReader::cancel() {
  State& state = *state_;
  for (auto next = state.active.begin(); next != state.active.end();) {
    const auto read = next++;
    if (!read->error)
      read->error = Error{ErrorCode::kCancelled,
                          std::format("{}: byte {}: reading {} bytes was cancelled",
                                      state.file.path().string(), read->read.offset, read->want_bytes)};
    read->cut_bytes = read->want_bytes;
    state.complete_if_done(read);
  }
}

std::size_t DirectReader::pending() const {
  return state_->active.size() + state_->completions.size();
}

Result<> DirectReader::read(std::uint64_t offset, std::span<std::uint8_t> into, std::stop_token stop) {
  HEARTH_CHECK(pending() == 0, "reads are pending");
  const std::stop_callback on_stop(stop, [this] { wake(); });
  submit({.id = 0, .offset = offset, .into = into});
  while (true) {
    auto completed = wait(kMaxWait);
    if (!completed) return pass(std::move(completed));
    if (!*completed) {
      if (stop.stop_requested()) cancel();
      continue;
    }
    if ((*completed)->error) return std::unexpected(*std::move((*completed)->error));
    return {};
  }
}

std::size_t DirectReader::alignment() const {
  return state_->alignment;
}

std::uint64_t DirectReader::file_size() const {
  return state_->file.size();
}

DirectReader::Method DirectReader::method() const {
  return state_->method;
}

DirectReader::Caching DirectReader::caching() const {
  return state_->caching;
}

std::string DirectReader::describe() const {
  const char* how = method() == Method::kUring ? "io_uring" : "pread threads";
  switch (caching()) {
    case Caching::kDirect:
      return std::format("{}, direct", how);
    case Caching::kUnverified:
      return std::format("{}, direct (unverified)", how);
    case Caching::kDropBehind:
      return std::format("{}, buffered and dropped behind", how);
  }
  return how;
}

std::uint64_t DirectReader::bytes_read() const {
  return state_->bytes_read;
}

}  // namespace hearth
