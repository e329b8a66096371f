// What `tailor doctor` reports: one line for each thing it has looked at.
#pragma once

#include <string>
#include <vector>

#include "launch/gpus/gpus.h"

namespace tailor::launch {

enum class Verdict { kGood, kNote, kBlocks };

struct Finding {
  std::string topic;
  Verdict verdict = Verdict::kGood;
  std::string found;
  std::string change;  ///< what to do; empty when good
};
using Findings = std::vector<Finding>;

std::string gigabytes(double bytes);

/// Driver, GPUs, their memory, clocks and links, CUDA and NCCL (launch/commands/doctor_gpus.cc).
/// `worker`: the program that would compute on them, whether it is there or not.
void check_gpus(const Gpus& gpus, const std::string& worker, Findings& out);

}  // namespace tailor::launch
