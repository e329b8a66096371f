#include "coordinator/event_log.h"

#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <type_traits>
#include <utility>

namespace tailor::coordinator {
namespace {

constexpr char kMagic[8] = {'T', 'A', 'I', 'L', 'O', 'R', 'L', 'G'};
constexpr uint32_t kMaxRecordBytes = 64u << 20;

/// FNV-1a.
uint64_t hash_bytes(const void* data, size_t size, uint64_t hash = 0xCBF29CE484222325ull) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001B3ull;
  return hash;
}
uint32_t checksum(const std::vector<uint8_t>& bytes) {
  const uint64_t hash = hash_bytes(bytes.data(), bytes.size());
  return static_cast<uint32_t>(hash ^ (hash >> 32));
}

// Put and Take walk the same field lists (base/fields.h), so that they cannot disagree.
class Put {
 public:
  explicit Put(std::vector<uint8_t>& out) : out_(out) {}
  template <class T>
  void field(const T& value) {
    if constexpr (Listed<T>) {
      for_each_field(value, [this](const auto&, const auto& part) { field(part); });
    } else if constexpr (std::is_enum_v<T>) {
      number(static_cast<uint64_t>(value), 1);
    } else if constexpr (std::is_same_v<T, Duration>) {
      number(static_cast<uint64_t>(value.count()), 8);
    } else if constexpr (std::is_same_v<T, Time>) {
      number(static_cast<uint64_t>(value.time_since_epoch().count()), 8);
    } else if constexpr (std::is_integral_v<T>) {
      number(static_cast<uint64_t>(value), sizeof value);
    } else if constexpr (std::is_same_v<T, float>) {
      number(std::bit_cast<uint32_t>(value), 4);
    } else if constexpr (std::is_same_v<T, double>) {
      number(std::bit_cast<uint64_t>(value), 8);
    } else {
      number(value.value, sizeof value.value);  // an Id
    }
  }
  void field(const LengthLaw& law) {
    field(law.kind);
    if (law.kind == LengthLaw::Kind::kLogT) field(law.mu), field(law.sigma), field(law.nu);
    if (law.kind != LengthLaw::Kind::kHistogram) return;
    field(law.low), field(law.high);
    for (const float bin : law.bins) field(bin);
  }
  void field(const std::string& text) {
    field(static_cast<uint32_t>(text.size()));
    out_.insert(out_.end(), text.begin(), text.end());
  }
  template <class T>
  void field(const std::vector<T>& values) {
    field(static_cast<uint32_t>(values.size()));
    for (const T& value : values) field(value);
  }

 private:
  void number(uint64_t value, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) out_.push_back(static_cast<uint8_t>(value >> (8 * i)));
  }
  std::vector<uint8_t>& out_;
};

class Take {
 public:
  explicit Take(const std::vector<uint8_t>& in) : in_(in) {}
  template <class T>
  void field(T& value) {
    if constexpr (Listed<T>) {
      for_each_field(value, [this](const auto&, auto& part) { field(part); });
    } else if constexpr (std::is_enum_v<T>) {
      value = static_cast<T>(number(1));
    } else if constexpr (std::is_same_v<T, Duration>) {
      value = Duration(static_cast<int64_t>(number(8)));
    } else if constexpr (std::is_same_v<T, Time>) {
      value = Time(Duration(static_cast<int64_t>(number(8))));
    } else if constexpr (std::is_integral_v<T>) {
      value = static_cast<T>(number(sizeof value));
    } else if constexpr (std::is_same_v<T, float>) {
      value = std::bit_cast<float>(static_cast<uint32_t>(number(4)));
    } else if constexpr (std::is_same_v<T, double>) {
      value = std::bit_cast<double>(number(8));
    } else {
      value.value = static_cast<typename T::rep>(number(sizeof value.value));
    }
  }
  void field(LengthLaw& law) {
    field(law.kind);
    if (law.kind == LengthLaw::Kind::kLogT) field(law.mu), field(law.sigma), field(law.nu);
    if (law.kind != LengthLaw::Kind::kHistogram) return;
    field(law.low), field(law.high);
    for (float& bin : law.bins) field(bin);
  }
  void field(std::string& text) {
    uint32_t size = 0;
    field(size);
    if (!good_ || size > in_.size() - at_) return give_up();
    text.assign(in_.begin() + static_cast<std::ptrdiff_t>(at_),
                in_.begin() + static_cast<std::ptrdiff_t>(at_ + size));
    at_ += size;
  }
  template <class T>
  void field(std::vector<T>& values) {
    uint32_t count = 0;
    field(count);
    if (!good_ || count > in_.size() - at_) return give_up();  // each has a byte at least
    values.assign(count, T{});
    for (T& value : values) field(value);
  }
  bool good() const { return good_; }
  bool at_end() const { return good_ && at_ == in_.size(); }

