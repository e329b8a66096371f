#include "base/endpoint.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>

#include "base/numbers.h"

namespace tailor {
namespace {

constexpr const char* kLoopback = "127.0.0.1";

std::optional<std::string> number_of(const sockaddr* address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const void* bytes = nullptr;
  if (address != nullptr && address->sa_family == AF_INET)
    bytes = &reinterpret_cast<const sockaddr_in*>(address)->sin_addr;
  if (address != nullptr && address->sa_family == AF_INET6)
    bytes = &reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr;
  if (bytes == nullptr || inet_ntop(address->sa_family, bytes, text.data(), text.size()) == nullptr)
    return std::nullopt;
  return text.data();
}

std::optional<std::string> number_of_interface(const std::string& name) {
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return std::nullopt;
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(all, freeifaddrs);
  for (const int family : {AF_INET, AF_INET6})
    for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next)
      if (one->ifa_addr != nullptr && one->ifa_addr->sa_family == family && name == one->ifa_name)
        return number_of(one->ifa_addr);
  return std::nullopt;
}

Result<std::string> number_of_name(const std::string& name) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* all = nullptr;
  if (const int code = getaddrinfo(name.c_str(), nullptr, &hints, &all); code != 0)
    return fail(ErrorCode::kInvalidArgument, gai_strerror(code));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(all, freeaddrinfo);
  for (const int family : {AF_INET, AF_INET6})
    for (const addrinfo* one = all; one != nullptr; one = one->ai_next)
      if (one->ai_family == family)
        if (const auto number = number_of(one->ai_addr)) return *number;
  return fail(ErrorCode::kInvalidArgument, "it has no internet address");
}

bool is_number(const HostPort& address) {
  in_addr four;
  in6_addr six;
  return inet_pton(AF_INET, address.host.c_str(), &four) == 1 ||
         inet_pton(AF_INET6, address.host.substr(0, address.host.find('%')).c_str(), &six) == 1;
}

struct BoundSocket {
  int fd = -1;
  ~BoundSocket() {
    if (fd >= 0) close(fd);
  }
};

/// Binds and gives the port back; the socket closes again. ZeroMQ is given the same address.
Result<int> try_bind(const std::string& endpoint, const HostPort& given) {
  TAILOR_ASSIGN(const HostPort address, bindable(given));
  addrinfo hints = {};
  hints.ai_family = address.host == "*" ? AF_INET : AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const char* host = address.host == "*" ? nullptr : address.host.c_str();
  const std::string port = address.port == "*" ? "0" : address.port;
  if (const int code = getaddrinfo(host, port.c_str(), &hints, &found); code != 0)
    return fail(ErrorCode::kInvalidArgument, "cannot use " + endpoint + ": " + gai_strerror(code));
  BoundSocket socket_{socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  const int yes = 1;  // as ZeroMQ does: a port in TIME_WAIT is free
  setsockopt(socket_.fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  const int no = 0;  // and [::] takes IPv4 too
  if (found->ai_family == AF_INET6)
    setsockopt(socket_.fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
  const bool bound =
      bind(socket_.fd, found->ai_addr, found->ai_addrlen) == 0 && listen(socket_.fd, 1) == 0;
  const int reason = errno;
  freeaddrinfo(found);
  if (!bound && reason == EADDRINUSE) {
    return fail(ErrorCode::kUnavailable,
                endpoint +
                    " is in use (a cluster already runs there? see: tailor status --endpoint " +
                    endpoint + "); stop it or choose another address");
  }
  if (!bound) {
    return fail(ErrorCode::kInvalidArgument,
                "cannot bind " + endpoint + ": " + std::strerror(reason));
  }
  sockaddr_storage name = {};
  socklen_t length = sizeof name;
  getsockname(socket_.fd, reinterpret_cast<sockaddr*>(&name), &length);
  return ntohs(name.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(name).sin6_port
                                          : reinterpret_cast<sockaddr_in&>(name).sin_port);
}

}  // namespace

Result<std::optional<HostPort>> parse_tcp(const std::string& endpoint) {
  if (endpoint.rfind("ipc://", 0) == 0) return std::optional<HostPort>();
  const size_t colon = endpoint.rfind(':');
  if (endpoint.rfind("tcp://", 0) != 0 || colon < 7 || colon + 1 == endpoint.size())
    return fail(ErrorCode::kInvalidArgument,
                "an endpoint looks like tcp://127.0.0.1:5555, found " + endpoint);
  HostPort out{endpoint.substr(6, colon - 6), endpoint.substr(colon + 1)};
  const bool brackets = out.host.size() > 2 && out.host.front() == '[' && out.host.back() == ']';
  if (brackets) out.host = out.host.substr(1, out.host.size() - 2);
  if (brackets ? !out.is_ipv6() || !is_number(out) : out.is_ipv6())
    return fail(ErrorCode::kInvalidArgument,
                "an IPv6 endpoint looks like tcp://[::1]:5555, found " + endpoint);
  if (out.port != "*" && parse_number<uint16_t>(out.port).value_or(0) == 0)
    return fail(ErrorCode::kInvalidArgument,
                "a port is 1..65535 (or *, any free one to listen on), found " + endpoint);
  return std::optional<HostPort>(out);
}

std::string to_endpoint(const HostPort& address) {
  return "tcp://" + (address.is_ipv6() ? "[" + address.host + "]" : address.host) + ":" +
         address.port;
}

Result<HostPort> bindable(const HostPort& address) {
  if (address.host == "*" || is_number(address)) return address;
  if (address.host == "localhost") return connectable(address);
  if (const auto number = number_of_interface(address.host)) return HostPort{*number, address.port};
  auto number = number_of_name(address.host);
  if (!number)
    return fail(ErrorCode::kInvalidArgument, "cannot use " + to_endpoint(address) + ": " +
                                                 address.host +
                                                 " is neither an address nor an interface of this "
                                                 "machine, and as a name: " +
                                                 number.error().message);
  return HostPort{std::move(*number), address.port};
}

HostPort connectable(HostPort address) {
  if (address.host == "localhost") address.host = kLoopback;
  return address;
}

std::string local_address(const std::string& bound) {
  const auto address = parse_tcp(bound);
  if (!address || !*address) return bound;
  const std::string& host = (*address)->host;
  return host == "*" || host == "0.0.0.0" || host == "::"
             ? to_endpoint({"127.0.0.1", (*address)->port})
             : bound;
}

Result<std::string> with_free_port(const std::string& endpoint) {
  TAILOR_ASSIGN(const std::optional<HostPort> address, parse_tcp(endpoint));
  if (!address || address->port != "*") return endpoint;
  TAILOR_ASSIGN(const int port, try_bind(endpoint, *address));
  return to_endpoint({address->host, std::to_string(port)});
}

Result<void> check_can_bind(const std::string& endpoint) {
  TAILOR_ASSIGN(const std::optional<HostPort> address, parse_tcp(endpoint));
  if (!address) return {};
  TAILOR_TRY(try_bind(endpoint, *address));
  return {};
}

}  // namespace tailor
