//! C interface over Hugging Face `tokenizers` and `minijinja`; the declarations are in ../tailor_text.h.
//! Every entry point catches panics, so that no input can take the process down.

mod python;
mod template;
mod tokenizer;
mod vocabulary;
mod words;

use std::ffi::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};

use template::{ChatTemplate, Strftime};
use tokenizer::TextTokenizer;
use vocabulary::Vocabulary;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct TtStr {
    data: *const c_char,
    size: usize,
}

#[repr(C)]
pub struct TtBuffer {
    data: *mut u8,
    size: usize,
    capacity: usize,
}

#[repr(C)]
pub struct TtVocabulary {
    model: TtStr,
    pre: TtStr,
    tokens: *const TtStr,
    num_tokens: usize,
    scores: *const f32,
    num_scores: usize,
    types: *const i32,
    num_types: usize,
    merges: *const TtStr,
    num_merges: usize,
    bos: i32,
    eos: i32,
    unknown: i32,
    add_bos: bool,
    add_eos: bool,
    add_space_prefix: bool,
}

/// Safety: `data` points to `len` values that outlive 'a, or `len` is 0.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 || data.is_null() {
        &[]
    } else {
        std::slice::from_raw_parts(data, len)
    }
}

impl TtStr {
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        slice(self.data as *const u8, self.size)
    }

    unsafe fn text<'a>(self, what: &str) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes())
            .map_err(|e| format!("{what} is not UTF-8 (byte {})", e.valid_up_to()))
    }
}

/// Hands a vector's memory to the caller, who gives it back with tt_free_buffer.
fn give(bytes: Vec<u8>, out: *mut TtBuffer) {
    let mut bytes = std::mem::ManuallyDrop::new(bytes);
    let buffer = TtBuffer { data: bytes.as_mut_ptr(), size: bytes.len(), capacity: bytes.capacity() };
    // Safety: the caller passes a valid place.
    unsafe { out.write(buffer) };
}

/// Runs `work`; on an error or a panic fills `error` and gives None.
fn guard<T>(error: *mut TtBuffer, work: impl FnOnce() -> Result<T, String>) -> Option<T> {
    let message = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => return Some(value),
        Ok(Err(message)) => message,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            format!("the text library gave up: {text}")
        }
    };
    give(message.into_bytes(), error);
    None
}

/// # Safety
/// `buffer` came from this library and is given back once.
#[no_mangle]
pub unsafe extern "C" fn tt_free_buffer(buffer: TtBuffer) {
    if !buffer.data.is_null() {
        drop(Vec::from_raw_parts(buffer.data, buffer.size, buffer.capacity));
    }
}

/// # Safety
/// Pointers as tailor_text.h says.
#[no_mangle]
pub unsafe extern "C" fn tt_tokenizer_from_json(json: TtStr, error: *mut TtBuffer) -> *mut TextTokenizer {
    guard(error, || TextTokenizer::from_json(json.bytes()))
        .map_or(std::ptr::null_mut(), |t| Box::into_raw(Box::new(t)))
}

/// # Safety
/// Pointers as tailor_text.h says.
#[no_mangle]
pub unsafe extern "C" fn tt_tokenizer_from_vocabulary(
    vocabulary: *const TtVocabulary,
    error: *mut TtBuffer,
) -> *mut TextTokenizer {
    guard(error, || {
        let v = &*vocabulary;
        let strings = |data: *const TtStr, len: usize, what: &str| -> Result<Vec<String>, String> {
            slice(data, len)
                .iter()
                .enumerate()
                .map(|(i, s)| s.text(&format!("{what} {i}")).map(str::to_owned))
                .collect()
        };
        vocabulary::build(Vocabulary {
            model: v.model.text("the vocabulary's model")?.to_owned(),
            pre: v.pre.text("the pre-tokenizer's name")?.to_owned(),
            tokens: strings(v.tokens, v.num_tokens, "token")?,
            scores: slice(v.scores, v.num_scores).to_vec(),
            types: slice(v.types, v.num_types).to_vec(),
            merges: strings(v.merges, v.num_merges, "merge")?,
            bos: u32::try_from(v.bos).ok(),
            eos: u32::try_from(v.eos).ok(),
            unknown: u32::try_from(v.unknown).ok(),
            add_bos: v.add_bos,
            add_eos: v.add_eos,
            add_space_prefix: v.add_space_prefix,
        })
    })
    .map_or(std::ptr::null_mut(), |t| Box::into_raw(Box::new(t)))
}

