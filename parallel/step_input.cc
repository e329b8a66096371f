#include "parallel/step_input.h"

#include <cstring>
#include <string>
#include <type_traits>

namespace tailor::parallel {
namespace {

constexpr uint32_t kMagic = 0x50535432;  // "2TSP"
/// Far above any real step: a damaged count must not become an allocation.
constexpr uint64_t kMaxItems = 1ull << 26;

struct Header {
  uint32_t magic = kMagic;
  uint32_t num_chunks = 0;
  uint64_t step = 0;
  uint64_t num_tokens = 0;
  uint64_t num_block_ids = 0;
  uint64_t num_moves = 0;
};

static_assert(std::is_trivially_copyable_v<Chunk> && sizeof(Chunk) == 24);
static_assert(std::is_trivially_copyable_v<TokenId>);
static_assert(std::is_trivially_copyable_v<kv::BlockMove> && sizeof(kv::BlockMove) == 16);

template <class T>
void append(std::vector<std::byte>& out, const T* values, size_t count) {
  if (count == 0) return;
  const size_t at = out.size();
  out.resize(at + count * sizeof(T));
  std::memcpy(out.data() + at, values, count * sizeof(T));
}

template <class T>
void take(std::span<const std::byte>& in, std::vector<T>& values, size_t count) {
  values.resize(count);
  if (count > 0) std::memcpy(values.data(), in.data(), count * sizeof(T));
  in = in.subspan(count * sizeof(T));
}

Unexpected bad(const std::string& what) { return fail(ErrorCode::kProtocol, "step plan: " + what); }

Result<void> check_chunk(const StepInput& step, size_t index, int64_t next_row) {
  const Chunk& chunk = step.chunks[index];
  const std::string name = "chunk " + std::to_string(index) + " ";
  if (chunk.first_row != next_row || chunk.num_rows < 1 ||
      static_cast<int64_t>(chunk.first_row) + chunk.num_rows > step.num_rows()) {
    return bad(name + "has rows " + std::to_string(chunk.first_row) + " + " +
               std::to_string(chunk.num_rows) + ", expected to start at " +
               std::to_string(next_row) + " and end within " + std::to_string(step.num_rows()));
  }
  if (chunk.first_position < 0) {
    return bad(name + "starts at position " + std::to_string(chunk.first_position));
  }
  if (chunk.first_block < 0 || chunk.num_blocks < 1 ||
      static_cast<int64_t>(chunk.first_block) + chunk.num_blocks >
          static_cast<int64_t>(step.block_ids.size())) {
    return bad(name + "has block table " + std::to_string(chunk.first_block) + " + " +
               std::to_string(chunk.num_blocks) + " of " + std::to_string(step.block_ids.size()));
  }
  if (chunk.wants_logits != 0 && chunk.wants_logits != 1) {
    return bad(name + "wants_logits is " + std::to_string(chunk.wants_logits) +
               ", expected 0 or 1");
  }
  return {};
}

}  // namespace

int32_t StepInput::num_logits() const {
  int32_t count = 0;
  for (const Chunk& chunk : chunks) count += chunk.wants_logits != 0;
  return count;
}

void StepInput::clear() {
  step = 0;
  token_ids.clear();
  chunks.clear();
  block_ids.clear();
  moves.clear();
}

Result<void> check(const StepInput& input, const StepBounds& bounds) {
  const auto bad = [&](const std::string& what) {
    return fail(ErrorCode::kInvalidArgument,
                "engine step " + std::to_string(input.step) + ": " + what);
  };
  if (input.num_rows() > bounds.max_rows) {
    return bad(std::to_string(input.num_rows()) + " rows, at most " +
               std::to_string(bounds.max_rows));
  }
  for (TokenId token : input.token_ids) {
    if (token < -bounds.drawing_rows || token >= bounds.vocab_size)
      return bad("token id " + std::to_string(token));
  }
  int64_t rows = 0;
  for (const Chunk& chunk : input.chunks) {
    const int64_t end = static_cast<int64_t>(chunk.first_position) + chunk.num_rows;
    const int64_t block_end = static_cast<int64_t>(chunk.first_block) + chunk.num_blocks;
    if (chunk.num_rows < 1 || chunk.first_row != rows || chunk.first_position < 0 ||
        chunk.first_block < 0 || block_end > static_cast<int64_t>(input.block_ids.size())) {
      return bad("a chunk's rows or blocks are out of range");
    }
    if (end > bounds.max_context) {
      return bad("position " + std::to_string(end - 1) + " in a context of " +
                 std::to_string(bounds.max_context));
    }
    if (chunk.num_blocks * bounds.block_tokens < end) {
      return bad(std::to_string(chunk.num_blocks) + " blocks for " + std::to_string(end) +
                 " tokens");
    }
    rows += chunk.num_rows;
  }
  if (rows != input.num_rows()) return bad("chunks do not cover the rows");
  for (int32_t block : input.block_ids) {
    if (block < 0 || block >= bounds.num_blocks) return bad("block id " + std::to_string(block));
  }
  return {};
}

void encode(const StepInput& input, std::vector<std::byte>& out) {
  out.clear();
  Header header;
  header.step = input.step;
  header.num_chunks = static_cast<uint32_t>(input.chunks.size());
  header.num_tokens = input.token_ids.size();
  header.num_block_ids = input.block_ids.size();
  header.num_moves = input.moves.size();
  append(out, &header, 1);
  append(out, input.chunks.data(), input.chunks.size());
  append(out, input.token_ids.data(), input.token_ids.size());
  append(out, input.block_ids.data(), input.block_ids.size());
  append(out, input.moves.data(), input.moves.size());
}

Result<void> decode(std::span<const std::byte> bytes, StepInput& out, int32_t drawing_rows) {
  Header header;
  if (bytes.size() < sizeof(header)) {
    return bad(std::to_string(bytes.size()) + " bytes, shorter than its header");
  }
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.magic != kMagic) return bad("wrong first word");
  if (header.num_chunks > kMaxItems || header.num_tokens > kMaxItems ||
      header.num_block_ids > kMaxItems || header.num_moves > kMaxItems) {
    return bad("a count above " + std::to_string(kMaxItems));
  }
  const uint64_t expected =
      sizeof(header) + header.num_chunks * sizeof(Chunk) + header.num_tokens * sizeof(TokenId) +
      header.num_block_ids * sizeof(int32_t) + header.num_moves * sizeof(kv::BlockMove);
  if (bytes.size() != expected) {
    return bad(std::to_string(bytes.size()) + " bytes, expected " + std::to_string(expected));
  }
  std::span<const std::byte> rest = bytes.subspan(sizeof(header));
  out.step = header.step;
  take(rest, out.chunks, header.num_chunks);
  take(rest, out.token_ids, header.num_tokens);
  take(rest, out.block_ids, header.num_block_ids);
  take(rest, out.moves, header.num_moves);

  int64_t next_row = 0;
  for (size_t i = 0; i < out.chunks.size(); ++i) {
    TAILOR_TRY(check_chunk(out, i, next_row));
    next_row += out.chunks[i].num_rows;
  }
  if (next_row != out.num_rows()) {
    return bad("chunks cover " + std::to_string(next_row) + " of " +
               std::to_string(out.num_rows()) + " rows");
  }
  for (TokenId token : out.token_ids) {
    if (token < -drawing_rows) return bad("token id " + std::to_string(token));
  }
  for (int32_t block : out.block_ids) {
    if (block < 0) return bad("block id " + std::to_string(block));
  }
  // Whether the blocks are there the store knows.
  for (const kv::BlockMove& move : out.moves) {
    if (move.from < 0 || move.to < 0 || move.count < 1 || move.from_tier >= kv::kMaxTiers ||
        move.to_tier >= kv::kMaxTiers || move.reserved != 0)
      return bad("a move of " + std::to_string(move.count) + " blocks from " +
                 std::to_string(move.from) + " to " + std::to_string(move.to));
  }
  return {};
}

}  // namespace tailor::parallel
