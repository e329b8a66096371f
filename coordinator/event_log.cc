#include "coordinator/event_log.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#include "base/request.h"
#include "base/wire_reader.h"
#include "base/wire_writer.h"

namespace tailor {

// clang-format off
#define TAILOR_MESSAGE(message)                             \
  using M = coordinator::message;                           \
  static constexpr const char* name = #message;             \
  static constexpr uint32_t number = 0;
#define F(field_number, member) Field<field_number, &M::member>{#member}

template <> struct Fields<coordinator::PolicyParameters> {
  TAILOR_MESSAGE(PolicyParameters)
  static constexpr auto list = std::tuple{F(1, tau_seconds), F(2, gamma)};
};
template <> struct Fields<coordinator::Policy> {
  TAILOR_MESSAGE(Policy)
  static constexpr auto list = std::tuple{F(1, row), F(2, parameters)};
};
template <> struct Fields<coordinator::CoreOptions> {
  TAILOR_MESSAGE(CoreOptions)
  static constexpr auto list = std::tuple{F(1, policy), F(2, population), F(3, queue_limit),
      F(4, ahead_requests), F(5, max_losses), F(6, expected_replicas), F(7, epoch_base),
      F(8, retry_after_min), F(9, retry_after_max)};
};

#undef TAILOR_MESSAGE
#undef F
// clang-format on

}  // namespace tailor

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
uint32_t checksum(const std::string& bytes) {
  const uint64_t hash = hash_bytes(bytes.data(), bytes.size());
  return static_cast<uint32_t>(hash ^ (hash >> 32));
}

// A record is a message in protobuf's wire format (base/wire.h): when, and the event as the field
// of its number; a replica's report with its envelope.
constexpr uint32_t kTimeField = 1, kEnvelopeField = 2;
constexpr uint32_t kVersionField = 1, kOptionsField = 2;  // of the head

template <class Events>
struct OwnEvents;
/// The events that are messages themselves: all but FromReplica.
template <class... Es>
struct OwnEvents<std::variant<Es...>> {
  static bool take(WireReader& in, uint32_t field, WireType type, CoreEvent& event) {
    return (take_one<Es>(in, field, type, event) || ...);
  }

 private:
  template <class E>
  static bool take_one(WireReader& in, uint32_t field, WireType type, CoreEvent& event) {
    if constexpr (Listed<E>) {
      if (Fields<E>::number != field || type != WireType::kBytes) return false;
      in.message(type, event.emplace<E>());
      return true;
    } else {
      return false;
    }
  }
};

void put_event(WireWriter& out, const CoreEvent& event) {
  std::visit(
      [&](const auto& e) {
        using E = std::remove_cvref_t<decltype(e)>;
        if constexpr (Listed<E>) {
          out.message(Fields<E>::number, e);
        } else {
          out.message(kEnvelopeField, e.envelope);
          out.alternative(e.report);
        }
      },
      event);
}

/// What stands in the way, or nothing.
std::string take_event(WireReader& in, Time& now, CoreEvent& event) {
  Envelope envelope;
  WorkerReport report;
  bool reported = false, known = false;
  uint32_t field = 0, unknown = 0;
  WireType type{};
  while (in.next(field, type)) {
    if (field == kTimeField) {
      in.number(type, now);
    } else if (field == kEnvelopeField) {
      in.message(type, envelope);
    } else if (in.alternative(field, type, report)) {
      reported = known = true;
    } else if (OwnEvents<CoreEvent>::take(in, field, type, event)) {
      known = true;
    } else {
      unknown = field;
      in.skip(type);
    }
  }
  if (!in.good()) return "a record is no message";
  if (!known) return "an unknown kind of event, " + std::to_string(unknown);
  if (reported) event = FromReplica{envelope, std::move(report)};
  return {};
}

// A checksum says that a record is as it was written, not that a coordinator wrote it. What follows
// is what the doors of a live one ensure, and the core relies on.
constexpr uint32_t kMostAhead = 4096;

