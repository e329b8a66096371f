//! A Hugging Face tokenizer with a table of what each id stands for in running text.

use std::collections::HashMap;

use serde_json::Value;
use tokenizers::Tokenizer;

use crate::words::{self, Words};

/// Ids above this are refused: the table has one entry for each id.
const MAX_ID: u32 = 1 << 24;

pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Begin and end tokens, where no post-processor of the file adds them.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    strips_leading_space: bool,
    bytes: Vec<u8>,
    offsets: Vec<usize>,
    special: Vec<bool>,
    words: Words,
}

/// How a token's written form becomes bytes of running text.
#[derive(Default, Clone)]
pub struct Spelling {
    pub byte_level: bool,
    /// "<0x0A>" is the byte 10.
    pub byte_fallback: bool,
    pub replace: Vec<(String, String)>,
    /// WordPiece: this prefix joins to the word before; other tokens begin with a space.
    pub word_prefix: Option<String>,
    pub strips_leading_space: bool,
}

/// GPT-2's map from printable characters to bytes: printable Latin-1 stands for itself, the rest from U+0100 on.
fn byte_of_char() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256u32;
    let mut map = HashMap::new();
    for b in 0..=255u8 {
        let code = if printable(b) {
            u32::from(b)
        } else {
            next += 1;
            next - 1
        };
        map.insert(char::from_u32(code).unwrap_or('\0'), b);
    }
    map
}

fn fallback_byte(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

impl Spelling {
    /// Reads the `decoder` of a tokenizer.json.
    fn from_decoder(decoder: &Value) -> Result<Spelling, String> {
        let mut spelling = Spelling::default();
        spelling.add(decoder)?;
        Ok(spelling)
    }

    fn add(&mut self, decoder: &Value) -> Result<(), String> {
        let text = |key: &str| decoder[key].as_str().unwrap_or_default().to_owned();
        match decoder["type"].as_str().unwrap_or("none") {
            "ByteLevel" => self.byte_level = true,
            "ByteFallback" => self.byte_fallback = true,
            "Fuse" => {}
            "Sequence" => {
                for part in decoder["decoders"].as_array().into_iter().flatten() {
                    self.add(part)?;
                }
            }
            "Replace" => match decoder["pattern"]["String"].as_str() {
                Some(pattern) if !pattern.is_empty() => self.replace.push((pattern.to_owned(), text("content"))),
                _ => return Err("its decoder replaces by a regular expression, which is not supported".into()),
            },
            "Metaspace" => {
                let mark = text("replacement");
                self.replace.push((if mark.is_empty() { "\u{2581}".into() } else { mark }, " ".into()));
                self.strips_leading_space |= decoder["prepend_scheme"].as_str() != Some("never");
            }
            "Strip" => {
                let start = decoder["start"].as_u64().unwrap_or(0);
                let stop = decoder["stop"].as_u64().unwrap_or(0);
                if text("content") != " " || start > 1 || stop > 0 {
                    return Err("its decoder strips more than one leading space, which is not supported".into());
                }
                self.strips_leading_space |= start == 1;
            }
            "WordPiece" => {
                self.word_prefix = Some(text("prefix"));
                self.strips_leading_space = true;
            }
            other => {
                return Err(format!(
                    "its decoder {other} is not supported (known: ByteLevel, ByteFallback, Fuse, Metaspace, Replace, \
                     Sequence, Strip, WordPiece)"
                ))
            }
        }
        Ok(())
    }

    fn write(&self, token: &str, added: bool, chars: &HashMap<char, u8>, out: &mut Vec<u8>) {
        if self.byte_level {
            if !added {
                let start = out.len();
                if token.chars().all(|c| chars.get(&c).map(|b| out.push(*b)).is_some()) {
                    return;
                }
                out.truncate(start);
            }
            out.extend_from_slice(token.as_bytes());
            return;
        }
        if let (true, Some(byte)) = (self.byte_fallback, fallback_byte(token)) {
            out.push(byte);
            return;
        }
        let mut text = token.to_owned();
        for (pattern, content) in &self.replace {
            text = text.replace(pattern.as_str(), content);
        }
        if let (Some(prefix), false) = (&self.word_prefix, added) {
            text = match text.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.to_owned(),
                None => format!(" {text}"),
            };
        }
        out.extend_from_slice(text.as_bytes());
    }
}

