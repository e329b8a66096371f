#include "comm/mpi_environment.h"

#include <mpi.h>

#include <string>

namespace tailor::comm {

namespace {

std::string describe_mpi(int code) {
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, static_cast<size_t>(length));
}

Unexpected mpi_failed(const char* call, int code) {
  return fail(ErrorCode::kInternal, std::string(call) + " failed: " + describe_mpi(code));
}

}  // namespace

Result<std::unique_ptr<MpiEnvironment>> MpiEnvironment::start(int* argc, char*** argv) {
  int initialised = 0;
  MPI_Initialized(&initialised);
  if (initialised)
    return fail(ErrorCode::kUnavailable, "MPI is already initialised in this process");
  int provided = MPI_THREAD_SINGLE;
  if (int code = MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided); code != MPI_SUCCESS)
    return fail(ErrorCode::kUnavailable,
                "MPI_Init_thread failed with code " + std::to_string(code));
  std::unique_ptr<MpiEnvironment> self(new MpiEnvironment());
  if (provided < MPI_THREAD_FUNNELED)
    return fail(ErrorCode::kUnavailable,
                "this MPI library does not support MPI_THREAD_FUNNELED; install Open MPI 4.1 "
                "(openmpi-bin, libopenmpi-dev)");
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &self->world_rank_);
  MPI_Comm_size(MPI_COMM_WORLD, &self->world_size_);
  int* app_number = nullptr;
  int found = 0;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_APPNUM, &app_number, &found);
  if (found && app_number != nullptr) self->app_number_ = *app_number;
  return self;
}

MpiEnvironment::~MpiEnvironment() {
  if (abandoned_) return;
  for (MpiCommunicator& communicator : communicators_) {
    MPI_Comm comm = MPI_Comm_f2c(communicator.fortran_handle);
    MPI_Comm_free(&comm);
  }
  MPI_Finalize();
}

Result<MpiCommunicator> MpiEnvironment::communicator_of(int first, int size, int tag) {
  MPI_Comm made = MPI_COMM_NULL;
  if (size == world_size_) {
    if (int code = MPI_Comm_dup(MPI_COMM_WORLD, &made); code != MPI_SUCCESS)
      return mpi_failed("MPI_Comm_dup", code);
  } else {
    MPI_Group world = MPI_GROUP_NULL, part = MPI_GROUP_NULL;
    int range[1][3] = {{first, first + size - 1, 1}};
    MPI_Comm_group(MPI_COMM_WORLD, &world);
    MPI_Group_range_incl(world, 1, range, &part);
    const int code = MPI_Comm_create_group(MPI_COMM_WORLD, part, tag, &made);
    MPI_Group_free(&part);
    MPI_Group_free(&world);
    if (code != MPI_SUCCESS) return mpi_failed("MPI_Comm_create_group", code);
  }
  MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN);
  communicators_.push_back({static_cast<int>(MPI_Comm_c2f(made))});
  return communicators_.back();
}

Result<MpiCommunicator> MpiEnvironment::replica_communicator(int tp_size) {
  if (tp_size < 1)
    return fail(ErrorCode::kInvalidArgument,
                "tp must be at least 1, found " + std::to_string(tp_size));
  if (world_size_ == tp_size) return communicator_of(0, tp_size, 0);
  const int first = 1 + (app_number_ - 1) * tp_size;
  const bool fits = app_number_ >= 1 && first + tp_size <= world_size_ && world_rank_ >= first &&
                    world_rank_ < first + tp_size && (world_size_ - 1) % tp_size == 0;
  if (!fits) {
    const std::string tp = std::to_string(tp_size);
    return fail(ErrorCode::kInvalidArgument,
                "a replica of tp " + tp + " does not fit this launch (world of " +
                    std::to_string(world_size_) + " ranks, this is rank " +
                    std::to_string(world_rank_) + " of application " + std::to_string(app_number_) +
                    "): start each replica with its own `mpirun -n " + tp +
                    "`, or all with one line `mpirun -n 1 COORDINATOR : -n " + tp +
                    " WORKER : -n " + tp + " WORKER ...` (tailor serve --single --print shows it)");
  }
  return communicator_of(first, tp_size, app_number_);
}

Result<MpiCommunicator> MpiEnvironment::workers_communicator(int tp_size) {
  if (world_size_ == tp_size) return communicator_of(0, tp_size, 0);
  return communicator_of(1, world_size_ - 1, 0);  // replicas' tags begin with 1
}

}  // namespace tailor::comm
