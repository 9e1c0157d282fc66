#include "net/resolve.h"

#include <algorithm>
#include <memory>

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace hearth::net {
namespace {

std::string numeric(const sockaddr* address, socklen_t size) {
  char text[NI_MAXHOST];
  if (::getnameinfo(address, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) != 0) return {};
  return text;
}

bool is_connection_of(int descriptor, std::uint16_t local_port) {
  sockaddr_storage local{};
  socklen_t size = sizeof local;
  if (descriptor < 0 || ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&local), &size) != 0)
    return false;
  if (local.ss_family == AF_INET)
    return ntohs(reinterpret_cast<const sockaddr_in&>(local).sin_port) == local_port;
  if (local.ss_family == AF_INET6)
    return ntohs(reinterpret_cast<const sockaddr_in6&>(local).sin6_port) == local_port;
  return false;
}

}  // namespace

Result<std::vector<std::string>> resolve(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* raw = nullptr;
  // "[::1]" is how people write an address with a port.
  const std::string bare =
      host.starts_with('[') && host.ends_with(']') ? host.substr(1, host.size() - 2) : host;
  const int rc = bare.empty() ? EAI_NONAME : ::getaddrinfo(bare.c_str(), nullptr, &hints, &raw);
  if (rc != 0)
    return fail(ErrorCode::kPeerGone, "cannot find the address of host '{}': {}; give a numeric address",
                host, ::gai_strerror(rc));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> list(raw, &::freeaddrinfo);
  std::vector<std::string> hosts;
  for (const addrinfo* entry = list.get(); entry != nullptr; entry = entry->ai_next) {
    std::string text = numeric(entry->ai_addr, entry->ai_addrlen);
    if (entry->ai_family == AF_INET6 && !text.empty()) text = "[" + text + "]";
    if (!text.empty() && std::ranges::find(hosts, text) == hosts.end()) hosts.push_back(std::move(text));
  }
  if (hosts.empty()) return fail(ErrorCode::kPeerGone, "host '{}' has no IP address", host);
  return hosts;
}

std::string remote_address(int descriptor, std::uint16_t local_port) {
  sockaddr_storage remote{};
  socklen_t size = sizeof remote;
  if (!is_connection_of(descriptor, local_port) ||
      ::getpeername(descriptor, reinterpret_cast<sockaddr*>(&remote), &size) != 0)
    return {};
  return numeric(reinterpret_cast<const sockaddr*>(&remote), size);
}

void shut_down(int descriptor, std::uint16_t local_port) {
  if (is_connection_of(descriptor, local_port)) ::shutdown(descriptor, SHUT_RDWR);
}

}  // namespace hearth::net