impl TextTokenizer {
    pub fn from_json(json: &[u8]) -> Result<TextTokenizer, String> {
        // The library unwraps inside some of its readers, so that the syntax is checked first.
        serde_json::from_slice::<serde::de::IgnoredAny>(json).map_err(|e| e.to_string())?;
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        tokenizer.with_padding(None);
        let decoder = serde_json::to_value(tokenizer.get_decoder()).map_err(|e| e.to_string())?;
        let spelling = Spelling::from_decoder(&decoder)?;

        let vocabulary = tokenizer.get_vocab(true);
        let largest = vocabulary.values().max().copied().ok_or("its vocabulary is empty")?;
        if largest >= MAX_ID {
            return Err(format!("token id {largest} is above the limit of {MAX_ID}"));
        }
        let mut tokens = vec![String::new(); largest as usize + 1];
        for (token, id) in vocabulary {
            tokens[id as usize] = token;
        }
        let mut added = vec![false; tokens.len()];
        let mut special = vec![false; tokens.len()];
        for (id, token) in tokenizer.get_added_tokens_decoder() {
            if let Some(place) = tokens.get_mut(id as usize) {
                *place = token.content.clone();
                added[id as usize] = true;
                special[id as usize] = token.special;
            }
        }
        TextTokenizer::new(tokenizer, &spelling, &tokens, &added, special)
    }

    /// `added` tokens are spelled as written; `special` ones can be left out when decoding.
    pub fn new(
        tokenizer: Tokenizer,
        spelling: &Spelling,
        tokens: &[String],
        added: &[bool],
        special: Vec<bool>,
    ) -> Result<TextTokenizer, String> {
        let chars = byte_of_char();
        let mut bytes = Vec::new();
        let mut offsets = vec![0];
        for (token, added) in tokens.iter().zip(added) {
            spelling.write(token, *added, &chars, &mut bytes);
            offsets.push(bytes.len());
        }
        let words = Words::new(&tokenizer)?;
        Ok(TextTokenizer {
            tokenizer,
            prefix: Vec::new(),
            suffix: Vec::new(),
            strips_leading_space: spelling.strips_leading_space,
            bytes,
            offsets,
            special,
            words,
        })
    }

    pub fn set_ends(&mut self, prefix: Vec<u32>, suffix: Vec<u32>) {
        self.prefix = prefix;
        self.suffix = suffix;
    }

    pub fn size(&self) -> usize {
        self.special.len()
    }

    pub fn strips_leading_space(&self) -> bool {
        self.strips_leading_space
    }

    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        if id + 1 < self.offsets.len() {
            &self.bytes[self.offsets[id]..self.offsets[id + 1]]
        } else {
            &[]
        }
    }

    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// None: `text` needs no guard.
    pub fn guard(&self, text: &str) -> Option<String> {
        self.words.guard(text)
    }

    /// Special tokens written in `text` are recognised; where it is `guarded`, not those that guard() broke.
    pub fn encode(&self, text: &str, guarded: bool, add_special_tokens: bool) -> Result<Vec<u32>, String> {
        let ids = if guarded && text.contains(words::BREAK) {
            self.words.encode(&self.tokenizer, text, add_special_tokens)?
        } else {
            let encoding = self.tokenizer.encode_fast(text, add_special_tokens).map_err(|e| e.to_string())?;
            encoding.get_ids().to_vec()
        };
        if !add_special_tokens || (self.prefix.is_empty() && self.suffix.is_empty()) {
            return Ok(ids);
        }
        Ok([&self.prefix[..], &ids, &self.suffix].concat())
    }
}
