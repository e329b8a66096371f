// A small greedy server for tests: plans steps the way the worker does (decode rows first, prompt
// chunks after), runs them through an engine on every rank, and takes the argmax on rank 0. Plans
// travel encoded, as in a replica.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "parallel/engine.h"

namespace tailor::parallel::testing {

struct Job {
  std::vector<TokenId> prompt;
  int32_t max_tokens = 0;
};

struct Answer {
  std::vector<TokenId> tokens;
};

struct Schedule {
  int32_t batch = 1;          ///< sequences that run together
  int32_t chunk_rows = 1024;  ///< prompt rows of one sequence in one step
};

/// Called on rank 0 with every row of logits: (job, position of the answer, logits).
using OnLogits = std::function<void(size_t, size_t, std::span<const float>)>;

class GreedyServer {
 public:
  GreedyServer(Engine& engine, const TpContext& tp) : engine_(engine), tp_(tp) {
    for (int32_t b = engine.info().num_blocks - 1; b >= 0; --b) free_blocks_.push_back(b);
  }

  /// Every rank calls it with the same arguments; answers are filled on rank 0 only.
  Result<std::vector<Answer>> run(const std::vector<Job>& jobs, const Schedule& schedule,
                                  const OnLogits& on_logits = {}) {
    std::vector<Answer> answers(jobs.size());
    if (tp_.rank != 0) {
      TAILOR_TRY(follow());
      return answers;
    }
    size_t next_job = 0;
    std::vector<Running> running;
    while (next_job < jobs.size() || !running.empty()) {
      while (running.size() < static_cast<size_t>(schedule.batch) && next_job < jobs.size()) {
        running.push_back({next_job++, {}, 0});
      }
      StepInput step;
      for (Running& sequence : running) plan(jobs, answers, schedule, sequence, step);
      TAILOR_TRY(send(&step));
      std::vector<float> logits(static_cast<size_t>(step.num_logits() * engine_.info().vocab_size));
      TAILOR_TRY(forward(engine_, step, logits));
      take(jobs, answers, step, logits, running, on_logits);
    }
    TAILOR_TRY(send(nullptr));
    return answers;
  }

 private:
  struct Running {
    size_t job;
    std::vector<int32_t> blocks;
    int32_t done;  ///< tokens in the pool
  };

  void plan(const std::vector<Job>& jobs, const std::vector<Answer>& answers,
            const Schedule& schedule, Running& sequence, StepInput& step) {
    const Job& job = jobs[sequence.job];
    const Answer& answer = answers[sequence.job];
    const auto length = static_cast<int32_t>(job.prompt.size() + answer.tokens.size());
    Chunk chunk;
    chunk.first_row = step.num_rows();
    chunk.num_rows = std::min(schedule.chunk_rows, length - sequence.done);
    chunk.first_position = sequence.done;
    sequence.done += chunk.num_rows;
    const int32_t block_tokens = 16;
    while (static_cast<int32_t>(sequence.blocks.size()) * block_tokens < sequence.done) {
      // From alternating ends of the pool: tables are never simply consecutive.
      const auto at =
          sequence.blocks.size() % 2 == 0 ? free_blocks_.end() - 1 : free_blocks_.begin();
      sequence.blocks.push_back(*at);
      free_blocks_.erase(at);
    }
    chunk.first_block = static_cast<int32_t>(step.block_ids.size());
    chunk.num_blocks = static_cast<int32_t>(sequence.blocks.size());
    chunk.wants_logits = sequence.done == length;
    step.block_ids.insert(step.block_ids.end(), sequence.blocks.begin(), sequence.blocks.end());
    for (int32_t p = chunk.first_position; p < sequence.done; ++p) {
      const auto prompt_size = static_cast<int32_t>(job.prompt.size());
      step.token_ids.push_back(p < prompt_size
                                   ? job.prompt[static_cast<size_t>(p)]
                                   : answer.tokens[static_cast<size_t>(p - prompt_size)]);
    }
    step.chunks.push_back(chunk);
  }

  void take(const std::vector<Job>& jobs, std::vector<Answer>& answers, const StepInput& step,
            std::span<const float> logits, std::vector<Running>& running,
            const OnLogits& on_logits) {
    const auto vocab = static_cast<size_t>(engine_.info().vocab_size);
    size_t row = 0;
    std::vector<Running> still;
    for (size_t i = 0; i < running.size(); ++i) {
      Running& sequence = running[i];
      Answer& answer = answers[sequence.job];
      if (step.chunks[i].wants_logits != 0) {
        const std::span<const float> mine = logits.subspan(row++ * vocab, vocab);
        if (on_logits) on_logits(sequence.job, answer.tokens.size(), mine);
        answer.tokens.push_back(
            static_cast<TokenId>(std::max_element(mine.begin(), mine.end()) - mine.begin()));
      }
      if (static_cast<int32_t>(answer.tokens.size()) < jobs[sequence.job].max_tokens) {
        still.push_back(std::move(sequence));
      } else {
        free_blocks_.insert(free_blocks_.end(), sequence.blocks.begin(), sequence.blocks.end());
      }
    }
    running = std::move(still);
  }

  /// Null = the end.
  Result<void> send(const StepInput* step) {
    if (tp_.size == 1) return {};
    std::vector<std::byte> bytes;
    if (step != nullptr) encode(*step, bytes);
    uint64_t size = bytes.size();
    TAILOR_TRY(tp_.collective->broadcast(std::as_writable_bytes(std::span(&size, 1)), 0));
    return size == 0 ? Result<void>() : tp_.collective->broadcast(bytes, 0);
  }

  Result<void> follow() {
    while (true) {
      uint64_t size = 0;
      TAILOR_TRY(tp_.collective->broadcast(std::as_writable_bytes(std::span(&size, 1)), 0));
      if (size == 0) return {};
      std::vector<std::byte> bytes(size);
      TAILOR_TRY(tp_.collective->broadcast(bytes, 0));
      StepInput step;
      TAILOR_TRY(decode(bytes, step));
      TAILOR_TRY(forward(engine_, step, {}));
    }
  }

  Engine& engine_;
  const TpContext tp_;
  std::vector<int32_t> free_blocks_;
};

}  // namespace tailor::parallel::testing
