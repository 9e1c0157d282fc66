#include "cli/history_file.h"

#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "base/test_dir.h"

namespace hearth::cli {
namespace {

using namespace std::string_view_literals;

TEST(HistoryFile, KeepsWhatWasTypedToItself) {
  const TestDir dir;
  const auto path = dir.path() / "state" / "hearth" / "chat-history";
  EXPECT_THAT(load_history(path).value(), testing::IsEmpty());
  for (const char* entry : {"one", "two\nlines \\n", "\xC3\xA9"}) ASSERT_TRUE(append_history(path, entry));
  EXPECT_THAT(load_history(path).value(), testing::ElementsAre("one", "two\nlines \\n", "\xC3\xA9"));
  struct stat info{};
  ASSERT_EQ(::stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0600U);
  ASSERT_EQ(::stat(path.parent_path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777U, 0700U);
}

TEST(HistoryFile, BrokenLinesAreLeftOut) {
  const TestDir dir;
  const auto path = dir.write("h", "good\n\nbad\\x\nbad\\\n\xFF\nz\0ero\nalso\\\\good\nno end"sv);
  EXPECT_THAT(load_history(path).value(), testing::ElementsAre("good", "also\\good", "no end"));
  EXPECT_FALSE(load_history(dir.path()));
}

TEST(HistoryFile, OldEntriesGo) {
  const TestDir dir;
  std::string all;
  for (std::size_t i = 0; i < 2 * kHistoryEntries + 1; ++i) all += std::to_string(i) + "\n";
  const auto path = dir.write("h", all);
  const auto entries = load_history(path).value();
  ASSERT_EQ(entries.size(), kHistoryEntries);
  EXPECT_EQ(entries.back(), std::to_string(2 * kHistoryEntries));
  EXPECT_LT(std::filesystem::file_size(path), all.size() * 6 / 10);
  EXPECT_EQ(load_history(path).value(), entries);
}

TEST(HistoryFile, StandsInTheStateFolder) {
  setenv("XDG_STATE_HOME", "/s", 1);
  setenv("HOME", "/h", 1);
  EXPECT_EQ(default_history_file().value(), "/s/hearth/chat-history");
  unsetenv("XDG_STATE_HOME");
  EXPECT_EQ(default_history_file().value(), "/h/.local/state/hearth/chat-history");
  unsetenv("HOME");
  EXPECT_FALSE(default_history_file());
}

}  // namespace
}  // namespace hearth::cli