/// # Safety
/// `tokenizer` came from this library (or is null) and is freed once.
#[no_mangle]
pub unsafe extern "C" fn tt_tokenizer_free(tokenizer: *mut TextTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

/// # Safety
/// A live tokenizer.
#[no_mangle]
pub unsafe extern "C" fn tt_tokenizer_size(tokenizer: *const TextTokenizer) -> usize {
    (*tokenizer).size()
}

/// # Safety
/// A live tokenizer.
#[no_mangle]
pub unsafe extern "C" fn tt_tokenizer_strips_leading_space(tokenizer: *const TextTokenizer) -> bool {
    (*tokenizer).strips_leading_space()
}

/// # Safety
/// A live tokenizer; the answer lives as long as it.
#[no_mangle]
pub unsafe extern "C" fn tt_token_bytes(tokenizer: *const TextTokenizer, id: u32) -> TtStr {
    let bytes = (*tokenizer).token_bytes(id);
    TtStr { data: bytes.as_ptr() as *const c_char, size: bytes.len() }
}

/// # Safety
/// A live tokenizer.
#[no_mangle]
pub unsafe extern "C" fn tt_token_is_special(tokenizer: *const TextTokenizer, id: u32) -> bool {
    (*tokenizer).is_special(id)
}

/// # Safety
/// A live tokenizer.
#[no_mangle]
pub unsafe extern "C" fn tt_token_to_id(tokenizer: *const TextTokenizer, token: TtStr) -> i64 {
    match std::str::from_utf8(token.bytes()) {
        Ok(token) => (*tokenizer).token_to_id(token).map_or(-1, i64::from),
        Err(_) => -1,
    }
}

/// # Safety
/// Pointers as tailor_text.h says.
#[no_mangle]
pub unsafe extern "C" fn tt_guard(
    tokenizer: *const TextTokenizer,
    text: TtStr,
    guarded: *mut TtBuffer,
    error: *mut TtBuffer,
) -> bool {
    let answer = guard(error, || {
        let text = text.text("the text")?;
        Ok((*tokenizer).guard(text).unwrap_or_else(|| text.to_owned()))
    });
    let Some(answer) = answer else { return false };
    give(answer.into_bytes(), guarded);
    true
}

/// # Safety
/// Pointers as tailor_text.h says.
#[no_mangle]
pub unsafe extern "C" fn tt_encode(
    tokenizer: *const TextTokenizer,
    text: TtStr,
    guarded: bool,
    add_special_tokens: bool,
    ids: *mut TtBuffer,
    error: *mut TtBuffer,
) -> bool {
    let answer = guard(error, || (*tokenizer).encode(text.text("the text")?, guarded, add_special_tokens));
    let Some(answer) = answer else { return false };
    give(answer.iter().flat_map(|id| id.to_ne_bytes()).collect(), ids);
    true
}

/// # Safety
/// Pointers as tailor_text.h says.
#[no_mangle]
pub unsafe extern "C" fn tt_template_compile(
    source: TtStr,
    bos_token: TtStr,
    eos_token: TtStr,
    now: Strftime,
    error: *mut TtBuffer,
) -> *mut ChatTemplate {
    guard(error, || {
        ChatTemplate::compile(
            source.text("the chat template")?,
            bos_token.text("the begin token")?,
            eos_token.text("the end token")?,
            now,
        )
    })
    .map_or(std::ptr::null_mut(), |t| Box::into_raw(Box::new(t)))
}

/// # Safety
/// `chat_template` came from this library (or is null) and is freed once.
#[no_mangle]
pub unsafe extern "C" fn tt_template_free(chat_template: *mut ChatTemplate) {
    if !chat_template.is_null() {
        drop(Box::from_raw(chat_template));
    }
}

/// # Safety
/// Pointers as tailor_text.h says.
#[no_mangle]
pub unsafe extern "C" fn tt_template_render(
    chat_template: *const ChatTemplate,
    roles: *const TtStr,
    contents: *const TtStr,
    num_messages: usize,
    add_generation_prompt: bool,
    text: *mut TtBuffer,
    error: *mut TtBuffer,
) -> bool {
    let answer = guard(error, || {
        let roles = slice(roles, num_messages);
        let contents = slice(contents, num_messages);
        let mut messages = Vec::with_capacity(num_messages);
        for (i, (role, content)) in roles.iter().zip(contents).enumerate() {
            messages.push((
                role.text(&format!("the role of message {i}"))?,
                content.text(&format!("the content of message {i}"))?,
            ));
        }
        (*chat_template).render(&messages, add_generation_prompt)
    });
    let Some(answer) = answer else { return false };
    give(answer.into_bytes(), text);
    true
}
