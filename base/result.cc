#include "base/result.h"

namespace tailor {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kOk:
      return "Ok";
    case ErrorCode::kInvalidArgument:
      return "InvalidArgument";
    case ErrorCode::kNotFound:
      return "NotFound";
    case ErrorCode::kQueueFull:
      return "QueueFull";
    case ErrorCode::kLimitExceeded:
      return "LimitExceeded";
    case ErrorCode::kDeadlineExceeded:
      return "DeadlineExceeded";
    case ErrorCode::kCancelled:
      return "Cancelled";
    case ErrorCode::kUnauthenticated:
      return "Unauthenticated";
    case ErrorCode::kUnavailable:
      return "Unavailable";
    case ErrorCode::kOutOfBlocks:
      return "OutOfBlocks";
    case ErrorCode::kReplicaLost:
      return "ReplicaLost";
    case ErrorCode::kDeviceFailure:
      return "DeviceFailure";
    case ErrorCode::kTimeout:
      return "Timeout";
    case ErrorCode::kProtocol:
      return "Protocol";
    case ErrorCode::kDataLoss:
      return "DataLoss";
    case ErrorCode::kShutdown:
      return "Shutdown";
    case ErrorCode::kInternal:
      return "Internal";
  }
  return "Unknown";
}

std::string to_string(const Error& error) {
  return std::string(to_string(error.code)) + ": " + error.message;
}

}  // namespace tailor