/// What makes no sense in it, or nothing.
std::string senseless(const CoreOptions& o) {
  const PolicyParameters& p = o.policy.parameters;
  if (!std::isfinite(p.tau_seconds) || p.tau_seconds <= 0)
    return "tau is " + std::to_string(p.tau_seconds) + " s";
  if (!std::isfinite(p.gamma) || p.gamma <= 0 || p.gamma > 1)
    return "gamma is " + std::to_string(p.gamma);
  if (o.ahead_requests > kMostAhead)
    return std::to_string(o.ahead_requests) + " requests are ahead of a replica's slots";
  if (o.retry_after_min < Duration{} || o.retry_after_max < o.retry_after_min)
    return "its least and longest time to come back do not fit";
  return {};
}
std::string senseless(const CoreEvent& event, Time now) {
  if (const auto* arrived = std::get_if<Arrived>(&event)) {
    if (arrived->samples == 0 || arrived->samples > uint32_t{kMaxSamples})
      return "a request has " + std::to_string(arrived->samples) + " samples";
    if (arrived->arrival < Time{} || arrived->arrival > now)
      return "a request arrives at another time than it is told of";
  }
  const auto* from = std::get_if<FromReplica>(&event);
  const auto* hello = from ? std::get_if<Hello>(&from->report) : nullptr;
  if (hello && from->envelope.replica.value >= ReplicaBook::kMaxReplicas)
    return "replica " + std::to_string(from->envelope.replica.value) + " joins";
  if (hello && (hello->info.slots == 0 || hello->info.slots > ReplicaBook::kMaxSlots))
    return "a replica of " + std::to_string(hello->info.slots) + " slots joins";
  return {};
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
bool put_record(std::FILE* file, const std::string& record) {
  return put_u32(file, static_cast<uint32_t>(record.size())) && put_u32(file, checksum(record)) &&
         std::fwrite(record.data(), 1, record.size(), file) == record.size();
}
/// Empty = read; otherwise what is wrong ("end" at the clean end of the file).
std::string take_record(std::FILE* file, std::string& record) {
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

/// Whether an event stands behind the head: what does not is not worth a name.
bool holds_events(const std::string& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  File file(std::fopen(path.c_str(), "rb"));
  char magic[sizeof kMagic] = {};
  uint32_t head = 0;
  if (error || !file || std::fread(magic, 1, sizeof magic, file.get()) != sizeof magic ||
      std::memcmp(magic, kMagic, sizeof magic) != 0)
    return error || size > 0;  // somebody else's file
  return take_u32(file.get(), head) == 4 && size > sizeof kMagic + 8 + uint64_t{head};
}

/// An event log cannot be had again: what is at `path` gets the first free name.
std::error_code keep_older(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) || !holds_events(path)) return error;
  int number = 1;
  const auto kept = [&] { return path + "." + std::to_string(number); };
  while (number < kMaxKeptEventLogs && std::filesystem::exists(kept(), error)) ++number;
  if (std::filesystem::exists(kept(), error)) return std::make_error_code(std::errc::file_exists);
  std::filesystem::rename(path, kept(), error);
  return error;
}

Error cannot_write(const std::string& path, const std::error_code& why) {
  using std::errc;
  const bool disk = why == errc::no_space_on_device || why == errc::io_error ||
                    why == errc::file_too_large || why == errc::read_only_file_system ||
                    why == std::error_code(EDQUOT, std::generic_category());
  return {disk ? ErrorCode::kDataLoss : ErrorCode::kUnavailable,
          "cannot write the event log " + path + ": " + why.message()};
}
std::error_code last_error() { return {errno, std::generic_category()}; }

}  // namespace

Result<EventLogWriter> EventLogWriter::create(const std::string& path, const CoreOptions& options) {
  std::error_code error;
  const auto kind = std::filesystem::status(path, error).type();
  const bool is_file = kind == std::filesystem::file_type::regular ||
                       kind == std::filesystem::file_type::not_found;  // else a pipe or a device
  const std::string begun = is_file ? path + ".new" : path;
  File file(std::fopen(begun.c_str(), "wb"));
  if (!file) return fail(cannot_write(path, last_error()));
  EventLogWriter writer(path, std::move(file));
  WireWriter out(writer.record_);
  out.number(kVersionField, kEventLogVersion);
  out.message(kOptionsField, options);
  const bool written = std::fwrite(kMagic, 1, sizeof kMagic, writer.file_.get()) == sizeof kMagic &&
                       put_record(writer.file_.get(), writer.record_) &&
                       std::fflush(writer.file_.get()) == 0;
  error = written ? std::error_code{} : last_error();
  if (is_file && !error) error = keep_older(path);
  if (is_file && !error) std::filesystem::rename(begun, path, error);
  if (!error) return writer;
  if (is_file) std::remove(begun.c_str());
  return fail(cannot_write(path, error));
}

Result<void> EventLogWriter::append(Time now, const CoreEvent& event) {
  if (!file_) return fail(ErrorCode::kDataLoss, "the event log " + path_ + " was given up");
  record_.clear();
  WireWriter out(record_);
  out.number(kTimeField, now);
  put_event(out, event);
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
  WireReader in(reader.record_);
  uint32_t version = 0, field = 0;
  WireType type{};
  while (in.next(field, type)) {
    if (field == kVersionField) {
      in.number(type, version);
    } else if (field == kOptionsField) {
      in.message(type, reader.options_);
    } else {
      in.skip(type);
    }
  }
  // Its number stood without a field's tag.
  if (const std::string_view head = reader.record_;
      version == 0 && head.substr(0, 4) == std::string_view("\2\0\0\0", 4))
    version = 2;
  if (version != kEventLogVersion)
    return fail(ErrorCode::kProtocol,
                path + " is an event log of " +
                    (version == 0 ? "an early version" : "version " + std::to_string(version)) +
                    "; this program reads version " + std::to_string(kEventLogVersion));
  if (!in.good()) return fail(ErrorCode::kDataLoss, "the head of " + path + " is no message");
  if (reader.options_.policy.row >= policies().size())
    return fail(ErrorCode::kProtocol, path + " is of a policy that this program does not know");
  if (const std::string why = senseless(reader.options_); !why.empty())
    return fail(ErrorCode::kDataLoss, "the head of " + path + " makes no sense: " + why);
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
  WireReader in(record_);
  if (const std::string why = take_event(in, now, event); !why.empty()) return stop(why);
  if (now < last_) return stop("time runs backwards");
  if (const auto* arrived = std::get_if<Arrived>(&event)) {
    if (arrived->id <= last_id_)
      return stop("request " + std::to_string(arrived->id.value) + " arrives behind request " +
                  std::to_string(last_id_.value));
    last_id_ = arrived->id;
  }
  if (const std::string why = senseless(event, now); !why.empty()) return stop(why);
  last_ = now;
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
