#include "base/os_file.h"

#include <array>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/test_dir.h"

namespace hearth {
namespace {

std::string_view text(std::span<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class T>
void expect_error(const Result<T>& result, ErrorCode code, std::string_view words) {
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(name(result.error().code), name(code)) << result.error().message;
  EXPECT_NE(result.error().message.find(words), std::string::npos) << result.error().message;
}

TEST(InputFile, ReadsAnyRange) {
  const TestDir dir;
  const auto path = dir.write("file", "0123456789");
  const auto file = InputFile::open(path);
  ASSERT_TRUE(file.has_value()) << file.error().message;
  EXPECT_EQ(file->size(), 10U);
  EXPECT_EQ(file->path(), path);
  std::array<std::uint8_t, 4> bytes{};
  ASSERT_TRUE(file->read_at(0, bytes).has_value());
  EXPECT_EQ(text(bytes), "0123");
  ASSERT_TRUE(file->read_at(6, bytes).has_value());
  EXPECT_EQ(text(bytes), "6789");
  EXPECT_TRUE(file->read_at(10, {}).has_value());
}

TEST(InputFile, ReadingPastTheEndFails) {
  const TestDir dir;
  const auto file = InputFile::open(dir.write("file", "0123456789"));
  std::array<std::uint8_t, 4> bytes{};
  expect_error(file->read_at(7, bytes), ErrorCode::kIo, "byte 7: cannot read 4 bytes, the file has 10");
  expect_error(file->read_at(11, {}), ErrorCode::kIo, "byte 11");
  expect_error(file->read_at(~std::uint64_t{0}, bytes), ErrorCode::kIo, "byte 18446744073709551615");
}

TEST(InputFile, FileThatShrinksIsAnError) {
  const TestDir dir;
  const auto path = dir.write("file", "0123456789");
  const auto file = InputFile::open(path);
  std::filesystem::resize_file(path, 5);
  std::array<std::uint8_t, 4> bytes{};
  expect_error(file->read_at(6, bytes), ErrorCode::kIo, "became shorter");
  expect_error(file->read_at(3, bytes), ErrorCode::kIo, "byte 5: the file became shorter");
}

TEST(InputFile, RefusesWhatIsNoRegularFile) {
  const TestDir dir;
  expect_error(InputFile::open(dir.path()), ErrorCode::kInvalidArgument, "is a directory");
  expect_error(InputFile::open("/dev/null"), ErrorCode::kInvalidArgument, "is a device");
  expect_error(InputFile::open(dir.path() / "absent"), ErrorCode::kNotFound, "no such file");

  const auto pipe = dir.path() / "pipe";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error(InputFile::open(pipe), ErrorCode::kInvalidArgument, "is a pipe");

  const int descriptor = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  const std::string socket_path = (dir.path() / "socket").string();
  ASSERT_LT(socket_path.size(), sizeof address.sun_path);
  std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  ASSERT_EQ(::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  expect_error(InputFile::open(socket_path), ErrorCode::kInvalidArgument, "is a socket");
  ::close(descriptor);
}

TEST(InputFile, ReportsTheSystemsReason) {
  const TestDir dir;
  std::filesystem::create_symlink("loop", dir.path() / "loop");
  expect_error(InputFile::open(dir.path() / "loop"), ErrorCode::kIo, "cannot open for reading: ");
}

TEST(InputFile, MovesItsHandle) {
  const TestDir dir;
  auto first = *InputFile::open(dir.write("first", "1"));
  auto second = *InputFile::open(dir.write("second", "22"));
  const int descriptor = first.descriptor();
  second = std::move(first);
  EXPECT_EQ(second.descriptor(), descriptor);
  EXPECT_EQ(second.size(), 1U);
  const InputFile third = std::move(second);
  std::array<std::uint8_t, 1> byte{};
  ASSERT_TRUE(third.read_at(0, byte).has_value());
  EXPECT_EQ(text(byte), "1");
}

TEST(InputFile, ClosesItsHandle) {
  const TestDir dir;
  int descriptor = -1;
  {
    const auto file = InputFile::open(dir.write("file", "x"));
    descriptor = file->descriptor();
    struct stat info{};
    EXPECT_EQ(::fstat(descriptor, &info), 0);
  }
  struct stat info{};
  EXPECT_EQ(::fstat(descriptor, &info), -1);
}

TEST(MappedFile, MapsAnyRange) {
  std::string content(20'000, '.');
  for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>('a' + i % 26);
  const TestDir dir;
  const auto file = InputFile::open(dir.write("file", content));
  const auto whole = MappedFile::map(*file);
  ASSERT_TRUE(whole.has_value()) << whole.error().message;
  EXPECT_EQ(text(whole->bytes()), content);
  for (const std::uint64_t offset : {0U, 1U, 4'095U, 4'096U, 5'000U, 19'999U}) {
    const auto part = MappedFile::map(*file, offset, 1);
    ASSERT_TRUE(part.has_value()) << part.error().message;
    EXPECT_EQ(text(part->bytes()), content.substr(offset, 1)) << offset;
  }
  EXPECT_EQ(text(MappedFile::map(*file, 100, 10'000)->bytes()), content.substr(100, 10'000));
}

TEST(MappedFile, OutlivesTheInputFile) {
  const TestDir dir;
  const auto map = [&]() -> MappedFile {
    const auto file = InputFile::open(dir.write("file", "content"));
    return *MappedFile::map(*file);
  };
  const MappedFile mapped = map();
  EXPECT_EQ(text(mapped.bytes()), "content");
}

TEST(MappedFile, EmptyRangeIsEmpty) {
  const TestDir dir;
  const auto empty = InputFile::open(dir.write("empty", ""));
  EXPECT_TRUE(MappedFile::map(*empty)->bytes().empty());
  const auto file = InputFile::open(dir.write("file", "content"));
  EXPECT_TRUE(MappedFile::map(*file, 7, 0)->bytes().empty());
}

TEST(MappedFile, RefusesRangesPastTheEnd) {
  const TestDir dir;
  const auto file = InputFile::open(dir.write("file", "content"));
  expect_error(MappedFile::map(*file, 0, 8), ErrorCode::kInvalidArgument, "cannot map 8 bytes from byte 0");
  expect_error(MappedFile::map(*file, 8, 0), ErrorCode::kInvalidArgument, "the file has 7");
  expect_error(MappedFile::map(*file, 1, ~std::uint64_t{0}), ErrorCode::kInvalidArgument, "cannot map");
}

TEST(MappedFile, MovesItsMapping) {
  const TestDir dir;
  auto first = *MappedFile::map(*InputFile::open(dir.write("first", "one")));
  auto second = *MappedFile::map(*InputFile::open(dir.write("second", "two")));
  const std::uint8_t* const place = first.bytes().data();
  second = std::move(first);
  const MappedFile third = std::move(second);
  EXPECT_EQ(third.bytes().data(), place);
  EXPECT_EQ(text(third.bytes()), "one");
}

std::span<const std::uint8_t> bytes_of(std::string_view words) {
  return {reinterpret_cast<const std::uint8_t*>(words.data()), words.size()};
}

TEST(ReplaceFile, IsThereWholeAndNothingElseIs) {
  const TestDir dir;
  const auto path = dir.path() / "file";
  for (const std::string& words : {std::string("first"), std::string(100'000, 'x'), std::string()}) {
    const auto done = replace_file(path, bytes_of(words));
    ASSERT_TRUE(done.has_value()) << done.error().message;
    const auto map = MappedFile::map(*InputFile::open(path));
    ASSERT_TRUE(map.has_value());
    EXPECT_EQ(text(map->bytes()), words);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
  }
}

TEST(ReplaceFile, WhatCannotBeWrittenLeavesNothing) {
  const TestDir dir;
  expect_error(replace_file(dir.path() / "none" / "file", bytes_of("x")), ErrorCode::kIo,
               "none/file: cannot write");
  std::filesystem::create_directories(dir.path() / "folder" / "full");
  expect_error(replace_file(dir.path() / "folder", bytes_of("x")), ErrorCode::kIo, "folder: cannot write");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(FileSystemOf, IsThatOfTheFolderAFileIsIn) {
  const TestDir dir;
  const auto folder = file_system_of(dir.path()), file = file_system_of(dir.write("file", "x"));
  ASSERT_TRUE(folder.has_value() && file.has_value());
  EXPECT_EQ(*folder, *file);
  const auto proc = file_system_of("/proc");
  ASSERT_TRUE(proc.has_value());
  EXPECT_NE(*folder, *proc);
  expect_error(file_system_of(dir.path() / "none"), ErrorCode::kIo, "cannot tell its file system");
}

}  // namespace
}  // namespace hearth
