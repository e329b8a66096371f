#include "comm/link_key.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <cerrno>
#include <charconv>
#include <cstring>

namespace tailor::comm {
namespace {

constexpr size_t kSecretBytes = 32, kZ85Characters = 40;

Unexpected no_key(const std::string& path, const std::string& why) {
  return fail(ErrorCode::kInvalidArgument,
              "the link key " + path + " " + why +
                  "; `tailor serve` writes one, and `tailor serve --print` shows how");
}

struct OpenFile {
  int fd;
  ~OpenFile() {
    if (fd >= 0) close(fd);
  }
};

}  // namespace

Result<LinkKey> make_link_key(const std::array<uint8_t, kSecretBytes>& secret) {
  if (zmq_has("curve") == 0)
    return fail(ErrorCode::kUnavailable,
                "this libzmq was built without CURVE, which the control link needs");
  char secret_half[kZ85Characters + 1], public_half[kZ85Characters + 1];
  if (zmq_z85_encode(secret_half, secret.data(), secret.size()) == nullptr ||
      zmq_curve_public(public_half, secret_half) != 0)
    return fail(ErrorCode::kInternal, std::string("no key pair: ") + zmq_strerror(zmq_errno()));
  return LinkKey{public_half, secret_half};
}

Result<void> check_link_key(const LinkKey& key) {
  if (key.public_half.size() == kZ85Characters && key.secret_half.size() == kZ85Characters)
    return {};
  return fail(ErrorCode::kInvalidArgument, "the control link needs a key");
}

Result<LinkKey> read_link_key(const std::string& path) {
  const OpenFile file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0 && errno == ENOENT)
    return fail(ErrorCode::kNotFound,
                "there is no link key " + path +
                    "; `tailor serve` writes one, and `tailor serve --print` shows how");
  struct stat info;
  if (file.fd < 0 || fstat(file.fd, &info) != 0)
    return no_key(path, std::string("cannot be read: ") + std::strerror(errno));
  if (!S_ISREG(info.st_mode)) return no_key(path, "is no file");
  if (info.st_uid != geteuid() || (info.st_mode & 077) != 0)
    return no_key(path, "must belong to this user and be closed to others (mode 0600)");
  char text[2 * kSecretBytes + 2];  // a newline, and one more to see that there is nothing more
  const ssize_t size = read(file.fd, text, sizeof text);
  std::array<uint8_t, kSecretBytes> secret{};
  bool good = size == 2 * kSecretBytes || (size == 2 * kSecretBytes + 1 && text[size - 1] == '\n');
  for (size_t i = 0; good && i < kSecretBytes; ++i) {
    const auto [end, error] = std::from_chars(text + 2 * i, text + 2 * i + 2, secret[i], 16);
    good = error == std::errc{} && end == text + 2 * i + 2;
  }
  if (!good) return no_key(path, "is not 64 hexadecimal digits");
  return make_link_key(secret);
}

}  // namespace tailor::comm
