#include "base/endpoint.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
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

}  // namespace tailor