 private:
  uint64_t number(size_t bytes) {
    if (bytes > in_.size() - at_) {
      give_up();
      return 0;
    }
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(in_[at_ + i]) << (8 * i);
    at_ += bytes;
    return value;
  }
  void give_up() {
    good_ = false;
    at_ = in_.size();
  }
  const std::vector<uint8_t>& in_;
  size_t at_ = 0;
  bool good_ = true;
};

// An event is its number (base/fields.h), a report's behind that of the envelope it comes in.
constexpr uint32_t kFromReplica = 110;

template <class E>
constexpr uint32_t number_of() {
  if constexpr (std::is_same_v<E, FromReplica>) {
    return kFromReplica;
  } else {
    return Fields<E>::number;
  }
}
template <class... Ms>
constexpr bool numbers_differ(std::type_identity<std::variant<Ms...>>) {
  const uint32_t numbers[] = {number_of<Ms>()...};
  for (size_t a = 0; a < sizeof...(Ms); ++a)
    for (size_t b = 0; b < a; ++b)
      if (numbers[a] == numbers[b]) return false;
  return true;
}
static_assert(numbers_differ(std::type_identity<CoreEvent>{}) &&
              numbers_differ(std::type_identity<WorkerReport>{}));

template <class Variant>
void put_one(Put& put, const Variant& one);
void put_body(Put& put, const FromReplica& from) {
  put.field(from.envelope);
  put_one(put, from.report);
}
template <Listed M>
void put_body(Put& put, const M& message) {
  put.field(message);
}
template <class Variant>
void put_one(Put& put, const Variant& one) {
  std::visit(
      [&](const auto& message) {
        put.field(number_of<std::remove_cvref_t<decltype(message)>>());
        put_body(put, message);
      },
      one);
}

template <class... Ms>
bool take_one(Take& take, std::variant<Ms...>& one, uint32_t& number);
bool take_body(Take& take, FromReplica& from, uint32_t& number) {
  take.field(from.envelope);
  return take_one(take, from.report, number);
}
template <Listed M>
bool take_body(Take& take, M& message, uint32_t&) {
  take.field(message);
  return true;
}
/// False for a number that is none of the variant's: then it is in `number`.
template <class... Ms>
bool take_one(Take& take, std::variant<Ms...>& one, uint32_t& number) {
  take.field(number);
  const uint32_t found = number;
  return ((number_of<Ms>() == found && take_body(take, one.template emplace<Ms>(), number)) || ...);
}

template <class S>
void options_fields(S& s, auto& e) {
  s.field(e.policy.row), s.field(e.policy.parameters.tau_seconds),
      s.field(e.policy.parameters.gamma);
  s.field(e.population);
  s.field(e.queue_limit), s.field(e.ahead_requests), s.field(e.max_losses);
  s.field(e.expected_replicas), s.field(e.epoch_base), s.field(e.retry_after_min),
      s.field(e.retry_after_max);
}

bool put_u32(std::FILE* file, uint32_t value) {
  const uint8_t bytes[4] = {static_cast<uint8_t>(value), static_cast<uint8_t>(value >> 8),
                            static_cast<uint8_t>(value >> 16), static_cast<uint8_t>(value >> 24)};
  return std::fwrite(bytes, 1, 4, file) == 4;
}
/// Bytes read: 4 when `value` was, 0 at the end of the file.
size_t take_u32(std::FILE* file, uint32_t& value) {
  uint8_t b[4] = {};
  const size_t got = std::fread(b, 1, 4, file);
  value = static_cast<uint32_t>(b[0]) | static_cast<uint32_t>(b[1]) << 8 |
          static_cast<uint32_t>(b[2]) << 16 | static_cast<uint32_t>(b[3]) << 24;
  return got;
}
bool put_record(std::FILE* file, const std::vector<uint8_t>& record) {
  return put_u32(file, static_cast<uint32_t>(record.size())) && put_u32(file, checksum(record)) &&
         std::fwrite(record.data(), 1, record.size(), file) == record.size();
}
/// Empty = read; otherwise what is wrong ("end" at the clean end of the file).
std::string take_record(std::FILE* file, std::vector<uint8_t>& record) {
  uint32_t size = 0, sum = 0;
  const size_t got = take_u32(file, size);
  if (got == 0) return "end";
  if (got < 4 || take_u32(file, sum) < 4) return "the file breaks off inside a record";
  if (size > kMaxRecordBytes) return "a record claims " + std::to_string(size) + " bytes";
  record.resize(size);
  if (std::fread(record.data(), 1, size, file) < size) return "the file breaks off inside a record";
  if (checksum(record) != sum) return "a record's checksum is wrong";
  return {};
}

/// An event log cannot be had again: what is at `path` gets the first free name. Not so a pipe or a
/// device.
Result<void> keep_older(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return {};
  int number = 1;
  const auto kept = [&] { return path + "." + std::to_string(number); };
  while (number < kMaxKeptEventLogs && std::filesystem::exists(kept(), error)) ++number;
  if (!std::filesystem::exists(kept(), error))
    std::filesystem::rename(path, kept(), error);
  else
    error = std::make_error_code(std::errc::file_exists);
  if (!error) return {};
  return fail(ErrorCode::kUnavailable,
              "cannot keep the older event log " + path + ": " + error.message());
}

}  // namespace

