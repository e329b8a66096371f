// The C border between text/'s C++ and the Rust crate in this folder (src/lib.rs holds the same
// declarations). Strings are (pointer, length), UTF-8 unless said otherwise, and need no end mark.
// No call unwinds or aborts on bad input: a Rust panic is caught at the border and becomes an
// error. Handles are immutable: any thread may use them.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tt_tokenizer tt_tokenizer;
typedef struct tt_template tt_template;

typedef struct {
  const char* data;
  size_t size;
} tt_str;

/// Memory of the Rust side: give it back with tt_free_buffer. Holds text, or an array of uint32_t
/// ids.
typedef struct {
  uint8_t* data;
  size_t size;  ///< bytes
  size_t capacity;
} tt_buffer;

typedef struct {
  tt_str model, pre;
  const tt_str* tokens;
  size_t num_tokens;
  const float* scores;
  size_t num_scores;
  const int32_t* types;
  size_t num_types;
  const tt_str* merges;
  size_t num_merges;
  int32_t bos, eos, unknown;
  bool add_bos, add_eos, add_space_prefix;
} tt_vocabulary;

/// Formats the local time now by strftime's rules into `out`; returns the bytes written (0 =
/// nothing).
typedef size_t (*tt_strftime)(const char* format_with_nul, char* out, size_t capacity);

void tt_free_buffer(tt_buffer buffer);

/// Each returns null and fills `error` (one sentence) on failure.
tt_tokenizer* tt_tokenizer_from_json(tt_str json, tt_buffer* error);
tt_tokenizer* tt_tokenizer_from_vocabulary(const tt_vocabulary* vocabulary, tt_buffer* error);
void tt_tokenizer_free(tt_tokenizer* tokenizer);

/// Largest id + 1.
size_t tt_tokenizer_size(const tt_tokenizer* tokenizer);
bool tt_tokenizer_strips_leading_space(const tt_tokenizer* tokenizer);
/// Bytes (any, not only UTF-8) of one token inside running text; borrowed from the tokenizer.
tt_str tt_token_bytes(const tt_tokenizer* tokenizer, uint32_t id);
bool tt_token_is_special(const tt_tokenizer* tokenizer, uint32_t id);
/// -1 when there is none.
int64_t tt_token_to_id(const tt_tokenizer* tokenizer, tt_str token);
/// `text` (UTF-8) with the special tokens that are written in it broken, so that tt_encode takes
/// them as words. False and `error` on failure.
bool tt_guard(const tt_tokenizer* tokenizer, tt_str text, tt_buffer* guarded, tt_buffer* error);
/// `text` must be UTF-8 (the caller has checked). Special tokens written in it are recognised;
/// where it is `guarded`, not those that tt_guard broke. False and `error` on failure.
bool tt_encode(const tt_tokenizer* tokenizer, tt_str text, bool guarded, bool add_special_tokens,
               tt_buffer* ids, tt_buffer* error);

tt_template* tt_template_compile(tt_str source, tt_str bos_token, tt_str eos_token, tt_strftime now,
                                 tt_buffer* error);
void tt_template_free(tt_template* chat_template);
bool tt_template_render(const tt_template* chat_template, const tt_str* roles,
                        const tt_str* contents, size_t num_messages, bool add_generation_prompt,
                        tt_buffer* text, tt_buffer* error);

#ifdef __cplusplus
}
#endif
