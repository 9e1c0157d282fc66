#include "base/direct_reader.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <deque>
#include <iostream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/os_file.h"
#include "base/os_pages.h"
#include "base/read_queue.h"
#include "base/test_dir.h"

namespace hearth {
namespace {

using namespace std::chrono_literals;
using Caching = DirectReader::Caching;
using Method = DirectReader::Method;

constexpr std::size_t kPage = 4096;

// Byte i of every test file: no two places within 16 MiB look alike in 8 bytes.
std::uint8_t byte_at(std::uint64_t i) {
  return static_cast<std::uint8_t>((i / 8 * 2654435761U) >> (i % 8 * 4));
}

std::string content(std::size_t bytes) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(byte_at(i));
  return text;
}

// Position of the first byte that differs from the file's, or the size.
std::size_t equal_bytes(std::span<const std::uint8_t> got, std::uint64_t offset) {
  for (std::size_t i = 0; i < got.size(); ++i)
    if (got[i] != byte_at(offset + i)) return i;
  return got.size();
}

// Written to the disk, so that its pages can be dropped.
std::filesystem::path on_disk(const TestDir& dir, std::size_t bytes) {
  const auto path = dir.write("file", content(bytes));
  const int descriptor = open(path.c_str(), O_RDONLY);
  HEARTH_CHECK(fsync(descriptor) == 0);
  close(descriptor);
  return path;
}

std::size_t cached_pages(const std::filesystem::path& path) {
  const auto mapped = MappedFile::map(*InputFile::open(path));
  return *resident_pages(mapped->bytes());
}

// True on file systems that are memory: direct and cached mean nothing there.
bool is_memory(const std::filesystem::path& path) {
  constexpr long kTmpfs = 0x01021994;
  constexpr long kRamfs = 0x858458f6;
  struct statfs info{};
  HEARTH_CHECK(statfs(path.c_str(), &info) == 0);
  return info.f_type == kTmpfs || info.f_type == kRamfs;
}

class DirectReaderOf : public testing::TestWithParam<Method> {
 protected:
  // The reader of the parameter's method, or nothing where the system refuses it; the reason is printed.
  static std::optional<DirectReader> open(const std::filesystem::path& path, DirectReader::Options options) {
    options.method = GetParam();
    auto reader = DirectReader::open(path, std::move(options));
    if (reader) return *std::move(reader);
    if (reader.error().code == ErrorCode::kUnsupported)
      std::cout << "not tested: " << reader.error().message << '\n';
    else
      ADD_FAILURE() << reader.error().message;
    return std::nullopt;
  }
};

INSTANTIATE_TEST_SUITE_P(Methods, DirectReaderOf, testing::Values(Method::kUring, Method::kThreads),
                         [](const auto& of) { return of.param == Method::kUring ? "Uring" : "Threads"; });

TEST_P(DirectReaderOf, ReadsAnyAlignedRange) {
  const TestDir dir;
  const auto path = on_disk(dir, 1'000 * kPage);
  for (const bool allow_direct : {true, false}) {
    auto reader = open(path, {.queue_depth = 4, .request_bytes = 8 * kPage, .allow_direct = allow_direct});
    if (!reader) GTEST_SKIP();
    EXPECT_EQ(reader->method(), GetParam());
    EXPECT_EQ(reader->file_size(), 1'000 * kPage);
    for (const auto& [first, count] :
         {std::pair{0U, 1U}, {999U, 1U}, {3U, 7U}, {3U, 8U}, {3U, 9U}, {0U, 1'000U}}) {
      const auto buffer = AlignedBuffer::make(count * kPage);
      const auto read = reader->read(first * kPage, buffer->bytes());
      ASSERT_TRUE(read) << read.error().message;
      EXPECT_EQ(equal_bytes(buffer->bytes(), first * kPage), count * kPage) << first << ' ' << count;
    }
    EXPECT_EQ(reader->bytes_read(), (1 + 1 + 7 + 8 + 9 + 1'000) * kPage);
  }
}

TEST_P(DirectReaderOf, KeepsManyReadsInFlightAndCompletesEachOnce) {
  constexpr std::size_t kReads = 50;
  const TestDir dir;
  const auto path = on_disk(dir, kReads * 5 * kPage);
  auto reader = open(path, {.queue_depth = 8, .request_bytes = 2 * kPage});
  if (!reader) GTEST_SKIP();
  const auto buffer = AlignedBuffer::make(kReads * 5 * kPage);
  for (std::size_t i = 0; i < kReads; ++i)
    reader->submit({.id = 1'000 + i,
                    .offset = i * 5 * kPage,
                    .into = buffer->bytes().subspan(i * 5 * kPage, 5 * kPage)});
  EXPECT_EQ(reader->pending(), kReads);
  std::map<std::uint64_t, int> times;
  while (reader->pending() > 0) {
    const auto completed = reader->wait(60s);
    ASSERT_TRUE(completed) << completed.error().message;
    ASSERT_TRUE(*completed) << "nothing for a minute";
    ASSERT_FALSE((*completed)->error) << (*completed)->error->message;
    ++times[(*completed)->id];
  }
  EXPECT_EQ(times.size(), kReads);
  for (const auto& [id, count] : times) EXPECT_EQ(count, 1) << id;
  EXPECT_EQ(equal_bytes(buffer->bytes(), 0), kReads * 5 * kPage);
}

TEST_P(DirectReaderOf, LeavesNoPagesInThePageCache) {
  const TestDir dir;
  if (is_memory(dir.path())) GTEST_SKIP() << dir.path() << " is memory";
  const auto path = on_disk(dir, 256 * kPage);
  for (const bool allow_direct : {true, false}) {
    {
      // Whoever wrote or read the file before left it in the cache: that must not count against us.
      std::vector<std::uint8_t> all(256 * kPage);
      ASSERT_TRUE(InputFile::open(path)->read_at(0, all));
    }
    auto reader = open(path, {.queue_depth = 4, .request_bytes = 16 * kPage, .allow_direct = allow_direct});
    if (!reader) GTEST_SKIP();
    EXPECT_EQ(reader->caching(), allow_direct ? Caching::kUnverified : Caching::kDropBehind);
    const auto buffer = AlignedBuffer::make(256 * kPage);
    ASSERT_TRUE(reader->read(0, buffer->bytes()));
    EXPECT_EQ(equal_bytes(buffer->bytes(), 0), 256 * kPage);
    EXPECT_EQ(cached_pages(path), 0U) << reader->describe();
    EXPECT_EQ(reader->caching(), allow_direct ? Caching::kDirect : Caching::kDropBehind)
        << reader->describe();
  }
}

TEST_P(DirectReaderOf, ReadsAFileThatEndsInsideABlock) {
  const TestDir dir;
  const auto path = on_disk(dir, 10 * kPage + 100);
  for (const bool allow_direct : {true, false}) {
    auto reader = open(path, {.request_bytes = 4 * kPage, .allow_direct = allow_direct});
    if (!reader) GTEST_SKIP();
    const auto buffer = AlignedBuffer::make(3 * kPage);
    reader->submit({.id = 7, .offset = 8 * kPage, .into = buffer->bytes(), .want_bytes = 2 * kPage + 100});
    const auto completed = reader->wait(60s);
    ASSERT_TRUE(completed && *completed);
    EXPECT_FALSE((*completed)->error) << (*completed)->error->message;
    EXPECT_EQ(equal_bytes(buffer->bytes().first(2 * kPage + 100), 8 * kPage), 2 * kPage + 100);
  }
}

TEST_P(DirectReaderOf, ATruncatedFileIsAnErrorThatSaysWhere) {
  const TestDir dir;
  const auto path = on_disk(dir, 10 * kPage);
  for (const bool allow_direct : {true, false}) {
    std::filesystem::resize_file(path, 10 * kPage);
    auto reader = open(path, {.request_bytes = 4 * kPage, .allow_direct = allow_direct});
    if (!reader) GTEST_SKIP();
    std::filesystem::resize_file(path, 5 * kPage + 10);
    const auto buffer = AlignedBuffer::make(8 * kPage);
    const auto read = reader->read(2 * kPage, buffer->bytes());
    ASSERT_FALSE(read);
    EXPECT_EQ(read.error().code, ErrorCode::kIo);
    // Requests of 4 pages: the first begins at byte 8192 and has 3 pages and 10 bytes.
    const std::string message = read.error().message;
    EXPECT_EQ(message.substr(0, message.find(": the file ends")),
              path.string() + (message.contains("byte 8192") ? ": byte 8192: expected 16384 bytes, got 12298"
                                                             : ": byte 24576: expected 16384 bytes, got 0"));
    EXPECT_TRUE(message.contains("it had 40960 bytes when it was opened")) << message;
    // It stays usable.
    EXPECT_TRUE(reader->read(0, buffer->bytes().first(4 * kPage)));
  }
}

TEST_P(DirectReaderOf, WakeEndsAWaitBeforeOrWhileItWaits) {
  const TestDir dir;
  auto reader = open(on_disk(dir, kPage), {});
  if (!reader) GTEST_SKIP();
  reader->wake();
  auto completed = reader->wait(1h);
  ASSERT_TRUE(completed);
  EXPECT_FALSE(*completed);
  std::thread other([&] { reader->wake(); });
  completed = reader->wait(1h);
  other.join();
  ASSERT_TRUE(completed);
  EXPECT_FALSE(*completed);
  completed = reader->wait(0s);
  ASSERT_TRUE(completed);
  EXPECT_FALSE(*completed);
}

TEST_P(DirectReaderOf, CancelCompletesEverything) {
  constexpr std::size_t kReads = 20;
  const TestDir dir;
  const auto path = on_disk(dir, kReads * 64 * kPage);
  auto reader = open(path, {.queue_depth = 2, .request_bytes = kPage});
  if (!reader) GTEST_SKIP();
  const auto buffer = AlignedBuffer::make(kReads * 64 * kPage);
  for (std::size_t i = 0; i < kReads; ++i)
    reader->submit(
        {.id = i, .offset = i * 64 * kPage, .into = buffer->bytes().subspan(i * 64 * kPage, 64 * kPage)});
  reader->cancel();
  std::size_t completions = 0;
  while (reader->pending() > 0) {
    const auto completed = reader->wait(60s);
    ASSERT_TRUE(completed && *completed);
    ASSERT_TRUE((*completed)->error);
    EXPECT_EQ((*completed)->error->code, ErrorCode::kCancelled);
    ++completions;
  }
  EXPECT_EQ(completions, kReads);
  EXPECT_LE(reader->bytes_read(), 2 * kPage);
  EXPECT_TRUE(reader->read(0, buffer->bytes()));
  EXPECT_EQ(equal_bytes(buffer->bytes(), 0), buffer->bytes().size());
}

TEST_P(DirectReaderOf, ReadStopsWhenAsked) {
  const TestDir dir;
  auto reader = open(on_disk(dir, 64 * kPage), {.queue_depth = 1, .request_bytes = kPage});
  if (!reader) GTEST_SKIP();
  std::stop_source stop;
  stop.request_stop();
  const auto buffer = AlignedBuffer::make(64 * kPage);
  const auto read = reader->read(0, buffer->bytes(), stop.get_token());
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(reader->pending(), 0U);
}

TEST_P(DirectReaderOf, MayBeDestroyedWhileItReads) {
  const TestDir dir;
  const auto buffer = AlignedBuffer::make(256 * kPage);
  auto reader = open(on_disk(dir, 256 * kPage), {.queue_depth = 8, .request_bytes = kPage});
  if (!reader) GTEST_SKIP();
  reader->submit({.id = 0, .offset = 0, .into = buffer->bytes()});
}

TEST_P(DirectReaderOf, AnInjectedFaultIsThatReadsErrorOnly) {
  const TestDir dir;
  const auto path = on_disk(dir, 12 * kPage);
  auto reader = open(path, {.queue_depth = 2, .request_bytes = 2 * kPage, .inject = [](std::uint64_t offset) {
                              return offset == 6 * kPage ? std::optional{EIO} : std::nullopt;
                            }});
  if (!reader) GTEST_SKIP();
  const auto buffer = AlignedBuffer::make(12 * kPage);
  for (std::size_t i = 0; i < 3; ++i)
    reader->submit(
        {.id = i, .offset = i * 4 * kPage, .into = buffer->bytes().subspan(i * 4 * kPage, 4 * kPage)});
  std::map<std::uint64_t, std::string> errors;
  while (reader->pending() > 0) {
    const auto completed = reader->wait(60s);
    ASSERT_TRUE(completed && *completed);
    errors[(*completed)->id] = (*completed)->error ? (*completed)->error->message : "";
  }
  EXPECT_EQ(errors[0], "");
  EXPECT_EQ(errors[1],
            path.string() + ": byte 24576: expected 8192 bytes, got 0: Input/output error; check the disk");
  EXPECT_EQ(errors[2], "");
  EXPECT_EQ(equal_bytes(buffer->bytes().first(4 * kPage), 0), 4 * kPage);
  EXPECT_EQ(equal_bytes(buffer->bytes().subspan(8 * kPage), 8 * kPage), 4 * kPage);
}

// Gives what the test says instead of what the disk would, and reads in the memory of the test's file.
class ScriptedQueue : public ReadQueue {
 public:
  struct Step {
    std::int64_t result;  // bytes read at most, or -errno
  };
  ScriptedQueue(std::deque<Step> steps, std::vector<std::uint64_t>& offsets)
      : steps_(std::move(steps)), offsets_(offsets) {}

  void push(const Request& request) override {
    offsets_.push_back(request.offset);
    HEARTH_CHECK(!steps_.empty(), "the script has no more steps");
    const Step step = steps_.front();
    steps_.pop_front();
    std::int64_t result = step.result;
    if (result > 0) {
      result = std::min<std::int64_t>(result, static_cast<std::int64_t>(request.into.size()));
      for (std::size_t i = 0; i < static_cast<std::size_t>(result); ++i)
        request.into[i] = byte_at(request.offset + i);
    }
    done_.push_back({.tag = request.tag, .result = result});
  }
  Result<> start() override { return {}; }
  Result<bool> wait(std::chrono::nanoseconds, std::vector<Done>& done) override {
    done.swap(done_);
    return false;
  }
  void wake() override {}

 private:
  std::deque<Step> steps_;
  std::vector<std::uint64_t>& offsets_;
  std::vector<Done> done_;
};

struct Scripted {
  Result<> result;
  std::vector<std::uint64_t> offsets;  // of all requests
  std::size_t equal_bytes = 0;
};

Scripted run_script(std::deque<ScriptedQueue::Step> steps) {
  const TestDir dir;
  const auto path = dir.write("file", content(4 * kPage));
  Scripted run;
  auto reader =
      DirectReader::open(path, {.queue_depth = 1, .request_bytes = 4 * kPage, .allow_direct = false},
                         std::make_unique<ScriptedQueue>(std::move(steps), run.offsets));
  const auto buffer = AlignedBuffer::make(4 * kPage);
  run.result = reader->read(0, buffer->bytes());
  run.equal_bytes = equal_bytes(buffer->bytes(), 0);
  return run;
}

TEST(DirectReader, ContinuesShortReads) {
  const auto run = run_script({{4096}, {100}, {3996}, {16384}});
  EXPECT_TRUE(run.result);
  EXPECT_EQ(run.equal_bytes, 4 * kPage);
  EXPECT_EQ(run.offsets, (std::vector<std::uint64_t>{0, 4096, 4196, 8192}));
}

TEST(DirectReader, RepeatsInterruptedReads) {
  const auto run = run_script({{-EINTR}, {-EAGAIN}, {8192}, {-EINTR}, {8192}});
  EXPECT_TRUE(run.result);
  EXPECT_EQ(run.equal_bytes, 4 * kPage);
  EXPECT_EQ(run.offsets, (std::vector<std::uint64_t>{0, 0, 0, 8192, 8192}));
}

TEST(DirectReader, GivesUpOnReadsThatAreAlwaysInterrupted) {
  const auto run = run_script(std::deque<ScriptedQueue::Step>(1'000, {-EAGAIN}));
  ASSERT_FALSE(run.result);
  EXPECT_TRUE(
      run.result.error().message.contains("expected 16384 bytes, got 0: Resource temporarily unavailable"))
      << run.result.error().message;
}

TEST(DirectReader, AnErrorAfterAShortReadSaysWhatCame) {
  const auto run = run_script({{8192}, {-EIO}});
  ASSERT_FALSE(run.result);
  EXPECT_TRUE(
      run.result.error().message.contains("byte 0: expected 16384 bytes, got 8192: Input/output error"))
      << run.result.error().message;
}

// A file system that accepts O_DIRECT and buffers: every request is answered through the page cache.
class BufferingQueue : public ReadQueue {
 public:
  // `direct_result`: instead, the answer to requests on other descriptors than a buffered one's, e.g.
  // -EINVAL.
  BufferingQueue(const std::filesystem::path& path, std::optional<int> direct_result)
      : file_(*InputFile::open(path)), direct_result_(direct_result) {
    posix_fadvise(file_.descriptor(), 0, 0, POSIX_FADV_RANDOM);
  }
  void push(const Request& request) override {
    const bool direct = (fcntl(request.descriptor, F_GETFL) & O_DIRECT) != 0;
    direct_requests += direct ? 1 : 0;
    std::int64_t result =
        direct && direct_result_ ? *direct_result_ : static_cast<std::int64_t>(request.into.size());
    if (result > 0) HEARTH_CHECK(file_.read_at(request.offset, request.into).has_value());
    done_.push_back({.tag = request.tag, .result = result});
  }
  Result<> start() override { return {}; }
  Result<bool> wait(std::chrono::nanoseconds, std::vector<Done>& done) override {
    done.swap(done_);
    return false;
  }
  void wake() override {}

  int direct_requests = 0;

 private:
  InputFile file_;
  std::optional<int> direct_result_;
  std::vector<Done> done_;
};

TEST(DirectReader, DoesNotTrustAFileSystemThatBuffersSilentlyOrRefusesLate) {
  for (const std::optional<int> direct_result : {std::optional<int>(), std::optional<int>(-EINVAL)}) {
    const TestDir dir;
    if (is_memory(dir.path())) GTEST_SKIP() << dir.path() << " is memory";
    const auto path = on_disk(dir, 256 * kPage);
    auto queue = std::make_unique<BufferingQueue>(path, direct_result);
    const BufferingQueue& seen = *queue;
    auto reader = DirectReader::open(path, {.queue_depth = 4, .request_bytes = 16 * kPage}, std::move(queue));
    ASSERT_TRUE(reader);
    if (!reader->is_direct()) GTEST_SKIP() << "this file system refuses direct reads: " << reader->describe();
    const auto buffer = AlignedBuffer::make(256 * kPage);
    const auto read = reader->read(0, buffer->bytes());
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(equal_bytes(buffer->bytes(), 0), 256 * kPage);
    EXPECT_EQ(reader->caching(), Caching::kDropBehind) << reader->describe();
    EXPECT_FALSE(reader->is_direct());
    // At most what was in flight when the first answer came.
    EXPECT_LE(seen.direct_requests, 4);
    EXPECT_EQ(cached_pages(path), 0U);
  }
}

TEST(DirectReader, RefusesWhatInputFileRefuses) {
  const TestDir dir;
  EXPECT_EQ(DirectReader::open(dir.path() / "absent").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(DirectReader::open(dir.path()).error().code, ErrorCode::kInvalidArgument);
}

TEST(DirectReader, TakesIoUringWhereItCan) {
  const TestDir dir;
  const auto path = on_disk(dir, kPage);
  const auto uring = DirectReader::open(path, {.method = Method::kUring});
  const auto reader = DirectReader::open(path);
  ASSERT_TRUE(reader) << reader.error().message;
  EXPECT_EQ(reader->method(), uring ? Method::kUring : Method::kThreads);
  EXPECT_TRUE(reader->describe().starts_with(uring ? "io_uring, " : "pread threads, ")) << reader->describe();
}

// As container runtimes do: every io_uring_setup of this process fails from now on.
bool refuse_io_uring(int error) {
  std::array<sock_filter, 4> program{
      sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_io_uring_setup},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  const sock_fprog filter{.len = program.size(), .filter = program.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

TEST(DirectReaderDeath, FallsBackToThreadsWhereIoUringIsRefused) {
  const TestDir dir;
  const auto path = on_disk(dir, 64 * kPage);
  for (const int error : {EPERM, ENOSYS}) {
    const auto in_a_child = [&] {
      if (!refuse_io_uring(error)) _exit(2);
      const auto uring = DirectReader::open(path, {.method = Method::kUring});
      if (uring || uring.error().code != ErrorCode::kUnsupported) _exit(3);
      auto reader = DirectReader::open(path, {.request_bytes = 4 * kPage});
      if (!reader || reader->method() != Method::kThreads) _exit(4);
      const auto buffer = AlignedBuffer::make(64 * kPage);
      if (!reader->read(0, buffer->bytes())) _exit(5);
      _exit(equal_bytes(buffer->bytes(), 0) == 64 * kPage ? 0 : 6);
    };
    EXPECT_EXIT(in_a_child(), testing::ExitedWithCode(0), "");
  }
}

TEST(DirectReaderDeath, MisalignedReadsAreBugs) {
  const TestDir dir;
  auto reader = DirectReader::open(on_disk(dir, 8 * kPage), {.allow_direct = false});
  const auto buffer = AlignedBuffer::make(2 * kPage);
  EXPECT_DEATH(static_cast<void>(reader->read(1, buffer->bytes())), "must be aligned");
  EXPECT_DEATH(static_cast<void>(reader->read(0, buffer->bytes().subspan(1, kPage))), "must be aligned");
  EXPECT_DEATH(static_cast<void>(reader->read(0, buffer->bytes().first(kPage + 1))), "must be aligned");
}

}  // namespace
}  // namespace hearth
