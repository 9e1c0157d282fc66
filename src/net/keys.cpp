#include "net/keys.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

namespace hearth::net {
namespace {

constexpr std::size_t kZ85Length = 40;
constexpr std::size_t kMaxFileBytes = 1024;  // three short lines; anything longer is another file
constexpr std::string_view kFirstLine = "hearth-key 1";

// Through a volatile pointer, so that the compiler cannot drop stores to memory that is about to die.
void wipe(void* data, std::size_t size) {
  volatile auto* bytes = static_cast<volatile unsigned char*>(data);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = 0;
}

struct WipedText {
  std::string text;
  ~WipedText() { wipe(text.data(), text.size()); }
};

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

std::string system_reason(int code) {
  return std::strerror(code);
}

// Takes the next line (without its newline) off `text`.
std::string_view take_line(std::string_view& text) {
  const std::size_t end = text.find('\n');
  std::string_view line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

Result<KeyPair::Raw> parse_field(std::string_view line, std::string_view name,
                                 const std::filesystem::path& path) {
  if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ' ')
    return fail(ErrorCode::kInvalidFile, "key file {}: expected a line '{} <64 hexadecimal digits>'",
                path.string(), name);
  auto key = DeviceKey::from_hex(line.substr(name.size() + 1));
  if (!key)
    return fail(ErrorCode::kInvalidFile, "key file {}: the line '{}' does not hold 64 hexadecimal digits",
                path.string(), name);
  return key->bytes;
}

Result<> write_all(int fd, std::string_view text, const std::filesystem::path& path) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return fail(ErrorCode::kIo, "cannot write key file {}: {}", path.string(), system_reason(errno));
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  if (::fsync(fd) != 0)
    return fail(ErrorCode::kIo, "cannot write key file {}: {}", path.string(), system_reason(errno));
  return {};
}

std::unexpected<Error> exists_already(const std::filesystem::path& path) {
  return fail(
      ErrorCode::kInvalidArgument,
      "key file {} exists already and is not overwritten; choose another path, or delete it to give this "
      "device a new identity",
      path.string());
}

WipedText file_text(const KeyPair& pair) {
  DeviceKey raw;
  std::ranges::copy(pair.secret(), raw.bytes.begin());
  const WipedText secret{raw.hex()};
  wipe(raw.bytes.data(), raw.bytes.size());
  return WipedText{
      std::format("{}\npublic {}\nsecret {}\n", kFirstLine, pair.public_key().hex(), secret.text)};
}

}  // namespace

KeyPair::KeyPair(KeyPair&& other) noexcept : public_(other.public_), secret_(other.secret_) {
  wipe(other.secret_.data(), other.secret_.size());
}

KeyPair& KeyPair::operator=(KeyPair&& other) noexcept {
  if (this == &other) return *this;
  public_ = other.public_;
  secret_ = other.secret_;
  wipe(other.secret_.data(), other.secret_.size());
  return *this;
}

KeyPair::~KeyPair() {
  wipe(secret_.data(), secret_.size());
}

KeyPair KeyPair::clone() const {
  KeyPair copy;
  copy.public_ = public_;
  copy.secret_ = secret_;
  return copy;
}

Result<KeyPair> KeyPair::generate() {
  char public_text[kZ85Length + 1];
  char secret_text[kZ85Length + 1];
  if (zmq_curve_keypair(public_text, secret_text) != 0)
    return fail(ErrorCode::kUnsupported, "cannot make a key pair: {}; hearth needs libzmq built with CURVE",
                zmq_strerror(zmq_errno()));
  KeyPair pair;
  const bool decoded = zmq_z85_decode(pair.public_.bytes.data(), public_text) != nullptr &&
                       zmq_z85_decode(pair.secret_.data(), secret_text) != nullptr;
  wipe(secret_text, sizeof secret_text);
  HEARTH_CHECK(decoded, "libzmq made a key that is not Z85");
  return pair;
}

Result<KeyPair> KeyPair::from_secret(std::span<const std::uint8_t, 32> secret) {
  char public_text[kZ85Length + 1];
  WipedText secret_text{z85_encode(secret)};
  if (zmq_curve_public(public_text, secret_text.text.c_str()) != 0)
    return fail(ErrorCode::kUnsupported,
                "cannot compute a public key: {}; hearth needs libzmq built with CURVE",
                zmq_strerror(zmq_errno()));
  KeyPair pair;
  HEARTH_CHECK(zmq_z85_decode(pair.public_.bytes.data(), public_text) != nullptr);
  std::copy(secret.begin(), secret.end(), pair.secret_.begin());
  return pair;
}

