// The secret of one cluster's control link. The launcher writes 32 random bytes into a file that
// only its user reads (RUN_DIR/link.key, 64 hexadecimal digits); coordinator, workers and predictor
// are given its path. From it comes one CURVE key pair that all of them share: the public half is
// as secret as the file, for CURVE never sends a server's key, and who does not know it cannot even
// say hello. So a peer shows that it belongs to the cluster, and what is said is encrypted.
// Source: CurveZMQ, rfc.zeromq.org/spec/26.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace tailor::comm {

/// In ZeroMQ's own encoding (Z85, 40 characters each).
struct LinkKey {
  std::string public_half, secret_half;
};

/// Errors: Unavailable (a libzmq without CURVE).
Result<LinkKey> make_link_key(const std::array<uint8_t, 32>& secret);

/// Errors: InvalidArgument (it is empty: a link without a key is never made).
Result<void> check_link_key(const LinkKey& key);

/// Errors: NotFound, InvalidArgument (others may read it, or it is no key), Unavailable; the
/// message names the file and what to do.
Result<LinkKey> read_link_key(const std::string& path);

}  // namespace tailor::comm