Result<EventLogWriter> EventLogWriter::create(const std::string& path, const CoreOptions& options) {
  TAILOR_TRY(keep_older(path));
  File file(std::fopen(path.c_str(), "wb"));
  if (!file)
    return fail(ErrorCode::kUnavailable,
                "cannot write the event log " + path + ": " + std::strerror(errno));
  EventLogWriter writer(path, std::move(file));
  Put put(writer.record_);
  put.field(kEventLogVersion);
  options_fields(put, options);
  if (std::fwrite(kMagic, 1, sizeof kMagic, writer.file_.get()) != sizeof kMagic ||
      !put_record(writer.file_.get(), writer.record_))
    return fail(ErrorCode::kUnavailable,
                "cannot write the event log " + path + ": " + std::strerror(errno));
  TAILOR_TRY(writer.flush());
  return writer;
}

Result<void> EventLogWriter::append(Time now, const CoreEvent& event) {
  if (!file_) return fail(ErrorCode::kDataLoss, "the event log " + path_ + " was given up");
  record_.clear();
  Put put(record_);
  put.field(now);
  put_one(put, event);
  if (put_record(file_.get(), record_)) return {};
  const std::string why = std::strerror(errno);
  file_.reset();
  return fail(ErrorCode::kDataLoss, "cannot go on with the event log " + path_ + ": " + why);
}

Result<void> EventLogWriter::flush() {
  if (file_ && std::fflush(file_.get()) != 0) {
    const std::string why = std::strerror(errno);
    file_.reset();
    return fail(ErrorCode::kDataLoss, "cannot go on with the event log " + path_ + ": " + why);
  }
  return {};
}

Result<EventLogReader> EventLogReader::open(const std::string& path) {
  File file(std::fopen(path.c_str(), "rb"));
  if (!file)
    return fail(ErrorCode::kNotFound,
                "cannot read the event log " + path + ": " + std::strerror(errno));
  EventLogReader reader(path, std::move(file));
  char magic[sizeof kMagic] = {};
  if (std::fread(magic, 1, sizeof magic, reader.file_.get()) != sizeof magic ||
      std::memcmp(magic, kMagic, sizeof magic) != 0)
    return fail(ErrorCode::kDataLoss, path + " is not an event log of Tailor");
  if (const std::string wrong = take_record(reader.file_.get(), reader.record_); !wrong.empty())
    return fail(ErrorCode::kDataLoss, "the head of " + path + " is damaged: " + wrong);
  Take take(reader.record_);
  uint32_t version = 0;
  take.field(version);
  if (version != kEventLogVersion)
    return fail(ErrorCode::kProtocol,
                path + " is an event log of version " + std::to_string(version) +
                    "; this program reads version " + std::to_string(kEventLogVersion));
  options_fields(take, reader.options_);
  if (!take.at_end())
    return fail(ErrorCode::kDataLoss, "the head of " + path + " is damaged: its length is wrong");
  if (reader.options_.policy.row >= policies().size())
    return fail(ErrorCode::kProtocol, path + " is of a policy that this program does not know");
  return reader;
}

bool EventLogReader::stop(std::string why) {
  damage_ = path_ + " is read up to record " + std::to_string(records_) + ": " + why;
  return false;
}

bool EventLogReader::next(Time& now, CoreEvent& event) {
  if (!damage_.empty()) return false;
  const std::string wrong = take_record(file_.get(), record_);
  if (wrong == "end") return false;
  if (!wrong.empty()) return stop(wrong);
  Take take(record_);
  take.field(now);
  uint32_t number = 0;
  const bool known = take_one(take, event, number);
  if (!take.good()) return stop("a record's length is wrong");
  if (!known) return stop("an unknown kind of event, " + std::to_string(number));
  if (!take.at_end()) return stop("a record's length is wrong");
  ++records_;
  return true;
}

Result<ReplaySummary> replay_log(
    const std::string& path,
    const std::function<void(Duration, const CoreEvent&, const std::vector<CoreCommand>&)>& each) {
  TAILOR_ASSIGN(EventLogReader reader, EventLogReader::open(path));
  ReplaySummary summary;
  summary.options = reader.options();
  SchedulerCore core(reader.options());
  std::vector<CoreCommand> commands;
  Time now{}, first{};
  CoreEvent event;
  uint64_t hash = hash_bytes("", 0);
  while (reader.next(now, event)) {
    if (summary.events++ == 0) first = now;
    commands.clear();
    core.handle(now, event, commands);
    for (const auto& command : commands) {
      const std::string line = describe(command) + "\n";
      hash = hash_bytes(line.data(), line.size(), hash);
    }
    summary.commands += commands.size();
    if (each) each(now - first, event, commands);
  }
  if (summary.events > 0) summary.span = now - first;
  summary.counters = core.counters();
  summary.live_at_end = core.live();
  summary.command_hash = hash;
  summary.damage = reader.damage();
  return summary;
}

}  // namespace tailor::coordinator