Result<KeyPair> KeyPair::load(const std::filesystem::path& path) {
  Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    if (errno == ENOENT)
      return fail(ErrorCode::kNotFound, "no key file {}; make one with: hearth keygen {}", path.string(),
                  path.string());
    return fail(ErrorCode::kIo, "cannot read key file {}: {}", path.string(), system_reason(errno));
  }
  // On the open file, not on the path: what is checked is what is read.
  struct stat info{};
  if (::fstat(file.get(), &info) != 0)
    return fail(ErrorCode::kIo, "cannot read key file {}: {}", path.string(), system_reason(errno));
  if (!S_ISREG(info.st_mode))
    return fail(ErrorCode::kInvalidFile, "key file {} is not a regular file", path.string());
  if ((info.st_mode & 077) != 0)
    return fail(
        ErrorCode::kInvalidFile,
        "key file {} can be read by other users (mode {:04o}, expected 0600); its secret may be known: run "
        "chmod 600 {} or make a new one",
        path.string(), static_cast<unsigned>(info.st_mode & 07777), path.string());

  WipedText content;
  content.text.resize(kMaxFileBytes + 1);
  std::size_t used = 0;
  while (used < content.text.size()) {
    const ssize_t n = ::read(file.get(), content.text.data() + used, content.text.size() - used);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      return fail(ErrorCode::kIo, "cannot read key file {}: {}", path.string(), system_reason(errno));
    if (n == 0) break;
    used += static_cast<std::size_t>(n);
  }
  if (used > kMaxFileBytes)
    return fail(ErrorCode::kInvalidFile, "{} is not a key file: larger than {} bytes", path.string(),
                kMaxFileBytes);

  std::string_view rest(content.text.data(), used);
  if (const std::string_view first = take_line(rest); first != kFirstLine) {
    if (first.starts_with("hearth-key "))
      return fail(ErrorCode::kVersionMismatch,
                  "key file {} has a version this hearth cannot read, expected '{}'", path.string(),
                  kFirstLine);
    return fail(ErrorCode::kInvalidFile, "{} is not a key file: expected the first line '{}'", path.string(),
                kFirstLine);
  }
  HEARTH_TRY(const Raw public_raw, parse_field(take_line(rest), "public", path));
  HEARTH_TRY(Raw secret_raw, parse_field(take_line(rest), "secret", path));
  auto pair = from_secret(secret_raw);
  wipe(secret_raw.data(), secret_raw.size());
  if (!pair) return pair;
  if (!rest.empty())
    return fail(ErrorCode::kInvalidFile, "key file {}: unexpected text after the third line", path.string());
  if (pair->public_.bytes != public_raw)
    return fail(
        ErrorCode::kInvalidFile,
        "key file {}: the public key does not belong to the secret (expected {}); the file is damaged",
        path.string(), pair->public_.hex());
  return pair;
}

Result<> KeyPair::save(const std::filesystem::path& path) const {
  const WipedText text = file_text(*this);

  // Written beside its place and linked there: link() fails when the name is taken, so neither a half-written
  // file nor an overwritten identity can result.
  std::string temporary = path.string() + ".XXXXXX";
  const Fd file(::mkstemp(temporary.data()));  // mode 0600
  if (file.get() < 0)
    return fail(ErrorCode::kIo, "cannot create key file {}: {}", path.string(), system_reason(errno));
  Result<> written = write_all(file.get(), text.text, path);
  if (written && ::link(temporary.c_str(), path.c_str()) != 0) {
    const int code = errno;
    if (code == EEXIST) {
      written = exists_already(path);
    } else if (code == EPERM || code == ENOTSUP || code == ENOSYS || code == EACCES) {
      // A file system without hard links (FAT, shared storage of a phone): create exclusively instead.
      const Fd direct(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
      if (direct.get() < 0) {
        written = errno == EEXIST ? exists_already(path)
                                  : fail(ErrorCode::kIo, "cannot create key file {}: {}", path.string(),
                                         system_reason(errno));
      } else if (written = write_all(direct.get(), text.text, path); !written) {
        ::unlink(path.c_str());
      }
    } else {
      written = fail(ErrorCode::kIo, "cannot create key file {}: {}", path.string(), system_reason(code));
    }
  }
  ::unlink(temporary.c_str());
  if (!written) return written;
  // The name must survive a power cut as the content does; a file system that cannot sync folders is not an
  // error.
  const std::filesystem::path folder =
      path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  if (const Fd directory(::open(folder.c_str(), O_RDONLY | O_CLOEXEC)); directory.get() >= 0)
    ::fsync(directory.get());
  return {};
}

Result<UnnamedKeyFile> UnnamedKeyFile::make(const KeyPair& pair) {
  UnnamedKeyFile file(::memfd_create("hearth-key", 0));  // inherited
  if (file.descriptor_ < 0 || ::fchmod(file.descriptor_, 0600) != 0)
    return fail(ErrorCode::kIo, "cannot make a key file in memory: {}", system_reason(errno));
  const WipedText text = file_text(pair);
  HEARTH_TRY_VOID(write_all(file.descriptor_, text.text, file.path()));
  return file;
}

UnnamedKeyFile::UnnamedKeyFile(UnnamedKeyFile&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)) {}

UnnamedKeyFile::~UnnamedKeyFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

std::filesystem::path UnnamedKeyFile::path() const {
  return std::format("/proc/self/fd/{}", descriptor_);
}

std::string z85_encode(std::span<const std::uint8_t, 32> raw) {
  std::string text(kZ85Length + 1, '\0');
  HEARTH_CHECK(zmq_z85_encode(text.data(), raw.data(), raw.size()) != nullptr);
  text.resize(kZ85Length);
  return text;
}

Result<KeyPair::Raw> z85_decode(std::string_view text) {
  if (text.size() != kZ85Length)
    return fail(ErrorCode::kInvalidArgument, "a Z85 key has {} characters, got {}", kZ85Length, text.size());
  const std::string terminated(text);
  KeyPair::Raw raw{};
  if (terminated.find('\0') != std::string::npos || zmq_z85_decode(raw.data(), terminated.c_str()) == nullptr)
    return fail(ErrorCode::kInvalidArgument, "a Z85 key has a character outside of Z85");
  return raw;
}

}  // namespace hearth::net
