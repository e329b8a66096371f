// tcp://HOST:PORT as everybody here reads it, so that what is checked is what ZeroMQ is given: HOST
// is an IPv4 address, an IPv6 address in brackets, * (all IPv4 interfaces) or a name.
#pragma once

#include <optional>
#include <string>

#include "base/result.h"

namespace tailor {

inline constexpr const char* kDefaultEndpoint = "tcp://127.0.0.1:5555";

struct HostPort {
  std::string host;  ///< without brackets; "*" = all IPv4 interfaces
  std::string port;  ///< "*" = any free one
  bool is_ipv6() const { return host.find(':') != std::string::npos; }
};

/// Nothing for other transports (ipc://...). Errors: InvalidArgument.
Result<std::optional<HostPort>> parse_tcp(const std::string& endpoint);
std::string to_endpoint(const HostPort& address);

/// To listen on: a name (of this host, of one of its interfaces, localhost) becomes a number, IPv4
/// where there is one. `address` unchanged where it is one already. Errors: InvalidArgument (no
/// such name). May ask the resolver, which may wait.
Result<HostPort> bindable(const HostPort& address);
/// To connect to: localhost is 127.0.0.1, whatever files and servers say of it; other names are
/// left to the moment of each connection.
HostPort connectable(HostPort address);

/// The address a client on this host uses for a bound one: all interfaces become 127.0.0.1.
std::string local_address(const std::string& bound);
/// The same endpoint with a wildcard port replaced by one that is free now. Errors:
/// InvalidArgument, Unavailable.
Result<std::string> with_free_port(const std::string& endpoint);
/// Errors: Unavailable (somebody listens there already), InvalidArgument (no such address).
Result<void> check_can_bind(const std::string& endpoint);

}  // namespace tailor
